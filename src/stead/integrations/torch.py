"""PyTorch's tensors on a device, in an arena: at addresses that are known and stay.

    arena = stead.Arena("8 GiB", backing=stead.DeviceMemory(0))
    with stead.torch.allocating_in(arena):
        weights = model.to("cuda")          # in the arena, and only what is made here

``torch.cuda.memory.CUDAPluggableAllocator`` loads C functions from stead's compiled module. In a
``torch.cuda.MemPool`` PyTorch's caching allocator is above them: it asks for segments (2 MiB and more), cuts them
into tensors by its own rules, and gives a segment back when it empties the pool. With ``change_current_allocator``
they are called for every tensor of the process.

A free waits for nothing: the block is nobody else's before the stream that it names has done what it has to do.
"""

from __future__ import annotations

import ctypes
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, SupportsIndex

from stead import _native
from stead.devices import spaces
from stead.errors import Paused, Unsupported
from stead.heap import travel
from stead.integrations.arenas import check_arena, check_on_cuda
from stead.sizes import format_size, parse_at_least, parse_int

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stead.arena import Arena
    from stead.reservation import Reservation

__all__ = ["ALLOCATE", "FREE", "allocating_in", "allocator", "library", "pause", "release", "resume", "use"]

ALLOCATE = "stead_torch_allocate"
"""``void *(ssize_t size, int device, cudaStream_t stream)``: what PyTorch calls alloc_fn."""

FREE = "stead_torch_free"
"""``void (void *data, ssize_t size, int device, cudaStream_t stream)``: what PyTorch calls free_fn."""

# What native/behind.c calls, in its order.
_CALLS = (
    "cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2", "cuCtxSynchronize", "cuEventCreate", "cuEventRecord",
    "cuEventQuery", "cuEventSynchronize", "cuEventDestroy_v2",
)  # fmt: skip


# ---- for a while -------------------------------------------------------------------------------------


class _Pools:
    """The pools of one arena. Several, since PyTorch lets one be entered once at a time; what is freed in one
    is cached there. What PyTorch may still call is never let go of."""

    def __init__(self, torch: Any, arena: Arena) -> None:
        _order(arena, arena._device)
        name = f"{ALLOCATE}_{_native.torch_place(arena):02o}"
        self._torch = torch
        self._allocator = torch.cuda.memory.CUDAPluggableAllocator(str(library()), name, FREE)
        self._lock = threading.Lock()
        self._idle: list[Any] = []
        self.entered = 0

    def enter(self) -> Any:
        with self._lock:
            pool = self._idle.pop() if self._idle else self._torch.cuda.MemPool(self._allocator.allocator())
            self.entered += 1
            return pool

    def leave(self, pool: Any) -> None:
        with self._lock:
            self.entered -= 1
            self._idle.append(pool)

    def check_left(self, doing: str, arena: Arena) -> None:
        if self.entered:
            raise BufferError(
                f"cannot {doing} {arena!r}: tensors are being allocated in it ({self.entered} times)"
            )

    def empty(self, arena: Arena) -> None:
        with self._lock:
            self.check_left("release", arena)
            self._idle.clear()
        # The pools go with their last reference, and what they had cached with the next emptying.
        self._torch.cuda.empty_cache()


_pools: dict[int, _Pools] = {}  # by arenas' ids, which the places of native/torch.c keep alive
_making = threading.Lock()


@contextmanager
def allocating_in(arena: Arena, *, ahead: SupportsIndex | str | None = None) -> Iterator[Arena]:
    """Tensors that this thread makes on the arena's device live in ``arena``; nested, the innermost counts.

    They keep their addresses, and are used and freed anywhere; other threads, such as those of a backward pass,
    allocate as ever. ``ahead``: bytes (or text) for which memory is committed before it begins, by default all
    that the arena may have: PyTorch allocates with a lock held under which the arena cannot grow. Where there is
    no room PyTorch raises torch.OutOfMemoryError.

    Raises TypeError, Released, Paused, LimitReached, ImportError without PyTorch; Unsupported where the arena's
    memory is none of a CUDA device's, or PyTorch was made without CUDA, sees no device, or is older than MemPool
    (2.5); ValueError where PyTorch's current device is another.
    """
    check_arena(arena)
    reservation = _reservation(arena)
    wanted = None if ahead is None else parse_at_least(ahead, "ahead", 0)
    torch = _cuda_torch()
    if (current := torch.cuda.current_device()) != arena._device:
        raise ValueError(
            f"arena is {arena!r} on device {arena._device}, and PyTorch's current device is {current}: "
            f"enter torch.cuda.device({arena._device}) first"
        )
    with _making:
        pools = _pools.get(id(arena)) or _Pools(torch, arena)
        _pools[id(arena)] = pools
    pool = pools.enter()
    try:
        if reservation.paused:
            raise Paused(f"{arena!r} is paused: resume it first", range=arena.range)
        arena._commit_ahead(wanted)
        travel.register()
        with torch.cuda.use_mem_pool(pool, device=arena._device):
            yield arena
    finally:
        pools.leave(pool)


def pause(arena: Arena, *, keep: bool | None = None) -> None:
    """Give the arena's memory to another tenant of the device until :func:`resume`; tensors, and CUDA graphs over
    them, keep their addresses. Waits for what the device still does.

    ``keep``: True, contents are on the host meanwhile; False, they are undefined afterwards. By default there may
    be no tensor. Until resume nothing may use one: the device faults, and its context with it.

    Raises BufferError where tensors live, or are being allocated; what :meth:`stead.Reservation.pause` raises.
    """
    check_arena(arena)
    reservation = _reservation(arena)
    if (pools := _pools.get(id(arena))) is not None:
        pools.check_left("pause", arena)
        if keep is None and (live := _live(arena)):
            raise BufferError(
                f"cannot pause {arena!r}: tensors have {format_size(live)} of it; delete them, or say what "
                "becomes of their contents: keep=True or keep=False"
            )
    reservation.pause(keep=bool(keep))


def resume(arena: Arena) -> None:
    """Put memory behind the arena again, at the same addresses; nothing where it is not paused. Raises what
    :meth:`stead.Reservation.resume` raises."""
    check_arena(arena)
    _reservation(arena).resume()


def release(arena: Arena) -> None:
    """Have PyTorch give back what it caches in the arena, so that it can be closed once its last tensor is gone.
    Empties PyTorch's other caches, too. Raises BufferError where tensors are being allocated in it."""
    if (pools := _pools.get(id(arena))) is not None:
        pools.empty(arena)


def _live(arena: Arena) -> int:
    """Bytes of tensors, and of what streams still use."""
    segments = _cuda_torch().cuda.memory_snapshot()
    return sum(each["active_size"] for each in segments if arena.range.start <= each["address"] < arena.range.stop)


def _reservation(arena: Arena) -> Reservation:
    check_on_cuda(arena, "PyTorch's tensors in an arena for a while")
    assert arena.reservation is not None
    return arena.reservation


def _cuda_torch() -> Any:
    import torch

    what = "PyTorch's tensors in an arena"
    if torch.version.cuda is None:
        raise Unsupported(what, "a PyTorch that was made for CUDA", f"PyTorch {torch.__version__} without it")
    if not torch.cuda.is_available():
        raise Unsupported(what, "a device that PyTorch can use", f"none for PyTorch {torch.__version__}")
    if not hasattr(torch.cuda, "MemPool") or not hasattr(torch.cuda, "use_mem_pool"):
        needs = "torch.cuda.MemPool (PyTorch 2.5); or stead.torch.allocator for all of the process"
        raise Unsupported(f"{what} for a while", needs, f"PyTorch {torch.__version__}")
    return torch


# ---- for all of the process --------------------------------------------------------------------------


def library() -> Path:
    """The shared library that has the functions."""
    from pathlib import Path

    return Path(str(_native.__file__))


def use(arena: Arena | None, device: SupportsIndex = 0, *, ordered: bool = True) -> None:
    """From now on ``ALLOCATE`` gives ``arena``'s blocks out for ``device``; None: a null pointer for everyone.

    ``ordered``: a free comes behind what its stream has to do, where this process has a CUDA driver; without it,
    at once. The arena is kept for the life of the process, since tensors in it may be freed at any time. Raises
    TypeError, ValueError, Released, DriverError."""
    number = parse_int(device, "device")
    if not 0 <= number < 1 << 31:
        raise ValueError(f"device is {device!r}, must be from 0 to {(1 << 31) - 1}")
    if arena is not None:
        check_arena(arena)
        if arena._untouchable == 2 and arena._device != number:
            raise ValueError(f"device is {number}, and the memory of {arena!r} is on device {arena._device}")
        if ordered:
            with suppress(Unsupported):  # no driver, and so no stream that has anything to do
                _order(arena, number)
    _native.torch_use(number, arena)


def allocator(arena: Arena, device: SupportsIndex = 0) -> Any:
    """A ``torch.cuda.memory.CUDAPluggableAllocator`` that allocates in ``arena``, for
    ``torch.cuda.memory.change_current_allocator``: all tensors of the process. ``record_stream`` does nothing then
    (PyTorch's rule for such allocators): a tensor that another stream uses must outlive that.

    Raises what ``use`` raises, ImportError without PyTorch, Unsupported in a PyTorch without CUDA."""
    import torch

    if not hasattr(torch._C, "_cuda_customAllocator"):
        found = f"PyTorch {torch.__version__} without it"
        raise Unsupported("an allocator for PyTorch", "a PyTorch that was made for CUDA", found)
    use(arena, device)
    return torch.cuda.memory.CUDAPluggableAllocator(str(library()), ALLOCATE, FREE)


def _order(arena: Arena, device: int) -> None:
    """Have the arena's frees come behind their streams. Raises Unsupported without a driver, DriverError."""
    driver: Any = spaces.driver("cuda")
    cuda = ctypes.CDLL("libcuda.so.1")
    addresses = (ctypes.cast(getattr(cuda, name), ctypes.c_void_p).value or 0 for name in _CALLS)
    arena._order_by(driver.context(device), tuple(addresses))
