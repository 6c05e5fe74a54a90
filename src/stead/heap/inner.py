"""What lives in a heap besides blocks (locks, channels), as Python sees it: bound to a small block, which the
Python object holds. So it lives as long as anybody holds that, anywhere, and travels as blocks do."""

from __future__ import annotations

import math
from threading import TIMEOUT_MAX
from typing import TYPE_CHECKING

from stead import _native
from stead.errors import LimitReached, NotLive, Released
from stead.heap.block import hold
from stead.heap.handle import arrive, sent

if TYPE_CHECKING:
    from typing import Any, Self, SupportsIndex

    from stead.heap.heap import SharedHeap

LOCK, CONDITION, SEMAPHORE, BARRIER, CHANNEL = range(1, 6)


def make(heap: SharedHeap, kind: int, address: int, a: int, b: int) -> int:
    """The number of a new one at a block that this process holds. Raises LimitReached."""
    index = heap._object_make(kind, address, a, b)
    if index == _native.HEAP_FULL:
        heap.collect()
        index = heap._object_make(kind, address, a, b)
    if index == _native.HEAP_FULL:
        raise LimitReached(f"{heap!r} has 4096 locks and channels already", "locks and channels of a heap")
    if index < 0:
        raise heap._refusal(index, address)
    return index


def nanoseconds(timeout: float | None) -> int:
    """A timeout in seconds for the core: None is for ever, and what is not positive is now. Raises
    OverflowError."""
    if timeout is None:
        return -1
    if timeout > TIMEOUT_MAX:
        if timeout == math.inf:
            return -1
        raise OverflowError(f"timeout is {timeout!r}, must be at most {TIMEOUT_MAX} seconds")
    if timeout != timeout:
        raise ValueError(f"timeout is {timeout!r}, must be a number of seconds")
    return max(math.ceil(timeout * 1e9), 0)


class Inner:
    """Equal where it is the same one in the heap, whichever object stands for it."""

    __slots__ = ("__weakref__", "_address", "_generation", "_heap", "_hold", "_index")

    _heap: SharedHeap
    _hold: _native.Finalizer
    _address: int
    _generation: int
    _index: int

    def __new__(cls, *arguments: object, **named: object) -> Self:
        raise TypeError(f"a {cls.__name__} is made by SharedHeap.{cls.__name__.lower()}()")

    @classmethod
    def _new(cls, heap: SharedHeap, kind: int, a: int = 0, b: int = 0) -> Self:
        size, alignment = heap._request(16, 16)
        address, _, generation, _, _ = heap._obtain(size, alignment)
        made = cls._of(heap, hold(heap, address), address, generation, -1)
        made._index = make(heap, kind, address, a, b)
        return made

    @classmethod
    def _of(
        cls, heap: SharedHeap, held: _native.Finalizer, address: int, generation: int, index: int, *more: Any
    ) -> Self:
        made = object.__new__(cls)
        made._heap, made._hold = heap, held
        made._address, made._generation, made._index = address, generation, index
        if more:
            made._restore(*more)
        return made

    def _restore(self, *more: Any) -> None:
        """What ``_more`` answered in the sender."""

    def _more(self) -> tuple[Any, ...]:
        return ()

    @property
    def heap(self) -> SharedHeap:
        """The heap that it is in."""
        return self._heap

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Inner)
            and self._heap is other._heap
            and (self._address, self._generation, self._index) == (other._address, other._generation, other._index)
        )

    def __hash__(self) -> int:
        return hash((self._address, self._generation))

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        more = self._more()
        whence = sent(self._heap, self._address)
        return _arrive_inner, (*whence, type(self), self._address, self._generation, self._index, *more)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def _said(self, state: str, more: str = "") -> str:
        return f"<{state} stead.{type(self).__name__} object at {self._address:#x}{more}>"

    def _refusal(self, code: int) -> Exception:
        if code == _native.HEAP_NOT_LIVE:
            return NotLive(f"{self!r} is not in the heap any more", address=self._address)
        return self._heap._refusal(code, self._address)


def owner(heap: SharedHeap, index: int) -> tuple[bool, str]:
    """Whether a lock is held, and by whom, in words."""
    try:
        place = heap._lock_owner(index)
    except Released:
        return False, ", of a heap that was closed"
    if place <= 0:
        return False, ""
    pid = next((pid for each, pid, _ in heap._people() if each == place), None)
    return True, f", held by process {pid}" if pid else ", whose owner has ended"


def _arrive_inner(
    identity: bytes, handle: bytes, kind: type[Inner], address: int, generation: int, index: int, *more: Any
) -> Any:
    def arrived(heap: SharedHeap) -> Inner:
        heap._received(address, generation, 1)
        return kind._of(heap, hold(heap, address), address, generation, index, *more)

    return arrive(identity, handle, arrived)
