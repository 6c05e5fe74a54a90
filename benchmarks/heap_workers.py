"""What the workers of heap.py run, and how they are asked."""

from __future__ import annotations

import multiprocessing
import pickle
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

_kept: dict[str, Any] = {}


class Worker:
    """A process that has imported what it needs, and answers one call at a time."""

    def __init__(self, *modules: str, method: str = "spawn", quiet: bool = False) -> None:
        context: Any = multiprocessing.get_context(method)
        self._connection, there = context.Pipe()
        self.process = context.Process(target=serve, args=(there, modules), daemon=True)
        self.process.start()
        there.close()
        if not quiet:
            self.wait()

    def wait(self) -> Any:
        return self._connection.recv()

    def send(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._connection.send((function, arguments))

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self.send(function, *arguments)
        return self.wait()

    def ask_out_of_band(self, function: Callable[..., Any], argument: Any) -> Any:
        """The argument by pickle protocol 5, its buffers beside it."""
        buffers: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(argument, 5, buffer_callback=buffers.append)
        self._connection.send((out_of_band, (function, pickled, len(buffers))))
        for each in buffers:
            self._connection.send_bytes(each.raw())
        return self.wait()

    def end(self) -> None:
        self._connection.send(None)
        self.process.join()
        self._connection.close()


def serve(connection: Connection, modules: tuple[str, ...]) -> None:
    for each in modules:
        import_module(each)
    _kept["connection"] = connection
    connection.send("ready")
    while (task := connection.recv()) is not None:
        function, arguments = task
        answer = function(*arguments)
        del task, arguments
        connection.send(answer)
        del answer


def total(array: Any) -> float:
    return float(array.sum())


def out_of_band(function: Callable[..., Any], pickled: bytes, count: int) -> Any:
    buffers = [_kept["connection"].recv_bytes() for _ in range(count)]
    return function(pickle.loads(pickled, buffers=buffers))


def total_of_tensor(tensor: Any) -> float:
    return float(tensor.numpy().sum())


def total_in_shared_memory(name: str, count: int) -> float:
    """Attached at the first call, and kept."""
    from multiprocessing.shared_memory import SharedMemory

    import numpy

    if name not in _kept:
        _kept[name] = SharedMemory(name)
    return float(numpy.ndarray(count, "f8", _kept[name].buf).sum())


def detach_shared_memory(name: str) -> None:
    _kept.pop(name).close()


def attach(pickled: bytes) -> tuple[int, str]:
    """Nanoseconds that it takes to have what was pickled, in a process that has nothing of its heap."""
    began = time.perf_counter_ns()
    _kept["attached"] = pickle.loads(pickled)
    return time.perf_counter_ns() - began, type(_kept["attached"]).__name__


def keep_and_sum(array: Any) -> float:
    _kept["array"] = array
    return total(array)


def memory() -> dict[str, int]:
    """This process, in bytes: its proportional set size, that of the heap in it, and its page tables."""
    found = {"pss": _field(Path("/proc/self/smaps_rollup").read_text(), "Pss:")}
    found["tables"] = _field(Path("/proc/self/status").read_text(), "VmPTE:")
    return found


def _field(text: str, name: str) -> int:
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(name)) << 10


def churn(heap: Any, size: int, n: int) -> int:
    """Nanoseconds for n pairs of allocate and free."""
    allocate, free = heap.allocate, heap.free
    nothing = range(n)
    began = time.perf_counter_ns()
    for _ in nothing:
        free(allocate(size))
    return time.perf_counter_ns() - began


def imported() -> int:
    return len(sys.modules)
