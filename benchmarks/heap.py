"""What a shared heap costs, beside what else brings an array to another process.

README.md says what the rows mean. Measures and does not judge: a bound that is missed is printed as missed, and
the exit status is 0. The peers are measured where they are installed; what is not is said.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import pickle
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import heap_peers
import heap_workers as workers
import numpy as np
from harness import Bound, Report, Row, Section, in_turns, timed
from heap_peers import passing, passing_first
from heap_workers import Worker

import stead

if TYPE_CHECKING:
    from collections.abc import Callable

MiB, GiB = 1 << 20, 1 << 30


def text(size: int) -> str:
    return f"{size // GiB} GiB" if size >= GiB else f"{size // MiB} MiB"


# ---- an array to a worker ---------------------------------------------------------------------------


def to_a_worker(rounds: int, size: int) -> list[Section]:
    ordinary = np.ones(size // 8)
    with stead.SharedHeap(2 * size) as heap:
        array = heap.array(size // 8)
        array[:] = ordinary
        ours = heap_peers.Heap(array)
        others = heap_peers.peers(ordinary)
        every: dict[str, heap_peers.Peer] = {"stead": ours, **others}
        try:
            first = _first(every, rounds, size)
            for each in every.values():
                each.end()
                each.fresh()
            again = _again(every, array, ordinary, rounds, size)
            attach = _attach(heap, rounds)
        finally:
            for each in every.values():
                each.close()
        notes = [f"of the heap's memory {_huge(heap)} is in huge pages here"]
        del array, ours, every, each
    again.notes += notes
    return [again, first, attach]


def _again(every: dict[str, heap_peers.Peer], array: Any, ordinary: Any, rounds: int, size: int) -> Section:
    cases: dict[str, Callable[[int], float]] = {
        "here": timed(lambda: workers.total(array)),
        "ordinary": timed(lambda: workers.total(ordinary)),
    }
    cases |= {name: passing(each) for name, each in every.items()}
    found = in_turns(cases, rounds, 1)
    local, stead_ = ("here", found["here"]), ("stead", found["stead"])
    rows = [
        Row("summed here, in the heap", found["here"]),
        Row("summed here, an ordinary array", found["ordinary"], local),
        Row("stead: a HeapArray sent over a Pipe, summed there", found["stead"], local, Bound("<=", 1.05)),
        Row("the same samples, beside an ordinary array", found["stead"], ("ordinary", found["ordinary"])),
    ]
    rows += [Row(name, found[name], stead_) for name in every if name != "stead"]
    return Section(
        f"1. {text(size)} of float64 to a worker that has had it before, and its sum back", rows, _absent()
    )


def _first(every: dict[str, heap_peers.Peer], rounds: int, size: int) -> Section:
    found = in_turns({name: passing_first(each) for name, each in every.items()}, rounds, 1)
    best = min((name for name in every if name != "stead"), key=lambda name: sorted(found[name])[rounds // 2])
    rows = [Row("stead: attached, received, summed", found["stead"])]
    rows += [Row(name, found[name], ("stead", found["stead"])) for name in every if name != "stead"]
    rows.append(Row(f"the best of them, {best}", found[best], ("stead", found["stead"]), Bound(">=", 1)))
    return Section(f"2. {text(size)} to a fresh worker, and its sum back (its start not counted)", rows, _absent())


def _attach(heap: stead.SharedHeap, rounds: int) -> Section:
    small = heap.array(10)

    def run(n: int) -> float:
        spent = 0
        for _ in range(n):
            worker = Worker("numpy", "stead.heap.arrays")
            nanoseconds, kind = worker.ask(workers.attach, pickle.dumps(small))
            assert kind == "HeapArray"
            spent += nanoseconds
            worker.end()
        return spent / n

    found = in_turns({"attach": run}, rounds, 1)
    rows = [Row("unpickle an array of a heap that is not attached", found["attach"], ("1 ms", [1e6] * rounds))]
    rows[0].bound = Bound("<=", 1)
    return Section("3. attach", rows)


def _huge(heap: stead.SharedHeap) -> str:
    """How much of a heap this process has mapped in huge pages."""
    found, within = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if not first.endswith(":"):
            within = int(first.partition("-")[0], 16) in range(heap.range.start, heap.range.stop)
        elif within and first == "ShmemPmdMapped:":
            found += int(line.split()[1]) << 10
    return f"{found / GiB:.2f} GiB"


def _absent() -> list[str]:
    return [f"{name} is not installed" for name in heap_peers.missing()]


# ---- put and get --------------------------------------------------------------------------------------


def put_and_get(rounds: int, n: int, size: int) -> list[Section]:
    source = np.ones(size // 8)
    resident = np.zeros_like(source)
    heap = stead.SharedHeap(8 * size)
    kept = [heap.put(source)]
    cases: dict[str, Callable[[int], float]] = {
        "copy": timed(lambda: np.copyto(resident, source)),
        "copy, fresh": timed(lambda: source.copy()),
        "put": timed(lambda: heap.put(source)),
        "put, fresh": _fresh_puts(source),
        "get": timed(lambda: heap.get(kept[0])),
        "SharedMemory": _standard_puts(source),
    }
    if ray := _ray(source, cases):
        started, stop = ray
    if "torch.multiprocessing" not in heap_peers.missing():
        import torch

        tensor = torch.from_numpy(source)
        cases["torch"] = timed(lambda: tensor.clone().share_memory_())
    found = in_turns(cases, rounds, n)
    quick: dict[str, Callable[[int], float]] = {name: cases[name] for name in cases if name in ("get", "ray.get")}
    found |= in_turns(quick, rounds, 200)
    if ray:
        stop()
    copy, put = ("copy", found["copy"]), ("put", found["put"])
    fresh = ("put, fresh", found["put, fresh"])
    puts = [
        Row("copied into resident memory: np.copyto", found["copy"]),
        Row("heap.put, into memory that was used before", found["put"], copy, Bound("<=", 1.1)),
        Row("heap.put, into memory that is new to the heap", found["put, fresh"], copy),
        Row("copied into new memory: array.copy()", found["copy, fresh"], fresh),
        Row("SharedMemory: create, copy", found["SharedMemory"], fresh),
    ]
    if "torch" in found:
        puts.append(Row("torch: clone, share_memory_", found["torch"], fresh))
    notes = []
    if ray:
        puts.append(Row("ray.put", found["ray.put"], put, Bound(">=", 1)))
        notes.append(f"ray.put for the first time, into a store without memory yet: {started / 1e6:.0f} ms")
    gets = [Row("heap.get", found["get"], ("50 us", [50_000.0] * rounds), Bound("<=", 1))]
    if ray:
        gets.append(Row("ray.get", found["ray.get"], ("stead", found["get"])))
    kept.clear()
    del cases
    heap.close()
    return [
        Section(f"4. put {text(size)} of float64", puts, notes + _absent()),
        Section(f"5. get {text(size)} of float64", gets),
    ]


def _fresh_puts(source: Any) -> Callable[[int], float]:
    def run(n: int) -> float:
        spent = 0
        for _ in range(n):
            with stead.SharedHeap(4 * source.nbytes) as heap:
                began = time.perf_counter_ns()
                ref = heap.put(source)
                spent += time.perf_counter_ns() - began
                ref.free()
        return spent / n

    return run


def _standard_puts(source: Any) -> Callable[[int], float]:
    from multiprocessing.shared_memory import SharedMemory

    def run(n: int) -> float:
        spent = 0
        for _ in range(n):
            began = time.perf_counter_ns()
            memory = SharedMemory(create=True, size=source.nbytes)
            np.ndarray(source.size, "f8", memory.buf)[:] = source
            spent += time.perf_counter_ns() - began
            memory.close()
            memory.unlink()
        return spent / n

    return run


def _ray(source: Any, cases: dict[str, Callable[[int], float]]) -> tuple[int, Callable[[], None]] | None:
    """Adds its cases: how long the first put took, and what ends it."""
    if "Ray" in heap_peers.missing():
        return None
    heap_peers.start_ray(8 * source.nbytes)
    import ray

    began = time.perf_counter_ns()
    kept = ray.put(source)
    first = time.perf_counter_ns() - began
    cases["ray.put"] = timed(lambda: ray.put(source))
    cases["ray.get"] = timed(lambda: ray.get(kept))
    return first, ray.shutdown


# ---- many workers ---------------------------------------------------------------------------------------


def many_workers(count: int, size: int) -> list[Section]:
    """One after the other they read all of it; then all are asked what they have, the process that made it no
    more among them."""
    with stead.SharedHeap(2 * size) as heap:
        # Forked from one process that has imported everything: most of Python and NumPy is there once, too.
        # Before Python 3.12 that process finds what is preloaded by its environment alone.
        os.environ["PYTHONPATH"] = str(Path(__file__).parent)
        multiprocessing.set_forkserver_preload(["heap_crowd"])
        crowd = [Worker("numpy", "stead.heap.arrays", method="forkserver", quiet=True) for _ in range(count)]
        for each in crowd:
            each.wait()
        before = [each.ask(workers.memory) for each in crowd]
        array = heap.array(size // 8)
        array[:] = 1.0
        expected = array.size
        for each in crowd:
            assert each.ask(workers.keep_and_sum, array) == expected
        # Nothing of it here: it is theirs now.
        del array
        heap.close()
        after = [each.ask(workers.memory) for each in crowd]
        for each in crowd:
            each.end()
    all_, own = (sum(each["pss"] for each in found) for found in (after, before))
    tables = sum(each["tables"] for each in after) - sum(each["tables"] for each in before)
    copy = ("one copy", [float(size)])
    rows = [
        Row("one copy", [float(size)], unit="B"),
        Row("of all, Python and NumPy included", [float(all_)], copy, Bound("<=", 1.05), "B"),
        Row("of all, less what they had before they got it", [float(all_ - own)], copy, Bound("<=", 1.05), "B"),
        Row("of all, before they got it", [float(own)], copy, unit="B"),
        Row("page tables, which no set size counts: the rest of their cost", [float(tables)], copy, unit="B"),
    ]
    return [Section(f"6. {count} workers with one array of {text(size)}: proportional set size", rows)]


# ---- allocate and free ------------------------------------------------------------------------------------


def two_at_once(rounds: int, n: int) -> list[Section]:
    """Throughput: pairs in the time that the slower one needs."""
    with stead.SharedHeap(GiB) as heap:
        two = [Worker("stead.heap") for _ in range(2)]
        rows = []
        for size in (256, 65536):

            def one_alone(n: int, size: int = size) -> float:
                return float(two[0].ask(workers.churn, heap, size, n)) / n

            def both(n: int, size: int = size) -> float:
                for each in two:
                    each.send(workers.churn, heap, size, n)
                return max(float(each.wait()) for each in two) / (2 * n)

            found = in_turns({"one": one_alone, "two": both}, rounds, n)
            rows += [
                Row(f"{size} bytes, one process: for each pair", found["one"], ("two", found["two"])),
                Row(f"{size} bytes, two processes: for each pair of either", found["two"]),
            ]
            rows[-2].bound = Bound(">=", 1.2)
        for each in two:
            each.end()
    return [Section("7. allocate and free, in one process and in two at once", rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run; its numbers mean little")
    parser.add_argument("--json", metavar="FILE", help="write all samples, in nanoseconds")
    parser.add_argument("--only", metavar="PARTS", default="worker,put,many,two", help="some of: %(default)s")
    options = parser.parse_args()
    quick, parts = options.quick, options.only.split(",")
    rounds = 2 if quick else 9
    report = Report(rounds)
    if "worker" in parts:
        report.show(*to_a_worker(rounds, 16 * MiB if quick else GiB))
    if "put" in parts:
        report.show(*put_and_get(rounds if quick else 15, 1 if quick else 3, 16 * MiB if quick else 100 * MiB))
    if "many" in parts:
        report.show(*many_workers(4 if quick else 64, 64 * MiB if quick else 4 * GiB))
    if "two" in parts:
        report.show(*two_at_once(rounds, 2_000 if quick else 300_000))
    report.end(options.json)


if __name__ == "__main__":
    main()
