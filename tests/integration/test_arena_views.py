"""Blocks and arrays of an arena under the libraries that take them: one memory, seen by both, and kept as long as
the other one needs it."""

from __future__ import annotations

import ctypes
import gc
import weakref
from typing import TYPE_CHECKING, Any

import pytest

import stead
from conftest import need

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20


# ---- ways to see a block's bytes: each returns something that keeps the block, and has its address ----


def by_memoryview(block: stead.Block) -> tuple[Any, int]:
    view = memoryview(block)
    assert (view.format, view.itemsize, view.ndim, view.readonly, view.c_contiguous) == ("B", 1, 1, False, True)
    return view, ctypes.addressof(ctypes.c_char.from_buffer(view))


def by_numpy_buffer(block: stead.Block) -> tuple[Any, int]:
    need("numpy")
    import numpy

    array = numpy.frombuffer(memoryview(block), numpy.uint8)
    return array, array.ctypes.data


def by_array_interface(block: stead.Block) -> tuple[Any, int]:
    """As a library does that knows nothing of Python's buffers."""
    need("numpy")
    import numpy

    class Interface:
        def __init__(self, block: stead.Block) -> None:
            self.block = block
            self.__array_interface__ = block.__array_interface__

    array = numpy.asarray(Interface(block))
    assert (str(array.dtype), array.shape, array.flags.writeable) == ("uint8", (block.size,), True)
    return array, array.ctypes.data


def by_dlpack(block: stead.Block) -> tuple[Any, int]:
    need("numpy")
    import numpy

    array = numpy.from_dlpack(numpy.frombuffer(memoryview(block), numpy.uint8))
    return array, array.ctypes.data


def by_dlpack_to_torch(block: stead.Block) -> tuple[Any, int]:
    need("numpy")
    need("torch")
    import numpy
    import torch

    tensor = torch.from_dlpack(numpy.frombuffer(memoryview(block), numpy.uint8))
    return tensor, tensor.data_ptr()


def by_torch(block: stead.Block | memoryview) -> tuple[Any, int]:
    need("torch")
    import torch

    tensor = torch.frombuffer(block, dtype=torch.uint8)
    return tensor, tensor.data_ptr()


def by_torch_from_a_view(block: stead.Block) -> tuple[Any, int]:
    return by_torch(memoryview(block))


def by_arrow_buffer(block: stead.Block) -> tuple[Any, int]:
    need("pyarrow")
    import pyarrow

    buffer = pyarrow.py_buffer(block)
    assert (buffer.size, buffer.is_mutable) == (block.size, True)
    return buffer, buffer.address


def by_arrow_address(block: stead.Block) -> tuple[Any, int]:
    need("pyarrow")
    import pyarrow

    buffer = pyarrow.foreign_buffer(block.address, block.size, base=memoryview(block))
    return buffer, buffer.address


def by_ctypes_buffer(block: stead.Block) -> tuple[Any, int]:
    array = (ctypes.c_ubyte * block.size).from_buffer(block)
    return array, ctypes.addressof(array)


def by_cffi_buffer(block: stead.Block) -> tuple[Any, int]:
    need("cffi")
    import cffi

    ffi = cffi.FFI()
    data = ffi.from_buffer("uint8_t[]", block, require_writable=True)
    assert len(data) == block.size
    return data, int(ffi.cast("uintptr_t", data))


WAYS = [
    by_memoryview,
    by_numpy_buffer,
    by_array_interface,
    by_dlpack,
    by_dlpack_to_torch,
    by_torch,
    by_torch_from_a_view,
    by_arrow_buffer,
    by_arrow_address,
    by_ctypes_buffer,
    by_cffi_buffer,
]


@pytest.mark.parametrize("size", [1, 1000, 3 * MIB])
@pytest.mark.parametrize("way", WAYS)
def test_a_view_is_at_the_blocks_address_and_sees_its_bytes(
    arena: stead.Arena, way: Callable[[stead.Block], tuple[Any, int]], size: int
) -> None:
    block = arena.block(size)
    memoryview(block)[:] = b"\x07" * size
    view, address = way(block)
    assert address == block.address
    assert view[0] in (7, b"\x07")
    ctypes.memset(block.address + size - 1, 9, 1)
    assert view[size - 1] in (9, b"\t")


@pytest.mark.parametrize("way", WAYS)
def test_a_view_keeps_its_block(arena: stead.Arena, way: Callable[[stead.Block], tuple[Any, int]]) -> None:
    block = arena.block(1000)
    memoryview(block)[:] = b"\x07" * 1000
    gone, address = weakref.ref(block), block.address
    view, _ = way(block)
    with pytest.raises(stead.NotLive):
        arena.free(address)
    del block
    gc.collect()
    assert gone() is not None
    assert arena.owns(address)
    others = [arena.block(1000) for _ in range(100)]
    for each in others:
        memoryview(each)[:] = b"\xff" * 1000
    assert view[999] in (7, b"\x07")
    del view
    gc.collect()
    assert gone() is None
    assert not arena.owns(address)


# torch.frombuffer holds a reference and no buffer: the block lives as long, but a free by hand is not refused.
@pytest.mark.parametrize("way", [way for way in WAYS if way is not by_torch])
def test_a_block_is_not_freed_by_hand_under_a_view(
    arena: stead.Arena, way: Callable[[stead.Block], tuple[Any, int]]
) -> None:
    block = arena.block(1000)
    view, _ = way(block)
    with pytest.raises(BufferError):
        block.free()
    with pytest.raises(BufferError), block:
        pass
    assert not block.freed
    del view
    gc.collect()
    if way is by_array_interface:  # somebody may still have the address
        with pytest.raises(BufferError, match="__array_interface__"):
            block.free()
    else:
        block.free()


@pytest.mark.parametrize("way", WAYS)
def test_a_view_keeps_the_arena(way: Callable[[stead.Block], tuple[Any, int]]) -> None:
    arena = stead.Arena("4 MiB")
    gone, where = weakref.ref(arena), arena.range
    view, _ = way(arena.block(1000))
    with pytest.raises(BufferError, match="1 live block"):
        arena.close()
    del arena
    gc.collect()
    assert gone() is not None
    ctypes.memset(where.start, 1, 1)
    del view
    gc.collect()
    assert gone() is None
    assert not any(each.range.overlaps(where) for each in stead.snapshot().mappings)


# ---- addresses, without a block: whoever holds one frees it ----


def test_ctypes_and_cffi_by_address(arena: stead.Arena) -> None:
    need("cffi")
    import cffi

    class Pair(ctypes.Structure):
        _fields_ = (("first", ctypes.c_uint64), ("next", ctypes.c_void_p))

    ffi = cffi.FFI()
    ffi.cdef("typedef struct pair { uint64_t first; struct pair *next; } pair;")
    addresses = [arena.allocate(ffi.sizeof("pair")) for _ in range(100)]
    for i, address in enumerate(addresses):
        pair = Pair.from_address(address)
        pair.first, pair.next = i, addresses[i + 1] if i < 99 else None
    at, found = ffi.cast("pair *", addresses[0]), []
    while at != ffi.NULL:  # follows the pointers that ctypes wrote
        found.append(at.first)
        at = at.next
    assert found == list(range(100))
    for address in addresses:
        arena.free(address)


def test_arrow_by_a_bare_address(arena: stead.Arena) -> None:
    need("pyarrow")
    import pyarrow

    address = arena.allocate(8 * 1000, alignment=64)
    (ctypes.c_int64 * 1000).from_address(address)[:] = list(range(1000))
    buffer = pyarrow.foreign_buffer(address, 8000)
    array = pyarrow.Array.from_buffers(pyarrow.int64(), 1000, [None, buffer])
    assert array.sum().as_py() == 499500
    del array, buffer
    arena.free(address)


# ---- what the libraries do with such memory ----


def test_torch_computes_in_a_block(arena: stead.Arena) -> None:
    need("torch")
    import torch

    block = arena.block("1 MiB", alignment=64)
    tensor = torch.frombuffer(block, dtype=torch.float32).reshape(512, 512)
    torch.manual_seed(1)
    tensor.normal_()
    expected = tensor.clone() @ tensor.clone().T
    product = torch.empty(0)
    with arena.block("1 MiB", alignment=64) as other:
        out = torch.frombuffer(other, dtype=torch.float32).reshape(512, 512)
        torch.matmul(tensor, tensor.T, out=out)
        assert out.data_ptr() == other.address
        assert torch.allclose(out, expected)
        product = out.sum()
        del out
        gc.collect()
    assert torch.isfinite(product)
    half = tensor[256:]
    del tensor, block
    gc.collect()
    assert arena.statistics().blocks == 1
    assert half.numpy().shape == (256, 512)


def test_arrow_reads_and_writes_in_a_block(arena: stead.Arena) -> None:
    need("pyarrow")
    import pyarrow

    table = pyarrow.table({"number": list(range(1000)), "text": [str(i) for i in range(1000)]})
    block = arena.block("1 MiB")
    sink = pyarrow.FixedSizeBufferWriter(pyarrow.py_buffer(block))
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    del writer, sink
    read = pyarrow.ipc.open_stream(pyarrow.py_buffer(block)).read_all()
    assert read.equals(table)
    numbers = read["number"].chunk(0)
    address = numbers.buffers()[1].address
    assert block.address <= address < block.address + block.size  # nothing was copied
    del block, read
    gc.collect()
    assert numbers.sum().as_py() == 499500


def test_arrays_of_an_arena_go_on_to_torch_and_arrow(arena: stead.Arena) -> None:
    """By NumPy's own handler, not by Blocks."""
    need("numpy")
    need("torch")
    need("pyarrow")
    import numpy
    import pyarrow
    import torch

    import stead.numpy

    with stead.numpy.allocating_in(arena):
        array = numpy.arange(1000.0)
    address = array.ctypes.data
    tensors = [torch.from_numpy(array), torch.from_dlpack(array), torch.as_tensor(array)]
    back = numpy.from_dlpack(tensors[1])
    buffer = pyarrow.py_buffer(array)
    arrow = pyarrow.array(array)
    assert [each.data_ptr() for each in tensors] == [address] * 3
    assert (back.ctypes.data, buffer.address, arrow.buffers()[1].address) == (address, address, address)
    array[0] = 7
    del array
    assert [float(each[0]) for each in tensors] == [7.0] * 3
    del tensors, buffer, back
    gc.collect()
    assert arena.statistics().blocks == 1
    assert arrow[0].as_py() == 7.0
