"""What /proc and /sys say, as plain values; None, or nothing, where they do not."""

from __future__ import annotations

import os
from typing import Literal

# Bytes. /proc gives no more at a time (seq_file), and where a limit of memory is reached there is little room.
_PIECE = 4096


def _contents(path: str) -> bytes:
    """At half the cost of a file object: attaching reads several."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return b"".join(iter(lambda: os.read(fd, _PIECE), b""))
    finally:
        os.close(fd)


def read_text(path: str) -> str:
    """The file without the space around it; "" where it cannot be read."""
    try:
        return _contents(path).decode(errors="surrogateescape").strip()
    except OSError:
        return ""


def read_number(path: str) -> int | None:
    try:
        return int(read_text(path))
    except ValueError:
        return None


def stat_field(pid: int | Literal["self"], number: int) -> int | None:
    """A field of /proc/<pid>/stat by its number in proc_pid_stat(5), from 3 on; None where the process is gone."""
    try:
        # The second field is a name in parentheses, which may hold spaces and parentheses.
        return int(_contents(f"/proc/{pid}/stat").rpartition(b")")[2].split()[number - 3])
    except (OSError, ValueError, IndexError):
        return None


def meminfo() -> dict[str, int]:
    """/proc/meminfo: sizes in bytes, pages of the huge page pool as a count."""
    found = {}
    for line in read_text("/proc/meminfo").splitlines():
        key, _, rest = line.partition(":")
        amount, _, unit = rest.strip().partition(" ")
        if amount.isdecimal():
            found[key] = int(amount) * (1024 if unit == "kB" else 1)
    return found


def status(pid: int | Literal["self"]) -> dict[str, str]:
    """The lines of /proc/<pid>/status; none where the process is gone."""
    lines = (line.partition(":") for line in read_text(f"/proc/{pid}/status").splitlines())
    return {key: rest.strip() for key, _, rest in lines}


def status_size(fields: dict[str, str], key: str) -> int | None:
    """A size of :func:`status` in bytes; a process without an address space has none."""
    amount, _, unit = fields.get(key, "").partition(" ")
    return int(amount) * 1024 if amount.isdecimal() and unit == "kB" else None


def soft_limits(pid: int | Literal["self"]) -> dict[str, int]:
    """The soft limits of a process that are set, by the names of /proc/<pid>/limits. Everybody may read it."""
    found = {}
    for line in read_text(f"/proc/{pid}/limits").splitlines()[1:]:
        # Names have spaces, values have none, and the columns have at least two between them.
        name, _, rest = line.partition("  ")
        soft = rest.split()[:1]
        if soft and soft[0].isdecimal():
            found[name] = int(soft[0])
    return found


def cgroup_memory(pid: int | Literal["self"] = "self") -> list[tuple[int, int | None]]:
    """Each memory limit of a process's cgroup (v2) and of those above it, and what is used of it, in bytes."""
    lines = read_text(f"/proc/{pid}/cgroup").splitlines()
    path = next((line[3:] for line in lines if line.startswith("0::")), "")
    parts = [part for part in path.split("/") if part and part != ".."]
    found = []
    for depth in range(len(parts), -1, -1):
        folder = "/".join(["/sys/fs/cgroup", *parts[:depth]])
        limit = read_number(f"{folder}/memory.max")  # "max" where there is none
        if limit is not None:
            found.append((limit, read_number(f"{folder}/memory.current")))
    return found


def tightest_cgroup(pid: int | Literal["self"] = "self") -> tuple[int | None, int | None]:
    """The tightest of these limits, and what is used of it."""
    return min(cgroup_memory(pid), key=lambda each: each[0], default=(None, None))
