"""Where a range would go in a process, and what is in the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stead.devices.constraints import guilty, narrow
from stead.maps import Kind
from stead.placement import Footprint
from stead.ranges import Range, RangeSet
from stead.space.live import heap_room, stack_room
from stead.space.process import this_process

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stead.devices.constraints import DeviceConstraints
    from stead.maps import Mapping
    from stead.placement import Placement
    from stead.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Left:
    """What ``device``, and those before it, leave of what was asked: ``placement``, with ``places`` that fit; None
    where they reach no address of the window together."""

    device: DeviceConstraints
    placement: Placement | None
    places: int


@dataclass(frozen=True, slots=True)
class Finding:
    """Where what was ``asked`` would go in the process of ``taken``: ``where``, one of ``places``; or nowhere,
    and then ``largest`` is the largest gap. ``left``: what each of the devices that are to use it makes of that;
    ``guilty``: those that keep it from fitting, one alone or several together. ``obstacles``: the mappings in its
    window, largest first; ``rooms``: what must stay clear there, and for what."""

    taken: Snapshot
    asked: Placement
    left: Sequence[Left]
    guilty: Sequence[DeviceConstraints]
    where: Range | None
    places: int
    largest: Range | None
    obstacles: Sequence[Mapping]
    rooms: Sequence[tuple[Range, str]]

    @property
    def placement(self) -> Placement | None:
        """What was asked, as the devices let it be; None where they leave nothing."""
        return self.left[-1].placement if self.left else self.asked


def find_in(taken: Snapshot, wanted: Sequence[Placement], devices: Sequence[DeviceConstraints] = ()) -> Finding:
    """In the first window that has room, for all ``devices``; where none has, what is said of the last."""
    growth = rooms(taken.pid, ((each.kind, each.name, each.range) for each in taken.mappings))
    usable = this_process().usable
    outside = [(0, usable.start), (usable.stop, 1 << 64)]
    occupied = RangeSet([*outside, *(room for room, _ in growth)]) | taken.occupied
    seen = Footprint(occupied, taken.page_size)
    for asked in wanted:
        left = [Left(*step, places=_places(step.left, seen)) for step in narrow(asked, devices)]
        placement = left[-1].placement if left else asked
        where = placement.choose(seen) if placement else None
        if where or asked is wanted[-1]:
            window = placement.within if placement else Range(0, 0)
            inside = [each for each in taken.mappings if each.range.overlaps(window)]
            return Finding(
                taken,
                asked,
                left,
                guilty(asked, devices, seen),
                where,
                _places(placement, seen),
                occupied.largest_gap(window),
                sorted(inside, key=lambda each: -each.range.size),
                [(room, why) for room, why in growth if room.overlaps(window)],
            )
    raise AssertionError(wanted)


def _places(placement: Placement | None, seen: Footprint) -> int:
    return placement.slots(seen).total if placement else 0


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
