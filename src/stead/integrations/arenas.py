"""What every library that takes a device's memory asks of an arena first."""

from __future__ import annotations

from stead.arena import Arena
from stead.errors import Released, Unsupported


def check_arena(arena: Arena) -> None:
    """Raises TypeError where it is none, Released."""
    if not isinstance(arena, Arena):
        raise TypeError(f"arena is {arena!r}, must be a stead.Arena")
    if arena.closed:
        raise Released(f"{arena!r}")


def check_on_cuda(arena: Arena, what: str) -> None:
    """Raises Unsupported where its memory is none of a CUDA device's, which ``what`` needs."""
    if arena._untouchable != 2 or arena._device_kind != 2:  # kDLCUDA
        needs = "an arena in a CUDA device's memory: Arena(size, backing=stead.DeviceMemory(device))"
        raise Unsupported(what, needs, repr(arena))
