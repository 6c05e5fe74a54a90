"""Memory by address, for tests: bytes, and whether the kernel has given pages."""

from __future__ import annotations

import ctypes
import mmap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stead.ranges import Range


def write(address: int, data: bytes) -> None:
    ctypes.memmove(address, data, len(data))


def read(address: int, size: int) -> bytes:
    return ctypes.string_at(address, size)


def resident(where: Range) -> int:
    """Bytes of it that are in memory: mincore(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    pages = (ctypes.c_ubyte * (where.size // mmap.PAGESIZE))()
    assert libc.mincore(ctypes.c_void_p(where.start), ctypes.c_size_t(where.size), pages) == 0
    return sum(each & 1 for each in pages) * mmap.PAGESIZE
