"""What a heap holds, and who holds it, as numbers."""

from __future__ import annotations

from dataclasses import dataclass

from stead.arena.statistics import ArenaStatistics
from stead.proc import read_text


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has the heap attached. ``alive``: False where it has ended and what it held was not given
    back yet (``collect``); ``blocks`` and ``bytes``: what it holds, some of it perhaps with others."""

    pid: int
    alive: bool
    blocks: int
    bytes: int


@dataclass(frozen=True, slots=True)
class HeapStatistics(ArenaStatistics):
    """A heap at one moment: what :class:`stead.ArenaStatistics` has, and who holds what.

    ``kept_blocks`` and ``kept_bytes``: what the heap itself keeps, since it is in a message, or on its way from
    one process to another.
    """

    holders: tuple[Holder, ...]
    kept_blocks: int
    kept_bytes: int


def alive(pid: int, started: int) -> bool:
    """Whether the process that began at ``started`` (clock ticks since boot) can still execute an
    instruction."""
    fields = read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if len(fields) < 20 or int(fields[19]) != started:
        return False
    # A leader that has ended while its threads run is a zombie, too.
    return fields[0] not in ("Z", "X") or int(fields[17]) > 1
