"""The search over merged bitmaps, against the union of everyone's footprints."""

from __future__ import annotations

from typing import get_args
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stead import grid
from stead.grid import Bitmaps, Grid, Search, View, nominees
from stead.placement import Footprint, Placement, Preference
from stead.ranges import NOTHING, Range, RangeSet

PAGE = 4096
BASE = 1000 * PAGE
pages = st.integers(0, 300)
feet = st.lists(st.tuples(pages, st.integers(1, 40)), max_size=12).map(
    lambda taken: Footprint(RangeSet((BASE + at * PAGE, BASE + (at + n) * PAGE) for at, n in taken), PAGE)
)
placements = st.builds(
    Placement,
    size=st.integers(1, 6 * PAGE),
    within=st.integers(1, 340).map(lambda n: Range(BASE + 17, BASE + n * PAGE)),
    alignment=st.sampled_from([1, PAGE, 4 * PAGE]),
    guard=st.sampled_from([0, 1, PAGE]),
    prefer=st.sampled_from(get_args(Preference)),
)


def searched(placement: Placement, everyone: list[Footprint], draw: int = 0) -> tuple[Search, int]:
    search, looks = Search(Grid.of(placement, PAGE)), 0
    free = [search.grid.free(each) for each in everyone]
    while search.view:
        assert search.view.cells <= grid.CELLS
        touched = full = 0
        for each in free:
            mine = search.view.bitmaps(each)
            touched, full = touched | mine.touched, full | mine.full
        search.feed(Bitmaps(touched, full), draw)
        looks += 1
    return search, looks


@pytest.mark.parametrize("cells", [8, 16, 64, 1 << 16])
@given(placement=placements, everyone=st.lists(feet, min_size=1, max_size=4), draw=st.integers(0, 1 << 64))
def test_what_is_free_for_all_is_found_and_nothing_else(
    cells: int, placement: Placement, everyone: list[Footprint], draw: int
) -> None:
    with mock.patch.object(grid, "CELLS", cells):
        search, _ = searched(placement, everyone, draw)
    union = everyone[0]
    for each in everyone:
        union |= each
    slots = placement.slots(union)
    if not slots.total:
        assert search.found is None
        return
    assert search.found is not None
    where = search.grid.range(search.found)
    assert any(first <= where.start < first + count * slots.step for first, count in slots.runs)
    if placement.prefer != "scattered":
        assert where == placement.choose(union)


def test_every_slot_of_an_empty_window_may_be_drawn() -> None:
    placement = Placement(PAGE, Range(BASE, BASE + 5 * PAGE))
    found = {searched(placement, [Footprint(NOTHING, PAGE)], draw)[0].found for draw in range(5)}
    assert found == {0, 1, 2, 3, 4}


def test_a_window_with_no_room_has_no_slot() -> None:
    search, looks = searched(Placement(2 * PAGE, Range(BASE, BASE + PAGE)), [Footprint(NOTHING, PAGE)])
    assert (search.found, looks) == (None, 1)


def test_one_free_slot_in_a_hundred_terabytes_takes_a_few_looks() -> None:
    window = Range(1 << 40, 100 << 40)
    hole = (77 << 40) + 12345 * PAGE
    around = [
        Footprint(RangeSet([each]), PAGE) for each in (Range(window.start, hole), Range(hole + PAGE, window.stop))
    ]
    search, looks = searched(Placement(PAGE, window), around)
    assert search.found is not None
    assert search.grid.range(search.found) == Range.sized(hole, PAGE)
    assert looks <= 3


def test_that_there_is_none_is_proved_however_it_is_hidden() -> None:
    # Two combs, each with every other page: no cell is full for either, and nothing is free for both.
    window = Range(BASE, BASE + 40_000 * PAGE)
    combs = [
        Footprint(RangeSet(Range.sized(BASE + n * PAGE, PAGE) for n in range(odd, 40_000, 2)), PAGE)
        for odd in (0, 1)
    ]
    with mock.patch.object(grid, "CELLS", 1 << 10):
        search, looks = searched(Placement(PAGE, window), combs)
    assert search.found is None
    assert looks > 1


def test_cells_are_bits_from_the_highest_down_and_the_rest_is_set() -> None:
    view = View(((0, 10), (100, 104)), 4)
    assert view.cells == 4
    touched, full = view.bitmaps([(0, 5), (100, 104)])
    assert f"{touched:08b}" == "01101111"
    assert f"{full:08b}" == "00101111"
    assert list(view.slots(grid.FREE, touched)) == [(0, 4), (100, 104)]


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 9)), max_size=9), st.integers(0, 99))
def test_nominees_are_free(runs: list[tuple[int, int]], seed: int) -> None:
    free = [(each.start, each.stop) for each in RangeSet((at, at + n) for at, n in runs)]
    named = nominees(free, seed, 4)
    assert bool(named) == bool(free)
    assert all(any(start <= slot < stop for start, stop in free) for slot in named)


def test_what_is_in_no_slots_way_touches_no_cell() -> None:
    grid = Grid.of(Placement(PAGE, Range(BASE, BASE + 64 * PAGE), 4 * PAGE), PAGE)
    seen = Footprint(RangeSet([Range.sized(BASE + PAGE, PAGE)]), PAGE)
    assert grid.free(seen) == [(0, grid.count)]
    assert View(((0, grid.count),), 2).bitmaps(grid.free(seen)).touched == 0
