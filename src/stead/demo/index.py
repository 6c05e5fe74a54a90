"""A word index whose nodes are linked by raw 64-bit pointers, and the same index as a plain dict.

A pointer here is an address and nothing else: the builder writes it into shared memory as eight bytes, and
a reader in any process lets ctypes dereference those bytes where they are. That is right in every process
because the reservation is at one address in all of them.
"""

from __future__ import annotations

import os
import struct
from ctypes import POINTER, Structure, addressof, c_uint64, sizeof, string_at
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol
from zlib import crc32

from stead.ranges import align_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from stead.reservation import Reservation

TOP = 3


class Answer(NamedTuple):
    """How often a word occurs, in how many files, and the files that have it most often."""

    total: int
    files: int
    top: tuple[tuple[str, int], ...]


NOWHERE = Answer(0, 0, ())

# The files that have a word and how often, most often first: what both indexes are made of.
Postings = list[tuple[str, int]]


class Index(Protocol):
    """What a worker is sent, and asked."""

    def look_up(self, word: bytes) -> Answer: ...

    @property
    def address(self) -> int | None:
        """Where it is, if that means anything outside of this process."""
        ...


@dataclass(frozen=True, slots=True)
class PlainIndex:
    """The index as a dict: pickled, it is copied, and rebuilt by every process that receives it."""

    words: Mapping[bytes, Postings]

    @property
    def address(self) -> None:
        return None

    def look_up(self, word: bytes) -> Answer:
        postings = self.words.get(word, [])
        return Answer(sum(count for _, count in postings), len(postings), tuple(postings[:TOP]))


# ---- the nodes, as they lie in memory -------------------------------------------------------------


class FileNode(Structure):
    """A file; its path follows."""

    _fields_ = (("length", c_uint64),)


class PostingNode(Structure):
    """A file that has the word, ``count`` times."""


PostingNode._fields_ = (("next", POINTER(PostingNode)), ("file", POINTER(FileNode)), ("count", c_uint64))


class WordNode(Structure):
    """A word; its bytes follow. ``next``: another word of the same bucket."""


WordNode._fields_ = (
    ("next", POINTER(WordNode)),
    ("postings", POINTER(PostingNode)),
    ("total", c_uint64),
    ("length", c_uint64),
)


class TableNode(Structure):
    """The hash table that everything hangs on: an array of pointers to chains of words."""

    _fields_ = (("buckets", POINTER(POINTER(WordNode))), ("bucket_count", c_uint64), ("words", c_uint64))


def _text_after(node: FileNode | WordNode) -> bytes:
    return string_at(addressof(node) + sizeof(node), node.length)


@dataclass(frozen=True, slots=True)
class PointerIndex:
    """The index in shared memory: pickled, it is a reservation's handle and one address, ``head``."""

    reservation: Reservation
    head: int

    @property
    def address(self) -> int:
        return self.reservation.address

    def look_up(self, word: bytes) -> Answer:
        """Follow the pointers. Raises ValueError where what they lead to contradicts itself."""
        table = TableNode.from_address(self.head)
        link = table.buckets[crc32(word) % table.bucket_count]
        while link:  # a null pointer is false
            node = link.contents
            if _text_after(node) == word:
                return self._answer(word, node)
            link = node.next
        return NOWHERE

    def _answer(self, word: bytes, node: WordNode) -> Answer:
        total = files = 0
        top = []
        link = node.postings
        while link:
            posting = link.contents
            total += posting.count
            files += 1
            if files <= TOP:
                top.append((os.fsdecode(_text_after(posting.file.contents)), posting.count))
            link = posting.next
        if total != node.total:
            raise ValueError(f"the files of {word!r} add up to {total}, and its node says {node.total}")
        return Answer(total, files, tuple(top))


# ---- building -------------------------------------------------------------------------------------

# Memory is committed as it is needed, this much at first; what is there never moves.
_STEP = 8 << 20

_POINTER = struct.Struct("=Q")
_FILE = struct.Struct("=Q")
_POSTING = struct.Struct("=QQQ")
_WORD = struct.Struct("=QQQQ")
_TABLE = struct.Struct("=QQQ")


class _Writer:
    """Puts one node after the other into a reservation, and knows the address of each."""

    def __init__(self, reservation: Reservation) -> None:
        self._reservation = reservation
        self._memory = memoryview(b"")
        self._committed = self._used = 0

    def room(self, size: int) -> int:
        """The address of ``size`` bytes of zeros."""
        at = self._used
        self._used += align_up(size, 8)
        while self._used > self._committed:
            left = self._reservation.size - self._committed
            if not left:
                raise ValueError(f"the index does not fit into {self._reservation.range}")
            step = min(max(_STEP, self._committed // 4), left)
            self._reservation.commit(self._committed, step, backing="shared").release()
            self._committed += step
            self._memory = self._reservation.view(0, self._committed)
        return self._reservation.address + at

    def put(self, layout: struct.Struct, *fields: int, text: bytes = b"") -> int:
        """The address of a new node."""
        address = self.room(layout.size + len(text))
        at = address - self._reservation.address
        layout.pack_into(self._memory, at, *fields)
        self._memory[at + layout.size : at + layout.size + len(text)] = text
        return address

    def point(self, at: int, to: int) -> None:
        """Write the pointer ``to`` into the eight bytes at address ``at``."""
        _POINTER.pack_into(self._memory, at - self._reservation.address, to)


def build(
    words: Mapping[bytes, Postings], reservation: Reservation, progress: Callable[[int], None] | None = None
) -> PointerIndex:
    """Write ``words`` into ``reservation``. ``progress`` is told how many words are done, now and then.

    Raises LimitReached when memory runs out, ValueError when the reservation is too small.
    """
    writer = _Writer(reservation)
    bucket_count = 1 << max(len(words) - 1, 1).bit_length()
    buckets = writer.room(bucket_count * _POINTER.size)
    head = writer.put(_TABLE, buckets, bucket_count, len(words))
    files: dict[str, int] = {}
    chains: dict[int, int] = {}
    for done, (word, postings) in enumerate(words.items()):
        first = 0
        for path, count in reversed(postings):
            if path not in files:
                text = os.fsencode(path)
                files[path] = writer.put(_FILE, len(text), text=text)
            first = writer.put(_POSTING, first, files[path], count)
        bucket = crc32(word) % bucket_count
        total = sum(count for _, count in postings)
        chains[bucket] = writer.put(_WORD, chains.get(bucket, 0), first, total, len(word), text=word)
        writer.point(buckets + bucket * _POINTER.size, chains[bucket])
        if progress and done % 4096 == 0:
            progress(done)
    return PointerIndex(reservation, head)


def postings(counted: Iterable[tuple[str, Mapping[bytes, int]]]) -> dict[bytes, Postings]:
    """From the words of each file to the files of each word."""
    found: dict[bytes, Postings] = {}
    for path, counts in counted:
        for word, count in counts.items():
            found.setdefault(word, []).append((path, count))
    for each in found.values():
        each.sort(key=most_often)
    return found


def most_often(posting: tuple[str, int]) -> tuple[int, str]:
    """Sorts files: the most often first, equals by path."""
    path, count = posting
    return -count, path


def expected(word: bytes, counted: Sequence[tuple[str, Mapping[bytes, int]]]) -> Answer:
    """The answer from the counts of each file, without any index."""
    found = sorted(((path, counts[word]) for path, counts in counted if word in counts), key=most_often)
    return Answer(sum(count for _, count in found), len(found), tuple(found[:TOP]))
