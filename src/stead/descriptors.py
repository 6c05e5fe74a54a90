"""How a file descriptor reaches another process of the same user: the rungs of a ladder, the cheapest first.

1. Inherited: while multiprocessing starts a process (spawn or forkserver), through what it passes on.
2. Opened as /proc/<pid>/fd/<n>, while the sender lives. Works where `pidfd_getfd` is refused, needs no
   thread, no socket and no clean-up.
3. From the sender's door (SCM_RIGHTS over an abstract socket), where it has one: where its /proc may not be
   looked into, or on request (:func:`open_door`).
4. A file with a path is opened by that path, if the same file is still there.
5. From any other process of this user that has the same file open: the sender may be gone.

What is opened is compared with what was sent, by device, inode and generation, so that a recycled pid, a reused
number or another file at the path is found out. None of these numbers means anything after another boot, so what
was sent before it is refused on every rung.
"""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass
from typing import Any

from stead import _native
from stead.calling import ask
from stead.door import Door, close_door, open_door, this_door
from stead.errors import PeerFailed, Unsupported
from stead.openfiles import Identity, Looked, fitting, link_of, open_if, opened_as
from stead.proc import read_text, stat_field

__all__ = ["Descriptor", "boot_id", "close_door", "describe", "open_descriptor", "open_door", "start_time"]

_DELETED = " (deleted)"  # proc_pid_fd(5)


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
    generation: int | None = None
    link: str = ""  # what /proc calls the file
    door: str = ""  # the name of the sender's door, if it is open


def describe(fd: int) -> Descriptor:
    """``fd`` of this process, for the pickle that carries it. It must stay open until that has arrived, or another
    process must have the same file open.

    Where others may not look into this process (it is not dumpable, or /proc is not mounted) this opens its door,
    and so starts a thread. Raises OSError where ``fd`` is not open.
    """
    which = Identity.of(fd)
    pid = os.getpid()
    door = _door_for_others()
    if door is not None:
        door.register(fd, which)
    return Descriptor(
        pid,
        start_time(pid) or 0,
        boot_id(),
        fd,
        which.device,
        which.inode,
        _inheritable(fd),
        which.generation,
        link_of(fd),
        "" if door is None else door.name,
    )


def _door_for_others() -> Door | None:
    if this_door() is not None or (_native.dumpable() and os.path.isdir("/proc/self/fd")):
        return this_door()
    try:
        return open_door()
    except Unsupported:
        return None  # perhaps the receiver is privileged, or inherits it: it says why not if not


def _inheritable(fd: int) -> Any:
    context = sys.modules.get("multiprocessing.context")
    if context is None or context.get_spawning_popen() is None:
        return None
    from multiprocessing.reduction import DupFd

    return DupFd(fd)


def open_descriptor(sent: Descriptor, writable: bool, *, search: bool = True) -> int:
    """A descriptor of this process for the file that was sent; the caller owns it.

    It has a position, flags and locks of its own, except where it came through a door and /proc is not mounted.
    ``search=False`` leaves out the last rung, which looks at every descriptor of this user's processes.

    Raises PeerFailed that says why not, rung by rung.
    """
    flags = os.O_RDWR if writable else os.O_RDONLY
    which = Identity(sent.device, sent.inode, sent.generation)
    sender = f"process {sent.pid}, which sent it"
    if sent.inherited is not None:
        passed = sent.inherited.detach()
        try:
            # Compared all the same: it may have been closed, and its number reused, before it was passed on.
            if Identity.of(passed) == which:
                return fitting(passed, writable)
        finally:
            os.close(passed)
        raise PeerFailed("what multiprocessing passed on", "is another file: it was released before")
    here = boot_id()
    if sent.boot != here:
        raise PeerFailed(sender, "ran before this machine was booted, or on another")
    refusals: list[str] = []
    if here:  # without /proc only a door can say that it is on this machine
        found = _from_sender(sent, which, flags, refusals)
        if found is not None:
            return found
    if sent.door:
        try:
            return ask(sent.door, which, writable)
        except PeerFailed as refused:
            refusals.append(str(refused))
    else:
        refusals.append("it had no door open")
    if here:
        found = _from_path(sent, which, flags, refusals)
        if found is None and search:
            found = _from_anyone(sent, which, flags, refusals)
        if found is not None:
            return found
    raise PeerFailed(sender, "; ".join(refusals))


def _from_sender(sent: Descriptor, which: Identity, flags: int, refusals: list[str]) -> int | None:
    if start_time(sent.pid) != sent.started:
        refusals.append("has ended, and its shared memory can be had from it no more")
        return None
    try:
        found = _open(f"/proc/{sent.pid}/fd/{sent.fd}", flags, which)
    except FileNotFoundError:
        found = None
    except OSError as error:
        refusals.append(f"may not be asked for it: {error}")
        return None
    if found is None:
        refusals.append("released it before it arrived here")
    return found


def _from_path(sent: Descriptor, which: Identity, flags: int, refusals: list[str]) -> int | None:
    if not sent.link.startswith("/") or sent.link.endswith(_DELETED):
        refusals.append("it is no file with a path")
        return None
    try:
        found = _open(sent.link, flags, which)
    except OSError as error:
        refusals.append(f"its path cannot be opened: {error}")
        return None
    if found is None:
        refusals.append(f"another file is at its path, {sent.link!r}")
    return found


def _from_anyone(sent: Descriptor, which: Identity, flags: int, refusals: list[str]) -> int | None:
    looked = Looked()
    if sent.link:
        for path in opened_as((sent.link, sent.link + _DELETED), looked):
            try:
                found = _open(path, flags, which)
            except OSError:
                continue  # closed meanwhile, or open there for less than is asked here
            if found is not None:
                return found
    refusals.append(f"no other process of this user has it open ({looked})")
    return None


def _open(path: str, flags: int, which: Identity) -> int | None:
    """What is at ``path``, if it is the file ``which``, else None; OSError where nothing is."""
    opened = open_if(
        path, flags, lambda at: stat.S_ISREG(at.st_mode) and (at.st_dev, at.st_ino) == (which.device, which.inode)
    )
    if opened is not None and Identity.of(opened) != which:  # the generation cannot be asked for before
        os.close(opened)
        return None
    return opened


def boot_id() -> str:
    return read_text("/proc/sys/kernel/random/boot_id")


def start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None if it is gone."""
    return stat_field(pid, 22)
