"""A space as far as devices reach: for agreements, where another's windows may be the ones that are searched."""

from __future__ import annotations

from functools import reduce
from operator import and_
from typing import TYPE_CHECKING, Any

from stead.devices.constraints import EVERYWHERE
from stead.errors import Obstacle
from stead.placement import Footprint
from stead.ranges import RangeSet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stead.devices.constraints import DeviceConstraints
    from stead.ranges import Range
    from stead.space.protocol import AddressSpace


class Reaching:
    """``space``, with what ``devices`` do not reach blocked. Everything else is the space's own."""

    def __init__(self, space: AddressSpace, devices: Sequence[DeviceConstraints]) -> None:
        self._space = space
        self._all = reduce(and_, devices)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._space, name)

    def _cut(self, seen: Footprint, within: Range) -> Footprint:
        window = self._all.window
        beyond = RangeSet([(0, window.start), (window.stop, EVERYWHERE.stop)])
        return Footprint(seen.occupied | RangeSet(beyond.overlapping(within)), seen.granularity)

    def outline(self, within: Range) -> Footprint:
        return self._cut(self._space.outline(within), within)

    def footprint(self, within: Range) -> Footprint:
        return self._cut(self._space.footprint(within), within)

    def obstacle(self, where: Range) -> Obstacle | None:
        if not self._all.window.contains(where):
            return Obstacle(where, f"what is out of reach: {self._all}", "this process")
        return self._space.obstacle(where)
