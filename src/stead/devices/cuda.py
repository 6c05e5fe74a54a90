"""CUDA's driver, through ``cuda.bindings`` (the extra ``stead[cuda]``), as a :class:`stead.devices.driver.Driver`.

Calls on addresses and physical memory take no context, and none is made for them. Copies, registrations, streams
and events take one: the primary context of a device, retained when it is first needed, current only for the time
of the call, and released with the driver. The calling thread finds the context that it had.

Owns no memory: what is not given back stays until the process ends.
"""

from __future__ import annotations

import os
import threading
import uuid
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from stead.devices.driver import DeviceFacts, DriverError, Location, Meaning
from stead.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stead.devices.driver import DeviceAccess

# cuda-bindings 12 is made for the drivers of CUDA 12: the function that it looks the others up with came then.
_OLDEST = 12000
_EXTRA = "the package cuda-bindings: pip install 'stead[cuda]'"

# What cuInit, too, answers in a child of a process that has called it.
_NOT_INITIALIZED = 3

# The codes of CUresult in cuda.h. After one of the GONE, nothing that the device is asked works any more.
_MEANINGS = {
    Meaning.OUT_OF_MEMORY: (2,),
    Meaning.INVALID: (1, 101, 201, 400, 712, 713),
    Meaning.UNSUPPORTED: (800, 801),
    Meaning.NOT_READY: (600,),
    Meaning.GONE: (3, 4, 46, 100, 214, 700, 702, 709, 714, 715, 716, 717, 718, 719),
}
_MEANING_OF = {code: meaning for meaning, codes in _MEANINGS.items() for code in codes}

_forks = 0  # that led to this process: compared at each call, where getpid(2) would be a fifth of one


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


class CudaDriver:
    """The CUDA driver in this process. Safe for threads. Several of them are the same driver, and do no harm.

    Raises Unsupported, which says what is missing: the package, the driver, a device, a newer driver, or a device
    that shares its process's addresses. After ``fork()`` a child cannot use CUDA (NVIDIA's rule): every call
    raises Unsupported there.
    """

    name = "CUDA"

    def __init__(self) -> None:
        self._forks = _forks
        self.api = api = _bindings()
        self.version = ""
        self._start()
        self._lock = threading.Lock()
        self._contexts: dict[int, Any] = {}
        release = partial(_release, api, self._contexts, _forks)
        self._end = weakref.finalize(self, release)
        self._devices = [self._describe(number) for number in range(self.call("cuDeviceGetCount"))]
        if not any(each.unified and each.manages_addresses for each in self._devices):
            names = ", ".join(each.name for each in self._devices)
            raise Unsupported(
                "CUDA", "a device that shares its process's addresses, and whose driver manages them", names
            )
        self._locations = {
            "device": api.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE,
            "host": api.CUmemLocationType.CU_MEM_LOCATION_TYPE_HOST,
            "host node": api.CUmemLocationType.CU_MEM_LOCATION_TYPE_HOST_NUMA,
        }
        flags = api.CUmemAccess_flags
        self._accesses = {
            "none": flags.CU_MEM_ACCESS_FLAGS_PROT_NONE,
            "r": flags.CU_MEM_ACCESS_FLAGS_PROT_READ,
            "rw": flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
        }
        self._no_timing = api.CUevent_flags.CU_EVENT_DISABLE_TIMING.value
        self._by_descriptor = api.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
        # Filled in once each: building them anew is half of what a small call costs.
        self._described: dict[tuple[Location, bool], Any] = {}
        self._allowed: dict[tuple[Sequence[Location], DeviceAccess], list[Any]] = {}
        self._granules: dict[tuple[Location, bool], int] = {}
        self._functions = self._function("cuMemAddressReserve"), self._function("cuMemAddressFree")

    def close(self) -> None:
        """Release the contexts. Idempotent; done at exit, too. The next call that needs one retains it again."""
        with self._lock:
            _release(self.api, self._contexts, self._forks)

    def devices(self) -> Sequence[DeviceFacts]:
        return self._devices

    # ---- addresses ----

    def granularity(self, location: Location, *, recommended: bool = False) -> int:
        known = self._granules.get((location, recommended))
        if known is None:
            which = self.api.CUmemAllocationGranularity_flags
            known = int(
                self.call(
                    "cuMemGetAllocationGranularity",
                    self._properties(location, shareable=False),
                    which.CU_MEM_ALLOC_GRANULARITY_RECOMMENDED
                    if recommended
                    else which.CU_MEM_ALLOC_GRANULARITY_MINIMUM,
                )
            )
            self._granules[location, recommended] = known
        return known

    @property
    def functions(self) -> tuple[int, int] | None:
        return self._functions if _forks == self._forks else None

    def reserve(self, size: int, alignment: int, hint: int) -> int:
        return int(self.call("cuMemAddressReserve", size, alignment, hint, 0))

    def free(self, address: int, size: int) -> None:
        self.call("cuMemAddressFree", address, size)

    # ---- physical memory ----

    def create(self, size: int, location: Location, *, shareable: bool) -> int:
        return int(self.call("cuMemCreate", size, self._properties(location, shareable), 0))

    def release(self, handle: int) -> None:
        self.call("cuMemRelease", handle)

    def export(self, handle: int) -> int:
        fd = int(self.call("cuMemExportToShareableHandle", handle, self._by_descriptor, 0))
        os.set_inheritable(fd, False)  # no document says that it is close-on-exec
        return fd

    def adopt(self, fd: int, size: int, location: Location) -> int:
        return int(self.call("cuMemImportFromShareableHandle", fd, self._by_descriptor))

    # ---- the one at the other ----

    def map(self, address: int, size: int, handle: int) -> None:
        self.call("cuMemMap", address, size, 0, handle, 0)

    def unmap(self, address: int, size: int) -> None:
        self.call("cuMemUnmap", address, size)

    def allow(self, address: int, size: int, who: Sequence[Location], access: DeviceAccess) -> None:
        key = (tuple(who), access)
        wanted = self._allowed.get(key)
        if wanted is None:
            wanted = self._allowed[key] = [self._access(each, access) for each in who]
        if wanted:
            self.call("cuMemSetAccess", address, size, wanted, len(wanted))

    def managed(self, size: int) -> int:
        flags = self.api.CUmemAttach_flags.CU_MEM_ATTACH_GLOBAL
        return int(self.call_within(self._any_device(), "cuMemAllocManaged", size, flags.value))

    def free_managed(self, address: int) -> None:
        self.call_within(self._any_device(), "cuMemFree", address)

    def register(self, address: int, size: int) -> int:
        device = self._any_device()
        # For all contexts (CU_MEMHOSTREGISTER_PORTABLE), and mapped on the devices (_DEVICEMAP).
        self.call_within(device, "cuMemHostRegister", address, size, 0x1 | 0x2)
        try:
            return int(self.call_within(device, "cuMemHostGetDevicePointer", address, 0))
        except BaseException:
            self.unregister(address)
            raise

    def unregister(self, address: int) -> None:
        self.call_within(self._any_device(), "cuMemHostUnregister", address)

    # ---- contents and order ----

    def copy(self, to: int, source: int, size: int) -> None:
        # cuMemcpy returns before it is done: between two places on devices, and from pageable memory.
        self._do_and_wait(self._device_of(to, source), "cuMemcpy", to, source, size)

    def fill(self, address: int, size: int, byte: int) -> None:
        self._do_and_wait(self._device_of(address), "cuMemsetD8", address, byte, size)

    def synchronize(self, device: int) -> None:
        # Where there is no primary context, nothing runs in it; making one would take time and device memory.
        _, active = self.call("cuDevicePrimaryCtxGetState", device)
        if active:
            self.call_within(device, "cuCtxSynchronize")

    def free_memory(self, device: int) -> int:
        free, _ = self.call_within(device, "cuMemGetInfo")
        return int(free)

    def record(self, stream: int, device: int) -> int:
        with self._within(device):
            event = self.call("cuEventCreate", self._no_timing)
            try:
                self.call("cuEventRecord", event, stream)
            except BaseException:
                self.call("cuEventDestroy", event)
                raise
        return int(event)

    def passed(self, event: int) -> bool:
        try:
            self.call_within(self._any_device(), "cuEventQuery", event)
        except DriverError as error:
            if error.meaning is Meaning.NOT_READY:
                return False
            raise
        return True

    def forget(self, event: int) -> None:
        self.call_within(self._any_device(), "cuEventDestroy", event)

    def wait(self, event: int) -> None:
        self.call_within(self._any_device(), "cuEventSynchronize", event)

    # ---- for those who call the driver themselves ----

    def call(self, name: str, *arguments: Any) -> Any:
        """What the function ``name`` of ``cuda.bindings.driver`` returns beside its code: nothing as (), one thing
        as it is. Raises DriverError; Unsupported where this driver is older than the function, or after a fork."""
        if _forks != self._forks:
            raise _forked()
        try:
            answer: tuple[Any, ...] = getattr(self.api, name)(*arguments)
        except (ValueError, KeyError) as error:
            raise _unknown(name, error) from None
        except RuntimeError as error:
            raise self._lacking(name, error) from None
        if answer[0]:
            raise _error(self.api, name, answer[0])
        return answer[1] if len(answer) == 2 else answer[1:]

    def call_within(self, device: int, name: str, *arguments: Any) -> Any:
        """The same in the device's primary context; the caller's is current again afterwards."""
        with self._within(device):
            return self.call(name, *arguments)

    def context(self, device: int) -> int:
        """The device's primary context (CUcontext), held until :meth:`close`. Raises DriverError."""
        return int(self._context(device))

    # ---- inside ----

    def _start(self) -> None:
        """cuInit; ``version``: which CUDA the driver is for."""
        try:
            number = int(self.call("cuDriverGetVersion"))
            version = f"{number // 1000}.{number % 1000 // 10}"
            if number < _OLDEST:
                raise Unsupported("CUDA", "a driver for CUDA 12.0 or newer", f"one for CUDA {version}")
            self.call("cuInit", 0)
        except DriverError as error:
            if error.code == _NOT_INITIALIZED:
                raise _forked() from None
            raise Unsupported("CUDA", "NVIDIA's driver and a device that it can use", str(error)) from None
        self.version = version

    def _lacking(self, name: str, error: RuntimeError) -> Unsupported:
        """For what cuda.bindings raises: 'Function "cuMemMap" not found'; or, in several lines or in one, that the
        linker finds no libcuda.so.1."""
        said = " ".join(str(error).split())
        if not self.version:
            return Unsupported("CUDA", "NVIDIA's driver (libcuda.so.1)", f"none that can be loaded: {said}")
        return Unsupported(name, "a newer driver", f"one for CUDA {self.version} ({said})")

    def _within(self, device: int) -> _Within:
        return _Within(self.call, self._context(device))

    def _context(self, device: int) -> Any:
        if (known := self._contexts.get(device)) is not None:
            return known
        with self._lock:
            if device not in self._contexts:
                self._contexts[device] = self.call("cuDevicePrimaryCtxRetain", device)
            return self._contexts[device]

    def _do_and_wait(self, device: int, name: str, *arguments: Any) -> None:
        with self._within(device):
            self.call(name, *arguments)
            self.call("cuStreamSynchronize", 0)

    def _any_device(self) -> int:
        """For calls that are not about one: whose context there is already, as each takes memory of its device."""
        with self._lock:
            return next(iter(self._contexts), 0)

    def _device_of(self, *addresses: int) -> int:
        """That has the memory at the first address that is on a device."""
        ordinal = self.api.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        for address in addresses:
            try:
                number = int(self.call("cuPointerGetAttribute", ordinal, address))
            except DriverError as error:
                if error.meaning is not Meaning.INVALID:  # ordinary memory of the process
                    raise
            else:
                # -1 (the host) comes as 4294967295 out of some versions of cuda.bindings (13.0).
                if number in range(len(self._devices)):
                    return number
        return self._any_device()

    def _properties(self, location: Location, shareable: bool) -> Any:
        made = self._described.get((location, shareable))
        if made is None:
            made = self.api.CUmemAllocationProp()
            made.type = self.api.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
            made.location.type = self._locations[location.kind]
            made.location.id = location.id
            if shareable:
                made.requestedHandleTypes = self._by_descriptor
            self._described[location, shareable] = made
        return made

    def _access(self, who: Location, access: DeviceAccess) -> Any:
        made = self.api.CUmemAccessDesc()
        made.location.type = self._locations[who.kind]
        made.location.id = who.id
        made.flags = self._accesses[access]
        return made

    def _function(self, name: str) -> int:
        """Where it is, in the version of CUDA 10.2, which brought the calls on addresses."""
        return int(self.call("cuGetProcAddress", name.encode(), 10020, 0)[0])

    def _describe(self, number: int) -> DeviceFacts:
        device = self.call("cuDeviceGet", number)
        can = partial(self._can, device)
        # The second tells the parts of a device (MIG) from the whole; from CUDA 13 on there is no other.
        named = "cuDeviceGetUuid_v2" if hasattr(self.api, "cuDeviceGetUuid_v2") else "cuDeviceGetUuid"
        return DeviceFacts(
            number=number,
            name=self.call("cuDeviceGetName", 256, device).split(b"\0")[0].decode(errors="replace"),
            uuid=str(uuid.UUID(bytes=bytes(self.call(named, device).bytes))),
            memory=int(self.call("cuDeviceTotalMem", device)),
            unified=can("UNIFIED_ADDRESSING"),
            manages_addresses=can("VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED"),
            shares_by_descriptor=can("HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED"),
            reaches_pageable=can("PAGEABLE_MEMORY_ACCESS"),
            registered_at_host_address=can("CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM"),
            manages_memory=can("CONCURRENT_MANAGED_ACCESS"),
            host_located=can("HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED"),
        )

    def _can(self, device: Any, what: str) -> bool:
        attribute = getattr(self.api.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{what}")
        try:
            return bool(self.call("cuDeviceGetAttribute", attribute, device))
        except DriverError as error:
            if error.meaning is Meaning.INVALID:  # a driver that is older than the attribute
                return False
            raise


class _Within:
    """With ``context`` as the thread's current one."""

    __slots__ = ("_call", "_context")

    def __init__(self, call: Callable[..., Any], context: Any) -> None:
        self._call, self._context = call, context

    def __enter__(self) -> None:
        self._call("cuCtxPushCurrent", self._context)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            self._call("cuCtxPopCurrent")
        except DriverError:
            if error is None:
                raise  # else, after a fault of the device, it is that again


def _bindings() -> Any:
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise Unsupported("CUDA", _EXTRA, f"no cuda.bindings ({error})") from None
    if not hasattr(driver.CUdevice_attribute, "CU_DEVICE_ATTRIBUTE_HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED"):
        raise Unsupported("CUDA", _EXTRA, "a cuda.bindings from before 12.9")
    return driver


def _forked() -> Unsupported:
    needs = "a process that was not forked from one that uses it: CUDA does not survive fork()"
    return Unsupported("CUDA", needs, "such a child; start it by spawn or forkserver")


def _unknown(name: str, error: Exception) -> Exception:
    """A code that is younger than cuda.bindings: its enumeration refuses it, and says the number first."""
    number = str(error).split()[0]
    if not number.isdecimal():
        return error
    return DriverError(name, int(number), "an error that cuda.bindings does not know", Meaning.OTHER)


def _error(api: Any, call: str, code: Any) -> DriverError:
    number = int(code)
    _, text = api.cuGetErrorString(code)
    said = text.decode(errors="replace") if text else ""
    return DriverError(
        call, number, getattr(code, "name", "an error"), _MEANING_OF.get(number, Meaning.OTHER), said
    )


def _release(api: Any, contexts: dict[int, Any], forks: int) -> None:
    while contexts and _forks == forks:
        device, _ = contexts.popitem()
        api.cuDevicePrimaryCtxRelease(device)  # an error at exit: the driver has ended before us
