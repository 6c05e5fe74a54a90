"""Half-open intervals of addresses, and sets of them. Pure arithmetic, in bytes."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple, SupportsIndex

from stead.sizes import format_size, parse_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# "0x1000-0x2000", "64 TiB-84 TiB"; also with an en dash or two dots, as stead itself prints.
_WRITTEN = re.compile(r"(.+?)\s*(?:-|–|\.\.)\s*(.+)")


class Range(NamedTuple):
    """Addresses ``[start, stop)``, in bytes."""

    start: int
    stop: int

    @classmethod
    def sized(cls, start: int, size: int) -> Range:
        """The range of ``size`` bytes that begins at ``start``."""
        return cls(start, start + size)

    @classmethod
    def parse(cls, value: Range | tuple[SupportsIndex | str, SupportsIndex | str] | str, argument: str) -> Range:
        """From a pair of sizes, or from text such as "0x400000000000-0x540000000000".

        Raises TypeError or ValueError that names ``argument`` and the value.
        """
        if isinstance(value, str):
            written = _WRITTEN.fullmatch(value.strip())
            if not written:
                raise ValueError(f"{argument} is {value!r}, must be two addresses such as '0x1000-0x2000'")
            value = (written[1], written[2])
        if not isinstance(value, tuple) or len(value) != 2:
            raise TypeError(f"{argument} is {value!r}, must be a Range, a pair, or text such as '0x1000-0x2000'")
        made = cls(parse_size(value[0], f"{argument}[0]"), parse_size(value[1], f"{argument}[1]"))
        if not 0 <= made.start < made.stop:
            raise ValueError(f"{argument} is {value!r}: a range starts at 0 or above and stops after its start")
        return made

    @property
    def size(self) -> int:
        return self.stop - self.start

    def contains(self, other: Range) -> bool:
        return self.start <= other.start and other.stop <= self.stop

    def overlaps(self, other: Range) -> bool:
        return self.start < other.stop and other.start < self.stop

    def intersection(self, other: Range) -> Range | None:
        start, stop = max(self.start, other.start), min(self.stop, other.stop)
        return Range(start, stop) if start < stop else None

    def __str__(self) -> str:
        return f"0x{self.start:012x}–0x{self.stop:012x} ({format_size(self.size)})"


class RangeSet:
    """An immutable set of addresses: ordered, coalesced ranges. Equal sets compare equal."""

    __slots__ = ("_ranges", "_starts")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        merged: list[Range] = []
        for start, stop in sorted(ranges):
            if start > stop:
                raise ValueError(f"ranges has ({start:#x}, {stop:#x}), which stops before it starts")
            if start == stop:
                continue
            if merged and start <= merged[-1].stop:
                if stop > merged[-1].stop:
                    merged[-1] = Range(merged[-1].start, stop)
            else:
                merged.append(Range(start, stop))
        self._ranges = tuple(merged)
        self._starts = [each.start for each in merged]

    def __iter__(self) -> Iterator[Range]:
        return iter(self._ranges)

    def __len__(self) -> int:
        return len(self._ranges)

    def __bool__(self) -> bool:
        return bool(self._ranges)

    def __eq__(self, other: object) -> bool:
        return self._ranges == other._ranges if isinstance(other, RangeSet) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._ranges)

    def __repr__(self) -> str:
        return f"RangeSet([{', '.join(map(str, self._ranges))}])"

    def __contains__(self, address: int) -> bool:
        at = bisect_right(self._starts, address) - 1
        return at >= 0 and address < self._ranges[at].stop

    def __or__(self, other: RangeSet) -> RangeSet:
        if not other._ranges:
            return self
        return RangeSet(self._ranges + other._ranges) if self._ranges else other

    def __and__(self, other: RangeSet) -> RangeSet:
        """What is in both."""
        return RangeSet(part for each in other for part in self.overlapping(each))

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(each.size for each in self._ranges)

    def overlapping(self, within: Range) -> Iterator[Range]:
        """The parts inside ``within``, clipped to it, in order."""
        at = max(bisect_right(self._starts, within.start) - 1, 0)
        for each in self._ranges[at : bisect_left(self._starts, within.stop)]:
            if part := each.intersection(within):
                yield part

    def covers(self, within: Range) -> bool:
        """Whether all of ``within`` is in the set."""
        at = bisect_right(self._starts, within.start) - 1
        return at >= 0 and within.stop <= self._ranges[at].stop

    def gaps(self, within: Range) -> Iterator[Range]:
        """What of ``within`` is not in the set, in order."""
        return gaps_between(self.overlapping(within), within)

    def largest_gap(self, within: Range) -> Range | None:
        return max(self.gaps(within), key=lambda gap: gap.size, default=None)


NOTHING = RangeSet()


def gaps_between(ranges: Iterable[Range], within: Range) -> Iterator[Range]:
    """What of ``within`` is in none of ``ranges``, which overlap it and come in order."""
    start = within.start
    for taken in ranges:
        if start < taken.start:
            yield Range(start, taken.start)
        start = taken.stop
    if start < within.stop:
        yield Range(start, within.stop)


def align_up(address: int, alignment: int) -> int:
    """The next multiple of ``alignment`` (any positive int) at or above ``address``."""
    return -(-address // alignment) * alignment


def align_down(address: int, alignment: int) -> int:
    return address // alignment * alignment
