"""Intel's driver, through the Level Zero loader (libze_loader.so.1). Not run on hardware: against
tests/doubles/level_zero.c only.

The devices are those of the first driver that has GPUs, in one context of stead's own. What Level Zero lacks of
:class:`stead.devices.driver.Driver` is made up for here: memory that outlives its handle while it is mapped, and
aligned addresses. What it does not have at all is refused: other access for one device than for another, and
memory on a named NUMA node.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from ctypes import addressof, byref, c_size_t, c_ubyte, c_uint32, c_void_p
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any

from stead.devices import ze
from stead.devices.driver import DeviceFacts, DriverError, Location, Meaning
from stead.devices.library import (
    DriverLibrary,
    already_loaded,
    duplicate,
    on_the_host,
    opened,
    reserved,
    same_file,
)
from stead.devices.outliving import Mappings
from stead.errors import RollbackFailed, Unsupported
from stead.ranges import Range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stead.devices.driver import DeviceAccess
    from stead.devices.outliving import Mapping

LARGE = 1 << 30


class LevelZeroDriver:
    """Of this process. Raises Unsupported where there is no loader, no driver with a GPU, or one that is too old.

    ``library``: the loader's file; by default the one that is loaded already, or the system's. A stream is the
    handle of an immediate command list (zeCommandListCreateImmediate); 0 is one of stead's own.
    """

    name = "Level Zero"
    functions = None  # what a place takes here is more than a call

    def __init__(self, library: str | None = None) -> None:
        there = library or already_loaded("libze_loader.so")
        loader = opened("Level Zero", "its loader (libze_loader.so.1)", [there or "libze_loader.so.1"])
        self._ze = DriverLibrary("Level Zero", loader, ze.FUNCTIONS, ze.NEWER, ze.MEANINGS, ze.result_name)
        self._mapping = Lock()  # whose holder maps, unmaps, allows
        self._mapped = Mappings()
        self._listing = Lock()  # whose holder uses the lists, which must not be used at once
        self._lists: dict[int, int] = {}
        self._pools: dict[int, int] = {}
        try:
            self._ze.call("zeInit", ze.GPU_ONLY)
            drivers = self._many("zeDriverGet", c_void_p)
            found = [(driver, gpus) for driver in drivers if (gpus := self._gpus(driver))]
        except DriverError as error:
            raise Unsupported("Level Zero", "a driver with a GPU", str(error)) from error
        if not found:
            raise Unsupported("Level Zero", "a driver with a GPU", f"{len(drivers)} drivers without one")
        self._driver, self._devices = found[0]
        context = c_void_p()
        self._ze.call("zeContextCreate", self._driver, byref(ze.ContextDescription()), byref(context))
        self._context = context.value

    def _holding(self, lock: Lock) -> Lock:
        self._ze.check_process()
        return lock

    def _many(self, function: str, kind: type[Any], *of: Any) -> list[Any]:
        """All that a function has of a kind, which is asked for their number first."""
        count = c_uint32()
        self._ze.call(function, *of, byref(count), None)
        got = (kind * count.value)(*(kind() for _ in range(count.value)))
        self._ze.call(function, *of, byref(count), got)
        return list(got[: count.value])

    def _gpus(self, driver: int) -> list[int]:
        devices = self._many("zeDeviceGet", c_void_p, driver)
        return [each for each in devices if self._properties(each).type == ze.GPU]

    def _properties(self, device: int) -> ze.DeviceProperties:
        properties = ze.DeviceProperties()
        self._ze.call("zeDeviceGetProperties", device, byref(properties))
        return properties

    def _device(self, call: str, location: Location) -> int:
        if on_the_host(location).kind == "host node":
            raise DriverError(call, -1, "nothing", Meaning.UNSUPPORTED, "Level Zero knows no NUMA nodes")
        number = location.id if location.kind == "device" else 0
        if not 0 <= number < len(self._devices):
            raise DriverError(call, -1, "nothing", Meaning.INVALID, f"device {number} of {len(self._devices)}")
        return self._devices[number]

    # ---- devices ----

    def devices(self) -> Sequence[DeviceFacts]:
        return [self._facts(number, device) for number, device in enumerate(self._devices)]

    def _facts(self, number: int, device: int) -> DeviceFacts:
        properties, access = self._properties(device), ze.AccessProperties()
        self._ze.call("zeDeviceGetMemoryAccessProperties", device, byref(access))
        return DeviceFacts(
            number=number,
            name=properties.name.decode(errors="replace"),
            uuid=bytes(properties.uuid).hex(),
            memory=sum(
                each.size for each in self._many("zeDeviceGetMemoryProperties", ze.MemoryProperties, device)
            ),
            unified=bool(access.host & ze.READ_WRITE),
            manages_addresses=self._manages(number),
            shares_by_descriptor=self._ze.has("zePhysicalMemGetProperties") and self._shared_as(device) != 0,
            reaches_pageable=bool(access.system & ze.READ_WRITE),
            registered_at_host_address=ze.MAPS_SYSTEM_MEMORY in self._extensions,
            manages_memory=bool(access.shared & ze.READ_WRITE),
            host_located=self._host_located,
        )

    def _manages(self, number: int) -> bool:
        try:
            return self.granularity(Location("device", number)) > 0
        except DriverError as error:
            if error.meaning is Meaning.UNSUPPORTED:
                return False
            raise

    def _shared_as(self, device: int) -> int:
        """The kind of descriptor, a bit, in which the device exports and imports; 0 if there is none."""
        external = ze.ExternalProperties()
        self._ze.call("zeDeviceGetExternalMemoryProperties", device, byref(external))
        both = external.imports & external.exports
        return next((kind for kind in (ze.DMA_BUF, ze.OPAQUE_FD) if both & kind), 0)

    @cached_property
    def _extensions(self) -> frozenset[str]:
        found = self._many("zeDriverGetExtensionProperties", ze.Extension, self._driver)
        return frozenset(each.name.decode() for each in found)

    @cached_property
    def _host_located(self) -> bool:
        """Whether the driver is new enough; nothing tells but trying."""
        host = Location("host")
        try:
            self.release(self.create(self.granularity(host), host, shareable=False))
        except DriverError:
            return False
        return True

    # ---- addresses ----

    def granularity(self, location: Location, *, recommended: bool = False) -> int:
        # Drivers have small pages for small sizes only: what suits a large one suits all.
        page = c_size_t()
        device = self._device("zeVirtualMemQueryPageSize", location)
        self._ze.call("zeVirtualMemQueryPageSize", self._context, device, LARGE, byref(page))
        return page.value

    def reserve(self, size: int, alignment: int, hint: int) -> int:
        def once(size: int, hint: int) -> int:
            got = c_void_p()
            try:
                self._ze.call("zeVirtualMemReserve", self._context, hint or None, size, byref(got))
            except DriverError as error:
                if not hint or error.meaning is not Meaning.OUT_OF_MEMORY:
                    raise
                # Early drivers refuse a hint that cannot be followed, and do not go elsewhere.
                self._ze.call("zeVirtualMemReserve", self._context, None, size, byref(got))
            return got.value or 0

        return reserved(once, self.free, size, alignment, hint)

    def free(self, address: int, size: int) -> None:
        self._ze.call("zeVirtualMemFree", self._context, address, size)

    # ---- physical memory ----

    def create(self, size: int, location: Location, *, shareable: bool) -> int:
        behind = None
        if shareable:
            behind = ze.ExportDescription(flags=self._sharing("zePhysicalMemCreate", location))
        return self._physical(size, location, behind)

    def _sharing(self, call: str, location: Location) -> int:
        if kind := self._shared_as(self._device(call, location)):
            return kind
        raise DriverError(call, -1, "nothing", Meaning.UNSUPPORTED, f"{location} shares memory by no descriptor")

    def _physical(self, size: int, location: Location, behind: Any) -> int:
        device, got = self._device("zePhysicalMemCreate", location), c_void_p()
        description = ze.PhysicalDescription(
            next=addressof(behind) if behind is not None else None,
            flags=ze.ON_DEVICE if location.kind == "device" else ze.ON_HOST,
            size=size,
        )
        self._ze.call("zePhysicalMemCreate", self._context, device, byref(description), byref(got))
        return got.value or 0

    def release(self, handle: int) -> None:
        with self._holding(self._mapping):
            if self._mapped.released(handle):
                self._ze.call("zePhysicalMemDestroy", self._context, handle)

    def export(self, handle: int) -> int:
        # Only newer loaders have zePhysicalMemGetProperties; before, nothing exported physical memory.
        fd = ze.ExportDescriptor(flags=self._sharing("zePhysicalMemGetProperties", Location("device")), fd=-1)
        properties = ze.PhysicalProperties(next=addressof(fd))
        self._ze.call("zePhysicalMemGetProperties", self._context, handle, byref(properties))
        if fd.fd < 0:
            text = "the driver told no descriptor"
            raise DriverError("zePhysicalMemGetProperties", 0, "success", Meaning.UNSUPPORTED, text)
        fcntl.fcntl(fd.fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        return int(fd.fd)

    def adopt(self, fd: int, size: int, location: Location) -> int:
        kind = self._sharing("zePhysicalMemCreate", location)
        given = duplicate("zePhysicalMemCreate", fd)
        try:
            return self._physical(size, location, ze.ImportDescriptor(flags=kind, fd=given))
        finally:
            # The specification does not say whose the descriptor is afterwards.
            if same_file(fd, given):
                os.close(given)

    # ---- the one at the other ----

    def map(self, address: int, size: int, handle: int) -> None:
        with self._holding(self._mapping):
            self._map(address, size, handle, "none")
            self._mapped.add(address, size, handle)

    def _map(self, address: int, size: int, handle: int, access: DeviceAccess) -> None:
        self._ze.call("zeVirtualMemMap", self._context, address, size, handle, 0, ze.ACCESS[access])

    def unmap(self, address: int, size: int) -> None:
        with self._holding(self._mapping):
            inside = self._mapped.inside("zeVirtualMemUnmap", address, size)
            done: list[tuple[int, Mapping]] = []
            try:
                for start, each in inside:
                    self._ze.call("zeVirtualMemUnmap", self._context, start, each.size)
                    done.append((start, each))
            except DriverError as error:
                self._map_again(done, error)
                raise
            for handle in self._mapped.unmapped([start for start, _ in inside]):
                self._destroy_at_last(handle)

    def _destroy_at_last(self, handle: int) -> None:
        # It is unmapped all the same; a device that is lost gives its memory back with the process.
        with suppress(DriverError):
            self._ze.call("zePhysicalMemDestroy", self._context, handle)

    def _map_again(self, gone: list[tuple[int, Mapping]], cause: DriverError) -> None:
        lost: list[tuple[int, DriverError]] = []
        for start, each in gone:
            try:
                self._map(start, each.size, each.handle, each.access)
            except DriverError as error:
                lost.append((start, error))
        if lost:
            where = [Range.sized(start, each.size) for start, each in gone if start in dict(lost)]
            for handle in self._mapped.unmapped([start for start, _ in lost]):
                self._destroy_at_last(handle)
            text = f"{', '.join(map(str, where))}: not mapped any more ({lost[0][1]}), after: {cause}"
            raise RollbackFailed(text, where) from cause

    def allow(self, address: int, size: int, who: Sequence[Location], access: DeviceAccess) -> None:
        call = "zeVirtualMemSetAccessAttribute"
        named = {each if each.kind == "device" else Location("host") for each in who}
        for each in named:
            self._device(call, each)
        if not named:
            return
        with self._holding(self._mapping):
            inside = self._mapped.inside(call, address, size)
            for start, _ in inside if Location("host") in named else ():
                if self._kind(start)[0] != ze.HOST_MEMORY:
                    text = "the host cannot reach memory of a device"
                    raise DriverError(call, -1, "nothing", Meaning.UNSUPPORTED, text)
            self._mapped.check(call, inside, named, access)
            self._ze.call(call, self._context, address, size, ze.ACCESS[access])
            self._mapped.allowed(inside, named, access)

    def _kind(self, address: int) -> tuple[int, int | None]:
        """What sort of memory is there, a ze_memory_type_t, and of which device."""
        properties, device = ze.AllocationProperties(), c_void_p()
        self._ze.call("zeMemGetAllocProperties", self._context, address, byref(properties), byref(device))
        return properties.type, device.value

    # ---- memory of the host ----

    def managed(self, size: int) -> int:
        got = c_void_p()
        # Of the only device, or of all that share it.
        device = self._devices[0] if len(self._devices) == 1 else None
        self._ze.call(
            "zeMemAllocShared", self._context, byref(ze.DeviceAllocation()), byref(ze.HostAllocation()), size, 0,
            device, byref(got),
        )  # fmt: skip
        return got.value or 0

    def free_managed(self, address: int) -> None:
        self._ze.call("zeMemFree", self._context, address)

    def register(self, address: int, size: int) -> int:
        if ze.MAPS_SYSTEM_MEMORY not in self._extensions:
            text = f"the driver has no {ze.MAPS_SYSTEM_MEMORY}"
            raise DriverError("zeMemAllocHost", -1, "nothing", Meaning.UNSUPPORTED, text)
        memory, got = ze.SystemMemory(address=address, size=size), c_void_p()
        description = ze.HostAllocation(next=addressof(memory))
        self._ze.call("zeMemAllocHost", self._context, byref(description), size, 0, byref(got))
        return got.value or 0

    def unregister(self, address: int) -> None:
        self._ze.call("zeMemFree", self._context, address)

    # ---- contents and order ----

    def copy(self, to: int, source: int, size: int) -> None:
        device = self._kind(to)[1] or self._kind(source)[1] or self._devices[0]
        with self._holding(self._listing):
            own = self._list(device)
            self._ze.call("zeCommandListAppendMemoryCopy", own, to, source, size, None, 0, None)

    def fill(self, address: int, size: int, byte: int) -> None:
        pattern = c_ubyte(byte)
        device = self._kind(address)[1] or self._devices[0]
        with self._holding(self._listing):
            own = self._list(device)
            self._ze.call("zeCommandListAppendMemoryFill", own, address, byref(pattern), 1, size, None, 0, None)

    def _list(self, device: int) -> int:
        """An immediate command list whose commands are done when they return. Under the lock, as all its use."""
        if device not in self._lists:
            groups = self._many("zeDeviceGetCommandQueueGroupProperties", ze.QueueGroup, device)
            ordinal = next((n for n, group in enumerate(groups) if group.flags & ze.COMPUTE), 0)
            got, description = c_void_p(), ze.QueueDescription(ordinal=ordinal, mode=ze.SYNCHRONOUS)
            self._ze.call("zeCommandListCreateImmediate", self._context, device, byref(description), byref(got))
            self._lists[device] = got.value or 0
        return self._lists[device]

    def synchronize(self, device: int) -> None:
        self._ze.call("zeDeviceSynchronize", self._device("zeDeviceSynchronize", Location("device", device)))

    def free_memory(self, device: int) -> int:
        handle = self._device("zeDeviceGetProperties", Location("device", device))
        if ze.TELLS_USABLE_MEMORY not in self._extensions:
            text = f"the driver has no {ze.TELLS_USABLE_MEMORY}"
            raise DriverError("zeDeviceGetProperties", -1, "nothing", Meaning.UNSUPPORTED, text)
        usable = ze.UsableMemory()
        properties = ze.DeviceProperties(next=addressof(usable))
        self._ze.call("zeDeviceGetProperties", handle, byref(properties))
        return int(usable.bytes)

    def record(self, stream: int, device: int) -> int:
        handle, pool, event = self._device("zeEventCreate", Location("device", device)), c_void_p(), c_void_p()
        one = ze.EventPoolDescription(flags=ze.HOST_VISIBLE, count=1)
        self._ze.call("zeEventPoolCreate", self._context, byref(one), 0, None, byref(pool))
        try:
            described = ze.EventDescription(signal=ze.HOST_SCOPE, wait=ze.HOST_SCOPE)
            self._ze.call("zeEventCreate", pool, byref(described), byref(event))
            try:
                # A barrier, since commands of a list that is not in order may overtake each other.
                with self._holding(self._listing):
                    self._ze.call("zeCommandListAppendBarrier", stream or self._list(handle), event, 0, None)
            except DriverError:
                self._ze.call("zeEventDestroy", event)
                raise
        except DriverError:
            self._ze.call("zeEventPoolDestroy", pool)
            raise
        self._pools[event.value or 0] = pool.value or 0
        return event.value or 0

    def passed(self, event: int) -> bool:
        code = self._ze.answer("zeEventQueryStatus", event)
        if code not in (0, ze.NOT_READY):
            raise self._ze.refusal("zeEventQueryStatus", code)
        return code == 0

    def forget(self, event: int) -> None:
        self._ze.call("zeEventDestroy", event)
        pool = self._pools.pop(event, None)
        if pool is not None:
            self._ze.call("zeEventPoolDestroy", pool)

    def wait(self, event: int) -> None:
        self._ze.call("zeEventHostSynchronize", event, ze.FOREVER)
