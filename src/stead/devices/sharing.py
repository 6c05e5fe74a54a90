"""Memory that the host and devices use at one address, in one of four ways, and never another than was asked for.

pageable: ordinary memory, which the devices reach by themselves (heterogeneous memory management, or a coherent
link). registered: ordinary memory, pinned and made known to the driver at each commit (cuMemHostRegister), where a
device calls it by the host's address. located: memory of the host that the driver makes and maps (cuMemCreate
with a NUMA node). managed: memory that migrates (cuMemAllocManaged); the driver alone chooses its address.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal, get_args

from stead import _native
from stead.devices.driver import DriverError
from stead.devices.memory import HostMemory, device_number, refused
from stead.devices.space import DeviceSpace
from stead.devices.spaces import driver as driver_called
from stead.errors import RollbackFailed, Unsupported
from stead.ranges import Range, align_up
from stead.space.process import ProcessSpace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stead.backing import Source
    from stead.devices.driver import DeviceFacts, Driver
    from stead.space.protocol import Access

Sharing = Literal["pageable", "registered", "located", "managed"]

# What a device must be able to do for each; in the order of preference where the caller has none. Managed memory
# is for those who ask for it: its place is not ours to choose.
_NEEDS: dict[Sharing, str] = {
    "pageable": "reaches_pageable",
    "registered": "registered_at_host_address",
    "located": "host_located",
    "managed": "manages_memory",
}


def space_for(devices: Sequence[int], sharing: Sharing | None, driver: Driver | None = None) -> Shared:
    """A space in which what is committed is used by the host and by ``devices``, shared as asked, or in the best
    way that all of them have. Its ``sharing`` says which. Raises Unsupported, which says of every device what it
    lacks; ValueError, TypeError."""
    numbers = tuple(dict.fromkeys(device_number(each, "devices") for each in devices))
    if not numbers:
        raise ValueError("devices is empty, must name at least one")
    if sharing is not None and sharing not in _NEEDS:
        raise ValueError(f"sharing is {sharing!r}, must be one of {', '.join(get_args(Sharing))}, or None")
    driver = driver or driver_called("cuda")
    known = {each.number: each for each in driver.devices()}
    for number in numbers:
        if number not in known:
            raise ValueError(f"devices has {number}: {driver.name} has {', '.join(map(str, known)) or 'none'}")
    facts = [known[number] for number in numbers]
    ways: tuple[Sharing, ...] = (sharing,) if sharing else ("pageable", "registered", "located")
    for way in ways:
        if not _lacking(way, facts):
            shared: Shared = _MAKERS[way](driver, numbers)
            return shared
    lacks = "; ".join(f"{way}: not by {', '.join(_lacking(way, facts))}" for way in ways)
    raise Unsupported(f"memory that devices {numbers} share with the host", "a way that all of them have", lacks)


def _lacking(way: Sharing, facts: Sequence[DeviceFacts]) -> list[str]:
    return [f"device {each.number} ({each.name})" for each in facts if not getattr(each, _NEEDS[way])]


class Pageable(ProcessSpace):
    """This process, whose memory the devices reach by themselves."""

    sharing = "pageable"


class Registered(ProcessSpace):
    """This process, with each commit made known to the driver."""

    sharing = "registered"

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self._driver, self._pid = driver, os.getpid()
        self._registered: dict[int, int] = {}  # sizes by starts

    def commit(self, where: Range, source: Source, access: Access) -> None:
        super().commit(where, source, access)
        try:
            there = self._driver.register(where.start, where.size)
        except DriverError as error:
            self._take_back_after(error, where)
            raise refused(error, f"registering {where}") from error
        self._registered[where.start] = where.size
        if there != where.start:
            lacking = Unsupported(
                f"sharing {where}", "a device that calls it by the host's address", f"one that calls it {there:#x}"
            )
            self._take_back_after(lacking, where)
            raise lacking

    def _take_back_after(self, cause: BaseException, where: Range) -> None:
        try:
            self.decommit(where)
        except Exception as error:
            raise RollbackFailed(f"{cause}; and {where} is still committed: {error}", [where]) from cause

    def decommit(self, where: Range) -> bool:
        for start, size in list(self._registered.items()):
            part = Range.sized(start, size)
            if part.overlaps(where) and not where.contains(part):
                raise ValueError(f"cannot cut {part} at {where}: it is registered as a whole")
        self._unregister(where)
        return super().decommit(where)

    def _unregister(self, where: Range) -> None:
        if os.getpid() != self._pid:
            return  # a forked child has the memory, and no driver
        for start in [start for start in list(self._registered) if where.start <= start < where.stop]:
            try:
                self._driver.unregister(start)
            except DriverError as error:
                raise refused(error, f"unregistering {start:#x}") from error
            del self._registered[start]

    def release(self, where: Range) -> None:
        self._unregister(where)
        super().release(where)

    def at_the_end(self, where: Range) -> _native.Finalizer | None:
        return _native.Finalizer(Registered.release, self, where)


class Managed(ProcessSpace):
    """Memory that migrates between the host and devices, each reservation one allocation of the driver's."""

    sharing = "managed"

    @property
    def usual(self) -> Any:  # type: ignore[override]
        return MANAGED

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self._driver, self._pid = driver, os.getpid()
        self._sizes: dict[int, int] = {}

    def allocate(self, size: int) -> Range:
        """Addresses that have memory already, of whole pages. Raises LimitReached."""
        size = align_up(size, self.granularity)
        try:
            start = self._driver.managed(size)
        except DriverError as error:
            raise refused(error, f"{size} bytes of managed memory") from error
        self._sizes[start] = size
        return Range.sized(start, size)

    def reserve_at(self, where: Range, keep: list[Range] | None = None) -> None:
        raise Unsupported(f"claiming {where}", "another way of sharing", "'managed': the driver chooses the place")

    def secure(self, backing: Any, size: int, writable: bool) -> Any:
        if backing is not MANAGED:
            raise ValueError(f"backing is {backing!r}, must not be given: the memory is managed by the driver")
        return MANAGED  # nothing is to be secured: it was there before

    def commit(self, where: Range, source: Any, access: Access) -> None:
        if self._sizes.get(where.start) != where.size:
            raise Unsupported(f"committing {where}", "all of a managed reservation at once", "a part of it")
        if access != "rw":
            raise Unsupported(f"access {access!r}", "memory that is not managed", "managed memory, which is 'rw'")

    def decommit(self, where: Range) -> bool:
        raise Unsupported(f"decommitting {where}", "memory that is not managed", "managed memory; release it")

    def protect(self, where: Range, access: Access) -> None:
        raise Unsupported(f"protecting {where}", "memory that is not managed", "managed memory")

    def release(self, where: Range) -> None:
        if os.getpid() == self._pid and where.start in self._sizes:
            try:
                self._driver.free_managed(where.start)
            except DriverError as error:
                raise refused(error, f"giving back {where}") from error
            del self._sizes[where.start]

    def at_the_end(self, where: Range) -> _native.Finalizer | None:
        return _native.Finalizer(Managed.release, self, where)


class _ManagedMemory:
    """The one kind of memory that there is in a managed reservation, and where it comes from."""

    fd, offset, granularity, shareable = -1, 0, 1, False

    def discard(self, source: object, size: int) -> int | None:
        raise Unsupported("discarding managed memory", "memory that is not managed", repr(self))

    def __repr__(self) -> str:
        return "managed memory"


MANAGED = _ManagedMemory()

Shared = Pageable | Registered | Managed | DeviceSpace

_MAKERS: dict[Sharing, Any] = {
    "pageable": lambda driver, devices: Pageable(),
    "registered": lambda driver, devices: Registered(driver),
    "located": lambda driver, devices: DeviceSpace(driver, usual=HostMemory(devices), sharing="located"),
    "managed": lambda driver, devices: Managed(driver),
}
