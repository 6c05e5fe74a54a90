"""The door: a process hands out descriptors itself, where nobody may take them from its /proc.

An abstract Unix socket (no file, gone with the process, even with a killed one), served by one daemon thread. It
hands out only what was registered, by what file it is or by a token that nobody can guess, to processes of the
same user, of whom the kernel tells it (SO_PEERCRED), and the one who asks checks the door's user in the same way
before it sends a word. A request has one fixed size and
is compared, never unpickled; whoever is slow, or talks nonsense, is dropped. A forked child does not serve its
parent's door.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import selectors
import socket
import stat
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

from stead.errors import PeerFailed, Unsupported
from stead.openfiles import Identity, fitting

if TYPE_CHECKING:
    from collections.abc import Callable

_REQUEST = struct.Struct("<8sQQ?")  # magic, device, inode, writable
_MAGIC, _BY_TOKEN = b"stead-1?", b"stead-1#"
_GIVEN, _NOT_HERE = b"given", b"not here"
_CREDENTIALS = struct.Struct("3i")  # struct ucred (unix(7)): pid, uid, gid

DEADLINE = 10.0  # seconds for one exchange, at either end
MOST_CLIENTS = 64


def _uid_of_peer(connection: socket.socket) -> int:
    got = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(got)[1]
    return uid


def _socket() -> socket.socket:
    # Messages with ends: a request is whole or it is none.
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Door:
    """An open door and what it hands out. ``name`` is its abstract address without the leading NUL."""

    def __init__(self, deadline: float = DEADLINE, most_clients: int = MOST_CLIENTS) -> None:
        self.name = f"stead:door:{os.geteuid()}:{os.getpid()}:{os.urandom(8).hex()}"
        self._deadline, self._most_clients = deadline, most_clients
        self._registered: dict[int, Identity] = {}
        self._lent: dict[bytes, int] = {}
        self._lending = threading.Lock()  # while a descriptor that was lent is duplicated, or taken back
        self._clients: dict[socket.socket, float] = {}  # until when each may take; the oldest is the first
        self._listening = _socket()
        self._wake, self._woken = socket.socketpair()
        self._ready = selectors.DefaultSelector()
        self.busy = threading.Lock()  # while the thread holds descriptors that no child should inherit
        try:
            self._listening.bind("\0" + self.name)
            self._listening.listen(128)
            self._listening.setblocking(False)
            self._thread = threading.Thread(target=self._serve, name="stead door", daemon=True)
            self._thread.start()
        except BaseException:
            self._drop()
            raise

    def register(self, fd: int, identity: Identity) -> None:
        """Let ``fd`` be asked for, for as long as that file is open under that number."""
        self._registered[fd] = identity

    def lend(self, token: bytes, fd: int) -> None:
        """Let ``fd``, of whatever kind, be asked for by 16 random bytes, until :meth:`take_back`; it stays open
        until then."""
        if len(token) != 16:
            raise ValueError(f"token is {token!r}, must be 16 bytes")
        self._lent[token] = fd

    def take_back(self, token: bytes) -> None:
        """Hand it out no more; the caller may close it then."""
        with self._lending:
            self._lent.pop(token, None)

    def close(self) -> None:
        """Serve nobody any more; returns when the thread has ended."""
        self._wake.send(b"!")
        self._thread.join()

    def abandon(self) -> None:
        """After fork, in the child: its copies of the sockets are closed, the parent goes on serving."""
        self._registered.clear()
        self._lent.clear()
        self._lending = threading.Lock()
        self._drop()

    def _drop(self) -> None:
        for each in (self._listening, self._wake, self._woken, *self._clients):
            each.close()
        self._ready.close()

    # ---- in the thread --------------------------------------------------------------------------

    def _serve(self) -> None:
        self._ready.register(self._listening, selectors.EVENT_READ)
        self._ready.register(self._woken, selectors.EVENT_READ)
        while True:
            first = next(iter(self._clients.values()), None)
            events = self._ready.select(None if first is None else max(first - time.monotonic(), 0))
            with self.busy:
                served = self._serve_ready([key.fileobj for key, _ in events])
            if served is None:
                return
            if not served:
                # No descriptor is left to let anyone in with. That someone waits would be told again at once.
                time.sleep(0.05)

    def _serve_ready(self, ready: list[Any]) -> bool | None:
        """None: the door is to be closed. False: somebody could not be let in."""
        served = True
        for each in ready:
            if each is self._woken:
                self._drop()
                return None
            if each is self._listening:
                served = self._let_in()
            elif each in self._clients:  # not one that was just dropped for being the oldest
                self._answer(each)
                self._let_out(each)
        now = time.monotonic()
        for client in [client for client, until in self._clients.items() if until <= now]:
            self._let_out(client)
        return served

    def _let_in(self) -> bool:
        try:
            client, _ = self._listening.accept()
        except OSError as error:
            return error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
        client.setblocking(False)
        try:
            if _uid_of_peer(client) != os.geteuid():
                client.close()
                return True
            self._ready.register(client, selectors.EVENT_READ)
        except OSError:  # no memory to watch it
            client.close()
            return False
        if len(self._clients) >= self._most_clients:
            self._let_out(next(iter(self._clients)))
        self._clients[client] = time.monotonic() + self._deadline
        return True

    def _let_out(self, client: socket.socket) -> None:
        del self._clients[client]
        self._ready.unregister(client)
        client.close()

    def _answer(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it has gone, or asks for what cannot be opened: it sees the end
            request = client.recv(_REQUEST.size + 1)
            if len(request) != _REQUEST.size:
                return
            magic, device, inode, writable = _REQUEST.unpack(request)
            if magic == _MAGIC:
                fd = self._find(device, inode, writable)
            elif magic == _BY_TOKEN:
                fd = self._find_lent(struct.pack("<QQ", device, inode))
            else:
                return
            if fd is None:
                client.send(_NOT_HERE)
                return
            try:
                socket.send_fds(client, [_GIVEN], [fd])
            finally:
                os.close(fd)

    def _find(self, device: int, inode: int, writable: bool) -> int | None:
        """A new descriptor for what was registered as this file, if it still is that file."""
        for fd, identity in list(self._registered.items()):
            if (identity.device, identity.inode) != (device, inode):
                continue
            # Held before it is compared: another thread may close the number, and reuse it, at any time.
            try:
                held = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)
            except OSError:
                self._forget(fd, identity)
                continue
            if Identity.of(held) != identity:
                os.close(held)
                self._forget(fd, identity)
                continue
            try:
                return fitting(held, writable)
            finally:
                os.close(held)
        return None

    def _find_lent(self, token: bytes) -> int | None:
        with self._lending:
            fd = self._lent.get(token)
            return None if fd is None else fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)

    def _forget(self, fd: int, identity: Identity) -> None:
        if self._registered.get(fd) == identity:
            del self._registered[fd]


# ---- this process's door --------------------------------------------------------------------------

_lock = threading.Lock()
_door: Door | None = None


def open_door() -> Door:
    """This process's door, opened if it is not open yet. Raises Unsupported where that cannot be done."""
    global _door
    with _lock:
        if _door is None:
            try:
                _door = Door()
            except (OSError, RuntimeError) as error:  # no sockets here; no thread can be started any more
                raise Unsupported(
                    "handing out descriptors", "an abstract Unix socket and a thread", str(error)
                ) from None
        return _door


def this_door() -> Door | None:
    """This process's door, if it is open."""
    return _door


def close_door() -> None:
    """Close this process's door, if it is open. What was described meanwhile can be had from it no more."""
    global _door
    with _lock:
        door, _door = _door, None
        if door is not None:
            door.close()


def _before_fork() -> None:
    _lock.acquire()
    if _door is not None:
        _door.busy.acquire()


def _after_fork_in_parent() -> None:
    if _door is not None:
        _door.busy.release()
    _lock.release()


def _after_fork_in_child() -> None:
    global _door
    door, _door = _door, None
    if door is not None:
        door.abandon()
    _lock.release()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)


# ---- asking ---------------------------------------------------------------------------------------


def ask(name: str, identity: Identity, writable: bool, deadline: float = DEADLINE) -> int:
    """A descriptor from the door called ``name``; the caller owns it, and need not compare it any more.

    Raises PeerFailed: nobody is there, or another user, it has no such file, answers too late or with nonsense.
    """
    request = _REQUEST.pack(_MAGIC, identity.device, identity.inode, writable)
    return _ask(name, request, lambda fd: _is_it(fd, identity, writable), deadline)


def ask_lent(name: str, token: bytes, deadline: float = DEADLINE) -> int:
    """A descriptor that the door called ``name`` lends by ``token``; the caller owns it. Raises PeerFailed, as
    :func:`ask` does."""
    return _ask(name, _REQUEST.pack(_BY_TOKEN, *struct.unpack("<QQ", token), False), lambda _: True, deadline)


def _ask(name: str, request: bytes, fits: Callable[[int], bool], deadline: float) -> int:
    until = time.monotonic() + deadline
    door = f"the door {name!r}"
    try:
        with _socket() as connection:
            _connect(connection, name, until)
            if _uid_of_peer(connection) != os.geteuid():
                raise PeerFailed(door, f"is user {_uid_of_peer(connection)}'s, not user {os.geteuid()}'s")
            connection.settimeout(max(until - time.monotonic(), 0.001))
            connection.send(request)
            connection.settimeout(max(until - time.monotonic(), 0.001))
            answer, fds, whole = _receive(connection)
    except TimeoutError:
        raise PeerFailed(door, f"did not answer within {deadline:g} s") from None
    except OSError as error:
        raise PeerFailed(door, f"is not open: {error}") from None
    if answer == _NOT_HERE and not fds:
        raise PeerFailed(door, "does not hand out this file, or no more")
    if answer == _GIVEN and len(fds) == 1 and whole and fits(fds[0]):
        return fds[0]
    for fd in fds:
        os.close(fd)
    raise PeerFailed(door, "answered with something else" if answer else "closed without an answer")


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


def _receive(connection: socket.socket) -> tuple[bytes, list[int], bool]:
    """A message, the descriptors with it, and whether that was all. Not socket.recv_fds: it forgets the flag that
    keeps them from being inherited (cpython 3.11 to 3.13)."""
    one = struct.calcsize("i")
    message, ancillary, flags, _ = connection.recvmsg(64, socket.CMSG_LEN(one), socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.extend(struct.unpack(f"{len(data) // one}i", data[: len(data) // one * one]))
    return message, fds, not flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC)


def _is_it(fd: int, identity: Identity, writable: bool) -> bool:
    wanted = os.O_RDWR if writable else os.O_RDONLY
    return (
        Identity.of(fd) == identity
        and stat.S_ISREG(os.fstat(fd).st_mode)
        and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == wanted
    )
