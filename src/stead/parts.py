"""What is committed in a reservation: an ordered table of parts that never overlap. Pure bookkeeping."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING

from stead.ranges import Range

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stead.backing import Backing, Source
    from stead.space.protocol import Access


@dataclass(frozen=True, slots=True)
class Part:
    """A committed part of a reservation.

    ``range``: whole pages. ``length``: the bytes that were asked for, at most the range's size.
    ``source``: how its backing is mapped, from which offset on. ``access``: "r", "rw" and so on.
    """

    range: Range
    length: int
    backing: Backing
    source: Source
    access: Access

    def piece(self, where: Range) -> Part:
        """The part of this one inside ``where``."""
        if where.contains(self.range):
            return self
        inside = self.range.intersection(where)
        assert inside is not None
        skipped = inside.start - self.range.start
        source = self.source
        if source.fd >= 0 and skipped:
            source = replace(source, offset=source.offset + skipped)
        return replace(self, range=inside, length=min(self.length - skipped, inside.size), source=source)


_start = attrgetter("range.start")
_stop = attrgetter("range.stop")


class PartTable:
    """Parts by address."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[Part] = []

    def __iter__(self) -> Iterator[Part]:
        return iter(tuple(self._parts))

    def overlapping(self, where: Range) -> list[Part]:
        """Parts that overlap ``where``, whole."""
        return self._parts[self._slice(where)]

    def first(self, where: Range, most: int) -> list[Part]:
        """The lowest parts that overlap ``where``, whole, at most so many."""
        at = self._slice(where)
        return self._parts[at.start : min(at.stop, at.start + most)]

    def inside(self, where: Range) -> list[Part]:
        """The pieces of parts that lie in ``where``."""
        return [each.piece(where) for each in self.overlapping(where)]

    def holes(self, where: Range) -> Iterator[Range]:
        """What of ``where`` is not committed."""
        start = where.start
        for each in self.overlapping(where):
            if start < each.range.start:
                yield Range(start, each.range.start)
            start = each.range.stop
        if start < where.stop:
            yield Range(start, where.stop)

    def put(self, part: Part) -> None:
        """Add a part, in the place of whatever pieces of parts are there."""
        at = self._slice(part.range)
        self._parts[at] = [*self._edges(part.range, at), part]
        self._parts[at.start : at.start + 3] = sorted(self._parts[at.start : at.start + 3], key=_start)

    def cut(self, where: Range) -> None:
        """Take out whatever lies in ``where``."""
        at = self._slice(where)
        self._parts[at] = self._edges(where, at)

    def _edges(self, where: Range, at: slice) -> list[Part]:
        """What is left of the parts in slice ``at`` outside ``where``."""
        left = []
        for each in self._parts[at]:
            if each.range.start < where.start:
                left.append(each.piece(Range(each.range.start, where.start)))
            if where.stop < each.range.stop:
                left.append(each.piece(Range(where.stop, each.range.stop)))
        return left

    def _slice(self, where: Range) -> slice:
        return slice(
            bisect_right(self._parts, where.start, key=_stop),
            bisect_left(self._parts, where.stop, key=_start),
        )
