"""Processes, looked at once: the artefact that every face shows."""

from __future__ import annotations

import errno
import os
import platform
import time
from typing import TYPE_CHECKING, NamedTuple

from stead import budget
from stead.proc import meminfo, read_text, stat_field, status
from stead.ranges import Range
from stead.residency import Pages, read_pages
from stead.securing import available_memory
from stead.seeing import publishing
from stead.seeing.holdings import holdings
from stead.seeing.shape import SCHEMA, address
from stead.snapshot import mark_ours, read_mappings, title
from stead.space.process import this_process

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Literal

    from stead.maps import Mapping
    from stead.seeing.shape import Artefact, Holdings, Host, Limits, MappingSeen, ProcessSeen

    State = Literal["committed", "reserved", "guard"]

# Mappings above are the kernel's ([vsyscall]), and of no process's page tables.
_TOP = 1 << 63


def capture(*pids: int, pages: bool = True, rank: int | None = None) -> Artefact:
    """Look at processes ``pids``, by default at this one: plain data, as the JSON schema ``stead.snapshot/1``
    says (:func:`stead.seeing.schema`), good for :func:`json.dump`.

    ``pages``: also which pages are resident or swapped. ``rank``: of this process in an MPI job, for whoever
    merges what several captured (:func:`stead.seeing.merge`).

    What stead holds is told of this process, and of others that publish it (:func:`stead.publish`).

    Raises ProcessLookupError where there is no such process, or it has no address space (a kernel thread, a
    zombie) or ends meanwhile; PermissionError (ptrace(2), PTRACE_MODE_READ), UnreadableMaps, TypeError,
    ValueError.
    """
    for pid in pids:
        _check_pid(pid)
    if rank is not None and (not isinstance(rank, int) or isinstance(rank, bool) or rank < 0):
        raise ValueError(f"rank is {rank!r}, must be an int of 0 or more, or None")
    taken_at = time.time()
    seen = [_process(pid, pages, rank if pid == os.getpid() else None) for pid in pids or (os.getpid(),)]
    return {"schema": SCHEMA, "taken_at": taken_at, "hosts": [_host()], "processes": seen}


def _check_pid(pid: object) -> None:
    if not isinstance(pid, int) or isinstance(pid, bool):
        raise TypeError(f"pid is {pid!r}, must be an int")
    if pid <= 0:
        raise ValueError(f"pid is {pid}, must be positive")


def merge(*artefacts: Artefact) -> Artefact:
    """One artefact of several, from one host or many: all their processes, in the order given, taken when the
    first of them was. Raises ValueError where none is given."""
    if not artefacts:
        raise ValueError("artefacts is empty, must be at least one")
    hosts: list[Host] = []
    places: dict[tuple[str, str], int] = {}
    processes: list[ProcessSeen] = []
    for artefact in artefacts:
        for process in artefact["processes"]:
            host = artefact["hosts"][process["host"]]
            place = places.setdefault((host["name"], host["boot_id"]), len(hosts))
            if place == len(hosts):
                hosts.append(host)
            processes.append({**process, "host": place})
    return {
        "schema": SCHEMA,
        "taken_at": min(each["taken_at"] for each in artefacts),
        "hosts": hosts or artefacts[0]["hosts"],
        "processes": processes,
    }


# ---- the machine ----------------------------------------------------------------------------------


def _host() -> Host:
    usable = this_process().usable
    memory = meminfo()
    return {
        "name": platform.node(),
        "boot_id": read_text("/proc/sys/kernel/random/boot_id"),
        "kernel": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "page_size": os.sysconf("SC_PAGESIZE"),
        "address_bits": (usable.stop - 1).bit_length(),
        "lowest": address(usable.start),
        "overcommit": budget.overcommit(),
        "committed_memory": {"most": memory.get("CommitLimit"), "used": memory.get("Committed_AS")},
        "memory_available": available_memory(),
    }


# ---- a process ------------------------------------------------------------------------------------


def _process(pid: int, pages: bool, rank: int | None) -> ProcessSeen:
    started = stat_field(pid, 22)
    found = read_mappings(pid)
    name = title(pid)
    if not found:
        raise ProcessLookupError(
            errno.ESRCH,
            f"process {pid}{f' ({name})' if name else ''} has no address space: a kernel thread, or it has ended",
        )
    unread: list[str] = []
    published_at, held = _held(pid, unread)
    pieces = list(_pieces(found, held))
    pages_by, counted = _pages(pid, pieces, unread) if pages else (None, None)
    seen: ProcessSeen = {
        "host": 0,
        "pid": pid,
        "rank": rank,
        "title": name,
        "command": _command(pid),
        "user": _user(pid),
        "started_at": _started_at(started),
        "pages_by": pages_by,
        "published_at": published_at,
        "unread": unread,
        "limits": _limits(pid, len(found)),
        "mappings": [_mapping(piece, counted[number] if counted else None) for number, piece in enumerate(pieces)],
        **held,
    }
    if started is None or stat_field(pid, 22) != started:
        raise ProcessLookupError(errno.ESRCH, f"process {pid} ended while it was looked at")
    return seen


def _held(pid: int, unread: list[str]) -> tuple[float | None, Holdings]:
    if pid == os.getpid():
        return time.time(), holdings(publishing.first_seen())
    try:
        published = publishing.read(pid)
    except (OSError, ValueError) as error:
        unread.append(f"what stead holds: {error}")
        published = None
    return published or (None, {"reservations": [], "arenas": [], "heaps": []})


class _Piece(NamedTuple):
    mapping: Mapping
    state: State
    reservation: int | None


def _pieces(found: list[Mapping], held: Holdings) -> Iterator[_Piece]:
    """Mappings, cut at the edges of reservations and of their guards."""
    inside: list[tuple[Range, str, int, bool]] = []
    for number, each in enumerate(held["reservations"]):
        outer, start, stop, end = (
            int(text, 16) for text in (each["outer_start"], each["start"], each["stop"], each["outer_stop"])
        )
        for where, guard in ((Range(outer, start), True), (Range(start, stop), False), (Range(stop, end), True)):
            if where.start < where.stop:
                inside.append((where, each["name"] or "", number, guard))
    at = 0
    for mapping in mark_ours(found, [(where, name) for where, name, _, _ in inside]):
        while at < len(inside) and inside[at][0].stop <= mapping.range.start:
            at += 1
        state: State = "reserved" if mapping.reserved else "committed"
        if at < len(inside) and inside[at][0].contains(mapping.range):
            _, _, number, guard = inside[at]
            yield _Piece(mapping, "guard" if guard and mapping.reserved else state, number)
        else:
            yield _Piece(mapping, state, None)


def _pages(
    pid: int, pieces: Sequence[_Piece], unread: list[str]
) -> tuple[Literal["scan", "pagemap", "smaps"] | None, list[Pages] | None]:
    where = [piece.mapping.range for piece in pieces if piece.mapping.range.start < _TOP]
    try:
        way, counted = read_pages(where, pid)
    except OSError as error:
        unread.append(f"which pages are resident: {error.strerror}")
        return None, None
    return way, counted + [Pages() for _ in range(len(pieces) - len(where))]


def mapping_seen(mapping: Mapping) -> MappingSeen:
    """A mapping as the artefact has it, of whose pages nothing is known."""
    return _mapping(_Piece(mapping, "reserved" if mapping.reserved else "committed", None), None)


def _mapping(piece: _Piece, pages: Pages | None) -> MappingSeen:
    each = piece.mapping
    return {
        "start": address(each.range.start),
        "stop": address(each.range.stop),
        "access": each.permissions,
        "kind": each.kind.value,
        "state": piece.state,
        "name": each.name,
        "deleted": each.deleted,
        "offset": address(each.offset),
        "device": f"{each.device[0]}:{each.device[1]}",
        "inode": each.inode,
        "reservation": piece.reservation,
        "resident": pages.resident if pages else None,
        "swapped": pages.swapped if pages else None,
        "pages": pages.runs if pages else None,
    }


def _limits(pid: int, mappings: int) -> Limits:
    found = budget.limits(pid, mappings)
    return {
        "address_space": {"most": found.address_space.most, "used": found.address_space.used},
        "data": {"most": found.data.most, "used": found.data.used},
        "mappings": {"most": found.mappings.most, "used": found.mappings.used},
        "memory": {"most": found.memory.most, "used": found.memory.used},
    }


def _command(pid: int) -> list[str]:
    text = read_text(f"/proc/{pid}/cmdline")
    return text.rstrip("\0").split("\0") if text else []


def _user(pid: int) -> int | None:
    number = status(pid).get("Uid", "").split()[:1]
    return int(number[0]) if number else None


def _started_at(ticks: int | None) -> float | None:
    """Seconds since 1970 of clock ticks since boot."""
    boot = next(
        (line.split()[1] for line in read_text("/proc/stat").splitlines() if line.startswith("btime ")), None
    )
    if ticks is None or boot is None:
        return None
    return int(boot) + ticks / os.sysconf("SC_CLK_TCK")
