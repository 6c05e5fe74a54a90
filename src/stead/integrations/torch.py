"""PyTorch's tensors on a device, in an arena: ``torch.cuda.memory.CUDAPluggableAllocator`` loads two C
functions from stead's compiled module and calls them for every tensor, from any thread.

    arena = stead.Arena(reservation_with_device_memory, backing="none")
    torch.cuda.memory.change_current_allocator(stead.integrations.torch.allocator(arena))

A block is freed for everyone as soon as the stream that it is freed on has come to its end: stead waits for
that, since the next tensor in the same place may be another stream's. Where an arena has no room the function
returns a null pointer, as cudaMalloc would; PyTorch does not look for that before the tensor is used."""

from __future__ import annotations

import ctypes
from operator import index
from typing import TYPE_CHECKING, Any, SupportsIndex

from stead import _native
from stead.arena import Arena
from stead.errors import Released

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ALLOCATE", "FREE", "allocator", "library", "use"]

ALLOCATE = "stead_torch_allocate"
"""``void *(ssize_t size, int device, cudaStream_t stream)``: what PyTorch calls alloc_fn."""

FREE = "stead_torch_free"
"""``void (void *data, ssize_t size, int device, cudaStream_t stream)``: what PyTorch calls free_fn."""


def library() -> Path:
    """The shared library that has the two functions."""
    from pathlib import Path

    return Path(str(_native.__file__))


def use(arena: Arena | None, device: SupportsIndex = 0, *, synchronize: int | None = None) -> None:
    """From now on tensors of ``device`` live in ``arena``; None: nowhere, a null pointer for every one.

    ``synchronize``: the address of a C function that waits for a stream, called before each free; by default
    the CUDA driver's cuStreamSynchronize if it is there; 0: none. The arena is kept for the life of the
    process, since tensors in it may be freed at any time. Raises TypeError, ValueError, Released."""
    if arena is not None and not isinstance(arena, Arena):
        raise TypeError(f"arena is {arena!r}, must be a stead.Arena")
    if arena is not None and arena.closed:
        raise Released(f"{arena!r}")
    if isinstance(device, bool) or not isinstance(device, SupportsIndex):
        raise TypeError(f"device is {device!r}, must be an int")
    if not 0 <= index(device) < 1 << 31:
        raise ValueError(f"device is {device!r}, must be from 0 to {(1 << 31) - 1}")
    _native.torch_use(index(device), arena, _stream_synchronize() if synchronize is None else synchronize)


def allocator(arena: Arena, device: SupportsIndex = 0) -> Any:
    """A ``torch.cuda.memory.CUDAPluggableAllocator`` that allocates in ``arena``. Raises what ``use`` raises,
    ImportError without PyTorch, and what that class raises in a PyTorch without CUDA."""
    from torch.cuda.memory import CUDAPluggableAllocator

    use(arena, device)
    return CUDAPluggableAllocator(str(library()), ALLOCATE, FREE)


def _stream_synchronize() -> int:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    return ctypes.cast(driver.cuStreamSynchronize, ctypes.c_void_p).value or 0
