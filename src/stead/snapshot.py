"""An address space at one moment: a hint by the time it is read, and good for people and for planners.

Two ways to look, one answer: PROCMAP_QUERY (Linux 6.11) for a window, the text of /proc/<pid>/maps for
all of it and wherever the kernel has no query.
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from stead import _native, ledger, maps
from stead.errors import Obstacle, Unsupported
from stead.maps import Kind, Mapping
from stead.ranges import Range, RangeSet

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Our shared memory carries this in its memfd name, so that every process can tell it.
SHARED_PREFIX = "stead:"
_OURS = (f"/memfd:{SHARED_PREFIX}", f"[anon:{SHARED_PREFIX}", f"[anon_shmem:{SHARED_PREFIX}")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every mapping of process ``pid``, in order of address. ``taken_at``: seconds since the epoch."""

    pid: int
    title: str
    taken_at: float
    page_size: int
    mappings: tuple[Mapping, ...]

    @property
    def occupied(self) -> RangeSet:
        return RangeSet(each.range for each in self.mappings)


def snapshot(pid: int | None = None) -> Snapshot:
    """The mappings of this process, or of process ``pid``.

    Raises ProcessLookupError, PermissionError (ptrace(2), PTRACE_MODE_READ), or UnreadableMaps. A process
    that has no memory (a kernel thread, a zombie) has no mappings.
    """
    if pid is not None and (not isinstance(pid, int) or isinstance(pid, bool)):
        raise TypeError(f"pid is {pid!r}, must be an int or None")
    if pid is not None and pid <= 0:
        raise ValueError(f"pid is {pid}, must be positive")
    own = pid is None or pid == os.getpid()
    number = os.getpid() if pid is None else pid
    found = mark_ours(read_mappings(pid), _held() if own else ())
    return Snapshot(number, title(number), time.time(), os.sysconf("SC_PAGESIZE"), tuple(found))


def title(pid: int) -> str:
    """The process's name as the kernel keeps it, or "" if it is gone."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return os.fsdecode(file.read()).rstrip("\n")
    except OSError:
        return ""


def read_mappings(pid: int | None = None) -> list[Mapping]:
    """All mappings, from the text."""
    try:
        with open(_open_maps(pid), "rb") as file:
            return maps.parse(os.fsdecode(file.read()))
    except ProcessLookupError:
        raise _missing(pid) from None


def _open_maps(pid: int | None) -> int:
    """A descriptor of the file, which belongs to the process that opened it: a fork would look at its parent."""
    try:
        return os.open(f"/proc/{'self' if pid is None else pid}/maps", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        raise _missing(pid) from None
    except PermissionError:
        raise PermissionError(errno.EACCES, f"not allowed to look at process {pid}") from None


def _missing(pid: int | None) -> ProcessLookupError:
    missing = "no /proc to look into" if pid is None else f"no process {pid}"
    return ProcessLookupError(errno.ESRCH, f"there is {missing}")


def mappings_within(window: Range, pid: int | None = None) -> list[Mapping]:
    """The mappings that overlap ``window``, whole."""
    return list(each_mapping_within(window, pid))


def each_mapping_within(window: Range, pid: int | None = None) -> Iterator[Mapping]:
    """The mappings that overlap ``window``, one by one: by PROCMAP_QUERY, or from the text where that fails."""
    reached = window.start
    try:
        for each in _query(window, pid):
            yield each
            reached = each.range.stop
    except Unsupported:
        rest = Range(reached, window.stop)
        yield from (each for each in read_mappings(pid) if each.range.overlaps(rest))


def query_mappings(window: Range, pid: int | None = None) -> list[Mapping] | None:
    """The mappings that overlap ``window``, by PROCMAP_QUERY alone; None where it does not do."""
    try:
        return list(_query(window, pid))
    except Unsupported:
        return None


def _query(window: Range, pid: int | None) -> Iterator[Mapping]:
    # Opened afresh each time: looking is not the hot path.
    descriptor = _open_maps(pid)
    try:
        address = window.start
        while address < window.stop:
            answer = _native.query(descriptor, address)
            if isinstance(answer, int):
                if answer == -errno.EINTR:
                    continue
                if answer == -errno.ENOENT:
                    return
                # ENOTTY: no such query, EPERM or ENOSYS: a sandbox or an emulator, ESRCH: no memory, or gone,
                # ENAMETOOLONG: beyond PATH_MAX. The text answers all of these.
                raise Unsupported("PROCMAP_QUERY", "Linux 6.11 or later", os.strerror(-answer))
            start, stop, flags, offset, inode, major, minor, name = answer
            if start >= window.stop:
                return
            where = Range(start, stop)
            permissions = _permissions(flags)
            yield maps.mapping(where, permissions, offset, (major, minor), inode, os.fsdecode(name))
            address = stop
    finally:
        os.close(descriptor)


def _permissions(flags: int) -> str:
    return (
        ("r" if flags & _native.QUERY_READABLE else "-")
        + ("w" if flags & _native.QUERY_WRITABLE else "-")
        + ("x" if flags & _native.QUERY_EXECUTABLE else "-")
        + ("s" if flags & _native.QUERY_SHARED else "p")
    )


def _held() -> list[tuple[Range, str]]:
    """What this process holds, by its ledger, in order."""
    return sorted((each.outer, each.name or "") for each in ledger.within(Range(0, 1 << 64)))


def mark_ours(found: list[Mapping], held: Sequence[tuple[Range, str]]) -> Iterator[Mapping]:
    """Ours by name, in any process; and what is ``held`` (ranges in order, and names), cut at its ranges'
    edges: the kernel merges what it finds alike."""
    first = 0
    for each in found:
        start = each.range.start
        while first < len(held) and held[first][0].stop <= start:
            first += 1
        for where, name in islice(held, first, None):
            inside = where.intersection(Range(start, each.range.stop))
            if inside is None:
                break
            if start < inside.start:
                yield _by_name(_piece(each, Range(start, inside.start)))
            ours = _piece(each, inside)
            yield replace(ours, kind=Kind.OURS, name=each.name or name)
            start = inside.stop
        if start < each.range.stop:
            yield _by_name(_piece(each, Range(start, each.range.stop)))


def _by_name(each: Mapping) -> Mapping:
    return replace(each, kind=Kind.OURS) if each.name.startswith(_OURS) else each


def _piece(whole: Mapping, where: Range) -> Mapping:
    if where == whole.range:
        return whole
    offset = whole.offset + (where.start - whole.range.start if whole.inode else 0)
    return replace(whole, range=where, offset=offset)


def obstacle(where: Range, pid: int | None = None) -> Obstacle | None:
    """What is in the way at ``where``: the lowest of the mappings there, or None if there is none (any more)."""
    found = mappings_within(where, pid)
    if not found:
        return None
    number = os.getpid() if pid is None else pid
    owner = f"process {number}" + (f" ({name})" if (name := title(number)) else "")
    # Whole mappings are found, and cut at the edges of what is ours: the first pieces may lie below.
    first = next(each for each in mark_ours(found, _held() if pid is None else ()) if each.range.overlaps(where))
    name = first.name
    if first.kind is Kind.OURS:
        owner += ", reserved by stead"
    if not name:
        name = "an inaccessible mapping" if first.reserved else "an anonymous mapping"
    return Obstacle(first.range, name, owner)
