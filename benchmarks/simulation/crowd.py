"""Very many peers as one participant, which says what they would say together: their bitmaps, OR-ed.

All peers of an agreement do the same with the same merged messages; what differs is what each has in the way. So a
crowd is one :class:`~stead.agreement.Participant` and a table of everyone's ranges, looked at by NumPy.
tests/unit/test_simulation.py holds it against as many participants as it stands for.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from simulation.meeting import USABLE, ListedSpace
from simulation.recorded import STEP, programs

from stead.agreement import Participant
from stead.errors import Obstacle
from stead.grid import Bitmaps, Grid, Search, View
from stead.placement import Footprint, Placement, quiet_windows
from stead.ranges import Range, RangeSet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stead.messages import Proposal

Addresses = NDArray[np.int64]

WINDOWS = quiet_windows(USABLE, 4096)
QUIET = WINDOWS[0]
_BIG_PAGE = 1 << 21


class Table(NamedTuple):
    """What some peers have mapped: a row for each, its ranges in order; who has fewer, has its last repeated."""

    starts: Addresses
    stops: Addresses

    @property
    def peers(self) -> int:
        return len(self.starts)

    def row(self, number: int) -> list[Range]:
        return [Range(int(a), int(b)) for a, b in zip(self.starts[number], self.stops[number], strict=True)]

    def within(self, window: Range) -> Table:
        """Without the columns that have nothing there."""
        there = ((self.starts < window.stop) & (self.stops > window.start)).any(axis=0)
        return Table(self.starts[:, there], self.stops[:, there])

    def and_also(self, starts: Addresses, size: int) -> Table:
        """With more ranges in each row."""
        all_starts = np.concatenate([self.starts, starts], axis=1)
        all_stops = np.concatenate([self.stops, starts + size], axis=1)
        order = np.argsort(all_starts, axis=1)
        return Table(np.take_along_axis(all_starts, order, 1), np.take_along_axis(all_stops, order, 1))


class Peers:
    """``number`` peers that run these programs, as many of each, as ``seed`` draws them. ``holding``: how many
    reservations of ``held`` bytes each has already, where reserve() puts them; below 1, so many of them have one.

    A table is drawn when something asks what is where it may have something, and never otherwise: what nobody can
    have there needs no drawing.
    """

    def __init__(
        self, names: Sequence[str], number: int, seed: int, holding: float = 0.0, held: int = 1 << 30
    ) -> None:
        self.number, self._seed, self._held = number, seed, held
        share = np.bincount(np.arange(number) % len(names), minlength=len(names))
        self._groups: list[tuple[str, int, int]] = []
        for name, count in zip(names, share.tolist(), strict=True):
            holders = count if holding >= 1 else round(count * holding)
            self._groups += [(name, holders, max(round(holding), 1)), (name, count - holders, 0)]
        self._drawn: dict[int, Table] = {}

    def near(self, window: Range) -> list[Table]:
        """Of all who may have something there."""
        found = []
        for number, (name, count, holding) in enumerate(self._groups):
            everywhere = possible(name) | RangeSet([QUIET] if holding else [])
            if count and any(everywhere.overlapping(window)):
                if number not in self._drawn:
                    self._drawn[number] = self._draw(number)
                found.append(self._drawn[number])
        return found

    def _draw(self, number: int) -> Table:
        name, count, holding = self._groups[number]
        random = np.random.default_rng([self._seed, number])
        table = _restarted(name, count, random)
        if not holding:
            return table
        places = random.integers((QUIET.size - self._held) // _BIG_PAGE, size=(count, holding)) * _BIG_PAGE
        return table.and_also(QUIET.start + places, self._held)


class _Starts(NamedTuple):
    """All recorded starts of one program, as arrays: a row for each."""

    starts: Addresses
    stops: Addresses
    areas: NDArray[np.int64]
    moves: NDArray[np.int64]


def _padded(rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    width = max(map(len, rows))
    return np.array([[*row, *[row[-1]] * (width - len(row))] for row in rows], dtype=np.int64)


@cache
def _recorded(name: str) -> _Starts:
    all_starts = programs()[name]
    return _Starts(
        _padded([[each.start for each in one.ranges] for one in all_starts]),
        _padded([[each.stop for each in one.ranges] for one in all_starts]),
        _padded([one.areas for one in all_starts]),
        np.array([one.moves for one in all_starts], dtype=np.int64),
    )


@cache
def possible(name: str) -> RangeSet:
    """Everywhere that a start of a program may have something, however it is drawn."""
    found = _recorded(name)
    moves = np.concatenate([found.moves, np.zeros((len(found.moves), 1, 2), np.int64)], axis=1) * STEP
    low = found.starts + np.take_along_axis(moves[:, :, 0], found.areas, 1)
    high = found.stops + np.take_along_axis(moves[:, :, 1], found.areas, 1)
    return RangeSet(zip(low.ravel().tolist(), high.ravel().tolist(), strict=True))


def _restarted(name: str, peers: int, random: np.random.Generator) -> Table:
    found = _recorded(name)
    which = random.integers(len(found.starts), size=peers)
    moves = found.moves[which]
    by = random.integers(moves[:, :, 0], moves[:, :, 1], endpoint=True) * STEP
    by = np.concatenate([by, np.zeros((peers, 1), np.int64)], axis=1)
    shift = np.take_along_axis(by, found.areas[which], 1)
    return Table(found.starts[which] + shift, found.stops[which] + shift)


class Blocked(NamedTuple):
    """Ranges of slots [first, stop) that are blocked, each for somebody, whose others it does not touch."""

    first: NDArray[np.int64]
    stop: NDArray[np.int64]


def blocked(grid: Grid, tables: Sequence[Table]) -> Blocked:
    """All that is blocked of a grid, for everyone in the tables."""
    firsts, stops = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    placement, page = grid.placement, grid.granularity
    guard = -(-placement.guard // page) * page
    for table in tables:
        near = table.within(placement.within)
        if not near.starts.size:
            continue
        # Clipped as a look at the window clips it. Empty where a row has nothing there: lowest > highest.
        low = np.clip(near.starts, placement.within.start, placement.within.stop)
        high = np.clip(near.stops, placement.within.start, placement.within.stop)
        # Slot s is blocked where first + s * step - guard < high and first + s * step + size + guard > low.
        first = (low - guard - grid.size - grid.first) // grid.step + 1
        stop = -(-(high + guard - grid.first) // grid.step)
        first, stop = np.clip(first, 0, grid.count), np.clip(stop, 0, grid.count)
        stop = np.where(high > low, stop, first)
        reach = np.maximum.accumulate(stop, axis=1)
        first, before = np.where(high > low, first, reach), reach[:, :-1]
        opens = np.ones(first.shape, bool)
        opens[:, 1:] = first[:, 1:] > before
        closes = np.ones(first.shape, bool)
        closes[:, :-1] = opens[:, 1:]
        firsts.append(first[opens])
        stops.append(reach[closes])
    first, stop = np.concatenate(firsts), np.concatenate(stops)
    real = first < stop
    return Blocked(first[real], stop[real])


def bitmaps(view: View, blocked: Blocked) -> Bitmaps:
    """What everyone's :meth:`View.bitmaps` come to together."""
    starts = np.array([start for start, _ in view.spans], np.int64)
    stops = np.array([stop for _, stop in view.spans], np.int64)
    counts = -(-(stops - starts) // view.width)
    begins = np.concatenate([[0], np.cumsum(counts)])

    def cells(slots: NDArray[np.int64], rounded_up: bool) -> NDArray[np.int64]:
        """Cell of a slot; one that is in no span counts for the beginning of the next one's."""
        span = np.searchsorted(starts, slots, "right") - 1
        inside = np.minimum(slots, stops[span]) - starts[span]
        offset = -(-inside // view.width) if rounded_up else inside // view.width
        offset = np.where(slots >= stops[span], counts[span], offset)
        return np.where(span < 0, 0, begins[span] + offset)

    def marked(first: NDArray[np.int64], stop: NDArray[np.int64]) -> int:
        some = first < stop
        total = view.cells
        edges = np.bincount(first[some], minlength=total + 1) - np.bincount(stop[some], minlength=total + 1)
        bits = np.ones(-(-total // 8) * 8, bool)
        bits[:total] = np.cumsum(edges[:total]) > 0
        return int.from_bytes(np.packbits(bits).tobytes(), "big")

    first, stop = blocked
    touched = marked(cells(first, False), cells(stop, True))
    full = marked(cells(first, True), cells(stop, False))
    return Bitmaps(touched, full)


class CrowdSpace(ListedSpace):
    """The spaces of all these peers, as far as a participant asks. ``thief``: takes a range for somebody in the
    last moment, where it says so."""

    def __init__(
        self, peers: Peers, windows: tuple[Range, ...], thief: Callable[[Range], bool] = lambda _: False
    ) -> None:
        super().__init__((), windows, thief=thief)
        self.peers = peers

    def outline(self, within: Range) -> Footprint:
        return Footprint(RangeSet(), self.granularity)

    def footprint(self, within: Range) -> Footprint:
        tables = [each.within(within) for each in self.peers.near(within)]
        starts = np.concatenate([np.empty(0, np.int64), *(each.starts.ravel() for each in tables)])
        stops = np.concatenate([np.empty(0, np.int64), *(each.stops.ravel() for each in tables)])
        order = np.argsort(starts)
        starts, stops = starts[order], np.maximum.accumulate(stops[order])
        opens = np.append(True, starts[1:] > stops[:-1])[: len(starts)]
        closes = np.append(opens[1:], True)[: len(starts)]
        found = RangeSet(zip(starts[opens].tolist(), stops[closes].tolist(), strict=True))
        return Footprint(RangeSet(found.overlapping(within)), self.granularity)

    def obstacle(self, where: Range) -> Obstacle | None:
        for table in self.peers.near(where):
            hits = np.argwhere((table.starts < where.stop) & (table.stops > where.start))
            if len(hits):
                row, column = hits[0]
                found = Range(int(table.starts[row, column]), int(table.stops[row, column]))
                return Obstacle(found, "a mapping", "somebody")
        return None


class Crowd(Participant):
    """The participant that speaks for all in ``space``."""

    def __init__(self, space: CrowdSpace, wanted: tuple[Placement, ...], token: bytes) -> None:
        super().__init__(space, wanted, token, "somebody in the crowd")
        self._all = space.peers
        self._blocked = Blocked(np.empty(0, np.int64), np.empty(0, np.int64))

    def _look(self, window: int) -> tuple[Search, list[tuple[int, int]]]:
        grid = Grid.of(self.wanted[window], self.granularity)
        self.nominated, self.anyone_lost = (), False
        # What somebody lost is counted as of one who has nothing else.
        lost = [
            Table(*(np.array([[end]], np.int64) for end in each))
            for each in self.lost.overlapping(grid.placement.within)
        ]
        self._blocked = blocked(grid, [*self._all.near(grid.placement.within), *lost])
        return Search(grid), []

    def _proposal(self, search: Search, free: list[tuple[int, int]], attempt: int) -> Proposal:
        return replace(super()._proposal(search, free, attempt), peers=self._all.number)

    def bitmaps(self, view: View, free: list[tuple[int, int]]) -> Bitmaps:
        return bitmaps(view, self._blocked)
