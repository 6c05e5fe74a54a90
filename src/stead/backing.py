"""What can be behind a range: anonymous memory, shared memory, a file.

A backing secures its memory first, so that running out is an OSError at commit and never a SIGBUS at
first touch, and then says how it is to be mapped. It maps nothing itself.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import weakref
from dataclasses import dataclass
from typing import Any, Literal, Protocol, SupportsIndex, get_args

from stead import _native
from stead.errors import LimitReached, Unsupported
from stead.securing import PAGE, PUNCH_HOLE, allocate, needed_huge_page_size, shared_memory, transparent_huge_pages
from stead.sizes import format_size, parse_size
from stead.snapshot import SHARED_PREFIX

HugePages = Literal["none", "transparent", "explicit"]


@dataclass(frozen=True, slots=True)
class Source:
    """How to map a backing: arguments of mmap(2), advice to give afterwards, pages it comes in (bytes)."""

    flags: int
    fd: int = -1
    offset: int = 0
    advice: tuple[int, ...] = ()
    granularity: int = PAGE


class Backing(Protocol):
    """Where contents live."""

    @property
    def shareable(self) -> bool:
        """Another process that maps it sees the same contents."""
        ...

    def discard(self, source: Source, size: int) -> int | None:
        """Drop the contents of ``size`` bytes mapped from ``source``: None, or the madvise(2) advice to do it."""
        ...

    def source(self, size: int, writable: bool) -> Source:
        """Secure ``size`` bytes and say how they are mapped. Raises LimitReached, ValueError, Unsupported."""
        ...


class DriverMade(Protocol):
    """Memory that a device's driver makes: :mod:`stead.devices.memory`."""

    def secure(self, driver: Any, size: int) -> Any: ...


# ---- huge pages -----------------------------------------------------------------------------------


def _check_huge(huge: str) -> None:
    if huge not in get_args(HugePages):
        raise ValueError(f"huge is {huge!r}, must be one of {', '.join(get_args(HugePages))}")


# ---- anonymous ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Anonymous:
    """Zeroed memory of this process alone. After fork, parent and child each have a copy (copy on write).

    ``huge``: "transparent" asks for huge pages where they fit (Unsupported where they are switched off),
    "explicit" takes them from the administrator's pool (LimitReached when it is empty). ``overcommit``:
    do not count it against the kernel's commit limit: touching it may then meet the out-of-memory killer.
    """

    huge: HugePages = "none"
    overcommit: bool = False

    def __post_init__(self) -> None:
        _check_huge(self.huge)

    @property
    def shareable(self) -> bool:
        return False

    def discard(self, source: Source, size: int) -> int | None:
        return _native.MADV_DONTNEED

    def source(self, size: int, writable: bool) -> Source:
        flags = _native.MAP_PRIVATE | _native.MAP_ANONYMOUS
        if self.overcommit:
            flags |= _native.MAP_NORESERVE
        if self.huge == "explicit":
            return Source(flags | _native.MAP_HUGETLB, granularity=needed_huge_page_size())
        return Source(flags, advice=transparent_huge_pages("enabled") if self.huge == "transparent" else ())


ANONYMOUS = Anonymous()


# ---- shared memory --------------------------------------------------------------------------------


class SharedMemory:
    """Memory that processes share, with no name in any file system: a memfd(2), sealed against shrinking.

    It lives while a descriptor or a mapping of it does, in any process, and leaves nothing behind after
    SIGKILL. ``size``: in bytes or as text; without it, as large as the first commit that uses it. All of it
    is allocated at once (fallocate), so it is not limited by the size of /dev/shm, and there is no SIGBUS.
    After fork, parent and child share it. ``name`` appears in /proc/<pid>/maps as ``/memfd:stead:<name>``.

    Raises LimitReached when memory runs out, ValueError, Unsupported.
    """

    _memory: tuple[int, int]  # descriptor and size, once allocated

    def __init__(
        self,
        size: SupportsIndex | str | None = None,
        *,
        name: str | None = None,
        huge: HugePages = "none",
    ) -> None:
        _check_huge(huge)
        self.name = check_name(name) or ""
        self.huge = huge
        if size is not None:
            wanted = parse_size(size, "size")
            if wanted <= 0:
                raise ValueError(f"size is {wanted}, must be at least 1 byte")
            self._allocate(wanted)

    @classmethod
    def adopt(cls, fd: int, *, name: str = "") -> SharedMemory:
        """From the descriptor of a memfd that another process made; owns the descriptor from here on."""
        made = cls.__new__(cls)
        made.name, made.huge = name, "none"
        made._own(fd, os.fstat(fd).st_size)
        return made

    def _own(self, fd: int, size: int) -> None:
        # Two threads may commit one that has no size yet: the first to get here wins.
        if self.__dict__.setdefault("_memory", (fd, size)) != (fd, size):
            os.close(fd)
        else:
            weakref.finalize(self, os.close, fd).atexit = False

    def _allocate(self, wanted: int) -> None:
        self._own(*shared_memory(SHARED_PREFIX + self.name, wanted, self.huge == "explicit"))

    @property
    def size(self) -> int:
        """Bytes; 0 before the first commit of one that was made without a size."""
        return self._memory[1] if "_memory" in self.__dict__ else 0

    def fileno(self) -> int:
        """The memfd's descriptor; -1 before the first commit of one that was made without a size."""
        return self._memory[0] if "_memory" in self.__dict__ else -1

    @property
    def shareable(self) -> bool:
        return True

    def discard(self, source: Source, size: int) -> int | None:
        # MADV_DONTNEED would only drop our page table entries: the memory would stay. A hole drops it for
        # every process that maps it (MADV_REMOVE does the same, where an emulator does not ignore it).
        allocate(source.fd, PUNCH_HOLE, source.offset, size, _no_hole)
        return None

    def source(self, size: int, writable: bool, offset: int = 0) -> Source:
        """See :class:`Backing`; ``offset``: bytes into the memory."""
        advice = transparent_huge_pages("shmem_enabled") if self.huge == "transparent" else ()
        if self.fileno() < 0:
            self._allocate(offset + size)
        if offset + size > self.size:
            raise ValueError(f"size is {size} bytes from {offset}, more than the {self.size} bytes of {self!r}")
        granularity = needed_huge_page_size() if self.huge == "explicit" else PAGE
        return Source(_native.MAP_SHARED, self.fileno(), offset, advice, granularity)

    def at(self, offset: SupportsIndex | str) -> Part:
        """The same memory from ``offset`` (bytes, whole pages), as a backing of its own."""
        return Part(self, parse_size(offset, "offset"))

    def __repr__(self) -> str:
        size = format_size(self.size) if self.size else "not allocated"
        return f"<SharedMemory {self.name!r}, {size}>" if self.name else f"<SharedMemory, {size}>"


@dataclass(frozen=True, slots=True)
class Part:
    """Shared memory from an offset on."""

    memory: SharedMemory
    offset: int

    def __post_init__(self) -> None:
        _check_offset(self.offset)

    @property
    def shareable(self) -> bool:
        return True

    def discard(self, source: Source, size: int) -> int | None:
        return self.memory.discard(source, size)

    def fileno(self) -> int:
        return self.memory.fileno()

    def source(self, size: int, writable: bool) -> Source:
        return self.memory.source(size, writable, self.offset)


@dataclass(frozen=True, slots=True)
class Sparse:
    """A memfd from its beginning on, of which nothing is allocated by being mapped: whoever maps it so allocates
    what is used, and gives it back."""

    fd: int

    @property
    def shareable(self) -> bool:
        return False  # by pickling the reservation: it travels as what it is the memory of

    def discard(self, source: Source, size: int) -> int | None:
        raise AssertionError("who has mapped it gives memory back")

    def source(self, size: int, writable: bool) -> Source:
        return Source(_native.MAP_SHARED, self.fd)


def _no_hole(number: int) -> Exception:
    if number == errno.EBADF:
        return Unsupported("discarding shared memory", "an attachment that may write", "one that may only read")
    return OSError(number, f"shared memory cannot be discarded: {os.strerror(number)}")


def _check_offset(offset: int) -> None:
    if offset < 0 or offset % PAGE:
        raise ValueError(f"offset is {offset}, must be a multiple of the page size, {PAGE}")


def check_name(name: str | None) -> str | None:
    """``name``, if the kernel can carry it: no NUL, and at most 200 bytes (memfd_create(2) takes 249)."""
    if name is None:
        return None
    if not isinstance(name, str):
        raise TypeError(f"name is {name!r}, must be a str")
    if "\0" in name or len(os.fsencode(name)) > 200:
        raise ValueError(f"name is {name!r}, must have at most 200 bytes and no NUL")
    return name


# ---- files ----------------------------------------------------------------------------------------


class File:
    """A file from ``offset`` (bytes, whole pages) on.

    ``private``: changes stay in this process (copy on write) instead of reaching the file. ``grow``: a file
    that is too short is made longer. Where the mapping is shared and writable its blocks are allocated at
    commit, on file systems that can, so that a full disk is an OSError then and not a SIGBUS later. What no
    one can prevent: another process that truncates the file while it is mapped.

    Raises OSError where the file cannot be opened, ValueError where it is not a regular file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        offset: SupportsIndex | str = 0,
        *,
        private: bool = False,
        grow: bool = False,
    ) -> None:
        self.path = os.fspath(path)
        self.offset = parse_size(offset, "offset")
        _check_offset(self.offset)
        if private and grow:
            raise ValueError("grow is True, which a private file cannot be: its changes do not reach the file")
        self.private, self.grow = private, grow
        self._fd, self._writable = -1, False

    @classmethod
    def adopt(cls, fd: int, path: str, offset: int) -> File:
        """From a descriptor that another process opened; owns the descriptor from here on."""
        made = cls(path, offset)
        made._own(fd, fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR)
        return made

    def _own(self, fd: int, writable: bool) -> None:
        self._fd, self._writable = fd, writable
        weakref.finalize(self, os.close, fd).atexit = False

    def _open(self, writable: bool) -> None:
        if self._fd >= 0 and (self._writable or not writable):
            return
        fd = os.open(self.path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise ValueError(f"path is {self.path!r}, must be a regular file")
        self._own(fd, writable)

    def fileno(self) -> int:
        """The file's descriptor; -1 before the first commit."""
        return self._fd

    @property
    def shareable(self) -> bool:
        return not self.private

    def discard(self, source: Source, size: int) -> int | None:
        return _native.MADV_DONTNEED

    def source(self, size: int, writable: bool) -> Source:
        shared_writable = writable and not self.private
        self._open(shared_writable or self.grow)
        holds = os.fstat(self._fd).st_size
        if self.offset + size > holds and not self.grow:
            raise ValueError(
                f"size is {size} bytes from {self.offset}, and {self.path!r} holds {holds}: "
                "touching what is beyond is SIGBUS (grow=True makes it longer)"
            )
        if shared_writable or self.offset + size > holds:
            try:
                allocate(self._fd, 0, self.offset, size, lambda number: _no_room(number, size, self.path))
            except Unsupported:
                if self.offset + size > holds:
                    os.ftruncate(self._fd, self.offset + size)
        return Source(_native.MAP_PRIVATE if self.private else _native.MAP_SHARED, self._fd, self.offset)

    def __repr__(self) -> str:
        return f"<File {self.path!r} from {self.offset}{', private' if self.private else ''}>"


def _no_room(number: int, size: int, path: str) -> Exception:
    limit = {errno.ENOSPC: "disk", errno.EDQUOT: "quota", errno.EFBIG: "RLIMIT_FSIZE"}.get(number)
    message = f"{format_size(size)} of {path!r} cannot be allocated: {os.strerror(number)}"
    if number in (errno.EOPNOTSUPP, errno.ENOSYS):
        return Unsupported("allocating a file's blocks", "a file system with fallocate", path)
    return LimitReached(message, limit, number) if limit else OSError(number, message)


def as_backing(value: Backing | DriverMade | Literal["anonymous", "shared"], name: str | None) -> Any:
    """A backing, or one of the two plain words for the common ones; shared memory is called ``name``."""
    if isinstance(value, str):
        if value == "anonymous":
            return ANONYMOUS
        if value == "shared":
            return SharedMemory(name=name)
    if not hasattr(value, "source") and not hasattr(value, "secure"):
        raise TypeError(
            f"backing is {value!r}, must be Anonymous, SharedMemory, File, 'anonymous' or 'shared', or memory "
            "of a device: DeviceMemory, HostMemory"
        )
    return value
