"""What a heap holds, and who holds it, as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stead.proc import read_text

if TYPE_CHECKING:
    from stead.arena.statistics import SizeClass


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has the heap attached. ``alive``: False where it has ended and what it held was not given
    back yet (``collect``); ``blocks`` and ``bytes``: what it holds, some of it perhaps with others."""

    pid: int
    alive: bool
    blocks: int
    bytes: int


@dataclass(frozen=True, slots=True)
class HeapStatistics:
    """A heap at one moment. All but ``blocks`` and ``free_runs`` in bytes.

    ``size``: all addresses; ``committed``: those with memory behind them so far; ``used``: in live blocks, what
    their size was rounded up by included; ``largest_free_run``: the largest block that fits now, what is not
    committed yet included; ``high_water``: the most that was in blocks and spans at once; ``dirty``: free memory
    that may have been touched, which :meth:`stead.SharedHeap.trim` gives back. ``holders``: who holds what;
    ``kept_blocks`` and ``kept_bytes``: what the heap itself keeps, since it is on its way from one process to
    another.
    """

    size: int
    committed: int
    used: int
    blocks: int
    largest_free_run: int
    free_runs: int
    high_water: int
    dirty: int
    classes: tuple[SizeClass, ...]
    holders: tuple[Holder, ...]
    kept_blocks: int
    kept_bytes: int

    @property
    def free(self) -> int:
        """What is in no live block."""
        return self.size - self.used

    @property
    def fragmentation(self) -> float:
        """The share of the free bytes that the largest block could not have: 0 where all of it is one run."""
        return 1 - self.largest_free_run / self.free if self.free else 0.0


def alive(pid: int, started: int) -> bool:
    """Whether the process that began at ``started`` (clock ticks since boot) can still execute an
    instruction."""
    fields = read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if len(fields) < 20 or int(fields[19]) != started:
        return False
    # A leader that has ended while its threads run is a zombie, too.
    return fields[0] not in ("Z", "X") or int(fields[17]) > 1
