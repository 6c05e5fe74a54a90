"""SharedBlock: a block of a heap as a Python object; and what holds a block for an object."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stead import _native
from stead.errors import NotLive, Released
from stead.heap.handle import arrive, sent

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self, SupportsIndex

    from stead.heap.heap import SharedHeap


def hold(heap: SharedHeap, address: int) -> _native.Finalizer:
    """Takes over one hold of this process: it goes with the last reference to what is returned. In C, and not
    seen by the garbage collector: whatever is finalized, the memory is there until its last user is gone."""
    try:
        return _native.Finalizer(_let_go, heap, address)
    except BaseException:
        heap._release(address)
        raise


# Bound, since what is left at the end of the process is finalized when this module is empty already.
def _let_go(heap: SharedHeap, address: int, released: type[Released] = Released) -> None:
    try:
        heap._release(address)
        heap._trim_if_wanted()
    except released:  # with the heap, or at exit
        pass


class SharedBlock(_native.Exporter):
    """A block of a heap: a writable buffer (read-only where the heap is attached read-only), held by this
    process until it and every view of it are gone, or until ``free``. Made by :meth:`stead.SharedHeap.block`.

    Pickled it travels as a reference: the receiver gets the same memory at the same address, and holds it, too.
    It has weak references, and keeps its heap alive. ``numpy.frombuffer(block)`` and ``memoryview(block)`` are
    safe; an array made by ``numpy.ndarray(buffer=block)`` holds a reference, but no buffer, so that ``free``
    does not see it.
    """

    __slots__ = ("_generation", "_heap")

    _heap: SharedHeap
    _generation: int

    def __new__(cls, *arguments: object, **named: object) -> Self:
        raise TypeError("a SharedBlock is made by SharedHeap.block()")

    @classmethod
    def _of(cls, heap: SharedHeap, address: int, size: int, generation: int) -> SharedBlock:
        """Takes over one hold of this process."""
        return cls._holding(heap, address, size, generation, hold(heap, address))

    @classmethod
    def _holding(
        cls, heap: SharedHeap, address: int, size: int, generation: int, held: _native.Finalizer
    ) -> SharedBlock:
        made = _native.Exporter.__new__(SharedBlock, address, size, bool(heap._read_only), held)
        made._heap, made._generation = heap, generation
        return made

    @property
    def address(self) -> int:
        """The first address, the same in every process."""
        return self._address

    @property
    def size(self) -> int:
        """Bytes, as asked for."""
        return self._size

    @property
    def heap(self) -> SharedHeap:
        return self._heap

    @property
    def freed(self) -> bool:
        """Whether this process's hold was given back."""
        return self._ended

    def free(self) -> None:
        """Hold it no more. Idempotent. The memory is free when nobody else holds it. Raises BufferError where a
        view of it is live."""
        if views := self._end():
            raise BufferError(
                f"cannot free {self!r}: {views} live view{'s' * (views > 1)} of it; delete or release the "
                "memoryviews, and the arrays made from them"
            )

    def __len__(self) -> int:
        return self._size

    def __enter__(self) -> Self:
        if self._ended:
            raise ValueError(f"{self!r}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.free()
        except BufferError:
            if error is None:  # else the traceback keeps views of its frames alive: do not hide it behind them
                raise

    def __repr__(self) -> str:
        return f"<SharedBlock of {self._size} bytes at {self._address:#x}{', given back' * self._ended}>"

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        if self._ended:
            raise NotLive(f"{self!r} cannot be sent", address=self._address)
        return _arrive_block, (*sent(self._heap, self._address), self._address, self._generation, self._size)

    def __copy__(self) -> Any:
        raise TypeError(f"{self!r} cannot be copied: it is this memory. bytes(block) has its contents")

    def __deepcopy__(self, memo: object) -> Any:
        return self.__copy__()


def _arrive_block(identity: bytes, handle: bytes, address: int, generation: int, size: int) -> Any:
    return arrive(identity, handle, lambda heap: SharedBlock._of(heap, *heap._received(address, generation, size)))
