"""Addresses of hubs: ``unix:/path``, ``unix:@abstract`` (no file), ``tcp://host:port``, or ``(host, port)``."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import stat
import struct
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_TCP = re.compile(r"tcp://(?:\[(?P<six>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^\[\]/:@]+)):(?P<port>[0-9]{1,5})")
_LONGEST_PATH = 107  # struct sockaddr_un (unix(7)): 108 with its NUL
_CREDENTIALS = struct.Struct("3i")  # struct ucred (unix(7)): pid, uid, gid

_FORMS = "'unix:/path', 'unix:@name', 'tcp://host:port' or (host, port)"

# A connection whose other end is gone without a word (power, network) is found out within 10 + 3 * 5 seconds.
_KEEPALIVE = {socket.TCP_KEEPIDLE: 10, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}


@dataclass(frozen=True, slots=True)
class Address:
    """``path``: of a Unix socket, beginning with a NUL where it is abstract; or else ``host`` and ``port``."""

    path: str = ""
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, address: str | tuple[str, int] | Address) -> Address:
        """Raises TypeError, ValueError that names the address."""
        if isinstance(address, Address):
            return address
        if isinstance(address, tuple):
            if len(address) == 2 and isinstance(address[0], str) and type(address[1]) is int:
                return cls._tcp(address, *address)
            raise TypeError(f"address is {address!r}, must be {_FORMS}")
        if not isinstance(address, str):
            raise TypeError(f"address is {address!r}, must be {_FORMS}")
        if address.startswith("unix:"):
            return cls._unix(address, address.removeprefix("unix:"))
        found = _TCP.fullmatch(address)
        if found is None:
            raise ValueError(f"address is {address!r}, must be {_FORMS}")
        return cls._tcp(address, found["six"] or found["host"], int(found["port"]))

    @classmethod
    def _unix(cls, given: object, path: str) -> Address:
        if "\0" in path or not path or path == "@":
            raise ValueError(f"address is {given!r}, must have a path, or '@' and a name")
        # A relative path would be another one after a chdir.
        path = "\0" + path[1:] if path[0] == "@" else os.path.abspath(path)
        if len(os.fsencode(path)) > _LONGEST_PATH:
            raise ValueError(f"address is {given!r}, must have a path of at most {_LONGEST_PATH} bytes")
        return cls(path)

    @classmethod
    def _tcp(cls, given: object, host: str, port: int) -> Address:
        if not host or "\0" in host or not 0 <= port < 1 << 16:
            raise ValueError(f"address is {given!r}, must have a host and a port of at most 65535")
        try:
            host.encode("idna")  # as the resolver's caller does, with an error that names no argument
        except UnicodeError as error:
            raise ValueError(f"address is {given!r}, which names no host: {error}") from None
        return cls("", host, port)

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path.replace(chr(0), '@', 1)}"
        return f"tcp://[{self.host}]:{self.port}" if ":" in self.host else f"tcp://{self.host}:{self.port}"

    @property
    def local(self) -> bool:
        return bool(self.path)


def checked_key(key: bytes, where: Address) -> bytes:
    """Raises TypeError, ValueError."""
    if not isinstance(key, bytes):
        raise TypeError(f"key is of type {type(key).__name__}, must be bytes")
    if not key and not where.local:
        raise ValueError(f"key is empty, must not be over TCP ({where}): anybody may connect there")
    return key


def connect(address: Address, timeout: float) -> socket.socket:
    """A connection. Raises OSError; TimeoutError after so many seconds (looking a host name up may take
    longer)."""
    if address.local:
        return _connect_unix(address, time.monotonic() + timeout)
    connection = socket.create_connection((address.host, address.port), timeout)
    try:
        if connection.getsockname() == connection.getpeername():
            # Nobody listens there; the kernel gave us that very port, and we have met ourselves (RFC 9293, 3.5).
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        settle(connection, timeout)
    except BaseException:
        connection.close()
        raise
    return connection


def _connect_unix(address: Address, until: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        while True:
            connection.settimeout(max(until - time.monotonic(), 0.001))
            try:
                connection.connect(os.fsencode(address.path))
                return connection
            except BlockingIOError:
                # Its queue is full: a Unix socket says so at once, and has nothing to be waited for (unix(7)).
                if time.monotonic() >= until:
                    raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
                time.sleep(0.001)
    except BaseException:
        connection.close()
        raise


def settle(connection: socket.socket, timeout: float) -> None:
    """What a connection over TCP needs so that a small message goes at once, and a dead end is found out."""
    if connection.family == socket.AF_UNIX:
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    milliseconds = min(max(int(timeout * 1000), 1), (1 << 31) - 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def other_user(connection: socket.socket) -> int | None:
    """The user at the other end of a Unix socket, where it is another than ours, of whom the kernel tells."""
    got = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(got)[1]
    return None if uid == os.geteuid() else uid


# ---- listening ------------------------------------------------------------------------------------


class Listening:
    """A socket that listens. ``address``: with the port that was given where 0 was asked for."""

    _file: tuple[int, int] | None  # device and inode of what we made

    def __init__(self, address: Address, private: bool) -> None:
        """``private``: a file that this user alone may connect to. Raises OSError: somebody listens there, or what
        is there is none of ours."""
        self.address, self._file = address, None
        self.socket = socket.socket(socket.AF_UNIX if address.local else socket.AF_INET)
        try:
            self._listen_unix(private) if address.local else self._listen_tcp()
            self.socket.setblocking(False)
        except OSError as error:
            self.socket.close()
            raise type(error)(error.errno, f"cannot listen at {address}: {error.strerror}") from None
        except BaseException:
            self.socket.close()
            raise

    def _listen_tcp(self) -> None:
        host, port = self.address.host, self.address.port
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, where = found[0]
        if family != self.socket.family:
            self.socket.close()
            self.socket = socket.socket(family)
        # A port whose last connections are still dying down; not one where somebody listens (socket(7)).
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(where)
        self.socket.listen(128)
        self.address = Address("", host, self.socket.getsockname()[1])

    def _listen_unix(self, private: bool) -> None:
        path = os.fsencode(self.address.path)
        if path[:1] == b"\0":
            self.socket.bind(path)
            self.socket.listen(128)
            return
        if private:
            # The file gets the mode of the socket (unix(7), Linux), less the umask: at no time may others enter.
            os.fchmod(self.socket.fileno(), 0o600)
        with _locked(os.path.dirname(path)):
            try:
                self.socket.bind(path)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                _remove_dead(path)
                self.socket.bind(path)
            made = os.stat(path, follow_symlinks=False)
            self._file = made.st_dev, made.st_ino
            self.socket.listen(128)

    def close(self) -> None:
        """And remove the file, if it is still ours."""
        if self._file is not None:
            path = os.fsencode(self.address.path)
            with suppress(OSError):
                found = os.stat(path, follow_symlinks=False)
                # While this socket listens nobody replaces its file.
                if (found.st_dev, found.st_ino) == self._file:
                    os.unlink(path)
            self._file = None
        self.socket.close()

    def abandon(self) -> None:
        """After fork, in the child: the file is the parent's."""
        self._file = None
        self.socket.close()


@contextmanager
def _locked(folder: bytes) -> Iterator[None]:
    """One at a time looks whether a socket is dead and replaces it: another could do so with ours, between its
    being bound and its listening."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + 10
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    where = os.fsdecode(folder)
                    raise TimeoutError(errno.ETIMEDOUT, f"{where} is locked (flock) by another process") from None
                time.sleep(0.01)
        yield
    finally:
        os.close(fd)


def _remove_dead(path: bytes) -> None:
    """The socket file of a hub that was killed, and of this user; anything else stays, and is an error."""
    found = os.stat(path, follow_symlinks=False)
    if not stat.S_ISSOCK(found.st_mode):
        raise FileExistsError(errno.EEXIST, "what is there is no socket")
    with socket.socket(socket.AF_UNIX) as asking:
        asking.setblocking(False)
        try:
            asking.connect(path)
        except ConnectionRefusedError:
            pass
        except OSError as error:
            raise OSError(errno.EADDRINUSE, f"somebody is there ({error.strerror})") from None
        else:
            raise OSError(errno.EADDRINUSE, "somebody listens there")
    if found.st_uid != os.geteuid():
        raise FileExistsError(errno.EEXIST, f"a dead socket of user {found.st_uid} is there")
    os.unlink(path)
