"""The simulated kernel: its manners, its limits, and that it answers as the running kernel does."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stead
from stead import _native
from stead.kernel import Manner
from stead.ranges import NOTHING, Range, RangeSet
from stead.snapshot import mappings_within
from stead.space.simulated import SimulatedKernel

PAGE = 4096
BASE = 0x4000_0000_0000
READ = _native.PROT_READ
ANYONE = _native.MAP_PRIVATE | _native.MAP_ANONYMOUS | _native.MAP_NORESERVE


def pages(start: int, stop: int) -> Range:
    return Range(BASE + start * PAGE, BASE + stop * PAGE)


@st.composite
def places(draw: st.DrawFn, span: int = 12) -> Range:
    start = draw(st.integers(0, span - 1))
    return pages(start, draw(st.integers(start + 1, span)))


def bytes_of(ranges: RangeSet) -> set[int]:
    return {page for each in ranges for page in range(each.start, each.stop, PAGE)}


# ---- manners --------------------------------------------------------------------------------------

TAKEN = pages(4, 8)
IN_THE_WAY = {
    "exact": pages(4, 8),
    "contained": pages(5, 7),
    "lower end": pages(2, 5),
    "upper end": pages(7, 10),
    "covering": pages(3, 9),
    "first page": pages(4, 5),
    "last page": pages(7, 8),
}


@pytest.mark.parametrize("where", IN_THE_WAY.values(), ids=IN_THE_WAY)
def test_an_exact_kernel_refuses_every_overlap_and_changes_nothing(where: Range) -> None:
    kernel = SimulatedKernel(occupied=[TAKEN])
    assert kernel.claim(where.start, where.size) == -errno.EEXIST
    assert kernel.mapped(pages(0, 12)) == RangeSet([TAKEN])
    assert kernel.clobbered == []
    assert kernel.ours == NOTHING


@pytest.mark.parametrize("where", [pages(0, 4), pages(8, 12), pages(3, 4), pages(8, 9)])
@pytest.mark.parametrize("manner", list(Manner))
def test_what_is_adjacent_is_free_for_every_kernel(manner: Manner, where: Range) -> None:
    kernel = SimulatedKernel(manner=manner, occupied=[TAKEN])
    assert kernel.claim(where.start, where.size) == where.start
    assert kernel.ours == RangeSet([where])
    assert kernel.clobbered == []


@pytest.mark.parametrize("where", IN_THE_WAY.values(), ids=IN_THE_WAY)
def test_a_kernel_that_looks_at_the_start_clobbers_what_lies_behind_it(where: Range) -> None:
    kernel = SimulatedKernel(manner=Manner.START_ONLY, occupied=[TAKEN])
    got = kernel.claim(where.start, where.size)
    if where.start < TAKEN.start:
        assert got == where.start
        assert kernel.clobbered == [TAKEN]  # and the simulation tells on it
        assert kernel.ours == RangeSet([where])
    else:
        assert got == -errno.EEXIST
        assert kernel.clobbered == []


@pytest.mark.parametrize("where", IN_THE_WAY.values(), ids=IN_THE_WAY)
def test_a_kernel_that_ignores_the_flag_goes_elsewhere(where: Range) -> None:
    kernel = SimulatedKernel(manner=Manner.IGNORED, occupied=[TAKEN])
    got = kernel.claim(where.start, where.size)
    assert got >= 0
    assert got != where.start
    assert kernel.ours == RangeSet([Range.sized(got, where.size)])
    assert not any(kernel.ours.overlapping(TAKEN))
    assert kernel.clobbered == []


@given(st.sampled_from(list(Manner)), st.lists(places(), max_size=5), st.lists(places(), max_size=6))
def test_a_hint_and_an_exact_claim_never_touch_what_others_have(
    manner: Manner, foreign: list[Range], wanted: list[Range]
) -> None:
    others = RangeSet(foreign)
    kernel = SimulatedKernel(manner=manner, occupied=list(others))
    for where in wanted:
        before = kernel.ours
        got = (kernel.hint if manner is Manner.START_ONLY else kernel.claim)(where.start, where.size)
        if got >= 0:
            mine = Range.sized(got, where.size)
            assert not any(before.overlapping(mine))
            assert kernel.ours == before | RangeSet([mine])
        else:
            assert kernel.ours == before
    assert kernel.clobbered == []
    assert not bytes_of(kernel.ours) & bytes_of(others)


# ---- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [32, 39, 47, 48, 56, 57])
def test_beyond_the_width_there_is_no_memory_and_the_last_page_stays_free(width: int) -> None:
    kernel = SimulatedKernel(width=width)
    last = (1 << width) - PAGE
    assert kernel.claim(last, PAGE) == -errno.ENOMEM
    assert kernel.claim(1 << width, PAGE) == -errno.ENOMEM
    assert kernel.claim(last - PAGE, 2 * PAGE) == -errno.ENOMEM
    assert kernel.claim(last - PAGE, PAGE) == last - PAGE


def test_below_the_first_address_it_is_not_permitted() -> None:
    kernel = SimulatedKernel()
    for address in (0, PAGE, 65536 - PAGE):
        assert kernel.claim(address, PAGE) == -errno.EPERM
    assert kernel.claim(65536, PAGE) == 65536


@pytest.mark.parametrize("page", [4096, 16384, 65536])
def test_parts_of_pages_and_nothing_are_invalid(page: int) -> None:
    kernel = SimulatedKernel(page_size=page)
    for address, size in ((BASE + 1, page), (BASE, 0), (BASE, page + 1), (BASE + page // 2, page)):
        assert kernel.claim(address, size) == -errno.EINVAL
        assert kernel.unmap(address, size) == -errno.EINVAL
        assert kernel.protect(address, size, READ) == -errno.EINVAL
    assert kernel.ours == NOTHING


@given(st.integers(1, 20))
def test_the_limit_of_addresses_counts_what_is_held_and_gives_back_what_is_released(most: int) -> None:
    kernel = SimulatedKernel(max_address_space=most * PAGE)
    assert kernel.claim(BASE, most * PAGE) == BASE
    assert kernel.claim(BASE + most * PAGE, PAGE) == -errno.ENOMEM
    assert kernel.hint(0, PAGE) == -errno.ENOMEM
    # Replacing what is held takes no more of it.
    assert kernel.place(BASE, PAGE, READ, ANYONE, -1, 0) == BASE
    assert kernel.unmap(BASE, PAGE) == 0
    assert kernel.claim(BASE + most * PAGE, PAGE) == BASE + most * PAGE
    assert kernel.limits().address_space == most * PAGE


@given(st.integers(1, 12))
def test_the_limit_of_mappings_counts_them_as_they_merge(most: int) -> None:
    kernel = SimulatedKernel(max_mappings=most)
    for number in range(most):
        assert kernel.claim(BASE + 2 * number * PAGE, PAGE) >= 0
    assert kernel.claim(BASE + 2 * most * PAGE, PAGE) == -errno.ENOMEM
    assert kernel.limits().mappings == most
    if most > 1:  # one that closes a gap makes two into one
        assert kernel.claim(BASE + PAGE, PAGE) == BASE + PAGE
        assert kernel.limits().mappings == most - 1


def test_at_the_limit_of_mappings_nothing_can_be_split() -> None:
    kernel = SimulatedKernel(max_mappings=1)
    assert kernel.claim(BASE, 3 * PAGE) == BASE
    assert kernel.unmap(BASE + PAGE, PAGE) == -errno.ENOMEM
    assert kernel.protect(BASE + PAGE, PAGE, READ) == -errno.ENOMEM
    assert kernel.place(BASE + PAGE, PAGE, READ, ANYONE, -1, 0) == -errno.ENOMEM
    assert kernel.ours == RangeSet([Range.sized(BASE, 3 * PAGE)])
    assert kernel.unmap(BASE, PAGE) == 0
    assert kernel.unmap(BASE + PAGE, 2 * PAGE) == 0


def test_a_failed_replacement_leaves_a_hole_where_old_kernels_did() -> None:
    old = SimulatedKernel(failures={1: errno.ENOMEM}, failed_place_leaves_hole=True)
    new = SimulatedKernel(failures={1: errno.ENOMEM})
    for kernel in (old, new):
        kernel.claim(BASE, 3 * PAGE)
        assert kernel.place(BASE + PAGE, PAGE, READ, ANYONE, -1, 0) == -errno.ENOMEM
    whole, hole = pages(0, 3), pages(1, 2)
    assert list(old.mapped(whole).gaps(whole)) == [hole]
    assert list(new.mapped(whole).gaps(whole)) == []


# ---- what happens in between ----------------------------------------------------------------------


def test_intruders_come_before_their_step_and_only_where_it_is_free() -> None:
    kernel = SimulatedKernel(intrusions={1: [pages(0, 2)], 2: [pages(1, 4)]})
    assert kernel.claim(BASE + 4 * PAGE, PAGE) == BASE + 4 * PAGE
    assert kernel.claim(BASE, PAGE) == -errno.EEXIST
    assert kernel.claim(BASE + 2 * PAGE, PAGE) == BASE + 2 * PAGE  # (1, 4) was not free and stayed away
    assert kernel.steps == 3


def test_a_failing_step_has_done_nothing() -> None:
    kernel = SimulatedKernel(failures={0: errno.ENOMEM, 2: errno.EINTR})
    assert kernel.claim(BASE, PAGE) == -errno.ENOMEM
    assert kernel.claim(BASE, PAGE) == BASE
    assert kernel.unmap(BASE, PAGE) == -errno.EINTR
    assert kernel.ours == RangeSet([pages(0, 1)])


def test_removing_what_others_have_is_told() -> None:
    kernel = SimulatedKernel(occupied=[TAKEN])
    assert kernel.unmap(TAKEN.start, PAGE) == 0
    assert kernel.clobbered == [TAKEN]
    kernel = SimulatedKernel(occupied=[TAKEN])
    assert kernel.place(TAKEN.start, PAGE, READ, ANYONE, -1, 0) == TAKEN.start
    assert kernel.clobbered == [TAKEN]


def test_what_is_in_the_way_is_told_with_its_owner() -> None:
    kernel = SimulatedKernel(occupied=[TAKEN])
    kernel.claim(BASE, PAGE)
    theirs, ours = kernel.obstacle(pages(3, 12)), kernel.obstacle(pages(0, 12))
    assert theirs is not None
    assert ours is not None
    assert (theirs.range, theirs.owner) == (TAKEN, "someone else")
    assert (ours.range, ours.owner) == (pages(0, 1), "this space")
    assert kernel.obstacle(pages(1, 4)) is None


# ---- beside the running kernel --------------------------------------------------------------------

SCRATCH = 16
PROTECTIONS = {_native.PROT_NONE: "---", READ: "r--", READ | _native.PROT_WRITE: "rw-"}

calls = st.tuples(
    st.sampled_from(["claim", "claim", "claim", "unmap", "protect", "place", "advise"]),
    st.integers(0, SCRATCH - 1),
    st.integers(1, SCRATCH),
    st.sampled_from([0, 0, 0, 0, 0, 0, 0, 1, 512]),  # bytes off a page
    st.sampled_from(sorted(PROTECTIONS)),
)


@pytest.mark.skipif(stead.this_process().manner is not Manner.EXACT, reason="the running kernel is not exact")
@settings(max_examples=300)
@given(st.lists(calls, max_size=14))
def test_it_answers_as_the_running_kernel_does(sequence: list[tuple[str, int, int, int, int]]) -> None:
    with stead.reserve(SCRATCH * PAGE) as held:  # a place that is free, and stays so while nobody else maps
        scratch = held.range
    simulated = SimulatedKernel()
    # mprotect over a hole changes what lies before it and then fails: from there on access may differ.
    same_access = True
    try:
        for what, start, size, off, protection in sequence:
            address = scratch.start + start * PAGE + off
            length = min(size, SCRATCH - start) * PAGE
            answers = []
            for kernel in (simulated, _native):
                if what == "protect":
                    answers.append(kernel.protect(address, length, protection))
                elif what == "place":
                    answers.append(kernel.place(address, length, protection, ANYONE, -1, 0))
                elif what == "advise":
                    answers.append(kernel.advise(address, length, _native.MADV_DONTNEED))
                else:
                    call = kernel.claim if what == "claim" else kernel.unmap
                    answers.append(call(address, length))
            assert answers[0] == answers[1], (what, start, size, off)
            same_access &= not (what == "protect" and answers[0] == -errno.ENOMEM)
            live = mappings_within(scratch)
            assert list(RangeSet(each.range for each in live).overlapping(scratch)) == list(
                simulated.mapped(scratch)
            )
            if same_access:
                access = {page: each.permissions[:3] for each in live for page in bytes_of(RangeSet([each.range]))}
                expected = {
                    page: PROTECTIONS[each.protection]
                    for each in simulated.table
                    for page in bytes_of(RangeSet([each.range]))
                }
                assert {page: access[page] for page in expected} == expected
    finally:
        _native.unmap(scratch.start, scratch.size)
