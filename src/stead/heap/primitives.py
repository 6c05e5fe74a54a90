"""What SharedHeap makes besides blocks: a base class, so that heap.py stays readable."""

from __future__ import annotations

from typing import TYPE_CHECKING, SupportsIndex

from stead.heap.channel import Channel
from stead.heap.sync import Barrier, BoundedSemaphore, Condition, Lock, Semaphore

if TYPE_CHECKING:
    from collections.abc import Callable

    from stead.heap.heap import SharedHeap


class Primitives:
    """Each of these lives as long as any process holds it, can be sent anywhere, and all but ``channel`` cost 16
    bytes of the heap. A heap has at most 4096 of them. Each method raises what ``block`` does, and
    LimitReached."""

    __slots__ = ()

    def lock(self: SharedHeap) -> Lock:  # type: ignore[misc]
        """A Lock in the heap; it tells who acquires it next when its owner was killed."""
        return Lock._make(self)

    def condition(self: SharedHeap, lock: Lock | None = None) -> Condition:  # type: ignore[misc]
        """A Condition in the heap, with ``lock`` or a Lock of its own."""
        return Condition._make(self, lock)

    def semaphore(self: SharedHeap, value: int = 1) -> Semaphore:  # type: ignore[misc]
        """A Semaphore in the heap with ``value`` permits; those that a killed process had come back."""
        return Semaphore._make(self, value)

    def bounded_semaphore(self: SharedHeap, value: int = 1) -> BoundedSemaphore:  # type: ignore[misc]
        """A Semaphore that never has more than ``value`` permits."""
        return BoundedSemaphore._make(self, value, value)

    def barrier(  # type: ignore[misc]
        self: SharedHeap, parties: int, action: Callable[[], object] | None = None, timeout: float | None = None
    ) -> Barrier:
        """A Barrier in the heap for ``parties`` threads of any processes. ``action`` is called by the last one
        that arrives, before they go on; it travels with the barrier by pickle. ``timeout``: seconds, where
        ``wait`` does not say."""
        return Barrier._make(self, parties, action, timeout)

    def channel(  # type: ignore[misc]
        self: SharedHeap, capacity: SupportsIndex = 256, inline: SupportsIndex = 224, *, spin: float | None = None
    ) -> Channel:
        """A queue in the heap, from many processes to many, with room for ``capacity`` messages. Those of up to
        ``inline`` bytes (64 to 4096) need no block of their own; all of that is allocated at once. ``spin``:
        seconds to look again and again before sleeping, 20 us by default where there is more than one
        processor."""
        return Channel._make(self, capacity, inline, spin)
