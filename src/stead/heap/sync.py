"""Lock, Condition, Semaphore and Barrier that live in a heap: between processes, and between threads of a process.

They can be sent anywhere, and outlive whoever made them. None of them is left in disorder by a process that is
killed at any moment: where that may have left something half done, the next one is told by OwnerDied.
"""

from __future__ import annotations

import time
from threading import BrokenBarrierError
from typing import TYPE_CHECKING

from stead import _native
from stead.errors import BarrierOwnerDied, OwnerDied, Released
from stead.heap.inner import BARRIER, CONDITION, LOCK, SEMAPHORE, Inner, nanoseconds, owner

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, Literal, Self, TypeVar

    from stead.heap.heap import SharedHeap

    T = TypeVar("T")


class Lock(Inner):
    """A lock between processes; threads of a process exclude each other, too. Made by
    :meth:`stead.SharedHeap.lock`. It is not reentrant, and any thread of the process that has it may release it.

    Where the process that held it has ended, the next one that acquires it gets the lock *and* OwnerDied, once:
    what it guards may be half done. Repair that, and release the lock.
    """

    __slots__ = ()

    @classmethod
    def _make(cls, heap: SharedHeap) -> Lock:
        return cls._new(heap, LOCK)

    def acquire(self, blocking: bool = True, timeout: float | None = -1) -> bool:
        """Take it: True; or False where it was not to be had within ``timeout`` seconds (-1 or None: for ever), or
        at once where not ``blocking``.

        Raises OwnerDied where the process that held it has ended: *the lock is held then*, by this process. Raises
        ValueError and OverflowError as threading.Lock does.
        """
        got = self._heap._lock_acquire(self._index, _patience(blocking, timeout))
        if got == _native.HEAP_DONE:
            return True
        if got == _native.HEAP_TIMEOUT:
            return False
        if got == _native.HEAP_OWNER_DIED:
            raise OwnerDied(
                f"the process that held {self!r} ended before it was released: what it guards may be half done; "
                "the lock is held now"
            )
        raise self._refusal(got)

    def release(self) -> None:
        """Raises RuntimeError where this process does not have it."""
        got = self._heap._lock_release(self._index)
        if got == _native.HEAP_NOT_OWNER:
            raise RuntimeError(f"cannot release {self!r}, which this process does not hold")
        if got:
            raise self._refusal(got)

    def locked(self) -> bool:
        """Whether any process has it, or had it when it was killed."""
        return self._heap._lock_owner(self._index) > 0

    def _is_mine(self) -> bool:
        return self._heap._lock_owner(self._index) == self._heap._place

    def __enter__(self) -> Literal[True]:
        """As ``acquire``; but where that raises OwnerDied the lock is released again, and the next one is not
        told."""
        try:
            self.acquire()
        except OwnerDied:
            self.release()
            raise
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        held, whose = owner(self._heap, self._index)
        return self._said("locked" if held else "unlocked", whose)


def _patience(blocking: bool, timeout: float | None) -> int:
    if timeout is None or timeout == -1:
        return -1 if blocking else 0
    if not blocking:
        raise ValueError("can't specify a timeout for a non-blocking call")
    if timeout < 0:
        raise ValueError(f"timeout is {timeout!r}, must be a non-negative number of seconds, or -1")
    return nanoseconds(timeout)


class Condition(Inner):
    """A condition variable between processes, with a Lock. Made by :meth:`stead.SharedHeap.condition`.

    Who is killed while it waits has taken nobody's notification. Where a process is killed in the lock, one of
    those that wait (or the next one that acquires) gets the lock and OwnerDied, since whoever was to notify may
    be dead.
    """

    __slots__ = ("_lock",)

    _lock: Lock

    @classmethod
    def _make(cls, heap: SharedHeap, lock: Lock | None) -> Condition:
        if lock is not None and not isinstance(lock, Lock):
            raise TypeError(f"lock is {lock!r}, must be a Lock of the heap")
        if lock is not None and lock.heap is not heap:
            raise ValueError(f"lock is {lock!r}, of {lock.heap!r}, must be of {heap!r}")
        made = cls._new(heap, CONDITION)
        made._lock = Lock._make(heap) if lock is None else lock
        return made

    def _more(self) -> tuple[Any, ...]:
        return (self._lock,)

    def _restore(self, lock: Lock) -> None:
        self._lock = lock

    @property
    def lock(self) -> Lock:
        return self._lock

    def acquire(self, blocking: bool = True, timeout: float | None = -1) -> bool:
        """Take the lock: see Lock.acquire."""
        return self._lock.acquire(blocking, timeout)

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()

    def locked(self) -> bool:
        """Whether any process has the lock."""
        return self._lock.locked()

    def __enter__(self) -> Literal[True]:
        return self._lock.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Release the lock, wait until notified or for ``timeout`` seconds (None: for ever), and take it again:
        whether it was notified. The lock is held afterwards, whatever happens, Ctrl-C included.

        Raises OwnerDied where a process was killed in the lock, RuntimeError where this process does not have it.
        """
        got = self._heap._condition_wait(self._index, self._lock._index, nanoseconds(timeout))
        if got == _native.HEAP_DONE:
            return True
        if got == _native.HEAP_TIMEOUT:
            return False
        if got == _native.HEAP_OWNER_DIED:
            raise OwnerDied(
                f"a process ended in {self._lock!r}: what it guards may be half done; the lock is held now"
            )
        if got == _native.HEAP_NOT_OWNER:
            raise RuntimeError(f"cannot wait on {self!r}: this process does not hold its lock")
        raise self._refusal(got)

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """Wait until ``predicate()``, called with the lock held, is true, or for ``timeout`` seconds: what it
        answered last. Raises what ``wait`` does."""
        end = None if timeout is None else time.monotonic() + timeout
        while not (result := predicate()):
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
        return result

    def notify(self, n: int = 1) -> None:
        """Let ``n`` of those that wait go on. Raises RuntimeError where this process does not have the lock."""
        self._notify(n)

    def notify_all(self) -> None:
        """Let all that wait go on. Raises RuntimeError where this process does not have the lock."""
        self._notify(-1)

    def _notify(self, n: int) -> None:
        if not self._lock._is_mine():
            raise RuntimeError(f"cannot notify on {self!r}: this process does not hold its lock")
        if n and (got := self._heap._condition_notify(self._index, min(n, 1 << 30))):
            raise self._refusal(got)

    def __repr__(self) -> str:
        held, whose = owner(self._heap, self._lock._index)
        return self._said("locked" if held else "unlocked", whose)


class Semaphore(Inner):
    """A number of permits. Made by :meth:`stead.SharedHeap.semaphore`.

    The permits that a process has when it ends, in whatever way, come back. Who releases more than its process has
    adds permits; so for telling others how much there is to do a Channel is better: what was taken from it by who
    is killed does not come back.
    """

    __slots__ = ()

    @classmethod
    def _make(cls, heap: SharedHeap, value: int, most: int = 0) -> Self:
        if value < 0:
            raise ValueError(f"semaphore initial value is {value!r}, must be >= 0")
        return cls._new(heap, SEMAPHORE, value, most)

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Take a permit: True; or False where there was none within ``timeout`` seconds (None: for ever), or at
        once where not ``blocking``. Raises ValueError as threading.Semaphore does."""
        if not blocking and timeout is not None:
            raise ValueError("can't specify timeout for non-blocking acquire")
        got = self._heap._semaphore_acquire(self._index, nanoseconds(timeout) if blocking else 0)
        if got and got != _native.HEAP_TIMEOUT:
            raise self._refusal(got)
        return not got

    def release(self, n: int = 1) -> None:
        """Give back ``n`` permits. Raises ValueError where these are more than there may be."""
        if n < 1:
            raise ValueError("n must be one or more")
        got = self._heap._semaphore_release(self._index, n) if n < 1 << 31 else _native.HEAP_FULL
        if got == _native.HEAP_FULL:
            raise ValueError(f"{self!r} was released too many times")
        if got:
            raise self._refusal(got)

    @property
    def value(self) -> int:
        """Permits that are there now."""
        return self._heap._semaphore_value(self._index)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        try:
            return self._said(f"{self.value} of a", "")
        except Released:
            return self._said("ended", ", of a heap that was closed")


class BoundedSemaphore(Semaphore):
    """A Semaphore that cannot have more permits than at first: ``release`` raises ValueError."""

    __slots__ = ()


class Barrier(Inner):
    """Where ``parties`` threads of any processes wait for each other. Made by :meth:`stead.SharedHeap.barrier`.

    Where one of those that wait, or that runs the action, is killed, the others get OwnerDied, which is a
    threading.BrokenBarrierError as well, and so does everyone until ``reset``.
    """

    __slots__ = ("_action", "_timeout")

    _action: Callable[[], object] | None
    _timeout: float | None

    @classmethod
    def _make(
        cls, heap: SharedHeap, parties: int, action: Callable[[], object] | None, timeout: float | None
    ) -> Barrier:
        if parties < 1:
            raise ValueError(f"parties is {parties!r}, must be >= 1")
        if action is not None and not callable(action):
            raise TypeError(f"action is {action!r}, must be callable, or None")
        made = cls._new(heap, BARRIER, parties, action is not None)
        made._restore(action, timeout)
        return made

    def _more(self) -> tuple[Any, ...]:
        return self._action, self._timeout

    def _restore(self, action: Callable[[], object] | None, timeout: float | None) -> None:
        self._action, self._timeout = action, timeout

    def wait(self, timeout: float | None = None) -> int:
        """Wait until all parties are there: how many were there before. The last one runs the action first.

        ``timeout``: seconds; None: the barrier's. Who gives up, by that or by Ctrl-C, breaks it. Raises
        threading.BrokenBarrierError where it is broken, or was reset; OwnerDied where a process was killed that
        waited.
        """
        limit = self._timeout if timeout is None else timeout
        got, arrival, phase = self._heap._barrier_wait(self._index, nanoseconds(limit))
        if not got and self._action and arrival == self.parties - 1:
            try:
                self._action()
            except BaseException:
                self.abort()
                raise
            got = self._heap._barrier_complete(self._index, phase)
        if not got:
            return arrival
        if got == _native.HEAP_OWNER_DIED:
            raise BarrierOwnerDied(f"a process that waited at {self!r} was killed")
        if got in (_native.HEAP_BARRIER_BROKEN, _native.HEAP_TIMEOUT):
            raise BrokenBarrierError(f"{self!r}")
        raise self._refusal(got)

    def abort(self) -> None:
        """Break it: all that wait, and all that come, get BrokenBarrierError, until ``reset``."""
        self._heap._barrier_abort(self._index)

    def reset(self) -> None:
        """Make it whole and empty. Who waits gets BrokenBarrierError."""
        self._heap._barrier_reset(self._index)

    def _state(self) -> tuple[int, int, int]:
        state = self._heap._barrier_state(self._index)
        if isinstance(state, int):
            raise self._refusal(state)
        return state

    @property
    def parties(self) -> int:
        return self._state()[0]

    @property
    def n_waiting(self) -> int:
        """How many wait for others now."""
        parties, waiting, _ = self._state()
        return waiting if waiting < parties else 0

    @property
    def broken(self) -> bool:
        return self._state()[2] != 0

    def __repr__(self) -> str:
        try:
            parties, waiting, broken = self._heap._barrier_state(self._index)  # type: ignore[misc]
        except (Released, TypeError):
            return self._said("ended")
        return self._said("broken" if broken else "whole", f", waiters={waiting}/{parties}")
