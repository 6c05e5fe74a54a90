"""HeapArray: an array whose memory is in a heap travels as a reference. Needs NumPy; imported when it is
needed."""

from __future__ import annotations

import importlib
import pickle
import sys
from typing import TYPE_CHECKING, NamedTuple, SupportsIndex

import numpy

from stead import _native
from stead.heap import registry
from stead.heap.block import hold
from stead.heap.handle import arrive, sent

if TYPE_CHECKING:
    from typing import Any, Literal

    from numpy.typing import DTypeLike

    from stead.heap.heap import SharedHeap

    Array = numpy.ndarray[Any, Any]

_ALIGNMENT = 64


class HeapArray(numpy.ndarray):
    """An ndarray whose memory is in a :class:`stead.SharedHeap`: made by its ``array``, or arrived from another
    process; and every view of it, slices, transposes, fields. ``ndarray.view(stead.HeapArray)`` makes one of any
    array in a heap.

    Pickled, it travels as a reference: the receiver has the same memory at the same address, read-only where the
    sender's array is, or where the receiver's heap is. It holds its block as long as it, or any view, lives.
    What is computed from it is an ordinary array, and so are its copies; a HeapArray whose memory is elsewhere
    is pickled as an ordinary array.
    """

    # As numpy.memmap: what is computed from this and an ordinary array is an ordinary array.
    __array_priority__ = -100.0

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        if array is self:
            return array
        if array.shape == () and (return_scalar or context is None):
            return array[()]
        return array.view(numpy.ndarray)

    def copy(self, order: Literal["K", "A", "C", "F"] | None = "C") -> Array:  # type: ignore[override]
        return numpy.array(self, order=order, copy=True, subok=False)

    def __copy__(self) -> Array:  # type: ignore[override]
        return numpy.array(self, order="K", copy=True, subok=False)

    def __deepcopy__(self, memo: object) -> Array:  # type: ignore[override]
        return numpy.array(self, order="K", copy=True, subok=False)

    def __reduce__(self) -> Any:
        return self.__reduce_ex__(2)

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        if not self.size:
            return _arrive_empty, (self.shape, self.dtype, self.flags.writeable)
        found = locate(self)
        if found is None:
            return numpy.asarray(self).__reduce_ex__(protocol)
        return _arrive_array, _sent_array(self, found)


def reduce_plain(array: Array, protocol: int) -> Any:
    """An ordinary array, which multiprocessing sends: as a reference if it lies in a heap."""
    found = locate(array)
    return array.__reduce_ex__(protocol) if found is None else (_arrive_plain, _sent_array(array, found))


def _sent_array(array: Array, found: Place) -> tuple[Any, ...]:
    return (
        *sent(found.heap, found.start), found.start, found.generation, found.end - found.start,
        found.first - found.start, array.shape, array.dtype, array.strides, array.flags.writeable,
    )  # fmt: skip


class Place(NamedTuple):
    """Where an array lies: in which block of which heap; its first element, and where it ends."""

    heap: SharedHeap
    start: int
    generation: int
    first: int
    end: int


def bounds(array: Array) -> tuple[int, int]:
    """The first byte of an array's elements, and the one after the last, whatever its strides."""
    first = low = high = array.__array_interface__["data"][0]
    if array.flags.forc:
        return first, first + array.nbytes
    for length, stride in zip(array.shape, array.strides, strict=True):
        if stride < 0:
            low += (length - 1) * stride
        else:
            high += (length - 1) * stride
    return low, high + array.itemsize


def locate(array: Array) -> Place | None:
    """None for an array that is in no heap of this process, or whose block this process does not hold."""
    if array.dtype.hasobject or not array.size:
        return None
    first = array.__array_interface__["data"][0]
    heap = registry.at(first)
    if heap is None or heap.closed:
        return None
    low, high = bounds(array)
    code, start, usable, generation = heap._find(low)
    if code not in (_native.HEAP_DONE, _native.HEAP_INTERIOR) or high > start + usable or not heap._held(start):
        return None
    return Place(heap, start, generation, first, high)


def empty(
    heap: SharedHeap,
    shape: SupportsIndex | tuple[SupportsIndex, ...],
    dtype: DTypeLike,
    order: Literal["C", "F"],
) -> HeapArray:
    """See :meth:`stead.SharedHeap.array`."""
    kind = numpy.dtype(dtype)
    if kind.hasobject:
        raise TypeError(f"dtype is {kind!r}, which holds Python objects: these cannot live in a heap")
    if order not in ("C", "F"):
        raise ValueError(f"order is {order!r}, must be 'C' or 'F'")
    whole = (shape,) if isinstance(shape, SupportsIndex) else tuple(shape)
    size = kind.itemsize
    for each in map(int, whole):
        if each < 0:
            raise ValueError(f"shape is {shape!r}: no dimension may be negative")
        size *= each
    _tell_dask()
    wanted, alignment = heap._request(max(size, 1), _ALIGNMENT)
    address = heap._obtain(wanted, alignment)[0]
    # The array's base is the exporter itself, which nobody can release under it; a memoryview could be.
    memory = _native.Exporter(address, wanted, False, hold(heap, address))
    return HeapArray(whole, kind, memory, order=order)  # type: ignore[arg-type]  # a buffer before Python 3.12


def _arrive_array(
    identity: bytes, handle: bytes, start: int, generation: int, size: int, offset: int,
    shape: tuple[int, ...], dtype: numpy.dtype[Any], strides: tuple[int, ...], writable: bool,
) -> Any:  # fmt: skip
    _tell_dask()

    def make(heap: SharedHeap) -> HeapArray:
        heap._received(start, generation, size)
        readonly = not writable or bool(heap._read_only)
        memory: Any = _native.Exporter(start, size, readonly, hold(heap, start))
        return HeapArray(shape, dtype, memory, offset, strides)

    return arrive(identity, handle, make)


def _arrive_plain(*arguments: Any) -> Any:
    arrived = _arrive_array(*arguments)
    return arrived.view(numpy.ndarray) if isinstance(arrived, HeapArray) else arrived


def _arrive_empty(shape: tuple[int, ...], dtype: numpy.dtype[Any], writable: bool) -> HeapArray:
    made = HeapArray(shape, dtype)
    made.flags.writeable = writable
    return made


# ---- Dask ---------------------------------------------------------------------------------------

_dask_knows = False


def _tell_dask() -> None:
    """Dask pickles the arguments of tasks, but results that are ndarrays, of a subclass as well, it copies. It
    must have been imported when an array is made, or arrives; in its workers it always has."""
    global _dask_knows
    if _dask_knows or "distributed.protocol" not in sys.modules:
        return
    protocol = importlib.import_module("distributed.protocol")
    protocol.dask_serialize.register(HeapArray)(lambda array: ({}, [pickle.dumps(array, 5)]))
    protocol.dask_deserialize.register(HeapArray)(lambda header, frames: pickle.loads(frames[0]))
    _dask_knows = True


_tell_dask()
