"""Where a range may start, as a grid, and what is blocked of it, as bitmaps that merge by OR. Pure arithmetic.

A *slot* is a possible start of a wanted range: one each alignment or granularity, whichever is larger. A slot
that anything blocks for one participant is blocked for all, so a common range is a slot that nobody has blocked.
Footprints of any size become two bitmaps of at most CELLS bits, over *cells* of equally many slots:

- *touched*: some slot of the cell is blocked here. Untouched by all, every slot of it will do.
- *full*: all slots of the cell are blocked here. Full for one, none of it will do.

OR is associative and commutative, so any tree of merges gives the same. Cells that are neither are looked at
again, finer (:class:`Search`): coarse bitmaps may hide a slot for a while, but they never make one up, and when
no cell is left it is proved that there is none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from stead.placement import Footprint, scatter
from stead.ranges import NOTHING, Range

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stead.placement import Placement

# A bitmap has 8 KiB at most.
CELLS = 1 << 16

FREE = re.compile("0+")
SET = re.compile("1+")


class Bitmaps(NamedTuple):
    """Cell 0 is the highest bit of whole bytes; what is beyond the last cell is set in both."""

    touched: int
    full: int


@dataclass(frozen=True, slots=True)
class Grid:
    """The slots of a placement where pages have ``granularity`` bytes: ``count`` of them, from ``first`` on,
    ``step`` bytes apart, for ranges of ``size`` bytes."""

    placement: Placement
    granularity: int
    first: int
    step: int
    size: int
    count: int

    @classmethod
    def of(cls, placement: Placement, granularity: int) -> Grid:
        slots = placement.slots(Footprint(NOTHING, granularity))
        [(first, count)] = slots.runs or ((0, 0),)
        return cls(placement, granularity, first, slots.step, slots.size, count)

    def free(self, seen: Footprint) -> list[tuple[int, int]]:
        """What ``seen`` leaves, as ranges of slot numbers [from, to), in order."""
        free: list[tuple[int, int]] = []
        for start, count in self.placement.slots(Footprint(seen.occupied, self.granularity)).runs:
            slot = (start - self.first) // self.step
            if free and free[-1][1] == slot:  # between them something is mapped, but in no slot's way
                free[-1] = free[-1][0], slot + count
            else:
                free.append((slot, slot + count))
        return free

    def range(self, slot: int) -> Range:
        """The range that starts at a slot, without guards."""
        return Range.sized(self.first + slot * self.step, self.size)


@dataclass(frozen=True, slots=True)
class View:
    """A part of a grid as cells: ranges of slots, in order, each cut into cells of ``width`` slots."""

    spans: tuple[tuple[int, int], ...]
    width: int

    @property
    def cells(self) -> int:
        return sum(-(-(stop - start) // self.width) for start, stop in self.spans)

    def bitmaps(self, free: Sequence[tuple[int, int]]) -> Bitmaps:
        """``free``: ranges of slots that nothing blocks, in order."""
        untouched: list[tuple[int, int]] = []
        not_full: list[tuple[int, int]] = []
        at = first = 0
        for start, stop in self.spans:
            count = -(-(stop - start) // self.width)
            while first < len(free) and free[first][1] <= start:
                first += 1
            for i in range(first, len(free)):
                low, high = max(free[i][0], start) - start, min(free[i][1], stop) - start
                if low >= high:
                    break
                not_full.append((at + low // self.width, at - (-high // self.width)))
                whole = count if high == stop - start else high // self.width
                untouched.append((at - (-low // self.width), at + whole))
            at += count
        return Bitmaps(_bitmap(at, untouched), _bitmap(at, not_full))

    def slots(self, pattern: re.Pattern[str], bitmap: int) -> Iterator[tuple[int, int]]:
        """The ranges of slots whose cells match, in order; a range lies in one span."""
        text = format(bitmap, f"0{-(-self.cells // 8) * 8}b")
        at = 0
        for start, stop in self.spans:
            count = -(-(stop - start) // self.width)
            for found in pattern.finditer(text, at, at + count):
                low, high = found.start() - at, found.end() - at
                yield start + low * self.width, min(start + high * self.width, stop)
            at += count


def _bitmap(cells: int, clear: Sequence[tuple[int, int]]) -> int:
    """All set but for some ranges of cells, in order; they may overlap, and be empty."""
    bits = -(-cells // 8) * 8
    if len(clear) > 32:
        text = bytearray(b"1") * bits
        for start, stop in clear:
            text[start:stop] = b"0" * (stop - start)
        return int(text, 2)
    value, done = (1 << bits) - 1, 0
    for start, stop in clear:  # a tenth of the time, where there are few
        if (start := max(start, done)) < stop:
            value ^= ((1 << (stop - start)) - 1) << (bits - stop)
            done = stop
    return value


class Search:
    """Looks for a slot that is free for all, and goes on where it must be looked closer.

    Everyone has one, feeds it the same merged bitmaps, and so is at the same place: ``view`` is what to look at
    next; ``found`` a slot; both None: there is none, which is proved.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.found: int | None = None
        # Also where there is no slot at all, so that all hear what all want.
        self.view: View | None = View(((0, grid.count),), max(-(-grid.count // CELLS), 1))
        # What may hold a slot, in order of preference: a range of slots, and whether they are known to be free.
        self._left: list[tuple[tuple[int, int], bool]] = []

    def feed(self, merged: Bitmaps, draw: int) -> None:
        """The merged bitmaps of ``view``; ``draw`` decides where several slots are as good."""
        assert self.view
        free = list(self.view.slots(FREE, merged.touched))
        unknown = self.view.slots(SET, merged.touched & ~merged.full)
        if self.grid.placement.prefer == "scattered":
            if free:
                self._choose(free, draw)
                return
            self._left[:0] = [(each, False) for each in unknown]
        else:
            seen = sorted([(each, True) for each in free] + [(each, False) for each in unknown])
            self._left[:0] = seen if self.grid.placement.prefer == "low" else reversed(seen)
        self._next(draw)

    def _choose(self, free: Sequence[tuple[int, int]], draw: int) -> None:
        self.view = None
        prefer = self.grid.placement.prefer
        if prefer == "low":
            self.found = free[0][0]
        elif prefer == "high":
            self.found = free[-1][1] - 1
        else:
            self.found = _drawn(free, draw)

    def _next(self, draw: int) -> None:
        """Take what comes first: if it is unknown, as much of it as can be looked at three times finer."""
        assert self.view
        room = CELLS // 4 * self.view.width
        taken: list[tuple[int, int]] = []
        while self._left:
            (start, stop), free = self._left[0]
            if free:
                if not taken:
                    self._choose([(start, stop)], draw)
                    return
                break
            if stop - start <= room and len(taken) < CELLS // 4:
                taken.append((start, stop))
                room -= stop - start
                del self._left[0]
                continue
            if not taken:
                rest = (start + room, stop)
                taken.append((start, start + room))
                if self.grid.placement.prefer == "high":
                    taken, rest = [(stop - room, stop)], (start, stop - room)
                self._left[0] = (rest, False)
            break
        if not taken:
            self.view = None
            return
        taken.sort()
        size = sum(stop - start for start, stop in taken)
        self.view = View(tuple(taken), -(-size // (CELLS - len(taken))))


def nominees(free: Sequence[tuple[int, int]], seed: int, number: int) -> list[int]:
    """Slots out of ``free``: the beginning of its longest range, and some that are drawn."""
    if not free:
        return []
    longest = max(free, key=lambda each: each[1] - each[0])
    return [longest[0], *(_drawn(free, scatter(seed, attempt)) for attempt in range(number - 1))]


def _drawn(free: Sequence[tuple[int, int]], draw: int) -> int:
    left = draw % sum(stop - start for start, stop in free)
    for start, stop in free:
        if left < stop - start:
            return start + left
        left -= stop - start
    raise AssertionError(free)
