"""A member's end: the exchange over a stream socket to a hub."""

from __future__ import annotations

import os
import platform
import threading
import time
from contextlib import suppress
from socket import gaierror
from typing import TYPE_CHECKING
from weakref import WeakSet

from stead.errors import PeerFailed, WrongKey
from stead.messages import Vote
from stead.peers import letters
from stead.peers.addresses import Address, checked_key, connect, other_user
from stead.peers.envelopes import Broken, KeyRefused, greet_hub
from stead.peers.pipes import positive_timeout

if TYPE_CHECKING:
    from socket import socket
    from typing import Self

    from stead.messages import Message
    from stead.peers.envelopes import Envelopes

_AGAIN = 0.05  # seconds until the next try to reach a hub that is not there yet
_MOST_LINES = 4  # connections that are lost in one exchange
_CHUNK = 1 << 16


class Socket:
    """One member of those that meet at the :class:`stead.peers.Hub` at ``address``, with the hub's ``key``. Keep
    it for all your agreements: the n-th of each member are one, and a new one begins with the first. That is how
    a process that was started again gets what it had, and one that comes late what the others hold; ask for the
    same, in the same order.

    ``name``: for the others' errors, one of a kind among them; by default the host and the process id.
    ``timeout``: seconds to reach the hub (which may start later), and that each exchange waits for the slowest
    member; twice that where the hub itself does not answer. Connects when it is first used. One thread at a time
    uses it, others wait.

    ``close`` (or ``with``) tells the hub that this member leaves. A forked child has none of it.

    What cannot be promised: where the connection is lost after the last vote and the hub cannot be reached again
    within the timeout, this member does not know the outcome. It gives back what it holds; the others may keep it.

    Raises TypeError, ValueError that names the argument; in an exchange PeerFailed, of which WrongKey is one.
    """

    def __init__(
        self,
        address: str | tuple[str, int] | Address,
        *,
        key: bytes = b"",
        name: str | None = None,
        timeout: float = 30.0,
    ) -> None:
        self._address = Address.parse(address)
        self._key = checked_key(key, self._address)
        self.me = letters.check_name(f"{platform.node()} (process {os.getpid()})" if name is None else name)
        self._timeout = positive_timeout(timeout)
        self._lock = threading.Lock()
        self._hub = f"the hub at {self._address}"
        self._session = b""
        self._line: _Line | None = None
        self._exchanges = self._had = 0
        self._closed: str | None = None
        _sockets.add(self)

    def allreduce(self, message: Message) -> Message:
        with self._lock:
            if self._closed:
                raise PeerFailed(self.me, self._closed)
            answer = self._exchange(message)
        if isinstance(answer, tuple):
            raise PeerFailed(*answer)
        return answer

    def close(self) -> None:
        """Leave. Idempotent; waits for a thread that is in an exchange."""
        with self._lock:
            if self._line is not None:
                self._line.leave()
            self._line, self._closed = None, self._closed or "has closed its exchange"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if line := getattr(self, "_line", None):
            line.leave()

    def __repr__(self) -> str:
        return f"<Socket of {self.me!r} to {self._hub}>"

    def abandon(self) -> None:
        """After fork, in the child: its copy is closed, the parent goes on."""
        self._lock = threading.Lock()
        if self._line is not None:
            self._line.close()
        self._line, self._closed = None, "was made before a fork: make another one in the child"

    # ---- inside ----

    def _exchange(self, message: Message) -> Message | tuple[str, str]:
        self._exchanges += 1
        say = letters.write(letters.Say(self._exchanges, self._had, message))
        try:
            if self._line is None:
                self._join(time.monotonic() + self._timeout, patient=True)
            # What is decided at the hub within our timeout reaches us within as much again.
            until = time.monotonic() + 2 * self._timeout
            for _ in range(_MOST_LINES):
                try:
                    answer = self._asked(say, until)
                except OSError as error:
                    if time.monotonic() >= until:
                        raise PeerFailed(self._hub, "did not answer in time") from None
                    lost = _why(error)
                    # It may know the outcome by now: that is asked over another connection.
                    self._join(until, patient=False)
                else:
                    if isinstance(answer, Vote) and answer.claimed:
                        self._had += 1
                    return answer
            raise PeerFailed(self._hub, f"ends every connection: {lost}")
        except BaseException:
            self._drop()
            raise

    def _asked(self, say: bytes, until: float) -> Message | tuple[str, str]:
        assert self._line
        self._line.send(say, until)
        while True:
            try:
                letter = self._line.receive(until)
            except ValueError as error:
                raise PeerFailed(self._hub, str(error)) from None
            if not isinstance(letter, letters.Answer) or letter.number > self._exchanges:
                raise PeerFailed(self._hub, f"broke the protocol: {letter!r:.100} was not due")
            if letter.number == self._exchanges:
                return letter.what

    def _join(self, until: float, patient: bool) -> None:
        """Over a new connection. ``patient``: the hub may not have been started yet."""
        while True:
            self._drop()
            try:
                self._line = _Line(connect(self._address, max(until - time.monotonic(), 0.001)))
            except (PermissionError, gaierror) as error:
                raise PeerFailed(self._hub, f"cannot be reached: {_why(error)}") from None
            except OSError as error:
                nobody = isinstance(error, ConnectionRefusedError | FileNotFoundError)
                if (nobody and not patient) or time.monotonic() + _AGAIN >= until:
                    raise PeerFailed(self._hub, f"is not there: {_why(error)}") from None
                time.sleep(_AGAIN)
                continue
            try:
                if not self._key and (uid := other_user(self._line.socket)) is not None:
                    raise Broken(f"is of user {uid}, not of user {os.geteuid()}: that takes a key")
                self._line.greet(self._key, until)
                join = letters.Join(self.me, float(self._timeout), self._session)
                self._line.send(letters.write(join), until)
                answer = self._line.receive(until)
            except KeyRefused as error:
                raise WrongKey(self._hub, str(error)) from None
            except ValueError as error:
                raise PeerFailed(self._hub, str(error)) from None
            except OSError as error:
                # It has closed, or had to make room for others who want to join.
                if time.monotonic() + _AGAIN >= until:
                    raise PeerFailed(self._hub, f"did not let us in in time: {_why(error)}") from None
                time.sleep(_AGAIN)
                continue
            if isinstance(answer, letters.Welcome):
                self._session = answer.session
                return
            self._session = b""
            reason = answer.reason if isinstance(answer, letters.Refuse) else f"answers {answer!r:.100}"
            raise PeerFailed(self._hub, f"does not let us in: {reason}")

    def _drop(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None


def _why(error: OSError) -> str:
    return error.strerror or str(error)


class _Line:
    """A connection to the hub; every call ends by ``until``, or raises TimeoutError."""

    def __init__(self, connection: socket) -> None:
        self.socket = connection
        self._received = bytearray()
        self._envelopes: Envelopes

    def greet(self, key: bytes, until: float) -> None:
        greeting = greet_hub(key)
        data, wanted = next(greeting)
        while True:
            self._send(data, until)
            while len(self._received) < wanted:
                self._receive(wanted - len(self._received), until)
            step, self._received = bytes(self._received), bytearray()
            try:
                data, wanted = greeting.send(step)
            except StopIteration as end:
                _, self._envelopes = end.value
                return

    def send(self, letter: bytes, until: float) -> None:
        self._send(self._envelopes.seal(letter), until)

    def receive(self, until: float) -> letters.Letter:
        """Raises ValueError (of which Broken is one) where it is none of ours."""
        while self._envelopes.missing(self._received) > 0:
            self._receive(_CHUNK, until)
        return letters.read(self._envelopes.open(self._received))

    def leave(self) -> None:
        with suppress(OSError):
            self.send(letters.write(letters.Leave()), 0)
        self.close()

    def close(self) -> None:
        # No shutdown: after a fork that would end the parent's connection.
        self.socket.close()

    def _send(self, data: bytes, until: float) -> None:
        self.socket.settimeout(max(until - time.monotonic(), 0.001))
        self.socket.sendall(data)

    def _receive(self, most: int, until: float) -> None:
        self.socket.settimeout(max(until - time.monotonic(), 0.001))
        data = self.socket.recv(most)
        if not data:
            raise ConnectionResetError("its connection was closed")
        self._received += data


# ---- fork -----------------------------------------------------------------------------------------

_sockets: WeakSet[Socket] = WeakSet()


def _after_fork_in_child() -> None:
    for each in list(_sockets):
        each.abandon()


os.register_at_fork(after_in_child=_after_fork_in_child)
