"""Where memory lies: in which block of which heap of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from stead import _native
from stead.heap import registry
from stead.heap.block import hold
from stead.heap.handle import arrive, sent

if TYPE_CHECKING:
    from collections.abc import Callable

    from stead.heap.heap import SharedHeap


class Bytes(NamedTuple):
    """Bytes in a block that this process holds. ``start``: the block's."""

    heap: SharedHeap
    start: int
    generation: int
    address: int
    size: int

    def sent(self) -> tuple[Any, ...]:
        """For the pickle that carries them: the block is in transit from here on."""
        return (*sent(self.heap, self.start), *self[1:])


def find(address: int, size: int) -> Bytes | None:
    """None for what is in no heap, in a block that this process does not hold, or in no single block."""
    heap = registry.at(address) if size else None
    if heap is None or heap.closed:
        return None
    code, start, usable, generation = heap._find(address)
    if code not in (_native.HEAP_DONE, _native.HEAP_INTERIOR):
        return None
    if address + size > start + usable or not heap._held(start):
        return None
    return Bytes(heap, start, generation, address, size)


def arrive_at(
    identity: bytes, handle: bytes, start: int, generation: int, address: int, size: int,
    readonly: bool, make: Callable[[_native.Exporter], Any],
) -> Any:  # fmt: skip
    """What ``make`` makes of the bytes that were sent; it holds their block as long as it keeps what it is
    given."""

    def found(heap: SharedHeap) -> Any:
        heap._received(start, generation, address + size - start)
        return make(_native.Exporter(address, size, readonly, hold(heap, start)))

    return arrive(identity, handle, found)
