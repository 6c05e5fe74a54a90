"""What a device space holds and what is mapped in it: two ordered tables, by address. Pure bookkeeping."""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stead.ranges import Range

if TYPE_CHECKING:
    from stead.devices.memory import Physical
    from stead.space.protocol import Access


@dataclass(frozen=True, slots=True)
class Mapped:
    """Pieces of physical memory, one behind the other at ``range``, from number ``first`` on."""

    range: Range
    physical: Physical
    first: int
    access: Access

    @property
    def count(self) -> int:
        return self.range.size // self.physical.piece

    def cut(self, where: Range) -> Mapped:
        """The pieces inside ``where``, whose edges are edges of pieces."""
        inside = self.range.intersection(where)
        assert inside is not None
        piece = self.physical.piece
        skipped, rest = divmod(inside.start - self.range.start, piece)
        if rest or inside.size % piece:
            raise ValueError(f"cannot cut {self.range} at {inside}: it is made of pieces of {piece} bytes")
        return Mapped(inside, self.physical, self.first + skipped, self.access)

    def without(self, where: Range) -> list[Mapped]:
        """What is left of it on both sides of ``where``."""
        rest = (Range(self.range.start, where.start), Range(where.stop, self.range.stop))
        return [self.cut(each) for each in rest if each.start < each.stop]

    def pieces(self) -> list[tuple[int, int]]:
        """Address and handle of each."""
        piece, handles = self.physical.piece, self.physical.handles
        return [(self.range.start + number * piece, handles[self.first + number]) for number in range(self.count)]


class ByAddress:
    """Things with a ``range``, none of which overlaps another."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._things: dict[int, Mapped] = {}

    def overlapping(self, where: Range) -> list[Mapped]:
        at = bisect_right(self._starts, where.start)
        if at and self._things[self._starts[at - 1]].range.stop > where.start:
            at -= 1
        found = []
        while at < len(self._starts) and self._starts[at] < where.stop:
            found.append(self._things[self._starts[at]])
            at += 1
        return found

    def add(self, thing: Mapped) -> None:
        insort(self._starts, thing.range.start)
        self._things[thing.range.start] = thing

    def remove(self, thing: Mapped) -> None:
        del self._things[thing.range.start]
        self._starts.remove(thing.range.start)
