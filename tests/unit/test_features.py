"""Probes of kernels: the right answer for every manner and width, and nothing foreign ever touched."""

from __future__ import annotations

import errno
import platform
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stead
from stead.errors import LimitReached
from stead.features import probe_manner, probe_usable, probe_width
from stead.kernel import Manner
from stead.ranges import NOTHING, Range
from stead.space.live import LiveKernel
from stead.space.simulated import SimulatedKernel

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = 4096
manners = st.sampled_from(list(Manner))
widths = st.integers(32, 57)


def left_nothing(kernel: SimulatedKernel) -> bool:
    return kernel.clobbered == [] and kernel.ours == NOTHING


@given(manners, widths, st.sampled_from([4096, 16384, 65536]))
def test_every_manner_and_width_is_found(manner: Manner, width: int, page: int) -> None:
    kernel = SimulatedKernel(manner=manner, width=width, page_size=page)
    assert probe_manner(kernel) is manner
    assert probe_width(kernel) == width
    assert probe_usable(kernel) == Range(65536, (1 << width) - page)
    assert left_nothing(kernel)


@st.composite
def intruders(draw: st.DrawFn) -> dict[int, list[Range]]:
    """Mappings of others near the top of a 47-bit space, where a kernel puts what it chooses itself."""
    steps = draw(st.lists(st.integers(0, 12), max_size=4))
    top = (1 << 47) - PAGE
    made: dict[int, list[Range]] = {}
    for step in steps:
        stop = top - draw(st.integers(0, 8)) * PAGE
        made.setdefault(step, []).append(Range(stop - draw(st.integers(1, 3)) * PAGE, stop))
    return made


@given(manners, intruders())
def test_intruders_at_any_step_are_never_clobbered_and_never_taken_for_an_exact_kernel(
    manner: Manner, intrusions: dict[int, list[Range]]
) -> None:
    kernel = SimulatedKernel(manner=manner, intrusions=intrusions)
    found = probe_manner(kernel)
    assert left_nothing(kernel)
    # Undecided counts as start-only, which is safe everywhere; "exact" is believed, and must be true.
    assert found is manner or found is not Manner.EXACT


@pytest.mark.parametrize("step", range(8))
@pytest.mark.parametrize("manner", list(Manner))
def test_one_intruder_in_each_scratch_page_at_each_step_changes_nothing(manner: Manner, step: int) -> None:
    for page in range(1, 7):
        where = Range.sized((1 << 47) - (1 + page) * PAGE, PAGE)
        kernel = SimulatedKernel(manner=manner, intrusions={step: [where]})
        assert probe_manner(kernel) is manner
        assert left_nothing(kernel)


def test_a_kernel_whose_scratch_pages_are_always_taken_is_undecided_and_treated_as_the_worst() -> None:
    freed: list[Range] = []

    class Stolen(SimulatedKernel):
        def unmap(self, address: int, size: int, /) -> int:
            freed.append(Range.sized(address, size))
            return super().unmap(address, size)

    def thief(step: int) -> Iterator[Range]:
        yield from freed

    kernel = Stolen(intrusions=thief)
    assert probe_manner(kernel) is Manner.START_ONLY
    assert left_nothing(kernel)


@given(manners, widths)
def test_a_top_page_in_use_does_not_hide_the_width(manner: Manner, width: int) -> None:
    top = Range.sized((1 << width) - 2 * PAGE, PAGE)
    kernel = SimulatedKernel(manner=manner, width=width, occupied=[top])
    assert probe_width(kernel) == width
    assert left_nothing(kernel)


@given(manners, widths, st.integers(0, 30), st.integers(32, 57))
def test_an_intruder_during_the_probe_of_the_width_is_not_clobbered(
    manner: Manner, width: int, step: int, where: int
) -> None:
    top = Range.sized((1 << where) - 2 * PAGE, PAGE)
    kernel = SimulatedKernel(manner=manner, width=width, intrusions={step: [top] if where <= width else []})
    assert probe_width(kernel) == width
    assert left_nothing(kernel)


def test_without_room_for_three_pages_the_probe_says_so() -> None:
    kernel = SimulatedKernel(max_address_space=2 * PAGE)
    with pytest.raises(LimitReached, match="three pages") as refused:
        probe_manner(kernel)
    assert refused.value.errno == errno.ENOMEM
    assert left_nothing(kernel)


@pytest.mark.parametrize("sanitizer", [None, "thread"])
def test_a_limit_of_addresses_is_not_taken_for_a_narrow_space(sanitizer: str | None) -> None:
    # A wrong width would be remembered, and rule out most of the space after the limit is lifted.
    kernel = SimulatedKernel(max_address_space=PAGE // 2, sanitizer=sanitizer)
    with pytest.raises(LimitReached):
        probe_width(kernel)
    assert left_nothing(kernel)


@pytest.mark.parametrize("mappings", range(1, 5))
@pytest.mark.parametrize("manner", list(Manner))
def test_a_kernel_near_its_limit_of_mappings_is_left_as_it_was(manner: Manner, mappings: int) -> None:
    kernel = SimulatedKernel(manner=manner, max_mappings=mappings)
    found = probe_manner(kernel)
    assert left_nothing(kernel)
    assert found is manner or found is not Manner.EXACT


def test_where_thread_sanitizer_would_abort_nothing_is_claimed_to_learn_the_width() -> None:
    class Aborting(SimulatedKernel):
        def claim(self, address: int, size: int, /) -> int:
            raise AssertionError("aborted")

    kernel = Aborting(sanitizer="thread", width=47)
    assert probe_width(kernel) == 47
    assert left_nothing(kernel)


# ---- the kernel that runs this --------------------------------------------------------------------


def test_the_running_kernel_has_a_sane_width_and_a_known_manner() -> None:
    kernel = LiveKernel()
    manner = probe_manner(kernel)
    width = probe_width(kernel)
    assert 32 <= width <= 57
    if platform.machine() == "x86_64":
        assert width in (47, 56)
    # Our own stack and code are user addresses, so the width covers them.
    assert max(each.range.stop for each in stead.snapshot().mappings if each.name != "[vsyscall]") <= 1 << width
    assert manner in Manner


def test_a_kernel_from_4_19_on_is_exact() -> None:
    version = tuple(int(part) for part in platform.release().split(".")[:2])
    if platform.system() != "Linux" or version < (4, 19):
        pytest.skip(f"an older kernel, or none that says so: {platform.release()}")
    if probe_manner(LiveKernel()) is not Manner.EXACT:
        pytest.skip("a sandbox that says it is newer than it is")


def test_probing_the_running_kernel_leaves_its_mappings_as_they_were() -> None:
    kernel = LiveKernel()
    probe_manner(kernel)
    before = stead.snapshot().occupied
    probe_manner(kernel)
    probe_width(kernel)
    after = stead.snapshot().occupied
    # What Python's own allocator maps in between is not counted: the same size, but for that.
    assert abs(after.size - before.size) <= 1 << 22
