"""The hub: where members of an agreement meet over stream sockets. One daemon thread, which waits for nobody.

Strangers cost little: so many at most are in a greeting, each for some seconds, a few bytes are read of each
before it has shown that it knows the key, and nothing that it does is waited for. What members say is merged and
answered by :mod:`stead.peers.membership`; this module moves bytes.
"""

from __future__ import annotations

import atexit
import errno
import os
import selectors
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING
from weakref import WeakSet

from stead.errors import PeerFailed, WrongKey
from stead.peers import letters
from stead.peers.addresses import Address, Listening, checked_key, other_user, settle
from stead.peers.connections import Connection
from stead.peers.envelopes import Broken, KeyRefused
from stead.peers.membership import MOST_SESSIONS, Membership, Refused
from stead.peers.pipes import positive_timeout

if TYPE_CHECKING:
    from typing import Any, Self

    from stead.peers.membership import Session

GREETING = 10.0  # seconds for a greeting and the joining after it
MOST_STRANGERS = 64  # in a greeting at a time
_REMEMBERED = 32  # refusals
_MOST_CHUNKS = 8  # of one connection at a time: more than a member sends before it is answered
_LEAVES = letters.write(letters.Leave())
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}


class Hub:
    """The meeting point of ``peers`` members, each of which makes a :class:`stead.peers.Socket` with its
    address; in any process, also one of theirs. It serves in a thread of its own until ``close`` (or the end of
    a ``with``, or of the process).

    ``address``: ``"unix:/path"``, ``"unix:@name"`` (no file), ``"tcp://host:port"`` or ``(host, port)``; port 0
    takes a free one. ``key``: what all members know and nobody else does, best 32 bytes of
    :func:`secrets.token_bytes`; needed over TCP. Without one a Unix socket lets in processes of this user only.
    ``timeout``: seconds that each exchange waits for the slowest member.

    What is sent is authenticated, and not encrypted.

    Raises TypeError, ValueError that names the argument; OSError where it cannot listen there: somebody does, or a
    file is there that is no dead socket of this user's.
    """

    def __init__(
        self,
        address: str | tuple[str, int] | Address,
        peers: int,
        *,
        key: bytes = b"",
        timeout: float = 30.0,
    ) -> None:
        where = Address.parse(address)
        self._key = checked_key(key, where)
        if type(peers) is not int or not 0 < peers <= MOST_SESSIONS:
            raise ValueError(f"peers is {peers!r}, must be a whole number from 1 to {MOST_SESSIONS}")
        self._timeout = positive_timeout(timeout)
        self._membership = Membership(peers, self._timeout)
        self._connections: dict[socket.socket, Connection] = {}
        self._of: dict[Session, Connection] = {}
        self._refused: deque[PeerFailed] = deque(maxlen=_REMEMBERED)
        self._accepting_from = 0.0
        self._closing = False
        self.busy = threading.Lock()  # while the thread holds sockets that no child should inherit
        self._listening = Listening(where, private=not key)
        try:
            self._wake, self._woken = socket.socketpair()
            self._ready = selectors.DefaultSelector()
            self._ready.register(self._woken, selectors.EVENT_READ)
            self._ready.register(self._listening.socket, selectors.EVENT_READ)
            self._thread = threading.Thread(target=self._serve, name=f"stead hub at {where}", daemon=True)
            _hubs.add(self)
            self._thread.start()
        except BaseException:
            _hubs.discard(self)
            self._drop()
            raise
        atexit.register(self.close)

    @property
    def address(self) -> str:
        """Where it listens, as members name it: with the port that it was given."""
        return str(self._listening.address)

    @property
    def members(self) -> tuple[str, ...]:
        """Who is here."""
        with self.busy:
            return tuple(self._membership.members())

    @property
    def refused(self) -> tuple[PeerFailed, ...]:
        """The last few who were not let in, or broke the protocol, and why: WrongKey, PeerFailed."""
        with self.busy:
            return tuple(self._refused)

    def close(self) -> None:
        """Whoever waits for an answer gets PeerFailed; returns when the thread has ended. Idempotent."""
        if self._thread is threading.current_thread():
            raise RuntimeError("a hub cannot be closed from its own thread")
        self._closing = True
        with suppress(OSError):  # it has ended
            self._wake.send(b"!")
        if self._thread.ident is not None:
            self._thread.join()
        atexit.unregister(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Hub at {self.address}, {'closed' if self._closing else f'{len(self.members)} members'}>"

    def abandon(self) -> None:
        """After fork, in the child: its copies are closed, the parent goes on serving."""
        self._closing = True
        self._listening.abandon()
        self._drop()
        atexit.unregister(self.close)

    def _drop(self) -> None:
        self._listening.close()
        for each in [*self._connections, *(getattr(self, name, None) for name in ("_wake", "_woken", "_ready"))]:
            if each is not None:
                each.close()
        self._connections.clear()
        self._of.clear()

    # ---- in the thread --------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while not self._closing:
                events = self._ready.select(self._patience())
                with self.busy:
                    self._turn({key.fileobj: mask for key, mask in events})
            with self.busy:
                self._membership.close("was closed")
                self._post()
        finally:
            with self.busy:
                self._drop()

    def _patience(self) -> float | None:
        """Seconds until something is overdue."""
        until = [self._membership.deadline(), *(each.until for each in self._connections.values())]
        if self._accepting_from:
            until.append(self._accepting_from)
        first = min(until)
        return None if first == inf else max(first - time.monotonic(), 0)

    def _turn(self, ready: dict[Any, int]) -> None:
        # What is overdue comes first: where this process was stopped, nothing may be decided that others have
        # ceased to wait for.
        now = time.monotonic()
        self._membership.tick(now)
        arrived: list[tuple[Connection, bytes]] = []
        for connection in [each for fd, each in self._connections.items() if fd in ready]:
            if ready[connection.socket] & selectors.EVENT_WRITE:
                self._send(connection, b"")
            if ready[connection.socket] & selectors.EVENT_READ:
                arrived += self._read(connection)
        for connection in [each for each in self._connections.values() if each.until <= now]:
            late = "did not take what it was sent in time" if connection.session else "was too slow to join"
            self._refuse(connection, late)
        # Whoever has gone is known by now, before anything is decided that would need it.
        for connection, letter in arrived:
            if connection.socket in self._connections:
                self._take(connection, letter, now)
        self._post()
        if self._listening.socket in ready:
            self._let_in(now)
        elif self._accepting_from and now >= self._accepting_from:
            self._accepting_from = 0.0
            self._ready.register(self._listening.socket, selectors.EVENT_READ)

    def _let_in(self, now: float) -> None:
        try:
            client, where = self._listening.socket.accept()
        except OSError as error:
            if error.errno in _NO_ROOM:
                # That somebody waits would be told again at once, and for ever.
                self._ready.unregister(self._listening.socket)
                self._accepting_from = now + 0.1
            return
        strangers = [each for each in self._connections.values() if each.session is None]
        if len(strangers) >= MOST_STRANGERS:
            self._refuse(strangers[0], "had to make room for others who want to join")
        connection = Connection(client, where, now + min(GREETING, self._timeout), self._key)
        try:
            client.setblocking(False)
            settle(client, self._timeout)
            if not self._key and (uid := other_user(client)) is not None:
                raise Broken(f"is of user {uid}, not of user {os.geteuid()}; without a key it is not let in")
            self._ready.register(client, selectors.EVENT_READ)
        except (OSError, Broken) as error:
            client.close()
            self._refused.append(PeerFailed(connection.name, str(error)))
            return
        self._connections[client] = connection

    def _read(self, connection: Connection) -> list[tuple[Connection, bytes]]:
        """The letters that have come; none of them where the connection has ended after them."""
        found: list[tuple[Connection, bytes]] = []
        try:
            for _ in range(_MOST_CHUNKS):
                data = connection.socket.recv(connection.missing())
                if not data:
                    raise ConnectionResetError("its connection was closed")
                reply, letters_read = connection.feed(data)
                self._send(connection, reply)
                found += [(connection, each) for each in letters_read]
        except BlockingIOError:
            pass
        except KeyRefused as error:
            self._refuse(connection, str(error), WrongKey, error.parting)
            return []
        except Broken as error:
            self._refuse(connection, str(error))
            return []
        except OSError as error:
            if found and found[-1][1] == _LEAVES:
                return found[-1:]
            self._lose(connection, error)
            return []
        return found

    def _take(self, connection: Connection, data: bytes, now: float) -> None:
        try:
            letter = letters.read(data)
            session = connection.session
            if session is None and isinstance(letter, letters.Join):
                self._join(connection, letter)
            elif session is not None and isinstance(letter, letters.Say):
                self._membership.say(session, letter.number, letter.had, letter.message, now)
            elif session is not None and isinstance(letter, letters.Leave):
                self._membership.leave(session)
                self._of.pop(session, None)
                connection.session = None
                self._end(connection, "")
            else:
                raise ValueError(f"a {type(letter).__name__} was not due")
        except ValueError as error:
            self._refuse(connection, f"broke the protocol: {error}")

    def _join(self, connection: Connection, letter: letters.Join) -> None:
        try:
            if letter.session:
                session = self._membership.resume(letter.session)
            else:
                session = self._membership.join(letter.name, letter.patience)
        except Refused as error:
            parting = connection.seal(letters.Refuse(str(error)))
            self._refuse(connection, f"wants to join as {letter.name!r}: {error}", parting=parting)
            return
        if (old := self._of.pop(session, None)) is not None:
            old.session = None  # its other end has given it up
            self._end(old, "")
        self._of[session] = connection
        connection.joined(session)
        self._send(connection, connection.seal(letters.Welcome(session.id)))

    def _post(self) -> None:
        """Send what the membership answers. To send may end a connection, and so lead to more answers."""
        while self._membership.outbox:
            session, number, what = self._membership.outbox.pop(0)
            if connection := self._of.get(session):
                self._send(connection, connection.seal(letters.Answer(number, what)))

    def _send(self, connection: Connection, data: bytes) -> None:
        unsent = connection.unsent
        unsent += data
        if not unsent or connection.socket not in self._connections:
            return
        try:
            del unsent[: connection.socket.send(unsent)]
        except BlockingIOError:
            pass
        except OSError as error:
            self._lose(connection, error)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if unsent else 0)
        if self._ready.get_key(connection.socket).events != events:
            self._ready.modify(connection.socket, events)
        if connection.session:
            connection.until = time.monotonic() + self._timeout if unsent else inf

    def _refuse(
        self, connection: Connection, why: str, kind: type[PeerFailed] = PeerFailed, parting: bytes = b""
    ) -> None:
        # Noted first: who is told may look here at once.
        self._refused.append(kind(connection.name, why))
        self._send(connection, parting)
        self._end(connection, why)

    def _lose(self, connection: Connection, error: OSError) -> None:
        self._end(connection, f"is gone: {error.strerror or error}")

    def _end(self, connection: Connection, why: str) -> None:
        if self._connections.pop(connection.socket, None) is None:
            return
        self._ready.unregister(connection.socket)
        connection.socket.close()
        if connection.session is not None:
            del self._of[connection.session]
            self._membership.lost(connection.session, why)


# ---- fork -----------------------------------------------------------------------------------------

_hubs: WeakSet[Hub] = WeakSet()
_forking = threading.Lock()
_held: list[Hub] = []


def _before_fork() -> None:
    _forking.acquire()
    _held.extend(_hubs)
    for each in _held:
        each.busy.acquire()


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop().busy.release()
    _forking.release()


def _after_fork_in_child() -> None:
    while _held:
        each = _held.pop()
        each.abandon()
        each.busy.release()
    _forking.release()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
