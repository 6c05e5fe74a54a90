"""Memory for blocks of others' slices that live here: committed in large pieces before they come, given back when
nothing lives in a page any more."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from stead.arena.sources import usual
from stead.errors import AddressSpaceError
from stead.ranges import Range, align_down, align_up, gaps_between

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stead.reservation import Reservation
    from stead.symmetric.residents import Residents

# What is committed and decommitted at once: a huge page, and few mappings even where blocks are scattered.
CHUNK = 2 << 20


class Pages:
    """The memory of one rank in the slices of a reservation."""

    def __init__(self, reservation: Reservation, residents: Residents) -> None:
        self._reservation, self._residents = reservation, residents
        self._backing = usual()

    def commit(self, owner: int, runs: Iterable[Range]) -> None:
        """Memory behind the chunks that runs touch, all in the slice of ``owner``. Raises LimitReached, and then
        there is none that was not there before."""
        committed, made = self._reservation.committed, list[Range]()
        try:
            for each in self.chunks(owner, runs):
                for hole in gaps_between(committed.overlapping(each), each):
                    self._reservation.commit(hole.start - self._start, hole.size, backing=self._backing)
                    made.append(hole)
        except BaseException:
            self._decommit(made)
            raise

    def chunks(self, owner: int, runs: Iterable[Range]) -> list[Range]:
        """The chunks that runs touch, as far as they lie in the slice of ``owner``."""
        within = self._residents.slice_of(owner)
        return [Range(max(each.start, within.start), min(each.stop, within.stop)) for each in _apart(runs, CHUNK)]

    def clear(self, owner: int, left: list[Range]) -> None:
        """Nothing lives in these pages any more, which are in order: their memory goes back to the system; in
        another's slice, chunks in which nothing else lives are decommitted. What the kernel refuses to take back
        stays, since by now the blocks have gone."""
        with suppress(AddressSpaceError, OSError):
            for each in left:
                self._reservation.discard(each.start - self._start, each.size)
            if owner != self._residents.rank:
                self._decommit(chunk for each in self.chunks(owner, left) for chunk in self._empty(owner, each))

    def _decommit(self, ranges: Iterable[Range]) -> None:
        for each in ranges:
            self._reservation.decommit(each.start - self._start, each.size)

    def _empty(self, owner: int, where: Range) -> list[Range]:
        """The chunks of ``where``, which is whole chunks, without a block."""
        found = []
        start = where.start
        while start < where.stop:
            stop = min(align_up(start + 1, CHUNK), where.stop)
            chunk = Range(start, stop)
            vacant = self._residents.vacant(owner, chunk) == [chunk]
            if vacant and not any(self._reservation.viewed.overlapping(chunk)):
                found.append(chunk)
            start = stop
        return found

    @property
    def _start(self) -> int:
        return self._reservation.address


def _apart(ranges: Iterable[Range], multiple: int) -> list[Range]:
    """Rounded outwards, those that touch made one. ``ranges``: in order."""
    found: list[Range] = []
    for each in ranges:
        start, stop = align_down(each.start, multiple), align_up(each.stop, multiple)
        if found and start <= found[-1].stop:
            found[-1] = Range(found[-1].start, max(stop, found[-1].stop))
        else:
            found.append(Range(start, stop))
    return found
