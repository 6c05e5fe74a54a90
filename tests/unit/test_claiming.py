"""How a place is found: claim first, look after losing, in all three manners of kernel."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stead
from stead.ranges import Range
from stead.space.simulated import SimulatedMapping
from stead.testing import Manner, SimulatedSpace

MANNERS = list(Manner)
PAGE = 4096
WINDOW = Range(0x4000_0000_0000, 0x4000_0000_0000 + 64 * PAGE)


class Looks(SimulatedSpace):
    """Counts how often it is looked at."""

    looks = 0

    def footprint(self, within: Range) -> stead.Footprint:
        self.looks += 1
        return super().footprint(within)


def held(space: SimulatedSpace, within: Range) -> list[Range]:
    return list(space.kernel.ours.overlapping(within))


@pytest.mark.parametrize("manner", MANNERS)
def test_the_happy_path_does_not_look(manner: Manner) -> None:
    space = Looks(manner=manner)
    for _ in range(20):
        stead.reserve("1 GiB", space=space)
        stead.reserve("1 MiB", space=space, within=(1 << 40, 1 << 44))
    assert space.looks == 0


@pytest.mark.parametrize("manner", MANNERS)
def test_a_lost_claim_is_followed_by_one_look(manner: Manner) -> None:
    space = Looks(manner=manner, occupied=[(WINDOW.start, WINDOW.stop - 2 * PAGE)])
    with stead.reserve(2 * PAGE, space=space, within=WINDOW, align=PAGE, prefer="low") as r:
        assert r.range == Range(WINDOW.stop - 2 * PAGE, WINDOW.stop)
    assert space.looks == 1
    assert not space.kernel.clobbered


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("prefer", ["low", "high", "scattered"])
def test_what_a_hint_got_elsewhere_is_given_back_at_the_end(manner: Manner, prefer: str) -> None:
    """Each of the first places is taken just before it is claimed."""
    probe = SimulatedSpace(manner=manner)
    assert probe.manner is manner
    first_claim = probe.kernel.steps
    stop = WINDOW.stop

    def intrusions(step: int) -> list[Range]:
        if not first_claim <= step < first_claim + 3:
            return []
        pages = {"low": range(step - first_claim + 1), "high": range(63 - step + first_claim, 64)}
        return [Range.sized(WINDOW.start + page * PAGE, PAGE) for page in pages.get(prefer, range(10, 40, 2))]

    space = SimulatedSpace(manner=manner, intrusions=intrusions)
    r = stead.reserve(4 * PAGE, space=space, within=WINDOW, align=PAGE, prefer=prefer, seed=3)  # type: ignore[arg-type]
    assert WINDOW.contains(r.range)
    assert not space.kernel.clobbered
    assert held(space, Range(0, stop)) == [r.range]
    assert space.kernel.ours.size == r.size, "a loser is still held"
    r.release()
    assert not space.kernel.ours


@pytest.mark.parametrize("manner", MANNERS)
def test_a_storm_of_others_ends_in_Contended_with_nothing_held(manner: Manner) -> None:
    space = SimulatedSpace(manner=manner)
    assert space.manner is manner

    class Storm(SimulatedSpace):
        """Whatever place is asked for, somebody takes it first."""

        def reserve_at(self, where: Range, keep: list[Range] | None = None) -> None:
            self.kernel.table.append(SimulatedMapping(where, 0, 0, foreign=True))
            self.kernel.table.sort(key=lambda each: each.range)
            try:
                super().reserve_at(where, keep)
            finally:
                self.kernel.table = [each for each in self.kernel.table if each.range != where]

    stormy = Storm(manner=manner)
    with pytest.raises(stead.Contended) as caught:
        stead.reserve(4 * PAGE, space=stormy, within=WINDOW, align=PAGE)
    assert caught.value.attempts == 32
    assert not stormy.kernel.ours


def test_a_full_quiet_window_gives_way_to_the_next() -> None:
    windows = SimulatedSpace().windows
    space = SimulatedSpace(occupied=[windows[0]])
    with stead.reserve("1 GiB", space=space) as r:
        assert windows[1].contains(r.range)
    space = SimulatedSpace(occupied=windows[:2])
    with stead.reserve("1 GiB", space=space) as r:
        assert not any(window.overlaps(r.range) for window in windows[:2])


def test_equal_seeds_choose_equal_places_in_every_space() -> None:
    for seed in range(20):
        places = {stead.reserve("1 GiB", space=SimulatedSpace(manner=each), seed=seed).range for each in MANNERS}
        assert len(places) == 1


@given(
    manner=st.sampled_from(MANNERS),
    occupied=st.lists(st.integers(0, 63), max_size=40, unique=True),
    size=st.integers(1, 6),
    guard=st.integers(0, 2),
    align=st.sampled_from([1, 2, 4]),
    intrusions=st.dictionaries(st.integers(0, 40), st.lists(st.integers(0, 63), max_size=6), max_size=8),
    prefer=st.sampled_from(["low", "high", "scattered"]),
    seed=st.integers(0, 1 << 64),
)
def test_found_or_refused_and_never_clobbering(
    manner: Manner,
    occupied: list[int],
    size: int,
    guard: int,
    align: int,
    intrusions: dict[int, list[int]],
    prefer: str,
    seed: int,
) -> None:
    def page(number: int) -> Range:
        return Range.sized(WINDOW.start + number * PAGE, PAGE)

    space = SimulatedSpace(
        manner=manner,
        occupied=map(page, occupied),
        intrusions={step: list(map(page, pages)) for step, pages in intrusions.items()},
    )
    try:
        r = stead.reserve(
            size * PAGE,
            space=space,
            within=WINDOW,
            guard=guard * PAGE,
            align=align * PAGE,
            prefer=prefer,  # type: ignore[arg-type]
            seed=seed,
        )
    except (stead.NoGap, stead.Contended):
        assert not space.kernel.ours
    else:
        assert WINDOW.contains(r.outer)
        assert r.outer == Range(r.range.start - guard * PAGE, r.range.stop + guard * PAGE)
        assert r.size == size * PAGE
        assert r.address % (align * PAGE) == 0
        assert space.kernel.ours.size == r.outer.size
        assert held(space, r.outer) == [r.outer]
        r.release()
        assert not space.kernel.ours
    assert not space.kernel.clobbered


def test_under_thread_sanitizer_there_is_one_small_window() -> None:
    space = SimulatedSpace(sanitizer="thread")
    with stead.reserve("32 GiB", space=space) as r:
        assert Range(0x10_0000_0000, 0x20_0000_0000).contains(r.range)
    with pytest.raises(stead.NoGap):
        stead.reserve("65 GiB", space=space)
    with pytest.raises(stead.NoGap):
        stead.reserve("1 MiB", space=space, within=(1 << 46, 1 << 47))


@pytest.mark.parametrize("width", [32, 36, 39, 42, 46, 47, 48, 56])
def test_every_width_of_addresses_has_room(width: int) -> None:
    space = SimulatedSpace(width=width)
    for size in (1, 1 << 20, 1 << min(width - 6, 42)):
        with stead.reserve(size, space=space) as r:
            assert space.usable.contains(r.range)
            assert space.windows[0].contains(r.range)
