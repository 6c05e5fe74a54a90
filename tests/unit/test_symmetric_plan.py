"""The plan of a symmetric heap: the same calls give the same addresses, and no two blocks ever meet."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stead import OutOfSpace
from stead.ranges import Range, RangeSet, align_up, gaps_between
from stead.symmetric.plan import UNIT, Plan

PAGE = 1 << 16
SIZE = 1 << 23


class Plans(RuleBasedStateMachine):
    """Two ranks that make the same calls, and a list of blocks beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = Plan(SIZE, PAGE), Plan(SIZE, PAGE)
        self.live: dict[int, int] = {}
        self.memory = RangeSet()

    def allocate_in(self, plan: Plan, size: int, alignment: int) -> int:
        spot = plan.place(size, alignment)
        needed, generous = plan.missing(spot)
        assert RangeSet(needed) & RangeSet(generous) == RangeSet(needed)
        plan.secure(generous)
        plan.take(spot, f"allocate({size}, {alignment})")
        return spot.offset

    @rule(size=st.integers(1, 400_000) | st.integers(1, 200), power=st.integers(4, 18))
    def allocate(self, size: int, power: int) -> None:
        alignment = 1 << power
        free = list(gaps_between(self.taken(), Range(0, SIZE)))
        room = align_up(size, UNIT)
        fits = any(align_up(gap.start, alignment) + room <= gap.stop for gap in free)
        try:
            offset = self.allocate_in(self.one, size, alignment)
        except OutOfSpace as error:
            assert not fits
            assert error.size == size
            assert error.largest_free_run == max((gap.size for gap in free), default=0)
            with pytest.raises(OutOfSpace):
                self.other.place(size, alignment)
            return
        assert fits
        assert offset % alignment == 0
        assert self.allocate_in(self.other, size, alignment) == offset
        self.live[offset] = size

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(sorted(self.live)))
        del self.live[offset]
        assert self.one.give(offset, f"free({offset})") == self.other.give(offset, f"free({offset})")

    @rule()
    def trim(self) -> None:
        before = self.one.secured
        pages = self.one.trim()
        assert pages == self.other.trim()
        assert before == self.one.secured | RangeSet(pages)
        assert not self.one.secured & RangeSet(pages)
        touched = RangeSet((at.start // PAGE * PAGE, align_up(at.stop, PAGE)) for at in self.taken())
        assert self.one.secured == touched

    @rule()
    def restored_it_goes_on_alike(self) -> None:
        self.other = Plan.from_json(json.loads(json.dumps(self.other.to_json())))
        self.one = Plan.from_json(json.loads(json.dumps(self.one.to_json())))

    def taken(self) -> list[Range]:
        return [Range.sized(offset, align_up(size, UNIT)) for offset, size in sorted(self.live.items())]

    @invariant()
    def blocks_are_apart_and_have_memory(self) -> None:
        taken = self.taken()
        assert all(a.stop <= b.start for a, b in pairwise(taken))
        for plan in (self.one, self.other):
            assert dict(plan.blocks()) == self.live
            assert plan.used == sum(each.size for each in taken)
            assert not any(next(plan.secured.gaps(each), None) for each in taken)
            assert all(edge % PAGE == 0 and 0 <= edge <= SIZE for each in plan.secured for edge in each)

    @invariant()
    def they_say_the_same(self) -> None:
        assert self.one.step("x") == self.other.step("x")


TestPlans = Plans.TestCase
TestPlans.settings = settings(max_examples=60, stateful_step_count=40)


def test_what_is_freed_is_given_out_again() -> None:
    plan = Plan(SIZE, PAGE)
    for _ in range(10_000):
        spot = plan.place(SIZE - PAGE, 16)
        plan.take(spot, "a")
        assert spot.offset == 0
        plan.give(0, "f")
    assert plan.largest_free_run == SIZE


def test_a_great_deal_of_free_memory_is_given_back_at_once() -> None:
    plan = Plan(1 << 30, PAGE)
    spot = plan.place(1 << 29, 16)
    plan.secure(plan.missing(spot)[1])
    plan.take(spot, "a")
    kept = plan.place(100, 16)
    plan.secure(plan.missing(kept)[1])
    plan.take(kept, "a")
    pages = plan.give(0, "f")
    assert sum(each.size for each in pages) >= 1 << 29
    assert plan.secured.size == PAGE
    again = plan.place(1 << 29, 16)
    assert sum(each.size for each in plan.missing(again)[0]) == 1 << 29


def test_other_calls_make_another_history() -> None:
    plans = [Plan(SIZE, PAGE) for _ in range(3)]
    for plan, size in zip(plans, (64, 64, 65), strict=True):
        spot = plan.place(size, 16)
        plan.secure(plan.missing(spot)[1])
        plan.take(spot, f"allocate({size}, 16)")
    steps = [plan.step("free(0)") for plan in plans]
    assert steps[0] == steps[1] != steps[2]
    assert "call 2: free(0)" in steps[0]


@pytest.mark.parametrize(
    "change",
    [
        {"size": 0},
        {"size": SIZE + 1},
        {"size": 2.0},
        {"page": True},
        {"blocks": [[0, 64], [32, 64]]},
        {"blocks": [[8, 64]]},
        {"blocks": [[0, 0]]},
        {"blocks": [[0]]},
        {"blocks": [[SIZE, 16]], "secured": [[0, SIZE + PAGE]]},
        {"blocks": [[SIZE // 2, 16]]},
        {"secured": [[0, 100]]},
        {"history": 5},
        {"history": "xyz"},
        {"calls": None},
    ],
)
def test_data_of_no_plan_is_refused(change: dict[str, Any]) -> None:
    plan = Plan(SIZE, PAGE)
    spot = plan.place(100, 16)
    plan.secure(plan.missing(spot)[0])
    plan.take(spot, "allocate(100, 16)")
    data = plan.to_json()
    assert Plan.from_json(data).to_json()["blocks"] == data["blocks"]
    with pytest.raises(ValueError, match="not the plan of a symmetric heap"):
        Plan.from_json(data | change)


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)))
def test_nor_is_any_other_data(data: Any) -> None:
    plain = Plan(SIZE, PAGE).to_json()
    for key in ("blocks", "secured"):
        try:
            made = Plan.from_json({**plain, key: data})
        except ValueError:
            continue
        assert made.used >= 0
