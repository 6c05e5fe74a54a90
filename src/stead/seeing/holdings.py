"""What stead holds in this process: reservations, arenas, heaps, as the artefact has them."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from stead import ledger
from stead.arena import registry as arenas
from stead.errors import AddressSpaceError
from stead.heap import registry as heaps
from stead.heap.statistics import alive
from stead.ranges import Range
from stead.reservation import Reservation
from stead.seeing.shape import address

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from stead.arena import Arena, ArenaStatistics
    from stead.heap import SharedHeap
    from stead.seeing.shape import (
        ArenaSeen,
        ChannelSeen,
        Fill,
        HeapSeen,
        HolderSeen,
        Holdings,
        PartSeen,
        ReservationSeen,
    )

# Objects that a heap has room for (native/objects.h).
_OBJECTS = 4096


def holdings(since: Mapping[int, float] | None = None, *, thorough: bool = True) -> Holdings:
    """Reservations, arenas and heaps of this process, each in order of address.

    ``since``: when the reservation of that serial number was first seen. ``thorough``: also who holds how many
    blocks of a heap, which takes as long as it has blocks."""
    times = since or {}
    found = [each for each in ledger.within(Range(0, 1 << 64)) if isinstance(each, Reservation)]
    return {
        "reservations": sorted(
            (_reservation(each, times.get(each._serial)) for each in found),
            key=lambda each: int(each["start"], 16),
        ),
        "arenas": sorted(_arenas(), key=lambda each: (int(each["start"], 16), -int(each["stop"], 16))),
        "heaps": sorted(_heaps(thorough), key=lambda each: int(each["start"], 16)),
    }


def _reservation(held: Reservation, since: float | None) -> ReservationSeen:
    parts: list[PartSeen] = [
        {
            "start": address(part.range.start),
            "stop": address(part.range.stop),
            "access": part.access,
            "backing": repr(part.backing),
        }
        for part in held.parts
    ]
    return {
        "start": address(held.range.start),
        "stop": address(held.range.stop),
        "outer_start": address(held.outer.start),
        "outer_stop": address(held.outer.stop),
        "name": held.name,
        "generation": held.generation,
        "since": since,
        "parts": parts,
    }


def _arenas() -> Iterator[ArenaSeen]:
    for arena in arenas.everything():
        with suppress(AddressSpaceError):  # closed meanwhile
            yield _arena(arena)


def _arena(arena: Arena) -> ArenaSeen:
    where = arena.range
    return {
        "start": address(where.start),
        "stop": address(where.stop),
        "name": arena.name,
        "quota": arena.quota,
        "fill": _fill(arena.statistics()),
    }


def _fill(statistics: ArenaStatistics) -> Fill:
    return {
        "committed": statistics.committed,
        "used": statistics.used,
        "blocks": statistics.blocks,
        "high_water": statistics.high_water,
        "dirty": statistics.dirty,
        "largest_free_run": statistics.largest_free_run,
    }


def _heaps(thorough: bool) -> Iterator[HeapSeen]:
    for heap in heaps.everything():
        with suppress(AddressSpaceError):  # closed meanwhile
            yield _heap(heap, thorough)


def _heap(heap: SharedHeap, thorough: bool) -> HeapSeen:
    memory = heap._live()
    holders: list[HolderSeen]
    if thorough:
        statistics = heap.statistics()
        fill = _fill(statistics)
        holders = [
            {"pid": each.pid, "alive": each.alive, "blocks": each.blocks, "bytes": each.bytes}
            for each in statistics.holders
        ]
    else:
        _, committed, used, blocks, largest, _, high_water, dirty, _ = heap._statistics()
        fill = {
            "committed": committed, "used": used, "blocks": blocks, "high_water": high_water, "dirty": dirty,
            "largest_free_run": largest,
        }  # fmt: skip
        holders = [
            {"pid": pid, "alive": alive(pid, started), "blocks": None, "bytes": None}
            for _, pid, started in heap._people()
        ]
    return {
        "start": address(memory.where.start),
        "stop": address(memory.where.stop),
        "name": heap.name,
        "identity": memory.identity.hex(),
        "read_only": heap.read_only,
        "fill": fill,
        "holders": holders,
        "channels": list(_channels(heap)),
    }


def _channels(heap: SharedHeap) -> Iterator[ChannelSeen]:
    for number in range(_OBJECTS):
        state = heap._channel_state(number)
        if not isinstance(state, int):
            messages, capacity, _, closed = state
            yield {"number": number, "messages": messages, "capacity": capacity, "closed": closed}
