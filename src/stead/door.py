"""The door: a process hands out descriptors itself, where nobody may take them from its /proc.

An abstract Unix socket (no file, gone with the process, even with a killed one), served by one daemon thread. It
hands out only what was registered, by what file it is or by tokens that nobody can guess, to processes of the
same user, of whom the kernel tells it (SO_PEERCRED). A request is one file or a few tokens, and is compared, never
unpickled; whoever is slow, or talks nonsense, is dropped. Those who asked by token may ask again. A forked child
does not serve its parent's door. The other end is :mod:`stead.calling`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import selectors
import socket
import struct
import threading
import time
from array import array
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakValueDictionary

from stead.errors import Unsupported
from stead.openfiles import Identity, fitting

if TYPE_CHECKING:
    from collections.abc import Sequence

REQUEST = struct.Struct("<8sQQ?")  # magic, device, inode, writable
BY_FILE, BY_TOKEN = b"stead-1?", b"stead-1#"  # the second is followed by tokens
TOKEN = 16  # bytes
GIVEN, NOT_HERE = b"given", b"not here"
_CREDENTIALS = struct.Struct("3i")  # struct ucred (unix(7)): pid, uid, gid

DEADLINE = 10.0  # seconds for one exchange, at either end; those who may ask again have them once more
MOST_CLIENTS = 64
# By one request. All clients together then have no more of them on their way than a user may usually have there
# (RLIMIT_NOFILE is 1024; ETOOMANYREFS in unix(7)).
MOST_LENT = 16


def uid_of_peer(connection: socket.socket) -> int:
    got = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(got)[1]
    return uid


def _send(client: socket.socket, answer: bytes, fds: Sequence[int] = ()) -> None:
    # Not socket.send_fds: it forgets the flag without which one who has gone may kill this process.
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
    client.sendmsg([answer], rights, socket.MSG_NOSIGNAL)


def a_socket() -> socket.socket:
    # Messages with ends: a request is whole or it is none.
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Lendable(Protocol):
    """Has a descriptor, which is open for as long as it lives."""

    fd: int


class Door:
    """An open door and what it hands out. ``name`` is its abstract address without the leading NUL."""

    def __init__(self, deadline: float = DEADLINE, most_clients: int = MOST_CLIENTS) -> None:
        self.name = f"stead:door:{os.geteuid()}:{os.getpid()}:{os.urandom(8).hex()}"
        self._deadline, self._most_clients = deadline, most_clients
        self._registered: dict[int, Identity] = {}
        self._lent: WeakValueDictionary[bytes, Lendable] = WeakValueDictionary()
        self._clients: dict[socket.socket, float] = {}  # until when each may take; the oldest is the first
        self._listening = a_socket()
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

    def lend(self, token: bytes, what: Lendable) -> None:
        """Let its descriptor, of whatever kind, be asked for by 16 random bytes, for as long as ``what`` lives."""
        if len(token) != TOKEN:
            raise ValueError(f"token is {token!r}, must be {TOKEN} bytes")
        self._lent[token] = what

    def close(self) -> None:
        """Serve nobody any more; returns when the thread has ended."""
        self._wake.send(b"!")
        self._thread.join()

    def abandon(self) -> None:
        """After fork, in the child: its copies of the sockets are closed, the parent goes on serving."""
        self._registered.clear()
        self._lent.clear()
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
            elif each not in self._clients:  # just dropped for being the oldest
                pass
            elif self._answer(each):
                del self._clients[each]  # it is the youngest now
                self._clients[each] = time.monotonic() + self._deadline
            else:
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
            if uid_of_peer(client) != os.geteuid():
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

    def _answer(self, client: socket.socket) -> bool:
        """Whether it may ask again."""
        with contextlib.suppress(OSError):  # it has gone, or asks for what cannot be opened: it sees the end
            request = client.recv(len(BY_TOKEN) + MOST_LENT * TOKEN + 1)
            if request.startswith(BY_TOKEN):
                return self._answer_tokens(client, request[len(BY_TOKEN) :])
            if len(request) == REQUEST.size:
                self._answer_file(client, request)
        return False

    def _answer_tokens(self, client: socket.socket, tokens: bytes) -> bool:
        count, rest = divmod(len(tokens), TOKEN)
        if rest or not 0 < count <= MOST_LENT:
            return False
        # Held meanwhile: what lives is not closed.
        lent = [self._lent.get(tokens[at : at + TOKEN]) for at in range(0, len(tokens), TOKEN)]
        fds = [each.fd for each in lent if each is not None]
        if len(fds) == count:
            _send(client, GIVEN, fds)
        else:
            _send(client, NOT_HERE)
        return True

    def _answer_file(self, client: socket.socket, request: bytes) -> None:
        magic, device, inode, writable = REQUEST.unpack(request)
        if magic != BY_FILE:
            return
        fd = self._find(device, inode, writable)
        if fd is None:
            _send(client, NOT_HERE)
            return
        try:
            _send(client, GIVEN, [fd])
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
