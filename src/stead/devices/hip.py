"""AMD's driver, through the HIP runtime (libamdhip64.so). Not run on hardware: against tests/doubles/hip.c only.

Documents: https://rocm.docs.amd.com/projects/HIP/en/latest/doxygen/html/group___virtual.html; what it does beyond
them is from the runtime's source, clr/hipamd/src/hip_vm.cpp in https://github.com/ROCm/rocm-systems.
Constants, structures and prototypes are those of hip_runtime_api.h 6.4, of which 10.0 changed none.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from contextlib import contextmanager, nullcontext
from ctypes import POINTER, byref, c_char, c_char_p, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from functools import cached_property
from typing import TYPE_CHECKING

from stead.devices.driver import DeviceFacts, DriverError, Location, Meaning
from stead.devices.library import DriverLibrary, already_loaded, duplicate, on_the_host, opened, reserved
from stead.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from stead.devices.driver import DeviceAccess

LIBRARIES = (
    "libamdhip64.so", "libamdhip64.so.7", "libamdhip64.so.6",
    *(f"{os.environ.get('ROCM_PATH', '/opt/rocm')}/lib/libamdhip64.so{suffix}" for suffix in ("", ".7", ".6")),
)  # fmt: skip
# hipRuntimeGetVersion: 10 million * major + 100 thousand * minor. Before, a descriptor was passed by its address.
DESCRIPTOR_BY_VALUE = 70_100_000

LOCATIONS = {"device": 1, "host": 2, "host node": 3}
ACCESS = {"none": 0, "r": 1, "rw": 3}
PINNED, POSIX_FD = 1, 1
MINIMUM, RECOMMENDED = 0, 1
CAN_USE_HOST_POINTER, MANAGED_MEMORY, PAGEABLE, VIRTUAL_MEMORY = 4, 24, 65, 89
PORTABLE_AND_MAPPED, ATTACH_GLOBAL, COPY_DEFAULT, DISABLE_TIMING = 3, 1, 4, 2
NOT_READY = 600

# Codes of hipError_t. After one of the GONE, nothing that the device is asked works any more.
MEANINGS = {
    code: meaning
    for meaning, codes in {
        Meaning.OUT_OF_MEMORY: (2,),
        Meaning.INVALID: (1, 17, 101, 201, 400, 712, 713),
        Meaning.UNSUPPORTED: (217, 801),
        Meaning.NOT_READY: (NOT_READY,),
        Meaning.GONE: (3, 4, 35, 100, 214, 700, 702, 709, 719),
    }.items()
    for code in codes
}


class _Location(ctypes.Structure):
    _fields_ = (("type", c_int), ("id", c_int))


class _Flags(ctypes.Structure):
    _fields_ = (("compression", ctypes.c_ubyte), ("rdma", ctypes.c_ubyte), ("usage", ctypes.c_ushort))


class _Properties(ctypes.Structure):
    """hipMemAllocationProp"""

    _fields_ = (
        ("type", c_int), ("handle_type", c_int), ("location", _Location), ("win32", c_void_p), ("flags", _Flags),
    )  # fmt: skip


class _Access(ctypes.Structure):
    """hipMemAccessDesc"""

    _fields_ = (("location", _Location), ("flags", c_int))


_POINTER, _HANDLE, _INT, _SIZE = POINTER(c_void_p), c_void_p, POINTER(c_int), POINTER(c_size_t)
FUNCTIONS = {
    "hipGetErrorName": (c_int,), "hipInit": (c_uint,), "hipRuntimeGetVersion": (_INT,),
    "hipGetDeviceCount": (_INT,), "hipGetDevice": (_INT,), "hipSetDevice": (c_int,), "hipDeviceSynchronize": (),
    "hipDeviceGetName": (c_char_p, c_int, c_int), "hipDeviceGetUuid": (POINTER(c_char * 16), c_int),
    "hipDeviceTotalMem": (_SIZE, c_int), "hipDeviceGetAttribute": (_INT, c_int, c_int),
    "hipMemGetInfo": (_SIZE, _SIZE),
    "hipMemGetAllocationGranularity": (_SIZE, POINTER(_Properties), c_int),
    "hipMemAddressReserve": (_POINTER, c_size_t, c_size_t, c_void_p, c_ulonglong),
    "hipMemAddressFree": (c_void_p, c_size_t),
    "hipMemCreate": (_POINTER, c_size_t, POINTER(_Properties), c_ulonglong), "hipMemRelease": (_HANDLE,),
    "hipMemExportToShareableHandle": (_INT, _HANDLE, c_int, c_ulonglong),
    "hipMemImportFromShareableHandle": (_POINTER, c_void_p, c_int),
    "hipMemMap": (c_void_p, c_size_t, c_size_t, _HANDLE, c_ulonglong), "hipMemUnmap": (c_void_p, c_size_t),
    "hipMemSetAccess": (c_void_p, c_size_t, POINTER(_Access), c_size_t),
    "hipMallocManaged": (_POINTER, c_size_t, c_uint), "hipFree": (c_void_p,),
    "hipHostRegister": (c_void_p, c_size_t, c_uint), "hipHostUnregister": (c_void_p,),
    "hipHostGetDevicePointer": (_POINTER, c_void_p, c_uint),
    "hipMemcpy": (c_void_p, c_void_p, c_size_t, c_int), "hipMemset": (c_void_p, c_int, c_size_t),
    "hipStreamSynchronize": (c_void_p,),
    "hipEventCreateWithFlags": (_POINTER, c_uint), "hipEventRecord": (c_void_p, c_void_p),
    "hipEventQuery": (c_void_p,), "hipEventSynchronize": (c_void_p,), "hipEventDestroy": (c_void_p,),
}  # fmt: skip


class HipDriver:
    """Of this process. Raises Unsupported where there is no HIP runtime, no device, or one that is too old.

    ``library``: the runtime's file; by default the one that is loaded already, or the system's.
    """

    name = "HIP"
    functions = None  # what a place takes here is more than a call

    def __init__(self, library: str | None = None) -> None:
        there = library or already_loaded("libamdhip64.so")
        runtime = opened("HIP", "the runtime of AMD's ROCm (libamdhip64.so)", [there] if there else LIBRARIES)

        def named(code: int) -> str:
            name: bytes | None = runtime.hipGetErrorName(code)
            return name.decode() if name else "an error without a name"

        self._hip = DriverLibrary("HIP", runtime, FUNCTIONS, {}, MEANINGS, named)
        runtime.hipGetErrorName.restype = c_char_p
        self._descriptors: dict[int, int] = {}
        try:
            self._hip.call("hipInit", 0)
            self._count = self._number("hipGetDeviceCount")
        except DriverError as error:
            raise Unsupported("HIP", "a device and its kernel driver (amdgpu)", str(error)) from error
        if not self._count:
            raise Unsupported("HIP", "a device", "none")
        self._version = self._number("hipRuntimeGetVersion")

    def _number(self, function: str, *arguments: int) -> int:
        got = c_int()
        self._hip.call(function, byref(got), *arguments)
        return got.value

    @contextmanager
    def _on(self, device: int) -> Iterator[None]:
        """With ``device`` as this thread's current one, which HIP creates and imports on whatever it was asked."""
        before = self._number("hipGetDevice")
        if before == device:
            yield
            return
        self._hip.call("hipSetDevice", device)
        try:
            yield
        finally:
            self._hip.call("hipSetDevice", before)

    # ---- devices ----

    def devices(self) -> Sequence[DeviceFacts]:
        return [self._facts(number) for number in range(self._count)]

    def _facts(self, number: int) -> DeviceFacts:
        name, uuid, memory = ctypes.create_string_buffer(256), (c_char * 16)(), c_size_t()
        self._hip.call("hipDeviceGetName", name, len(name), number)
        self._hip.call("hipDeviceGetUuid", byref(uuid), number)
        self._hip.call("hipDeviceTotalMem", byref(memory), number)
        manages = bool(self._can(number, VIRTUAL_MEMORY))
        return DeviceFacts(
            number=number,
            name=name.value.decode(errors="replace"),
            # Most versions write the sixteen digits of rocminfo's "GPU-…", not sixteen bytes of any value.
            uuid=f"GPU-{uuid.raw.decode()}" if uuid.raw.isalnum() else uuid.raw.hex(),
            memory=memory.value,
            # hipDeviceAttributeUnifiedAddressing is "Cuda only": ROCm has one set of addresses, always.
            unified=True,
            manages_addresses=manages,
            shares_by_descriptor=manages and self._shares(number),
            reaches_pageable=bool(self._can(number, PAGEABLE)),
            registered_at_host_address=bool(self._can(number, CAN_USE_HOST_POINTER)),
            manages_memory=bool(self._can(number, MANAGED_MEMORY)),
            host_located=manages and self._host_located,
        )

    def _can(self, number: int, attribute: int) -> int:
        try:
            return self._number("hipDeviceGetAttribute", attribute, number)
        except DriverError as error:
            if error.meaning in (Meaning.INVALID, Meaning.UNSUPPORTED):
                return 0  # older than the attribute
            raise

    def _shares(self, number: int) -> bool:
        """Nothing tells but trying; early versions refuse."""
        device = Location("device", number)
        try:
            self.release(self.create(self.granularity(device), device, shareable=True))
        except DriverError as error:
            if error.meaning in (Meaning.UNSUPPORTED, Meaning.INVALID):
                return False
            if error.meaning is not Meaning.OUT_OF_MEMORY:
                raise
        return True

    @cached_property
    def _host_located(self) -> bool:
        try:
            return self.granularity(Location("host")) > 0
        except DriverError:
            return False  # hipMemLocationTypeHost came with 7.0

    # ---- addresses ----

    def granularity(self, location: Location, *, recommended: bool = False) -> int:
        got = c_size_t()
        with self._at(location):
            self._hip.call(
                "hipMemGetAllocationGranularity",
                byref(got),
                byref(_properties(location)),
                RECOMMENDED if recommended else MINIMUM,
            )
        return got.value

    def reserve(self, size: int, alignment: int, hint: int) -> int:
        def once(size: int, hint: int) -> int:
            got = c_void_p()
            where = byref(got)
            try:
                self._hip.call("hipMemAddressReserve", where, size, alignment, hint or None, 0)
            except DriverError as error:
                if not alignment or error.meaning not in (Meaning.INVALID, Meaning.OUT_OF_MEMORY):
                    raise
                # Refused with an alignment where it works with 0; and ignored by most versions, anyhow.
                self._hip.call("hipMemAddressReserve", where, size, 0, hint or None, 0)
            return got.value or 0

        return reserved(once, self.free, size, alignment, hint)

    def free(self, address: int, size: int) -> None:
        self._hip.call("hipMemAddressFree", address, size)

    # ---- physical memory ----

    def _at(self, location: Location) -> AbstractContextManager[None]:
        return self._on(location.id) if location.kind == "device" else nullcontext()

    def create(self, size: int, location: Location, *, shareable: bool) -> int:
        got = c_void_p()
        with self._at(location):
            self._hip.call("hipMemCreate", byref(got), size, byref(_properties(location, shareable)), 0)
        return got.value or 0

    def release(self, handle: int) -> None:
        self._hip.call("hipMemRelease", handle)
        descriptor = self._descriptors.pop(handle, None)
        if descriptor is not None:
            os.close(descriptor)

    def export(self, handle: int) -> int:
        got = c_int(-1)
        self._hip.call("hipMemExportToShareableHandle", byref(got), handle, POSIX_FD, 0)
        fcntl.fcntl(got.value, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        return got.value

    def adopt(self, fd: int, size: int, location: Location) -> int:
        # 7.14 reads the descriptor as late as hipMemSetAccess (rocm-systems#8440): this one lives as the handle.
        descriptor = duplicate("hipMemImportFromShareableHandle", fd)
        given, got = c_int(descriptor), c_void_p()
        by_value = self._version >= DESCRIPTOR_BY_VALUE
        os_handle = c_void_p(descriptor) if by_value else ctypes.cast(byref(given), c_void_p)
        try:
            with self._at(location):
                self._hip.call("hipMemImportFromShareableHandle", byref(got), os_handle, POSIX_FD)
        except BaseException:
            os.close(descriptor)
            raise
        handle = got.value or 0
        self._descriptors[handle] = descriptor
        return handle

    # ---- the one at the other ----

    def map(self, address: int, size: int, handle: int) -> None:
        self._hip.call("hipMemMap", address, size, 0, handle, 0)

    def unmap(self, address: int, size: int) -> None:
        self._hip.call("hipMemUnmap", address, size)

    def allow(self, address: int, size: int, who: Sequence[Location], access: DeviceAccess) -> None:
        wanted = (_Access * len(who))(*(_Access(_location(each), ACCESS[access]) for each in who))
        if not who:
            return
        self._hip.call("hipMemSetAccess", address, size, wanted, len(who))

    # ---- memory of the host ----

    def managed(self, size: int) -> int:
        got = c_void_p()
        self._hip.call("hipMallocManaged", byref(got), size, ATTACH_GLOBAL)
        return got.value or 0

    def free_managed(self, address: int) -> None:
        self._hip.call("hipFree", address)

    def register(self, address: int, size: int) -> int:
        self._hip.call("hipHostRegister", address, size, PORTABLE_AND_MAPPED)
        got = c_void_p()
        try:
            self._hip.call("hipHostGetDevicePointer", byref(got), address, 0)
        except DriverError:
            self.unregister(address)
            raise
        return got.value or 0

    def unregister(self, address: int) -> None:
        self._hip.call("hipHostUnregister", address)

    # ---- contents and order ----

    def copy(self, to: int, source: int, size: int) -> None:
        self._hip.call("hipMemcpy", to, source, size, COPY_DEFAULT)
        self._hip.call("hipStreamSynchronize", None)  # between devices hipMemcpy may return before it is done

    def fill(self, address: int, size: int, byte: int) -> None:
        self._hip.call("hipMemset", address, byte, size)
        self._hip.call("hipStreamSynchronize", None)

    def synchronize(self, device: int) -> None:
        with self._on(device):
            self._hip.call("hipDeviceSynchronize")

    def free_memory(self, device: int) -> int:
        free, total = c_size_t(), c_size_t()
        with self._on(device):
            self._hip.call("hipMemGetInfo", byref(free), byref(total))
        return free.value

    def record(self, stream: int, device: int) -> int:
        got = c_void_p()
        with self._on(device):
            self._hip.call("hipEventCreateWithFlags", byref(got), DISABLE_TIMING)
            event = got.value or 0
            try:
                self._hip.call("hipEventRecord", event, stream or None)
            except DriverError:
                self.forget(event)
                raise
        return event

    def passed(self, event: int) -> bool:
        code = self._hip.answer("hipEventQuery", event)
        if code not in (0, NOT_READY):
            raise self._hip.refusal("hipEventQuery", code)
        return code == 0

    def forget(self, event: int) -> None:
        self._hip.call("hipEventDestroy", event)

    def wait(self, event: int) -> None:
        self._hip.call("hipEventSynchronize", event)


def _location(location: Location) -> _Location:
    location = on_the_host(location)  # 7.0 knows the host, and not yet its nodes
    return _Location(LOCATIONS[location.kind], location.id)


def _properties(location: Location, shareable: bool = False) -> _Properties:
    return _Properties(PINNED, POSIX_FD if shareable else 0, _location(location), None, _Flags())
