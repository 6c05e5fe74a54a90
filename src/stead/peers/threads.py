"""Exchange between threads of one process, each with an address space of its own (a device's, a simulated one).

Threads share the addresses of their process: over that one they need no agreement, and would be in each other's
way.
"""

from __future__ import annotations

import time
from threading import Condition
from typing import TYPE_CHECKING

from stead.errors import PeerFailed
from stead.messages import merge
from stead.peers.pipes import positive_timeout

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from stead.messages import Message


class Threads:
    """Participants by name; each thread takes its ``member(name)``. ``timeout``: seconds for each exchange.

    Once a member has failed (it was late, or left) the others get PeerFailed that names it, then and afterwards.
    Raises ValueError where there are no names, or two alike.
    """

    def __init__(self, names: Iterable[str], timeout: float = 30.0) -> None:
        self._names = list(names)
        if not self._names or len(set(self._names)) < len(self._names):
            raise ValueError(f"names is {self._names!r}, must be different names, and at least one")
        self._timeout = positive_timeout(timeout)
        self._changed = Condition()
        self._round = 0
        self._said: dict[str, Message] = {}
        self._answer: Message | None = None
        self._failed: tuple[str, str] | None = None

    def member(self, name: str) -> ThreadMember:
        """The exchange of one thread. Raises ValueError where there is no such name."""
        if name not in self._names:
            raise ValueError(f"name is {name!r}, must be one of {', '.join(self._names)}")
        return ThreadMember(self, name)

    def _exchange(self, name: str, message: Message) -> Message:
        deadline = time.monotonic() + self._timeout
        with self._changed:
            here = self._round
            self._check()
            self._said[name] = message
            if len(self._said) == len(self._names):
                answer = message
                for each, said in self._said.items():
                    answer = answer if each == name else merge(answer, said)
                self._said, self._answer = {}, answer
                self._round += 1
                self._changed.notify_all()
                return answer
            while self._round == here:
                if not self._changed.wait(max(deadline - time.monotonic(), 0)) and self._round == here:
                    late = next(each for each in self._names if each not in self._said)
                    self._fail(late, "did not come in time")
                if self._round == here:
                    self._check()
            # Nobody can be further on: the next round is over only when we have spoken in it.
            assert self._answer is not None
            return self._answer

    def _fail(self, name: str, reason: str) -> None:
        self._failed = self._failed or (name, reason)
        self._changed.notify_all()

    def _check(self) -> None:
        if self._failed:
            raise PeerFailed(*self._failed)

    def _leave(self, name: str) -> None:
        with self._changed:
            self._fail(name, "has left")


class ThreadMember:
    """What one thread exchanges by. Used in a ``with``, it tells the others when the thread leaves by an error."""

    def __init__(self, group: Threads, name: str) -> None:
        self._group, self.me = group, name

    def allreduce(self, message: Message) -> Message:
        return self._group._exchange(self.me, message)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._group._leave(self.me)
