"""Pieces of a device's memory that an arena has given back to the driver: addresses of its own with nothing behind
them, which nobody is handed out, until it grows and there is memory behind them again.

Everything is done under the lock of the tables, so that nobody grows meanwhile.
"""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING, NamedTuple, Protocol

from stead import _native
from stead.errors import LimitReached
from stead.ranges import align_up

if TYPE_CHECKING:
    from collections.abc import Callable

UNIT = _native.ARENA_UNIT


class _Core(Protocol):
    @property
    def _dirty(self) -> int: ...
    def _checkout(self, least: int, /) -> tuple[int, int, int, int] | None: ...
    def _checkin(self, head: int, units: int, zero: bool, /) -> None: ...
    def _split(self, head: int, units: int, /) -> None: ...


class _Hole(NamedTuple):
    """A run that is out, in units."""

    head: int
    units: int


class Holes:
    """Those of one arena. ``piece``: bytes of an allocation of the driver's, which go together; None where nothing
    goes. ``drop``, ``put``: the memory away, and back again, behind so many bytes from an offset."""

    def __init__(self, piece: int | None) -> None:
        self.piece = piece
        self._all: list[_Hole] = []

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(each.units for each in list(self._all)) * UNIT

    @property
    def largest(self) -> int:
        return max((each.units for each in list(self._all)), default=0) * UNIT

    def give_back(self, core: _Core, keep: int, drop: Callable[[int, int], object]) -> int:
        """Whole pieces of free memory, all but ``keep`` bytes of what is free: the bytes given back. Raises what
        a decommit does; what was given back before stays so."""
        piece = self.piece
        if piece is None:
            return 0
        before = free = core._dirty
        as_it_was = []  # runs without a whole piece, which would be found again
        try:
            while free - keep >= piece and (run := core._checkout(piece)):
                head, units = run[:2]
                stop = (head + units) * UNIT // piece * piece
                whole = stop - align_up(head * UNIT, piece)
                size = min(whole, (free - keep) // piece * piece)
                if size <= 0:
                    as_it_was.append((head, units))
                    continue
                try:
                    drop(stop - size, size)
                except BaseException:
                    core._checkin(head, units, False)
                    raise
                self._cut_out(core, head, units, _Hole((stop - size) // UNIT, size // UNIT))
                free -= size
            return before - free
        finally:
            for head, units in as_it_was:
                core._checkin(head, units, False)

    def _cut_out(self, core: _Core, head: int, units: int, hole: _Hole) -> None:
        """What is on both sides of the hole is free again."""
        insort(self._all, hole)
        if below := hole.head - head:
            core._split(head, below)
            core._checkin(head, below, False)
        if above := head + units - (hole.head + hole.units):
            core._split(hole.head, hole.units)
            core._checkin(hole.head + hole.units, above, False)

    def fill(self, core: _Core, least: int, wanted: int, put: Callable[[int, int], object]) -> bool:
        """Memory behind ``wanted`` bytes of a hole that has ``least``, or behind ``least``, or behind as much as
        it has: whether there is such a hole. Raises LimitReached."""
        hole = next((each for each in self._all if each.units * UNIT >= least), None)
        if hole is None:
            return False
        try:
            self._fill(core, hole, max(least, wanted), put)
        except LimitReached:
            if wanted <= least:
                raise
            self._fill(core, hole, least, put)
        return True

    def _fill(self, core: _Core, hole: _Hole, size: int, put: Callable[[int, int], object]) -> None:
        assert self.piece is not None
        units = min(align_up(size, self.piece) // UNIT, hole.units)
        self._all.remove(hole)
        try:
            put(hole.head * UNIT, units * UNIT)
        except BaseException:
            insort(self._all, hole)
            raise
        if units < hole.units:
            core._split(hole.head, units)
            insort(self._all, _Hole(hole.head + units, hole.units - units))
        core._checkin(hole.head, units, False)
