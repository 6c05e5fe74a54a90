"""Level Zero's structures, constants and functions, as far as stead calls them: those of ze_api.h.

Checked against the headers of loader 1.8 and 1.32; all that newer loaders added is in ``NEWER``. Source:
https://oneapi-src.github.io/level-zero-spec/level-zero/latest/core/api.html
"""

from __future__ import annotations

from ctypes import POINTER, Structure, c_char, c_int, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p

from stead.devices.driver import Meaning

FOREVER = 2**64 - 1

# ---- structures, each with its ZE_STRUCTURE_TYPE ----


class _Typed(Structure):
    """What begins with stype and pNext; stype is filled in."""

    STYPE: int

    def __init__(self, *arguments: object, **fields: object) -> None:
        super().__init__(*arguments, stype=self.STYPE, **fields)


_HEAD = (("stype", c_int), ("next", c_void_p))


class DeviceProperties(_Typed):
    STYPE = 0x3
    _fields_ = (
        *_HEAD, ("type", c_int), ("vendor", c_uint32), ("device", c_uint32), ("flags", c_uint32),
        ("subdevice", c_uint32), ("clock", c_uint32), ("largest", c_uint64), ("contexts", c_uint32),
        ("priority", c_uint32), ("threads", c_uint32), ("width", c_uint32), ("units", c_uint32),
        ("subslices", c_uint32), ("slices", c_uint32), ("resolution", c_uint64), ("timestamp_bits", c_uint32),
        ("kernel_timestamp_bits", c_uint32), ("uuid", c_uint8 * 16), ("name", c_char * 256),
    )  # fmt: skip


class UsableMemory(_Typed):
    """ze_device_usablemem_size_ext_properties_t, behind DeviceProperties."""

    STYPE = 0x20041
    _fields_ = (*_HEAD, ("bytes", c_uint64))


class QueueGroup(_Typed):
    STYPE = 0x6
    _fields_ = (*_HEAD, ("flags", c_uint32), ("largest_pattern", c_size_t), ("queues", c_uint32))


class MemoryProperties(_Typed):
    STYPE = 0x7
    _fields_ = (
        *_HEAD, ("flags", c_uint32), ("clock", c_uint32), ("width", c_uint32), ("size", c_uint64),
        ("name", c_char * 256),
    )  # fmt: skip


class AccessProperties(_Typed):
    STYPE = 0x8
    _fields_ = (
        *_HEAD, ("host", c_uint32), ("device", c_uint32), ("shared", c_uint32), ("shared_across", c_uint32),
        ("system", c_uint32),
    )  # fmt: skip


class ExternalProperties(_Typed):
    STYPE = 0xC
    _fields_ = (
        *_HEAD, ("imports", c_uint32), ("exports", c_uint32), ("image_imports", c_uint32),
        ("image_exports", c_uint32),
    )  # fmt: skip


class ContextDescription(_Typed):
    STYPE = 0xD
    _fields_ = (*_HEAD, ("flags", c_uint32))


class QueueDescription(_Typed):
    STYPE = 0xE
    _fields_ = (
        *_HEAD, ("ordinal", c_uint32), ("index", c_uint32), ("flags", c_uint32), ("mode", c_int),
        ("priority", c_int),
    )  # fmt: skip


class EventPoolDescription(_Typed):
    STYPE = 0x10
    _fields_ = (*_HEAD, ("flags", c_uint32), ("count", c_uint32))


class EventDescription(_Typed):
    STYPE = 0x11
    _fields_ = (*_HEAD, ("index", c_uint32), ("signal", c_uint32), ("wait", c_uint32))


class DeviceAllocation(_Typed):
    STYPE = 0x15
    _fields_ = (*_HEAD, ("flags", c_uint32), ("ordinal", c_uint32))


class HostAllocation(_Typed):
    STYPE = 0x16
    _fields_ = (*_HEAD, ("flags", c_uint32))


class AllocationProperties(_Typed):
    STYPE = 0x17
    _fields_ = (*_HEAD, ("type", c_int), ("id", c_uint64), ("page_size", c_uint64))


class ExportDescription(_Typed):
    """Behind PhysicalDescription."""

    STYPE = 0x18
    _fields_ = (*_HEAD, ("flags", c_uint32))


class ImportDescriptor(_Typed):
    """Behind PhysicalDescription."""

    STYPE = 0x19
    _fields_ = (*_HEAD, ("flags", c_uint32), ("fd", c_int))


class ExportDescriptor(_Typed):
    """Behind PhysicalProperties."""

    STYPE = 0x1A
    _fields_ = (*_HEAD, ("flags", c_uint32), ("fd", c_int))


class PhysicalDescription(_Typed):
    STYPE = 0x20
    _fields_ = (*_HEAD, ("flags", c_uint32), ("size", c_size_t))


class PhysicalProperties(_Typed):
    STYPE = 0x20040
    _fields_ = (*_HEAD, ("id", c_uint64), ("size", c_uint64))


class SystemMemory(_Typed):
    """ze_external_memmap_sysmem_ext_desc_t, behind HostAllocation."""

    STYPE = 0x20037
    _fields_ = (*_HEAD, ("address", c_void_p), ("size", c_uint64))


class Extension(Structure):
    _fields_ = (("name", c_char * 256), ("version", c_uint32))


# ---- constants ----

GPU_ONLY, GPU = 1, 1  # ze_init_flag_t, ze_device_type_t
ACCESS = {"none": 0, "rw": 1, "r": 2}
ON_DEVICE, ON_HOST = 1, 2  # ze_physical_mem_flag_t
OPAQUE_FD, DMA_BUF = 1, 2  # ze_external_memory_type_flag_t
COMPUTE = 1  # ze_command_queue_group_property_flag_t
SYNCHRONOUS = 1  # ze_command_queue_mode_t
HOST_VISIBLE, HOST_SCOPE = 1, 4  # ze_event_pool_flag_t, ze_event_scope_flag_t
READ_WRITE = 1  # ze_memory_access_cap_flag_t
HOST_MEMORY = 1  # ze_memory_type_t
MAPS_SYSTEM_MEMORY = "ZE_extension_external_memmap_sysmem"
TELLS_USABLE_MEMORY = "ZE_extension_device_usablemem_size_properties"

NOT_READY = 1
RESULTS = {
    NOT_READY: ("NOT_READY", Meaning.NOT_READY),
    0x70000001: ("ERROR_DEVICE_LOST", Meaning.GONE),
    0x70000002: ("ERROR_OUT_OF_HOST_MEMORY", Meaning.OUT_OF_MEMORY),
    0x70000003: ("ERROR_OUT_OF_DEVICE_MEMORY", Meaning.OUT_OF_MEMORY),
    0x70000006: ("ERROR_DEVICE_REQUIRES_RESET", Meaning.GONE),
    0x70000007: ("ERROR_DEVICE_IN_LOW_POWER_STATE", Meaning.OTHER),
    0x70010000: ("ERROR_INSUFFICIENT_PERMISSIONS", Meaning.OTHER),
    0x70010001: ("ERROR_NOT_AVAILABLE", Meaning.OTHER),
    0x70020000: ("ERROR_DEPENDENCY_UNAVAILABLE", Meaning.UNSUPPORTED),
    0x78000001: ("ERROR_UNINITIALIZED", Meaning.GONE),
    0x78000002: ("ERROR_UNSUPPORTED_VERSION", Meaning.UNSUPPORTED),
    0x78000003: ("ERROR_UNSUPPORTED_FEATURE", Meaning.UNSUPPORTED),
    0x78000004: ("ERROR_INVALID_ARGUMENT", Meaning.INVALID),
    0x78000005: ("ERROR_INVALID_NULL_HANDLE", Meaning.INVALID),
    0x78000006: ("ERROR_HANDLE_OBJECT_IN_USE", Meaning.INVALID),
    0x78000007: ("ERROR_INVALID_NULL_POINTER", Meaning.INVALID),
    0x78000008: ("ERROR_INVALID_SIZE", Meaning.INVALID),
    0x78000009: ("ERROR_UNSUPPORTED_SIZE", Meaning.INVALID),
    0x7800000A: ("ERROR_UNSUPPORTED_ALIGNMENT", Meaning.INVALID),
    0x7800000C: ("ERROR_INVALID_ENUMERATION", Meaning.INVALID),
    0x7800000D: ("ERROR_UNSUPPORTED_ENUMERATION", Meaning.UNSUPPORTED),
    0x7800001A: ("ERROR_OVERLAPPING_REGIONS", Meaning.INVALID),
    0x78000021: ("ERROR_ADDRESS_NOT_FOUND", Meaning.INVALID),
    0x7FFFFFFE: ("ERROR_UNKNOWN", Meaning.OTHER),
}

MEANINGS = {code: meaning for code, (_, meaning) in RESULTS.items()}


def result_name(code: int) -> str:
    """Of ze_result_t."""
    return f"ZE_RESULT_{RESULTS[code][0]}" if code in RESULTS else f"{code:#x}"


# ---- functions ----

_H, _OUT, _COUNT = c_void_p, POINTER(c_void_p), POINTER(c_uint32)
FUNCTIONS = {
    "zeInit": (c_uint32,), "zeDriverGet": (_COUNT, _OUT), "zeDeviceGet": (_H, _COUNT, _OUT),
    "zeDriverGetExtensionProperties": (_H, _COUNT, POINTER(Extension)),
    "zeDeviceGetProperties": (_H, POINTER(DeviceProperties)),
    "zeDeviceGetMemoryProperties": (_H, _COUNT, POINTER(MemoryProperties)),
    "zeDeviceGetMemoryAccessProperties": (_H, POINTER(AccessProperties)),
    "zeDeviceGetExternalMemoryProperties": (_H, POINTER(ExternalProperties)),
    "zeDeviceGetCommandQueueGroupProperties": (_H, _COUNT, POINTER(QueueGroup)),
    "zeContextCreate": (_H, POINTER(ContextDescription), _OUT),
    "zeVirtualMemReserve": (_H, _H, c_size_t, _OUT), "zeVirtualMemFree": (_H, _H, c_size_t),
    "zeVirtualMemQueryPageSize": (_H, _H, c_size_t, POINTER(c_size_t)),
    "zePhysicalMemCreate": (_H, _H, POINTER(PhysicalDescription), _OUT), "zePhysicalMemDestroy": (_H, _H),
    "zeVirtualMemMap": (_H, _H, c_size_t, _H, c_size_t, c_int), "zeVirtualMemUnmap": (_H, _H, c_size_t),
    "zeVirtualMemSetAccessAttribute": (_H, _H, c_size_t, c_int),
    "zeMemAllocShared": (
        _H, POINTER(DeviceAllocation), POINTER(HostAllocation), c_size_t, c_size_t, _H, _OUT,
    ),
    "zeMemAllocHost": (_H, POINTER(HostAllocation), c_size_t, c_size_t, _OUT), "zeMemFree": (_H, _H),
    "zeMemGetAllocProperties": (_H, _H, POINTER(AllocationProperties), _OUT),
    "zeCommandListCreateImmediate": (_H, _H, POINTER(QueueDescription), _OUT),
    "zeCommandListAppendMemoryCopy": (_H, _H, _H, c_size_t, _H, c_uint32, _OUT),
    "zeCommandListAppendMemoryFill": (_H, _H, _H, c_size_t, c_size_t, _H, c_uint32, _OUT),
    "zeCommandListAppendBarrier": (_H, _H, c_uint32, _OUT),
    "zeEventPoolCreate": (_H, POINTER(EventPoolDescription), c_uint32, _OUT, _OUT), "zeEventPoolDestroy": (_H,),
    "zeEventCreate": (_H, POINTER(EventDescription), _OUT), "zeEventDestroy": (_H,), "zeEventQueryStatus": (_H,),
    "zeEventHostSynchronize": (_H, c_uint64),
}  # fmt: skip
NEWER = {
    "zeDeviceSynchronize": (_H,),
    "zePhysicalMemGetProperties": (_H, _H, POINTER(PhysicalProperties)),
}
