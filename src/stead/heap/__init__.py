"""Blocks that processes share, at the same addresses in all of them: see :class:`stead.SharedHeap`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stead.heap.block import SharedBlock
from stead.heap.channel import Channel
from stead.heap.handle import HeapHandle
from stead.heap.heap import SharedHeap
from stead.heap.objects import Ref
from stead.heap.statistics import HeapStatistics, Holder
from stead.heap.sync import Barrier, BoundedSemaphore, Condition, Lock, Semaphore

if TYPE_CHECKING:
    from typing import Any

    from stead.heap.arrays import HeapArray

__all__ = [
    "Barrier",
    "BoundedSemaphore",
    "Channel",
    "Condition",
    "HeapArray",
    "HeapHandle",
    "HeapStatistics",
    "Holder",
    "Lock",
    "Ref",
    "Semaphore",
    "SharedBlock",
    "SharedHeap",
]


def __getattr__(name: str) -> Any:
    if name == "HeapArray":  # needs NumPy, which stead does not
        from stead.heap.arrays import HeapArray

        return HeapArray
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
