"""Structures move between ranks with their raw pointers; addresses come back to their owners; what is refused."""

from __future__ import annotations

import importlib
import resource
import sys
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import stead

sys.path.insert(0, str(Path(__file__).parents[3]))

from integration.mpi.programs.pointers import MIB, all_equal, build, make, walk, word

if TYPE_CHECKING:
    from stead.symmetric import Slices

COUNT = 3000


def there_and_on_and_back(slices: Slices, comm: Any) -> None:
    """0 → last → 1 → 0, walked at each."""
    last = comm.size - 1
    nodes = build(slices, COUNT) if comm.rank == 0 else None
    nodes = comm.bcast(nodes)
    at = 0
    for to in (last, 1, 0):
        arrived = slices.migrate(
            array("Q", nodes) if comm.rank == at else None, to=to if comm.rank == at else None
        )
        assert [slices.lives_here(each) for each in (nodes[0], nodes[-1])] == [comm.rank == to] * 2
        if at != to and comm.rank == to:
            [one] = arrived
            assert (one.source, one.blocks, one.size) == (at, COUNT, COUNT * 48)
            assert one.addresses() == sorted(nodes)
        else:
            assert arrived == []
        if comm.rank == to:
            assert walk(nodes[0]) == list(range(COUNT))
        at = to
    if comm.rank == 0:
        for each in nodes:
            slices.free(each)
        assert slices.statistics().blocks == 0


def freed_elsewhere(slices: Slices, comm: Any) -> None:
    """Its addresses are nobody's until the owner has learnt of it; then they are handed out again."""
    nodes = comm.bcast(build(slices, COUNT) if comm.rank == 0 else None)
    last = comm.size - 1
    slices.migrate(nodes if comm.rank == 0 else (), to=last)
    if comm.rank == last:
        for each in nodes:
            slices.free(each)
        with pytest.raises(stead.NotLive, match=f"{nodes[0]:#x}.* no block lives here"):
            slices.free(nodes[0])
    elif comm.rank == 0:
        assert not {slices.allocate(48) for _ in range(COUNT)} & set(nodes)
        assert slices.statistics().blocks == 2 * COUNT
        with pytest.raises(stead.NotLive, match="lives at another rank"):
            slices.free(nodes[0])
    slices.collect()
    if comm.rank == 0:
        assert slices.statistics().blocks == COUNT
        again = {slices.allocate(48) for _ in range(COUNT)}
        assert len(again & set(nodes)) > COUNT // 2
    comm.Barrier()


def copies(slices: Slices, comm: Any) -> None:
    """Each rank has contents of its own, and frees them; the address comes back when the last has."""
    before = slices.statistics().blocks
    nodes = comm.bcast(build(slices, COUNT) if comm.rank == 0 else None)
    slices.migrate(nodes if comm.rank == 0 else None, to=1, copy=True)
    if comm.size > 2:  # a copy of a copy, which the owner is not asked about
        slices.migrate(nodes if comm.rank == 1 else None, to=2, copy=True)
    having = min(comm.size, 3)
    if comm.rank < having:
        assert walk(nodes[0]) == list(range(COUNT))
        word(nodes[0] + 8).value = 1000 + comm.rank
    comm.Barrier()
    if comm.rank < having:
        assert walk(nodes[0])[0] == 1000 + comm.rank
    for rank in range(having):
        slices.collect()
        assert comm.rank or slices.statistics().blocks == before + COUNT
        if comm.rank == rank:
            for each in nodes:
                slices.free(each)
    slices.collect()
    assert slices.statistics().blocks == before


def large_and_crossing(slices: Slices, comm: Any) -> None:
    """All send to their neighbours at once: large blocks, small ones, and pages between others' ones."""
    to, source = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    blocks = [
        slices.allocate(size) for size in (3 * MIB, 16, 100_000, 4096, 70_000, 16, 9 * MIB) for _ in range(2)
    ]
    sent = blocks[::2]
    for number, each in enumerate(blocks):
        with slices.view(each) as view:
            view[:] = bytes([1 + number + 16 * comm.rank]) * len(view)
    theirs = comm.allgather(sent)[source]
    seen: list[tuple[int, int]] = []
    [one] = slices.migrate(sent, to=to, progress=lambda done, total: seen.append((done, total)))
    assert one.source == source
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert all_equal(comm, seen[-1])
    for number, each in enumerate(theirs):
        with slices.view(each) as view:
            assert view[:] == bytes([1 + 2 * number + 16 * source]) * len(view), (number, hex(each))
    for number, each in enumerate(blocks):
        if number % 2:
            with slices.view(each) as view:
                assert view[:] == bytes([1 + number + 16 * comm.rank]) * len(view)
    for each in theirs + blocks[1::2]:
        slices.free(each)
    slices.collect()


def memory_is_given_back(slices: Slices, comm: Any) -> None:
    """Where a block has left, and where it has been freed elsewhere."""
    block = comm.bcast(slices.allocate(32 * MIB) if comm.rank == 0 else None)
    if comm.rank == 0:
        with slices.view(block) as view:
            view[:] = b"\1" * len(view)
    begun = resident()
    slices.migrate(block if comm.rank == 0 else None, to=1)
    if comm.rank == 0:
        assert resident() < begun - 24 * MIB
    elif comm.rank == 1:
        assert resident() > begun + 24 * MIB
        slices.free(block)
        assert resident() < begun + 8 * MIB
        assert not list(slices.reservation.committed.overlapping(slices.slice_of(0)))
    slices.collect()


def resident() -> int:
    """Bytes of anonymous memory of this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) << 10


def refused(slices: Slices, comm: Any) -> None:
    """Nothing has moved then, everyone hears why, and the slices are as good as before."""
    last = comm.size - 1
    nodes = comm.bcast(build(slices, 10) if comm.rank == 0 else None)

    def refuse(kind: type[Exception], why: str, where: int, blocks: Any, to: Any = 1, **options: Any) -> None:
        mine = comm.rank == 0
        with pytest.raises(kind if comm.rank == where else stead.PeerFailed, match=why):
            slices.migrate(blocks if mine else None, to=to if mine else None, **(options if mine else {}))
        assert slices.lives_here(nodes[0]) is mine
        assert not mine or walk(nodes[0]) == list(range(10))

    refuse(ValueError, r"to is 9999", 0, nodes, 9999)
    refuse(TypeError, r"to is '1'", 0, nodes, "1")
    refuse(ValueError, r"to is None.*10 blocks", 0, nodes, None)
    refuse(ValueError, r"more than once", 0, [nodes[3], nodes[3]])
    refuse(stead.NotLive, r"not at its start", 0, [nodes[3] + 16])
    refuse(stead.NotLive, r"in none of the slices", 0, [16])
    refuse(stead.NotLive, rf"in the slice of rank {last}", 0, [slices.slice_of(last).start])
    refuse(TypeError, r"blocks is a buffer of 'd'", 0, array("d", [1.0]))
    refuse(TypeError, r"progress is 7", 0, nodes, progress=7)

    def stop(done: int, total: int) -> None:
        raise KeyError("stop")

    refuse(KeyError, r"stop", 0, nodes, progress=stop)
    view = slices.view(nodes[5]) if comm.rank == 0 else None
    refuse(BufferError, r"a view of it is alive", 0, nodes)
    if view:
        with pytest.raises(BufferError):
            slices.free(nodes[5])
        view.release()
    # What the receiver has already; and what it has no memory for.
    slices.migrate(nodes[4] if comm.rank == 0 else None, to=1, copy=True)
    kind = stead.Occupied if comm.rank == 1 else stead.PeerFailed
    with pytest.raises(kind, match="the same block"):
        slices.migrate(nodes if comm.rank == 0 else None, to=1)
    if comm.rank == 1:
        slices.free(nodes[4])
    assert slices.lives_here(nodes[0]) is (comm.rank == 0)
    if comm.rank == 1:
        limit = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (1, limit[1]))
    comm.Barrier()
    limited = stead.LimitReached if comm.rank == 1 else stead.PeerFailed
    with pytest.raises(limited, match="RLIMIT_DATA"):
        slices.migrate(nodes if comm.rank == 0 else None, to=1)
    if comm.rank == 1:
        resource.setrlimit(resource.RLIMIT_DATA, limit)
    assert slices.lives_here(nodes[0]) is (comm.rank == 0)
    slices.migrate(nodes if comm.rank == 0 else None, to=1)
    if comm.rank == 1:
        assert walk(nodes[0]) == list(range(10))
        for each in nodes:
            slices.free(each)
    slices.collect()


def to_oneself(slices: Slices, comm: Any) -> None:
    node = slices.allocate(48)
    assert slices.migrate(node, to=comm.rank) == []
    assert slices.migrate([], to=0) == []
    slices.free(node)


def main() -> None:
    comm: Any = importlib.import_module("mpi4py.MPI").COMM_WORLD
    parts = (
        there_and_on_and_back, freed_elsewhere, copies, large_and_crossing, memory_is_given_back, refused,
        to_oneself,
    )  # fmt: skip
    for part in parts:
        slices = make(comm)
        part(slices, comm)
        slices.close()
        slices.close()
        with pytest.raises(stead.Released):
            slices.migrate()
        with pytest.raises(stead.Released):
            slices.allocate(16)
        assert not slices.reservation.parts, part
        slices.reservation.release()
    print("good", flush=True)


if __name__ == "__main__":
    main()
