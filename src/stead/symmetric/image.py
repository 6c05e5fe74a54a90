"""Memory in a file, and back at the same addresses: the file of one rank. Knows nothing of ranks or blocks.

A file: the magic line with the format's number; the length of the header; the header, JSON; the extents (segment,
offset, size: three little-endian 64-bit numbers each); a digest of all that; the contents of the extents, one
after the other; a digest of these. Digests are BLAKE2b, of 32 bytes. Pages that are all zeros have no extent.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from stead import _native
from stead.errors import LimitReached, UnreadableSave
from stead.ranges import Range, align_down, align_up
from stead.securing import PAGE
from stead.sizes import format_size

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

# The number counts what tables mean as well as what is said above: native/arena.h, native/strips.h.
_MAGIC = b"stead save 1\n\0\0\0"
_LENGTH = struct.Struct("<Q")
_DIGEST = 32
_MOST = 16 << 20  # bytes read, written and digested at once
_STEP = 256 << 20  # bytes between two yields: all ranks wait for the slowest, for no longer than a timeout
_LONGEST = 1 << 30  # of header and extents


class Segment(NamedTuple):
    """Memory that is saved under a name: offsets count from ``base``; ``ranges``: what there is of it."""

    base: int
    ranges: list[Range]


# ---- writing ----


def write(path: str, facts: dict[str, Any], segments: Mapping[str, Segment]) -> Generator[None]:
    """All of it, on the disk when this has come to its end; to be renamed then. Raises LimitReached where the disk
    is full, OSError; then there is no file."""
    names = list(segments)
    extents: list[tuple[int, Range]] = []
    for number, name in enumerate(names):
        for each in _stretches(segments[name]):
            extents += [(number, written) for written in _written(each)]
            yield
    header = json.dumps({**facts, "segments": names, "extents": len(extents)}).encode()
    packed = b"".join(
        struct.pack("<3Q", number, each.start - segments[names[number]].base, each.size)
        for number, each in extents
    )
    start = _MAGIC + _LENGTH.pack(len(header)) + header + packed
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        try:
            _write_all(fd, start + _digest(start))
            digest, left = hashlib.blake2b(digest_size=_DIGEST), _STEP
            for _, each in extents:
                for piece in _pieces(each):
                    digest.update(piece)
                    _write_all(fd, piece)
                    left -= len(piece)
                    if left <= 0:
                        os.fdatasync(fd)  # or all of it would have to be waited for at the end
                        left = _STEP
                        yield
            _write_all(fd, digest.digest())
            os.fsync(fd)
        finally:
            os.close(fd)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(path)
        if isinstance(error, OSError):
            raise _refusal(error, path) from None
        raise


def _stretches(segment: Segment) -> Iterator[Range]:
    """Cut at whole pages into what can be looked through in one step."""
    for each in segment.ranges:
        start = each.start
        while start < each.stop:
            stop = min(align_down(start, PAGE) + _STEP, each.stop)
            yield Range(start, stop)
            start = stop


def _written(where: Range) -> Iterator[Range]:
    """What is not zeros, in whole pages but at the ends."""
    first, last = min(align_up(where.start, PAGE), where.stop), align_down(where.stop, PAGE)
    if where.start < first:
        yield Range(where.start, first)
    if first < last:
        numbers = memoryview(_native.pages_written(first, last, PAGE)).cast("Q")
        for start, size in zip(numbers[::2], numbers[1::2], strict=True):
            yield Range.sized(start, size)
    if max(first, last) < where.stop:
        yield Range(max(first, last), where.stop)


def _pieces(where: Range) -> Iterator[memoryview]:
    for start in range(where.start, where.stop, _MOST):
        yield memoryview(_native.Exporter(start, min(_MOST, where.stop - start), False, None))


def _write_all(fd: int, data: bytes | memoryview) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST).digest()


def _refusal(error: OSError, path: str) -> OSError:
    limit = {errno.ENOSPC: "disk", errno.EDQUOT: "quota", errno.EFBIG: "RLIMIT_FSIZE"}.get(error.errno or 0)
    message = f"{path} cannot be written: {error.strerror}"
    return LimitReached(message, limit, error.errno or 0) if limit else OSError(error.errno, message)


# ---- reading ----


class Save:
    """A file whose header has been read and verified: ``facts``. ``load`` reads the rest; ``close``, or a with."""

    def __init__(self, path: str) -> None:
        """Raises UnreadableSave; OSError where the file cannot be opened."""
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._read_header()
        except BaseException:
            self.close()
            raise

    def _read_header(self) -> None:
        magic = self._take(len(_MAGIC))
        if magic != _MAGIC:
            other = magic.startswith(_MAGIC[:11])
            raise self._wrong(f"its format is {magic[11:13]!r}, not 1" if other else "it is no save of stead")
        length = self._take(_LENGTH.size)
        (size,) = _LENGTH.unpack(length)
        if size > _LONGEST:
            raise self._wrong(f"its header is damaged: it would have {size} bytes")
        header = self._take(size)
        try:
            self.facts: dict[str, Any] = json.loads(header)
            count, self._names = int(self.facts["extents"]), list(map(str, self.facts["segments"]))
        except (ValueError, KeyError, TypeError) as error:
            raise self._wrong(f"its header is damaged: {error}") from None
        if not 0 <= count <= _LONGEST // 24:
            raise self._wrong(f"its header is damaged: it would have {count} extents")
        packed = self._take(24 * count)
        if self._take(_DIGEST) != _digest(magic + length + header + packed):
            raise self._wrong("its header is damaged: the digest is another")
        self._extents = list(struct.iter_unpack("<3Q", packed))
        wanted = os.lseek(self._fd, 0, os.SEEK_CUR) + sum(size for _, _, size in self._extents) + _DIGEST
        found = os.fstat(self._fd).st_size
        if found != wanted:
            raise self._wrong(
                f"it has {format_size(found)}, {found} bytes, and must have {wanted}: it was cut off or added to"
            )

    def load(self, segments: Mapping[str, Segment]) -> Generator[None]:
        """The contents, into memory that is committed and zero. Raises UnreadableSave where there is no room for
        them, or where they are damaged: then some of the memory has been written."""
        digest, left = hashlib.blake2b(digest_size=_DIGEST), _STEP
        for number, offset, size in self._extents:
            name = self._names[number] if number < len(self._names) else ""
            segment = segments.get(name, Segment(0, []))
            where = Range.sized(segment.base + offset, size)
            if not any(each.contains(where) for each in segment.ranges):
                raise self._wrong(f"it has {where} of segment {name!r}, for which there is no room")
            for piece in _pieces(where):
                self._fill(piece)
                digest.update(piece)
                left -= len(piece)
                if left <= 0:
                    left = _STEP
                    yield
        if self._take(_DIGEST) != digest.digest():
            raise self._wrong("its contents are damaged: the digest is another")

    def _take(self, size: int) -> bytes:
        data = bytearray(size)
        self._fill(memoryview(data))
        return bytes(data)

    def _fill(self, room: memoryview) -> None:
        while room:
            got = os.readv(self._fd, [room])
            if not got:
                raise self._wrong("it was cut off")
            room = room[got:]

    def _wrong(self, why: str) -> UnreadableSave:
        return UnreadableSave(self.path, why)

    def close(self) -> None:
        """Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


# What makes tables of one machine unreadable on another.
MACHINE = f"{os.uname().machine}, {sys.byteorder}-endian, pages of {PAGE} bytes"
