"""The hub's end of one connection: what has come of it, what is to go, and whose it is. No waiting."""

from __future__ import annotations

import socket
from math import inf
from typing import TYPE_CHECKING

from stead.peers import letters
from stead.peers.envelopes import greet_member

if TYPE_CHECKING:
    from typing import Any

    from stead.peers.envelopes import Envelopes, Greeting
    from stead.peers.membership import Session

_CHUNK = 1 << 16


class Connection:
    """One connection's bytes: first the greeting, then envelopes."""

    def __init__(self, connection: socket.socket, where: Any, until: float, key: bytes) -> None:
        """``where``: as accept tells it. ``until``: when it must have joined."""
        self.socket, self.until = connection, until
        unix = connection.family == socket.AF_UNIX
        self.name = "somebody at a Unix socket" if unix else f"somebody at {where[0]}, port {where[1]}"
        self.session: Session | None = None
        self.envelopes: Envelopes | None = None
        self.received, self.unsent = bytearray(), bytearray()
        self._greeting: Greeting = greet_member(key)
        _, self._wants = next(self._greeting)

    def joined(self, session: Session) -> None:
        self.session, self.until = session, inf
        self.name = session.name

    def seal(self, letter: letters.Letter) -> bytes:
        assert self.envelopes
        return self.envelopes.seal(letters.write(letter))

    def missing(self) -> int:
        """How many bytes to read next at most: in a greeting none beyond what is due."""
        if self.envelopes is None:
            return self._wants - len(self.received)
        return _CHUNK

    def feed(self, data: bytes) -> tuple[bytes, list[bytes]]:
        """What to send back at once, and the letters that are complete. Raises Broken."""
        self.received += data
        if self.envelopes is not None:
            letters_read = []
            while self.envelopes.missing(self.received) <= 0:
                letters_read.append(self.envelopes.open(self.received))
            return b"", letters_read
        if len(self.received) < self._wants:
            return b"", []
        step, self.received = bytes(self.received), bytearray()
        try:
            reply, self._wants = self._greeting.send(step)
        except StopIteration as end:
            reply, self.envelopes = end.value
        return reply, []
