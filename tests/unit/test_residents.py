"""Bookkeeping of several ranks beside a model: where each block lives, and when its address comes back."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

import stead
from stead import _native
from stead.arena.sources import Within
from stead.ranges import Range
from stead.symmetric.residents import Cargo, Notes, Residents, pieces

RANKS = 3
SLICE = 2 << 20
SIZES = [1, 16, 48, 64, 100, 1024, 5000, 16384, 16385, 100_000]

ranks = st.integers(0, RANKS - 1)


class Side:
    """One rank: addresses alone, no memory."""

    def __init__(self, held: stead.Reservation, rank: int) -> None:
        own = Range.sized(held.address + rank * SLICE, SLICE)
        self.arena = stead.Arena(Within(held, own, None))
        self.residents = Residents(Range.sized(held.address, SLICE * RANKS), RANKS, rank, self.arena)


def strips(*blocks: tuple[int, int]) -> bytes:
    return array("Q", [number for address, size in blocks for number in (address, size, 1)]).tobytes()


class Model(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.held = stead.reserve(SLICE * RANKS)
        self.sides = [Side(self.held, rank) for rank in range(RANKS)]
        self.sizes: dict[int, int] = {}  # of every address that cannot be handed out
        self.having: dict[int, set[int]] = {}
        self.untold: Counter[int] = Counter()  # notes that the owner has not had

    def owner(self, address: int) -> int:
        return (address - self.held.address) // SLICE

    def at(self, rank: int) -> list[int]:
        return sorted(address for address, having in self.having.items() if rank in having)

    # ---- what ranks do ----

    @rule(rank=ranks, size=st.sampled_from(SIZES), number=st.integers(1, 20))
    def allocate(self, rank: int, size: int, number: int) -> None:
        side = self.sides[rank]
        for _ in range(number):
            try:
                address = side.arena.allocate(size)
            except stead.OutOfSpace:
                return
            room = side.residents.size_of(address)
            assert room is not None
            assert room >= size
            assert address not in self.sizes
            self.sizes[address], self.having[address] = room, {rank}

    @rule(rank=ranks, data=st.data())
    def free(self, rank: int, data: st.DataObject) -> None:
        if not (here := self.at(rank)):
            return
        for address in data.draw(st.lists(st.sampled_from(here), unique=True, max_size=8)):
            assert self.sides[rank].residents.free(address) == self.sizes[address]
            self.having[address].discard(rank)
            if self.owner(address) != rank:
                self.untold[address] += 1
            elif not self.having[address] and not self.untold[address]:
                self.forget(address)

    @rule(source=ranks, to=ranks, copy=st.booleans(), data=st.data())
    def migrate(self, source: int, to: int, copy: bool, data: st.DataObject) -> None:
        if source == to or not (here := self.at(source)):
            return
        self.tell(data)
        first = data.draw(st.integers(0, len(here) - 1))
        run = here[first : first + data.draw(st.integers(1, 30))]
        chosen = data.draw(st.permutations(run)) if len(run) < 8 else run
        sender, receiver = self.sides[source].residents, self.sides[to].residents
        cargo = sender.cargo(array("Q", chosen))
        assert cargo.blocks == len(chosen)
        assert cargo.size == sum(self.sizes[each] for each in chosen)
        assert sum(each.size for each in pieces(cargo.runs)) == cargo.size
        if any(to in self.having[each] for each in chosen):
            with pytest.raises(stead.Occupied, match=f"rank {to}"):
                receiver.check_room(cargo.strips)
            return
        receiver.check_room(cargo.strips)
        receiver.came(cargo.strips)
        if copy:
            sender.were_copied(cargo.strips)
        else:
            sender.went(cargo.strips)
        for each in chosen:
            self.having[each].add(to)
            if not copy:
                self.having[each].discard(source)
            elif self.owner(each) != source:
                self.untold[each] += 1

    @rule(data=st.data())
    def tell(self, data: st.DataObject) -> None:
        """What every collective call begins with; each owner hears the others in whatever order."""
        notes: dict[int, list[Notes]] = {rank: [] for rank in range(RANKS)}
        for rank in data.draw(st.permutations(range(RANKS))):
            for owner, note in self.sides[rank].residents.notes().items():
                notes[owner].append(note)
            self.sides[rank].residents.forget_notes()
        for owner, told in notes.items():
            gone = [a for a in self.having if self.owner(a) == owner and not self.having[a]]
            assert self.sides[owner].residents.heed_notes(told) == len(gone)
        self.untold.clear()
        for address in [a for a, having in self.having.items() if not having]:
            self.forget(address)

    def forget(self, address: int) -> None:
        del self.sizes[address], self.having[address]

    # ---- what must be refused ----

    @precondition(lambda self: self.having)
    @rule(rank=ranks, data=st.data(), offset=st.sampled_from([0, 16]))
    def free_what_does_not_live_here(self, rank: int, data: st.DataObject, offset: int) -> None:
        address = data.draw(st.sampled_from(sorted(self.having))) + offset
        if rank not in self.having.get(address, ()):
            with pytest.raises(stead.NotLive, match=f"{address:#x}"):
                self.sides[rank].residents.free(address)
            with pytest.raises(stead.NotLive, match=f"{address:#x}"):
                self.sides[rank].residents.cargo(array("Q", [address]))

    @precondition(lambda self: self.having)
    @rule(rank=ranks, data=st.data())
    def name_a_block_twice(self, rank: int, data: st.DataObject) -> None:
        if here := self.at(rank):
            one = data.draw(st.sampled_from(here))
            with pytest.raises(ValueError, match=f"blocks has {one:#x} more than once"):
                self.sides[rank].residents.cargo(array("Q", [one, *here, one]))

    # ---- always ----

    @invariant()
    def everybody_knows_what_lives_there(self) -> None:
        for rank, side in enumerate(self.sides):
            side.arena.check()
            blocks = sum(self.owner(address) == rank for address in self.sizes)
            assert side.arena.statistics().blocks == blocks
            for address, size in self.sizes.items():
                here = side.residents.size_of(address)
                assert here == (size if rank in self.having[address] else None)

    @invariant()
    def pages_without_a_block_are_known(self) -> None:
        for rank, side in enumerate(self.sides):
            here = [Range.sized(each, self.sizes[each]) for each in self.at(rank)]
            for owner in range(RANKS):
                # Only pages that no block fills from before to after are asked about.
                where = side.residents.slice_of(owner)
                if owner == rank or any(each.size > 8192 and each.overlaps(where) for each in here):
                    continue
                vacant = stead.RangeSet(side.residents.vacant(owner, where))
                touched = stead.RangeSet(
                    Range(each.start // 4096 * 4096, -(-each.stop // 4096) * 4096)
                    for each in here
                    if each.overlaps(where)
                )
                assert vacant == stead.RangeSet(touched.gaps(where))

    def teardown(self) -> None:
        for side in self.sides:
            side.arena.abandon()
            side.residents.close()
        self.held.release()


def test_the_bookkeeping_does_what_the_model_does() -> None:
    run_state_machine_as_test(Model, settings=settings(max_examples=60, stateful_step_count=40, deadline=None))


@pytest.fixture
def sides() -> Any:
    held = stead.reserve(SLICE * RANKS)
    made = [Side(held, rank) for rank in range(RANKS)]
    yield made
    for side in made:
        side.arena.abandon()
        side.residents.close()
    held.release()


def test_what_lies_side_by_side_is_one_strip_and_one_run(sides: list[Side]) -> None:
    blocks = [sides[0].arena.allocate(64) for _ in range(1000)]
    cargo = sides[0].residents.cargo(array("Q", reversed(blocks)))
    assert (cargo.blocks, cargo.size, len(cargo.strips), len(cargo.runs)) == (1000, 64_000, 24, 16)
    holes = sides[0].residents.cargo(array("Q", blocks[::2]))
    assert (holes.blocks, len(holes.strips) // 24, len(holes.runs) // 16) == (500, 500, 500)


def test_strips_do_not_cross_from_slice_to_slice(sides: list[Side]) -> None:
    """The last block of one and the first of the next lie side by side, but have two owners."""
    size = SLICE // 4
    ours, theirs = sides[0], sides[1]
    first = [ours.arena.allocate(size) for _ in range(4)]
    second = [theirs.arena.allocate(size) for _ in range(4)]
    assert max(first) + size == min(second)
    came = theirs.residents.cargo(array("Q", second))
    ours.residents.check_room(came.strips)
    ours.residents.came(came.strips)
    theirs.residents.went(came.strips)
    both = ours.residents.cargo(array("Q", first + second))
    assert len(both.strips) == 2 * 24
    assert len(both.runs) == 16
    assert [owner for owner, _ in ours.residents.by_owner(both.strips)] == [0, 1]


def test_strips_that_lie_elsewhere_are_refused(sides: list[Side]) -> None:
    book = sides[0].residents._book
    start = sides[0].residents.slices.start
    for wrong in (
        strips((start - 16, 16)),
        strips((start + 8, 16)),
        strips((start, 8)),
        strips((start, 0)),
        strips((start + SLICE - 16, 32)),
        strips((start + 32, 16), (start + 16, 16)),
        strips((start, 32), (start + 16, 16)),
        array("Q", [start, 16, 1 << 61]).tobytes(),
    ):
        with pytest.raises(ValueError, match="strips"):
            book.add(0, wrong)
    with pytest.raises(ValueError, match="3 bytes"):
        book.add(0, b"abc")
    with pytest.raises(ValueError, match="owner is 3"):
        book.add(RANKS, b"")


@pytest.mark.parametrize("sizes", [[100], [10, 70_000, 5], [64 << 10] * 3, [16] * 5000, [1 << 20, 16, 16]])
def test_bytes_are_gathered_and_scattered_alike(sizes: list[int]) -> None:
    with stead.reserve(8 << 20) as held:
        memory = held.commit()
        at, runs = held.address, []
        for number, size in enumerate(sizes):
            memory[at - held.address : at - held.address + size] = bytes([1 + number % 250]) * size
            runs += [at, size]
            at += size + 48
        before = bytes(memory)
        packed, first, offset = array("Q", runs).tobytes(), 0, 0
        moved = []
        while first < len(sizes):
            count, size = _native.runs_next(packed, first, offset, 64 << 10, 1 << 20)
            if count:
                buffer = bytearray(size)
                assert _native.runs_gather(packed, first, offset, count, buffer) == size
                moved.append((first, offset, count, buffer))
                first, offset = first + count, 0
            else:
                assert sizes[first] - offset >= 64 << 10
                offset += size
                if offset == sizes[first]:
                    first, offset = first + 1, 0
        for number, offset, count, buffer in moved:
            for each in range(number, number + count):
                start = runs[2 * each] - held.address + (offset if each == number else 0)
                memory[start : runs[2 * each] - held.address + sizes[each]] = bytes(
                    sizes[each] - (offset if each == number else 0)
                )
            assert _native.runs_scatter(packed, number, offset, count, buffer) == len(buffer)
        assert bytes(memory) == before
        with pytest.raises(ValueError, match="beyond"):
            _native.runs_gather(packed, 0, 0, len(sizes) + 1, bytearray(1 << 23))
        with pytest.raises(ValueError, match="beyond"):
            _native.runs_gather(packed, 0, 0, 1, bytearray(3))
        memory.release()


def test_pages_that_are_touched_and_filled() -> None:
    runs = array("Q", [4096 - 16, 32, 3 * 4096, 4096, 4 * 4096, 100, 9 * 4096 + 1, 3 * 4096]).tobytes()
    page = 4096
    assert pieces(_native.runs_pages(runs, page, True)) == [
        Range(0, 2 * page), Range(3 * page, 5 * page), Range(9 * page, 13 * page),
    ]  # fmt: skip
    assert pieces(_native.runs_pages(runs, page, False)) == [
        Range(3 * page, 4 * page), Range(10 * page, 12 * page),
    ]  # fmt: skip


def test_pages_that_were_written() -> None:
    with stead.reserve(1 << 20) as held:
        memory = held.commit()
        memory[4096 * 3 + 4095] = 1
        memory[4096 * 4] = 1
        memory[-1] = 1
        written = pieces(_native.pages_written(held.range.start, held.range.stop, 4096))
        assert [(each.start - held.address) // 4096 for each in written] == [3, 255]
        assert [each.size for each in written] == [8192, 4096]
        memory.release()


def test_a_cargo_of_nothing() -> None:
    assert Cargo.of(b"") == Cargo(b"", 0, 0, b"")
