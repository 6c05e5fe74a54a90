"""Calling at the doors of other processes (:mod:`stead.door`) for descriptors.

The one who asks checks the door's user, of whom the kernel tells it (SO_PEERCRED), before it sends a word. A few
connections stay, for those who ask again; a forked child has none of its parent's.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import struct
import threading
import time
from array import array
from typing import TYPE_CHECKING

from stead.door import (
    BY_FILE,
    BY_TOKEN,
    DEADLINE,
    GIVEN,
    MOST_LENT,
    NOT_HERE,
    REQUEST,
    a_socket,
    uid_of_peer,
)
from stead.errors import LimitReached, PeerFailed
from stead.openfiles import Identity

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

MOST_KEPT = 8

_ONE = struct.calcsize("i")
_CUT_OFF = int(socket.MSG_CTRUNC | socket.MSG_TRUNC)


def ask(name: str, identity: Identity, writable: bool, deadline: float = DEADLINE) -> int:
    """A descriptor from the door called ``name``; the caller owns it, and need not compare it any more.

    Raises PeerFailed: nobody is there, or another user, it has no such file, answers too late or with nonsense.
    """
    line = _Line(name, deadline)
    try:
        line.ask(REQUEST.pack(BY_FILE, identity.device, identity.inode, writable))
        (fd,) = line.hear(1)
    finally:
        line.close()
    if not _is_it(fd, identity, writable):
        os.close(fd)
        raise line.failed("answered with something else")
    return fd


class Lent:
    """Descriptors that the door called ``name`` lends by ``tokens``, on their way. They are asked for at once, so
    that its process wakes up while this one does something else; at most 16, the others when those have come.

    A context manager, which closes what nobody took. Raises PeerFailed, as :func:`ask` does, and LimitReached
    where this process can have no more descriptors.
    """

    def __init__(self, name: str, tokens: Sequence[bytes], deadline: float = DEADLINE) -> None:
        self._name, self._tokens, self._deadline = name, tokens, deadline
        self._asked: Sequence[bytes] = ()  # what is on its way: some of the tokens
        self._next = 0  # of those that are not asked for yet
        self._here: list[int] = []  # the first is the last
        self._line: _Line | None = None
        self._ask()

    def take(self) -> int:
        """The next, in the order of the tokens; the caller owns it."""
        if not self._here:
            self._here = self._heard()[::-1]
            self._ask()
        return self._here.pop()

    def _ask(self) -> None:
        self._asked = self._tokens[self._next : self._next + MOST_LENT]
        if self._asked:
            self._next += len(self._asked)
            if self._line is None:
                self._line = _kept_line(self._name, self._deadline) or _Line(self._name, self._deadline)
            self._line.ask(BY_TOKEN + b"".join(self._asked))

    def _heard(self) -> list[int]:
        assert self._line, "there is nothing to take"
        try:
            return self._line.hear(len(self._asked))
        except PeerFailed:
            if not self._line.kept or not self._line.dropped:
                raise
        # Before it was asked: where many ask, or nobody did for long.
        self._line.close()
        self._line = _Line(self._name, self._deadline)
        self._line.ask(BY_TOKEN + b"".join(self._asked))
        return self._line.hear(len(self._asked))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        while self._here:
            os.close(self._here.pop())
        if self._line and self._asked:  # nobody waits for the answer
            self._line.close()
        elif self._line:
            _keep(self._line)


class _Line:
    """A connection to the door called ``name``, which is this user's. PeerFailed says which door failed, and how.
    ``deadline``: seconds for reaching it, and for each answer. ``kept``: it was used before. ``dropped``: by the
    door."""

    def __init__(self, name: str, deadline: float) -> None:
        self.name, self.deadline, self.user = name, deadline, os.geteuid()
        self.kept = self.dropped = False
        try:
            self._connection = a_socket()
            try:
                _connect(self._connection, name, time.monotonic() + deadline)
                user = uid_of_peer(self._connection)
                if user != self.user:
                    raise self.failed(f"is user {user}'s, not user {self.user}'s")
                self._connection.settimeout(deadline)
            except BaseException:
                self.close()
                raise
        except OSError as error:
            raise self._failed(error) from None

    def ask(self, request: bytes) -> None:
        try:
            self._connection.send(request, socket.MSG_NOSIGNAL)
        except ConnectionError:
            pass  # hear() is told, too
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise self._failed(error) from None
            raise

    def hear(self, count: int) -> list[int]:
        """So many descriptors; the caller owns them."""
        try:
            answer, fds, whole = _receive(self._connection, count)
        except OSError as error:
            self.dropped = isinstance(error, ConnectionError)
            raise self._failed(error) from None
        if answer == GIVEN and len(fds) == count and whole:
            return fds
        self.dropped = not answer
        for fd in fds:
            os.close(fd)
        if answer == GIVEN and len(fds) < count and not whole:
            raise LimitReached(f"no room for {count} descriptors from the door {self.name!r}", "RLIMIT_NOFILE")
        if answer == NOT_HERE and not fds:
            raise self.failed("does not hand out this file, or no more")
        raise self.failed("answered with something else" if answer else "closed without an answer")

    def _failed(self, error: OSError) -> PeerFailed:
        if isinstance(error, TimeoutError):
            return self.failed(f"did not answer within {self.deadline:g} s")
        return self.failed(f"is not open: {error}")

    def failed(self, how: str) -> PeerFailed:
        return PeerFailed(f"the door {self.name!r}", how)

    def close(self) -> None:
        self._connection.close()


# Lines that nobody uses at the moment, one to a door; the one that was used last is the last. A third of what an
# exchange takes is reaching the door. Whoever uses one takes it out.
_kept: dict[tuple[str, float, int], _Line] = {}
_keeping = threading.Lock()


def _after_fork_in_child() -> None:
    """Two processes on one line would take each other's answers."""
    global _keeping
    _keeping = threading.Lock()
    while _kept:
        _kept.popitem()[1].close()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _kept_line(name: str, deadline: float) -> _Line | None:
    return _kept.pop((name, deadline, os.geteuid()), None)


def _keep(line: _Line) -> None:
    line.kept = True
    key = (line.name, line.deadline, line.user)
    with _keeping:
        others = [_kept.pop(key)] if key in _kept else []
        _kept[key] = line
        if len(_kept) > MOST_KEPT:
            others.append(_kept.pop(next(iter(_kept))))
    for each in others:
        each.close()


def _connect(connection: socket.socket, name: str, until: float) -> None:
    while True:
        connection.settimeout(max(until - time.monotonic(), 0.001))
        try:
            connection.connect("\0" + name)
            return
        except BlockingIOError:
            # Its queue is full: a Unix socket says so at once, and has nothing that could be waited for (unix(7)).
            if time.monotonic() >= until:
                raise TimeoutError from None
            time.sleep(0.001)


def _receive(connection: socket.socket, count: int) -> tuple[bytes, list[int], bool]:
    """A message, the descriptors with it, ``count`` at most, and whether that was all. Not socket.recv_fds: it
    forgets the flag that keeps them from being inherited (cpython 3.11 to 3.13)."""
    message, ancillary, flags, _ = connection.recvmsg(64, socket.CMSG_LEN(count * _ONE), socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.extend(array("i", data[: len(data) // _ONE * _ONE]))
    return message, fds, not flags & _CUT_OFF


def _is_it(fd: int, identity: Identity, writable: bool) -> bool:
    wanted = os.O_RDWR if writable else os.O_RDONLY
    return (
        Identity.of(fd) == identity
        and stat.S_ISREG(os.fstat(fd).st_mode)
        and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == wanted
    )
