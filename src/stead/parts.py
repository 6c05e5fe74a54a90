"""What is committed in a reservation: an ordered table of parts that never overlap. Pure bookkeeping."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from stead.ranges import Range, gaps_between

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stead.backing import Backing, Source
    from stead.space.protocol import Access


class Part(NamedTuple):
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
        start, stop = self.range
        if where.start <= start and stop <= where.stop:
            return self
        inside = self.range.intersection(where)
        assert inside is not None
        skipped = inside.start - start
        source = self.source
        if source.fd >= 0 and skipped:
            source = replace(source, offset=source.offset + skipped)
        return self._replace(range=inside, length=min(self.length - skipped, inside.size), source=source)


class PartTable:
    """Parts by address."""

    __slots__ = ("_parts", "_starts")

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._starts: list[int] = []  # of the same parts: a search by plain numbers is three times as fast

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
        return gaps_between((each.range for each in self.overlapping(where)), where)

    def straddling(self, where: Range) -> list[tuple[Part, int]]:
        """Parts that an edge of ``where`` cuts in two, and the edge."""
        at = self._slice(where)
        found = []
        if at.start < at.stop:
            first, last = self._parts[at.start], self._parts[at.stop - 1]
            if first.range.start < where.start:
                found.append((first, where.start))
            if where.stop < last.range.stop:
                found.append((last, where.stop))
        return found

    def add(self, part: Part) -> Part | None:
        """Add a part where there is none; otherwise the first one that is there, and nothing has changed."""
        at = self._slice(part.range)
        for there in self._parts[at]:
            return there
        self._starts.insert(at.start, part.range.start)
        try:
            self._parts.insert(at.start, part)
        except MemoryError:
            del self._starts[at.start]
            raise
        return None

    def put(self, part: Part) -> None:
        """Add a part, in the place of whatever pieces of parts are there."""
        at = self._slice(part.range)
        below, above = self._edges(part.range, at)
        self._replace(at, [*below, part, *above])

    def cut(self, where: Range) -> list[Part]:
        """Take out whatever lies in ``where``: the pieces of parts that were there."""
        at = self._slice(where)
        found = self._parts[at]
        taken = [each.piece(where) for each in found]
        if taken == found:
            del self._parts[at], self._starts[at]
        else:
            below, above = self._edges(where, at)
            self._replace(at, [*below, *above])
        return taken

    def _replace(self, at: slice, parts: list[Part]) -> None:
        before = self._starts[at]
        self._starts[at] = [each.range.start for each in parts]
        try:
            self._parts[at] = parts
        except MemoryError:
            self._starts[at.start : at.start + len(parts)] = before
            raise

    def _edges(self, where: Range, at: slice) -> tuple[list[Part], list[Part]]:
        """What is left of the parts in slice ``at`` below and above ``where``."""
        below, above = [], []
        if at.start < at.stop:
            first, last = self._parts[at.start], self._parts[at.stop - 1]
            if first.range.start < where.start:
                below.append(first.piece(Range(first.range.start, where.start)))
            if where.stop < last.range.stop:
                above.append(last.piece(Range(where.stop, last.range.stop)))
        return below, above

    def _slice(self, where: Range) -> slice:
        start, stop = where
        starts = self._starts
        first = bisect_right(starts, start)
        if first and self._parts[first - 1].range.stop > start:
            first -= 1
        return slice(first, bisect_left(starts, stop, first))
