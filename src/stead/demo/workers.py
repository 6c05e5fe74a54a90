"""Fresh worker processes that receive an index by pickling and answer queries from it."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import time
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess
    from types import TracebackType
    from typing import Self

    from stead.demo.index import Answer, Index

# A worker that does not end by itself when its connection closes is ended.
_PATIENCE = 5.0


class WorkerFailed(RuntimeError):
    """A worker ended, or said that it could not."""


def serve(connection: Connection) -> None:
    """The whole life of a worker: say that it is there, receive the index, say where it is, answer."""
    try:
        connection.send("started")
        index: Index = pickle.loads(connection.recv_bytes())
        connection.send(index.address)
        connection.send([index.look_up(word) for word in connection.recv()])
        connection.recv()  # keep the index until the parent closes its end
    except (EOFError, ConnectionError):
        pass  # the parent has what it wants, or is gone
    except Exception as error:
        connection.send(WorkerFailed(f"{type(error).__name__}: {error}"))


@dataclass(frozen=True, slots=True)
class Meeting:
    """What came of sending an index to workers and asking them all.

    ``sent``: bytes to each. Seconds since just before the index was pickled: ``received`` when every worker
    had it, ``answered`` when the last answer was here. Lists: by worker.
    """

    sent: int
    received: float
    answered: float
    pids: list[int]
    addresses: list[int | None]
    answers: list[list[Answer]]


class Workers:
    """Spawned processes, which end with the ``with`` block however it is left."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._workers: list[tuple[SpawnProcess, Connection]] = []

    def __enter__(self) -> Self:
        try:
            # ^C reaches all processes of a terminal: the workers leave it to the parent, from their first
            # instruction on, and end when their connection does. The tracker that multiprocessing starts
            # with its first process unblocks the signal, so it goes first.
            resource_tracker.ensure_running()
            masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                for number in range(1, self._number + 1):
                    self._workers.append(_start(number))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, masked)
        except BaseException:
            self._end(at_once=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(at_once=kind is not None)

    def _end(self, *, at_once: bool) -> None:
        for process, connection in self._workers:
            connection.close()
            if at_once:
                process.kill()
        for process, _ in self._workers:
            process.join(_PATIENCE)
            if process.is_alive():
                process.kill()
                process.join()
        self._workers.clear()

    def meet(self, index: Index, words: Sequence[bytes], step: Callable[[], None] = lambda: None) -> Meeting:
        """Send ``index`` to every worker, then ask each for all ``words``. ``step`` is called when a worker
        has started, has the index, and has answered.

        Raises WorkerFailed.
        """
        for number in range(self._number):
            self._receive(number)
            step()
        begin = time.perf_counter()
        pickled = pickle.dumps(index, pickle.HIGHEST_PROTOCOL)  # once for all workers
        for number in range(self._number):
            self._send_bytes(number, pickled)
        addresses = []
        for number in range(self._number):
            addresses.append(self._receive(number))
            step()
        received = time.perf_counter() - begin
        questions = pickle.dumps(words, pickle.HIGHEST_PROTOCOL)
        for number in range(self._number):
            self._send_bytes(number, questions)
        answers = []
        for number in range(self._number):
            answers.append(self._receive(number))
            step()
        answered = time.perf_counter() - begin
        pids = [process.pid or 0 for process, _ in self._workers]
        return Meeting(len(pickled), received, answered, pids, addresses, answers)

    def _send_bytes(self, number: int, data: bytes) -> None:
        try:
            self._workers[number][1].send_bytes(data)
        except ConnectionError:
            # It may have said why before it went.
            self._receive(number)
            raise WorkerFailed(self._ending(number)) from None

    def _receive(self, number: int) -> Any:
        try:
            got = self._workers[number][1].recv()
        except (EOFError, ConnectionError):
            raise WorkerFailed(self._ending(number)) from None
        if isinstance(got, WorkerFailed):
            raise WorkerFailed(f"worker {number + 1} (pid {self._workers[number][0].pid}): {got}")
        return got

    def _ending(self, number: int) -> str:
        process = self._workers[number][0]
        process.join(_PATIENCE)
        code = process.exitcode
        how = "closed its connection" if code is None else f"ended with exit code {code}"
        if code is not None and code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        return f"worker {number + 1} (pid {process.pid}) {how} before it answered"


def _start(number: int) -> tuple[SpawnProcess, Connection]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there,), name=f"stead demo, worker {number}", daemon=True)
    try:
        process.start()
    except BaseException:
        here.close()
        raise
    finally:
        there.close()  # the worker has its own; with ours open we would wait for a dead worker for ever
    return process, here
