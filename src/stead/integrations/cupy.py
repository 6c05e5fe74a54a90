"""CuPy's arrays in a device's arena.

arena = stead.Arena("1 GiB", backing=stead.DeviceMemory(0))
with stead.integrations.cupy.allocating_in(arena):
    x = cupy.zeros(1_000_000)           # in the arena; arrays outlive the context, and keep the arena alive
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from stead.errors import OutOfSpace
from stead.integrations.arenas import check_arena, check_on_cuda

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stead.arena import Arena

__all__ = ["allocating_in", "allocator"]

# What CuPy's own pool gives multiples of (cupy/cuda/memory.pyx, ALLOCATION_UNIT_SIZE).
_ALIGNMENT = 512


@contextmanager
def allocating_in(arena: Arena) -> Iterator[Arena]:
    """Arrays that this thread makes on the arena's device get their memory from ``arena``; nested, the innermost
    counts. They are like any others, and give it back wherever and whenever they end: then it is nobody else's
    before the stream that was current when they were made has done what it has to do, as in CuPy's own pool.

    Where there is no room CuPy raises cupy.cuda.memory.OutOfMemoryError. Raises TypeError, Released, Unsupported
    where the arena's memory is none of a CUDA device's, ImportError without CuPy.
    """
    import cupy

    with cupy.cuda.using_allocator(allocator(arena)):
        yield arena


def allocator(arena: Arena) -> Callable[[int], Any]:
    """For ``cupy.cuda.set_allocator``: all threads that set no other. Raises what ``allocating_in`` raises."""
    check_arena(arena)
    check_on_cuda(arena, "CuPy's arrays in an arena")
    import cupy

    device = arena._device

    def allocate(size: int) -> Any:
        try:
            block = arena.block(max(size, 1), _ALIGNMENT)
        except OutOfSpace as error:
            used = arena.statistics().used
            raise cupy.cuda.memory.OutOfMemoryError(size, used, arena.range.size) from error
        block.record_stream(int(cupy.cuda.get_current_stream().ptr))  # type: ignore[attr-defined]  # a DeviceBlock's
        memory = cupy.cuda.UnownedMemory(block.address, size, block, device)
        return cupy.cuda.MemoryPointer(memory, 0)

    return allocate
