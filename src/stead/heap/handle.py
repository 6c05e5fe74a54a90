"""How a heap, and what is in it, reaches another process: a small handle, and the arrival where it points.

Nothing that arrives is looked into before the handle was checked: the files are opened from who sent it, of
this boot and this user (descriptors.py), and must carry the heap's identity, 128 random bits. What is unpickled
comes from the pickle that the caller unpickles anyway, or from the heap's own memory.
"""

from __future__ import annotations

import os
import pickle
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import ref

from stead.descriptors import Descriptor, describe, open_descriptor
from stead.errors import AddressSpaceError, Released
from stead.handle import FailedArrival, in_pool_loop
from stead.heap import files, registry

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from stead.heap.files import Access
    from stead.heap.heap import SharedHeap
    from stead.ranges import Range


@dataclass(frozen=True, slots=True)
class HeapHandle:
    """What another process of the same user needs to attach a heap. Small, picklable, good as long as
    any process of this user has the heap attached. Made by :meth:`stead.SharedHeap.handle`."""

    identity: bytes
    range: Range
    name: str | None
    access: Access
    policy: tuple[int | None, int | None]
    control: Descriptor
    data: Descriptor

    def attach(self) -> SharedHeap:
        """The heap in this process, at the same addresses; the one that is here, where it is attached already,
        with the access that it has.

        Raises Occupied that names what is in the way, PeerFailed where the sender is gone or its files are not
        those of the heap, LimitReached.
        """
        return _attach(self, keep=False)


def _attach(handle: HeapHandle, *, keep: bool) -> SharedHeap:
    from stead.heap.heap import SharedHeap

    with registry.lock:
        here = registry.get(handle.identity)
        if here is not None:
            return here
        sender = f"process {handle.control.pid}, which sent it"
        with ExitStack() as undo:
            control = open_descriptor(handle.control, True)
            undo.callback(os.close, control)
            data = open_descriptor(handle.data, "w" in handle.access)
            undo.callback(os.close, data)
            memory = files.attach(handle.identity, handle.range, handle.access, control, data, handle.name, sender)
            undo.pop_all()
        heap = SharedHeap.__new__(SharedHeap)
        heap._join(memory, handle.name, handle.policy)
        registry.add(heap, keep=keep)
        return heap


def handle_of(heap: SharedHeap, access: Access) -> HeapHandle:
    memory = heap._live()
    return HeapHandle(
        memory.identity, memory.where, heap.name, access, heap._policy,
        describe(memory.control_fd), describe(memory.data_fd),
    )  # fmt: skip


# ---- pickling -----------------------------------------------------------------------------------


def sent(heap: SharedHeap, *addresses: int) -> tuple[bytes, bytes]:
    """A heap in a pickle: its identity, and its handle as bytes, which a receiver that has the heap does not
    look at. The blocks at ``addresses``, held by this process, are in transit from here on."""
    memory = heap._live()
    handle = _packed(heap, memory.access)
    for address in addresses:
        heap._depart(address)
    return memory.identity, handle


def _packed(heap: SharedHeap, access: Access) -> bytes:
    """Made once for each process, and for each that multiprocessing starts: that one inherits the
    descriptors."""
    context = sys.modules.get("multiprocessing.context")
    starting = context.get_spawning_popen() if context else None
    made: tuple[int, ref[Any] | None, bytes] | None = heap._handle
    if made and made[0] == os.getpid() and (made[1]() if made[1] else None) is starting:
        return made[2]
    packed = pickle.dumps(handle_of(heap, access), pickle.HIGHEST_PROTOCOL)
    heap._handle = (os.getpid(), ref(starting) if starting is not None else None, packed)
    return packed


def arrive(identity: bytes, handle: bytes, make: Callable[[SharedHeap], Any]) -> Any:
    """Unpickles what ``make`` finds in a heap, attached if need be. A refusal is raised, or, in the loop of a
    pool, kept until the task uses what it got: only there does it reach the one who sent the task."""
    try:
        heap = registry.get(identity)
        if heap is None:
            if not handle:
                raise Released("the heap that it lies in was closed")
            heap = _attach(pickle.loads(handle), keep=True)
        return make(heap)
    except (AddressSpaceError, OSError) as error:
        if in_pool_loop():
            return FailedArrival(error)
        raise


def arrive_heap(identity: bytes, handle: bytes) -> Any:
    return arrive(identity, handle, lambda heap: heap)
