"""What a heap does when the core has no space: repair, growth, and giving memory back."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from stead import _native, events
from stead.arena.trimming import PIECE, give_back, next_limit
from stead.errors import Corrupted, LimitReached, NotLive, OutOfSpace, Released
from stead.heap import registry
from stead.heap.files import UNIT
from stead.ranges import Range, align_up
from stead.securing import PAGE
from stead.sizes import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from stead.heap.files import HeapMemory

_LEAST_STEP = 4 << 20
_LARGEST_STEP = 1 << 30
_ROUND = 2 << 20
_SMALL = 16384  # bytes; larger blocks are runs of pages

# Each time around, somebody else took what was there: by then it is a storm, and no room.
_ATTEMPTS = 100


class GrowingHeap(_native.Heap):
    """The base of SharedHeap."""

    __slots__ = ()

    # The members are in C, and None until they are set.
    _files: HeapMemory | None
    _policy: tuple[int | None, int | None]  # step, keep
    _handle: tuple[int, Any, bytes] | None
    _extra: int | None  # dirty bytes at which memory goes back
    _closed: bool | None

    def _live(self) -> HeapMemory:
        if self._files is None or self._closed:
            raise Released(f"{self!r}")
        return self._files

    def _refusal(self, code: int, address: int) -> Exception:
        """Why the core refused something about the block at an address."""
        if code == _native.HEAP_FULL:
            return LimitReached(f"{self!r} can note no more holders of {address:#x}", "holders of a heap's blocks")
        if code == _native.HEAP_BROKEN:
            return Corrupted(f"the tables of {self!r} were damaged", address=address)
        found, start, _, _ = self._find(address)
        if found == _native.HEAP_FOREIGN:
            why = "is no address of this heap"
        elif found == _native.HEAP_INTERIOR:
            why = f"is inside the live block at {start:#x}, not its address"
        elif found == _native.HEAP_DONE and self._held(address):
            why = "was handed out again since: that block is gone"
        elif found == _native.HEAP_DONE:
            pids = {place: pid for place, pid, _ in self._people()}
            others = ", ".join(str(pids.get(place, "one that ended")) for place in self._holders(address))
            why = (
                f"is held by process {others}" if others else "is kept by the heap, on its way to another process"
            )
            why += ", and not by this one"
        else:
            why = "is of no live block: freed already, or never handed out"
        return NotLive(f"{address:#x} {why}", address=address)

    # ---- taking, growing ----

    def _obtain(self, size: int, alignment: int) -> tuple[int, int, int, int, int]:
        """A block, held once by this process: address, usable bytes, generation, which of them are zero."""
        got = self._try(size, alignment)
        if got is None and self._reap():
            got = self._try(size, alignment)
        refused: LimitReached | None = None
        for _ in range(_ATTEMPTS):
            if got is not None:
                return got
            try:
                if not self._grow(size, alignment):
                    break
            except LimitReached as error:
                refused = error
                break
            got = self._try(size, alignment)
        if got is None:
            self._expire(False)
            self._reap()
            self._reclaim()
            got = self._try(size, alignment, last=True)
        if got is not None:
            return got
        if refused is not None:
            raise refused
        largest = self._statistics()[4]
        aligned = f" aligned to {format_size(alignment)}" if alignment > 16 else ""
        raise OutOfSpace(
            f"size is {size} bytes{aligned}: the largest free run of {self!r} has {largest} bytes, of "
            f"{format_size(self._live().where.size)} in all",
            size=size, largest_free_run=largest,
        )  # fmt: skip

    def _try(self, size: int, alignment: int, *, last: bool = False) -> tuple[int, int, int, int, int] | None:
        got = self._take(size, alignment, last)
        if not isinstance(got, int):
            return got
        if got != _native.HEAP_NO_SPACE:
            raise self._refusal(got, self._base)
        return None

    @contextmanager
    def _growing(self, *, wait: bool = True) -> Iterator[bool]:
        """Alone among threads and processes to add memory, or to give it back: whether it is."""
        if not registry.growth_lock.acquire(blocking=wait):
            yield False
            return
        try:
            code = self._begin_growth()
            if code < 0:
                raise self._refusal(code, self._base)
            try:
                yield True
            finally:
                self._end_growth()
        finally:
            registry.growth_lock.release()

    def _grow(self, size: int, alignment: int) -> bool:
        """More units, so that this fits: whether there is something new to look at."""
        before = self._units
        with self._growing():
            rest = self._max_units - self._units
            missing = self._shortfall(size, alignment)
            if not missing:
                return True  # others were quicker
            # Nothing is allocated for what will not fit; but a small block may fit in whatever is left.
            if not rest or (missing > rest and size > _SMALL):
                return False
            self._add(min(missing, rest))
        if events.listeners:
            sizes = {"before": before * UNIT, "after": self._units * UNIT}
            events.emit("growth", of="heap", name=self.name, range=self._live().where, **sizes)
        return True

    def _add(self, least: int) -> None:
        """At least so many units more, by the step where memory allows it."""
        have = self._units
        step = self._policy[0] or min(max(have * UNIT, _LEAST_STEP), _LARGEST_STEP)
        wanted = max(least * UNIT, step)
        if self._policy[0] is None:  # to the end of a huge page, so that each is one
            wanted = align_up(have * UNIT + wanted, _ROUND) - have * UNIT
        try:
            self._lengthen(have, wanted)
        except LimitReached:
            if wanted <= least * UNIT:
                raise
            self._lengthen(have, least * UNIT)

    def _lengthen(self, have: int, size: int) -> None:
        start = have * UNIT
        stop = min(align_up(start + size, PAGE), self._max_units * UNIT)
        self._live().grow(start, stop)
        self._extend((stop - start) // UNIT, True)

    # ---- trimming ----

    def _begin_trimming(self) -> None:
        if self._policy[1] is not None:
            self._extra = max(self._policy[1], PIECE)

    def _trim_if_wanted(self) -> None:
        """Where more than was to be kept is free."""
        if self._extra is None or self._dirty <= self._extra or self._closed:
            return
        keep = self._policy[1] or 0
        with self._growing(wait=False) as alone:
            if not alone:
                return  # the next one will see to it; and this may be who is alone, interrupted by a finalizer
            self._give_back(keep // 2, PIECE)
        self._extra = next_limit(keep, self._dirty)

    def _give_back(self, keep: int, least: int) -> int:
        """Under the growth lock: who finds no space meanwhile waits for it, and then finds what comes back."""
        memory = self._live()

        def discard(where: Range) -> bool:
            memory.discard(where)
            return True

        return give_back(self, keep, least, PAGE, discard)
