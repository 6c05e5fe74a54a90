"""stead.torch.allocating_in, pause, resume, release: with PyTorch's own classes as far as a PyTorch without CUDA
has them, in their place what its documentation says of MemPool, and the driver's double."""

from __future__ import annotations

import ctypes
import pickle
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

import stead
from conftest import need

need("torch")
need("cuda.bindings")

import torch  # noqa: E402

import stead.torch  # noqa: E402
from stead import _native  # noqa: E402
from stead.heap import tensors  # noqa: E402
from stead.integrations import torch as plugin  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from doubles import CudaDouble

MIB = 1 << 20
ALLOCATE = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p)
FREE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p)


class Pool:
    """What MemPool is documented to do: segments of an allocator's, kept until the pool is emptied."""

    all: list[Pool]

    def __init__(self, functions: tuple[int, int]) -> None:
        self.allocate, self.free = ALLOCATE(functions[0]), FREE(functions[1])
        self.segments: dict[int, int] = {}  # sizes of tensors by address: 0 is a cached one
        Pool.all.append(self)

    def tensor(self, size: int, stream: int = 0) -> int:
        address = self.allocate(size, 0, stream)
        if address is None:
            raise torch.OutOfMemoryError(f"{size} bytes")
        self.segments[address] = size
        return int(address)

    def delete(self, address: int) -> None:
        self.segments[address] = 0


class Cuda:
    """torch.cuda of one process: the pool that each thread's tensors come from, outermost first."""

    def __init__(self) -> None:
        self.entered: list[Pool] = []
        self.device = 0

    @contextmanager
    def use_mem_pool(self, pool: Pool, device: int | None = None) -> Iterator[None]:
        assert pool not in self.entered, "beginAllocateToPool: already recording to mempool_id"
        self.entered.append(pool)
        try:
            yield
        finally:
            self.entered.remove(pool)

    def tensor(self, size: int) -> int:
        return self.entered[-1].tensor(size)

    def memory_snapshot(self) -> list[dict[str, int]]:
        return [
            {"address": address, "active_size": size}
            for pool in Pool.all
            for address, size in pool.segments.items()
        ]

    def empty_cache(self) -> None:
        for pool in Pool.all:
            for address in [address for address, size in pool.segments.items() if not size]:
                pool.free(address, 0, 0, None)
                del pool.segments[address]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, cuda_double: CudaDouble) -> Cuda:
    Pool.all = []
    made = Cuda()
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch._C, "_cuda_customAllocator", lambda *functions: functions, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: made.device)
    monkeypatch.setattr(torch.cuda, "MemPool", Pool, raising=False)
    for name in ("use_mem_pool", "memory_snapshot", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, getattr(made, name), raising=False)
    return made


@pytest.fixture
def arena(cuda: Cuda) -> Iterator[stead.Arena]:
    with stead.Arena("8 MiB", backing=stead.DeviceMemory(0)) as arena:
        yield arena
        if not arena.closed:
            for pool in Pool.all:
                pool.segments = dict.fromkeys(pool.segments, 0)
            stead.torch.release(arena)


def test_what_is_made_inside_is_in_the_arena(arena: stead.Arena, cuda: Cuda) -> None:
    with stead.torch.allocating_in(arena) as given:
        assert given is arena
        first = cuda.tensor(MIB)
    assert arena.owns(first)
    assert cuda.entered == []
    with stead.torch.allocating_in(arena):
        assert arena.owns(cuda.tensor(MIB))
    assert len(Pool.all) == 1  # what was freed in the first is cached for the second


def test_several_arenas_and_the_same_again_inside(arena: stead.Arena, cuda: Cuda) -> None:
    with stead.Arena("8 MiB", backing=stead.DeviceMemory(0)) as another:
        with stead.torch.allocating_in(arena):
            with stead.torch.allocating_in(another):
                inner = cuda.tensor(MIB)
                with stead.torch.allocating_in(arena):
                    innermost = cuda.tensor(MIB)
            outer = cuda.tensor(MIB)
        assert [another.owns(each) for each in (inner, innermost, outer)] == [True, False, False]
        assert arena.owns(innermost)
        assert arena.owns(outer)
        for pool in Pool.all:
            pool.segments = dict.fromkeys(pool.segments, 0)
        stead.torch.release(another)


def test_memory_is_there_before_it_begins_and_too_much_is_PyTorchs_error(arena: stead.Arena, cuda: Cuda) -> None:
    with stead.torch.allocating_in(arena, ahead="1 MiB"):
        first = arena.statistics().committed
        assert MIB <= first < 8 * MIB
        with pytest.raises(torch.OutOfMemoryError):
            cuda.tensor(8 * MIB)
    with stead.torch.allocating_in(arena):
        assert arena.statistics().committed == 8 * MIB
        cuda.tensor(8 * MIB)
    with pytest.raises(ValueError, match=r"ahead is 1048576, and .* may have 0 B more"):
        with stead.torch.allocating_in(arena, ahead=MIB):
            pass
    assert cuda.entered == []


def test_pause_gives_the_memory_back_and_keeps_addresses(
    arena: stead.Arena, cuda: Cuda, cuda_double: CudaDouble
) -> None:
    reservation = arena.reservation
    assert reservation
    with stead.torch.allocating_in(arena):
        tensor = cuda.tensor(MIB)
        with pytest.raises(BufferError, match=r"cannot pause .*being allocated in it \(1 times\)"):
            stead.torch.pause(arena, keep=True)
    with pytest.raises(BufferError, match="tensors have 1 MiB of it"):
        stead.torch.pause(arena)
    cuda_double.fill(1001, tensor, MIB, 7)
    stead.torch.pause(arena, keep=True)  # waits for the stream
    assert cuda_double.bytes() == 0
    with pytest.raises(stead.Paused):
        with stead.torch.allocating_in(arena):
            pass
    stead.torch.resume(arena)
    stead.torch.resume(arena)
    view: Any = reservation.view(tensor - reservation.address, MIB)
    assert view.read() == b"\7" * MIB
    del view
    Pool.all[0].delete(tensor)
    stead.torch.pause(arena)
    assert cuda_double.bytes() == 0
    stead.torch.resume(arena)
    with stead.torch.allocating_in(arena):
        assert arena.owns(cuda.tensor(MIB))


def test_an_arena_is_closed_when_PyTorch_has_given_all_back(arena: stead.Arena, cuda: Cuda) -> None:
    with stead.torch.allocating_in(arena):
        tensor = cuda.tensor(MIB)
        with pytest.raises(BufferError, match="cannot release"):
            stead.torch.release(arena)
    stead.torch.release(arena)
    with pytest.raises(BufferError, match="1 live block"):
        arena.close()
    Pool.all[0].delete(tensor)
    stead.torch.release(arena)
    arena.close()
    with pytest.raises(stead.Released):
        with stead.torch.allocating_in(arena):
            pass


def test_the_current_device_is_the_arenas(arena: stead.Arena, cuda: Cuda) -> None:
    cuda.device = 1
    with pytest.raises(ValueError, match="on device 0, and PyTorch's current device is 1"):
        with stead.torch.allocating_in(arena):
            pass
    with pytest.raises(ValueError, match=r"device is 1, and the memory of .* is on device 0"):
        stead.torch.use(arena, 1)


def test_an_error_inside_leaves_the_pool(arena: stead.Arena, cuda: Cuda) -> None:
    with pytest.raises(KeyError):
        with stead.torch.allocating_in(arena):
            raise KeyError
    assert (cuda.entered, plugin._pools[id(arena)].entered) == ([], 0)


def test_a_PyTorch_without_MemPool_is_told(
    arena: stead.Arena, cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch.cuda, "MemPool")
    with pytest.raises(stead.Unsupported, match=r"MemPool \(PyTorch 2.5\)"):
        with stead.torch.allocating_in(arena):
            pass


def test_each_arena_has_functions_of_its_own_by_name(arena: stead.Arena, cuda: Cuda) -> None:
    with stead.torch.allocating_in(arena):
        library = ctypes.CDLL(str(plugin.library()))
        name = f"{plugin.ALLOCATE}_{_native.torch_place(arena):02o}"
        expected = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
        assert ctypes.cast(Pool.all[-1].allocate, ctypes.c_void_p).value == expected


@pytest.mark.skipif(torch.version.cuda is not None, reason="this PyTorch was made for CUDA")
def test_a_PyTorch_without_CUDA_is_told(cuda_double: CudaDouble) -> None:
    with stead.Arena("8 MiB", backing=stead.DeviceMemory(0)) as arena:
        with pytest.raises(stead.Unsupported, match="a PyTorch that was made for CUDA"):
            with stead.torch.allocating_in(arena):
                pass
        with pytest.raises(stead.Unsupported, match="a PyTorch that was made for CUDA"):
            stead.torch.allocator(arena)
        stead.torch.pause(arena)
        stead.torch.resume(arena)


def test_what_is_no_arena_of_a_device_is_named() -> None:
    wrong: Any = "8 MiB"
    with pytest.raises(TypeError, match="arena is '8 MiB'"):
        with stead.torch.allocating_in(wrong):
            pass
    with (
        stead.Arena("8 MiB") as arena,
        pytest.raises(stead.Unsupported, match="an arena in a CUDA device's memory"),
    ):
        with stead.torch.allocating_in(arena):
            pass


class Tensor:
    """What the reducer asks of a tensor on a device, which a PyTorch without CUDA cannot make."""

    requires_grad, is_leaf, is_quantized, is_nested = False, True, False, False
    layout, dtype, shape = torch.strided, torch.float16, (3, 2)

    def __init__(self, address: int, size: int) -> None:
        self.device = torch.device("cuda:0")
        self.address, self.size = address, size

    def untyped_storage(self) -> Tensor:
        return self

    def data_ptr(self) -> int:
        return self.address

    def nbytes(self) -> int:
        return self.size

    def storage_offset(self) -> int:
        return 4

    def stride(self) -> tuple[int, ...]:
        return (2, 1)

    def is_conj(self) -> bool:
        return False

    is_neg = is_conj
    _backward_hooks = None


def test_a_tensor_on_a_device_is_sent_as_where_it_lies(
    cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[torch.device] = []

    class Stream:
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def synchronize(self) -> None:
            waited.append(self.device)

    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    reducer = tensors._Reducer(lambda tensor: "PyTorch's way")
    with stead.Arena("4 MiB", backing=stead.DeviceMemory(0, shareable=True)) as arena:
        address = arena.allocate(1000)
        arrive, (sent, shape) = reducer(Tensor(address, 1000))
        assert waited == [torch.device("cuda:0")]
        assert arrive is tensors._arrive_device_tensor
        assert pickle.loads(pickle.dumps(shape)) == shape
        assert (shape.dtype, shape.offset, shape.shape, shape.stride) == (torch.float16, 4, (3, 2), (2, 1))
        view = pickle.loads(pickle.dumps(sent)).arrive()
        assert (view.address, view.nbytes, view.__dlpack_device__()) == (address, 1000, (2, 0))
        del view
        assert reducer(Tensor(0x1000, 10)) == "PyTorch's way"
        arena.free(address)
    with stead.Arena("4 MiB", backing=stead.DeviceMemory(0)) as arena:
        address = arena.allocate(1000)
        with pytest.raises(stead.Unsupported, match=r"shareable=True"):
            reducer(Tensor(address, 1000))
        arena.free(address)
