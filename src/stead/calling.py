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
    from collections.abc import Callable, Sequence
    from typing import Self

MOST_KEPT = 8

_ONE = struct.calcsize("i")
_CUT_OFF = int(socket.MSG_CTRUNC | socket.MSG_TRUNC)


def ask(name: str, identity: Identity, writable: bool, deadline: float = DEADLINE) -> int:
    """A descriptor from the door called ``name``; the caller owns it, and need not compare it any more.

    Raises PeerFailed: nobody is there, or another user, it has no such file, answers too late or with nonsense.
    """
    within = _Deadline(deadline)
    line = _Line(name, within)
    try:
        line.ask(REQUEST.pack(BY_FILE, identity.device, identity.inode, writable), within)
        return line.hear(1, within, lambda fd: _is_it(fd, identity, writable))[0]
    finally:
        line.close()


class Lent:
    """Descriptors that the door called ``name`` lends by ``tokens``, on their way. They are asked for at once, so
    that its process wakes up while this one does something else; at most 16, the others when those have come.

    A context manager, which closes what nobody took. Raises PeerFailed, as :func:`ask` does, and LimitReached
    where this process can have no more descriptors.
    """

    def __init__(self, name: str, tokens: Sequence[bytes], deadline: float = DEADLINE) -> None:
        self._name, self._tokens, self._seconds = name, tokens, deadline
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
            self._within = _Deadline(self._seconds)
            if self._line is None:
                self._line = _kept_line(self._name) or _Line(self._name, self._within)
            self._line.ask(BY_TOKEN + b"".join(self._asked), self._within)

    def _heard(self) -> list[int]:
        assert self._line, "there is nothing to take"
        try:
            return self._line.hear(len(self._asked), self._within)
        except PeerFailed:
            if not self._line.kept:
                raise
        # The door had dropped it: where many ask, or nobody did for long.
        self._line.close()
        self._line = _Line(self._name, self._within)
        self._line.ask(BY_TOKEN + b"".join(self._asked), self._within)
        return self._line.hear(len(self._asked), self._within)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        while self._here:
            os.close(self._here.pop())
        if self._line and self._asked:  # nobody waits for the answer
            self._line.close()
        elif self._line:
            _keep(self._line)


class _Deadline:
    """So many seconds from now on."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.until = seconds, time.monotonic() + seconds

    def left(self) -> float:
        """For a socket, to which 0 would be another thing."""
        return max(self.until - time.monotonic(), 0.001)


class _Line:
    """A connection to the door called ``name``, which is this user's. PeerFailed says which door failed, and how.
    ``kept``: it was used before."""

    def __init__(self, name: str, within: _Deadline) -> None:
        self.name, self.user, self.kept = name, os.geteuid(), False
        try:
            self._connection = a_socket()
            try:
                _connect(self._connection, name, within)
                user = uid_of_peer(self._connection)
                if user != self.user:
                    raise PeerFailed(self._door, f"is user {user}'s, not user {self.user}'s")
            except BaseException:
                self.close()
                raise
        except OSError as error:
            raise self._failed(error, within) from None

    @property
    def _door(self) -> str:
        return f"the door {self.name!r}"

    def ask(self, request: bytes, within: _Deadline) -> None:
        try:
            self._connection.settimeout(within.left())
            self._connection.send(request, socket.MSG_NOSIGNAL)
        except ConnectionError:
            pass  # hear() is told, too
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise self._failed(error, within) from None
            raise

    def hear(self, count: int, within: _Deadline, fits: Callable[[int], bool] = lambda _: True) -> list[int]:
        """So many descriptors, each of which must fit; the caller owns them."""
        try:
            self._connection.settimeout(within.left())
            answer, fds, whole = _receive(self._connection, count)
        except OSError as error:
            raise self._failed(error, within) from None
        if answer == GIVEN and len(fds) == count and whole and all(map(fits, fds)):
            return fds
        for fd in fds:
            os.close(fd)
        if answer == GIVEN and len(fds) < count and not whole:
            raise LimitReached(f"no room for {count} descriptors from {self._door}", "RLIMIT_NOFILE")
        if answer == NOT_HERE and not fds:
            raise PeerFailed(self._door, "does not hand out this file, or no more")
        raise PeerFailed(self._door, "answered with something else" if answer else "closed without an answer")

    def _failed(self, error: OSError, within: _Deadline) -> PeerFailed:
        late = isinstance(error, TimeoutError)
        return PeerFailed(
            self._door, f"did not answer within {within.seconds:g} s" if late else f"is not open: {error}"
        )

    def close(self) -> None:
        self._connection.close()


# Lines that nobody uses at the moment, one to a door; the one that was used last is the last. A third of what an
# exchange takes is reaching the door. Whoever uses one takes it out.
_kept: dict[tuple[str, int], _Line] = {}
_keeping = threading.Lock()


def _after_fork_in_child() -> None:
    """Two processes on one line would take each other's answers."""
    global _keeping
    _keeping = threading.Lock()
    while _kept:
        _kept.popitem()[1].close()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _kept_line(name: str) -> _Line | None:
    return _kept.pop((name, os.geteuid()), None)


def _keep(line: _Line) -> None:
    line.kept = True
    with _keeping:
        others = [_kept.pop((line.name, line.user), None)]
        _kept[line.name, line.user] = line
        if len(_kept) > MOST_KEPT:
            others.append(_kept.pop(next(iter(_kept))))
    for each in others:
        if each is not None:
            each.close()


def _connect(connection: socket.socket, name: str, within: _Deadline) -> None:
    while True:
        connection.settimeout(within.left())
        try:
            connection.connect("\0" + name)
            return
        except BlockingIOError:
            # Its queue is full: a Unix socket says so at once, and has nothing that could be waited for (unix(7)).
            if time.monotonic() >= within.until:
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
