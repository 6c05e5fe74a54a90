"""Exchange over multiprocessing connections: a parent in the middle, its workers around it.

The parent gathers everyone's messages, and sends what they say together to all. A worker that dies, or is later
than the deadline, is PeerFailed for everyone, and all give back what they hold.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from stead.errors import PeerFailed
from stead.messages import merge
from stead.peers import wire

if TYPE_CHECKING:
    from collections.abc import Iterable
    from multiprocessing.connection import Connection

    from stead.messages import Message

_A_WEEK = 7 * 24 * 60 * 60


class Coordinator:
    """The parent's end. ``timeout``: seconds for each exchange."""

    def __init__(self, connections: Iterable[Connection[bytes, bytes]], timeout: float = 30.0) -> None:
        self._connections = list(connections)
        self._timeout = positive_timeout(timeout)

    @property
    def me(self) -> str:
        return f"the parent (process {os.getpid()})"

    def allreduce(self, message: Message) -> Message:
        deadline = time.monotonic() + self._timeout
        failed = None
        try:
            for number, connection in enumerate(self._connections, start=1):
                # Also after a failure: whoever is alive has sent one message, and the user, who goes on
                # with the same pipe, must not find it there.
                try:
                    message = merge(message, _gathered(connection, deadline, f"worker {number}"))
                except PeerFailed as error:
                    failed = failed or error
        except BaseException as error:
            self._send_all(wire.encode_failure("the parent", f"was interrupted: {error!r}"))
            raise
        if failed:
            self._send_all(wire.encode_failure(failed.peer, failed.reason))
            raise failed
        self._send_all(wire.encode(message))
        return message

    def _send_all(self, data: bytes) -> None:
        for connection in self._connections:
            try:
                connection.send_bytes(data)
            except OSError:
                # It died after it had spoken, and holds nothing any more. What all the messages say is
                # decided and on its way to the others: it must not change now.
                continue


def _gathered(connection: Connection[bytes, bytes], deadline: float, peer: str) -> Message:
    try:
        return wire.decode(_receive(connection, deadline, peer))
    except ValueError as error:
        raise PeerFailed(peer, str(error)) from None


class Member:
    """A worker's end. ``timeout``: seconds for each exchange, somewhat more than the parent's, which waits for
    the slowest."""

    def __init__(self, connection: Connection[bytes, bytes], timeout: float = 60.0) -> None:
        self._connection = connection
        self._timeout = positive_timeout(timeout)

    @property
    def me(self) -> str:
        return f"a worker (process {os.getpid()})"

    def allreduce(self, message: Message) -> Message:
        deadline = time.monotonic() + self._timeout
        try:
            self._connection.send_bytes(wire.encode(message))
        except OSError as error:
            raise PeerFailed("the parent", f"is gone: {error}") from None
        try:
            answer = wire.decode_answer(_receive(self._connection, deadline, "the parent"))
        except ValueError as error:
            raise PeerFailed("the parent", str(error)) from None
        if isinstance(answer, tuple):
            raise PeerFailed(*answer)
        return answer


def _receive(connection: Connection[bytes, bytes], deadline: float, peer: str) -> bytes:
    try:
        if not connection.poll(max(deadline - time.monotonic(), 0)):
            raise PeerFailed(peer, "did not answer in time")
        return connection.recv_bytes(wire.MAX_BYTES)
    except (EOFError, OSError) as error:
        raise PeerFailed(peer, f"is gone: {str(error) or 'end of file'}") from None


def positive_timeout(timeout: float) -> float:
    """Raises TypeError, ValueError. Beyond a month poll(2) has no number for it."""
    if not isinstance(timeout, int | float) or isinstance(timeout, bool):
        raise TypeError(f"timeout is {timeout!r}, must be a number of seconds")
    if not 0 < timeout <= _A_WEEK:
        raise ValueError(f"timeout is {timeout!r}, must be more than 0 seconds, and at most a week ({_A_WEEK})")
    return timeout
