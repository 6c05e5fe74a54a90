"""What this user's processes have open, as /proc tells: found, compared, and opened without a race.

A file is known by device and inode. A memfd lives on a file system of the kernel's that is never unmounted and
counts its inodes with 64 bits (Linux 5.9, mm/shmem.c), so within one boot that names it for ever. A file on disk
gives its inode to the next file when it is deleted: its generation (FS_IOC_GETVERSION) tells these apart where the
file system has one. Across boots nothing of this holds.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# _IOR('v', 1, long) (uapi/linux/fs.h), as x86, ARM and RISC-V count it; others answer ENOTTY.
_GETVERSION = 0x80087601

# How many descriptors one search looks at: seconds on any machine.
MOST = 1_000_000


@dataclass(frozen=True, slots=True)
class Identity:
    """Which file, within one boot: ``generation`` is None where its file system does not count them."""

    device: int
    inode: int
    generation: int | None = None

    @classmethod
    def of(cls, fd: int) -> Identity:
        """The identity of an open file. Raises OSError where ``fd`` is not open."""
        found = os.fstat(fd)
        return cls(found.st_dev, found.st_ino, _generation(fd) if stat.S_ISREG(found.st_mode) else None)


def _generation(fd: int) -> int | None:
    try:
        answer = fcntl.ioctl(fd, _GETVERSION, bytes(8))
    except OSError:
        return None
    number: int = struct.unpack_from("I", answer)[0]  # an int, whatever the request's name says: ioctl_iflags(2)
    return number


@dataclass(slots=True)
class Looked:
    """What a search has looked at, for the message when nothing was found."""

    processes: int = 0
    refused: int = 0
    descriptors: int = 0
    stopped: bool = False

    def __str__(self) -> str:
        text = f"looked at {self.descriptors} descriptors of {self.processes} processes of user {os.geteuid()}"
        if self.refused:
            text += f"; {self.refused} more may not be looked into"
        return text + ("; stopped there" if self.stopped else "")


def link_of(fd: int) -> str:
    """What /proc calls the file open as ``fd``: a path, or ``/memfd:<name> (deleted)``; "" where unknown."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def opened_as(links: tuple[str, ...], looked: Looked, most: int = MOST) -> Iterator[str]:
    """Paths in /proc of descriptors that this user's processes have open under one of ``links``, own ones first.

    Each may be gone, or be another file, by the time it is opened. Not seen: processes that may not be looked into
    (not dumpable, or with more privileges), and those of other PID namespaces.
    """
    me = os.getpid()
    for pid in [me, *(pid for pid in _processes() if pid != me)]:
        folder = f"/proc/{pid}/fd"
        try:
            # One that is not dumpable belongs to root there (proc_pid(5)): only this one may still be looked into.
            if pid != me and os.stat(f"/proc/{pid}").st_uid != os.geteuid():
                continue
            numbers = os.listdir(folder)
        except PermissionError:
            looked.refused += 1
            continue
        except OSError:
            continue  # it has ended meanwhile
        looked.processes += 1
        for number in numbers:
            if looked.descriptors >= most:
                looked.stopped = True
                return
            looked.descriptors += 1
            path = f"{folder}/{number}"
            try:
                if os.readlink(path) in links:
                    yield path
            except OSError:
                continue


def _processes() -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())
    except OSError:
        return []


def open_if(path: str, flags: int, wanted: Callable[[os.stat_result], bool]) -> int | None:
    """A descriptor for what is at ``path`` if it is ``wanted``, else None; raises OSError where there is nothing.

    It is held by O_PATH while it is looked at: nothing is done to a wrong file. Opening a pipe would wait for a
    writer, opening a device does something, and between a look and an opening by path another may come there.
    """
    held = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return reopen(held, flags) if wanted(os.fstat(held)) else None
    finally:
        os.close(held)


def reopen(fd: int, flags: int) -> int:
    """What is open as ``fd``, opened once more: with its own position, flags and locks. Not inherited.

    Raises OSError: EACCES where the file's mode does not allow ``flags``, ENOENT where /proc is not mounted.
    """
    return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC)


def fitting(fd: int, writable: bool) -> int:
    """The file that is open as ``fd``, opened for reading only or for writing too, as told; not inherited.

    Where /proc is not mounted it is a duplicate, which shares position and flags: OSError if ``fd`` does not fit.
    """
    wanted = os.O_RDWR if writable else os.O_RDONLY
    try:
        return reopen(fd, wanted)
    except FileNotFoundError:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != wanted:
            raise
        duplicate: int = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)
        return duplicate
