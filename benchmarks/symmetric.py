"""What a symmetric heap costs: put and get through MPI beside mpi4py's own on the same window, and by load and
store beside a copy.

mpiexec -n 2 python benchmarks/symmetric.py; rank 0 prints. README.md says what the rows mean.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from typing import TYPE_CHECKING, Any

import mpi4py
import numpy
from harness import Bound, Report, Row, Section, in_turns, timed
from mpi4py import MPI

import stead
from stead.sizes import format_size

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = [8, 64, 1 << 10, 1 << 14, 1 << 18, 1 << 22, 1 << 26]
AT_MOST = 1.15


def repeats(size: int, quick: bool) -> int:
    return 3 if quick else max(min((1 << 26) // size, 1000), 2)


def pairs(heap: stead.SymmetricHeap, block: int, win: Any, size: int) -> dict[str, Callable[[], object]]:
    """The same transfer by the heap, and by mpi4py on the heap's window, as it is written where speed matters."""
    mine = numpy.ones(size, numpy.uint8)
    spec, at, pointer = [mine, MPI.BYTE], block - heap.address, heap.pointer(block, 1)
    put, get, raw_put, raw_get, flush = heap.put, heap.get, win.Put, win.Get, win.Flush

    def by_mpi4py_put() -> None:
        raw_put(spec, 1, at)
        flush(1)

    def by_mpi4py_get() -> None:
        raw_get(spec, 1, at)
        flush(1)

    return {
        "put": lambda: put(pointer, mine),
        "Put": by_mpi4py_put,
        "get": lambda: get(pointer, mine),
        "Get": by_mpi4py_get,
    }


def through_mpi(heap: stead.SymmetricHeap, block: int, rounds: int, quick: bool) -> list[Section]:
    win: Any = heap._window
    put, get = Section("put through MPI, complete at the target"), Section("get through MPI")
    for size in SIZES:
        cases = {name: timed(body) for name, body in pairs(heap, block, win, size).items()}
        got = in_turns(cases, rounds, repeats(size, quick))
        for section, ours, theirs in ((put, "put", "Put"), (get, "get", "Get")):
            section.rows.append(Row(f"{format_size(size)}, mpi4py: {theirs} and Flush", got[theirs]))
            section.rows.append(
                Row(f"{format_size(size)}, heap.{ours}", got[ours], (theirs, got[theirs]), Bound("<=", AT_MOST))
            )
    return [put, get, *other_calls(heap, block, win, rounds, quick)]


def other_calls(heap: stead.SymmetricHeap, block: int, win: Any, rounds: int, quick: bool) -> list[Section]:
    pointer, at = heap.pointer(block, 1), block - heap.address
    one, before, n = numpy.ones(1, numpy.int64), numpy.zeros(1, numpy.int64), 3 if quick else 500
    element, result, word = [one, MPI.INT64_T], [before, MPI.INT64_T], [one, MPI.BYTE]

    def by_mpi4py() -> None:
        win.Fetch_and_op(element, result, 1, at, MPI.SUM)
        win.Flush(1)

    def many() -> None:
        for _ in range(100):
            heap.put(pointer, one, wait=False)
        heap.flush()

    def many_by_mpi4py() -> None:
        for _ in range(100):
            win.Put(word, 1, at)
        win.Flush_all()

    got = in_turns(
        {
            "fetch_add": timed(lambda: heap.fetch_add(pointer, 1)),
            "Fetch_and_op": timed(by_mpi4py),
            "many": timed(many),
            "Puts": timed(many_by_mpi4py),
        },
        rounds,
        n if quick else n // 10,
    )
    return [
        Section(
            "other calls through MPI",
            [
                Row("mpi4py: Fetch_and_op and Flush", got["Fetch_and_op"]),
                Row("heap.fetch_add", got["fetch_add"], ("Fetch_and_op", got["Fetch_and_op"])),
                Row("100 times 8 B, mpi4py: Put; then Flush_all", got["Puts"]),
                Row("100 times 8 B, heap.put(wait=False); then flush", got["many"], ("Puts", got["Puts"])),
            ],
        )
    ]


def directly(heap: stead.SymmetricHeap, block: int, rounds: int, quick: bool) -> list[Section]:
    section = Section("between ranks of one host: load and store, beside NumPy's copy of as much in this process")
    pointer = heap.pointer(block, 1)
    for size in SIZES:
        mine, other = numpy.ones(size, numpy.uint8), numpy.ones(size, numpy.uint8)
        got = in_turns(
            {
                "copy": timed(lambda mine=mine, other=other: numpy.copyto(other, mine)),  # type: ignore[misc]
                "put": timed(lambda mine=mine: heap.put(pointer, mine)),  # type: ignore[misc]
                "get": timed(lambda mine=mine: heap.get(pointer, mine)),  # type: ignore[misc]
            },
            rounds,
            repeats(size, quick),
        )
        copy = ("a copy", got["copy"])
        section.rows.append(Row(f"{format_size(size)}, a copy", got["copy"]))
        section.rows.append(Row(f"{format_size(size)}, heap.put", got["put"], copy, Bound("<=", AT_MOST)))
        section.rows.append(Row(f"{format_size(size)}, heap.get", got["get"], copy, Bound("<=", AT_MOST)))
    got = in_turns({"fetch_add": timed(lambda: heap.fetch_add(pointer, 1))}, rounds, 3 if quick else 1000)
    section.rows.append(Row("heap.fetch_add", got["fetch_add"]))
    return [section]


def allocation(comm: MPI.Intracomm, heap: stead.SymmetricHeap, rounds: int, quick: bool) -> list[Section]:
    """Collective; rank 0's figures."""
    heap.free(heap.allocate(1000))

    def pair() -> None:
        heap.free(heap.allocate(1000))

    got = in_turns({"pair": timed(pair), "barrier": timed(comm.Barrier)}, rounds, 3 if quick else 300)
    return [
        Section(
            "allocate and free, at all ranks",
            [Row("allocate(1000) and free", got["pair"]), Row("for comparison: a barrier of MPI", got["barrier"])],
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run; its numbers mean little")
    parser.add_argument("--json", metavar="FILE", help="write all samples, in nanoseconds")
    options = parser.parse_args()
    rounds = 3 if options.quick else 21
    comm = MPI.COMM_WORLD
    if comm.size != 2:
        parser.error(f"it measures between 2 ranks, and there are {comm.size}")
    with contextlib.redirect_stdout(io.StringIO()) if comm.rank else contextlib.nullcontext():
        report = Report(rounds)
        library = MPI.Get_library_version().partition("\n")[0].partition(",")[0].replace("\0", "")
        print(f"{' '.join(library.split())}, mpi4py {mpi4py.__version__}")
        for onesided, measure in (("mpi", through_mpi), ("auto", directly)):
            with stead.SymmetricHeap("256 MiB", comm, onesided=onesided, timeout=600) as heap:  # type: ignore[arg-type]
                block = heap.allocate(SIZES[-1], 4096)
                heap.view((comm.rank, block), SIZES[-1])[:] = bytes(SIZES[-1])
                comm.Barrier()
                if comm.rank == 0:
                    report.show(*measure(heap, block, rounds, options.quick))
                comm.Barrier()  # rank 1 waits here, in MPI, so that calls to it go on
                if onesided == "auto":
                    report.show(*allocation(comm, heap, rounds, options.quick))
        report.end(options.json if comm.rank == 0 else None)


if __name__ == "__main__":
    main()
