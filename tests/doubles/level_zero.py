"""The double of Level Zero's loader and a driver behind it: the face in level_zero.c."""

from __future__ import annotations

from ctypes import c_uint64

from doubles import Double, Face

LEVEL_ZERO = Face("libze_loader.so.1", ("level_zero.c", "level_zero_memory.c", "level_zero_order.c"))


class LevelZeroDouble(Double):
    """libze_loader.so.1: for LevelZeroDriver, by its path."""

    def set_old(self) -> None:
        """As drivers of some years ago, until the next reset."""
        self.library.double_set_old(1)

    def new_list(self, device: int = 0) -> int:
        """An immediate command list that keeps its work: its handle, which is its stream, too."""
        self.library.double_new_list.restype = c_uint64
        return int(self.library.double_new_list(device, 0))

    def pools(self) -> int:
        """Event pools that there are."""
        return int(self.library.double_pools())
