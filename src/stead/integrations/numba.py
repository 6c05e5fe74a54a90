"""Numba's device arrays in arenas, by its External Memory Management.

    numba.cuda.set_memory_manager(stead.integrations.numba.memory_manager(arena))

before anything of Numba's is on the device: all device arrays of the process, one arena for each device.
https://nvidia.github.io/numba-cuda/user/external-memory.html, interface version 1.
"""

from __future__ import annotations

import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from stead.device_bytes import SentBytes
from stead.errors import Unsupported
from stead.integrations.arenas import check_arena, check_on_cuda

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stead._native import DeviceBlock
    from stead.arena import Arena

__all__ = ["IpcMemory", "memory_manager"]

# cuMemAlloc's multiples (CUDA C Programming Guide, "Size and Alignment Requirement") are of 256 bytes at least.
_ALIGNMENT = 512

# An event in it is behind all that was given to the streams that Numba makes: they wait for it, and it for them.
_LEGACY_STREAM = 0


class IpcMemory:
    """A device array's memory on its way to another process, where it has the same address. Numba calls it."""

    def __init__(self, sent: SentBytes, base: Any = None) -> None:
        self.size = sent.size
        self._sent, self._base = sent, base  # base: lives as long as the handle, where it was made

    def open(self, context: Any) -> Any:
        """A MemoryPointer. Raises what :meth:`stead.Handle.attach` raises."""
        from numba.cuda import MemoryPointer

        view = self._sent.arrive()
        return MemoryPointer(context, _pointer(view.address), view.nbytes, owner=view)

    def open_array(self, context: Any, shape: Any, dtype: Any, strides: Any = None) -> Any:
        """A DeviceNDArray."""
        from numba.cuda.cudadrv.devicearray import DeviceNDArray

        if strides is None:
            strides = _contiguous(shape, dtype.itemsize)
        return DeviceNDArray(shape=shape, strides=strides, dtype=dtype, gpu_data=self.open(context))

    def close(self) -> None:
        """Nothing is counted: what was opened goes with the last array over it."""

    def __reduce__(self) -> Any:
        return IpcMemory, (self._sent,)


def memory_manager(*arenas: Arena) -> type:
    """A class for ``numba.cuda.set_memory_manager``. Where an arena has no room OutOfSpace is raised, Unsupported
    on a device without an arena.

    A freed array's memory is nobody else's before all that Numba's streams had to do then is done; streams made
    elsewhere as non-blocking ones must be waited for before. Host memory is Numba's own business.

    Raises TypeError, Released, ValueError where two arenas are on one device, or none is given; Unsupported where
    the memory is none of a CUDA device's; ImportError without Numba."""
    by_device = _by_device(arenas)
    from numba.cuda import HostOnlyCUDAMemoryManager, MemoryInfo, MemoryPointer

    class SteadMemoryManager(HostOnlyCUDAMemoryManager):  # type: ignore[misc]  # Numba is not typed
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            self._deferring = 0
            self._deferred: list[DeviceBlock] = []

        interface_version = 1

        def initialize(self) -> None:
            """Nothing is to be done."""

        def memalloc(self, size: int) -> Any:
            block: Any = self._arena().block(max(int(size), 1), _ALIGNMENT)
            block.record_stream(_LEGACY_STREAM)
            self.allocations[block.address] = block  # which the base class clears when its context is reset
            known = weakref.ref(self), block.address, weakref.ref(block)
            return MemoryPointer(self.context, _pointer(block.address), size, finalizer=lambda: _freed(*known))

        def get_ipc_handle(self, memory: Any) -> IpcMemory:
            sent = SentBytes.of(int(memory.handle), memory.size)
            if sent is None:
                raise Unsupported("sending an array", "memory of an arena's", f"{int(memory.handle):#x}")
            return IpcMemory(sent, memory)

        def get_memory_info(self) -> Any:
            arena = self._arena()
            return MemoryInfo(free=arena.range.size - arena.statistics().used, total=arena.range.size)

        @contextmanager
        def defer_cleanup(self) -> Iterator[None]:
            with super().defer_cleanup():
                self._deferring += 1
                try:
                    yield
                finally:
                    self._deferring -= 1
                    if not self._deferring:
                        self._deferred.clear()

        def _arena(self) -> Arena:
            device = int(self.context.device.id)
            if device not in by_device:
                found = f"arenas on devices {', '.join(map(str, by_device))}"
                raise Unsupported(f"Numba's arrays on device {device}", "an arena there", found)
            return by_device[device]

    return SteadMemoryManager


def _freed(manager: weakref.ref[Any], address: int, block: weakref.ref[DeviceBlock]) -> None:
    """Of a pointer whose context was reset the block has gone before; its address may be another's."""
    it, gone = manager(), block()
    if it is None or gone is None or it.allocations.get(address) is not gone:
        return
    del it.allocations[address]
    if it._deferring:
        it._deferred.append(gone)


def _by_device(arenas: tuple[Arena, ...]) -> dict[int, Arena]:
    if not arenas:
        raise ValueError("arenas is empty, must be at least one")
    found: dict[int, Arena] = {}
    for arena in arenas:
        check_arena(arena)
        check_on_cuda(arena, "Numba's arrays in an arena")
        if found.setdefault(arena._device, arena) is not arena:
            raise ValueError(f"arenas has two on device {arena._device}, must have one: {arena!r} is the second")
    return found


def _pointer(address: int) -> Any:
    import ctypes

    return ctypes.c_void_p(address)  # which MemoryPointer takes in every version


def _contiguous(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    strides: list[int] = []
    for length in reversed(shape):
        strides.insert(0, size)
        size *= length
    return tuple(strides)
