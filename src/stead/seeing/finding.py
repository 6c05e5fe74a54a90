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
    growth = rooms(taken.pid, ((each.kind, each.name, each.range) for each in taken.mappings))
    usable = this_process().usable
    outside = [(0, usable.start), (usable.stop, 1 << 64)]
    occupied = RangeSet([*outside, *(room for room, _ in growth)]) | taken.occupied
    seen = Footprint(occupied, taken.page_size)
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
                occupied.largest_gap(window),
                sorted(inside, key=lambda each: -each.range.size),
                [(room, why) for room, why in growth if room.overlaps(window)],
            )
    raise AssertionError(wanted)


def rooms(pid: int, mappings: Iterable[tuple[str, str, Range]]) -> list[tuple[Range, str]]:
    """Where the heap and the stack of process ``pid`` will grow, and nothing may be put: as space.live keeps its
    own clear. ``mappings``: kinds, names, ranges."""
    found = []
    for kind, name, where in mappings:
        if kind == Kind.HEAP:
            found.append((heap_room(where.stop), "for the heap to grow"))
        elif name == "[stack]":
            found.append((stack_room(where.stop, pid), "for the stack to grow"))
    return found
