"""Mappings set aside, so that nobody ever finds none left.

At vm.max_map_count the kernel refuses even to free: replacing a mapping may split one. Worse, the interpreter
itself cannot get memory any more, and a MemoryError comes up wherever it happens to be. So a space that
commits holds a few mappings it does not need, gives them up when the limit is reached, and commits nothing
more before it has them back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stead import _native

if TYPE_CHECKING:
    from stead.kernel import Kernel

MAPPINGS = 32


class Headroom:
    """``MAPPINGS`` pages in a row that do not merge, inaccessible and readable in turn."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._size = MAPPINGS * kernel.page_size
        self._start: int | None = None

    def take(self) -> bool:
        """Hold the mappings; False where there are not so many left."""
        if self._start is not None:
            return True
        start = self._kernel.hint(0, self._size)
        if start < 0:
            return False
        page = self._kernel.page_size
        for address in range(start, start + self._size, 2 * page):
            if self._kernel.protect(address, page, _native.PROT_READ) < 0:
                self._kernel.unmap(start, self._size)
                return False
        self._start = start
        return True

    def give(self) -> int:
        """Let them go; how many that makes."""
        if self._start is None:
            return 0
        self._kernel.unmap(self._start, self._size)
        self._start = None
        return MAPPINGS
