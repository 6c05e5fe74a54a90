"""Channel: a queue of objects in a heap, from many processes to many.

A message is in a cell of the channel's block (native/channel.c): a kind, some bytes, and perhaps a block of the
heap, which the cell keeps. What is small is in the bytes; what is in the heap already is the block; for
everything else a block is made. native/channel_type.c has the kinds up to 15, which need no Python code. What is
unpickled was written by a process of this user that has the heap attached: see handle.py.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn, SupportsIndex

from stead import _native
from stead.errors import (
    ChannelClosed,
    ChannelEmpty,
    ChannelFull,
    Corrupted,
    LimitReached,
    NotLive,
    Released,
    Unsupported,
)
from stead.heap.block import SharedBlock, hold
from stead.heap.handle import arrive, sent
from stead.heap.inner import CHANNEL, make
from stead.heap.objects import Held, Ref

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Any, Self

    from stead.heap.heap import SharedHeap

_CELL = 16  # bytes beside those of the message
_LEAST_INLINE, _MOST_INLINE = 64, 4096

_PICKLED, _PICKLED_BLOCK, _BYTES_BLOCK, _ARRAY, _BLOCK, _REF, _OBJECT, _OBJECT_BLOCK = range(16, 24)
_LENGTH = struct.Struct("<Q")
_HELD = struct.Struct("<QQI")  # start, end, generation

_NS = 1e9


class Channel(_native.Channel):
    """A queue of objects in a heap, from any number of threads of any processes to any number. Made by
    :meth:`stead.SharedHeap.channel`.

    Each message is received once, in the order in which they were sent. A process that is killed takes with it at
    most the message that it was just receiving. Iterating receives until the channel is closed and empty;
    ``with`` closes it. Pickled it travels as a reference. Where the heap is attached read-only one can receive,
    and not send.

    It lives as long as anybody holds it, and so do the messages in it. What a message refers to is kept by the
    channel. But of a message with several blocks of the heap in it (a list of arrays), all but the first are only
    on their way: they are kept as long as the heap's ``transit`` says.
    """

    __slots__ = ()

    heap: SharedHeap

    def __new__(cls, *arguments: object, **named: object) -> Self:
        raise TypeError("a Channel is made by SharedHeap.channel()")

    @classmethod
    def _make(
        cls, heap: SharedHeap, capacity: SupportsIndex, inline: SupportsIndex, spin: float | None
    ) -> Channel:
        cells, most = capacity.__index__(), inline.__index__()
        if not 1 <= cells < 1 << 31:
            raise ValueError(f"capacity is {capacity!r}, must be at least 1 message, and less than 2**31")
        if not _LEAST_INLINE <= most <= _MOST_INLINE:
            raise ValueError(f"inline is {inline!r}, must be from {_LEAST_INLINE} to {_MOST_INLINE} bytes")
        pause = _spin(_default_spin() if spin is None else spin)
        size, alignment = heap._request(cells * (_CELL + (most + 7) // 8 * 8), 64)
        address, _, generation, _, _ = heap._obtain(size, alignment)
        lease = _lease(heap, address)
        index = make(heap, CHANNEL, address, cells, most)
        return cls._of(heap, lease, address, generation, index, pause)

    @classmethod
    def _of(
        cls, heap: SharedHeap, lease: _native.Finalizer, address: int, generation: int, index: int, spin: int
    ) -> Channel:
        return _native.Channel.__new__(Channel, heap, lease, address, generation, index, spin)

    # ---- what it is ----

    def _state(self) -> tuple[int, int, int, bool]:
        state = self.heap._channel_state(self._index)
        if isinstance(state, int):
            raise self._wrong(state)
        return state

    def __len__(self) -> int:
        """Messages that are in it now."""
        return self._state()[0]

    def __bool__(self) -> bool:
        return True

    @property
    def capacity(self) -> int:
        """Messages that it has room for."""
        return self._state()[1]

    @property
    def inline(self) -> int:
        """Bytes of a message that need no block of their own."""
        return self._state()[2]

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more. What was sent can be received."""
        return self._state()[3]

    @property
    def spin(self) -> float:
        """Seconds for which a call that waits looks again and again before it sleeps: that is quicker, and keeps a
        processor busy. Of this object; it travels with it."""
        return self._spin / _NS

    @spin.setter
    def spin(self, seconds: float) -> None:
        self._spin = _spin(seconds)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Channel)
            and self._address == other._address
            and self._generation == other._generation
            and self.heap is other.heap
        )

    def __hash__(self) -> int:
        return hash((self._address, self._generation))

    def __repr__(self) -> str:
        try:
            length, capacity, _, closed = self._state()
        except (Released, NotLive):
            return f"<ended stead.Channel at {self._address:#x}>"
        state = "closed" if closed else "open"
        return f"<{state} stead.Channel at {self._address:#x}, {length}/{capacity} messages>"

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        whence = sent(self.heap, self._address)
        return _arrive_channel, (*whence, self._address, self._generation, self._index, self._spin)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    # ---- its end ----

    def close(self) -> None:
        """Nothing can be sent any more, by anybody; what is in it can be received. Idempotent. Who waits for
        room, or for a message where there is none, gets ChannelClosed."""
        if got := self.heap._channel_close(self._index):
            raise self._wrong(got)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- called by the core ----

    def _refused(self, code: int, call: str) -> NoReturn:
        raise self._wrong(code, call)

    def _wrong(self, code: int, call: str = "") -> Exception:
        if code == _native.HEAP_CLOSED:
            return ChannelClosed(f"{self!r}" + (": all has been received" if call == "receive" else ""))
        if code == _native.HEAP_TIMEOUT:
            return (
                ChannelEmpty(f"{self!r}: nothing came in time") if call == "receive" else ChannelFull(f"{self!r}")
            )
        if code == _native.HEAP_FULL and call == "receive":
            return LimitReached(
                f"{self!r}: no more holders of its block can be noted", "holders of a heap's blocks"
            )
        if code == _native.HEAP_FULL:
            return LimitReached(f"{self!r}: 255 messages have that block already", "references to a block")
        if code == _native.HEAP_NOT_LIVE and call == "receive":
            return Corrupted(f"{self!r}: the block of a message is gone", address=self._address)
        if code == _native.HEAP_NOT_LIVE:
            return NotLive(f"the channel at {self._address:#x} is not in the heap any more", address=self._address)
        return self.heap._refusal(code, self._address)

    def _send_object(self, obj: object, timeout: float | None = None, spin: float | None = None) -> None:
        """What the core does not send by itself."""
        if self.heap._read_only:
            raise Unsupported("sending", "a heap that is attached for writing", f"{self.heap!r}")
        if isinstance(obj, Ref) and obj.heap is self.heap:
            return self._send_held(_REF, obj._blocks(), timeout, spin)
        if isinstance(obj, SharedBlock) and obj.heap is self.heap and not obj.freed:
            return self._deliver(_BLOCK, _LENGTH.pack(obj.size), obj.address, timeout, spin)
        found = _array_header(obj, self.heap) if _is_heap_array(type(obj)) else None
        if found and len(found[0]) <= self.inline:
            return self._deliver(_ARRAY, found[0], found[1], timeout, spin)
        if type(obj) is bytes:
            return self._send_large(_BYTES_BLOCK, obj, timeout, spin)
        data = _pickled(obj, self.heap, self.inline)
        if data is None:
            return self._send_held(_OBJECT, self.heap.put(obj)._blocks(), timeout, spin)
        if len(data) <= self.inline:
            return self._deliver(_PICKLED, data, 0, timeout, spin)
        return self._send_large(_PICKLED_BLOCK, data, timeout, spin)

    def _deliver(self, kind: int, data: bytes, address: int, timeout: float | None, spin: float | None) -> None:
        got = self._send(kind, data, address, timeout, spin)
        if got == _native.HEAP_NOT_LIVE and address and not self.heap._held(address):
            raise self.heap._refusal(got, address)
        if got:
            raise self._wrong(got, "send")

    def _send_large(self, kind: int, data: bytes, timeout: float | None, spin: float | None) -> None:
        block = self.heap.block(max(len(data), 1))
        with memoryview(block) as view:
            view[: len(data)] = data
        self._deliver(kind, _LENGTH.pack(len(data)), block.address, timeout, spin)

    def _send_held(self, kind: int, held: tuple[Held, ...], timeout: float | None, spin: float | None) -> None:
        """A Ref, or the object that it refers to: the first block in the cell, the others on their way."""
        header = b"".join(_HELD.pack(*each[:3]) for each in held)
        with _underway(self.heap, held[1:]):
            if len(header) <= self.inline:
                return self._deliver(kind, header, held[0].start, timeout, spin)
            # Too many for a cell: all of them on their way, and a block that says which.
            with _underway(self.heap, held[:1]):
                return self._send_large(_OBJECT_BLOCK, bytes([kind]) + header, timeout, spin)

    def _open(self, kind: int, data: bytes, address: int, usable: int, generation: int) -> Any:
        """What arrived, where the core does not know. The block is held once."""
        held = hold(self.heap, address) if address else None
        if kind == _PICKLED:
            return pickle.loads(data)
        if held is not None and kind in (_REF, _OBJECT):
            _, end, number = _HELD.unpack_from(data)
            others = _arrived(self.heap, data[_HELD.size :])
            return self._opened(kind, (Held(address, end, number, held), *others))
        if held is not None and kind == _ARRAY:
            return _array(self.heap, data, address, held)
        if held is not None and kind in (_BLOCK, _BYTES_BLOCK, _PICKLED_BLOCK, _OBJECT_BLOCK):
            (size,) = _LENGTH.unpack(data)
            if size <= usable:
                if kind == _BLOCK:
                    return SharedBlock._holding(self.heap, address, size, generation, held)
                with memoryview(_native.Exporter(address, size, True, held)) as view:
                    if kind == _PICKLED_BLOCK:
                        return pickle.loads(view)
                    contents = bytes(view)
                if kind == _BYTES_BLOCK:
                    return contents
                return self._opened(contents[0], tuple(_arrived(self.heap, contents[1:])))
        raise Corrupted(f"{self!r}: a message of kind {kind} with {len(data)} bytes", address=self._address)

    def _opened(self, kind: int, held: tuple[Held, ...]) -> Any:
        ref = Ref._of(self.heap, held)
        return ref if kind == _REF else self.heap.get(ref)


# ---- blocks -------------------------------------------------------------------------------------


def _lease(heap: SharedHeap, address: int) -> _native.Finalizer:
    try:
        return _native.Finalizer(_let_go, heap, address)
    except BaseException:
        heap._release(address)
        raise


def _let_go(heap: SharedHeap, address: int) -> None:
    with suppress(Released):
        heap._release(address)
        # A channel keeps its block and its messages, until somebody looks whether anybody holds it.
        if not heap._holders(address):
            heap._collect_objects()
        heap._trim_if_wanted()


@contextmanager
def _underway(heap: SharedHeap, held: tuple[Held, ...]) -> Iterator[None]:
    """Blocks of a message beside the one in its cell: unless it was sent, they arrive here again."""
    gone: list[Held] = []
    try:
        for each in held:
            heap._depart(each.start)
            gone.append(each)
        yield
    except BaseException:
        for each in gone:
            if not isinstance(heap._arrive(each.start, each.generation), int):
                heap._release(each.start)
        raise


def _arrived(heap: SharedHeap, blocks: bytes) -> Iterator[Held]:
    for start, end, generation in _HELD.iter_unpack(blocks):
        heap._received(start, generation, end - start)
        yield Held(start, end, generation, hold(heap, start))


def _arrive_channel(identity: bytes, handle: bytes, address: int, generation: int, index: int, spin: int) -> Any:
    def arrived(heap: SharedHeap) -> Channel:
        heap._received(address, generation, 1)
        return Channel._of(heap, _lease(heap, address), address, generation, index, spin)

    return arrive(identity, handle, arrived)


# ---- objects ------------------------------------------------------------------------------------


def _is_heap_array(kind: type) -> bool:
    arrays = sys.modules.get("stead.heap.arrays")
    return arrays is not None and kind is arrays.HeapArray


def _array_header(array: Any, heap: SharedHeap) -> tuple[bytes, int] | None:
    from stead.heap.arrays import locate

    place = locate(array)
    if place is None or place.heap is not heap:
        return None
    kind = array.dtype
    simple = kind.names is None and kind.subdtype is None and kind.metadata is None
    about = (
        place.first - place.start, place.end - place.start, array.shape, kind.str if simple else kind,
        array.strides, array.flags.writeable,
    )  # fmt: skip
    return pickle.dumps(about, 5), place.start


def _array(heap: SharedHeap, header: bytes, start: int, held: _native.Finalizer) -> Any:
    from stead.heap.arrays import HeapArray

    offset, size, shape, kind, strides, writable = pickle.loads(header)
    memory: Any = _native.Exporter(start, size, not writable or bool(heap._read_only), held)
    return HeapArray(shape, kind, memory, offset, strides)


class _NotInline(Exception):
    """It has large buffers, or something of the heap: it is put, which copies the former once, the latter
    never."""


class _Writer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, heap: SharedHeap, most: int) -> None:
        def inline(buffer: pickle.PickleBuffer) -> bool:
            with memoryview(buffer) as view:
                if view.nbytes > most:
                    raise _NotInline
            return True

        # No method: with a cycle, what was pickled would be kept until the next garbage collection.
        super().__init__(file, 5, buffer_callback=inline)
        self._heap, self._most = heap, most

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if (kind is Ref or kind is SharedBlock) and obj.heap is self._heap:
            raise _NotInline
        if _is_heap_array(kind):
            raise _NotInline
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(obj, torch.Tensor) and obj.nbytes > self._most:
            raise _NotInline
        return NotImplemented


def _pickled(obj: object, heap: SharedHeap, most: int) -> bytes | None:
    file = io.BytesIO()
    try:
        _Writer(file, heap, most).dump(obj)
    except _NotInline:
        return None
    return file.getvalue()


def _default_spin() -> float:
    return 20e-6 if len(os.sched_getaffinity(0)) > 1 else 0.0


def _spin(seconds: float) -> int:
    if not 0 <= seconds < 1e9:
        raise ValueError(f"spin is {seconds!r}, must be a number of seconds, at least 0")
    return int(seconds * _NS)
