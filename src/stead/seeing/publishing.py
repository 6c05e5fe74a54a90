"""What a process says of what stead holds in it, for others of the same user to look at; only if asked to.

It is written into a memfd, which others open through /proc/<pid>/fd: nothing is left behind when the process ends,
however it ends, and whoever may not look into the process (ptrace(2), PTRACE_MODE_READ) may not read it. A thread
writes it anew every second; a reader never waits for the process, which may be stopped, or busy.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import zlib
from struct import Struct
from typing import TYPE_CHECKING

from stead import ledger
from stead.proc import stat_field
from stead.ranges import Range
from stead.reservation import Reservation
from stead.seeing.holdings import holdings
from stead.seeing.schema import NoSnapshot, check_holdings

if TYPE_CHECKING:
    from stead.seeing.shape import Holdings

NAME = "stead:published"

_INTERVAL = 1.0
# Writing takes at most this share of the time: with a million blocks it takes long.
_SHARE = 0.02

# magic, length, CRC-32 of the text, when the process began (proc_pid_stat(5), 22; a pid differs from one
# namespace to another); then the text. A reader that meets a writer sees a wrong sum.
_HEADER = Struct("<8sQIxxxxQ")
_MAGIC = b"steadp1\0"
_ATTEMPTS = 50
# No process holds that much; a file that says so is not ours.
_MOST = 1 << 26


class _Publisher:
    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.since: dict[int, float] = {}
        self._began = stat_field("self", 22) or 0
        self._stop = threading.Event()
        self._fd = os.memfd_create(NAME, os.MFD_CLOEXEC)
        self._file = _identity(self._fd)
        self._thread = threading.Thread(target=self._run, name="stead-publish", daemon=True)

    def start(self) -> None:
        try:
            self.write()
            self._thread.start()
        except BaseException:
            self.leave()
            raise

    def _run(self) -> None:
        pause = self.interval
        while not self._stop.wait(pause) and _identity(self._fd) == self._file:
            began = time.perf_counter()
            # At a limit (of mappings, of memory) the last words stand, and the next second may be better.
            with contextlib.suppress(MemoryError, OSError):
                self.write()
            pause = max(self.interval, (time.perf_counter() - began) / _SHARE)

    def write(self) -> None:
        now = time.time()
        live = [each._serial for each in ledger.within(Range(0, 1 << 64)) if isinstance(each, Reservation)]
        self.since = {serial: self.since.get(serial, now) for serial in live}
        text = json.dumps({"at": now, **holdings(self.since, thorough=False)}).encode()
        os.pwrite(self._fd, _HEADER.pack(_MAGIC, len(text), zlib.crc32(text), self._began) + text, 0)

    def end(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self.leave()

    def leave(self) -> None:
        """Alone in a forked child, which has no such thread."""
        if _identity(self._fd) == self._file:
            os.close(self._fd)


def _identity(fd: int) -> tuple[int, int] | None:
    """Which file it is: a program that closes all descriptors, as daemons do, may have another one there."""
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


_lock = threading.Lock()
_publisher: _Publisher | None = None


def publish(on: bool = True, *, interval: float = _INTERVAL) -> None:
    """Let other processes of this user see what stead holds in this one: reservations, arenas, heaps with their
    fill, every ``interval`` seconds (a thread; at most a fiftieth of a processor). ``on=False`` ends it.

    The environment variable STEAD_PUBLISH=1 does the same from the start. A forked child goes on by itself.
    Raises ValueError, and OSError where the system gives no descriptor.
    """
    global _publisher
    if not isinstance(interval, int | float) or not 0.01 <= interval <= 3600:
        raise ValueError(f"interval is {interval!r}, must be from 0.01 to 3600 seconds")
    with _lock:
        if _publisher is not None:
            if on and _publisher.interval == interval:
                return
            _publisher.end()
            _publisher = None
        if on:
            made = _Publisher(interval)
            made.start()
            _publisher = made


def first_seen() -> dict[int, float]:
    """When this process's reservations were first seen by who publishes them, by their serial numbers."""
    publisher = _publisher
    return publisher.since if publisher else {}


def _renew() -> None:
    """In a forked child."""
    global _publisher, _lock
    _lock = threading.Lock()
    before, _publisher = _publisher, None
    if before is None:
        return
    before.leave()
    with contextlib.suppress(OSError):
        made = _Publisher(before.interval)
        made.since = before.since
        made.start()
        _publisher = made


os.register_at_fork(after_in_child=_renew)


def begin_if_wanted() -> None:
    """At import: where the environment asks for it."""
    if os.environ.get("STEAD_PUBLISH", "") not in ("", "0"):
        with contextlib.suppress(OSError):
            publish()


# ---- looking --------------------------------------------------------------------------------------


def read(pid: int) -> tuple[float, Holdings] | None:
    """What process ``pid`` published last, and when (seconds since 1970); None where it does not publish.

    Raises NoSnapshot (a ValueError) where it published something else, PermissionError."""
    folder = f"/proc/{pid}/fd"
    try:
        numbers = os.listdir(folder)
    except (FileNotFoundError, ProcessLookupError):
        return None
    for number in numbers:
        try:
            if os.readlink(f"{folder}/{number}") != f"/memfd:{NAME} (deleted)":
                continue
            fd = os.open(f"{folder}/{number}", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            continue
        try:
            text = _read_text(fd, stat_field(pid, 22))
        finally:
            os.close(fd)
        if text is not None:
            return _parse(text)
    return None


def _read_text(fd: int, began: int | None) -> bytes | None:
    """None where it is the parent's, inherited through a fork, or changes all the time."""
    for _ in range(_ATTEMPTS):
        header = os.pread(fd, _HEADER.size, 0)
        if len(header) < _HEADER.size:
            return None
        magic, length, total, writer = _HEADER.unpack(header)
        if magic != _MAGIC or writer != began or length > _MOST:
            return None
        text = os.pread(fd, length, _HEADER.size)
        if zlib.crc32(text) == total:
            return text
    return None


def _parse(text: bytes) -> tuple[float, Holdings]:
    try:
        data = json.loads(text)
    except RecursionError:
        raise NoSnapshot("", "is nested too deeply") from None
    held = check_holdings(data)
    at = data.get("at")
    if not isinstance(at, int | float):
        raise NoSnapshot("at", f"is {at!r}, must be a number of seconds")
    return float(at), {"reservations": held["reservations"], "arenas": held["arenas"], "heaps": held["heaps"]}
