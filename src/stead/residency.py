"""Which pages of a process are in memory, and which are swapped out.

Three ways, the first that works: PAGEMAP_SCAN (Linux 6.7) tells runs of pages, at a cost that grows with what is
mapped in page tables, not with the addresses; smaps counts for each mapping, and the text of pagemap (eight bytes
for each page, reserved ones too) tells which pages in those that are not too large.
"""

from __future__ import annotations

import fcntl
import os
import re
from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from struct import Struct
from typing import TYPE_CHECKING, Literal

from stead.ranges import Range

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

PAGE = os.sysconf("SC_PAGESIZE")

Way = Literal["scan", "pagemap", "smaps"]
State = Literal["resident", "swapped"]

# struct pm_scan_arg of uapi/linux/fs.h, and _IOWR('f', 16, struct pm_scan_arg).
_SCAN = Struct("<12Q")
_PAGEMAP_SCAN = 3 << 30 | _SCAN.size << 16 | ord("f") << 8 | 16
_PRESENT, _SWAPPED, _ZERO = 1 << 3, 1 << 4, 1 << 5
_VECTOR = 4096  # runs that one call tells

# Runs that are remembered for one process: memory whose every second page is touched has no end of them.
MOST_RUNS = 100_000
# A mapping of more pages than this is not read through pagemap: 64 MiB of text for 8 M of them.
_MOST_READ = 1 << 18
_ENTRY_PRESENT, _ENTRY_SWAPPED = 1 << 63, 1 << 62


@dataclass(slots=True)
class Pages:
    """Of one range: bytes, and runs ``(first page, pages, state)`` counted from its start; None where that is
    not known, or where there are too many runs."""

    resident: int | None = 0
    swapped: int | None = 0
    runs: list[tuple[int, int, State]] | None = field(default_factory=list)

    def count(self, size: int, state: State) -> None:
        if state == "resident":
            self.resident = (self.resident or 0) + size
        else:
            self.swapped = (self.swapped or 0) + size

    def add(self, first: int, count: int, state: State) -> None:
        """A run behind those there are."""
        self.count(count * PAGE, state)
        if self.runs is None:
            return
        if self.runs and self.runs[-1][2] == state and sum(self.runs[-1][:2]) == first:
            first, before, _ = self.runs.pop()
            count += before
        self.runs.append((first, count, state))


def read_pages(where: Sequence[Range], pid: int | None = None) -> tuple[Way, list[Pages]]:
    """The pages of each of these ranges, which are in order and do not overlap, and how they were found.

    Raises ProcessLookupError, PermissionError, and OSError where the kernel tells none of it.
    """
    process = "self" if pid is None else str(pid)
    try:
        return "scan", _spread(where, _scan(process, where))
    except (PermissionError, ProcessLookupError, FileNotFoundError):
        raise
    except OSError:
        return _by_text(process, where)  # ENOTTY: before 6.7; anything else: a sandbox


# ---- PAGEMAP_SCAN ---------------------------------------------------------------------------------


def _scan(process: str, where: Sequence[Range]) -> Iterator[tuple[int, int, State]]:
    """Runs as addresses and states. What a mapping shares is told as what this process has of it."""
    if not where:
        return
    runs = array("Q", bytes(_VECTOR * 24))
    vector = runs.buffer_info()[0]
    fd = os.open(f"/proc/{process}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        at, stop = where[0].start, where[-1].stop
        while at < stop:
            # size, flags, start, end, walk_end, vec, vec_len, max_pages, inverted, mask, anyof, return
            argument = bytearray(
                _SCAN.pack(
                    _SCAN.size, 0, at, stop, 0, vector, _VECTOR, 0, 0, 0,
                    _PRESENT | _SWAPPED, _PRESENT | _SWAPPED | _ZERO,
                )
            )  # fmt: skip
            count = fcntl.ioctl(fd, _PAGEMAP_SCAN, argument, True)
            for number in range(0, count * 3, 3):
                start, end, categories = runs[number : number + 3]
                if categories & _SWAPPED:
                    yield start, end, "swapped"
                elif not categories & _ZERO:  # the zero page is nobody's memory, and smaps does not count it
                    yield start, end, "resident"
            reached = _SCAN.unpack(argument)[4]
            if reached <= at:
                return
            at = reached
    finally:
        os.close(fd)


def _spread(where: Sequence[Range], runs: Iterable[tuple[int, int, State]]) -> list[Pages]:
    """Each run to the ranges that it lies in."""
    found = [Pages() for _ in where]
    starts = [each.start for each in where]
    total = 0
    for start, stop, state in runs:
        number = max(bisect_right(starts, start) - 1, 0)
        while number < len(where) and where[number].start < stop:
            inside = where[number].intersection(Range(start, stop))
            if inside is not None:
                first = (inside.start - where[number].start) // PAGE
                if total >= MOST_RUNS:
                    found[number].runs = None
                found[number].add(first, inside.size // PAGE, state)
                total += 1
            number += 1
    return found


# ---- smaps and pagemap ----------------------------------------------------------------------------

_HEAD = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) ")
_COUNT = re.compile(rb"(Rss|Swap|Shared_Hugetlb|Private_Hugetlb): +([0-9]+) kB")


def _by_text(process: str, where: Sequence[Range]) -> tuple[Way, list[Pages]]:
    whole = _smaps(process)
    starts = [each.start for each, _ in whole]
    try:
        fd = os.open(f"/proc/{process}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return "smaps", [_share(each, whole, starts) for each in where]
    found = []
    left = MOST_RUNS
    try:
        for each in where:
            pages = _share(each, whole, starts)
            if (pages.resident, pages.swapped) != (0, 0) and each.size // PAGE <= _MOST_READ and left > 0:
                pages = _read_runs(fd, each)
                left -= len(pages.runs or ())
            found.append(pages)
    finally:
        os.close(fd)
    return "pagemap", found


def _share(where: Range, whole: Sequence[tuple[Range, Pages]], starts: Sequence[int]) -> Pages:
    """What smaps says of a range: of a piece of what the kernel has as one mapping, nothing, unless the mapping
    is empty."""
    number = bisect_right(starts, where.start) - 1
    if number < 0 or not whole[number][0].overlaps(where):
        return Pages()
    mapping, pages = whole[number]
    if pages.resident == pages.swapped == 0:
        return Pages()
    return pages if mapping == where else Pages(None, None, None)


def _smaps(process: str) -> list[tuple[Range, Pages]]:
    found: list[tuple[Range, Pages]] = []
    with open(f"/proc/{process}/smaps", "rb") as file:
        for line in file:
            if head := _HEAD.match(line):
                found.append((Range(int(head[1], 16), int(head[2], 16)), Pages(runs=None)))
            elif found and (count := _COUNT.match(line)):
                found[-1][1].count(int(count[2]) * 1024, "swapped" if count[1] == b"Swap" else "resident")
    return found


def _read_runs(fd: int, where: Range) -> Pages:
    pages = Pages()
    entries = array("Q", os.pread(fd, where.size // PAGE * 8, where.start // PAGE * 8))
    for number, entry in enumerate(entries):
        if entry & _ENTRY_PRESENT:
            pages.add(number, 1, "resident")
        elif entry & _ENTRY_SWAPPED:
            pages.add(number, 1, "swapped")
    return pages
