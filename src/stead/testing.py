"""For tests, ours and others': the conformance kit that every address space must pass, and simulated spaces.

    @pytest.mark.parametrize("check", stead.testing.CHECKS)
    def test_my_space(check):
        check(MySpace())

or all at once: ``check_address_space(MySpace, leave_out={"memory is at its address"})``.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from stead.backing import ANONYMOUS, SharedMemory
from stead.errors import LimitReached, Occupied
from stead.kernel import Manner
from stead.placement import Placement
from stead.ranges import Range, align_up
from stead.space.simulated import SimulatedKernel, SimulatedSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from stead.space.protocol import Access, AddressSpace, MemorySpace

__all__ = ["CHECKS", "MEMORY_CHECKS", "Manner", "SimulatedKernel", "SimulatedSpace", "check_address_space"]


def check_address_space(make: Callable[[], AddressSpace], *, leave_out: Collection[str] = ()) -> list[str]:
    """Run every check on a space from ``make``, a fresh one for each; the names of the checks that ran.

    A space that has a ``commit`` is checked as a MemorySpace, too. ``leave_out``: names of checks that a
    weaker space does not pass, said openly. Raises AssertionError that names the check, ValueError for an
    unknown name.
    """
    checks = {each.__name__.replace("_", " "): each for each in CHECKS}
    if hasattr(make(), "commit"):
        checks |= {each.__name__.replace("_", " "): each for each in MEMORY_CHECKS}  # type: ignore[misc]
    if unknown := set(leave_out) - set(checks):
        raise ValueError(
            f"leave_out is {sorted(leave_out)}: there is no check called {', '.join(sorted(unknown))}"
        )
    ran = []
    for name, check in checks.items():
        if name not in leave_out:
            try:
                check(make())
            except Exception as error:
                raise AssertionError(f"{name}: {error!r}") from error
            ran.append(name)
    return ran


def place_for(space: AddressSpace, pages: int, seed: int = 0) -> Range:
    """A range of so many pages that looked free just now, with a page to spare on both sides. Pages: of the
    space's alignment, so that each of them can be claimed."""
    page = space.alignment
    wanted = Placement(pages * page, space.windows[0], alignment=page, guard=page, seed=seed)
    for attempt in range(100):
        if found := wanted.choose(space.footprint(wanted.within), attempt):
            return found
    raise AssertionError(f"no room for {wanted}")


def _raises(expected: type[Exception], call: Callable[[], object]) -> Exception:
    try:
        call()
    except expected as error:
        return error
    raise AssertionError(f"{expected.__name__} was not raised")


def _is_mapped(space: AddressSpace, where: Range) -> bool:
    return not any(space.footprint(where).occupied.gaps(where))


def _is_free(space: AddressSpace, where: Range) -> bool:
    return not any(space.footprint(where).occupied.overlapping(where))


# ---- every space ----------------------------------------------------------------------------------


def what_is_claimed_is_seen_as_occupied(space: AddressSpace) -> None:
    where = place_for(space, 4)
    space.reserve_at(where)
    try:
        assert _is_mapped(space, where), f"{where} is claimed, and the footprint shows a gap"
        page = space.alignment
        for beside in (Range.sized(where.start - page, page), Range.sized(where.stop, page)):
            assert _is_free(space, beside), f"{beside} was not claimed, and is occupied"
    finally:
        space.release(where)


def what_is_released_can_be_claimed_again(space: AddressSpace) -> None:
    where = place_for(space, 4)
    for _ in range(3):
        space.reserve_at(where)
        space.release(where)
        assert _is_free(space, where), f"{where} was released, and is occupied"


def a_claim_of_anything_occupied_is_refused_and_changes_nothing(space: AddressSpace) -> None:
    page = space.alignment
    around = place_for(space, 12)
    held = Range(around.start + 4 * page, around.start + 8 * page)
    space.reserve_at(held)
    try:
        for start, stop, how in (
            (4, 8, "exactly"), (5, 7, "inside"), (4, 6, "the first half"), (6, 8, "the second half"),
            (2, 6, "over the start"), (6, 10, "over the end"), (2, 10, "all around"), (7, 8, "the last page"),
        ):  # fmt: skip
            wanted = Range(around.start + start * page, around.start + stop * page)
            kept: list[Range] = []
            error = _raises(Occupied, lambda wanted=wanted, kept=kept: space.reserve_at(wanted, kept))  # type: ignore[misc]
            assert isinstance(error, Occupied)
            assert error.range == wanted, f"{how}: the error names {error.range}"
            for each in kept:
                assert each != wanted, f"{how}: it got what was asked for, and said that it was occupied"
                assert not each.overlaps(held), f"{how}: what it got instead is {each}"
                space.release(each)
            seen = set(space.footprint(around).occupied.overlapping(around))
            assert seen == {held}, f"{how}: afterwards {seen} is occupied"
    finally:
        space.release(held)


def a_lost_claim_without_keep_holds_nothing(space: AddressSpace) -> None:
    where = place_for(space, 2)
    space.reserve_at(where)
    try:
        window = space.windows[-1]
        for _ in range(10):
            before = space.footprint(window).occupied.size
            for _ in range(8):
                _raises(Occupied, lambda: space.reserve_at(where))
            # Others may map meanwhile, and so may whatever looks; eight ranges that leak would show each time.
            if abs(space.footprint(window).occupied.size - before) < 8 * where.size:
                return
        raise AssertionError("every time there is more occupied than before")
    finally:
        space.release(where)


def neighbours_can_be_claimed(space: AddressSpace) -> None:
    page = space.alignment
    around = place_for(space, 6)
    middle, below, above = (Range.sized(around.start + k * page, 2 * page) for k in (2, 0, 4))
    claimed = []
    try:
        for each in (middle, below, above):
            space.reserve_at(each)
            claimed.append(each)
        assert _is_mapped(space, around)
        space.release(middle)
        claimed.remove(middle)
        assert _is_free(space, middle)
        assert _is_mapped(space, below)
        assert _is_mapped(space, above)
    finally:
        for each in claimed:
            space.release(each)


def nonsense_is_refused_with_ValueError(space: AddressSpace) -> None:
    where = place_for(space, 4)
    page = space.alignment
    for start, stop in ((where.start + 1, where.start + page), (where.start, where.start)):
        _raises(ValueError, lambda start=start, stop=stop: space.reserve_at(Range(start, stop)))  # type: ignore[misc]
    assert _is_free(space, where)


def beyond_the_usable_addresses_is_LimitReached(space: AddressSpace) -> None:
    page = space.alignment
    beyond = Range.sized(align_up(space.usable.stop, page) + page, page)
    error = _raises(LimitReached, lambda: space.reserve_at(beyond))
    assert isinstance(error, LimitReached)
    assert error.limit == "VA width"


def windows_are_usable_and_end_with_all_of_it(space: AddressSpace) -> None:
    assert space.windows
    for window in space.windows:
        assert space.usable.contains(window), f"{window} is not inside {space.usable}"
        assert window.start % space.alignment == 0
    assert space.granularity > 0
    assert space.granularity & (space.granularity - 1) == 0
    assert space.alignment >= space.granularity
    assert space.alignment & (space.alignment - 1) == 0


def an_outline_is_part_of_the_footprint(space: AddressSpace) -> None:
    window = space.windows[-1]
    outline, footprint = space.outline(window), space.footprint(window)
    assert outline.granularity == footprint.granularity == space.granularity
    assert not any(gap for part in outline.occupied.overlapping(window) for gap in footprint.occupied.gaps(part))


def identity_is_stable_and_hashable(space: AddressSpace) -> None:
    assert space.identity == space.identity
    assert hash(space.identity) == hash(space.identity)


CHECKS: tuple[Callable[[AddressSpace], None], ...] = (
    what_is_claimed_is_seen_as_occupied,
    what_is_released_can_be_claimed_again,
    a_claim_of_anything_occupied_is_refused_and_changes_nothing,
    a_lost_claim_without_keep_holds_nothing,
    neighbours_can_be_claimed,
    nonsense_is_refused_with_ValueError,
    beyond_the_usable_addresses_is_LimitReached,
    windows_are_usable_and_end_with_all_of_it,
    an_outline_is_part_of_the_footprint,
    identity_is_stable_and_hashable,
)


# ---- spaces with memory ---------------------------------------------------------------------------


class _Held:
    """A claimed range with its middle pages committed."""

    def __init__(self, space: MemorySpace, access: Access = "rw", shared: bool = False) -> None:
        self.space = space
        self.where = place_for(space, 8)
        page = space.granularity
        self.middle = Range(self.where.start + 2 * page, self.where.start + 6 * page)
        usual = getattr(space, "usual", ANONYMOUS)
        # Where what is usual is not the kernel's to share, it is all there is.
        self.backing = SharedMemory() if shared and usual is ANONYMOUS else usual
        space.reserve_at(self.where)
        try:
            self.commit(access)
        except BaseException:
            space.release(self.where)
            raise

    def commit(self, access: Access = "rw") -> None:
        self.source = self.space.secure(self.backing, self.middle.size, "w" in access)
        self.space.commit(self.middle, self.source, access)

    def view(self, writable: bool = True) -> memoryview:
        view: memoryview = self.space.view(self.middle, writable, self)
        return view

    def __enter__(self) -> _Held:
        return self

    def __exit__(self, *exception: object) -> None:
        self.space.release(self.where)


def committed_memory_is_zero_and_keeps_what_is_written(space: MemorySpace) -> None:
    for shared in (False, True):
        with _Held(space, shared=shared) as held, held.view() as view:
            assert len(view) == held.middle.size
            assert (view.format, view.itemsize, view.readonly, view.contiguous) == ("B", 1, False, True)
            assert not any(view), "committed memory is not zero"
            view[:5] = b"stead"
            with held.view() as again:
                assert bytes(again[:5]) == b"stead"


def decommitted_memory_stays_reserved_and_is_zero_when_committed_again(space: MemorySpace) -> None:
    with _Held(space) as held:
        with held.view() as view:
            view[:5] = b"stead"
        space.decommit(held.middle)
        assert _is_mapped(space, held.where), "the addresses were given up"
        held.commit()
        with held.view() as view:
            assert not any(view), "the contents survived"


def a_part_can_be_decommitted_and_the_rest_stays(space: MemorySpace) -> None:
    page = space.granularity
    with _Held(space) as held:
        with held.view() as view:
            view[:] = b"x" * held.middle.size
        hole = Range.sized(held.middle.start + page, page)
        space.decommit(hole)
        assert _is_mapped(space, held.where)
        for rest in (Range.sized(held.middle.start, page), Range(hole.stop, held.middle.stop)):
            with space.view(rest, True, held) as view:
                assert bytes(view) == b"x" * rest.size


def discarded_memory_reads_as_zero(space: MemorySpace) -> None:
    for shared in (False, True):
        with _Held(space, shared=shared) as held, held.view() as view:
            view[:5] = b"stead"
            advice = held.backing.discard(held.source, held.middle.size)
            if advice is not None:
                space.discard(held.middle, advice)
            assert not any(view), "the contents survived"


def a_view_keeps_its_owner_alive(space: MemorySpace) -> None:
    class Owner:
        gone = False

        def __del__(self) -> None:
            Owner.gone = True

    with _Held(space) as held:
        view = space.view(held.middle, True, Owner())
        part = view[1:2]
        view.release()
        assert not Owner.gone
        part.release()
        del view, part
        assert Owner.gone


def a_misaligned_offset_is_refused_and_the_range_stays_reserved(space: MemorySpace) -> None:
    with _Held(space) as held:
        space.decommit(held.middle)
        memory = SharedMemory(2 * held.middle.size)
        source = memory.source(held.middle.size, True)
        wrong = type(source)(source.flags, source.fd, 1, source.advice, source.granularity)
        _raises(ValueError, lambda: space.commit(held.middle, wrong, "rw"))
        assert _is_mapped(space, held.where)


def memory_is_at_its_address(space: MemorySpace) -> None:
    import ctypes

    with _Held(space) as held, held.view() as view:
        view[:5] = b"stead"
        assert ctypes.string_at(held.middle.start, 5) == b"stead"
        ctypes.memset(held.middle.start, ord("!"), 1)
        assert bytes(view[:5]) == b"!tead"


def access_is_what_was_asked_for(space: MemorySpace) -> None:
    with _Held(space) as held:
        assert _touch(held) == (True, True)
        for access, expected in (("r", (True, False)), ("none", (False, False)), ("rw", (True, True))):
            space.protect(held.middle, access)  # type: ignore[arg-type]
            assert _touch(held) == expected, f"{access}: (readable, writable) is {_touch(held)}"
        space.decommit(held.middle)
        assert _touch(held) == (False, False), "decommitted memory is accessible"


def _touch(held: _Held) -> tuple[bool, bool]:
    """Whether memory can be read and written, tried by the kernel for us: EFAULT instead of a signal."""
    from_us, to_us = os.pipe()
    try:
        os.write(to_us, b"x")  # something to read, should our own memory not be readable
        try:
            view = held.view()
        except ValueError:  # a space may show nothing where there is no memory
            return False, False
        with view:
            return _allowed(lambda: os.write(to_us, view[:1])), _allowed(lambda: os.readv(from_us, [view[:1]]))
    finally:
        os.close(from_us)
        os.close(to_us)


def _allowed(call: Callable[[], object]) -> bool:
    try:
        call()
    except OSError as error:
        if error.errno == errno.EFAULT:
            return False
        raise
    return True


MEMORY_CHECKS: tuple[Callable[[MemorySpace], None], ...] = (
    committed_memory_is_zero_and_keeps_what_is_written,
    decommitted_memory_stays_reserved_and_is_zero_when_committed_again,
    a_part_can_be_decommitted_and_the_rest_stays,
    discarded_memory_reads_as_zero,
    a_view_keeps_its_owner_alive,
    a_misaligned_offset_is_refused_and_the_range_stays_reserved,
    memory_is_at_its_address,
    access_is_what_was_asked_for,
)
