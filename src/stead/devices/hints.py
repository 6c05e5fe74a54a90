"""At which places a driver follows a hint: asked of it, since no document says it.

A driver takes an address as a hint. NVIDIA's 580 on an H100 rounds one up to the next 32 MiB, whatever the size
and the alignment that is asked for, and so gives what was meant once in sixteen times where only the granularity
of memory (2 MiB) is kept. What is left of parcels that it has already goes first: so the question is asked with
more than that (docs/decisions/0016).
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from stead.devices.driver import DriverError

if TYPE_CHECKING:
    from stead.devices.driver import Driver
    from stead.ranges import Range

_FARTHEST = 1 << 30  # bytes; a driver that rounds further went somewhere else for another reason
_TRIES = 8


def followed_at(driver: Driver, granularity: int, window: Range) -> int:
    """Bytes, a power of two: ``driver`` follows hints in ``window`` that are multiples of it. The granularity
    where it does not tell: what it does is compared at each claim anyway."""
    apart = 8 * _FARTHEST
    for _ in range(_TRIES):
        base = random.randrange(-(-window.start // apart), window.stop // apart) * apart
        step = _goes_to(driver, granularity, base + granularity) - base
        if step == granularity:
            return granularity
        if granularity < step <= _FARTHEST and not step & (step - 1):
            again = base + 3 * step
            if _goes_to(driver, granularity, again) == again:
                return step
    return granularity


def _goes_to(driver: Driver, granularity: int, hint: int) -> int:
    try:
        got = driver.reserve(_FARTHEST, granularity, hint)
    except DriverError:  # one that refuses what it cannot follow
        return 0
    driver.free(got, _FARTHEST)
    return got
