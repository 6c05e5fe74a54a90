"""An arena beside a sorted list that says what it should do: no overlap, nothing lost, every refusal true."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import stead
from sortedlist import SortedBlocks

MIB = 1 << 20

sizes = st.one_of(
    st.integers(1, 300),
    st.integers(1, 20_000),
    st.integers(1, 2 * MIB),
    st.sampled_from([1, 4096, 16384, 16385, MIB]),
)
alignments = st.sampled_from([1, 2, 8, 16, 64, 256, 4096, 8192, 65536, MIB])


class Model(RuleBasedStateMachine):
    addresses: Bundle[int] = Bundle("addresses")
    blocks: Bundle[stead.Block] = Bundle("blocks")
    options: dict[str, Any] = {}  # noqa: RUF012  # set by the test for a subclass
    size = 4 * MIB

    def __init__(self) -> None:
        super().__init__()
        self.arena = stead.Arena(self.size, step="256 KiB", **self.options)
        self.live = SortedBlocks()
        self.freed: int | None = None

    def enter(self, address: int, size: int, alignment: int) -> None:
        assert address % alignment == 0
        room = self.arena.size_of(address)
        assert room >= size
        where = self.arena.range
        assert where.start <= address
        assert address + room <= where.stop
        self.live.add(address, room)

    # ---- taking ----

    @rule(target=addresses, size=sizes, alignment=alignments)
    def allocate(self, size: int, alignment: int) -> int:
        try:
            address = self.arena.allocate(size, alignment)
        except stead.OutOfSpace as error:
            # True: a block of that size, aligned, may not fit even where the run is long enough for it unaligned.
            assert error.largest_free_run < size + alignment + 2 * 4096
            return 0
        self.enter(address, size, alignment)
        return address

    @rule(target=blocks, size=sizes, alignment=alignments)
    def block(self, size: int, alignment: int) -> Any:  # a Block, or None
        try:
            block = self.arena.block(size, alignment)
        except stead.OutOfSpace:
            return None
        self.enter(block.address, size, alignment)
        assert len(block) == size
        with memoryview(block) as view:
            view[0] = view[-1] = 7
        return block

    # ---- giving ----

    @rule(address=consumes(addresses))
    def free(self, address: int) -> None:
        if not address:
            return
        self.arena.free(address)
        self.live.remove(address)
        self.freed = address

    @rule(block=consumes(blocks))
    def drop(self, block: stead.Block | None) -> None:
        if block:
            address = block.address
            block.free()
            self.live.remove(address)
            assert block.freed

    @rule(address=addresses, size=sizes)
    def resize(self, address: int, size: int) -> None:
        if address not in self.live:
            return
        before = self.arena.size_of(address)
        if self.arena.resize(address, size) is None:
            assert self.arena.size_of(address) == before
            return
        self.live.remove(address)
        self.enter(address, size, 1)

    # ---- what must be refused ----

    @rule(address=addresses, offset=st.integers(1, 5000))
    def free_inside(self, address: int, offset: int) -> None:
        if address in self.live and offset < self.live.room(address):
            with pytest.raises(stead.NotLive, match=f"{address + offset:#x}"):
                self.arena.free(address + offset)

    @precondition(lambda self: self.freed is not None)
    @rule()
    def free_twice(self) -> None:
        assert self.freed is not None
        if self.live.holding(self.freed) is None:
            with pytest.raises(stead.NotLive, match=f"{self.freed:#x}"):
                self.arena.free(self.freed)

    @rule(address=st.integers(-1, 1 << 70))
    def free_foreign(self, address: int) -> None:
        if not self.arena.range.start <= address < self.arena.range.stop:
            with pytest.raises(stead.NotLive):
                self.arena.free(address)

    @rule(block=blocks)
    def free_a_block_by_address(self, block: stead.Block | None) -> None:
        if block and not block.freed:
            with pytest.raises(stead.NotLive, match="Block"):
                self.arena.free(block.address)

    @rule(address=addresses, offset=st.integers(-5000, 5000))
    def owns(self, address: int, offset: int) -> None:
        at = address + offset
        held = self.live.holding(at)
        assert self.arena.owns(at) is (held is not None)

    @rule()
    def trim(self) -> None:
        self.arena.trim()
        assert self.arena.statistics().dirty == 0

    # ---- always ----

    @invariant()
    def every_invariant_holds(self) -> None:
        self.arena.check()
        self.live.check()
        statistics = self.arena.statistics()
        assert statistics.blocks == len(self.live)
        if self.options.keys() & {"guard", "hardened"}:  # size_of is what was asked for there
            assert statistics.used >= self.live.used()
        else:
            assert statistics.used == self.live.used()
        assert statistics.used <= statistics.committed <= statistics.size == self.size
        assert statistics.high_water >= statistics.used
        assert 0 <= statistics.fragmentation <= 1

    def teardown(self) -> None:
        for address in self.live.addresses():
            try:
                self.arena.free(address)
            except stead.NotLive:
                continue  # a Block's, which Hypothesis still holds
            self.live.remove(address)
        self.arena.check()
        if not self.live.addresses():
            self.arena.trim()  # what a hardened arena lets wait, too
            assert self.arena.statistics().largest_free_run == self.size
            self.arena.close()


@pytest.mark.parametrize(
    "options",
    [{}, {"zero": True}, {"guard": 4096}, {"hardened": True}, {"keep": "1 MiB"}, {"backing": "shared"}],
    ids=str,
)
def test_an_arena_does_what_the_model_does(options: dict[str, Any]) -> None:
    machine = type("Model", (Model,), {"options": options})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=60, stateful_step_count=60, deadline=None, print_blob=True)
    )
