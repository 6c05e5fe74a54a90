"""Who holds what, by several attachments at once, beside a model that says it in a dictionary. The core alone,
by its binding: one control memory, a private memory for each attachment, and no memory for blocks, which it
never touches."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import stead
from stead import _native

UNITS = 512
BASE = 1 << 40
MOST = 6

sizes = st.one_of(st.integers(1, 300), st.integers(1, 20_000), st.integers(1, 400_000))


class Model(RuleBasedStateMachine):
    """``holds``: of each block (address, generation), how often each attachment holds it. ``underway``: how
    often it was sent and has not arrived."""

    def __init__(self) -> None:
        super().__init__()
        control, private = _native.Heap._sizes(UNITS)
        self.control = stead.reserve(control)
        self.control.commit()
        self.size = private
        self.private: list[stead.Reservation] = []
        self.heaps: list[_native.Heap] = []
        self.holds: dict[tuple[int, int], Counter[int]] = {}
        self.underway: Counter[tuple[int, int]] = Counter()
        self.gone: list[tuple[int, int]] = []

    @initialize()
    def begin(self) -> None:
        _native.Heap._format(self.control.address, BASE, UNITS, 1 << 62, os.urandom(16))
        self.attach()
        self.heaps[0]._extend(UNITS, True)

    @rule()
    def attach(self) -> None:
        if len(self.heaps) == MOST:
            return
        heap, private = _native.Heap(), stead.reserve(self.size)
        private.commit()
        assert heap._attach(self.control.address, private.address) == 0
        self.heaps.append(heap)
        self.private.append(private)

    def pick(self, data: Any) -> _native.Heap:
        heap: _native.Heap = data.draw(st.sampled_from(self.heaps), "attachment")
        return heap

    def block(self, data: Any) -> tuple[int, int] | None:
        """One that is live, or one that was."""
        known = [*self.holds, *self.gone[-5:]]
        return data.draw(st.sampled_from(known), "block") if known else None

    def live(self, block: tuple[int, int]) -> bool:
        return block in self.holds

    def dropped(self, block: tuple[int, int]) -> None:
        self.holds[block] += Counter()  # without zeros
        if not self.holds[block] and not self.underway[block]:
            del self.holds[block]
            self.gone.append(block)

    @rule(data=st.data(), size=sizes)
    def take(self, data: Any, size: int) -> None:
        heap = self.pick(data)
        got = heap._take(size, 16, True)
        if isinstance(got, int):
            assert got == _native.HEAP_NO_SPACE
            return
        address, usable, generation, _, _ = got
        assert usable >= size
        assert all(start != address for start, _ in self.holds)
        self.holds[address, generation] = Counter({heap._place: 1})

    @rule(data=st.data(), exact=st.booleans())
    def lease(self, data: Any, exact: bool) -> None:
        heap, block = self.pick(data), self.block(data)
        if block is None or (not exact and not self.live(block)):
            return
        got = heap._lease(block[0], block[1] if exact else -1)
        assert isinstance(got, int) != self.live(block)
        if self.live(block):
            assert got[::2] == block  # type: ignore[index]
            self.holds[block][heap._place] += 1

    @rule(data=st.data())
    def release(self, data: Any) -> None:
        heap, block = self.pick(data), self.block(data)
        if block is None or not self.live(block):
            return
        mine = self.holds[block][heap._place]
        assert heap._held(block[0]) == mine
        assert (heap._release(block[0]) == 0) == (mine > 0)
        if mine:
            self.holds[block][heap._place] -= 1
            self.dropped(block)

    @rule(data=st.data())
    def send_off(self, data: Any) -> None:
        heap, block = self.pick(data), self.block(data)
        if block is None or not self.live(block):
            return
        mine = self.holds[block][heap._place]
        assert (heap._send_off(block[0]) == 0) == (mine > 0)
        self.underway[block] += mine > 0

    @rule(data=st.data())
    def arrive(self, data: Any) -> None:
        heap, block = self.pick(data), self.block(data)
        if block is None:
            return
        got = heap._arrive(*block)
        assert isinstance(got, int) != self.live(block)
        if self.live(block):
            self.holds[block][heap._place] += 1
            self.underway[block] = max(self.underway[block] - 1, 0)

    @rule(data=st.data(), everything=st.booleans())
    def expire(self, data: Any, everything: bool) -> None:
        ended = self.pick(data)._expire(everything)
        assert ended == (sum(1 for each in self.underway.values() if each) if everything else 0)
        if everything:
            self.underway.clear()
            for block in list(self.holds):
                self.dropped(block)

    @rule(data=st.data(), reclaim=st.booleans())
    def repair(self, data: Any, reclaim: bool) -> None:
        heap = self.pick(data)
        assert heap._reap() == 0
        heap._reclaim() if reclaim else heap._rebuild()

    @rule(data=st.data())
    def detach(self, data: Any) -> None:
        if len(self.heaps) == 1:
            return
        heap = self.pick(data)
        place = heap._place
        heap._detach()
        self.private.pop(self.heaps.index(heap)).release()
        self.heaps.remove(heap)
        for block in list(self.holds):
            del self.holds[block][place]
            self.dropped(block)

    @invariant()
    def the_same(self) -> None:
        if not self.heaps:
            return
        found = {
            (address, generation): (set(places), references > 0)
            for address, _, generation, places, references in self.heaps[0]._blocks()
        }
        expected = {
            block: ({place for place, often in holds.items() if often}, self.underway[block] > 0)
            for block, holds in self.holds.items()
        }
        assert found == expected
        assert self.heaps[-1]._check() is None

    def teardown(self) -> None:
        for heap in self.heaps[1:]:
            heap._detach()
        if self.heaps:
            last = self.heaps[0]
            place = last._place
            for (address, _), holds in list(self.holds.items()):
                for _ in range(holds[place]):
                    assert last._release(address) == 0
            last._expire(True)
            last._reclaim()
            assert last._check() is None
            assert last._statistics()[2:6] == (0, 0, UNITS * 4096, 1)  # one free run
            last._detach()
        for each in (*self.private, self.control):
            each.release()


def test_leases_of_several_attachments() -> None:
    run_state_machine_as_test(Model, settings=settings(max_examples=100, stateful_step_count=50))


@pytest.mark.long
def test_leases_of_several_attachments_for_long() -> None:
    run_state_machine_as_test(Model, settings=settings(max_examples=500, stateful_step_count=100))
