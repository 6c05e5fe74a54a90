"""What the workers of the tests of heaps run: importable by spawned processes."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import numpy

import stead

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_kept: list[Any] = []


def address(array: Any) -> int:
    """Where an array's first element is."""
    return int(array.__array_interface__["data"][0])


def look(array: Any) -> tuple[str, int, float]:
    """What arrived, where it is, and its sum."""
    return type(array).__name__, address(array), float(array.sum())


def fill(array: Any, value: float) -> int:
    array[...] = value
    return os.getpid()


def make(heap: stead.SharedHeap, n: int) -> Any:
    """An array that nobody holds any more when it is on its way."""
    array = heap.array(n)
    array[:] = numpy.arange(n)
    return array


def make_block(heap: stead.SharedHeap, contents: bytes) -> stead.SharedBlock:
    block = heap.block(len(contents))
    with memoryview(block) as view:
        view[:] = contents
    return block


def put(heap: stead.SharedHeap, obj: object) -> stead.Ref:
    return heap.put(obj)


def get(ref: stead.Ref) -> Any:
    return ref.heap.get(ref)


def describe_heap(heap: stead.SharedHeap) -> tuple[int, int, int]:
    return heap.range.start, len(heap.processes), os.getpid()


def make_heap(size: str) -> Any:
    """The worker makes it, and sends an array: whoever receives that has the heap."""
    heap = stead.SharedHeap(size, name="from the worker")
    array = heap.array(1000)
    array[:] = 7
    return array


def serve(connection: Connection) -> None:
    """Run what is asked for, (function, arguments), until None; keep what it answers where ``keep`` says so."""
    while True:
        keep = False
        try:
            task = connection.recv()
            if task is None:
                return
            function, arguments, keep = task
            answer = function(*arguments)
        except Exception as error:
            answer = error
        if keep:
            _kept.append(answer)
            answer = "kept"
        connection.send(answer)


def forget() -> None:
    _kept.clear()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def queue_and_exit(heap: stead.SharedHeap, queue: Any, n: int) -> None:
    queue.put(make(heap, n))


def sit_on(start: int, size: int) -> None:
    """Occupy a place in this worker."""
    _kept.append(stead.reserve(size, at=start, name="squatter"))


def try_to_write(array: Any) -> list[str]:
    """Every way to write into a heap that may only be read, and what becomes of it."""
    answers = []
    try:
        array[0] = 1
        answers.append("written")
    except ValueError:
        answers.append("read-only array")
    try:
        array.flags.writeable = True
        answers.append("made writable")
    except ValueError:
        answers.append("stays read-only")
    page = address(array) // mmap.PAGESIZE * mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    refused = libc.mprotect(
        ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ | mmap.PROT_WRITE
    )
    answers.append(os.strerror(ctypes.get_errno()) if refused else "unprotected")
    return answers


def attach_read_only(handle: stead.HeapHandle) -> list[str]:
    heap = handle.attach()
    _kept.append(heap)
    answers = [str(heap.read_only)]
    for attempt in (lambda: heap.allocate(16), lambda: heap.block(16), lambda: heap.put(1), lambda: heap.array(3)):
        try:
            attempt()
            answers.append("done")
        except stead.Unsupported:
            answers.append("unsupported")
    return answers


def touch_after_force(heap: stead.SharedHeap) -> None:
    """Ends in SIGSEGV, reported by faulthandler."""
    import faulthandler

    faulthandler.enable()
    array = heap.array(100)
    heap.close(force=True)
    print("closed", flush=True)
    array[0] = 1


def force_and_look(heap: stead.SharedHeap) -> tuple[bool, bool]:
    """Whether the addresses are held, and whether they can be had."""
    where, array = heap.range, heap.array(10)
    heap.close(force=True)
    del array
    try:
        stead.reserve(where.size, at=where.start)
    except stead.Occupied as error:
        return "closed by force" in str(error), True
    return False, False


def attach_at_once(heap: stead.SharedHeap, barrier: Any, queue: Any) -> None:
    barrier.wait()
    mine = heap.array(1000)
    mine[:] = os.getpid()
    queue.put((heap.range.start, os.getpid(), mine))
    barrier.wait()


def churn(heap: stead.SharedHeap, seed: int) -> None:
    """Allocate, free, send nothing; until killed."""
    import random

    draw = random.Random(seed)
    held: list[Any] = []
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    while True:
        kind = draw.randrange(4)
        if kind == 0 and held:
            held.pop(draw.randrange(len(held)))
        elif kind == 1:
            held.append(heap.put(numpy.arange(draw.randrange(5000))))
        else:
            held.append(heap.array(draw.randrange(1, 100_000), "u1"))
        del held[:-50]
