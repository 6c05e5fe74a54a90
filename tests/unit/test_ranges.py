"""Ranges and sets of them, against sets of ints."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stead.ranges import NOTHING, Range, RangeSet, align_down, align_up

if TYPE_CHECKING:
    from collections.abc import Iterable

SPAN = 64


def ranges(span: int = SPAN) -> st.SearchStrategy[Range]:
    """Ranges of a small space, empty ones among them."""
    edges = st.tuples(st.integers(0, span), st.integers(0, span))
    return edges.map(lambda pair: Range(min(pair), max(pair)))


windows = ranges().filter(lambda each: each.size > 0)
several = st.lists(ranges(), max_size=8)


def bytes_of(parts: Iterable[Range]) -> set[int]:
    """The model: every address by itself."""
    return {address for part in parts for address in range(*part)}


def is_canonical(made: list[Range]) -> bool:
    """In order, nothing empty, and no two that touch."""
    inner = all(below.stop < above.start for below, above in itertools.pairwise(made))
    return inner and all(each.start < each.stop for each in made)


# ---- one range ------------------------------------------------------------------------------------


@given(ranges(), ranges())
def test_two_ranges_compare_as_their_addresses_do(one: Range, other: Range) -> None:
    ours, theirs = bytes_of([one]), bytes_of([other])
    if one.size and other.size:
        assert one.contains(other) == (theirs <= ours)
        assert one.overlaps(other) == bool(ours & theirs)
    shared = one.intersection(other)
    assert bytes_of([shared] if shared else []) == ours & theirs
    assert shared is None or shared.size > 0
    assert one.size == len(ours)


def test_a_sized_range_stops_where_its_size_ends() -> None:
    assert Range.sized(0x1000, 0x2000) == Range(0x1000, 0x3000)


def test_a_range_is_printed_in_hex_with_its_size() -> None:
    assert str(Range(0x1000, 0x3000)) == "0x000000001000–0x000000003000 (8 KiB)"


@given(st.integers(0, 1 << 64), st.integers(1, 1 << 41))
def test_alignment_goes_to_the_nearest_multiple_on_its_side(address: int, alignment: int) -> None:
    up, down = align_up(address, alignment), align_down(address, alignment)
    assert up % alignment == down % alignment == 0
    assert down <= address <= up
    assert up - address < alignment
    assert address - down < alignment


# ---- written ranges -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        Range(0x1000, 0x2000),
        (0x1000, 0x2000),
        (4096, "8 KiB"),
        ("0x1000", "0x2000"),
        "0x1000-0x2000",
        "0x1000 - 0x2000",
        "0x1000–0x2000",
        "0x1000..0x2000",
        " 4096-8192 ",
        "4 KiB-8KiB",
        "4KiB–0x2000",
        "4096 B..8 KiB",
    ],
)
def test_every_way_to_write_a_range_is_read(written: Range | tuple[int | str, int | str] | str) -> None:
    assert Range.parse(written, "within") == Range(0x1000, 0x2000)


def test_fractions_of_a_unit_do_not_mix_up_the_two_dots() -> None:
    assert Range.parse("1.5 MiB..2.5 MiB", "within") == Range(0x180000, 0x280000)


@given(windows)
def test_a_range_is_read_as_it_is_written_in_hex(where: Range) -> None:
    assert Range.parse(f"{where.start:#x}-{where.stop:#x}", "within") == where
    assert Range.parse(str(where).partition(" (")[0], "within") == where


@pytest.mark.parametrize(
    ("written", "kind", "names"),
    [
        ("0x1000", ValueError, ["within", "'0x1000'"]),
        ("", ValueError, ["within", "''"]),
        ("-", ValueError, ["within", "'-'"]),
        ("0x1000-", ValueError, ["within", "'0x1000-'"]),
        ("0x2000-0x1000", ValueError, ["within", "'0x2000', '0x1000'"]),
        ((0x1000, 0x1000), ValueError, ["within", "4096, 4096"]),
        ((-4096, 4096), ValueError, ["within", "-4096"]),
        ("apples-0x2000", ValueError, ["within", "'apples'"]),
        ("0x1000-7 apples", ValueError, ["within", "'7 apples'"]),
        ((1, 2, 3), TypeError, ["within", "(1, 2, 3)"]),
        ([0x1000, 0x2000], TypeError, ["within", "[4096, 8192]"]),
        (4096, TypeError, ["within", "4096"]),
        (None, TypeError, ["within", "None"]),
        ((1.5, 8192), TypeError, ["within", "1.5"]),
        ((True, 8192), TypeError, ["within", "True"]),
    ],
)
def test_what_is_no_range_is_refused_by_argument_and_value(
    written: object, kind: type[Exception], names: list[str]
) -> None:
    with pytest.raises(kind) as refused:
        Range.parse(written, "within")  # type: ignore[arg-type]
    for each in names:
        assert each in str(refused.value)


@given(st.text(max_size=20))
def test_no_text_raises_anything_but_a_value_error_that_names_the_argument(text: str) -> None:
    try:
        made = Range.parse(text, "within")
    except ValueError as refused:
        assert "within" in str(refused)
    else:
        assert 0 <= made.start < made.stop


# ---- sets of ranges -------------------------------------------------------------------------------


@given(several)
def test_a_set_holds_the_addresses_of_its_ranges_in_order_and_coalesced(parts: list[Range]) -> None:
    made, model = RangeSet(parts), bytes_of(parts)
    assert bytes_of(made) == model
    assert is_canonical(list(made))
    assert made.size == len(model)
    assert len(made) == len(list(made))
    assert bool(made) == bool(model)
    assert [address in made for address in range(SPAN + 1)] == [address in model for address in range(SPAN + 1)]


@given(several, several)
def test_sets_unite_and_intersect_as_their_addresses_do(one: list[Range], other: list[Range]) -> None:
    both, shared = RangeSet(one) | RangeSet(other), RangeSet(one) & RangeSet(other)
    assert bytes_of(both) == bytes_of(one) | bytes_of(other)
    assert bytes_of(shared) == bytes_of(one) & bytes_of(other)
    assert is_canonical(list(both))
    assert is_canonical(list(shared))


@given(several, several, several)
def test_union_is_associative_and_commutative_so_that_peers_can_reduce_it(
    one: list[Range], two: list[Range], three: list[Range]
) -> None:
    a, b, c = RangeSet(one), RangeSet(two), RangeSet(three)
    assert (a | b) | c == a | (b | c)
    assert a | b == b | a
    assert a | NOTHING == NOTHING | a == a


@given(several, windows)
def test_gaps_and_what_overlaps_divide_the_window_between_them(parts: list[Range], window: Range) -> None:
    made, model, inside = RangeSet(parts), bytes_of(parts), bytes_of([window])
    taken, free = list(made.overlapping(window)), list(made.gaps(window))
    assert bytes_of(taken) == model & inside
    assert bytes_of(free) == inside - model
    assert made.covers(window) == (inside <= model)
    assert is_canonical(taken)
    assert is_canonical(free)


@given(several, several)
def test_equal_sets_are_equal_however_they_were_made(one: list[Range], other: list[Range]) -> None:
    same = bytes_of(one) == bytes_of(other)
    assert (RangeSet(one) == RangeSet(other)) == same
    if same:
        assert hash(RangeSet(one)) == hash(RangeSet(other))


def test_a_set_equals_nothing_that_is_no_set() -> None:
    assert RangeSet([(0, 1)]) != [(0, 1)]


def test_ranges_that_touch_become_one() -> None:
    assert list(RangeSet([(4, 8), (0, 4), (8, 8)])) == [Range(0, 8)]


@given(st.integers(0, 100), st.integers(1, 100))
def test_a_range_that_stops_before_it_starts_is_refused_by_value(start: int, short: int) -> None:
    with pytest.raises(ValueError, match=f"{start + short:#x}"):
        RangeSet([(start + short, start)])
