"""What an arena holds, as numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SizeClass:
    """Blocks of up to ``size`` bytes, which share spans. ``blocks``: live; ``capacity``: that fit in the spans
    there are; ``bytes``: in live blocks. ``size`` 0: the large blocks, each of which is a run of pages."""

    size: int
    blocks: int
    capacity: int
    spans: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ArenaStatistics:
    """An arena at one moment. All but ``blocks`` and ``free_runs`` in bytes.

    ``size``: all addresses; ``committed``: those with memory behind them so far; ``used``: in live blocks, what
    their size was rounded up by included; ``largest_free_run``: the largest block that fits now, what is not
    committed yet included; ``high_water``: the most that was in blocks and spans at once; ``dirty``: free memory
    that may have been touched, which :meth:`stead.Arena.trim` gives back.
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

    @property
    def free(self) -> int:
        """What is in no live block."""
        return self.size - self.used

    @property
    def fragmentation(self) -> float:
        """The share of the free bytes that the largest block could not have: 0 where all of it is one run."""
        return 1 - self.largest_free_run / self.free if self.free else 0.0
