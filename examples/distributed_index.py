"""A hash table over all ranks of an MPI job, linked by global pointers: how often each word occurs, and in how
many files.

    mpiexec -n 4 python examples/distributed_index.py [folder] [--mpi]

Each rank reads its share of the files (by default of this Python's standard library) and enters its words. The
buckets are spread over the ranks; an entry lies at the rank that met the word first, and each chain leads from
rank to rank. Entries are put at the front of a chain by compare_and_swap, and counted by accumulate: there is no
lock, and no rank serves another. At the end rank 0 walks all chains, and compares with what it counts by itself,
by other means.
"""

from __future__ import annotations

import argparse
import struct
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy
from mpi4py import MPI

import stead
from stead.demo import texts

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKETS = 1 << 14  # at each rank

# An entry: the word of the next in the chain, occurrences, files, the length of the word; then the word.
HEAD = struct.Struct("<QqqQ")
COUNTS = 8  # bytes from the beginning of an entry to its two counts
GUESS = HEAD.size + 32  # bytes that are fetched at once: most words are no longer


class Entry(NamedTuple):
    next: stead.GlobalPointer
    occurrences: int
    files: int
    word: bytes


class Index:
    """Collective: made, and ended, by all ranks. ``room``: bytes for the entries of each rank."""

    def __init__(self, heap: stead.SymmetricHeap, room: int) -> None:
        self.heap = heap
        self.buckets = heap.allocate(8 * BUCKETS)
        self.entries = heap.allocate(room + GUESS)  # the last may be shorter than what is fetched
        self.free = self.entries
        heap.put((heap.rank, self.buckets), bytes(8 * BUCKETS))
        heap.barrier()

    def add(self, word: bytes, occurrences: int, files: int) -> None:
        bucket = self.bucket(word)
        first = self.first(bucket)
        mine: stead.GlobalPointer | None = None
        while True:
            for at, entry in self.chain(first):
                if entry.word == word:
                    more = numpy.array([occurrences, files], numpy.int64)
                    self.heap.accumulate(at + COUNTS, more)
                    return  # an entry of ours that somebody was quicker than is left behind
            mine = mine or self.place(word)
            self.heap.put(mine, HEAD.pack(first.word, occurrences, files, len(word)) + word)
            found = self.heap.compare_and_swap(bucket, first.word, mine.word, "uint64")
            if found == first.word:
                return
            first = stead.GlobalPointer.from_word(found)  # somebody else was quicker: perhaps with the same word

    def bucket(self, word: bytes) -> stead.GlobalPointer:
        number = zlib.crc32(word)
        rank, slot = number % self.heap.ranks, number // self.heap.ranks % BUCKETS
        return stead.GlobalPointer(rank, self.buckets + 8 * slot)

    def first(self, bucket: stead.GlobalPointer) -> stead.GlobalPointer:
        return stead.GlobalPointer.from_word(self.heap.fetch_add(bucket, 0, "uint64"))

    def chain(self, at: stead.GlobalPointer) -> Iterator[tuple[stead.GlobalPointer, Entry]]:
        while at:
            data = self.heap.get(at, GUESS)
            following, occurrences, files, length = HEAD.unpack_from(data)
            if length > GUESS - HEAD.size:
                data = self.heap.get(at, HEAD.size + length)
            entry = Entry(
                stead.GlobalPointer.from_word(following), occurrences, files, data[HEAD.size : HEAD.size + length]
            )
            yield at, entry
            at = entry.next

    def place(self, word: bytes) -> stead.GlobalPointer:
        here, self.free = self.free, self.free + room_for(word)
        return stead.GlobalPointer(self.heap.rank, here)

    def __iter__(self) -> Iterator[Entry]:
        """All entries, by walking the chains of all ranks."""
        for rank in range(self.heap.ranks):
            for word in numpy.frombuffer(self.heap.get((rank, self.buckets), 8 * BUCKETS), numpy.uint64):
                for _, entry in self.chain(stead.GlobalPointer.from_word(word)):
                    yield entry


def room_for(word: bytes) -> int:
    return HEAD.size + (len(word) + 7) // 8 * 8


def my_words(found: texts.Texts, rank: int, ranks: int) -> dict[bytes, tuple[int, int]]:
    """Of every so many-th file: the occurrences of each word, and the files with it."""
    occurrences: Counter[bytes] = Counter()
    files: Counter[bytes] = Counter()
    for _, data in found.files[rank::ranks]:
        counted = texts.count_by_pattern(data)
        occurrences.update(counted)
        files.update(counted.keys())
    return {word: (count, files[word]) for word, count in occurrences.items()}


def serial_answer(found: texts.Texts) -> dict[bytes, tuple[int, int]]:
    answer: dict[bytes, tuple[int, int]] = {}
    for _, data in found.files:
        for word, count in texts.count_by_splitting(data).items():
            occurrences, files = answer.get(word, (0, 0))
            answer[word] = occurrences + count, files + 1
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, help="of text files")
    parser.add_argument(
        "--mpi", action="store_true", help="reach the other ranks through MPI, on the same host as well"
    )
    options = parser.parse_args()
    comm = MPI.COMM_WORLD
    found = texts.read(options.folder)
    mine = my_words(found, comm.rank, comm.size)
    room = comm.allreduce(sum(map(room_for, mine)), MPI.MAX)
    size = 8 * BUCKETS + room + (1 << 20)
    with stead.SymmetricHeap(
        size, comm, name="index", onesided="mpi" if options.mpi else "auto", timeout=120
    ) as heap:
        index = Index(heap, room)
        began = time.perf_counter()
        for word, (occurrences, files) in mine.items():
            index.add(word, occurrences, files)
        heap.barrier()
        seconds = time.perf_counter() - began
        if comm.rank == 0:
            walked = list(index)
            if len({entry.word for entry in walked}) != len(walked):
                raise SystemExit("a word has two entries")
            table = {entry.word: (entry.occurrences, entry.files) for entry in walked}
            if table != serial_answer(found):
                raise SystemExit("the index differs from the serial answer")
            print(
                f"{len(table)} words of {len(found.files)} files in {found.folder}, "
                f"by {comm.size} ranks in {seconds:.2f} s"
            )
            for word, (occurrences, files) in sorted(table.items(), key=lambda each: each[1], reverse=True)[:5]:
                print(f"{occurrences:9} times in {files:5} files  {word.decode()}")
            print("equal to the serial answer")
        heap.barrier()


if __name__ == "__main__":
    main()
