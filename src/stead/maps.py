"""Text of /proc/<pid>/maps → mappings. Pure: reads no file, asks no kernel.

The format is proc_pid_maps(5) and show_map_vma() in fs/proc/task_mmu.c.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from stead.errors import UnreadableMaps
from stead.ranges import Range

if TYPE_CHECKING:
    from collections.abc import Iterable


class Kind(StrEnum):
    """What a mapping is for."""

    HEAP = "heap"
    STACK = "stack"
    VDSO = "vdso"  # and what else the kernel maps for itself: [vvar], [vsyscall], [uprobes]
    FILE = "file"
    SHARED_MEMORY = "shared memory"
    ANONYMOUS = "anonymous"
    OURS = "ours"


@dataclass(frozen=True, slots=True)
class Mapping:
    """One mapping, as the kernel tells it. ``name`` is the path, the memfd's name, or "[heap]" and the like."""

    range: Range
    permissions: str
    offset: int
    device: tuple[int, int]
    inode: int
    name: str
    deleted: bool
    kind: Kind

    @property
    def reserved(self) -> bool:
        """Inaccessible and without a file: addresses held, no memory."""
        return self.permissions[:3] == "---" and not self.inode


_LINE = re.compile(
    r"([0-9a-fA-F]{1,16})-([0-9a-fA-F]{1,16}) ([-r][-w][-x][-sp]) ([0-9a-fA-F]{1,16}) "
    r"([0-9a-fA-F]{1,8}):([0-9a-fA-F]{1,8}) ([0-9]{1,20})(?: +(.*))?",
    re.ASCII | re.DOTALL,
)

_DELETED = " (deleted)"
# Names of mappings that the kernel sets up in every process.
_OF_THE_KERNEL = {"[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]", "[vectors]", "[sigpage]", "[uprobes]"}


def parse(text: str) -> list[Mapping]:
    """Every mapping of a maps file, in order of address.

    Raises UnreadableMaps, which names the line, for a line that cannot be read and for a text that ends
    in the middle of one: a mapping that we do not know of would pass for free space.
    """
    # Not splitlines(): a file name may hold U+2028 or a form feed. The kernel escapes "\n" alone.
    lines = text.split("\n")
    if lines.pop():
        raise UnreadableMaps(len(lines) + 1, text.rpartition("\n")[2], "it ends without a newline")
    return _once(map(_parse_line, lines, range(1, len(lines) + 1)))


def _parse_line(line: str, number: int) -> Mapping:
    fields = _LINE.fullmatch(line)
    if not fields:
        raise UnreadableMaps(number, line, "it is not of the form of proc_pid_maps(5)")
    where = Range(int(fields[1], 16), int(fields[2], 16))
    if where.start >= where.stop:
        raise UnreadableMaps(number, line, "its range stops before it starts")
    device = (int(fields[5], 16), int(fields[6], 16))
    name = (fields[8] or "").replace("\\012", "\n")
    return mapping(where, fields[3], int(fields[4], 16), device, int(fields[7]), name)


def mapping(
    where: Range, permissions: str, offset: int, device: tuple[int, int], inode: int, name: str
) -> Mapping:
    """One mapping from the fields that the kernel gives, ``name`` unescaped."""
    deleted = inode != 0 and name.endswith(_DELETED)
    if deleted:
        name = name[: -len(_DELETED)]
    return Mapping(
        where, permissions, offset, device, inode, name, deleted, _kind(name, permissions, inode, deleted)
    )


def _kind(name: str, permissions: str, inode: int, deleted: bool) -> Kind:
    if name == "[heap]":
        return Kind.HEAP
    if name.startswith("[stack"):  # and [stack:<tid>], up to Linux 4.4
        return Kind.STACK
    if name in _OF_THE_KERNEL:
        return Kind.VDSO
    if not inode and not name.startswith("/"):
        return Kind.SHARED_MEMORY if permissions[3] == "s" else Kind.ANONYMOUS
    if deleted and name == "/anon_hugepage":  # MAP_ANONYMOUS | MAP_HUGETLB, which the kernel gives a file
        return Kind.SHARED_MEMORY if permissions[3] == "s" else Kind.ANONYMOUS
    if name.startswith(("/dev/shm/", "/SYSV", "[anon_shmem:")) or (
        deleted and name.startswith(("/memfd:", "/dev/zero"))
    ):
        return Kind.SHARED_MEMORY
    return Kind.FILE


def _once(mappings: Iterable[Mapping]) -> list[Mapping]:
    """While others map, the kernel may list a range again: its old extent, then the one it has grown to,
    which may take in several that were listed before."""
    kept: list[Mapping] = []
    for each in mappings:
        if kept and kept[-1].range.contains(each.range):
            continue
        while kept and each.range.contains(kept[-1].range):
            kept.pop()
        kept.append(each)
    return kept
