"""Segments of shared memory that have a name: each is one memfd, and its name is the memfd's.

A page in front of the contents says how far it is: claimed, ready, unlinked. Who attaches by name looks through
what this user's processes have open (/proc); so a segment exists as long as any of them has it open, and no file,
tracker or table has to be cleaned up after anyone.

Who may have a name is settled without a lock that could be left behind: everyone makes the memfd first, still
without a word in it, and looks second. Of two who do so at the same time at least one sees the other. Who sees a
name that is claimed gives up, and so does who sees a wordless one with a lower inode; one with a higher inode is
waited for, until it claims or gives up. So exactly one claims.

A lock on the open file, shared, says that somebody maps the contents, and ends with a process that is killed. The
memory of an unlinked segment is given back as soon as nobody does, even where a process still has it open: the
creator keeps it open after close() for those who come later by its name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import stat
import struct
import time
import weakref
from typing import TYPE_CHECKING

from stead import _native
from stead.descriptors import open_descriptor
from stead.errors import LimitReached, PeerFailed, Unsupported
from stead.openfiles import Looked, open_if, opened_as, reopen
from stead.ranges import align_up
from stead.securing import PAGE, PUNCH_HOLE, allocate, new_memfd, secure
from stead.sizes import format_size
from stead.snapshot import SHARED_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stead.descriptors import Descriptor

PREFIX = SHARED_PREFIX + "shm:"
_ROOM = 249 - len(PREFIX)  # bytes of a name that memfd_create(2) takes

_HEAD = struct.Struct("<8sQQ")  # magic, state, bytes of the contents
_MAGIC = b"stead-s1"
_SILENT, _CLAIMED, _READY, _UNLINKED, _FOREIGN = range(5)

# Bytes of the file that locks are on: there is somebody who maps it; one who unlinks it.
_MAPPED, _UNLINKING = 0, 1
# struct flock (fcntl(2)) on 64-bit Linux: type, whence, start, length, pid.
_FLOCK = struct.Struct("hhqqi4x")

DEADLINE = 30.0  # seconds that another creator is waited for, whose next step takes microseconds


def canonical(name: str) -> str:
    """``name`` as shm_open(3) takes it: slashes in front do not count, there are none inside.

    Raises TypeError, ValueError (a NUL), OSError (EINVAL, ENAMETOOLONG), as the standard library does.
    """
    if not isinstance(name, str):
        raise TypeError(f"name is {name!r}, must be a str")
    if "\0" in name:
        raise ValueError(f"name is {name!r}, with an embedded null character")
    plain = name.lstrip("/")
    if not plain or "/" in plain:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
    if len(os.fsencode(plain)) > 255:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), name)
    return plain


def _memfd_name(name: str) -> str:
    encoded = os.fsencode(name)
    if len(encoded) > _ROOM:
        digest = hashlib.sha256(encoded).hexdigest()
        name = os.fsdecode(encoded[: _ROOM - len(digest) - 1]) + "~" + digest
    return PREFIX + name


class Owned:
    """A descriptor that is closed when nobody refers to this any more: so no number is used after its reuse."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.inode = os.fstat(fd).st_ino
        self.close = weakref.finalize(self, os.close, fd)
        self.close.atexit = False


# What this process created and has not unlinked, by name.
_kept: dict[str, Owned] = {}


def _sweep() -> None:
    """Let go of what others have unlinked, who do not tell: each call looks at a few, and at all of them in turn.

    Their memory is gone by then, unless the last one to map it was killed.
    """
    for name in list(itertools.islice(_kept, 4)):
        kept = _kept.pop(name, None)
        if kept is not None and _state(kept.fd)[0] != _UNLINKED:
            _kept.setdefault(name, kept)


def _forget(name: str, inode: int) -> None:
    kept = _kept.get(name)
    if kept is not None and kept.inode == inode:
        _kept.pop(name, None)


# ---- the page in front ----------------------------------------------------------------------------


def _state(fd: int) -> tuple[int, int]:
    """How far a segment is, and how many bytes it has for contents."""
    head = os.pread(fd, _HEAD.size, 0)
    if len(head) < _HEAD.size:
        return _SILENT, 0
    magic, state, size = _HEAD.unpack(head)
    if magic != _MAGIC or state not in (_CLAIMED, _READY, _UNLINKED):
        return _FOREIGN, 0
    if state == _READY:
        # Touching what is not there would be SIGBUS: somebody else may have made it, and made it wrong.
        sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
        if not sealed or size < 1 or os.fstat(fd).st_size < PAGE + size:
            return _FOREIGN, 0
    return state, size


def _write_state(fd: int, state: int, size: int) -> None:
    os.pwrite(fd, _HEAD.pack(_MAGIC, state, size), 0)


def _another(fd: int) -> int:
    """The same file, opened anew, so that it has locks of its own."""
    try:
        return reopen(fd, os.O_RDWR)
    except FileNotFoundError:
        raise Unsupported("shared memory with a name", "/proc", "none mounted") from None


def _lock(fd: int, kind: int, byte: int, *, wait: bool = False) -> bool | None:
    """Whether it was locked; None where the kernel has no such locks (an emulator)."""
    try:
        request = fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK
        fcntl.fcntl(fd, request, _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        if error.errno in (errno.EINVAL, errno.ENOSYS):
            return None
        raise
    return True


def _give_back_if_last(fd: int) -> None:
    """Free the memory of an unlinked segment if nobody maps it. ``fd``: opened anew, without a lock yet."""
    with contextlib.suppress(OSError):  # then it is given back when the last descriptor is closed
        if _state(fd)[0] == _UNLINKED and _lock(fd, fcntl.F_WRLCK, _MAPPED):
            allocate(fd, PUNCH_HOLE, PAGE, os.fstat(fd).st_size - PAGE, lambda number: OSError(number, "no hole"))


def _leave(fd: int) -> None:
    """Close what may have been the last to map the contents."""
    # Closed first and looked at second: who unlinks it writes first and tries the lock second.
    another = -1
    with contextlib.suppress(OSError):
        another = reopen(fd, os.O_RDWR)
    os.close(fd)
    if another >= 0:
        _give_back_if_last(another)
        os.close(another)


# ---- making, finding, ending ----------------------------------------------------------------------


def create(name: str, size: int, *, unique: bool = False) -> tuple[Owned, Mapping]:
    """A new segment of ``size`` bytes, mapped. ``unique``: nobody else can have thought of this name, so only this
    process is asked.

    Raises FileExistsError, LimitReached (memory, descriptors).
    """
    kept = _kept.get(name)
    if kept is not None and _state(kept.fd)[0] == _READY:
        raise _exists(name)
    owned = Owned(new_memfd(_memfd_name(name)))
    try:
        os.fchmod(owned.fd, 0o600)
        if not unique:
            _wait_for_claim(name, owned)
        _write_state(owned.fd, _CLAIMED, 0)
        secure(owned.fd, PAGE + align_up(size, PAGE))
        fcntl.fcntl(owned.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        mapping = Mapping(_locked(owned)[0], size)
        _write_state(owned.fd, _READY, size)
    except BaseException:
        # Now: somebody may wait for it to be gone, and the exception would keep it for as long as it lives.
        owned.close()
        raise
    _sweep()
    _kept[name] = owned
    return owned, mapping


def _exists(name: str) -> FileExistsError:
    return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), "/" + name)


def missing(name: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/" + name)


def _wait_for_claim(name: str, owned: Owned) -> None:
    """Return when this one may claim the name. See above."""
    until = time.monotonic() + DEADLINE
    while True:
        silent = []
        for fd in _found(name, except_for=owned.inode):
            try:
                state, inode = _state(fd)[0], os.fstat(fd).st_ino
            finally:
                os.close(fd)
            if state in (_CLAIMED, _READY):
                raise _exists(name)
            if state == _SILENT:
                silent.append(inode)
        if not silent:
            return
        if min(silent) < owned.inode or time.monotonic() > until:
            raise _exists(name)
        time.sleep(0.001)


def _found(name: str, except_for: int = -1) -> Iterator[int]:
    """Every segment with this name that a process of this user has open, opened anew; the caller closes it."""
    seen = {except_for}

    def wanted(at: os.stat_result) -> bool:
        # Its own file, whoever has it open: what root finds here may have been laid out by anyone.
        return (
            stat.S_ISREG(at.st_mode)
            and at.st_uid == os.geteuid()
            and not stat.S_IMODE(at.st_mode) & 0o077
            and at.st_ino not in seen
        )

    link = f"/memfd:{_memfd_name(name)} (deleted)"
    # Twice: one process may have taken it over after it was looked at, from one that ended before it was.
    for _ in range(2):
        for path in opened_as((link,), Looked()):
            try:
                fd = open_if(path, os.O_RDWR, wanted)
            except OSError:
                continue
            if fd is not None:
                seen.add(os.fstat(fd).st_ino)
                yield fd


class Mapping:
    """The contents of a segment in this process, as long as anyone refers to this."""

    def __init__(self, fd: int, size: int) -> None:
        """Takes over ``fd``, which says by its lock that somebody maps it."""
        self.size = size
        length = align_up(size, PAGE)
        address = _native.hint(0, length)
        got = address
        if address >= 0:
            protection = _native.PROT_READ | _native.PROT_WRITE
            got = _native.place(address, length, protection, _native.MAP_SHARED, fd, PAGE)
            if got < 0:
                _native.unmap(address, length)
        if got < 0:
            _leave(fd)
            message = f"{format_size(length)} of shared memory cannot be mapped: {os.strerror(-got)}"
            raise LimitReached(message, "address space", -got) if got == -errno.ENOMEM else OSError(-got, message)
        self.address = address
        weakref.finalize(self, _unmap, address, length, fd).atexit = False

    def exporter(self) -> _native.Exporter:
        """A buffer of format 'B' that keeps the mapping."""
        return _native.Exporter(self.address, self.size, False, self)


def _unmap(address: int, length: int, fd: int) -> None:
    _native.unmap(address, length)
    _leave(fd)


def enter(owned: Owned) -> Mapping | None:
    """Map the contents of a segment; None if it is unlinked, or no segment. Raises LimitReached, Unsupported."""
    fd, locked = _locked(owned)
    try:
        state, size = _state(fd)
    except BaseException:
        os.close(fd)
        raise
    if not locked or state != _READY:
        _leave(fd)
        return None
    return Mapping(fd, size)


def _locked(owned: Owned) -> tuple[int, bool]:
    """The file opened anew, with the lock of those who map it, unless its memory is being given back."""
    fd = _another(owned.fd)
    try:
        return fd, _lock(fd, fcntl.F_RDLCK, _MAPPED) is not False
    except BaseException:
        os.close(fd)
        raise


def attach(name: str, sent: Descriptor | None = None) -> tuple[Owned, Mapping]:
    """The segment with this name; ``sent``: where it was last seen. Raises FileNotFoundError, LimitReached."""
    _sweep()
    found = _first(name, sent)
    if found is not None:
        return found
    if not os.path.isdir("/proc/self/fd"):
        raise Unsupported("attaching shared memory by its name", "/proc", "none mounted")
    raise missing(name)


def _first(name: str, sent: Descriptor | None) -> tuple[Owned, Mapping] | None:
    # Not in attach(): its exception would keep what was found, and so the memory, for as long as it lives.
    for owned in _candidates(name, sent):
        mapping = enter(owned)
        if mapping is not None:
            return owned, mapping
    return None


def _candidates(name: str, sent: Descriptor | None) -> Iterator[Owned]:
    if sent is not None:
        with contextlib.suppress(PeerFailed, OSError):
            yield Owned(open_descriptor(sent, True, search=False))
    kept = _kept.get(name)
    if kept is not None:
        yield kept
    for fd in _found(name):
        yield Owned(fd)


def unlink(name: str, owned: Owned) -> None:
    """End the name of this segment, for new ones to take. Raises FileNotFoundError if somebody did before."""
    fd = _another(owned.fd)
    try:
        _lock(fd, fcntl.F_WRLCK, _UNLINKING, wait=True)
        state, size = _state(fd)
        if state == _UNLINKED:
            raise missing(name)
        _write_state(fd, _UNLINKED, size)
        _forget(name, owned.inode)
        _give_back_if_last(fd)
    finally:
        os.close(fd)
