"""The heaps that this process has attached: one for each heap, found by its identity or by an address.

Threads: everything is safe. Fork: one set of hooks for all heaps, so that a child is attached in its own right
and holds what it inherits. Exit: what the process held goes at once where no other thread runs any more;
otherwise, and where the process is killed, the next one that looks for dead processes gives it back.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING
from weakref import ref

from stead.errors import AddressSpaceError

if TYPE_CHECKING:
    from stead.heap.heap import SharedHeap

# Attaching and closing. Held across a fork, like the next.
lock = threading.RLock()
# Only one thread of this process at a time adds memory, or gives it back; not held by its owner twice, so that a
# finalizer which runs in between does not begin to do the same.
growth_lock = threading.Lock()

_heaps: dict[bytes, ref[SharedHeap]] = {}
_by_address: list[
    tuple[int, int, ref[SharedHeap]]
] = []  # replaced as a whole, so that it is read without the lock

# Heaps that arrived by pickle stay attached while nothing of them is here: the next message finds them in place.
# Not all of them for ever: a worker would keep the memory of each heap that it ever saw.
_kept: list[SharedHeap] = []
_MOST_KEPT = 4


def add(heap: SharedHeap, *, keep: bool = False) -> None:
    """Enter a heap that is attached. Under the lock."""
    _heaps[heap._live().identity] = ref(heap)
    if keep:
        _prune()
        _kept.append(heap)
    _index()
    _at_exit()


def _prune() -> None:
    """Keep no heap that nobody else has, and in which nothing is, and no more than a few others; but what is
    underway might be so to us."""
    for heap in list(_kept):
        heap._reap()
        if len(heap._people()) == 1 and not heap._blocks():
            _kept.remove(heap)
    for heap in list(_kept):
        if len(_kept) >= _MOST_KEPT and not any(references for *_, references in heap._blocks()):
            _kept.remove(heap)


def remove(heap: SharedHeap, identity: bytes) -> None:
    """Under the lock."""
    with suppress(ValueError):
        _kept.remove(heap)
    _heaps.pop(identity, None)
    _index()


def _index() -> None:
    global _by_address
    for identity, each in list(_heaps.items()):
        if each() is None:
            del _heaps[identity]
    _by_address = [(heap.range.start, heap.range.stop, ref(heap)) for heap in everything()]


def get(identity: bytes) -> SharedHeap | None:
    found = _heaps.get(identity)
    heap = found() if found else None
    return None if heap is None or heap.closed else heap


def at(address: int) -> SharedHeap | None:
    """The heap that has the byte at ``address``."""
    for start, stop, each in _by_address:
        if start <= address < stop:
            return each()
    return None


def everything() -> list[SharedHeap]:
    found = (each() for each in list(_heaps.values()))
    return [each for each in found if each is not None]


# ---- fork ---------------------------------------------------------------------------------------

_forking: list[SharedHeap] = []
_collects = True


def _before() -> None:
    global _collects
    growth_lock.acquire()
    lock.acquire()
    # From here on the heaps are locked: a finalizer that gives a block back would wait for ever.
    _collects = gc.isenabled()
    gc.disable()
    for heap in everything():
        with suppress(AddressSpaceError):  # detached at exit already
            heap._before_fork()  # where there is no place, the child is told
            _forking.append(heap)


def _in_parent() -> None:
    for heap in _forking:
        heap._after_fork_in_parent()
    _go_on()


def _in_child() -> None:
    # All of them before anything is given back.
    lost = [heap for heap in _forking if heap._after_fork_in_child()]
    _go_on()
    with lock:
        for heap in lost:
            heap._end(inaccessible=True)


def _go_on() -> None:
    if _collects:
        gc.enable()
    lock.release()
    growth_lock.release()
    _forking.clear()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)


# ---- exit ---------------------------------------------------------------------------------------

# What keeps the after-fork hook of multiprocessing, which refers to it weakly; None until it is registered.
_hooked: _Hook | None = None


class _Hook:
    """In a child of multiprocessing, which has just forgotten the finalizers that it inherited."""

    def renew(self) -> None:
        _finalize_child()


def _at_exit() -> None:
    """A child that multiprocessing forked leaves without running what is registered with atexit, but runs its
    own finalizers: ours after that of the queues, which sends what is still to be sent."""
    global _hooked
    util = sys.modules.get("multiprocessing.util")
    if util is not None and _hooked is None:
        _hooked = _Hook()
        util.register_after_fork(_hooked, _Hook.renew)
        _finalize_child()


def _finalize_child() -> None:
    import multiprocessing.util

    if multiprocessing.parent_process() is not None:
        multiprocessing.util.Finalize(None, _leave, exitpriority=-100)


def _leave() -> None:
    # Another thread, a daemon, might write into an array that is somebody else's by then.
    if threading.active_count() > 1:
        return
    for heap in everything():
        with suppress(AddressSpaceError):
            heap._detach()


atexit.register(_leave)
