"""Placements against brute force on small spaces, and the values that must never change."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stead.placement import Footprint, Placement, Preference, quiet_windows, scatter
from stead.ranges import NOTHING, Range, RangeSet

PAGE = 4096
TIB = 1 << 40


def addresses(top: int) -> st.SearchStrategy[Range]:
    pair = st.tuples(st.integers(0, top), st.integers(0, top))
    return pair.filter(lambda each: each[0] != each[1]).map(lambda each: Range(min(each), max(each)))


@st.composite
def small_cases(draw: st.DrawFn) -> tuple[Placement, Footprint]:
    """A space of 96 bytes with "pages" of 1 to 4: small enough to try every address."""
    granularity = draw(st.sampled_from([1, 2, 4]))
    occupied = RangeSet(draw(st.lists(addresses(96), max_size=5)))
    placement = Placement(
        size=draw(st.integers(1, 24)),
        within=draw(addresses(96)),
        alignment=draw(st.sampled_from([1, 2, 4, 8, 16, 32])),
        guard=draw(st.integers(0, 6)),
        prefer=draw(st.sampled_from(get_args(Preference))),
        seed=draw(st.integers(0, (1 << 64) - 1)),
    )
    return placement, Footprint(occupied, granularity)


def everything_that_fits(placement: Placement, seen: Footprint) -> list[int]:
    """The model: every start, tried byte by byte."""
    page = seen.granularity
    size, guard = -(-placement.size // page) * page, -(-placement.guard // page) * page
    taken = {address for part in seen.occupied for address in range(*part)}
    free = set(range(*placement.within)) - taken
    return [
        start
        for start in range(*placement.within)
        if start % placement.alignment == 0
        and start % page == 0
        and all(address in free for address in range(start - guard, start + size + guard))
    ]


@given(small_cases(), st.integers(0, 1 << 64))
def test_a_choice_is_one_that_fits_and_there_is_none_only_where_nothing_fits(
    case: tuple[Placement, Footprint], attempt: int
) -> None:
    placement, seen = case
    fitting = everything_that_fits(placement, seen)
    chosen = placement.choose(seen, attempt)
    if chosen is None:
        assert not fitting
        return
    assert chosen.start in fitting
    assert chosen.size == -(-placement.size // seen.granularity) * seen.granularity
    if placement.prefer == "low":
        assert chosen.start == fitting[0]
    if placement.prefer == "high":
        assert chosen.start == fitting[-1]


@given(small_cases())
def test_every_fitting_place_is_a_slot_exactly_once(case: tuple[Placement, Footprint]) -> None:
    placement, seen = case
    slots = placement.slots(seen)
    listed = [first + number * slots.step for first, count in slots.runs for number in range(count)]
    assert listed == everything_that_fits(placement, seen)
    assert slots.total == len(listed)


@given(small_cases())
def test_scattered_attempts_reach_every_place_that_fits(case: tuple[Placement, Footprint]) -> None:
    placement, seen = replace(case[0], prefer="scattered"), case[1]
    fitting = everything_that_fits(placement, seen)
    # With n slots and 40·n + 40 draws the chance of missing one is below n·e^-40.
    drawn = {chosen.start for n in range(40 * len(fitting) + 40) if (chosen := placement.choose(seen, n))}
    assert drawn == set(fitting)


@given(small_cases(), st.integers(-8, 120))
def test_nearest_is_the_fitting_place_that_starts_nearest(case: tuple[Placement, Footprint], address: int) -> None:
    placement, seen = case
    fitting = everything_that_fits(placement, seen)
    found = placement.nearest(seen, address)
    if not fitting:
        assert found is None
        return
    assert found is not None
    assert found.start in fitting
    assert found.start == min(fitting, key=lambda start: abs(start - address))  # the lower of two


@given(small_cases(), st.integers(0, 1000))
def test_the_same_question_has_the_same_answer_in_another_process(
    case: tuple[Placement, Footprint], attempt: int
) -> None:
    placement, seen = case
    elsewhere: Placement = pickle.loads(pickle.dumps(placement))
    same = Footprint(RangeSet(reversed(list(seen.occupied))), seen.granularity)
    assert elsewhere.choose(same, attempt) == placement.choose(seen, attempt)


@st.composite
def large_cases(draw: st.DrawFn) -> tuple[Placement, Footprint]:
    """Real widths, alignments up to 1 TiB, sizes up to 64 TiB."""
    top = 1 << draw(st.integers(32, 57))
    page = draw(st.sampled_from([4096, 16384, 65536]))
    occupied = RangeSet(
        Range.sized(draw(st.integers(0, top)) // page * page, draw(st.integers(1, 1 << 20)) * page)
        for _ in range(draw(st.integers(0, 6)))
    )
    placement = Placement(
        size=draw(st.one_of(st.integers(1, 1 << 24), st.integers(1, 64 * TIB))),
        within=draw(addresses(top)),
        alignment=1 << draw(st.integers(12, 40)),
        guard=draw(st.sampled_from([0, 0, 1, 4096, 5000, 1 << 21, 1 << 30])),
        prefer=draw(st.sampled_from(get_args(Preference))),
        seed=draw(st.integers(0, (1 << 64) - 1)),
    )
    return placement, Footprint(occupied, page)


@given(large_cases(), st.integers(0, 100))
def test_a_choice_is_aligned_inside_the_window_with_its_guards_and_overlaps_nothing(
    case: tuple[Placement, Footprint], attempt: int
) -> None:
    placement, seen = case
    chosen = placement.choose(seen, attempt)
    if chosen is None:
        return
    outer = placement.with_guards(chosen, seen.granularity)
    assert chosen.start % placement.alignment == 0
    assert all(edge % seen.granularity == 0 for edge in (*chosen, *outer))
    assert placement.size <= chosen.size < placement.size + seen.granularity
    assert placement.guard <= chosen.start - outer.start == outer.stop - chosen.stop
    assert placement.within.contains(outer)
    assert not any(part.overlaps(outer) for part in seen.occupied)


@pytest.mark.parametrize("power", range(12, 41))
def test_every_alignment_from_a_page_to_one_tebibyte_is_kept(power: int) -> None:
    window = Range(0x4000_0000_0000 + PAGE, 0x5400_0000_0000)
    prefers: list[Preference] = ["low", "high", "scattered"]
    for prefer in prefers:
        chosen = Placement(PAGE, window, alignment=1 << power, prefer=prefer, seed=power).choose(
            Footprint(NOTHING, PAGE)
        )
        assert chosen is not None
        assert chosen.start % (1 << power) == 0
        assert window.contains(chosen)


def test_the_last_fitting_byte_is_used_and_one_more_is_not_had() -> None:
    seen = Footprint(RangeSet([(8 * PAGE, 16 * PAGE)]), PAGE)
    window = Range(0, 16 * PAGE)
    assert Placement(8 * PAGE, window).choose(seen) == Range(0, 8 * PAGE)
    assert Placement(6 * PAGE, window, guard=PAGE).choose(seen) == Range(PAGE, 7 * PAGE)
    assert Placement(8 * PAGE + 1, window).choose(seen) is None
    assert Placement(6 * PAGE, window, guard=PAGE + 1).choose(seen) is None


# ---- footprints -----------------------------------------------------------------------------------


@given(small_cases(), small_cases())
def test_what_fits_in_merged_footprints_fits_in_each(
    one: tuple[Placement, Footprint], other: tuple[Placement, Footprint]
) -> None:
    placement = one[0]
    merged = one[1] | other[1]
    assert merged.granularity == max(one[1].granularity, other[1].granularity)
    chosen = placement.choose(merged)
    if chosen is not None:
        outer = placement.with_guards(chosen, merged.granularity)
        for seen in (one[1], other[1]):
            assert not any(seen.occupied.overlapping(outer))


@given(small_cases())
def test_what_is_marked_as_occupied_is_not_chosen_again(case: tuple[Placement, Footprint]) -> None:
    placement, seen = case
    chosen = placement.choose(seen)
    if chosen is not None:
        again = placement.choose(seen.without(chosen))
        assert again is None or not again.overlaps(chosen)


# ---- wrong arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"size": 0}, ["size", "0"]),
        ({"size": -4096}, ["size", "-4096"]),
        ({"alignment": 3}, ["align", "0x3"]),
        ({"alignment": 0}, ["align", "0x0"]),
        ({"alignment": -4096}, ["align", "-0x1000"]),
        ({"alignment": 2 * TIB}, ["align", "2 TiB", "1 TiB"]),
        ({"guard": -1}, ["guard", "-1"]),
        ({"prefer": "left"}, ["prefer", "'left'", "low", "high", "scattered"]),
        ({"within": Range(PAGE, PAGE)}, ["within", "(4096, 4096)"]),
        ({"within": Range(-PAGE, PAGE)}, ["within", "-4096"]),
        ({"within": Range(2 * PAGE, PAGE)}, ["within", "8192"]),
    ],
)
def test_a_wrong_argument_is_named_with_its_value(wrong: dict[str, object], words: list[str]) -> None:
    right: dict[str, object] = {"size": PAGE, "within": Range(0, TIB)}
    with pytest.raises(ValueError, match=words[0]) as refused:
        Placement(**(right | wrong))  # type: ignore[arg-type]
    for word in words:
        assert word in str(refused.value)


def test_a_placement_says_what_is_wanted() -> None:
    text = str(Placement(64 << 30, Range(0, TIB), alignment=1 << 21, guard=PAGE))
    for word in ("64 GiB", "0x010000000000", "2 MiB", "4 KiB"):
        assert word in text


# ---- the order that peers rely on -----------------------------------------------------------------


def splitmix64(state: int, outputs: int) -> list[int]:
    """The reference (Steele, Lea, Flood 2014), kept as a running state."""
    made = []
    for _ in range(outputs):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        made.append(z ^ (z >> 31))
    return made


def test_scatter_begins_as_published_for_seed_0() -> None:
    assert [scatter(0, attempt) for attempt in range(3)] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]


@given(st.integers(0, (1 << 64) - 1))
def test_scatter_is_splitmix64_for_every_seed(seed: int) -> None:
    assert [scatter(seed, attempt) for attempt in range(8)] == splitmix64(seed, 8)


def test_scattered_places_are_the_same_in_every_version() -> None:
    window = Range(0x4000_0000_0000, 0x5400_0000_0000)
    wanted = Placement(1 << 30, window, alignment=1 << 21, seed=7)
    places = [wanted.choose(Footprint(NOTHING, PAGE), attempt) for attempt in range(3)]
    slots = (0x1400_0000_0000 - (1 << 30)) // (1 << 21) + 1
    expected = [window.start + number % slots * (1 << 21) for number in splitmix64(7, 3)]
    assert places == [Range.sized(start, 1 << 30) for start in expected]
    # Written down: peers of different versions must go on meeting.
    assert expected == [0x461467C00000, 0x50A383200000, 0x46D05DE00000]


def test_attempts_and_seeds_draw_different_places() -> None:
    window = Range(0x4000_0000_0000, 0x5400_0000_0000)
    empty = Footprint(NOTHING, PAGE)
    by_attempt = {Placement(PAGE, window, seed=1).choose(empty, attempt) for attempt in range(1000)}
    by_seed = {Placement(PAGE, window, seed=seed).choose(empty) for seed in range(1000)}
    # Among 5·10^9 slots a repeat among 1000 has a chance of 10^-4, and these numbers never change.
    assert len(by_attempt) == len(by_seed) == 1000


# ---- windows --------------------------------------------------------------------------------------


def usable(width: int, page: int = PAGE) -> Range:
    return Range(65536, (1 << width) - page)


@pytest.mark.parametrize("page", [4096, 16384, 65536])
@pytest.mark.parametrize("width", range(32, 58))
def test_windows_of_every_width_lie_in_what_is_usable_and_end_with_all_of_it(width: int, page: int) -> None:
    everything = usable(width, page)
    windows = quiet_windows(everything, page)
    assert windows[-1] == everything
    assert len(windows) == 3
    quiet = windows[:-1]
    for each in quiet:
        assert everything.contains(each)
        assert each.start % page == each.stop % page == 0
        assert each.size > 0
    assert quiet[0].stop <= quiet[1].start


def test_the_quiet_windows_of_47_bits_are_the_measured_ones() -> None:
    assert quiet_windows(usable(47), PAGE) == (
        Range(0x4000_0000_0000, 0x5400_0000_0000),
        Range(0x6600_0000_0000, 0x6F00_0000_0000),
        usable(47),
    )


@pytest.mark.parametrize("width", range(47, 58))
def test_wider_spaces_keep_the_quiet_windows_of_47_bits(width: int) -> None:
    assert quiet_windows(usable(width), PAGE)[:2] == quiet_windows(usable(47), PAGE)[:2]


@pytest.mark.parametrize("width", range(32, 47))
def test_narrower_spaces_keep_the_share_of_the_space_that_is_quiet(width: int) -> None:
    narrow, full = quiet_windows(usable(width), PAGE), quiet_windows(usable(47), PAGE)
    for ours, theirs in zip(narrow[:2], full[:2], strict=True):
        assert ours.start / (1 << width) == pytest.approx(theirs.start / (1 << 47), abs=PAGE / (1 << width))
        assert ours.stop / (1 << width) == pytest.approx(theirs.stop / (1 << 47), abs=PAGE / (1 << width))


def test_under_thread_sanitizer_there_is_one_window_since_others_abort() -> None:
    assert quiet_windows(usable(47), PAGE, "thread") == (Range(0x10_0000_0000, 0x20_0000_0000),)


@pytest.mark.parametrize("sanitizer", ["address", "memory", None])
def test_other_sanitizers_leave_the_windows_as_they_are(sanitizer: str | None) -> None:
    assert quiet_windows(usable(47), PAGE, sanitizer) == quiet_windows(usable(47), PAGE)
