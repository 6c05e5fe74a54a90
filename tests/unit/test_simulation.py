"""The simulation says what many participants would: a crowd is held against as many of them."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation import adversaries, crowd, recorded
from simulation.meeting import ListedSpace, meet

from stead.agreement import Participant
from stead.errors import NoGap
from stead.grid import CELLS, Bitmaps, Grid, View
from stead.messages import Agreed
from stead.placement import Footprint, Placement, quiet_windows
from stead.ranges import Range, RangeSet

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE = 4096
USABLE = Range(1 << 16, (1 << 47) - PAGE)
BASE = 0x4000_0000_0000

rows = st.lists(
    st.lists(st.tuples(st.integers(0, 400), st.integers(1, 60)), min_size=1, max_size=8), min_size=1, max_size=6
)


def table(peers: Sequence[RangeSet]) -> crowd.Table:
    width = max(len(list(each)) for each in peers)
    padded = [[*each, *[list(each)[-1]] * (width - len(list(each)))] for each in peers]
    return crowd.Table(*(np.array([[r[end] for r in row] for row in padded], np.int64) for end in (0, 1)))


@given(rows, st.integers(1, 40), st.integers(0, 3), st.sampled_from([1, 4, 16]), st.data())
def test_a_crowds_bitmaps_are_its_members_together(
    rows: list[list[tuple[int, int]]], pages: int, guard: int, alignment: int, data: st.DataObject
) -> None:
    window = Range(BASE + 32 * PAGE, BASE + 420 * PAGE)
    peers = [RangeSet(Range.sized(BASE + at * PAGE, n * PAGE) for at, n in row) for row in rows]
    grid = Grid.of(Placement(pages * PAGE, window, alignment * PAGE, guard * PAGE), PAGE)
    cuts = sorted(data.draw(st.lists(st.integers(0, grid.count), unique=True, max_size=6)))
    spans = tuple(zip(cuts[::2], cuts[1::2], strict=False)) or ((0, grid.count),)
    view = View(spans, data.draw(st.integers(1, 9)))

    each = [view.bitmaps(grid.free(Footprint(peer, PAGE))) for peer in peers]
    together = reduce(lambda a, b: Bitmaps(a.touched | b.touched, a.full | b.full), each)

    assert crowd.bitmaps(view, crowd.blocked(grid, [table(peers)])) == together


@pytest.mark.parametrize("name", recorded.programs())
def test_a_restarted_program_lies_where_it_may(name: str) -> None:
    random = Random(name)
    possible = crowd.possible(name)
    for start in recorded.programs()[name][:8]:
        again = start.restarted(random)
        assert again == sorted(again)
        assert all(a.stop <= b.start for a, b in pairwise(again))
        assert RangeSet([*start.ranges, *again]) | possible == possible
        assert [each.size for each in again] == [each.size for each in start.ranges]


@pytest.mark.parametrize("windows", [quiet_windows(USABLE, PAGE), (USABLE,)], ids=["quiet", "anywhere"])
@pytest.mark.parametrize("size", [1 << 30, 1 << 44])
@pytest.mark.parametrize("holding", [0.0, 3.0])
def test_a_crowd_agrees_as_its_members_do(windows: tuple[Range, ...], size: int, holding: float) -> None:
    peers = crowd.Peers(recorded.EVERYDAY, 24, size, holding)
    tables = peers.near(USABLE)
    wanted = tuple(Placement(size, each, 1 << 21) for each in windows)
    tokens = [bytes([number]) * 16 for number in range(24)]
    members = [
        Participant(ListedSpace(each.row(row), windows), wanted, tokens.pop(), f"peer {row}")
        for each in tables
        for row in range(each.peers)
    ]
    alone = meet(members)
    assert isinstance(alone.outcome, Agreed)
    together = meet([crowd.Crowd(crowd.CrowdSpace(peers, windows), wanted, bytes(16))])
    assert (together.outcome, together.exchanges) == (alone.outcome, alone.exchanges)
    occupied = reduce(RangeSet.__or__, (RangeSet(t.row(row)) for t in tables for row in range(t.peers)))
    assert not any(occupied.overlapping(alone.outcome.outer))


@pytest.mark.parametrize("kind", adversaries.KINDS)
def test_adversaries_find_what_there_is(kind: str) -> None:
    window, size = Range(BASE, BASE + (1 << 34)), 1 << 26
    for seed in range(4):
        spaces = adversaries.KINDS[kind](window, size, 7, Random(seed))
        free = reduce(RangeSet.__or__, (s.occupied | RangeSet(s.outline(window).occupied) for s in spaces))
        page = max(each.granularity for each in spaces)
        there_is = Placement(size, window).choose(Footprint(free, page)) is not None
        meeting = meet(
            [
                Participant(each, (Placement(size, window),), bytes([i + 1]) * 16, f"peer {i}")
                for i, each in enumerate(spaces)
            ]
        )
        assert meeting.found == there_is, (kind, seed, meeting.outcome)
        assert there_is or isinstance(meeting.outcome, NoGap)
        assert max(meeting.sent + meeting.received) <= 1 << 16
        assert all((each.held is not None) == meeting.found for each in spaces)


def test_one_bitmap_has_all_cells() -> None:
    grid = Grid.of(Placement(1 << 21, USABLE, 1 << 21), PAGE)
    view = View(((0, grid.count),), -(-grid.count // CELLS))
    tables = crowd.Peers(["node"], 60, 1).near(USABLE)
    free = [grid.free(Footprint(RangeSet(t.row(row)), PAGE)) for t in tables for row in range(t.peers)]
    each = [view.bitmaps(runs) for runs in free]
    assert crowd.bitmaps(view, crowd.blocked(grid, tables)) == reduce(
        lambda a, b: Bitmaps(a.touched | b.touched, a.full | b.full), each
    )
