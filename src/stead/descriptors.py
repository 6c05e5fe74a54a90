"""How a file descriptor reaches another process of the same user: two rungs of a ladder.

1. Inherited: while multiprocessing starts a process (spawn or forkserver), through what it passes on.
2. Opened as /proc/<pid>/fd/<n>, while the sender lives. Works where `pidfd_getfd` is refused, needs no
   thread, no socket and no clean-up. What is opened is compared with what was sent, so that a recycled
   pid or a reused number is found out.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

from stead.errors import PeerFailed
from stead.proc import read_text, stat_field


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A descriptor on its way: who sends it, its number there, which file it is."""

    pid: int
    started: int
    boot: str
    fd: int
    device: int
    inode: int
    inherited: Any  # multiprocessing.reduction.DupFd, on the first rung


def describe(fd: int) -> Descriptor:
    """``fd`` of this process, for the pickle that carries it."""
    found = os.fstat(fd)
    pid = os.getpid()
    return Descriptor(pid, start_time(pid) or 0, boot_id(), fd, found.st_dev, found.st_ino, _inheritable(fd))


def _inheritable(fd: int) -> Any:
    context = sys.modules.get("multiprocessing.context")
    if context is None or context.get_spawning_popen() is None:
        return None
    from multiprocessing.reduction import DupFd

    return DupFd(fd)


def open_descriptor(sent: Descriptor, writable: bool) -> int:
    """A descriptor of this process for the file that was sent; the caller owns it.

    Raises PeerFailed when the sender is gone, has closed it, or may not be asked.
    """
    flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC
    sender = f"process {sent.pid}, which sent it"
    if sent.inherited is not None:
        passed = sent.inherited.detach()
        try:
            return _open(f"/proc/self/fd/{passed}", flags, sent, "what multiprocessing passed on")
        finally:
            os.close(passed)
    if sent.boot != boot_id():
        raise PeerFailed(sender, "ran before this machine was booted, or on another")
    if start_time(sent.pid) != sent.started:
        raise PeerFailed(sender, "has ended, and its shared memory can be had from it no more")
    try:
        return _open(f"/proc/{sent.pid}/fd/{sent.fd}", flags, sent, sender)
    except FileNotFoundError:
        raise PeerFailed(sender, "released it before it arrived here") from None
    except PermissionError as error:
        raise PeerFailed(sender, f"may not be asked for it: {error}") from None


def _open(path: str, flags: int, sent: Descriptor, sender: str) -> int:
    # Looked at before it is opened: under a number that was reused may be a pipe, whose opening waits for
    # someone to write, or a device, whose opening does something.
    _check(os.stat(path), sent, sender)
    opened = os.open(path, flags)
    try:
        _check(os.fstat(opened), sent, sender)
    except PeerFailed:
        os.close(opened)
        raise
    return opened


def _check(found: os.stat_result, sent: Descriptor, sender: str) -> None:
    if (found.st_dev, found.st_ino) != (sent.device, sent.inode):
        raise PeerFailed(sender, "released it before it arrived here")


def boot_id() -> str:
    return read_text("/proc/sys/kernel/random/boot_id")


def start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None if it is gone."""
    return stat_field(pid, 22)
