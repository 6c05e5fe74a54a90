"""A structure of linked nodes from rank to rank: migrated, pickled through mpi4py, and the same bytes sent flat.

mpiexec -n 2 python benchmarks/migration.py; rank 0 prints. README.md says what the rows mean.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import time
from typing import Any

import numpy as np
from harness import Bound, Report, Row, Section
from mpi4py import MPI

import stead
from stead.symmetric import Slices

MiB = 1 << 20
PIECE = 256 * MiB  # of the flat messages


class Node:
    """As the same tree is in Python: two children and a payload."""

    __slots__ = ("left", "payload", "right")

    def __init__(self, payload: bytes) -> None:
        self.left: Node | None = None
        self.right: Node | None = None
        self.payload = payload


class Tree:
    """A balanced binary tree of nodes of ``node`` bytes, linked by raw pointers: left, right, number, payload."""

    def __init__(self, slices: Slices, node: int, count: int, seed: int | None) -> None:
        allocate = slices.allocate
        self.addresses = np.fromiter((allocate(node) for _ in range(count)), np.uint64, count)
        if seed is not None:
            np.random.default_rng(seed).shuffle(self.addresses)
        self.node, self.count = node, count
        words = self.words()
        words[:, 2] = np.arange(count)
        for child in (1, 2):
            children = np.zeros(count, np.uint64)
            there = self.addresses[child::2]
            children[: len(there)] = there
            words[:, child - 1] = children

    def words(self) -> Any:
        """The first words of each node, in the tree's order: a copy on reading."""
        return _Words(self.addresses)


class _Words:
    """Words of nodes, wherever they lie."""

    def __init__(self, addresses: Any) -> None:
        start, stop = int(addresses.min()), int(addresses.max()) + 24
        self._memory = np.frombuffer(MPI.buffer.fromaddress(start, stop - start), np.uint64)
        self._at = ((addresses - np.uint64(start)) // np.uint64(8)).astype(np.int64)

    def __setitem__(self, key: tuple[slice, int], value: Any) -> None:
        self._memory[self._at + key[1]] = value

    def __getitem__(self, key: tuple[slice, int]) -> Any:
        return self._memory[self._at + key[1]]


def python_tree(node: int, count: int) -> Node:
    nodes = [Node(number.to_bytes(8, "little") * ((node - 16) // 8)) for number in range(count)]
    for number in range(count):
        if 2 * number + 1 < count:
            nodes[number].left = nodes[2 * number + 1]
        if 2 * number + 2 < count:
            nodes[number].right = nodes[2 * number + 2]
    return nodes[0]


def took(comm: MPI.Intracomm, body: Any) -> float:
    """Nanoseconds until all ranks are through."""
    comm.Barrier()
    begun = time.perf_counter_ns()
    body()
    comm.Barrier()
    return float(comm.allreduce(time.perf_counter_ns() - begun, MPI.MAX))


def send_flat(comm: MPI.Intracomm, memory: Any) -> None:
    for at in range(0, len(memory), PIECE):
        if comm.rank == 0:
            comm.Send(memory[at : at + PIECE], dest=1)
        elif comm.rank == 1:
            comm.Recv(memory[at : at + PIECE], source=0)


class Case:
    """All ways for nodes of one size, round by round."""

    def __init__(self, comm: MPI.Intracomm, slices: Slices, node: int, size: int, seed: int | None) -> None:
        self.comm, self.slices, self.size = comm, slices, size
        self.flat_memory = np.ones(size, np.uint8)
        self.tree = Tree(slices, node, size // node, seed) if comm.rank == 0 else None
        found = comm.bcast(None if self.tree is None else self.tree.addresses)
        self.addresses = found
        self.samples: dict[str, list[float]] = {"migrate": [], "back": [], "flat": [], "fresh": []}

    def once(self) -> dict[str, float]:
        return {
            "flat": took(self.comm, lambda: send_flat(self.comm, self.flat_memory)),
            "migrate": took(self.comm, lambda: self.move(0, 1)),
            "fresh": took(self.comm, self.send_to_fresh),
            "back": took(self.comm, lambda: self.move(1, 0)),
        }

    def move(self, source: int, to: int) -> None:
        here = self.comm.rank == source
        self.slices.migrate(self.addresses if here else None, to=to if here else None)

    def send_to_fresh(self) -> None:
        """Into memory that the receiver has just got, as it has when it migrates."""
        memory = np.empty(self.size, np.uint8) if self.comm.rank == 1 else self.flat_memory
        send_flat(self.comm, memory)

    def run(self, rounds: int) -> None:
        self.once()
        for _ in range(rounds):
            for name, value in self.once().items():
                self.samples[name].append(value)
            self.check()

    def check(self) -> None:
        """The pointers lead to where they led, at rank 0, where the tree is again."""
        if self.tree is not None:
            words = self.tree.words()
            assert (words[:, 2] == np.arange(self.tree.count)).all()
            assert (words[:, 0][: len(self.tree.addresses[1::2])] == self.tree.addresses[1::2]).all()

    def end(self) -> None:
        if self.comm.rank == 0:
            for each in self.addresses.tolist():
                self.slices.free(each)
        self.slices.collect()
        self.flat_memory = np.empty(0, np.uint8)


def pickled(comm: MPI.Intracomm, node: int, size: int, rounds: int) -> list[float]:
    """The same tree of Python objects by comm.send."""
    root = python_tree(node, size // node) if comm.rank == 0 else None
    gc.disable()  # as pickle's users do who know: collections while it makes objects double the time
    found: list[Any] = []

    def send() -> None:
        if comm.rank == 0:
            comm.send(root, dest=1)
        elif comm.rank == 1:
            found.append(comm.recv(source=0))

    samples = []
    for _ in range(rounds):
        samples.append(took(comm, send))
        found.clear()
    gc.enable()
    return samples


def section(comm: MPI.Intracomm, slices: Slices, node: int, size: int, rounds: int, seed: int | None) -> Section:
    case = Case(comm, slices, node, size, seed)
    case.run(rounds)
    case.end()
    flat, fresh = ("flat", case.samples["flat"]), ("flat, fresh", case.samples["fresh"])
    main = node == 1024 and seed is None
    rows = [
        Row("flat Send and Recv, into memory used before", case.samples["flat"]),
        Row("the same, into fresh memory", case.samples["fresh"], flat),
        Row("migrate", case.samples["migrate"], flat, Bound("<=", 1.3) if main else None),
        Row("migrate, against fresh memory", case.samples["migrate"], fresh),
        Row("migrate back", case.samples["back"], flat, Bound("<=", 1.3) if main else None),
    ]
    if main:
        by_pickle = pickled(comm, node, size, few := min(rounds, 3))  # a minute each
        rows += [
            Row("pickled through comm.send", by_pickle, ("flat", case.samples["flat"][:few])),
            Row("migrate, again", case.samples["migrate"][:few], ("pickled", by_pickle), Bound("<=", 1 / 3)),
        ]
    order = ", allocated in another order" if seed is not None else ""
    amount = f"{size // MiB} MiB" if size < 1 << 30 else f"{size / (1 << 30):g} GiB"
    return Section(f"a tree of {amount} in nodes of {node} bytes{order}", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run; its numbers mean little")
    parser.add_argument("--json", metavar="FILE", help="write all samples, in nanoseconds")
    options = parser.parse_args()
    rounds, size = (2, 16 * MiB) if options.quick else (7, 1 << 30)
    comm = MPI.COMM_WORLD
    if comm.size < 2:
        raise SystemExit("mpiexec -n 2: it takes two ranks")
    slice_size = 2 * size + 64 * MiB
    with stead.peers.Mpi(comm) as together:
        held = stead.reserve(slice_size * comm.size, together=together)
    with Slices(held, 0, slice_size, comm) as slices:
        with contextlib.redirect_stdout(io.StringIO()) if comm.rank else contextlib.nullcontext():
            report = Report(rounds)
            print(f"{comm.size} ranks, {MPI.Get_library_version().splitlines()[0].strip()}")
            for node, seed in ((1024, None), (1024, 1), (64 << 10, None), (64, None)):
                report.show(section(comm, slices, node, size, rounds, seed))
            report.end(options.json if comm.rank == 0 else None)


if __name__ == "__main__":
    main()
