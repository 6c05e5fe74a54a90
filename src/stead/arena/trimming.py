"""Giving free memory back: of an arena and of a heap, which have the same core."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from stead.ranges import Range, align_up

if TYPE_CHECKING:
    from collections.abc import Callable

# Memory goes back to the system by itself only in pieces that are worth a system call.
PIECE = 1 << 20


class _Core(Protocol):
    @property
    def _dirty(self) -> int: ...
    def _checkout(self, least: int, /) -> tuple[int, int, int, int] | None: ...
    def _checkin(self, head: int, units: int, zero: bool, /) -> None: ...


def give_back(core: _Core, keep: int, least: int, granularity: int, discard: Callable[[Range], bool]) -> int:
    """Free memory that was touched, all but ``keep`` bytes, in pieces of at least ``least`` bytes: the bytes given
    back. ``discard``: drops the contents of whole pages, and says whether they read as zeros then.

    Nobody may grow meanwhile: a run that is being discarded is in nobody's hands."""
    before, untouched = core._dirty, 0
    as_it_was = []  # runs that would be found again
    try:
        while core._dirty > keep and (run := core._checkout(least)):
            head, units, start, stop = run
            where = Range(align_up(start, granularity), stop // granularity * granularity)
            zero = False
            try:
                if where.start < where.stop:
                    zero = discard(where) and where == Range(start, stop)
                else:
                    untouched += stop - start
            finally:
                if zero:
                    core._checkin(head, units, True)
                else:
                    as_it_was.append((head, units))
        return max(before - core._dirty - untouched, 0)
    finally:
        for head, units in as_it_was:
            core._checkin(head, units, False)


def next_limit(keep: int, dirty: int) -> int:
    """At how much free memory to trim the next time: half of what is kept is gone, so that the next free does not
    trim again; what is too scattered to go waits until there is a good deal more."""
    return max(keep, dirty + max(keep // 4, PIECE))
