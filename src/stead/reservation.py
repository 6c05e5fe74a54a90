"""Reservation: owns a range, knows exactly what is committed inside it, and alone may replace a mapping.

Threads: every method is safe. Fork: a child has a copy of the reservation and of its table; what it does
to the range stays in the child, except for the contents of what is shared.
"""

from __future__ import annotations

import os
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, SupportsIndex, get_args
from weakref import ref

from stead import _native, events, ledger
from stead.backing import as_backing
from stead.errors import AddressSpaceError, Obstacle, Occupied, Released, RollbackFailed
from stead.identity import Identity, identity_of
from stead.parts import Part, PartTable
from stead.ranges import Range, RangeSet, align_up
from stead.sizes import parse_size
from stead.snapshot import SHARED_PREFIX
from stead.space.process import ProcessSpace
from stead.space.protocol import Access

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Literal, Self

    from stead.backing import Backing, DriverMade
    from stead.space.protocol import MemorySpace

# One lock for all tables: the kernel has one for all mappings of a process anyway, and one lock can be
# held across a fork, so that a child never finds it locked by a thread that it does not have.
table_lock = threading.RLock()
os.register_at_fork(
    before=table_lock.acquire, after_in_parent=table_lock.release, after_in_child=table_lock.release
)

# Parts that are decommitted by one system call. At the limit of mappings there is no memory for long lists.
_BATCH = 256

_ACCESSES = get_args(Access)

# Looked up once: they are on the path of every reservation.
_acquire, _unlock = table_lock.acquire, table_lock.release

# Of every reservation that has nothing committed; replaced at its first commit, never changed.
_NO_PARTS = PartTable()


class Reservation(_native.Hold):
    """A range of addresses that is ours until it is released: made by :func:`stead.reserve`.

    A context manager that releases at its end. The addresses are given back, too, when the reservation and
    every view of it are gone. ``range``: without guards; ``outer``: with them; ``generation``: a number that
    changes when the memory behind the range is replaced (bytes cached by address are stale then).
    """

    __slots__ = ()

    # The members are in C, and None until they are set.
    _range: Range | None
    _outer: Range | None
    _space: MemorySpace
    _parts: PartTable
    _leases: dict[ref[_native.Exporter], tuple[Range, bool]] | None
    _lingering: list[Range] | None
    _identity: Identity | None
    _end: _native.Finalizer | None
    _released: bool | None

    def __init__(
        self,
        space: MemorySpace,
        where: Range,
        outer: Range,
        name: str | None = None,
        identity: Identity | None = None,
    ) -> None:
        """Takes over ``outer``, which the caller has claimed in ``space``."""
        self._range = where
        self._outer = outer
        self.name = name
        self._identity = identity
        self._end = space.at_the_end(outer)
        if self._end is None:
            self._take_over(outer.start, outer.stop - outer.start)
        self._space = space
        self._parts = _NO_PARTS
        ledger.held.add(ref(self, ledger.forget))

    def stand_for(self, where: Range, outer: Range, name: str | None, identity: Identity) -> None:
        """From now on it is another process's reservation, here. It was claimed a moment ago, as ``outer``."""
        self._range, self._outer, self.name, self._identity = where, outer, name, identity

    # ---- what it is ----

    @property
    def range(self) -> Range:
        """The addresses, without the guards."""
        if self._range is None:
            self._range = Range(self._address, self._address + self._size)
        return self._range

    @property
    def outer(self) -> Range:
        """The addresses with the guards."""
        return self._outer or self.range

    @property
    def identity(self) -> Identity:
        """Says which reservation arrives in a pickle, wherever it has been."""
        if self._identity is None:
            self._identity = identity_of(self._serial)
        return self._identity

    @property
    def address(self) -> int:
        """The first address."""
        return self.range.start

    @property
    def size(self) -> int:
        """Bytes, without the guards."""
        return self.range.stop - self.range.start

    @property
    def released(self) -> bool:
        return self._released is True

    @property
    def parts(self) -> tuple[Part, ...]:
        """What is committed, by address."""
        return tuple(self._parts)

    @property
    def committed(self) -> RangeSet:
        return RangeSet(each.range for each in self._parts)

    @property
    def viewed(self) -> RangeSet:
        """What live views show."""
        return RangeSet(at for at, _ in list((self._leases or {}).values()))

    @property
    def space(self) -> MemorySpace:
        return self._space

    @property
    def sharing(self) -> str | None:
        """How host and devices share what is committed, where :func:`stead.reserve` was given ``devices``:
        "pageable", "registered", "located" or "managed"; None elsewhere."""
        return self._space.sharing

    def __repr__(self) -> str:
        state = "released" if self._released else f"{len(self.parts)} parts committed"
        return f"<Reservation {self.name + ' ' if self.name else ''}{self.range}, {state}>"

    # ---- committing ----

    def commit(
        self,
        offset: SupportsIndex | str = 0,
        size: SupportsIndex | str | None = None,
        *,
        backing: Backing | DriverMade | Literal["anonymous", "shared"] | None = None,
        access: Access = "rw",
    ) -> memoryview:
        """Put memory behind ``size`` bytes from ``offset`` (bytes; a multiple of the page size), by default
        to the end, and return them as a memoryview, writable where ``access`` has a "w". ``backing``: by default
        anonymous memory, or what the reservation's devices share.

        Whole pages are committed; the view has exactly ``size`` bytes. Of a device's memory it is a
        :class:`stead.DeviceView`, which cannot be touched from here. Raises Occupied where a part of it is
        committed already, LimitReached (an OSError) when memory, or the number of mappings, runs out,
        Unsupported, ValueError, Released. On failure nothing has changed.
        """
        where, length = self._locate(offset, size)
        _check_access(access)
        if access == "none":
            raise ValueError("access is 'none', must let the memory be read: commit first, then protect")
        self._check_free(where)
        chosen = self._space.usual if backing is None else as_backing(backing, self.name)
        began = time.perf_counter() if events.listeners else 0.0
        # Allocating may take seconds, so it is done before the lock is taken.
        source = self._space.secure(chosen, length, "w" in access)
        with table_lock:
            self._put(Part(where, length, chosen, source, access))
            view = self._lease(Range(where.start, where.start + length), "w" in access)
        if events.listeners:
            self._tell_committed(where, access, chosen, began)
        return view

    def receive(self, where: Range, length: int, backing: Backing, access: Access) -> None:
        """Commit what another process sent, where it is there, too, as :meth:`commit` does; for no view."""
        began = time.perf_counter() if events.listeners else 0.0
        with table_lock:
            self.check_live()
            if not self.range.contains(where):
                raise ValueError(f"{where} is not in {self.range}")
            self._check_free(where)
            self._put(Part(where, length, backing, self._space.secure(backing, length, "w" in access), access))
        if events.listeners:
            self._tell_committed(where, access, backing, began)

    def _put(self, part: Part) -> None:
        self.check_live()
        if self._parts is _NO_PARTS:
            self._enter()
            self._parts = PartTable()
        # The table first: should memory run out, it does so before anything has changed.
        if there := self._parts.add(part):
            raise Occupied(part.range, self.obstacle(there))
        try:
            self._space.commit(part.range, part.source, part.access)
        except BaseException:
            self._parts.cut(part.range)
            raise
        if self.name is not None and part.source.fd < 0:
            self._rename(part.range)
        self.generation += 1

    def _tell_committed(self, where: Range, access: Access, backing: Backing, began: float) -> None:
        taken = time.perf_counter() - began
        events.emit("commit", range=where, name=self.name, access=access, backing=backing, seconds=taken)

    def view(self, offset: SupportsIndex | str = 0, size: SupportsIndex | str | None = None) -> memoryview:
        """A memoryview of committed memory: ``size`` bytes from ``offset`` (any, in bytes), by default up to
        where the committed memory ends. Read-only where any of it is. Raises ValueError, Released."""
        start = self._offset(offset) + self.range.start
        with table_lock:
            self.check_live()
            if size is None:
                stop = start
                for part in self._parts.overlapping(Range(start, self.range.stop)):
                    if part.range.start > stop:
                        break
                    stop = part.range.start + part.length
                    if part.length < part.range.size:
                        break
                if stop <= start:
                    raise ValueError(f"offset is {offset!r}: nothing is committed there")
                where = Range(start, stop)
            else:
                where = Range.sized(start, self._positive(size))
            self._check_committed(where)
            accesses = [part.access for part in self._parts.overlapping(where)]
            if "none" in accesses:
                raise ValueError(f"{where} is protected against any access")
            return self._lease(where, all("w" in access for access in accesses))

    def protect(
        self, offset: SupportsIndex | str = 0, size: SupportsIndex | str | None = None, *, access: Access
    ) -> None:
        """Change what may be done with committed memory: "none", "r", "rw", "rx" or "rwx".

        Raises BufferError where a live view could do more than that, Unsupported where the backing was not
        opened for it, LimitReached, ValueError, Released. On failure nothing has changed.
        """
        where, _ = self._locate(offset, size)
        _check_access(access)
        with table_lock:
            self.check_live()
            self._check_committed(where)
            if access == "none":
                self._check_no_views(where, "protect")
            elif "w" not in access:
                self._check_no_views(where, "make read-only", writable_only=True)
            done: list[Part] = []
            for part in self._parts.inside(where):
                try:
                    self._space.protect(part.range, access)
                except BaseException as error:
                    self._undo_protect(done, error)
                    raise
                done.append(part)
            for part in done:
                self._parts.put(Part(part.range, part.length, part.backing, part.source, access))

    def _undo_protect(self, done: list[Part], error: BaseException) -> None:
        leaked = []
        for part in done:
            try:
                self._space.protect(part.range, part.access)
            except AddressSpaceError:
                leaked.append(part.range)
        if leaked:
            raise RollbackFailed(f"{error}; and {leaked} could not be set back", leaked) from error

    def discard(self, offset: SupportsIndex | str = 0, size: SupportsIndex | str | None = None) -> None:
        """Let the kernel drop contents and keep the mapping. Anonymous and shared memory read as zeros
        afterwards (shared memory for everyone who maps it); a private file reads as the file again; a shared
        file keeps its contents.

        Shared memory gives up with its contents that it was secured at commit: should memory run out, the
        next touch can be fatal. To have it secured, decommit and commit instead.
        """
        where, _ = self._locate(offset, size)
        with table_lock:
            self.check_live()
            self._check_committed(where)
            for part in self._parts.inside(where):
                advice = part.backing.discard(part.source, part.range.size)
                if advice is not None:
                    self._space.discard(part.range, advice)

    def decommit(self, offset: SupportsIndex | str = 0, size: SupportsIndex | str | None = None) -> None:
        """Drop what is behind ``size`` bytes from ``offset``, by default all; the addresses stay ours.

        What is not committed stays as it is. Raises BufferError where a view is live, ValueError, Released.
        Does not fail at the limit of mappings: there the contents go at once, and the access as soon as
        the kernel lets us.
        """
        where, _ = self._locate(offset, size)
        with table_lock:
            self.check_live()
            if self._leases:
                self._check_no_views(where, "decommit")
            for part, edge in self._parts.straddling(where):
                pages = part.source.granularity
                if (edge - part.range.start) % pages:
                    raise ValueError(f"cannot cut {part.range} at {edge:#x}: its pages have {pages} bytes")
            left: Range | None = where
            while left and (batch := self._parts.first(left, _BATCH)):
                stop = left.stop if len(batch) < _BATCH else min(batch[-1].range.stop, left.stop)
                self._decommit(Range(left.start, stop))
                left = Range(stop, left.stop) if stop < left.stop else None
        if events.listeners:
            events.emit("decommit", range=where, name=self.name)

    # ---- giving memory back, and keeping the addresses ----

    def pause(self, *, keep: bool = False) -> None:
        """Give the physical memory of a device back: every address, and everything that is committed, stays ours,
        but there is nothing behind it until :meth:`resume`. Waits for what the devices still do.

        ``keep``: copy the contents to the host meanwhile; without it they are undefined afterwards. On failure all
        is as it was. Raises Unsupported where it is not a device's memory or another process has it, too;
        LimitReached where there is no room for the contents; DriverError, Paused, Released.
        """
        self._replace_memory(lambda: self._space.pause(self.range, keep), "pause")

    def resume(self) -> None:
        """Put memory behind everything again that :meth:`pause` took it from; nothing where it is not paused.
        On failure it stays paused. Raises LimitReached where the device has too little left, DriverError,
        Released."""
        if self.paused:
            self._replace_memory(lambda: self._space.resume(self.range), "resume")

    @property
    def paused(self) -> bool:
        return not self._released and self._space.paused(self.range)

    def _replace_memory(self, replace: Callable[[], None], what: Literal["pause", "resume"]) -> None:
        with table_lock:
            self.check_live()
            replace()
            self.generation += 1
        if events.listeners:
            events.emit(what, range=self.range, name=self.name)

    def _decommit(self, where: Range) -> None:
        # The table first: should memory run out, it does so before anything has changed.
        taken = self._parts.cut(where)
        try:
            inaccessible = self._space.decommit(where)
        except BaseException:
            for part in taken:
                self._parts.put(part)
            raise
        self._rename(where)
        self.generation += 1
        if not inaccessible:
            if self._lingering is None:
                self._lingering = []
            self._lingering.append(where)
        elif self._lingering:
            self._sweep(self._lingering)

    def _rename(self, where: Range) -> None:
        """A name in the maps goes with the mapping that is replaced. Named alike, neighbours merge again."""
        if self.name is not None and isinstance(self._space, ProcessSpace):
            self._space.name(where, SHARED_PREFIX + self.name)

    def _sweep(self, lingering: list[Range]) -> None:
        """Make inaccessible what the limit of mappings left accessible before, as far as it lets us now."""
        while lingering:
            for hole in list(self._parts.holes(lingering[-1])):
                if not self._space.decommit(hole):
                    return
            lingering.pop()

    # ---- the end ----

    def release(self) -> None:
        """Give the addresses back. Idempotent. Raises BufferError where a view is live, LimitReached where the
        kernel refuses (the reservation is whole then, and can be released later)."""
        _acquire()  # `with table_lock` costs three times as much, of every reservation
        try:
            if self._released:
                return
            if self._leases:
                self._check_no_views(self.range, "release")
            if self._end is not None or self._unmap():
                self._enter()
                self._space.release(self.outer)  # says why not, where it was refused before
                if self._end is None:
                    self._forget()
                else:
                    self._end.cancel()
            self._released = True
            self._parts = _NO_PARTS
        finally:
            _unlock()
        if events.listeners:
            events.emit("release", range=self.range, outer=self.outer, name=self.name)

    def __enter__(self) -> Self:
        self.check_live()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.release()
        except BufferError:
            # The traceback of what went wrong keeps the views of its frames alive: do not hide it behind
            # them. The addresses go when the views do.
            if error is None:
                raise

    # ---- inside ----

    def _enter(self) -> None:
        """Have the space know of it, where that has not been worth a claim's time: at the first commit, at the
        latest. Whose end is the space's business is not unmapped from here."""
        if self._end is None and (end := self._space.at_the_end(self.outer)) is not None:
            self._end = end
            self._forget()

    def _lease(self, where: Range, writable: bool) -> memoryview:
        view: memoryview = self._space.view(where, writable, self)  # or a DeviceView, which has an obj, too
        if self._leases is None:
            self._leases = {}
        leases = self._leases
        leases[ref(view.obj, leases.pop)] = (where, writable)  # type: ignore[arg-type]
        return view

    def _check_no_views(self, where: Range, doing: str, *, writable_only: bool = False) -> None:
        leases = self._leases or {}
        live = [
            at for at, writable in list(leases.values())
            if at.overlaps(where) and (writable or not writable_only)
        ]  # fmt: skip
        if live:
            raise BufferError(
                f"cannot {doing} {where}: {len(live)} live view{'s' * (len(live) > 1)} of it, the first at "
                f"{live[0]}; delete or release the memoryviews, and the arrays made from them"
            )

    def check_live(self) -> None:
        """Raises Released after the release."""
        if self._released:
            raise Released(f"{self.range} was released")

    def _check_free(self, where: Range) -> None:
        for part in self._parts.overlapping(where):
            raise Occupied(where, self.obstacle(part))

    def obstacle(self, part: Part) -> Obstacle:
        """A committed part as what is in the way of another."""
        return Obstacle(part.range, f"a committed part of this reservation ({part.backing!r})", "this process")

    def _check_committed(self, where: Range) -> None:
        for hole in self._parts.holes(where):
            raise ValueError(f"{where} is not all committed: {hole} is not")

    def _offset(self, offset: SupportsIndex | str) -> int:
        number = parse_size(offset, "offset")
        start, stop = self.range
        if not 0 <= number < stop - start:
            raise ValueError(f"offset is {offset!r}, must be 0 or more and less than the size, {stop - start}")
        return number

    def _positive(self, size: SupportsIndex | str) -> int:
        number = parse_size(size, "size")
        if number <= 0:
            raise ValueError(f"size is {size!r}, must be at least 1 byte")
        return number

    def _locate(self, offset: SupportsIndex | str, size: SupportsIndex | str | None) -> tuple[Range, int]:
        """The whole pages that are meant, and the bytes asked for."""
        self.check_live()
        whole, stop = self.range
        start, page = self._offset(offset), self._space.granularity
        if start % page:
            raise ValueError(f"offset is {offset!r}, must be a multiple of the page size, {page}")
        first = whole + start
        length = stop - first if size is None else self._positive(size)
        if length > stop - first:
            raise ValueError(
                f"size is {size!r} from offset {offset!r}: that is {length - (stop - first)} bytes beyond the "
                f"reservation's end ({self.size} bytes)"
            )
        return Range(first, first + align_up(length, page)), length


claim_here: Callable[[MemorySpace, int, int], Reservation | None] = partial(
    Reservation._claim, _NO_PARTS, ledger.held, ledger.forget
)
"""``claim_here(space, address, size)``: claim exactly there in this process, whose space it is, and hold it; None
where it is occupied, or refused for another reason. One call of C: what every reservation costs."""


claim_driven: Callable[[MemorySpace, int, int, int, int, int], Reservation | int | None] = partial(
    Reservation._claim_driven, _NO_PARTS, ledger.held, ledger.forget
)
"""``claim_driven(space, reserve, free, parcel, address, size)``: the same through a driver, by its ``functions``,
which reserve whole parcels; where the driver went elsewhere, the address, which it holds now."""


def _check_access(access: str) -> None:
    if access not in _ACCESSES:
        raise ValueError(f"access is {access!r}, must be one of {', '.join(_ACCESSES)}")
