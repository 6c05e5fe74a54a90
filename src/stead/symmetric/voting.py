"""Steps that all ranks take, or none: each says how its part went, and hears how it went for all, with a
deadline."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, TypeVar

from stead.errors import PeerFailed, PeersDisagree
from stead.messages import Ballot
from stead.peers.mpi import let_others

if TYPE_CHECKING:
    from collections.abc import Callable

    from stead.peers import Mpi

_Part = TypeVar("_Part")

# Of what one rank tells all others at once (:meth:`Voting.gather`).
_SLOT = 1024

_endless: list[Any] = []


class Voting:
    """Over ``exchange``; ``timeout``: seconds that each step waits for the slowest."""

    def __init__(self, exchange: Mpi, timeout: float) -> None:
        self._exchange, self.timeout = exchange, timeout
        self._failed: tuple[str, str] | None = None

    @property
    def comm(self) -> Any:
        return self._exchange.comm

    @property
    def me(self) -> str:
        return self._exchange.me

    @property
    def failed(self) -> bool:
        """Whether nothing can be agreed on any more: a rank is gone, or was too late."""
        return self._failed is not None or self._exchange.failed

    def same(self, step: str) -> None:
        """Go on only where all are at the same step. Raises PeersDisagree, PeerFailed."""
        self._vote(step, None)

    def together(self, step: str, do: Callable[[], _Part], undo: Callable[[_Part], object]) -> _Part:
        """What ``do`` returns, once it has for all. Where it has failed for one, it is undone by all who have done
        it; that one raises its error, and the others PeerFailed with the reason. Raises PeersDisagree as well."""
        try:
            part = do()
        except BaseException as error:
            # The others are told, whatever it is: they would wait in vain.
            self._vote(step, error)
            raise
        try:
            self._vote(step, None)
        except BaseException:
            undo(part)
            raise
        return part

    def _vote(self, step: str, error: BaseException | None) -> None:
        if self._failed is not None:
            raise PeerFailed(*self._failed)
        answer = self._exchange.allreduce(Ballot.by(self.me, step, error))
        if error is not None:
            return
        if not isinstance(answer, Ballot):
            raise PeersDisagree(f"{self.me} is at {step}; {getattr(answer, 'what', 'others are elsewhere')}")
        if len(answer.steps) > 1:
            raise PeersDisagree("; ".join(_said(each.what, each.peers, each.first) for each in answer.steps))
        if answer.refused:
            raise PeerFailed(*answer.refused[0])

    def gather(self, mine: bytes) -> list[bytes]:
        """What each rank says, by rank. Raises PeerFailed after the timeout, ValueError where it is too long."""
        if len(mine) > _SLOT - 2:
            raise ValueError(f"{len(mine)} bytes to tell the others, at most {_SLOT - 2} can be")
        slot = len(mine).to_bytes(2, "little") + mine
        everyone = bytearray(_SLOT * self.comm.size)
        self.wait(self.comm.Iallgather(slot.ljust(_SLOT, b"\0"), everyone))
        slots = [bytes(everyone[at : at + _SLOT]) for at in range(0, len(everyone), _SLOT)]
        return [each[2 : 2 + int.from_bytes(each[:2], "little")] for each in slots]

    def wait(self, request: Any, timeout: float | None = None, nap: bool = True) -> None:
        """For a collective operation that has been started. ``nap=False``: where others may move on only while
        this one is in MPI. Raises PeerFailed after the timeout (seconds), and then always."""
        deadline, looks = time.monotonic() + (self.timeout if timeout is None else timeout), 0
        while not request.Test():
            looks += 1
            if time.monotonic() > deadline:
                # MPI does not say who; its request never ends, so nothing may follow it, and whoever comes late
                # writes into its buffers.
                _endless.append(request)
                self._failed = "a rank", "did not come in time"
                raise PeerFailed(*self._failed)
            if nap:
                let_others(looks)
            else:
                os.sched_yield()

    def close(self) -> None:
        """Collective, but after a failure."""
        if self._failed is None:
            self._exchange.close()


def _said(step: str, peers: int, first: str) -> str:
    others = f" and {peers - 1} other{'s' * (peers > 2)}" if peers > 1 else ""
    return f"{first}{others} at {step}"
