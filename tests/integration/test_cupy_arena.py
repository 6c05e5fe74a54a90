"""CuPy's own allocation, over an arena on the driver's double: CuPy asks the runtime, which needs a device, only
for the current stream."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import stead
from conftest import need

need("cupy")
need("cuda.bindings")

import cupy  # noqa: E402

from stead.integrations import cupy as plugin  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from doubles import CudaDouble

MIB = 1 << 20


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    current = SimpleNamespace(ptr=1001)
    monkeypatch.setattr(cupy.cuda, "get_current_stream", lambda: current)
    return current


@pytest.fixture
def arena(cuda_double: CudaDouble) -> Iterator[stead.Arena]:
    with stead.Arena("8 MiB", backing=stead.DeviceMemory(0)) as arena:
        yield arena
        gc.collect()


def test_arrays_are_in_the_arena_and_outlive_the_context(
    arena: stead.Arena, stream: SimpleNamespace, cuda_double: CudaDouble
) -> None:
    before = cupy.cuda.get_allocator()
    with plugin.allocating_in(arena) as given:
        assert given is arena
        array = cupy.ndarray((1000,), "f8")
        empty = cupy.ndarray((0,), "f8")
    assert cupy.cuda.get_allocator() == before
    assert arena.owns(array.data.ptr)
    assert (arena.size_of(array.data.ptr) >= 8000, array.data.ptr % 512, array.data.device_id) == (True, 0, 0)
    part = array[10:]
    del array, empty
    cuda_double.run(1001)
    assert arena.statistics().blocks == 1
    del part
    cuda_double.run(1001)
    assert arena.statistics().blocks == 0


def test_a_freed_array_waits_for_the_stream_it_was_made_on(
    arena: stead.Arena, stream: SimpleNamespace, cuda_double: CudaDouble
) -> None:
    with plugin.allocating_in(arena):
        array = cupy.ndarray((4 * MIB,), "u1")
        where = array.data.ptr
        cuda_double.fill(1001, where, 1, 1)
        del array
        other = cupy.ndarray((4 * MIB,), "u1")
        assert other.data.ptr != where
        cuda_double.run(1001)
        again = cupy.ndarray((4 * MIB,), "u1")
        assert again.data.ptr == where
        del other, again
        cuda_double.run(1001)


def test_no_room_is_CuPys_error(arena: stead.Arena, stream: SimpleNamespace) -> None:
    with plugin.allocating_in(arena), pytest.raises(cupy.cuda.memory.OutOfMemoryError):
        cupy.ndarray((9 * MIB,), "u1")


def test_what_is_no_arena_of_a_device_is_named(arena: stead.Arena) -> None:
    wrong: Any = "8 MiB"
    with pytest.raises(TypeError, match="arena is '8 MiB'"):
        plugin.allocator(wrong)
    with stead.Arena("8 MiB") as host, pytest.raises(stead.Unsupported, match="a CUDA device's memory"):
        plugin.allocator(host)
    arena.close()
    with pytest.raises(stead.Released):
        plugin.allocator(arena)
