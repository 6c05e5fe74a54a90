"""A drop-in for :mod:`multiprocessing.shared_memory` without its leaks: docs/shared-memory.md has the differences.

``from stead.shared_memory import SharedMemory, ShareableList``. Memory with a name, in no file system: it lives as
long as a process of this user has it open, and is gone with the last one, even with a killed one.

(:class:`stead.SharedMemory` is something else: memory without a name, to be committed in a reservation.)
"""

from __future__ import annotations

import contextlib
import operator
import os
import struct
import threading
import weakref
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from stead import segments
from stead.descriptors import Descriptor, describe, open_descriptor
from stead.segments import Mapping, Owned, canonical, missing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from stead._native import Exporter

__all__ = ["ShareableList", "SharedMemory"]

# What the standard module has under these names, for programs (and its own tests) that look.
_USE_POSIX = True
_SHM_NAME_PREFIX = "/psm_"


def _make_filename() -> str:
    """A name that nobody has: 64 random bits, where the standard library has 32."""
    return _SHM_NAME_PREFIX + os.urandom(8).hex()


class SharedMemory:
    """Shared memory with a name, which any process of this user can attach by that name.

    ``create``: make new memory of ``size`` bytes, all of it allocated now; ``name`` None: make one up. Otherwise
    attach what has this name; ``size`` is ignored. ``track`` is accepted and has no effect: nothing is tracked.

    Raises FileExistsError, FileNotFoundError, LimitReached (an OSError: memory, descriptors), ValueError,
    TypeError, Unsupported where /proc is not mounted.
    """

    # Defaults, for an object whose making failed.
    _name: str = ""
    _flags: int = os.O_RDWR
    _owned: Owned | None = None
    _mapping: Mapping | None = None
    _buf: memoryview | None = None
    _exporter: Exporter | None = None
    _size: int = 0

    def __init__(
        self, name: str | None = None, create: bool = False, size: int = 0, *, track: bool = True
    ) -> None:
        size = operator.index(size)
        if size < 0:
            raise ValueError(f"size is {size}, must be a positive number of bytes")
        if create:
            self._flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
            if size == 0:
                raise ValueError("size is 0, must be at least 1 byte where create is True")
        if name is None and not self._flags & os.O_EXCL:
            raise ValueError("name is None, which it can only be where create is True")
        self._track = track
        if name is None:
            self._owned, self._mapping = self._made_unnamed(size)
        else:
            self._name = "/" + name if isinstance(name, str) else name
            self._owned, self._mapping = self._made_named(canonical(self._name), size)
        self._size = self._mapping.size
        self._exporter = self._mapping.exporter()
        self._buf = memoryview(self._exporter)
        # Arrays refer to where they point without an export of it: numpy.ndarray(buffer=shm.buf) to the exporter,
        # torch.frombuffer(shm.buf) to the memoryview, which close() releases. So the memory stays mapped for as
        # long as anyone has either of them.
        weakref.finalize(self._buf, _let_go, self._exporter).atexit = False

    def _made_unnamed(self, size: int) -> tuple[Owned, Mapping]:
        while True:
            self._name = _make_filename()
            with contextlib.suppress(FileExistsError):
                return segments.create(canonical(self._name), size, unique=True)

    def _made_named(self, plain: str, size: int) -> tuple[Owned, Mapping]:
        if not self._flags & os.O_EXCL:
            try:
                return segments.attach(plain, _expected(plain))
            except FileNotFoundError:
                if not self._flags & os.O_CREAT:
                    raise
            if size == 0:
                raise ValueError("size is 0, must be at least 1 byte for memory that is not there yet")
        return segments.create(plain, size)

    @property
    def buf(self) -> memoryview:
        """The contents, as a writable memoryview of bytes; None after :meth:`close`."""
        return self._buf  # type: ignore[return-value]  # as typeshed has it: nobody expects None in every line

    @property
    def name(self) -> str:
        """By which other processes attach it."""
        return self._name.removeprefix("/")

    @property
    def size(self) -> int:
        """Bytes, as many as were asked for."""
        return self._size

    def close(self) -> None:
        """End this object's access to the memory, which stays for others, and under its name.

        Raises BufferError while there are views of :attr:`buf` other than that itself; call it again without them.
        """
        if self._buf is not None:
            self._buf.release()
            self._buf = None
        if self._exporter is not None and self._exporter.exports:
            raise BufferError("cannot close exported pointers exist")
        self._exporter = self._mapping = None

    def unlink(self) -> None:
        """End the name, for new memory to take. Whoever has the memory attached goes on using it, and it is given
        back when nobody does. To be called once, by any one of those who have it.

        Raises FileNotFoundError where somebody did so before.
        """
        plain = canonical(self._name)
        if self._owned is None:
            raise missing(plain)
        segments.unlink(plain, self._owned)
        self._owned = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _attached, (self.__class__, self.name, self.size, *self._seen())

    def _seen(self) -> tuple[Any, str]:
        return (None, "") if self._owned is None else _tell(describe(self._owned.fd))

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.name!r}, size={self.size})"


def _let_go(exporter: Exporter) -> None:
    """Called when the memoryview is gone; until then this call holds the memory."""


# ---- pickling: the name, and where the memory was last seen ----------------------------------------

_arriving = threading.local()


def _tell(sent: Descriptor) -> tuple[Any, str]:
    # One text of one length, since the standard module's pickles do not grow with what is in them either.
    numbers = f"{sent.pid:08x}{sent.started:016x}{sent.fd:08x}{sent.device:016x}{sent.inode:016x}"
    return sent.inherited, f"{numbers}{sent.boot:36}{sent.door}"


def _told(inherited: Any, text: str) -> Descriptor:
    pid, started, fd, device, inode = (
        int(text[start:stop], 16) for start, stop in ((0, 8), (8, 24), (24, 32), (32, 48), (48, 64))
    )
    boot, door = text[64:100].strip(), text[100:]
    return Descriptor(pid, started, boot, fd, device, inode, inherited, door=door)


@contextlib.contextmanager
def _arrival(name: str, inherited: Any, told: str) -> Iterator[None]:
    """While one is unpickled: from where it was last seen, else from whoever has it, else what has its name."""
    _arriving.expected = (name, _told(inherited, told) if told else None)
    try:
        yield
    finally:
        sent = _expected(name.lstrip("/"))
        if sent is not None and inherited is not None:  # a class of its own that did not ask for it
            with contextlib.suppress(Exception):
                os.close(open_descriptor(sent, False, search=False))


def _attached(kind: type[SharedMemory], name: str, size: int, inherited: Any, told: str) -> SharedMemory:
    with _arrival(name, inherited, told):
        return kind(name, False, size)


def _expected(plain: str) -> Descriptor | None:
    """Where the memory that is being unpickled was last seen, told once."""
    name, sent = getattr(_arriving, "expected", ("", None))
    if name.lstrip("/") != plain:
        return None
    _arriving.expected = ("", None)
    found: Descriptor | None = sent
    return found


# ---- a list ---------------------------------------------------------------------------------------

_Item = TypeVar("_Item", bound="int | float | bool | str | bytes | None")

_WORD = struct.Struct("q")
_MOST = 9_999_991  # bytes of an item: its room is a multiple of 8 above it, and its format has 8 characters


class ShareableList(Generic[_Item]):
    """A list of fixed length in shared memory: items are int (64 bits), float, bool, None, str and bytes.

    ``sequence``: the items, copied into new memory called ``name``. Without it, the list that is there under
    ``name``. An item can be replaced by one of another kind that needs no more room: each str or bytes has its
    length in multiples of 8 bytes, and 8 bytes more if it fills them, everything else 8 bytes.

    Raises TypeError for an item that cannot be stored, ValueError for one that is too long, struct.error for an
    int of more than 64 bits; FileExistsError, FileNotFoundError, LimitReached as :class:`SharedMemory`.
    """

    # In the memory, everything in units of 8 bytes: the number N of items; N + 1 offsets of items, from the first
    # one; the items; N formats of struct, 8 characters each; N kinds; N lengths. The standard one has no lengths,
    # and takes the NULs off an item's end instead, also those that belong to it.
    _types_mapping: ClassVar[dict[type, str]] = {
        int: "q",
        float: "d",
        bool: "xxxxxxx?",
        str: "%ds",
        bytes: "%ds",
        type(None): "xxxxxx?x",
    }
    _alignment = 8

    def __init__(self, sequence: Iterable[_Item] | None = None, *, name: str | None = None) -> None:
        if sequence is None and name is not None:
            self.shm = SharedMemory(name)
            self._list_len = self._read_length()
            return
        items: tuple[Any, ...] = tuple(sequence or ())
        encoded = [_encode(item) for item in items]
        offsets = [0]
        for item, (code, _, value) in zip(items, encoded, strict=True):
            offsets.append(offsets[-1] + (_room(item, value) if code in (_STR, _BYTES) else 8))
        count = self._list_len = len(items)
        self.shm = SharedMemory(name, create=True, size=8 * (1 + count + 1 + 3 * count) + offsets[-1])
        struct.pack_into(f"{count + 2}q", self.shm.buf, 0, count, *offsets)
        for position, each in enumerate(encoded):
            self._write(position, *each)

    def _read_length(self) -> int:
        """The length of the list, if there can be one of this length."""
        size = self.shm.size
        if size >= 16:
            count: int = _WORD.unpack_from(self.shm.buf, 0)[0]
            if 0 <= count <= (size - 16) // 32:
                end: int = _WORD.unpack_from(self.shm.buf, 8 * (1 + count))[0]
                if 8 * (1 + count + 1 + 3 * count) + end == size:
                    return count
        name = self.shm.name
        self.shm.close()
        raise ValueError(f"name is {name!r}, which holds no list")

    # ---- where things are -----------------------------------------------------------------------

    @property
    def _offset_data_start(self) -> int:
        return (self._list_len + 2) * 8

    @property
    def _offset_formats(self) -> int:
        return self._offset_data_start + int(self._word(1 + self._list_len))

    def _word(self, index: int) -> int:
        word: int = _WORD.unpack_from(self.shm.buf, 8 * index)[0]
        return word

    def _place(self, position: int) -> tuple[int, int]:
        """Where an item is and how much room it has."""
        start, stop = self._word(1 + position), self._word(2 + position)
        return self._offset_data_start + start, stop - start

    def _position(self, position: Any, message: str) -> int:
        number = operator.index(position)
        if not -self._list_len <= number < self._list_len:
            raise IndexError(f"{message}: {number} of {self._list_len} items")
        return number % self._list_len

    def _get_packing_format(self, position: int) -> str:
        position = self._position(position, "Requested position out of range")
        text: bytes = struct.unpack_from("8s", self.shm.buf, self._offset_formats + 8 * position)[0]
        return text.rstrip(b"\0").decode()

    # ---- items ----------------------------------------------------------------------------------

    def _write(self, position: int, code: int, fmt: str, value: Any) -> None:
        start, room = self._place(position)
        length = len(value) if code in (_STR, _BYTES) else 8
        if length > room:
            raise ValueError(f"bytes/str item exceeds available storage: {length} bytes at {position}, for {room}")
        if code in (_STR, _BYTES):
            fmt = f"{room}s"
        after = self._offset_formats + 8 * self._list_len
        struct.pack_into(fmt, self.shm.buf, start, value)
        struct.pack_into("8s", self.shm.buf, self._offset_formats + 8 * position, fmt.encode())
        _WORD.pack_into(self.shm.buf, after + 8 * position, code)
        _WORD.pack_into(self.shm.buf, after + 8 * (self._list_len + position), length)

    def __getitem__(self, position: int) -> _Item:
        position = self._position(position, "index out of range")
        after = self._offset_formats + 8 * self._list_len
        code = _WORD.unpack_from(self.shm.buf, after + 8 * position)[0]
        start, room = self._place(position)
        value: Any = struct.unpack_from(self._get_packing_format(position), self.shm.buf, start)[0]
        if code in (_STR, _BYTES):
            length = _WORD.unpack_from(self.shm.buf, after + 8 * (self._list_len + position))[0]
            value = value[: min(length, room)]
            return value.decode() if code == _STR else value  # type: ignore[no-any-return]
        return None if code == _NONE else value  # type: ignore[return-value]

    def __setitem__(self, position: int, value: _Item) -> None:
        self._write(self._position(position, "assignment index out of range"), *_encode(value))

    def __iter__(self) -> Iterator[_Item]:
        for position in range(self._list_len):
            yield self[position]

    def __len__(self) -> int:
        return self._list_len

    def __reduce__(self) -> tuple[Any, ...]:
        return _attached_list, (self.__class__, self.shm.name, *self.shm._seen())

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({list(self)}, name={self.shm.name!r})"

    @property
    def format(self) -> str:
        """The struct packing format of all items, as they are now."""
        return "".join(self._get_packing_format(position) for position in range(self._list_len))

    def count(self, value: _Item) -> int:
        """How many items are equal to ``value``."""
        return sum(value == entry for entry in self)

    def index(self, value: _Item) -> int:
        """The first position of an item that is equal to ``value``. Raises ValueError where there is none."""
        for position, entry in enumerate(self):
            if value == entry:
                return position
        raise ValueError(f"{value!r} not in this container")


_PLAIN, _STR, _BYTES, _NONE = range(4)


def _encode(item: Any) -> tuple[int, str, Any]:
    """Its kind, its format of struct ("" where its room decides), and the value to pack."""
    kind = type(item)
    if isinstance(item, (str, bytes)):
        value = item.encode() if isinstance(item, str) else item
        if len(value) > _MOST:
            raise ValueError(f"item has {len(value)} bytes, must have at most {_MOST}: {item[:20]!r}...")
        return (_STR if isinstance(item, str) else _BYTES), "", value
    if kind not in ShareableList._types_mapping:
        raise TypeError(f"item is {item!r} of type {kind.__name__}, must be int, float, bool, str, bytes or None")
    if kind is int and not -(1 << 63) <= item < 1 << 63:
        raise struct.error(f"item is {item}, must be an int of 64 bits")
    return (_NONE if item is None else _PLAIN), ShareableList._types_mapping[kind], item


def _room(item: str | bytes, value: bytes) -> int:
    """As much as the standard one gives it, which counts characters; but enough for all its bytes."""
    return max(8 * (len(item) // 8 + 1), -(-len(value) // 8) * 8)


def _attached_list(kind: type[ShareableList[Any]], name: str, inherited: Any, told: str) -> ShareableList[Any]:
    with _arrival(name, inherited, told):
        return kind(name=name)
