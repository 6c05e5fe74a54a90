"""A symmetric heap on all ranks: blocks, one-sided calls, atomics, collectives, refusals. The argument: "direct",
"mpi", or "mixed", where ranks of one parity are taken to be on one host."""

from __future__ import annotations

import gc
import importlib
import sys
from itertools import chain
from random import Random
from typing import Any

import numpy

import stead
from stead.symmetric import memory as memories
from stead.symmetric.onesided import TYPES

MPI: Any = importlib.import_module("mpi4py.MPI")
MiB = 1 << 20

comm: Any = MPI.COMM_WORLD
me, ranks = comm.rank, comm.size
right, left = (me + 1) % ranks, (me - 1) % ranks
how = sys.argv[1]


def heap(size: str = "64 MiB", **options: Any) -> stead.SymmetricHeap:
    return stead.SymmetricHeap(size, comm, onesided="mpi" if how == "mpi" else "auto", **options)


def all_equal(value: object) -> bool:
    return len(set(comm.allgather(value))) == 1


def pretend_two_hosts() -> None:
    """What is of another parity is as good as on another host."""
    really = memories.SymmetricMemory._map

    def map_some(self: Any, rank: int, sent: Any) -> None:
        if rank % 2 == me % 2:
            really(self, rank, sent)

    memories.SymmetricMemory._map = map_some  # type: ignore[method-assign]


def ways_to_each_rank() -> None:
    with heap() as h:
        found = {rank for rank in range(ranks) if h.reaches(rank) == "directly"}
        expected = {
            "direct": set(range(ranks)),
            "mpi": set(),
            "mixed": {rank for rank in range(ranks) if rank % 2 == me % 2},
        }
        assert found == expected[how], found
        assert (h.rank, h.ranks) == (me, ranks)
        assert all_equal(h.range)


def addresses_are_the_same_everywhere() -> None:
    """A random sequence of calls, with no exchange but for memory."""
    with heap(check=True) as h:
        random = Random(5)
        live: list[int] = []
        seen: list[int] = []
        for _ in range(150):
            if live and random.random() < 0.45:
                h.free(live.pop(random.randrange(len(live))))
            else:
                live.append(h.allocate(random.randrange(1, 300_000), 1 << random.randrange(4, 17)))
                seen.append(live[-1])
        assert all_equal(tuple(seen))
        statistics = h.statistics()
        assert all_equal(statistics)
        assert statistics.blocks == len(live)
        for each in live:
            h.free(each)
        assert h.statistics().used == 0
        assert h.trim() > 0
        assert h.statistics().secured == 0
        assert h.allocate(64 * MiB) == h.address, "all of it is free again"


def contents_are_each_ranks_own() -> None:
    with heap() as h:
        mine: Any = h.array((100, 10), numpy.int32, order="F")
        mine[:] = me
        h.barrier()
        for rank in range(ranks):
            got = numpy.full(1000, -1, numpy.int32)
            h.get(h.pointer(mine, rank), got)
            assert (got == rank).all()
            assert h.get((rank, mine.ctypes.data), 4) == numpy.int32(rank).tobytes()
        h.barrier()
        h.put(h.pointer(mine, right) + 4 * me, numpy.array([1000 + me], numpy.int32))
        h.barrier()
        assert mine.ravel(order="K")[left] == 1000 + left
        assert (mine == me).sum() == 999
        del mine


def what_is_put_is_there() -> None:
    """Of every size, waited for or not; who is told afterwards sees it."""
    sizes = [0, 1, 3, 4, 8, 9, 1000, 4096, 65_536, 100_001, 5 * MiB]
    with heap() as h:
        block = h.allocate(5 * MiB)
        for size in sizes:
            for wait in (True, False):
                data = Random(size + me).randbytes(size)
                h.put((right, block), data, wait=wait)
                if not wait:
                    h.flush()
                comm.sendrecv(None, right, source=left)
                assert h.get((me, block), size) == Random(size + left).randbytes(size), size
                h.barrier()
        back = [bytearray(size) for size in sizes]
        for into in back:
            h.get((right, block), into, wait=False)
        h.flush()
        whole = Random(sizes[-1] + me).randbytes(sizes[-1])
        assert all(whole.startswith(each) for each in back[1:]), "what lies at the right was put from here"
        # More of those than are kept, each with a buffer that nobody else holds.
        words = h.allocate(8 * 5000)
        h.barrier()
        for n in range(5000):
            h.put((right, words + 8 * n), (n * ranks + me).to_bytes(8, "little"), wait=False)
        h.barrier()
        found = numpy.frombuffer(h.get((me, words), 40_000), "<i8")
        assert (found == numpy.arange(5000) * ranks + left).all()
        h.barrier()


def atomics_contended() -> None:
    rounds = 300
    with heap() as h:
        words: Any = h.array(4, numpy.int64)
        real: Any = h.array(2, numpy.float64)
        small: Any = h.array(8, numpy.uint8)
        words[:], real[:], small[:] = 0, 0, 0
        h.barrier()
        tickets = [h.fetch_add(h.pointer(words, 0), 1) for _ in range(rounds)]
        everyones = comm.allgather(tickets)
        assert sorted(chain.from_iterable(everyones)) == list(range(rounds * ranks)), "no two got the same"
        assert all(each == sorted(each) for each in everyones)
        # A counter by compare and swap: each success counts once.
        at = h.pointer(words, 0) + 8
        done = 0
        while done < 50:
            seen = h.fetch_add(at, 0)
            done += h.compare_and_swap(at, seen, seen + 1) == seen
        for _ in range(50):
            h.accumulate(h.pointer(real, ranks - 1), numpy.array([0.5, -1.0]))
            h.fetch_add(h.pointer(real, ranks - 1), 0.25, "float64")
            h.accumulate(h.pointer(small, 0), numpy.array([1, 2], numpy.uint8), wait=False)
        h.accumulate(h.pointer(words, 0) + 16, numpy.array([1 << me, me + 5]), op=MPI.BOR, wait=False)
        h.barrier()
        if me == 0:
            assert words[1] == 50 * ranks
            assert words[2] == (1 << ranks) - 1
            assert (small[:2] == numpy.array([50 * ranks % 256, 100 * ranks % 256])).all()
        if me == ranks - 1:
            assert tuple(real) == (50 * 0.75 * ranks, -50.0 * ranks)
        h.barrier()
        del words, real, small


def every_op_and_type() -> None:
    """Against NumPy, one rank after the other, each at the one on its right."""
    ufuncs: dict[str, Any] = {
        "sum": numpy.add, "prod": numpy.multiply, "min": numpy.minimum, "max": numpy.maximum,
        "band": numpy.bitwise_and, "bor": numpy.bitwise_or, "bxor": numpy.bitwise_xor,
        "replace": lambda there, given: given,
    }  # fmt: skip
    with heap() as h:
        for name in TYPES:
            target: Any = h.array(5, name)
            for op, ufunc in ufuncs.items():
                there = numpy.array([1, 7, 100, 3, 12]).astype(name)
                given = numpy.array([2, 5, 100, 3, 0]).astype(name)
                target[:] = there
                h.barrier()
                if name.startswith("float") and op in ("band", "bor", "bxor"):
                    refused(ValueError, "have none", h.accumulate, h.pointer(target, right), given, op)
                else:
                    h.accumulate(h.pointer(target, right), given, op)
                    h.barrier()
                    assert (target == ufunc(there, given)).all(), (name, op, target)
                h.barrier()
            target[:] = 9
            h.barrier()
            before = h.fetch_add(h.pointer(target, right), 3, name)
            assert before == 9, (name, before)
            if not name.startswith("float"):
                assert h.compare_and_swap(h.pointer(target, right), 12, 1, name) == 12
                assert h.compare_and_swap(h.pointer(target, right), 12, 2, numpy.dtype(name)) == 1
            h.barrier()
            assert target[0] == (12 if name.startswith("float") else 1)
            h.free(target)
            del target


def pointers_in_the_heap() -> None:
    """A list through all ranks, linked by raw words that are valid at every one of them."""
    with heap() as h:
        nodes: Any = h.array((20, 2), numpy.uint64)  # a value, and the next node
        for n in range(20):
            here = n * ranks + me
            last = here == 20 * ranks - 1
            after = stead.GlobalPointer(0, 0) if last else h.pointer(nodes, right) + 16 * (n + (right == 0))
            nodes[n] = here * here, after.word
        h.barrier()
        at, found = h.pointer(nodes, 0), []
        while at:
            value, word = (int(each) for each in numpy.frombuffer(h.get(at, 16), numpy.uint64))
            found.append(value)
            at = stead.GlobalPointer.from_word(word)
        assert found == [n * n for n in range(20 * ranks)]
        h.barrier()
        del nodes


def collectives_on_arrays() -> None:
    with heap() as h:
        mine, total = h.array(1000), h.array(1000)
        mine[:] = me + 1
        comm.Allreduce(mine, total)
        assert (total == ranks * (ranks + 1) / 2).all()
        comm.Bcast(mine, root=ranks - 1)
        assert (mine == ranks).all()
        comm.Allreduce(MPI.IN_PLACE, total, op=MPI.MAX)
        all_of_them = h.array((ranks, 1000))
        comm.Allgather(total, all_of_them)
        assert (all_of_them == total).all()
        del mine, total, all_of_them


def views_of_others() -> None:
    with heap() as h:
        block = h.allocate(64)
        h.view((me, block), 64)[:2] = bytes([me, 7])
        h.barrier()
        for rank in range(ranks):
            if rank == me or (h.reaches(rank) == "directly"):
                view = h.view(h.pointer(block, rank), 64)
                assert view[0] == rank
                view[2 + me] = 1
            else:
                refused(stead.Unsupported, f"rank {rank}", h.view, (rank, block), 64)
        h.barrier()
        expected = {"direct": ranks, "mpi": 1, "mixed": (ranks + 1 - me % 2) // 2}[how]
        assert sum(h.view((me, block), 64)[2 : 2 + ranks]) == expected
        view = h.view((me, block), 64)
        h.barrier()
        refused((BufferError, stead.PeerFailed), "live view", h.close)
        del view


def refused(kind: Any, words: str, call: Any, *arguments: Any, **names: Any) -> None:
    try:
        call(*arguments, **names)
    except kind as error:
        assert words in str(error), (words, str(error))
        return
    raise AssertionError(f"{call} did not refuse {arguments}")


def wrong_arguments() -> None:
    with heap() as h:
        block = h.allocate(100)
        freed = h.allocate(5000)
        h.free(freed)
        data = b"12345678"
        calls: list[tuple[Any, ...]] = [
            (h.put, data), (h.get, 8), (h.get, bytearray(8)), (h.accumulate, numpy.ones(1)), (h.fetch_add, 1),
            (h.compare_and_swap, 0, 0),
        ]  # fmt: skip
        for call, *rest in calls:
            refused(ValueError, f"one of the {ranks} ranks", call, (ranks, block), *rest)
            refused(ValueError, "ranks", call, (-1, block), *rest)
            refused(ValueError, "in the heap", call, (0, h.address + h.size), *rest)
            refused(ValueError, "in the heap", call, (0, 1 << 70), *rest)
            refused(stead.NotLive, "no block is live", call, (0, freed), *rest)
            refused(stead.NotLive, "no block is live", call, (0, h.address + h.size - 8), *rest)
            refused(ValueError, "do not fit", call, (0, block + 96), *rest)
            for wrong in (None, 5, block, (0,), (0, block, 0), ("0", block), (0, 1.5), [0, block]):
                refused(TypeError, "pointer is", call, wrong, *rest)
            refused(TypeError, "argument", call, (0, block), *rest, 1, 2, 3, 4)
        for call, *rest in calls[3:]:
            refused(ValueError, "must be a multiple of 8", call, (0, block + 4), *rest)
        refused(TypeError, "data is 5", h.put, (0, block), 5)
        refused(ValueError, "not contiguous", h.put, (0, block), numpy.arange(20, dtype="u1")[::2])
        refused(ValueError, "read-only", h.get, (0, block), b"12345678")
        refused(ValueError, "at least 0", h.get, (0, block), -1)
        refused(ValueError, "do not fit", h.get, (0, block), 101)
        refused(TypeError, "format", h.accumulate, (0, block), numpy.ones(1, complex))
        refused(TypeError, "format", h.accumulate, (0, block), numpy.ones(1, ">i4"))
        refused(ValueError, "op is 'xor'", h.accumulate, (0, block), numpy.ones(1), "xor")
        refused(ValueError, "op is", h.accumulate, (0, block), numpy.ones(1), op=MPI.LAND)
        refused(ValueError, "dtype is 'complex128'", h.fetch_add, (0, block), 1, complex)
        refused(ValueError, "fit into int8", h.fetch_add, (0, block), 128, "int8")
        refused(ValueError, "fit into uint64", h.fetch_add, (0, block), -1, "uint64")
        refused(TypeError, "value is 'a'", h.fetch_add, (0, block), "a")
        refused(TypeError, "value is 1.5", h.fetch_add, (0, block), 1.5)
        refused(ValueError, "must be that of ints", h.compare_and_swap, (0, block), 1, 2, "float64")
        refused(TypeError, "needs data", h.put, (0, block))
        refused(TypeError, "no argument 'to'", h.put, (0, block), data, to=1)
        refused(ValueError, "size is 0", h.allocate, 0)
        refused(ValueError, "alignment is 3", h.allocate, 10, 3)
        refused(stead.OutOfSpace, "no room for", h.allocate, "65 MiB")
        refused(stead.NotLive, "no block of", h.free, block + 16)
        refused(TypeError, "block is 'x'", h.free, "x")
        refused(TypeError, "Python objects", h.array, 3, object)
        refused(TypeError, "block is True", h.free, True)
        refused(ValueError, "timeout is 0", h.barrier, 0)
        refused(ValueError, "rank is", h.pointer, block, ranks)
        h.free(numpy.uint64(h.allocate(8)))
        refused(TypeError, "pickled", comm.send, h, me)
        assert h.get((numpy.int64(me), numpy.uint64(block)), 0) == b""
        h.barrier()
    for call, *rest in calls:
        refused(stead.Released, "is closed", call, (0, block), *rest)
    for again in (h.allocate, h.array):
        refused(stead.Released, "is closed", again, 8)
    refused(stead.Released, "is closed", h.flush)
    h.close()
    for wrong_size in (0, -5, "5 apples"):
        refused(ValueError, "size is", stead.SymmetricHeap, wrong_size, comm)
    refused(TypeError, "comm is", stead.SymmetricHeap, 4096, None)
    refused(ValueError, "onesided is", stead.SymmetricHeap, 4096, comm, onesided="rdma")
    refused(ValueError, "timeout is", stead.SymmetricHeap, 4096, comm, timeout=0)


def bytes_in(pages: Any) -> int:
    return sum(each.size for each in pages)


def none_left(pages: Any) -> Any:
    raise stead.LimitReached(f"{bytes_in(pages)} bytes of shared memory are more than there is", "memory")


def one_rank_has_no_memory() -> None:
    """Nobody gets the block, the one says why, and all go on alike."""
    with heap("4 GiB", check=True) as h:
        before = h.allocate(1000)
        last = me == ranks - 1
        memory: Any = h._memory
        secure = memory.secure
        if last:
            memory.secure = none_left
        kind = stead.LimitReached if last else stead.PeerFailed
        refused(kind, "more than there is", h.allocate, 16 * MiB)
        memory.secure = secure
        after = h.allocate(16 * MiB)
        assert all_equal((before, after, h.statistics()))
        # A rank that has less than is wanted for blocks to come, but enough for this one.
        if last:
            memory.secure = lambda pages: secure(pages) if bytes_in(pages) < 20 * MiB else none_left(pages)
        assert all_equal(h.allocate(16 * MiB))
        assert all_equal(h.statistics())


def ranks_that_call_other_things() -> None:
    if ranks == 1:
        return
    h = heap(check=True)
    block = h.allocate(64)
    refused(stead.PeersDisagree, "allocate(65, 16)", h.allocate, 64 + (me == 1))
    assert all_equal(h.allocate(64)), "nothing had changed"
    if me == 1:
        refused(stead.PeersDisagree, f"free({block - h.address})", h.trim)
    else:
        refused(stead.PeersDisagree, "trim()", h.free, block)
    h.close()
    # Without a check it is found out when memory must be had.
    h = heap()
    h.allocate(64)
    h.allocate(64 + 1000 * (me == 1))
    refused(stead.PeersDisagree, "rank 1 ", h.allocate, 8 * MiB)
    h.close()
    refused(stead.PeersDisagree, "SymmetricHeap(", heap, "1 MiB" if me == 1 else "2 MiB")


def left_by_an_error() -> None:
    try:
        with heap() as h:
            array = h.array(10)
            h.put(h.pointer(array, right), numpy.ones(10), wait=False)  # nobody waits for it
            raise KeyError("of the user's")
    except KeyError:
        pass
    refused(stead.Released, "left by an error", h.allocate, 8)
    array[:] = 1  # the memory lives as long as it
    del array
    gc.collect()
    comm.Barrier()


def main() -> None:
    if how == "mixed":
        pretend_two_hosts()
    for part in (
        ways_to_each_rank, addresses_are_the_same_everywhere, contents_are_each_ranks_own, what_is_put_is_there,
        atomics_contended, every_op_and_type, pointers_in_the_heap, collectives_on_arrays, views_of_others,
        wrong_arguments, one_rank_has_no_memory, ranks_that_call_other_things, left_by_an_error,
    ):  # fmt: skip
        part()
        gc.collect()
        comm.Barrier()
    print("good", flush=True)


if __name__ == "__main__":
    main()
