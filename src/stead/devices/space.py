"""The addresses of this process as a device's driver hands them out.

Under unified addressing a process and its devices have one set of addresses, so this space is the process's own:
its identity is that of :func:`stead.this_process`, and what is claimed here is occupied there. What differs is who
is asked. A driver takes an address as a hint (cuMemAddressReserve, CUDA driver API, "Virtual Memory Management"),
so a claim is: ask, compare, give back what is elsewhere. It reserves whole parcels (of 32 MiB for an H100), and
what is left of one goes to whoever asks next, whatever the hint: so whole parcels are asked for
(docs/decisions/0016). Only memory that the driver makes can be behind it.

Threads: every method is safe. Fork: no driver survives one; a child can release nothing and commit nothing here.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import deque
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import ref

from stead import _native, ledger
from stead.devices.driver import DriverError, Location, Meaning
from stead.devices.hints import followed_at
from stead.devices.mapped import ByAddress, Mapped
from stead.devices.memory import DeviceBacking, Physical, refused
from stead.devices.placing import ACCESS, Away, bring_back, map_again, map_all, take_away, unmap_all
from stead.devices.view import DeviceView
from stead.errors import AddressSpaceError, LimitReached, Obstacle, Occupied, Paused, RollbackFailed, Unsupported
from stead.placement import Footprint, quiet_windows
from stead.ranges import Range, RangeSet, align_down, align_up
from stead.space.process import this_process

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from stead.backing import Backing
    from stead.devices.driver import DeviceAccess, DeviceFacts, Driver
    from stead.space.protocol import Access


# What a driver may have left of parcels of its own is given out before it follows a hint; such holes are of the
# size of a few parcels, each.
_MOST_ASIDE = 64


class DeviceSpace:
    """The space of this process through ``driver``; its granularity is the largest of its devices', its alignment
    the least at which the driver follows hints. One for each driver is enough: :class:`stead.CudaSpace` and its
    like have it.

    Raises Unsupported where no device manages addresses.
    """

    def __init__(self, driver: Driver, *, usual: DeviceBacking | None = None, sharing: str | None = None) -> None:
        """``usual``: what is committed where a commit does not say; ``sharing``: what to call that."""
        self.usual, self.sharing = usual, sharing
        self.driver = driver
        self.devices: tuple[DeviceFacts, ...] = tuple(driver.devices())
        if not any(each.manages_addresses for each in self.devices):
            found = ", ".join(each.name for each in self.devices) or "no device"
            raise Unsupported(f"a space of {driver.name}'s", "a device whose driver manages addresses", found)
        self.granularity = max(
            driver.granularity(Location("device", each.number)) for each in self.devices if each.manages_addresses
        )
        self._host = this_process()
        self.alignment = followed_at(driver, self.granularity, self._host.windows[0])
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._locked = _Locked(self)
        self._ended: deque[Range] = deque()  # of reservations that nobody has any more, to be released
        self._held: ByAddress[Range] = ByAddress()  # what was claimed, at the driver's reservations
        self._mapped: ByAddress[Mapped] = ByAddress()
        self._away: list[Away] = []  # what is paused
        self._evaded: tuple[Range, int] | None = (
            None  # the last claim that the driver did not follow: where it went
        )

    # ---- what is known ----

    @property
    def identity(self) -> Hashable:
        return self._host.identity

    @cached_property
    def uuids(self) -> tuple[tuple[int, str], ...]:
        """Of the devices, by number."""
        return tuple((each.number, each.uuid) for each in self.devices)

    @cached_property
    def usable(self) -> Range:
        everything, unit = self._host.usable, self.alignment
        return Range(align_up(everything.start, unit), align_down(everything.stop, unit))

    @cached_property
    def windows(self) -> tuple[Range, ...]:
        return quiet_windows(self.usable, self.alignment)

    def outline(self, within: Range) -> Footprint:
        return Footprint(self._all_parcels(self._host.outline(within).occupied), self.granularity)

    def footprint(self, within: Range) -> Footprint:
        occupied = self._host.footprint(within).occupied | RangeSet(self._ours(within))
        return Footprint(self._all_parcels(occupied), self.granularity)

    def _parcels(self, where: Range) -> Range:
        """The driver's whole parcels that ``where`` takes."""
        return Range(align_down(where.start, self.alignment), align_up(where.stop, self.alignment))

    def _all_parcels(self, occupied: RangeSet) -> RangeSet:
        return RangeSet(map(self._parcels, occupied))

    def _ours(self, where: Range) -> list[Range]:
        """What this process holds of ``where``, should a driver's reservations not be listed as its mappings."""
        with self._locked:
            found = self._held.overlapping(where)
        return found + [each.outer for each in ledger.within(where) if each.space.identity == self.identity]

    def obstacle(self, where: Range) -> Obstacle | None:
        parcels = self._parcels(where)
        if (found := self._host.obstacle(parcels)) is not None:
            return found
        for each in self._ours(parcels):
            return Obstacle(each, f"a reservation of {self.driver.name}'s", "this process")
        with self._locked:
            if self._evaded and self._evaded[0] == where:
                name = f"nothing that is listed: the driver went to {self._evaded[1]:#x} instead"
                return Obstacle(where, name, self.driver.name)
        return None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.driver.name}, {len(self.devices)} devices>"

    # ---- claiming ----

    def reserve_at(self, where: Range, keep: list[Range] | None = None) -> None:
        start, size = where.start, where.stop - where.start
        if size <= 0 or start % self.alignment or size % self.granularity:
            raise ValueError(
                f"cannot claim {where}: {self.driver.name} takes multiples of {self.granularity:#x} bytes, "
                f"and goes to multiples of {self.alignment:#x}"
            )
        if where.stop > self.usable.stop:
            end = self.usable.stop
            raise LimitReached(f"cannot claim {where}: addresses end at {end:#x} here", "VA width")
        if where.start < self.usable.start:
            raise LimitReached(f"cannot claim {where}: addresses begin at {self.usable.start:#x}", "mmap_min_addr")
        aside: list[Range] = []
        claimed = False
        try:
            claimed = self._claim(where, aside)
        finally:
            if keep is not None and not claimed:
                keep += aside
            else:
                self.give_back(aside, where if claimed else None)
        if not claimed:
            raise Occupied(where)

    def _claim(self, where: Range, aside: list[Range]) -> bool:
        """Ask until the driver goes there, which is at once, unless it has parcels that are not full: these go
        first. What it gives is set ``aside``, so that they are full some time."""
        parcels = self._parcels(where)
        for _ in range(_MOST_ASIDE):
            try:
                got = self.driver.reserve(parcels.size, self.alignment, parcels.start)
            except DriverError as error:
                raise self._not_claimed(error, where) from error
            if got == parcels.start:
                with self._locked:
                    self._held.add(parcels, where)
                return True
            aside.append(self.evaded(where, got))
            if len(aside) == 1 and (self._host.obstacle(parcels) or self._ours(parcels)):
                return False
        return False

    def evaded(self, where: Range, address: int) -> Range:
        """The driver was asked for ``where`` and has reserved what is given back, which is ours to release."""
        elsewhere = Range.sized(address, self._parcels(where).size)
        with self._locked:
            self._held.add(elsewhere, elsewhere)
            self._evaded = (where, address)
        return elsewhere

    def _not_claimed(self, error: DriverError, where: Range) -> Exception:
        if self._host.obstacle(where):
            return Occupied(where)  # a driver may refuse what it cannot have, instead of going elsewhere
        if error.meaning is Meaning.OUT_OF_MEMORY:
            return LimitReached(f"cannot claim {where}: {error}", f"{self.driver.name}'s addresses")
        return error

    def give_back(self, aside: Sequence[Range], claimed: Range | None = None) -> None:
        """What the driver gave instead. Raises RollbackFailed with what it does not take, and then gives
        ``claimed`` back, too."""
        left: list[Range] = []
        cause = None
        for each in aside:
            try:
                self.release(each)
            except AddressSpaceError as error:
                left, cause = [*left, each], error
        if not left:
            return
        if claimed is not None:
            try:
                self.release(claimed)
            except AddressSpaceError:
                left.append(claimed)
        text = f"{', '.join(map(str, left))}, which the driver gave instead, is still held"
        raise RollbackFailed(text, left) from cause

    def release(self, where: Range) -> None:
        """Give back exactly one reservation, and whatever is mapped in it. Raises DriverError, and changes nothing
        that the driver refuses to; ValueError where it is none."""
        with self._locked:
            self._release(where)

    def _release(self, where: Range) -> None:
        parcels = self._parcels(where)
        if self._held.around(parcels) != where:
            raise ValueError(f"{where} is no reservation of {self!r}")
        mapped = self._mapped.overlapping(where)
        if mapped:
            self._wait_for(mapped)
            unmap_all(self.driver, mapped)
        try:
            self.driver.free(parcels.start, parcels.size)
        except DriverError as error:
            map_again(self.driver, mapped, error)
            raise refused(error, f"giving back {where}") from error
        self._held.remove(parcels)
        for each in mapped:
            self._mapped.remove(each.range)
            each.physical.release(each.first, each.pieces)
        if self._away:
            self._away = [each for each in self._away if not where.contains(each.mapped.range)]

    def at_the_end(self, where: Range) -> _native.Finalizer | None:
        with self._locked:
            parcels = self._parcels(where)
            if self._held.around(parcels) is None:  # claimed without a look at the tables here
                self._held.add(parcels, where)
        return _native.Finalizer(DeviceSpace._end, self, where)

    def _end(self, where: Range) -> None:
        """Of a reservation that nobody has any more. It may be found out in the middle of anything, by any thread:
        whoever has the lock releases it. In a forked child there is no driver to tell."""
        if os.getpid() == self._pid:
            self._ended.append(where)
            self._release_ended()

    def _release_ended(self) -> None:
        while self._ended and self._lock.acquire(blocking=False):
            try:
                where = self._ended.popleft()
                try:
                    self._release(where)
                except AddressSpaceError as error:
                    warnings.warn(f"{where} is still held: {error}", ResourceWarning, stacklevel=2)
            except IndexError:
                pass  # another thread was quicker
            finally:
                self._lock.release()

    # ---- memory ----

    def secure(self, backing: Backing | DeviceBacking | None, size: int, writable: bool) -> Physical:
        """Memory for a commit. Raises LimitReached, Unsupported, ValueError."""
        if not isinstance(backing, DeviceBacking):
            wants = "memory that the driver makes: stead.DeviceMemory or stead.HostMemory"
            raise Unsupported(f"committing in {self!r}", wants, "no backing" if backing is None else repr(backing))
        return backing.secure(self.driver, size)

    def commit(self, where: Range, physical: Physical, access: Access) -> None:
        if access not in ACCESS:
            _allowed(access)
        if where.start % self.granularity:
            raise ValueError(f"address is {where.start:#x}, must be a multiple of {self.granularity:#x}")
        if where.size != physical.size:
            raise ValueError(
                f"size is {where.size}, and the memory has {physical.size}: it comes in pieces of {physical.piece}"
            )
        mapped = Mapped(where, physical, 0, access)
        with self._locked:
            if self._held.around(where) is None:
                raise ValueError(f"{where} is in no reservation of {self!r}")
            try:
                map_all(self.driver, [mapped])
            except BaseException:
                # Not when it goes: the exception that is on its way keeps it.
                physical.release(0, mapped.pieces)
                raise
            self._mapped.add(where, mapped)

    def decommit(self, where: Range) -> bool:
        with self._locked:
            self._check_not_paused(where)
            found = self._mapped.overlapping(where)
            inside = [each.cut(where) for each in found]  # before anything has changed
            self._wait_for(inside)
            unmap_all(self.driver, inside)
            for whole, part in zip(found, inside, strict=True):
                self._replace(whole, part)
                part.physical.release(part.first, part.pieces)
        return True

    def _replace(self, whole: Mapped, gone: Mapped, *instead: Mapped) -> None:
        self._mapped.remove(whole.range)
        left = () if gone is whole else whole.without(gone.range)
        for each in (*left, *instead):
            self._mapped.add(each.range, each)

    def _wait_for(self, mapped: Sequence[Mapped]) -> None:
        """Unmapping does not wait for what still uses it (CUDA driver API, cuMemUnmap)."""
        for device in {who.id for each in mapped for who in each.physical.who if who.kind == "device"}:
            self.driver.synchronize(device)

    def _check_not_paused(self, where: Range) -> None:
        for each in self._away:
            if each.mapped.range.overlaps(where):
                raise Paused(f"{each.mapped.range} is paused: resume it first", range=each.mapped.range)

    def protect(self, where: Range, access: Access) -> None:
        allowed = _allowed(access)
        with self._locked:
            self._check_not_paused(where)
            for whole in self._mapped.overlapping(where):
                part = whole.cut(where)
                try:
                    self.driver.allow(part.range.start, part.range.size, part.physical.who, allowed)
                except DriverError as error:
                    raise refused(error, f"{access!r} for {part.range}") from error
                self._replace(whole, part, Mapped(part.range, part.physical, part.first, access))

    def discard(self, where: Range, advice: int) -> None:
        raise Unsupported("discarding", "memory of the host's kernel", repr(self))

    def view(self, where: Range, writable: bool, owner: object) -> memoryview | DeviceView:
        """Memory of the host as a memoryview, a device's as a :class:`DeviceView`."""
        with self._locked:
            self._check_not_paused(where)
            found = self._mapped.overlapping(where)
        if not found:
            raise ValueError(f"nothing is mapped at {where}")
        location = found[0].physical.location
        if location.kind != "device":
            return memoryview(_native.Exporter(where.start, where.size, not writable, owner))
        return DeviceView(self.driver, where, location.id, not writable, owner)

    # ---- giving memory back, and keeping the addresses ----

    def pause(self, where: Range, keep: bool) -> None:
        """See :meth:`stead.Reservation.pause`."""
        with self._locked:
            self._check_not_paused(where)
            mapped = self._mapped.overlapping(where)
            self._wait_for(mapped)
            self._away += take_away(self.driver, mapped, keep)
            for each in mapped:
                self._mapped.remove(each.range)

    def resume(self, where: Range) -> None:
        """See :meth:`stead.Reservation.resume`."""
        with self._locked:
            back = [each for each in self._away if where.contains(each.mapped.range)]
            bring_back(self.driver, back)
            self._away = [each for each in self._away if each not in back]
            for each in back:
                self._mapped.add(each.mapped.range, each.mapped)

    def paused(self, where: Range) -> bool:
        """Whether any of it is."""
        return any(each.mapped.range.overlaps(where) for each in list(self._away))

    # ---- for those who send it to other processes ----

    def mapped(self, where: Range) -> list[Mapped]:
        """What is mapped in ``where``, by address, whole."""
        with self._locked:
            self._check_not_paused(where)
            return self._mapped.overlapping(where)


class _Locked:
    """The lock, and behind it what ended meanwhile. (As a generator it would be half of what a claim costs.)"""

    __slots__ = ("_lock", "_space")

    def __init__(self, space: DeviceSpace) -> None:
        self._space, self._lock = ref(space), space._lock

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._lock.release()
        space = self._space()
        if space is not None and space._ended:
            space._release_ended()


def _allowed(access: Access) -> DeviceAccess:
    try:
        return ACCESS[access]
    except KeyError:
        raise ValueError(f"access is {access!r}, must be 'r', 'rw' or 'none' for a device") from None
