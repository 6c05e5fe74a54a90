"""Which blocks a symmetric heap has, and which of its pages have memory: pure bookkeeping, in offsets.

Every rank keeps the same plan, because what it does depends on nothing but the calls made and their order. So all
ranks give out the same addresses without a word to each other, and know at the same call that memory must be had.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from stead.errors import OutOfSpace
from stead.ranges import Range, RangeSet, align_down, align_up, gaps_between
from stead.sizes import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

# Blocks are multiples of it, and begin at one.
UNIT = 16

# So much more than is needed is secured, since it takes a vote: a quarter of what there is, within these bounds.
_LEAST_GROWTH = 1 << 20
_MOST_GROWTH = 1 << 26

# Free pages with memory are given back when there are more of them than this, and than pages in use.
_KEPT = 1 << 26


class Spot(NamedTuple):
    """Where a block goes, of so many bytes; and the free run that it is taken from."""

    offset: int
    size: int
    run_start: int
    run_size: int


class Plan:
    """Of a heap of ``size`` bytes in pages of ``page``. Offsets are from its beginning.

    ``secured``: what has memory. ``used``: bytes of live blocks, rounded up to :data:`UNIT`.
    """

    def __init__(self, size: int, page: int) -> None:
        self.size, self.page = size, page
        self._set_secured(RangeSet())
        self.used = 0
        self.calls = 0
        self._live: dict[int, int] = {}  # offset: the bytes that were asked for
        self._by_size: list[tuple[int, int]] = [(size, 0)]  # free runs: bytes, offset
        self._by_start = {0: size}
        self._by_stop = {size: 0}
        self._history = blake2b(digest_size=8)

    # ---- what there is ----

    def __len__(self) -> int:
        return len(self._live)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Offset and size of each live block, in no particular order."""
        yield from self._live.items()

    def size_of(self, offset: int) -> int | None:
        """Bytes of the live block that begins there, or None."""
        return self._live.get(offset)

    @property
    def largest_free_run(self) -> int:
        return self._by_size[-1][0] if self._by_size else 0

    def step(self, what: str) -> str:
        """The next call, in words that are equal for all who made the same calls in the same order."""
        return f"call {self.calls + 1}: {what} (after {self._history.hexdigest()})"

    # ---- blocks ----

    def place(self, size: int, alignment: int) -> Spot:
        """Where the next block of so many bytes goes: into the smallest run that is large enough, the lowest of
        those. Nothing changes. Raises OutOfSpace."""
        room = align_up(size, UNIT)
        for number in range(bisect_left(self._by_size, (room, 0)), len(self._by_size)):
            run, start = self._by_size[number]
            offset = align_up(start, alignment)
            if offset + room <= start + run:
                return Spot(offset, size, start, run)
        largest = self.largest_free_run
        aligned = f" aligned to {alignment}" if alignment > UNIT else ""
        raise OutOfSpace(
            f"no room for {size} bytes{aligned} in a symmetric heap of {format_size(self.size)}: "
            f"{self.used} bytes are in use, and the largest free run has {largest}",
            size=size,
            largest_free_run=largest,
        )

    def missing(self, spot: Spot) -> tuple[list[Range], list[Range]]:
        """The pages without memory that a block there needs; and the same with more after them, for blocks to
        come."""
        needed = Range(align_down(spot.offset, self.page), align_up(spot.offset + spot.size, self.page))
        if self.secured.covers(needed):
            return [], []
        holes = list(self.secured.gaps(needed))
        more = min(max(align_up(self.secured.size // 4, self.page), _LEAST_GROWTH), _MOST_GROWTH)
        stop = min(max(needed.stop, holes[-1].start + more), self.size)
        return holes, list(self.secured.gaps(Range(needed.start, stop)))

    def secure(self, pages: list[Range]) -> None:
        self._set_secured(self.secured | RangeSet(pages))

    def _set_secured(self, secured: RangeSet) -> None:
        self.secured, self._secured_bytes = secured, secured.size

    def take(self, spot: Spot, what: str) -> None:
        """The block for which :meth:`place` found the spot; ``what``: the call, for :meth:`step`."""
        offset, size, start, run = spot
        stop = offset + align_up(size, UNIT)
        self._remove(start, run)
        self._insert(start, offset - start)
        self._insert(stop, start + run - stop)
        self._live[offset] = size
        self.used += stop - offset
        self._done(what)

    def give(self, offset: int, what: str) -> list[Range]:
        """Free the block that begins there; what pages to give back now, which the plan takes to have none."""
        room = align_up(self._live.pop(offset), UNIT)
        self.used -= room
        self._done(what)
        start, stop = offset, offset + room
        before, after = self._by_stop.get(start), self._by_start.get(stop)
        if before is not None:
            self._remove(before, start - before)
            start = before
        if after is not None:
            self._remove(stop, after)
            stop += after
        self._insert(start, stop - start)
        return self.trim() if self._secured_bytes - self.used > max(_KEPT, self.used) else []

    def trim(self) -> list[Range]:
        """All pages with memory that no block touches: they have none from now on."""
        free = RangeSet(
            (first, last)
            for start, run in self._by_start.items()
            if (first := align_up(start, self.page)) < (last := align_down(start + run, self.page))
        )
        pages = list(self.secured & free)
        self._set_secured(RangeSet(gap for each in self.secured for gap in free.gaps(each)))
        return pages

    def trimmed(self, what: str) -> None:
        """A trim that was asked for is a call as well."""
        self._done(what)

    def _done(self, what: str) -> None:
        self.calls += 1
        self._history.update(what.encode())

    # ---- free runs ----

    def _insert(self, offset: int, size: int) -> None:
        if size:
            insort(self._by_size, (size, offset))
            self._by_start[offset], self._by_stop[offset + size] = size, offset

    def _remove(self, offset: int, size: int) -> None:
        del self._by_size[bisect_left(self._by_size, (size, offset))]
        del self._by_start[offset], self._by_stop[offset + size]

    # ---- as plain data ----

    def to_json(self) -> dict[str, Any]:
        """Plain data for :func:`json.dumps`."""
        return {
            "size": self.size,
            "page": self.page,
            "blocks": sorted(self._live.items()),
            "secured": [tuple(each) for each in self.secured],
            "calls": self.calls,
            "history": self._history.hexdigest(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Plan:
        """The plan again; its next blocks go where the other's would have. Raises ValueError where the data is no
        plan's."""
        try:
            made = cls(_whole(data["size"]), _whole(data["page"]))
            blocks = [(_whole(offset), _whole(size)) for offset, size in data["blocks"]]
            secured = [Range(_whole(start), _whole(stop)) for start, stop in data["secured"]]
            calls, history = _whole(data["calls"]), bytes.fromhex(data["history"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"not the plan of a symmetric heap: {error!r}") from None
        made._restore(blocks, secured)
        made.calls = calls
        made._history = blake2b(history, digest_size=8)
        return made

    def _restore(self, blocks: list[tuple[int, int]], secured: list[Range]) -> None:
        taken = [Range(offset, offset + align_up(size, UNIT)) for offset, size in blocks]
        whole = Range(0, self.size)
        edges = [edge for each in taken for edge in each]
        if self.size <= 0 or self.page <= 0 or self.size % self.page or self.page % UNIT:
            raise ValueError(f"not the plan of a symmetric heap: {self.size} bytes in pages of {self.page}")
        if any(size <= 0 or offset % UNIT for offset, size in blocks) or edges != sorted(edges):
            raise ValueError("not the plan of a symmetric heap: its blocks are not in order, or overlap")
        if any(edge % self.page for each in secured for edge in each):
            raise ValueError(
                f"not the plan of a symmetric heap: it has memory for other than pages of {self.page}"
            )
        self._set_secured(RangeSet(secured))
        if not all(whole.contains(each) for each in (*taken, *self.secured)):
            raise ValueError(f"not the plan of a symmetric heap: it has more than its {self.size} bytes")
        if any(next(self.secured.gaps(each), None) for each in taken):
            raise ValueError("not the plan of a symmetric heap: a block has no memory")
        self._by_size, self._by_start, self._by_stop = [], {}, {}
        for gap in gaps_between(taken, whole):
            self._insert(gap.start, gap.size)
        self._live = dict(blocks)
        self.used = sum(each.size for each in taken)


def _whole(number: Any) -> int:
    """JSON has floats, and true and false."""
    if type(number) is not int:
        raise ValueError(f"{number!r} is not a whole number")
    return number
