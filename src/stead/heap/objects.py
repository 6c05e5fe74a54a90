"""put and get: a pickled object in one block of a heap, with its buffers where they are used.

The block: a header, a table with the address and the length of every buffer, the pickle, and the buffers, each
at a multiple of 64. Addresses are the same in every process, so the table can name memory in other blocks of the
heap as well: what was there already is not copied. The Ref holds these other blocks, too.

What is unpickled was written into the heap by a process of this user that has it attached: see handle.py.
"""

from __future__ import annotations

import io
import pickle
import struct
import sys
from typing import TYPE_CHECKING, NamedTuple, SupportsIndex

from stead import _native
from stead.errors import Corrupted, NotLive
from stead.heap import frames, registry, tensors, travel
from stead.heap.block import SharedBlock, hold
from stead.heap.handle import arrive, sent
from stead.ranges import align_up

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from stead.heap.heap import SharedHeap

_MAGIC = b"stead\0o1"
_HEADER = struct.Struct("<8sQQQ")  # how many buffers, where the pickle begins, its bytes
_ENTRY = struct.Struct("<QQ")  # address, bytes
_ALIGNMENT = 64

# Those whose objects are looked at.
_LIBRARIES = frozenset({"torch", "pyarrow", "pandas"})


# From here on bytes are copied without the GIL, if NumPy is there to do it. By one thread: where it was measured
# a second one made nothing faster, and had to be waited for.
_LARGE = 1 << 18


class Held(NamedTuple):
    """A block that a Ref holds. ``end``: after the bytes that are meant."""

    start: int
    end: int
    generation: int
    hold: _native.Finalizer


class Ref:
    """An object in a heap: made by :meth:`stead.SharedHeap.put`, resolved by ``get``. Holds its block while it
    lives, or until ``free``; so do the objects that were got. Pickled it travels as a reference, in a few
    hundred bytes. ``address`` and ``size`` (bytes) are those of the block."""

    __slots__ = ("__weakref__", "_heap", "_held", "_key", "address", "size")

    address: int
    size: int
    _heap: SharedHeap
    _held: tuple[Held, ...]  # the object's own block first; none once it was freed
    _key: tuple[int, int]

    def __init__(self) -> None:
        raise TypeError("a Ref is made by SharedHeap.put()")

    @classmethod
    def _of(cls, heap: SharedHeap, held: tuple[Held, ...]) -> Ref:
        made = cls.__new__(cls)
        own = held[0]
        made._heap, made._held = heap, held
        made.address, made.size = own.start, own.end - own.start
        made._key = (own.start, own.generation)
        return made

    @property
    def heap(self) -> SharedHeap:
        return self._heap

    @property
    def freed(self) -> bool:
        return not self._held

    def free(self) -> None:
        """Hold it no more. Idempotent. Objects that were got stay valid."""
        self._held = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and self._heap is other._heap and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"<Ref to {self.size} bytes at {self.address:#x}{', freed' * self.freed}>"

    def _blocks(self) -> tuple[Held, ...]:
        if not self._held:
            raise NotLive(f"{self!r}", address=self.address)
        return self._held

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        held = self._blocks()
        return _arrive_ref, (*sent(self._heap, *(each.start for each in held)), _sent_blocks(held), True)

    def __copy__(self) -> Ref:
        return Ref._of(self._heap, self._blocks())

    def __deepcopy__(self, memo: object) -> Ref:
        return self.__copy__()


def _sent_blocks(held: tuple[Held, ...]) -> tuple[tuple[int, int, int], ...]:
    return tuple(each[:3] for each in held)


def _arrive_ref(identity: bytes, handle: bytes, blocks: tuple[tuple[int, int, int], ...], underway: bool) -> Any:
    def make(heap: SharedHeap) -> Ref:
        held = []
        for start, end, generation in blocks:
            heap._received(start, generation, end - start, sent=underway)
            held.append(Held(start, end, generation, hold(heap, start)))
        return Ref._of(heap, tuple(held))

    return arrive(identity, handle, make)


def _inner_block(identity: bytes, address: int, generation: int, size: int) -> Any:
    return arrive(
        identity, b"", lambda heap: SharedBlock._of(heap, *heap._received(address, generation, size, sent=False))
    )


# ---- put ----------------------------------------------------------------------------------------


class _Buffers:
    """The buffers of an object that is being pickled, and the blocks of the heap that it refers to."""

    def __init__(self, heap: SharedHeap) -> None:
        self._heap = heap
        # Where it is, 0: not known; and the address where it stays, of such as are in the heap, or 0.
        self.found: list[tuple[memoryview, int, int]] = []
        self.others: dict[int, Held] = {}

    def add(self, buffer: pickle.PickleBuffer) -> None:
        raw = buffer.raw()
        address = _address_of(raw)
        self.found.append((raw, address, self._inside(address, raw)))

    def _inside(self, address: int, raw: memoryview) -> int:
        if registry.at(address) is not self._heap:
            return 0
        code, start, usable, generation = self._heap._find(address)
        if code not in (_native.HEAP_DONE, _native.HEAP_INTERIOR) or address + raw.nbytes > start + usable:
            return 0
        return address if self.refer(start, start + usable, generation) else 0

    def refer(self, start: int, end: int, generation: int) -> bool:
        if start not in self.others:
            if isinstance(self._heap._lease(start, generation), int):
                return False
            self.others[start] = Held(start, end, generation, hold(self._heap, start))
        return True


def _address_of(raw: memoryview) -> int:
    if not raw.nbytes:
        return 0
    if isinstance(raw.obj, _native.Exporter):
        return raw.obj._address if raw.nbytes == raw.obj._size else 0
    numpy = sys.modules.get("numpy")
    return numpy.frombuffer(raw, "u1").__array_interface__["data"][0] if numpy else 0


class _Writer(pickle.Pickler):
    def __init__(self, heap: SharedHeap, file: io.BytesIO, buffers: _Buffers) -> None:
        super().__init__(file, 5, buffer_callback=buffers.add)
        self._heap, self._buffers = heap, buffers

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is Ref and obj._heap is self._heap:
            held = obj._blocks()
            if all(self._buffers.refer(*each[:3]) for each in held):
                return _arrive_ref, (self._heap._live().identity, b"", _sent_blocks(held), False)
        elif kind is SharedBlock and obj._heap is self._heap and not obj.freed:
            if self._buffers.refer(obj.address, obj.address + obj.size, obj._generation):
                identity = self._heap._live().identity
                return _inner_block, (identity, obj.address, obj._generation, obj.size)
        elif (numpy := sys.modules.get("numpy")) is not None and isinstance(obj, numpy.ndarray):
            from stead.heap.arrays import HeapArray

            if kind in (numpy.ndarray, HeapArray):
                return _reduce_array(obj, self._heap)
        elif kind.__module__.partition(".")[0] in _LIBRARIES:
            return self._reduce_foreign(kind, obj)
        return NotImplemented

    def _reduce_foreign(self, kind: type, obj: Any) -> Any:
        """What its own library would pickle well enough, but not as put should. By the exact class: a class
        derived from it pickles itself."""
        travel.register()
        modules = sys.modules
        if (torch := modules.get("torch")) is not None and kind in (torch.Tensor, torch.nn.Parameter):
            return tensors.reduce_put(obj)
        if (arrow := modules.get("pyarrow")) is not None and kind in (arrow.Table, arrow.RecordBatch):
            compacted = frames.compact(obj)
            return compacted.__reduce__() if compacted is not obj else NotImplemented
        if (pandas := modules.get("pandas")) is not None:
            if kind in (pandas.DataFrame, pandas.Series):
                return frames.reduce_frame(obj, 5)
            if kind in (pandas.arrays.ArrowExtensionArray, pandas.arrays.ArrowStringArray):
                return frames.reduce_column(obj, put=True)
        return NotImplemented


def put(heap: SharedHeap, obj: object) -> Ref:
    """See :meth:`stead.SharedHeap.put`."""
    file, buffers = io.BytesIO(), _Buffers(heap)
    _Writer(heap, file, buffers).dump(obj)
    pickled = file.getbuffer()
    table_at = _HEADER.size
    pickle_at = table_at + _ENTRY.size * len(buffers.found)
    size = pickle_at + pickled.nbytes
    offsets: list[int] = []
    seen: dict[tuple[int, int], int] = {}  # the same memory twice, as with tied weights, is one again
    for raw, address, inside in buffers.found:
        twin = 0 if inside else seen.get((address, raw.nbytes), 0)
        if not inside and not twin:
            size = align_up(size, _ALIGNMENT)
            if address:
                seen[address, raw.nbytes] = size
        offsets.append(twin or size)
        size += 0 if inside or twin else raw.nbytes
    start, _, generation, _, _ = heap._obtain(size, _ALIGNMENT)
    own = Held(start, start + size, generation, hold(heap, start))
    with memoryview(_native.Exporter(start, size, False, own.hold)) as block:
        _HEADER.pack_into(block, 0, _MAGIC, len(buffers.found), pickle_at, pickled.nbytes)
        block[pickle_at : pickle_at + pickled.nbytes] = pickled
        copied = set()
        for (raw, _, inside), offset in zip(buffers.found, offsets, strict=True):
            _ENTRY.pack_into(block, table_at, inside or start + offset, raw.nbytes)
            table_at += _ENTRY.size
            if not inside and raw.nbytes and offset not in copied:
                copied.add(offset)
                _copy(block[offset : offset + raw.nbytes], raw)
    return Ref._of(heap, (own, *buffers.others.values()))


def _copy(to: memoryview, source: memoryview) -> None:
    numpy = sys.modules.get("numpy") if source.nbytes >= _LARGE else None
    if numpy is None:
        to[:] = source
    else:
        numpy.copyto(numpy.frombuffer(to, "u1"), numpy.frombuffer(source, "u1"))


# ---- get ----------------------------------------------------------------------------------------


def get(heap: SharedHeap, ref: Ref, writable: bool) -> Any:
    """See :meth:`stead.SharedHeap.get`."""
    if not isinstance(ref, Ref):
        raise TypeError(f"ref is {ref!r}, must be a Ref")
    if ref._heap is not heap:
        raise NotLive(f"{ref!r} is of {ref._heap!r}, not of {heap!r}", address=ref.address)
    held = ref._blocks()
    own = held[0]
    with memoryview(_native.Exporter(own.start, own.end - own.start, True, own.hold)) as block:
        try:
            magic, count, at, size = _HEADER.unpack_from(block)
        except struct.error:
            magic, count, at, size = b"", 0, 0, 0
        table = _HEADER.size + count * _ENTRY.size
        if magic != _MAGIC or at != table or at + size > block.nbytes:
            raise Corrupted(f"{ref!r}: what is there is no object that was put", address=ref.address)
        buffers = list(_buffers(ref, held, _ENTRY.iter_unpack(block[_HEADER.size : table]), writable))
        found = pickle.loads(block[at : at + size], buffers=buffers)
    return _travelling(found, {}) if count and sys.modules.get("numpy") else found


def _buffers(ref: Ref, held: tuple[Held, ...], table: Iterator[Any], writable: bool) -> Iterator[Any]:
    for address, size in table:
        owner = next((each for each in held if each.start <= address and address + size <= each.end), None)
        if not size:
            yield bytearray() if writable else b""
        elif owner is None:
            raise Corrupted(f"{ref!r}: its buffer at {address:#x} is in none of its blocks", address=address)
        else:
            yield _native.Exporter(address, size, not writable, owner.hold)


def _travelling(obj: Any, seen: dict[int, Any]) -> Any:
    """Arrays in lists, tuples and dicts as HeapArrays. ``seen``: what became of which container."""
    import numpy

    from stead.heap.arrays import HeapArray

    kind = type(obj)
    if kind is numpy.ndarray:
        return obj.view(HeapArray) if isinstance(obj.base, _native.Exporter) else obj
    if kind not in (list, tuple, dict):
        return obj
    if id(obj) in seen:
        return seen[id(obj)]
    seen[id(obj)] = obj
    if kind is tuple:
        made = tuple([_travelling(each, seen) for each in obj])
        if any(new is not old for new, old in zip(made, obj, strict=True)):
            seen[id(obj)] = made
        return seen[id(obj)]
    for key, value in list(obj.items() if kind is dict else enumerate(obj)):
        new = _travelling(value, seen)
        if new is not value:
            obj[key] = new
    return obj


# ---- arrays --------------------------------------------------------------------------------------


def _reduce_array(array: Any, heap: SharedHeap) -> Any:
    """NumPy itself copies arrays that are not contiguous into the pickle, and datetimes, twice."""
    import numpy

    from stead.heap.arrays import bounds, locate

    plain = numpy.asarray(array)
    if plain.dtype.hasobject:
        return plain.__reduce_ex__(5)
    if plain.size and not plain.flags.forc:
        place = locate(plain)
        if place is None or place.heap is not heap:
            plain = numpy.ascontiguousarray(plain)
            plain.flags.writeable = array.flags.writeable
    low, high = bounds(plain) if plain.size else (0, 0)
    memory = _native.Exporter(low, high - low, not plain.flags.writeable, plain)
    offset = plain.__array_interface__["data"][0] - low if plain.size else 0
    return _array, (pickle.PickleBuffer(memory), offset, plain.shape, plain.dtype, plain.strides)


def _array(buffer: Any, offset: int, shape: tuple[int, ...], dtype: Any, strides: tuple[int, ...]) -> Any:
    import numpy

    if 0 in shape:
        return numpy.empty(shape, dtype)
    # Not a view of it, whose release would not be noticed by the array.
    memory: Any = buffer.obj if isinstance(buffer, memoryview) else buffer
    made = numpy.ndarray(shape, dtype, memory, offset, strides)
    if memoryview(buffer).readonly:
        made.flags.writeable = False
    return made
