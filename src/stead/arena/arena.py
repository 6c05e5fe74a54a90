"""Arena: blocks out of one range of addresses.

The core (native/arena.c) finds the blocks; here is decided what it is given: addresses, memory in steps, tables.

Threads: every method is safe, in C without the GIL. Fork: a child has a working copy where the memory is
private; where it is shared the blocks stay the parent's, and the child's copy hands out no more."""

from __future__ import annotations

from typing import TYPE_CHECKING, SupportsIndex

from stead import _native, events
from stead.arena import registry
from stead.arena.arrays import new_array
from stead.arena.care import Care, guard_size, not_live
from stead.arena.sources import UNIT, OfDevice, Whole, Within, in_reservation
from stead.arena.statistics import ArenaStatistics, SizeClass
from stead.arena.streams import Streams
from stead.arena.trimming import PIECE, give_back, next_limit
from stead.backing import Anonymous
from stead.claiming import reserve
from stead.devices.memory import DeviceMemory, HostMemory
from stead.devices.spaces import CudaSpace
from stead.devices.view import DLPACK_TYPES
from stead.errors import Corrupted, LimitReached, OutOfSpace, OverQuota, Released, Unsupported
from stead.ranges import Range, align_up
from stead.reservation import Reservation, table_lock
from stead.securing import PAGE
from stead.sizes import format_size, parse_address, parse_at_least

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Any, Literal, Self

    import numpy
    from numpy.typing import DTypeLike

    from stead.arena.sources import Source, type_of_backing

# Tables are committed as the arena grows, and most of them is never touched.
_TABLES = Anonymous(overcommit=True)

_LARGEST_ALIGNMENT = 1 << 40
_LEAST_STEP = 4 << 20
_LARGEST_STEP = 1 << 30
_SMALL = 16384  # bytes; larger blocks are runs of pages


class Arena(_native.Arena):
    """Hands out blocks of a range of addresses: small ones and large ones, in constant time, from any thread.

    ``source``: a size (bytes, or text such as "1 GiB"), which the arena reserves for itself; a Reservation, in
    which it commits memory as it grows, or all of which is committed; or a Block of another arena. Those are
    this one's alone until it ends.

    ``backing``: as for Reservation.commit, by default anonymous memory, in transparent huge pages where a
    program may ask for them; DeviceMemory for blocks on a device, each a :class:`stead.DeviceBlock`; "none" for
    addresses whose memory must not be touched: then there is ``allocate`` and no Block. ``step``: bytes by which
    the committed part grows at least; by default as much again as is committed, from 4 MiB to 1 GiB. ``keep``:
    how many bytes of free memory that was touched are kept for the next block; what is beyond goes back to the
    system, in large pieces; by default, and on a device, all is kept until ``trim``. ``quota``: bytes that there
    may be for blocks at the most, of all its addresses, rounded down to whole pages; OverQuota where they do not
    do. ``zero``: every block reads as zeros; fresh pages are not cleared for that.

    To find mistakes: ``guard``, so many bytes after each block that fault at a touch (whole pages; every block
    gets pages of its own); ``hardened``: writes past the end of a block and after its end are noticed, freed
    blocks are poisoned and wait before they are used again, and a second free is told where the first one was.

    Raises what :func:`stead.reserve` raises; Unsupported where the memory is not in this process.
    """

    __slots__ = ()

    _source: Source | None
    _tables: tuple[Reservation, list[int], list[int], list[memoryview]]
    _care: Care | None
    _policy: tuple[int | None, int | None, int | None]  # step, keep, quota
    _closed: bool | None
    _streams: Streams | None

    def __init__(
        self,
        source: SupportsIndex | str | Reservation | _native.Block | Within,
        *,
        name: str | None = None,
        backing: type_of_backing = None,
        step: SupportsIndex | str | None = None,
        keep: SupportsIndex | str | None = None,
        quota: SupportsIndex | str | None = None,
        zero: bool = False,
        guard: SupportsIndex | str = 0,
        hardened: bool = False,
    ) -> None:
        if self._source is not None:
            raise TypeError(f"{self!r} is made already")
        guards = parse_at_least(guard, "guard", 0)
        wanted = (
            None if step is None else parse_at_least(step, "step", 1),
            None if keep is None else parse_at_least(keep, "keep", 0),
        )
        most = None if quota is None else parse_at_least(quota, "quota", 1)
        self.name = name
        found = _source(source, name, backing)
        if most is not None:
            pages = max(found.granularity, UNIT)
            if most < pages:
                found.close()
                raise ValueError(f"quota is {quota!r}, must be at least a page of {format_size(pages)}")
            most = most // pages * pages
        self._policy = (*wanted, most)
        if not found.touchable and (zero or guards or hardened):
            found.close()
            wrong = "zero" if zero else "guard" if guards else "hardened"
            raise ValueError(f"{wrong} is given, and so is backing='none': the memory must not be touched")
        try:
            self._lay_tables(found, guard_size(guards))
        except BaseException:
            found.close()
            raise
        self._source = found
        registry.add(self)
        self._zero, self._untouchable = zero, not found.touchable
        if isinstance(found, OfDevice):
            self._untouchable = 2
            self._device_kind, self._device = DLPACK_TYPES[found.driver.name], found.device
            self._streams = Streams(found.driver, found.device)
        self._discardable = found.discardable
        if guards or hardened:
            self._care = Care(self, hardened, guard_size(guards))
            self._careful = True
        # A device is waited for before its memory goes: not in the middle of a free.
        if self._policy[1] is not None and not isinstance(found, OfDevice):
            self._trim_at = max(self._policy[1], PIECE)
        if found.at_once:
            try:
                self._add(self._max_units)
            except BaseException:
                self.close()
                raise

    def _lay_tables(self, source: Source, guard: int) -> None:
        units = min(source.where.size, self._policy[2] or source.where.size) // UNIT
        if units > _native.ARENA_MAX_UNITS:
            most = format_size(_native.ARENA_MAX_UNITS * UNIT)
            raise ValueError(f"source has {format_size(source.where.size)}, an arena has at most {most}")
        offsets = self._table_offsets(units)
        tables = reserve(offsets[-1], name=f"{self.name}:tables" if self.name else None)
        self._tables = (tables, offsets, [0] * (len(offsets) - 1), [])
        self._commit_tables(0)
        block_type = _native.DeviceBlock if isinstance(source, OfDevice) else _native.Block
        self._make(tables.address, source.where.start, units, guard, source.private, block_type)

    def _commit_tables(self, units: int) -> None:
        """The first part of every table, for so many units."""
        reservation, offsets, there, views = self._tables
        for i, wanted in enumerate(self._table_sizes(units)):
            if (needed := align_up(wanted, PAGE)) > there[i]:
                views.append(reservation.commit(offsets[i] + there[i], needed - there[i], backing=_TABLES))
                there[i] = needed

    # ---- what it is ----

    @property
    def range(self) -> Range:
        """All its addresses. Raises Released after close."""
        return self._live_source().where

    @property
    def closed(self) -> bool:
        return self._closed is True

    @property
    def quota(self) -> int | None:
        """Bytes that there may be for blocks at the most; None where it is the size alone that limits."""
        return self._policy[2]

    def __repr__(self) -> str:
        name = f" {self.name}" if self.name else ""
        return f"<Arena{name} {self._source.where}>" if self._source else f"<Arena{name}, closed>"

    # ---- by address ----

    def owns(self, address: SupportsIndex) -> bool:
        """Whether a live block of this arena holds the byte at ``address``."""
        at = parse_address(address)
        self._live_source()
        if self._care:
            return self._care.owns(self, at)
        return self._find(at)[0] in (_native.ARENA_DONE, _native.ARENA_INTERIOR, _native.ARENA_HELD)

    def size_of(self, address: SupportsIndex) -> int:
        """Bytes that can be used at the address of a block: as many as were asked for, or more. Raises
        NotLive."""
        at = parse_address(address)
        self._live_source()
        if self._care:
            return self._care.size_of(self, at)
        code, start, usable = self._find(at)
        if code not in (_native.ARENA_DONE, _native.ARENA_HELD):
            raise not_live(code, address.__index__(), start)
        return usable

    def resize(self, address: SupportsIndex, size: SupportsIndex | str) -> int | None:
        """Make the block at ``address`` as large as ``size`` bytes without moving it: the same address; or None
        where there is no room for that, and it is as it was. Its first bytes keep their contents. Raises
        NotLive, and ValueError where ``size`` is not positive."""
        at, wanted = parse_address(address), parse_at_least(size, "size", 1)
        self._live_source()
        if self._care:
            return self._care.resize(self, at, wanted)
        if wanted >= 1 << 62:
            wanted = 1 << 62
        code, _ = self._resize(at, wanted)
        if code == _native.ARENA_NO_SPACE:
            return None
        if code != _native.ARENA_DONE:
            raise not_live(code, address.__index__(), self._find(at)[1])
        return at

    # ---- on a device ----

    def free_after(self, address: SupportsIndex, *streams: int) -> None:
        """Free what ``allocate`` returned once all is done that ``streams`` (the driver's handles as ints; 0, the
        default stream, where none is given) have to do now. It waits for nothing: the addresses are nobody else's
        meanwhile. Raises NotLive, Unsupported where the memory is none of a device's, DriverError."""
        at = parse_address(address)
        self._live_source()
        if self._streams is None:
            raise Unsupported("freeing after a stream", "memory of a device", repr(self))
        events = self._streams.events(streams or (0,))
        if code := self._hold(at):
            self._streams.forget(events)
            raise not_live(code, address.__index__(), self._find(at)[1])
        if self._streams.wait(at, events):
            self._settle()

    def _free_block_after(self, address: int, streams: Iterable[int]) -> None:
        """The same for a block that is held already. Where the driver refuses it stays live: too early is
        worse."""
        assert self._streams is not None
        if self._streams.wait(address, self._streams.events(streams)):
            self._settle()

    def _settle(self, *, all: bool = False) -> int:
        """Free the blocks that no stream uses any more; ``all``: wait for them. How many there were."""
        freed = self._settle_behind(all)
        if self._streams is None:
            return freed
        done = self._streams.settle(all=all)
        for address in done:
            self._give_held(address)
        return freed + len(done)

    @property
    def reservation(self) -> Reservation | None:
        """What it hands out; None where that is a block of another arena. Raises Released."""
        owner = getattr(self._live_source(), "_reservation", None)
        return owner if isinstance(owner, Reservation) else None

    # ---- for NumPy ----

    def array(
        self,
        shape: SupportsIndex | Iterable[SupportsIndex],
        dtype: DTypeLike = float,
        order: Literal["C", "F"] = "C",
    ) -> numpy.ndarray[Any, Any]:
        """A NumPy array that lives in a Block of this arena, aligned to 64 bytes; its contents are undefined,
        but zeros where the arena was made with ``zero=True``. Raises what ``block`` does, TypeError for a dtype
        of objects, ImportError without NumPy."""
        return new_array(self, shape, dtype, order)

    # ---- giving memory back, looking, the end ----

    def trim(self, keep: SupportsIndex | str = 0) -> int:
        """Give free memory that was touched back to the system, all but ``keep`` bytes: the bytes given back.

        The addresses stay the arena's. What shared memory gives back is no longer secured: see
        Reservation.discard. A device's memory goes back to its driver in whole pieces of its backing, when the
        device has done all that it was given, and comes back as the arena grows; what has no ``piece=``, or is
        ``shareable``, stays.
        Raises DriverError, Paused, BufferError there, and then the rest is as it was.
        """
        left = parse_at_least(keep, "keep", 0)
        self._live_source()
        if self._care:
            self._care.flush(self)
        self._settle()
        self._purge()
        return self._give_back(left, UNIT)

    def statistics(self) -> ArenaStatistics:
        """How full it is, and how fragmented; goes through all of it."""
        source = self._live_source()
        self._settle()
        if self._care:
            blocks, bytes_ = self._care.waiting
        else:
            blocks = bytes_ = 0
        size, committed, used, live, largest, runs, high_water, dirty, classes = self._statistics()
        if isinstance(source, OfDevice):
            committed -= source.holes.size
            largest = max(largest, source.holes.largest)
            dirty = dirty if source.holes.piece else 0
        elif not source.touchable:
            dirty = committed = 0
        return ArenaStatistics(
            size, committed, used - bytes_, live - blocks, largest, runs, high_water,
            dirty, tuple(SizeClass(*each) for each in classes),
        )  # fmt: skip

    def check(self) -> None:
        """Walk every invariant of the tables, and in a hardened arena every canary. Raises Corrupted."""
        source = self._live_source()
        if wrong := self._check():
            what, unit = wrong
            address = source.where.start + unit * UNIT
            raise Corrupted(f"{self!r}: {what}, at {address:#x}", address=address)
        if self._care:
            self._care.check()

    def close(self) -> None:
        """Let go of the addresses and the memory. Idempotent. Raises BufferError where a block is live, and
        then the arena is as it was. Without it, they go when the arena and its last Block and array are
        gone."""
        with table_lock:
            if self._closed or self._source is None:
                return
            if self._care:
                self._care.flush(self)
            self._settle(all=True)
            statistics = self.statistics()
            if statistics.blocks:
                raise BufferError(
                    f"cannot close {self!r}: {statistics.blocks} live block{'s' * (statistics.blocks > 1)}, of "
                    f"{format_size(statistics.used)}; free them, delete the Blocks and the arrays made in it"
                )
            self._end_with(self._source)

    def abandon(self) -> None:
        """Close, whatever is live: for the owner of the memory, who takes it back."""
        with table_lock:
            if self._source is not None:
                self._end_with(self._source)

    def _end_with(self, source: Source) -> None:
        self._closed = True
        self._end()
        self._care = self._source = self._streams = None
        reservation, _, _, views = self._tables
        views.clear()
        reservation.release()
        source.close()

    def __enter__(self) -> Self:
        self._live_source()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except BufferError:
            if error is None:  # else the traceback keeps blocks of its frames alive: do not hide it behind them
                raise

    # ---- called by the core ----

    def _live_source(self) -> Source:
        if self._source is None:
            raise Released(f"{self!r}")
        return self._source

    def _request(self, size: SupportsIndex | str, alignment: SupportsIndex | str = 16) -> tuple[int, int]:
        """The arguments of allocate and block, checked."""
        wanted, multiple = parse_at_least(size, "size", 1), parse_at_least(alignment, "alignment", 1)
        if multiple & (multiple - 1):
            raise ValueError(f"alignment is {alignment!r}, must be a power of two")
        self._live_source()
        return min(wanted, 1 << 62), min(multiple, 1 << 63)

    def _refuse(self, code: int, size: int, alignment: int) -> None:
        source = self._live_source()
        if code == _native.ARENA_DISOWNED:
            raise Unsupported(
                "allocating in a forked child", "memory of its own", f"{self!r}, shared with the parent"
            )
        if alignment > max(source.where.size, UNIT):
            raise ValueError(f"alignment is {alignment}, must be at most the arena's size, {source.where.size}")
        aligned = f" aligned to {format_size(alignment)}" if alignment > 16 else ""
        found = self._statistics()
        largest, quota = found[4], self._policy[2]
        if quota is not None and self._max_units * UNIT < source.where.size >= size:
            raise OverQuota(
                f"size is {size} bytes{aligned}: {self!r} has a quota of {format_size(quota)}, of which "
                f"{format_size(found[2])} are used",
                size=size, largest_free_run=largest, quota=quota, used=found[2],
            )  # fmt: skip
        raise OutOfSpace(
            f"size is {size} bytes{aligned}: the largest free run of {self!r} has {largest} bytes, of "
            f"{format_size(source.where.size)} in all",
            size=size, largest_free_run=largest,
        )  # fmt: skip

    def _allocate(self, size: int, alignment: int) -> int:
        self._live_source()
        assert self._care
        return self._care.allocate(self, size, alignment)

    def _block(self, size: int, alignment: int) -> int:
        self._live_source()
        if self._care is None:
            raise Unsupported("a Block", "memory that may be touched", f"{self!r} with backing='none'")
        return self._care.allocate(self, size, alignment, held=True)

    def _free_block(self, address: int) -> None:
        """What the core refused to free for a holder, and the careful way for one."""
        if self._care is None:
            code, start, _ = self._find(address)
            raise not_live(code, address, start)
        self._care.free(self, address, held=True)

    def _free(self, address: SupportsIndex) -> None:
        """The careful way, and what the fast way refused."""
        at = parse_address(address)
        self._live_source()
        if self._care:
            self._care.free(self, at)
        elif code := self._give(at):
            raise not_live(code, address.__index__(), self._find(at)[1])

    # ---- growing ----

    def _grow(self, size: int, alignment: int) -> bool:
        """More units, so that this fits: whether there is something new to look at."""
        if self._settle():
            return True
        with table_lock:
            before = self._committed
            rest = self._max_units - self._units
            missing = self._shortfall(size, alignment)
            if missing > rest:
                self._purge()
                missing = self._shortfall(size, alignment)
            # Nothing is committed for what will not fit; but a small block may fit in whatever is left.
            fits = bool(rest and missing) and (missing <= rest or size <= _SMALL)
            refused = None
            try:
                grown = self._fill_hole(size, alignment, alone=fits)
                if fits and not grown:
                    self._add(min(missing, rest))
                    grown = True
            except LimitReached as error:
                grown, refused = False, error
        if grown:
            if events.listeners:
                self._tell_growth(before)
            return True
        if self._settle(all=True):  # what streams still use is all that is left
            return True
        if refused is not None:
            raise OutOfSpace(
                f"size is {size} bytes, and {self!r} cannot grow: {refused}",
                size=size, largest_free_run=self._statistics()[4],
            ) from refused  # fmt: skip
        return False

    def _lengthen(self, missing: int) -> None:
        """So many units more, if they can be had: the last block wants to grow."""
        with table_lock:
            before = self._committed
            if missing <= self._max_units - self._units:
                self._add(missing)
        if events.listeners:
            self._tell_growth(before)

    def _fill_hole(self, size: int, alignment: int, *, alone: bool) -> bool:
        """Memory again where a device's was given back: whether there is more now. In a hole that has room for the
        block by itself; unless ``alone``, in any, where all that is free might have room for it together."""
        source = self._source
        if not isinstance(source, OfDevice) or not source.holes.size:
            return False
        needed = size + (alignment if alignment > UNIT else 0)
        if source.holes.fill(self, needed, self._step(), source.commit):
            return True
        together = size <= source.holes.size + self._dirty
        return not alone and together and source.holes.fill(self, 1, source.holes.largest, source.commit)

    @property
    def _committed(self) -> int:
        """Bytes that have memory behind them."""
        holes = self._source.holes.size if isinstance(self._source, OfDevice) else 0
        return self._units * UNIT - holes

    def _tell_growth(self, before: int) -> None:
        if self._source and (after := self._committed) > before:
            where = self._source.where
            events.emit("growth", of="arena", name=self.name, range=where, before=before, after=after)

    def _step(self) -> int:
        """Bytes to grow by."""
        return self._policy[0] or min(max(self._committed, _LEAST_STEP), _LARGEST_STEP)

    def _add(self, least: int) -> None:
        """At least so many units more, by the step where memory allows it. Under the lock."""
        source = self._live_source()
        have = self._units
        wanted = max(least * UNIT, self._step())
        try:
            self._commit(source, have, wanted)
        except LimitReached:
            if wanted == least * UNIT:
                raise
            self._commit(source, have, least * UNIT)

    def _commit(self, source: Source, have: int, size: int) -> None:
        start = have * UNIT
        stop = min(align_up(start + size, source.granularity), self._max_units * UNIT)
        self._commit_tables(stop // UNIT)
        zero = source.commit(start, stop - start)
        self._extend((stop - start) // UNIT, zero)

    def _commit_ahead(self, least: int | None) -> None:
        """Memory for ``least`` bytes of blocks besides those there are, None: for all it may have; for callers
        under whose locks it cannot grow. Raises LimitReached, ValueError where it may not have so much."""
        with table_lock:
            used = self._statistics()[2]
            rest = self._max_units * UNIT - self._committed
            missing = rest if least is None else max(least - (self._committed - used), 0)
            if missing > rest:
                most = format_size(self._max_units * UNIT - used)
                raise ValueError(f"ahead is {least}, and {self!r} may have {most} more at the most")
            wanted = self._committed + missing
            if isinstance(source := self._live_source(), OfDevice):
                while missing > 0 and source.holes.fill(self, 1, missing, source.commit):
                    missing = wanted - self._committed
            if missing > 0:
                self._add(-(-missing // UNIT))

    # ---- trimming ----

    def _trim(self, _: int) -> None:
        """More than was to be kept is free."""
        keep = self._policy[1] or 0
        self._give_back(keep // 2, PIECE)
        self._trim_at = next_limit(keep, self._dirty)

    def _give_back(self, keep: int, least: int) -> int:
        source = self._live_source()
        with table_lock:  # who finds no space meanwhile waits here, and then finds what comes back
            if isinstance(source, OfDevice):
                return source.holes.give_back(self, keep, source.drop)
            if not source.touchable:
                return 0
            return give_back(self, keep, least, source.granularity, source.discard)


def _source(
    given: SupportsIndex | str | Reservation | _native.Block | Within,
    name: str | None,
    backing: type_of_backing,
) -> Source:
    if isinstance(given, Within):
        return given
    if isinstance(given, Reservation):
        return in_reservation(given, backing, own=False)
    if isinstance(given, _native.Block):
        if backing is not None:
            raise ValueError(f"backing is {backing!r}, which must not be given for a block of another arena")
        return Whole(given)
    size = parse_at_least(given, "source", 1)
    # So that a block can be aligned to the size of the arena.
    align = min(1 << (align_up(size, PAGE).bit_length() - 1), _LARGEST_ALIGNMENT)
    space = CudaSpace() if isinstance(backing, DeviceMemory | HostMemory) else None
    reservation = reserve(size, align=align, name=name, space=space)
    try:
        return in_reservation(reservation, backing, own=True)
    except BaseException:
        reservation.release()
        raise
