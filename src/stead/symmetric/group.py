"""What ranks say to each other outside of an agreement: small values to all, larger ones from one to another.

Every wait has a deadline, and whoever misses it is named to all (:class:`stead.peers.Mpi`). A call of a collective
method begins with :meth:`Group.begin`; after PeerFailed a group that has ``failed`` is of no further use.
"""

from __future__ import annotations

import json
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

from stead.errors import PeerFailed
from stead.peers.mpi import Mpi, let_others

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from mpi4py import MPI

# MPI counts in 32 bits (MPI-3), so more goes in pieces.
MOST = 1 << 30
_TAG = 1 << 14  # above those of Mpi

_kept: list[object] = []


class Group(Mpi):
    """All ranks of a communicator; making one is collective. ``timeout``: seconds to wait for the slowest."""

    def __init__(self, comm: MPI.Intracomm, timeout: float = 30.0) -> None:
        super().__init__(comm, timeout)
        self.rank: int = self._comm.rank
        self.size: int = self._comm.size

    # Each rank's value by its number, as JSON; merging is a union.
    @staticmethod
    def _merge(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
        return one | other

    @staticmethod
    def _encode(said: dict[str, Any]) -> bytes:
        return json.dumps(said, separators=(",", ":")).encode()

    @staticmethod
    def _decode(data: bytes) -> dict[str, Any] | tuple[str, str]:
        said = json.loads(data)
        return (said["failed"][0], said["failed"][1]) if "failed" in said else said

    def begin(self) -> None:
        """Any time may have passed since the last exchange; in what comes next nothing must be decided yet, since
        who came long before may have given up."""
        self._told = None

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, by rank: what JSON can say. Raises PeerFailed."""
        said = self._exchange({str(self.rank): value})
        return [said[str(rank)] for rank in range(self.size)]

    def vote(self, error: BaseException | None, doing: str) -> None:
        """All go on, or none: raises ``error``, or PeerFailed with the reason of the first rank that has one."""
        self._vote(error, doing, None)

    def _vote(self, error: BaseException | None, doing: str, value: Any) -> list[Any]:
        """The same, and a value of each rank."""
        said = self.gather([value, None if error is None else said_of(error)])
        if error is not None:
            raise error
        for rank, (_, reason) in enumerate(said):
            if reason is not None:
                raise PeerFailed(f"rank {rank}", f"could not {doing}: {reason}")
        return [each for each, _ in said]

    def keep(self, what: object) -> None:
        """Until the end of the process: MPI may still use it."""
        _kept.append(what)

    def run(self, steps: Generator[None], doing: str) -> None:
        """All steps, of which ranks may have different numbers: all to the end, or none. After each, all say how
        they fare: each step may take as long as the timeout. Raises as :meth:`vote` does."""
        done, wrong = False, None
        with closing(steps):
            while True:
                try:
                    done = done or next(steps, self) is self
                except BaseException as error:
                    wrong = error
                if all(self._vote(wrong, doing, done)):
                    return

    # ---- from one to another ----

    def send(self, buffer: Any, to: int) -> Any:
        """A request; ``buffer``: at most MOST bytes."""
        return self._comm.Isend(buffer, dest=to, tag=_TAG)

    def receive(self, buffer: Any, source: int) -> Any:
        return self._comm.Irecv(buffer, source=source, tag=_TAG)

    def until(self, done: Callable[[], bool], look: Callable[[], bool], whom: Callable[[], int]) -> None:
        """Look until it is done. Raises PeerFailed, of ``whom()``, when looking has brought nothing for half the
        timeout: the others, who wait for us, wait for all of it."""
        before, self._failed = self._failed, (self.me, "was interrupted before")
        deadline, looks = time.monotonic() + self._timeout / 2, 0
        while not done():
            if look():
                deadline, looks = time.monotonic() + self._timeout / 2, 0
            elif time.monotonic() > deadline:
                self._failed = f"rank {whom()}", "stopped in the middle of sending or receiving"
                raise PeerFailed(*self._failed)
            else:
                looks += 1
                let_others(looks)
        self._failed = before

    def swap(self, outgoing: Mapping[int, bytes], expected: Mapping[int, int]) -> dict[int, bytearray]:
        """Bytes to some ranks, and so many from others, all of whom call this."""
        came = {source: bytearray(size) for source, size in expected.items() if size}
        waiting: list[tuple[int, Any]] = []
        for source, room in came.items():
            for at in range(0, len(room), MOST):
                waiting.append((source, self.receive(memoryview(room)[at : at + MOST], source)))
        for to, data in outgoing.items():
            for at in range(0, len(data), MOST):
                waiting.append((to, self.send(memoryview(data)[at : at + MOST], to)))

        def look() -> bool:
            before = len(waiting)
            waiting[:] = [each for each in waiting if not each[1].Test()]
            return len(waiting) < before

        try:
            self.until(lambda: not waiting, look, lambda: waiting[0][0])
        except BaseException:
            # MPI may write into that memory when late messages come.
            self.keep((came, waiting))
            raise
        return came


def said_of(error: BaseException) -> str:
    """What others are told of it."""
    return f"{type(error).__name__}: {error}"[:2000]
