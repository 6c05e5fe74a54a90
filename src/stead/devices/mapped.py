"""What a device space holds and what is mapped in it: two ordered tables, by address. Pure bookkeeping."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from stead.ranges import Range

if TYPE_CHECKING:
    from stead.devices.memory import Physical
    from stead.space.protocol import Access


class Mapped(NamedTuple):
    """Pieces of physical memory, one behind the other at ``range``, from number ``first`` on."""

    range: Range
    physical: Physical
    first: int
    access: Access

    @property
    def pieces(self) -> int:
        return self.range.size // self.physical.piece

    def cut(self, where: Range) -> Mapped:
        """The pieces inside ``where``, whose edges are edges of pieces."""
        start, stop = self.range
        if where.start <= start and stop <= where.stop:
            return self
        inside = self.range.intersection(where)
        assert inside is not None
        piece = self.physical.piece
        skipped, rest = divmod(inside.start - start, piece)
        if rest or inside.size % piece:
            raise ValueError(f"cannot cut {self.range} at {inside}: it is made of pieces of {piece} bytes")
        return Mapped(inside, self.physical, self.first + skipped, self.access)

    def without(self, where: Range) -> list[Mapped]:
        """What is left of it on both sides of ``where``."""
        start, stop = self.range
        rest = []
        if start < where.start:
            rest.append(self.cut(Range(start, where.start)))
        if where.stop < stop:
            rest.append(self.cut(Range(where.stop, stop)))
        return rest


T = TypeVar("T")


class ByAddress(Generic[T]):
    """Things at ranges, none of which overlaps another."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._things: dict[int, tuple[int, T]] = {}  # where it stops, and what it is

    def overlapping(self, where: Range) -> list[T]:
        start, stop = where
        starts, things = self._starts, self._things
        at = bisect_right(starts, start)
        if at and things[starts[at - 1]][0] > start:
            at -= 1
        found = []
        while at < len(starts) and starts[at] < stop:
            found.append(things[starts[at]][1])
            at += 1
        return found

    def around(self, where: Range) -> T | None:
        """What all of ``where`` is in."""
        at = bisect_right(self._starts, where.start)
        if not at:
            return None
        stop, thing = self._things[self._starts[at - 1]]
        return thing if where.stop <= stop else None

    def add(self, where: Range, thing: T) -> None:
        insort(self._starts, where.start)
        self._things[where.start] = where.stop, thing

    def remove(self, where: Range) -> None:
        del self._things[where.start]
        del self._starts[bisect_left(self._starts, where.start)]
