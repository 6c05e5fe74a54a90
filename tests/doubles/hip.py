"""The HIP runtime's double: the face in hip.c."""

from __future__ import annotations

from doubles import Double, Face

HIP = Face("libamdhip64.so.7", ("hip.c", "hip_memory.c"))


class HipDouble(Double):
    """libamdhip64.so: for HipDriver, by its path."""

    def set_version(self, number: int) -> None:
        """What hipRuntimeGetVersion says: 70200000 is 7.2. Manners follow it."""
        self.library.double_set_version(number)
