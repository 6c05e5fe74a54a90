"""Where a range would go in a process, and what is in the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stead.maps import Kind
from stead.placement import Footprint
from stead.ranges import Range, RangeSet
from stead.space.live import heap_room, stack_room
from stead.space.process import this_process

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stead.maps import Mapping
    from stead.placement import Placement
    from stead.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Finding:
    """Where ``placement`` would go in the process of ``taken``: ``where``, one of ``places``; or nowhere,
    and then ``largest`` is the largest gap. ``obstacles``: the mappings in its window, largest first;
    ``rooms``: what must stay clear there, and for what."""

    taken: Snapshot
    placement: Placement
    where: Range | None
    places: int
    largest: Range | None
    obstacles: Sequence[Mapping]
    rooms: Sequence[tuple[Range, str]]


def find_in(taken: Snapshot, wanted: Sequence[Placement]) -> Finding:
    """In the first window that has room; where none has, what is said of the last."""
    growth = rooms(taken)
    seen = footprint([taken], growth)
    for placement in wanted:
        window = placement.within
        where = placement.choose(seen)
        if where or placement is wanted[-1]:
            inside = [each for each in taken.mappings if each.range.overlaps(window)]
            return Finding(
                taken,
                placement,
                where,
                placement.slots(seen).total,
                seen.occupied.largest_gap(window),
                sorted(inside, key=lambda each: -each.range.size),
                [(room, why) for room, why in growth if room.overlaps(window)],
            )
    raise AssertionError(wanted)


def footprint(taken: Sequence[Snapshot], growth: Iterable[tuple[Range, str]]) -> Footprint:
    """What is occupied in any of these processes, or cannot be mapped, or must stay clear."""
    usable = this_process().usable
    occupied = RangeSet([(0, usable.start), (usable.stop, 1 << 64), *(room for room, _ in growth)])
    for each in taken:
        occupied |= each.occupied
    return Footprint(occupied, taken[0].page_size)


def rooms(taken: Snapshot) -> list[tuple[Range, str]]:
    """Where the process's heap and stack will grow, and nothing may be put: as space.live keeps its own clear."""
    found = []
    for each in taken.mappings:
        if each.kind is Kind.HEAP:
            found.append((heap_room(each.range.stop), "for the heap to grow"))
        elif each.name == "[stack]":
            found.append((stack_room(each.range.stop, taken.pid), "for the stack to grow"))
    return found
