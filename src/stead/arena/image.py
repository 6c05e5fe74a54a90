"""An arena's tables as memory: to be saved, and to be taken over by another arena over the same addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stead import _native
from stead.errors import Corrupted
from stead.ranges import Range

if TYPE_CHECKING:
    from stead.arena.arena import Arena


def tables(arena: Arena, units: int) -> list[Range]:
    """Where its tables are, as far as ``units`` units need them, in order; the header, which is none, left out."""
    reservation, offsets, _, _ = arena._tables
    found = [
        Range.sized(reservation.address + offset, size)
        for offset, size in zip(offsets, arena._table_sizes(units), strict=False)
    ]
    found[0] = Range(found[0].start + len(arena._header()), found[0].stop)
    return found


def quiet(arena: Arena) -> tuple[int, bytes]:
    """Nothing is kept in hand any more, so that the tables say all: its units, and its header. No other thread may
    use the arena until they have been read."""
    arena.trim()
    return arena._units, arena._header()


def prepare(arena: Arena, units: int) -> list[Range]:
    """Memory for so many units in an arena that has none yet, and for their tables, which are to be filled with
    what :func:`tables` showed. Raises LimitReached, ValueError."""
    if not 0 <= units <= arena._max_units or arena._units:
        raise ValueError(f"units is {units}, must be at most {arena._max_units}, of an arena that has none yet")
    arena._commit_tables(units)
    if units:
        arena._live_source().commit(0, units * _native.ARENA_UNIT)
    return tables(arena, units)


def adopt(arena: Arena, header: bytes) -> None:
    """The tables have been filled: go on where the other arena was. Raises Corrupted where they are no arena's
    over these addresses; it is of no further use then."""
    if arena._adopt(header) != _native.ARENA_DONE:
        at = arena.range.start
        raise Corrupted(f"the saved tables are of other addresses than {arena!r}", address=at)
    arena.check()
