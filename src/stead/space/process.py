"""This process as a space: claims by the way that its kernel can do safely, commits, frees without failing."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from stead import _native
from stead.backing import ANONYMOUS
from stead.errors import LimitReached, Occupied, RollbackFailed, Unsupported
from stead.features import probe_manner, probe_usable
from stead.kernel import Manner
from stead.placement import Footprint, quiet_windows
from stead.ranges import NOTHING, Range, RangeSet
from stead.space.headroom import MAPPINGS, Headroom
from stead.space.live import LiveKernel
from stead.space.refusal import refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from stead.backing import Backing, Source
    from stead.errors import Obstacle
    from stead.kernel import Kernel, Limits
    from stead.space.protocol import Access

PROTECTION: dict[str, int] = {
    "none": _native.PROT_NONE,
    "r": _native.PROT_READ,
    "rw": _native.PROT_READ | _native.PROT_WRITE,
    "rx": _native.PROT_READ | _native.PROT_EXEC,
    "rwx": _native.PROT_READ | _native.PROT_WRITE | _native.PROT_EXEC,
}

_RESERVED = _native.MAP_PRIVATE | _native.MAP_ANONYMOUS | _native.MAP_NORESERVE


class ProcessSpace:
    """The address space of this process. Use :func:`this_process`: one is enough, and it remembers its probes."""

    def __init__(self, kernel: Kernel | None = None) -> None:
        self._kernel: Kernel = kernel if kernel is not None else LiveKernel()
        self.granularity = self.alignment = self._kernel.page_size
        self._headroom = Headroom(self._kernel)

    # ---- what is known ----

    @property
    def identity(self) -> Hashable:
        return ("process", os.getpid())

    @cached_property
    def manner(self) -> Manner:
        """What the kernel does with MAP_FIXED_NOREPLACE, found by probing."""
        return probe_manner(self._kernel)

    @cached_property
    def usable(self) -> Range:
        return probe_usable(self._kernel)

    @cached_property
    def windows(self) -> tuple[Range, ...]:
        return quiet_windows(self.usable, self._kernel.page_size, self._kernel.sanitizer)

    @cached_property
    def _claim(self) -> Callable[[int, int], int]:
        # A kernel that looks at the start only would clobber: there the flag is of no use, and a plain
        # hint is safe on every kernel.
        return self._kernel.claim if self.manner is Manner.EXACT else self._kernel.hint

    def outline(self, within: Range) -> Footprint:
        if within in self.windows[:-1]:
            return self._empty  # the quiet windows are far from stack and heap
        outside = [(0, self.usable.start), (self.usable.stop, max(within.stop, self.usable.stop))]
        if self._kernel.sanitizer == "thread":
            outside += self._empty_except_quiet(within)
        return Footprint(RangeSet(outside) | self._kernel.kept_clear(), self._kernel.page_size)

    def _empty_except_quiet(self, within: Range) -> list[Range]:
        """Under ThreadSanitizer a mapping elsewhere aborts the process."""
        return list(RangeSet(self.windows).gaps(within))

    @cached_property
    def _empty(self) -> Footprint:
        return Footprint(NOTHING, self._kernel.page_size)

    def footprint(self, within: Range) -> Footprint:
        outline = self.outline(within)
        return Footprint(outline.occupied | self._kernel.mapped(within), outline.granularity)

    def obstacle(self, where: Range) -> Obstacle | None:
        return self._kernel.obstacle(where)

    def limits(self) -> Limits:
        """What bounds it, and how much of that is used."""
        return self._kernel.limits()

    # ---- claiming ----

    def reserve_at(self, where: Range, keep: list[Range] | None = None) -> None:
        start, stop = where
        size = stop - start
        got = self._claim(start, size)
        if got == start:
            return
        if got >= 0:
            elsewhere = Range.sized(got, size)
            if keep is not None:
                keep.append(elsewhere)
            else:
                self._give_back(elsewhere)
            if where.stop > self.usable.stop:
                raise self._refusal(errno.ENOMEM, "claim", where)
            if start % self.granularity:
                raise self._refusal(errno.EINVAL, "claim", where)
            raise Occupied(where)
        if got == -errno.EEXIST:
            raise Occupied(where)
        raise self._refusal(-got, "claim", where)

    def _give_back(self, elsewhere: Range) -> None:
        try:
            self.release(elsewhere)
        except LimitReached as error:
            raise RollbackFailed(
                f"{elsewhere}, which the kernel gave instead, is still held", [elsewhere]
            ) from error

    def release(self, where: Range) -> None:
        got = self._kernel.unmap(where.start, where.stop - where.start)
        if got < 0:
            raise self._refusal(-got, "release", where)

    def at_the_end(self, where: Range) -> _native.Finalizer | None:
        return None

    def name(self, where: Range, name: str) -> bool:
        """Name a reservation in the maps, where the kernel can (Linux 5.17, CONFIG_ANON_VMA_NAME)."""
        return self._kernel.name(where.start, where.size, name) == 0

    # ---- memory ----

    usual: Backing = ANONYMOUS
    sharing: str | None = None

    def secure(self, backing: Backing, size: int, writable: bool) -> Source:
        if not hasattr(backing, "source"):
            raise Unsupported(f"{backing!r}", "a reservation in the space of that device's driver", repr(self))
        return backing.source(size, writable)

    def commit(self, where: Range, source: Source, access: Access) -> None:
        for number, what in ((where.start, "address"), (where.size, "size"), (source.offset, "offset")):
            if number % source.granularity:
                raise ValueError(
                    f"{what} is {number:#x}, must be a multiple of {source.granularity:#x} for this backing"
                )
        if not self._headroom.take():
            raise self._too_many_mappings(where)
        got = self._kernel.place(
            where.start, where.size, PROTECTION[access], source.flags, source.fd, source.offset
        )
        if got < 0:
            leaked = self._take_back(where, committed=False)
            error = self._refusal(-got, "commit", where, accessible=True)
            if source.flags & _native.MAP_HUGETLB and got == -errno.ENOMEM:
                text = f"cannot commit {where}: the pool of explicit huge pages has too few (vm.nr_hugepages)"
                error = LimitReached(text, "vm.nr_hugepages")
            if leaked:
                raise self._lost(leaked) from error
            raise error
        for advice in source.advice:
            got = self._kernel.advise(where.start, where.size, advice)
            if got < 0:
                self.decommit(where)
                raise Unsupported("huge='transparent'", "a mapping that can have huge pages", os.strerror(-got))

    def _take_back(self, where: Range, *, committed: bool) -> list[Range]:
        """After a failed replacement: a kernel before 6.12 may have taken the old mapping away before the
        new one failed. Take it back before anyone else does; the answer is what others were quicker to
        (save for inaccessible mappings of theirs, which look like ours)."""
        return [each for each in self._kernel.lost(where, committed=committed) if not self._reclaimed(each)]

    def _lost(self, leaked: list[Range]) -> RollbackFailed:
        return RollbackFailed(f"lost to others, out of a reservation: {', '.join(map(str, leaked))}", leaked)

    def _reclaimed(self, gap: Range) -> bool:
        try:
            self.reserve_at(gap)
        except (Occupied, LimitReached):
            return False
        return True

    def decommit(self, where: Range) -> bool:
        start, size = where.start, where.size
        got = self._kernel.place(start, size, _native.PROT_NONE, _RESERVED, -1, 0)
        if got >= 0:
            self._kernel.advise(start, size, _native.MADV_DONTDUMP)
            return True
        if got != -errno.ENOMEM:
            raise self._refusal(-got, "decommit", where)
        # At the limit of mappings even this is refused, since it may split one: that is what the headroom
        # is for. Without any: drop the contents, which needs no mapping; then take the access away, which
        # needs none where the edges are edges already.
        if leaked := self._take_back(where, committed=True):
            raise self._lost(leaked)
        if self._headroom.give():
            return self.decommit(where)
        self._kernel.advise(start, size, _native.MADV_DONTNEED)
        return self._kernel.protect(start, size, _native.PROT_NONE) == 0

    def protect(self, where: Range, access: Access) -> None:
        got = self._kernel.protect(where.start, where.size, PROTECTION[access])
        if got < 0:
            raise self._refusal(-got, "protect", where, accessible=access != "none")

    def discard(self, where: Range, advice: int) -> None:
        got = self._kernel.advise(where.start, where.size, advice)
        if got < 0:
            raise self._refusal(-got, "discard", where)

    def view(self, where: Range, writable: bool, owner: object) -> memoryview:
        return memoryview(_native.Exporter(where.start, where.size, not writable, owner))

    def pause(self, where: Range, keep: bool) -> None:
        raise Unsupported("pausing", "memory of a device (a reservation in the space of its driver)", repr(self))

    def resume(self, where: Range) -> None:
        """Nothing is ever paused here."""

    def paused(self, where: Range) -> bool:
        return False

    def _refusal(self, number: int, doing: str, where: Range, *, accessible: bool = False) -> Exception:
        given = self._headroom.give() if number == errno.ENOMEM else 0
        limits = self._kernel.limits()
        limits = replace(limits, mappings=limits.mappings + given)
        return refusal(number, doing, where, self.usable, limits, accessible=accessible)

    def _too_many_mappings(self, where: Range) -> LimitReached:
        text = f"cannot commit {where}: fewer than {MAPPINGS} mappings are left of vm.max_map_count"
        return LimitReached(text, "max_map_count")


_this: ProcessSpace | None = None


def this_process() -> ProcessSpace:
    """The space of this process."""
    global _this
    if _this is None:
        _this = ProcessSpace()
    return _this
