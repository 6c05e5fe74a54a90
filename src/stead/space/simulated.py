"""A space that is simulated: any width, page size and kernel manner, intrusions and failures at any step.

Addresses are simulated; what is committed is borrowed from this process, at other addresses, so that
views hold real bytes.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from stead import _native
from stead.errors import Obstacle
from stead.kernel import Limits, Manner
from stead.ranges import Range, RangeSet, align_down, align_up
from stead.space.process import PROTECTION, ProcessSpace

if TYPE_CHECKING:
    from stead.backing import Source
    from stead.space.protocol import Access


@dataclass(frozen=True, slots=True)
class SimulatedMapping:
    """One entry of the simulated table. ``foreign``: mapped by someone else, as an intrusion or beforehand."""

    range: Range
    protection: int
    flags: int
    foreign: bool = False

    def part(self, where: Range) -> SimulatedMapping:
        return replace(self, range=where)

    def merges_with(self, above: SimulatedMapping) -> bool:
        return self.range.stop == above.range.start and replace(self, range=above.range) == above


Intrusions = Mapping[int, Iterable[Range]]


class SimulatedKernel:
    """A table of mappings that answers like mmap(2). Steps (system calls) are counted from 0.

    ``intrusions``: before which step which ranges are mapped by others, as far as they are free; or a
    function of the step that says so. ``failures``: which step answers which errno, having done nothing.
    ``failed_place_leaves_hole``: as before Linux 6.12, a MAP_FIXED that fails has already unmapped.
    ``clobbered`` lists the foreign ranges that were replaced or unmapped: it must stay empty.
    """

    def __init__(
        self,
        *,
        width: int = 47,
        page_size: int = 4096,
        manner: Manner | str = Manner.EXACT,
        occupied: Iterable[Range | tuple[int, int]] = (),
        kept_clear: Iterable[tuple[int, int]] = (),
        intrusions: Intrusions | Callable[[int], Iterable[Range]] = MappingProxyType({}),
        failures: Mapping[int, int] = MappingProxyType({}),
        max_mappings: int | None = 65530,
        max_address_space: int | None = None,
        failed_place_leaves_hole: bool = False,
        min_address: int = 65536,
        sanitizer: str | None = None,
    ) -> None:
        self.width, self.page_size, self.manner = width, page_size, Manner(manner)
        self.min_address, self.sanitizer = align_up(min_address, page_size), sanitizer
        self.top = (1 << width) - page_size
        self.steps = 0
        self.clobbered: list[Range] = []
        self._kept_clear = RangeSet(kept_clear)
        self._intrusions = intrusions if callable(intrusions) else lambda step: intrusions.get(step, ())
        self._failures = failures
        self._max_mappings, self._max_address_space = max_mappings, max_address_space
        self._failed_place_leaves_hole = failed_place_leaves_hole
        none = _native.PROT_READ
        self.table = [SimulatedMapping(Range(*each), none, _native.MAP_PRIVATE, True) for each in occupied]
        self.table.sort(key=lambda each: each.range)

    # ---- the calls ----

    def claim(self, address: int, size: int, /) -> int:
        if self.manner is Manner.IGNORED:
            return self.hint(address, size)
        if refused := self._step(address, size, anywhere=False):
            return refused
        looked_at = Range.sized(address, size if self.manner is Manner.EXACT else self.page_size)
        if any(each.range.overlaps(looked_at) for each in self.table):
            return -errno.EEXIST
        return self._map(Range.sized(address, size), _native.PROT_NONE, _RESERVED)

    def hint(self, address: int, size: int, /) -> int:
        if refused := self._step(align_down(address, self.page_size), size, anywhere=True):
            return refused
        where = Range.sized(align_down(address, self.page_size), size)
        free = where.start >= self.min_address and where.stop <= self.top and not self._overlapping(where)
        if not free:
            gaps = [each for each in self._occupied.gaps(Range(self.min_address, self.top)) if each.size >= size]
            if not gaps:
                return -errno.ENOMEM
            where = Range(gaps[-1].stop - size, gaps[-1].stop)
        return self._map(where, _native.PROT_NONE, _RESERVED)

    def place(self, address: int, size: int, protection: int, flags: int, fd: int, offset: int, /) -> int:
        if refused := self._step(address, size, anywhere=False):
            if self._failed_place_leaves_hole and refused == -errno.ENOMEM:
                self._remove(Range.sized(address, size))
            return refused
        if self._max_mappings is not None and len(self.table) >= self._max_mappings:
            return -errno.ENOMEM
        return self._map(Range.sized(address, size), protection, flags)

    def unmap(self, address: int, size: int, /) -> int:
        if refused := self._step(address, size, anywhere=False):
            return refused
        return self._commit_table(self._without(Range.sized(address, size)), Range.sized(address, size))

    def protect(self, address: int, size: int, protection: int, /) -> int:
        if refused := self._step(address, size, anywhere=False):
            return refused
        where = Range.sized(address, size)
        inside = self._overlapping(where)
        if RangeSet(each.range for each in inside).size < sum(each.range.size for each in inside):
            raise AssertionError(inside)
        if any(True for _ in self._occupied.gaps(where)):
            return -errno.ENOMEM
        changed = [
            replace(each, range=part, protection=protection)
            for each in inside
            if (part := each.range.intersection(where))
        ]
        return self._commit_table(self._without(where) + changed, None)

    def advise(self, address: int, size: int, advice: int, /) -> int:
        if refused := self._step(address, size, anywhere=False):
            return refused
        return -errno.ENOMEM if any(self._occupied.gaps(Range.sized(address, size))) else 0

    def name(self, address: int, size: int, name: str, /) -> int:
        return -errno.EINVAL

    # ---- what can be read ----

    def mapped(self, window: Range, /) -> RangeSet:
        return RangeSet(self._occupied.overlapping(window))

    def lost(self, window: Range, /, *, committed: bool) -> Iterator[Range]:
        ours = RangeSet(each.range for each in self.table if committed or each.protection == _native.PROT_NONE)
        return ours.gaps(window)

    def obstacle(self, where: Range, /) -> Obstacle | None:
        for each in self._overlapping(where):
            return Obstacle(each.range, "a simulated mapping", "someone else" if each.foreign else "this space")
        return None

    def kept_clear(self) -> RangeSet:
        return self._kept_clear

    def limits(self) -> Limits:
        return Limits(
            mappings=len(self.table),
            max_mappings=self._max_mappings,
            address_space=self._occupied.size,
            max_address_space=self._max_address_space,
            data=0,
            max_data=None,
            overcommit="heuristic",
        )

    @property
    def ours(self) -> RangeSet:
        """What the code under test holds."""
        return RangeSet(each.range for each in self.table if not each.foreign)

    # ---- inside ----

    @property
    def _occupied(self) -> RangeSet:
        return RangeSet(each.range for each in self.table)

    def _overlapping(self, where: Range) -> list[SimulatedMapping]:
        return [each for each in self.table if each.range.overlaps(where)]

    def _step(self, address: int, size: int, *, anywhere: bool) -> int:
        """Everything that happens before the call itself: a refusal (a negated errno), or 0."""
        step, self.steps = self.steps, self.steps + 1
        for where in self._intrusions(step):
            if not self._overlapping(where):
                self.table.append(SimulatedMapping(where, _native.PROT_READ, _native.MAP_PRIVATE, True))
                self.table.sort(key=lambda each: each.range)
        if step in self._failures:
            return -self._failures[step]
        if size <= 0 or address % self.page_size or size % self.page_size:
            return -errno.EINVAL
        if not anywhere and address + size > self.top:
            return -errno.ENOMEM
        if not anywhere and address < self.min_address:
            return -errno.EPERM
        return 0

    def _without(self, where: Range) -> list[SimulatedMapping]:
        kept = []
        for each in self.table:
            if not each.range.overlaps(where):
                kept.append(each)
                continue
            if each.range.start < where.start:
                kept.append(each.part(Range(each.range.start, where.start)))
            if where.stop < each.range.stop:
                kept.append(each.part(Range(where.stop, each.range.stop)))
        return kept

    def _map(self, where: Range, protection: int, flags: int) -> int:
        used = self._occupied.size - RangeSet(self._occupied.overlapping(where)).size
        if self._max_address_space is not None and used + where.size > self._max_address_space:
            return -errno.ENOMEM
        added = SimulatedMapping(where, protection, flags)
        return self._commit_table([*self._without(where), added], where) or where.start

    def _remove(self, where: Range) -> None:
        self._commit_table(self._without(where), where)

    def _commit_table(self, table: list[SimulatedMapping], replaced: Range | None) -> int:
        merged: list[SimulatedMapping] = []
        for each in sorted(table, key=lambda each: each.range):
            if merged and merged[-1].merges_with(each):
                merged[-1] = each.part(Range(merged[-1].range.start, each.range.stop))
            else:
                merged.append(each)
        if self._max_mappings is not None and len(merged) > max(self._max_mappings, len(self.table)):
            return -errno.ENOMEM
        if replaced is not None:
            self.clobbered += [each.range for each in self._overlapping(replaced) if each.foreign]
        self.table = merged
        return 0


_RESERVED = _native.MAP_PRIVATE | _native.MAP_ANONYMOUS | _native.MAP_NORESERVE


class _Loan:
    """Real memory of this process that stands in for a simulated range."""

    def __init__(self, source: Source, size: int, access: Access) -> None:
        self._size = size
        self.start = _native.hint(0, size)
        if (
            self.start < 0
            or _native.place(self.start, size, PROTECTION[access], source.flags, source.fd, source.offset) < 0
        ):
            raise MemoryError(f"no {size} bytes to stand in for simulated memory")

    def __del__(self) -> None:
        if self.start >= 0:
            _native.unmap(self.start, self._size)


class SimulatedSpace(ProcessSpace):
    """A :class:`ProcessSpace` on a :class:`SimulatedKernel`, whose arguments it takes. ``kernel`` is at hand
    for looking at the table, the steps and what was clobbered."""

    def __init__(self, **kernel: object) -> None:
        self.kernel = SimulatedKernel(**kernel)  # type: ignore[arg-type]  # checked there, by name
        super().__init__(self.kernel)
        self._loans: list[tuple[Range, _Loan]] = []

    @property
    def identity(self) -> Hashable:
        return ("simulated", id(self))

    def at_the_end(self, where: Range) -> _native.Finalizer | None:
        return _native.Finalizer(ProcessSpace.release, self, where)

    def commit(self, where: Range, source: Source, access: Access) -> None:
        super().commit(where, source, access)
        self._loans.insert(0, (where, _Loan(source, where.size, access)))

    def decommit(self, where: Range) -> bool:
        done = super().decommit(where)
        self._loans = [each for each in self._loans if not where.contains(each[0])]
        return done

    def _real(self, where: Range) -> tuple[_Loan, int]:
        for lent, loan in self._loans:
            if lent.contains(where):
                return loan, loan.start + where.start - lent.start
        raise AssertionError(f"{where} is not committed in one piece")

    def protect(self, where: Range, access: Access) -> None:
        super().protect(where, access)
        _native.protect(self._real(where)[1], where.size, PROTECTION[access])

    def discard(self, where: Range, advice: int) -> None:
        super().discard(where, advice)
        _native.advise(self._real(where)[1], where.size, advice)

    def view(self, where: Range, writable: bool, owner: object) -> memoryview:
        loan, address = self._real(where)
        return memoryview(_native.Exporter(address, where.size, not writable, (owner, loan)))
