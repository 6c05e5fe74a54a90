"""The running kernel: the system calls of stead._native, and what /proc says of this process."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

from stead import _native
from stead.kernel import Limits
from stead.proc import read_number, stat_field
from stead.ranges import Range, RangeSet, align_up, gaps_between
from stead.snapshot import each_mapping_within, mappings_within, obstacle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stead.errors import Obstacle

_PAGE = os.sysconf("SC_PAGESIZE")

# stack_guard_gap: pages that the kernel keeps free below a stack (mm/mmap.c; 256 unless booted otherwise).
_STACK_GUARD_GAP = 256 * _PAGE
# With `ulimit -s unlimited` there is no number to keep clear; this much we leave to the stack.
_UNLIMITED_STACK = 1 << 40
# brk(2) has no limit of its own; nothing else lives near it, and a program that outgrows this uses mmap.
_HEAP_ROOM = 1 << 36


def heap_room(end: int) -> Range:
    """What a heap that ends at ``end`` may grow into."""
    return Range.sized(align_up(end, _PAGE), _HEAP_ROOM)


def stack_room(start: int, pid: int = 0) -> Range:
    """What the stack that began at ``start`` may grow into, itself included: by RLIMIT_STACK of process ``pid``
    (0: this one; ours, where we may not ask) and the guard gap."""
    try:
        soft = resource.prlimit(pid, resource.RLIMIT_STACK)[0]
    except OSError:
        soft = resource.getrlimit(resource.RLIMIT_STACK)[0]
    growth = _UNLIMITED_STACK if soft == resource.RLIM_INFINITY else soft
    return Range(max(start - growth - _STACK_GUARD_GAP, 0) // _PAGE * _PAGE, align_up(start, _PAGE))


def soft_limit(which: int) -> int | None:
    """The soft limit of a ``resource.RLIMIT_…``; None where there is none."""
    soft = resource.getrlimit(which)[0]
    return None if soft == resource.RLIM_INFINITY else soft


class LiveKernel:
    """The kernel this process runs on."""

    page_size = _PAGE
    claim = staticmethod(_native.claim)
    hint = staticmethod(_native.hint)
    place = staticmethod(_native.place)
    unmap = staticmethod(_native.unmap)
    protect = staticmethod(_native.protect)
    advise = staticmethod(_native.advise)
    name = staticmethod(_native.name)

    def __init__(self) -> None:
        floor = read_number("/proc/sys/vm/mmap_min_addr")
        # Page 0 stays out of reach of placements even where root may map it: a null pointer must fault.
        self.min_address = max(align_up(65536 if floor is None else floor, _PAGE), _PAGE)
        self.sanitizer = _native.sanitizer()
        self._stack = stat_field("self", 28) or 0  # where the main thread's stack began

    def mapped(self, window: Range) -> RangeSet:
        found = RangeSet(each.range for each in mappings_within(window))
        return RangeSet(found.overlapping(window))

    def lost(self, window: Range, *, committed: bool) -> Iterator[Range]:
        mapped = each_mapping_within(window)
        return gaps_between((each.range for each in mapped if committed or each.permissions[:3] == "---"), window)

    def obstacle(self, where: Range) -> Obstacle | None:
        return obstacle(where)

    def kept_clear(self) -> RangeSet:
        rooms = []
        if (end := _native.program_break()) > 0:
            rooms.append(heap_room(end))
        if self._stack:
            rooms.append(stack_room(self._stack))
        return RangeSet(rooms)

    def limits(self) -> Limits:
        mappings = 0
        address_space = data = 0
        try:
            with open("/proc/self/maps", "rb", buffering=0) as raw:
                # In small pieces: at the limit of mappings there is no memory for the whole of it.
                while piece := raw.read(4096):
                    mappings += piece.count(b"\n")
            with open("/proc/self/status") as file:
                for line in file:
                    if line.startswith("VmSize:"):
                        address_space = int(line.split()[1]) * 1024
                    elif line.startswith("VmData:"):
                        data = int(line.split()[1]) * 1024
        except OSError:
            pass  # no /proc: the limits that are left still say something
        policy = read_number("/proc/sys/vm/overcommit_memory")
        return Limits(
            mappings=mappings,
            max_mappings=read_number("/proc/sys/vm/max_map_count"),
            address_space=address_space,
            max_address_space=soft_limit(resource.RLIMIT_AS),
            data=data,
            max_data=soft_limit(resource.RLIMIT_DATA),
            overcommit={0: "heuristic", 1: "always", 2: "never"}.get(-1 if policy is None else policy, "unknown"),
        )
