"""What every driver must do, on its double: CUDA, HIP and Level Zero alike. What is one driver's alone is in
test_cuda_driver.py, test_hip_driver.py and test_level_zero_driver.py."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from drivers import FIRST, GRANULE, HOST, NAMES, SECOND, contents, descriptors_of, driver_of, identity_of
from stead.devices.driver import DriverError, Location, Meaning
from stead.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from doubles import Double
    from stead.devices.driver import Driver

MIB = 1 << 20
WHERE = 0x600000000000  # outside of where stead goes by itself, the program and its libraries


class Driven(NamedTuple):
    driver: Driver
    double: Double
    calls: dict[str, str]  # what the driver calls first, in its own names, for a method
    codes: dict[Meaning, int]


CALLS = {
    "cuda": {
        "granularity": "cuMemGetAllocationGranularity", "reserve": "cuMemAddressReserve",
        "free": "cuMemAddressFree", "create": "cuMemCreate", "release": "cuMemRelease",
        "export": "cuMemExportToShareableHandle", "adopt": "cuMemImportFromShareableHandle", "map": "cuMemMap",
        "unmap": "cuMemUnmap", "allow": "cuMemSetAccess", "managed": "cuMemAllocManaged",
        "free_managed": "cuMemFree", "register": "cuMemHostRegister", "unregister": "cuMemHostUnregister",
        "copy": "cuMemcpy", "fill": "cuMemsetD8", "synchronize": "cuCtxSynchronize", "free_memory": "cuMemGetInfo",
        "record": "cuEventRecord", "passed": "cuEventQuery", "wait": "cuEventSynchronize",
        "forget": "cuEventDestroy",
    },
    "hip": {
        "granularity": "hipMemGetAllocationGranularity", "reserve": "hipMemAddressReserve",
        "free": "hipMemAddressFree", "create": "hipMemCreate", "release": "hipMemRelease",
        "export": "hipMemExportToShareableHandle", "adopt": "hipMemImportFromShareableHandle", "map": "hipMemMap",
        "unmap": "hipMemUnmap", "allow": "hipMemSetAccess", "managed": "hipMallocManaged",
        "free_managed": "hipFree", "register": "hipHostRegister", "unregister": "hipHostUnregister",
        "copy": "hipMemcpy", "fill": "hipMemset", "synchronize": "hipDeviceSynchronize",
        "free_memory": "hipMemGetInfo", "record": "hipEventRecord", "passed": "hipEventQuery",
        "wait": "hipEventSynchronize", "forget": "hipEventDestroy",
    },
    "level_zero": {
        "granularity": "zeVirtualMemQueryPageSize", "reserve": "zeVirtualMemReserve", "free": "zeVirtualMemFree",
        "create": "zePhysicalMemCreate", "release": "zePhysicalMemDestroy", "export": "zePhysicalMemGetProperties",
        "adopt": "zePhysicalMemCreate", "map": "zeVirtualMemMap", "unmap": "zeVirtualMemUnmap",
        "allow": "zeVirtualMemSetAccessAttribute", "managed": "zeMemAllocShared", "free_managed": "zeMemFree",
        "register": "zeMemAllocHost", "unregister": "zeMemFree", "copy": "zeCommandListAppendMemoryCopy",
        "fill": "zeCommandListAppendMemoryFill", "synchronize": "zeDeviceSynchronize",
        "free_memory": "zeDeviceGetProperties", "record": "zeCommandListAppendBarrier",
        "passed": "zeEventQueryStatus", "wait": "zeEventHostSynchronize", "forget": "zeEventDestroy",
    },
}  # fmt: skip
CODES = {
    "cuda": {
        Meaning.OUT_OF_MEMORY: 2, Meaning.INVALID: 1, Meaning.UNSUPPORTED: 801, Meaning.GONE: 4,
        Meaning.OTHER: 999,
    },
    "hip": {
        Meaning.OUT_OF_MEMORY: 2, Meaning.INVALID: 1, Meaning.UNSUPPORTED: 801, Meaning.GONE: 4,
        Meaning.OTHER: 999,
    },
    "level_zero": {
        Meaning.OUT_OF_MEMORY: 0x70000003, Meaning.INVALID: 0x78000004, Meaning.UNSUPPORTED: 0x78000003,
        Meaning.GONE: 0x70000001, Meaning.OTHER: 0x7FFFFFFE,
    },
}  # fmt: skip


@pytest.fixture(params=NAMES)
def driven(request: pytest.FixtureRequest) -> Driven:
    """A driver, on two devices with 1 GiB and granules of 2 MiB each."""
    name = request.param
    double: Double = request.getfixturevalue(f"{name}_double")
    double.set_parcels(GRANULE)  # so that every hint can be followed
    return Driven(driver_of(name, double), double, CALLS[name], CODES[name])


@pytest.fixture
def driver(driven: Driven) -> Driver:
    return driven.driver


@pytest.fixture
def double(driven: Driven) -> Double:
    return driven.double


@pytest.fixture
def mapped(driver: Driver) -> Iterator[int]:
    """Two granules of the first device at the beginning of four, which both devices may read and write."""
    address, handle = driver.reserve(4 * GRANULE, 0, 0), driver.create(2 * GRANULE, FIRST, shareable=True)
    driver.map(address, 2 * GRANULE, handle)
    driver.allow(address, 2 * GRANULE, [FIRST, SECOND], "rw")
    driver.release(handle)
    yield address
    driver.unmap(address, 2 * GRANULE)
    driver.free(address, 4 * GRANULE)


@pytest.fixture
def staging() -> Iterator[int]:
    """The address of a page of this process, and a page after it."""
    with mmap.mmap(-1, 2 * mmap.PAGESIZE) as memory:
        borrowed = ctypes.c_char.from_buffer(memory)
        yield ctypes.addressof(borrowed)
        del borrowed


def refused(meaning: Meaning, call: Callable[..., object], *arguments: Any) -> DriverError:
    with pytest.raises(DriverError) as caught:
        call(*arguments)
    assert caught.value.meaning is meaning, caught.value
    return caught.value


def is_mapped(address: int, size: int) -> bool:
    """By this process, as far as its maps tell; all of it."""
    at = address
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, stop = (int(each, 16) for each in line.split()[0].split("-"))
        if start <= at < stop:
            at = stop
    return at >= address + size


# ---- devices ----


def test_each_device_is_described(driver: Driver) -> None:
    one, other = driver.devices()
    assert (one.number, other.number) == (0, 1)
    assert (one.name, other.name) == ("Double 0", "Double 1")
    assert (one.memory, other.memory) == (1 << 30, 1 << 30)
    assert one.uuid
    assert one.uuid != other.uuid
    assert one.unified
    assert one.manages_addresses
    assert one.shares_by_descriptor
    assert one.registered_at_host_address
    assert one.manages_memory
    assert one.host_located
    assert not one.reaches_pageable


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("shares_by_descriptor", False), ("reaches_pageable", True), ("registered_at_host_address", False),
        ("manages_memory", False), ("host_located", False),
    ],
)  # fmt: skip
def test_what_devices_can_is_asked(driven: Driven, request: Any, fact: str, value: bool) -> None:
    for device in (0, 1):
        driven.double.set(device, **{fact: value})
    fresh = driver_of(request.node.callspec.params["driven"], driven.double)
    assert [getattr(each, fact) for each in fresh.devices()] == [value, value]
    assert driven.double.holds() == {}


def test_free_memory_is_what_nobody_has(driver: Driver) -> None:
    before = driver.free_memory(1)
    handle = driver.create(8 * GRANULE, SECOND, shareable=False)
    assert driver.free_memory(1) == before - 8 * GRANULE
    assert driver.free_memory(0) == before
    driver.release(handle)
    assert driver.free_memory(1) == before


def test_a_device_that_there_is_not(driver: Driver) -> None:
    nobody = Location("device", 7)
    refused(Meaning.INVALID, driver.granularity, nobody)
    refused(Meaning.INVALID, lambda: driver.create(GRANULE, nobody, shareable=False))
    refused(Meaning.INVALID, driver.synchronize, 7)
    refused(Meaning.INVALID, driver.free_memory, 7)
    refused(Meaning.INVALID, driver.record, 0, 7)


# ---- addresses ----


def test_granularity(driver: Driver) -> None:
    assert driver.granularity(FIRST) == driver.granularity(SECOND) == GRANULE
    assert driver.granularity(FIRST, recommended=True) % GRANULE == 0


def test_a_hint_is_followed_where_there_is_room(driver: Driver) -> None:
    assert driver.reserve(4 * GRANULE, 0, WHERE) == WHERE
    elsewhere = driver.reserve(4 * GRANULE, 0, WHERE + GRANULE)
    assert not WHERE - 4 * GRANULE < elsewhere < WHERE + 4 * GRANULE
    assert is_mapped(WHERE, 4 * GRANULE)
    driver.free(elsewhere, 4 * GRANULE)
    driver.free(WHERE, 4 * GRANULE)
    assert not is_mapped(WHERE, GRANULE)


def test_a_driver_goes_elsewhere_as_it_likes(driver: Driver, double: Double) -> None:
    double.move(1)
    moved = driver.reserve(4 * GRANULE, 0, WHERE)
    assert moved != WHERE
    assert driver.reserve(4 * GRANULE, 0, WHERE) == WHERE
    driver.free(WHERE, 4 * GRANULE)
    driver.free(moved, 4 * GRANULE)


@pytest.mark.parametrize("alignment", [GRANULE, 64 * MIB, 1 << 30, 1 << 36])
def test_reservations_are_aligned(driver: Driver, double: Double, alignment: int) -> None:
    reserved = [driver.reserve(GRANULE, alignment, hint) for hint in (0, WHERE, 0, WHERE, WHERE)]
    assert all(each % alignment == 0 for each in reserved)
    assert reserved[1] == WHERE
    assert double.count("reservations") == len(reserved)
    for each in reserved:
        driver.free(each, GRANULE)


def test_exactly_one_reservation_is_freed(driver: Driver, double: Double) -> None:
    address = driver.reserve(4 * GRANULE, 0, 0)
    for start, size in ((address, 2 * GRANULE), (address + GRANULE, GRANULE), (WHERE, GRANULE)):
        refused(Meaning.INVALID, driver.free, start, size)
    assert double.count("reservations") == 1
    driver.free(address, 4 * GRANULE)
    refused(Meaning.INVALID, driver.free, address, 4 * GRANULE)
    assert double.holds() == {}


@pytest.mark.parametrize("size", [0, 4096, GRANULE + 4096])
def test_sizes_are_multiples_of_the_granularity(driver: Driver, double: Double, size: int) -> None:
    refused(Meaning.INVALID, driver.reserve, size, 0, 0)
    refused(Meaning.INVALID, lambda: driver.create(size, FIRST, shareable=False))
    assert double.holds() == {}


# ---- physical memory ----


def test_a_device_runs_out_of_memory_and_has_it_again(driver: Driver, double: Double) -> None:
    double.limit(4 * GRANULE, SECOND)
    first = driver.create(3 * GRANULE, SECOND, shareable=False)
    refused(Meaning.OUT_OF_MEMORY, lambda: driver.create(2 * GRANULE, SECOND, shareable=False))
    other = driver.create(2 * GRANULE, FIRST, shareable=False)
    driver.release(first)
    driver.release(driver.create(4 * GRANULE, SECOND, shareable=False))
    driver.release(other)
    assert double.holds() == {}


def test_memory_stays_until_it_is_unmapped(driver: Driver, double: Double, mapped: int) -> None:
    driver.fill(mapped, 16, 0x5A)
    assert double.bytes(FIRST) == 2 * GRANULE
    assert contents(driver, mapped, 16) == b"\x5a" * 16
    driver.unmap(mapped, 2 * GRANULE)
    assert double.bytes(FIRST) == 0
    handle = driver.create(2 * GRANULE, FIRST, shareable=False)
    driver.map(mapped, 2 * GRANULE, handle)  # for the fixture
    driver.release(handle)


def test_a_handle_that_there_is_not(driver: Driver) -> None:
    refused(Meaning.INVALID, driver.release, 12345)
    refused(Meaning.INVALID, driver.export, 12345)
    address = driver.reserve(GRANULE, 0, 0)
    refused(Meaning.INVALID, driver.map, address, GRANULE, 12345)
    driver.free(address, GRANULE)


# ---- the one at the other ----


def test_memory_is_mapped_into_one_reservation_where_nothing_is(driver: Driver, mapped: int) -> None:
    handle = driver.create(2 * GRANULE, SECOND, shareable=False)
    for start in (mapped, mapped + GRANULE, mapped + 3 * GRANULE, WHERE):
        refused(Meaning.INVALID, driver.map, start, 2 * GRANULE, handle)
    driver.map(mapped + 2 * GRANULE, 2 * GRANULE, handle)
    driver.unmap(mapped + 2 * GRANULE, 2 * GRANULE)
    driver.release(handle)


def test_a_reservation_is_not_freed_from_under_a_mapping(driver: Driver, mapped: int) -> None:
    refused(Meaning.INVALID, driver.free, mapped, 4 * GRANULE)
    driver.fill(mapped, 16, 1)


def test_whole_mappings_are_unmapped_one_or_many(driver: Driver, double: Double) -> None:
    address = driver.reserve(5 * GRANULE, 0, 0)
    for number, size in ((0, 1), (1, 2), (3, 1)):
        handle = driver.create(size * GRANULE, FIRST, shareable=False)
        driver.map(address + number * GRANULE, size * GRANULE, handle)
        driver.release(handle)
    for first, size in ((0, 2), (1, 1), (2, 1), (2, 2), (3, 2), (4, 1)):
        refused(Meaning.INVALID, driver.unmap, address + first * GRANULE, size * GRANULE)
    assert double.count("mappings") == 3
    driver.unmap(address + GRANULE, 3 * GRANULE)
    assert double.count("mappings") == 1
    driver.unmap(address, GRANULE)
    driver.free(address, 5 * GRANULE)
    assert double.holds() == {}


def test_what_is_mapped_is_accessible_to_nobody_until_it_is_allowed(driver: Driver, double: Double) -> None:
    address, handle = driver.reserve(GRANULE, 0, 0), driver.create(GRANULE, FIRST, shareable=False)
    refused(Meaning.INVALID, driver.allow, address, GRANULE, [FIRST], "rw")
    driver.map(address, GRANULE, handle)
    driver.allow(address, GRANULE, [], "rw")
    assert [double.allowed(each, address) for each in (FIRST, SECOND, HOST)] == ["none"] * 3
    for access in ("r", "rw", "none"):
        driver.allow(address, GRANULE, [FIRST, SECOND], access)
        assert [double.allowed(each, address) for each in (FIRST, SECOND, HOST)] == [access, access, "none"]
    driver.unmap(address, GRANULE)
    driver.release(handle)
    driver.free(address, GRANULE)


def test_memory_of_a_device_is_not_for_the_host(driver: Driver, double: Double, mapped: int) -> None:
    with pytest.raises(DriverError) as caught:
        driver.allow(mapped, 2 * GRANULE, [HOST], "r")
    assert caught.value.meaning in (Meaning.INVALID, Meaning.UNSUPPORTED)
    with pytest.raises(DriverError):
        driver.allow(mapped, 2 * GRANULE, [FIRST, SECOND, HOST], "r")
    assert [double.allowed(each, mapped) for each in (FIRST, SECOND, HOST)] == ["rw", "rw", "none"]


def test_memory_of_the_host_has_one_address_for_all(driver: Driver, double: Double) -> None:
    node = Location("host node", 0)
    granule = driver.granularity(node)
    address, handle = driver.reserve(GRANULE, 0, 0), driver.create(GRANULE, node, shareable=False)
    assert GRANULE % granule == 0
    driver.map(address, GRANULE, handle)
    driver.allow(address, GRANULE, [node, FIRST, SECOND], "rw")
    ctypes.memmove(address, b"stead", 5)
    assert contents(driver, address, 5) == b"stead"
    driver.fill(address + 5, 1, ord("!"))
    assert ctypes.string_at(address, 6) == b"stead!"
    driver.unmap(address, GRANULE)
    driver.release(handle)
    driver.free(address, GRANULE)
    assert double.holds() == {}


# ---- other processes ----


def test_exported_memory_is_the_same_memory(driver: Driver, double: Double) -> None:
    address, handle = driver.reserve(4 * GRANULE, 0, 0), driver.create(2 * GRANULE, SECOND, shareable=True)
    fd = driver.export(handle)
    assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    again = driver.adopt(fd, 2 * GRANULE, SECOND)
    os.close(fd)  # the caller's, still
    for start, each in ((address, handle), (address + 2 * GRANULE, again)):
        driver.map(start, 2 * GRANULE, each)
        driver.allow(start, 2 * GRANULE, [FIRST, SECOND], "rw")
        driver.release(each)
    driver.fill(address, 16, 7)
    assert contents(driver, address + 2 * GRANULE, 16) == b"\7" * 16
    assert double.bytes(SECOND) == 2 * GRANULE
    driver.unmap(address, 4 * GRANULE)
    driver.free(address, 4 * GRANULE)
    assert double.holds() == {}


def test_only_what_was_created_to_be_shared_is_exported(driver: Driver) -> None:
    handle = driver.create(GRANULE, FIRST, shareable=False)
    with pytest.raises(DriverError):
        driver.export(handle)
    driver.release(handle)


def test_what_is_no_devices_memory_is_not_adopted(driver: Driver, double: Double) -> None:
    with socket.socket() as other:
        refused(Meaning.INVALID, driver.adopt, other.fileno(), GRANULE, FIRST)
        assert descriptors_of(identity_of(other.fileno())) == 1
    refused(Meaning.INVALID, driver.adopt, 987654, GRANULE, FIRST)  # no descriptor at all
    assert double.holds() == {}


OTHER_PROCESS = """
import sys
sys.path[:0] = {path!r}
import doubles, drivers
name, file, fd, address, granule = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
double = doubles.Double(file)
double.reset()
driver = drivers.driver_of(name, double)
first = drivers.FIRST
assert driver.reserve(granule, 0, address) == address
handle = driver.adopt(fd, granule, first)
driver.map(address, granule, handle)
driver.release(handle)
driver.allow(address, granule, [first], "rw")
assert drivers.contents(driver, address, 5) == b"stead"
driver.fill(address, 5, ord("!"))
print("read and written", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_memory_goes_to_another_process_at_the_same_address(
    driven: Driven, request: Any, end: str, staging: int
) -> None:
    driver, name = driven.driver, request.node.callspec.params["driven"]
    address, handle = driver.reserve(GRANULE, 0, WHERE), driver.create(GRANULE, FIRST, shareable=True)
    driver.map(address, GRANULE, handle)
    driver.allow(address, GRANULE, [FIRST, SECOND], "rw")
    ctypes.memmove(staging, b"stead", 5)
    driver.copy(address, staging, 5)
    fd = driver.export(handle)
    driver.release(handle)
    text = OTHER_PROCESS.format(path=sys.path)
    other = subprocess.Popen(
        [sys.executable, "-c", text, name, driven.double.path, str(fd), str(address), str(GRANULE)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[fd],
    )  # fmt: skip
    os.close(fd)
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "read and written\n"
        assert contents(driver, address, 5) == b"!!!!!"
        if end == "kill":
            other.kill()
        else:
            other.communicate("\n")
        assert other.wait() == (-9 if end == "kill" else 0)
    assert contents(driver, address, 5) == b"!!!!!"
    assert driven.double.bytes(FIRST) == GRANULE
    driver.unmap(address, GRANULE)
    driver.free(address, GRANULE)
    assert driven.double.holds() == {}


# ---- memory of the host ----


def test_managed_memory_is_for_both(driver: Driver, double: Double) -> None:
    address = driver.managed(3 * 4096)
    ctypes.memmove(address, b"stead", 5)
    driver.fill(address + 5, 3, ord("!"))
    assert ctypes.string_at(address, 8) == b"stead!!!"
    driver.free_managed(address)
    refused(Meaning.INVALID, driver.free_managed, address)
    assert double.holds() == {}


def test_registered_memory_has_its_address(driver: Driver, double: Double, staging: int) -> None:
    assert driver.register(staging, 2 * mmap.PAGESIZE) == staging
    assert double.count("registered") == 1
    refused(Meaning.INVALID, driver.register, staging, mmap.PAGESIZE)
    driver.fill(staging, 4, ord("x"))
    assert ctypes.string_at(staging, 5) == b"xxxx\0"
    driver.unregister(staging)
    refused(Meaning.INVALID, driver.unregister, staging)
    assert double.holds() == {}


# ---- contents and order ----


def test_copies_between_any_two_addresses(driver: Driver, staging: int) -> None:
    address = driver.reserve(2 * GRANULE, 0, 0)
    for start, device in ((address, FIRST), (address + GRANULE, SECOND)):
        handle = driver.create(GRANULE, device, shareable=False)
        driver.map(start, GRANULE, handle)
        driver.release(handle)
    driver.allow(address, 2 * GRANULE, [FIRST, SECOND], "rw")
    ctypes.memmove(staging, b"stead", 5)
    driver.copy(address, staging, 5)
    driver.copy(address + GRANULE, address, 5)
    driver.copy(staging + 5, address + GRANULE, 5)
    driver.copy(staging + 10, staging, 5)
    assert ctypes.string_at(staging, 15) == b"stead" * 3
    driver.unmap(address, 2 * GRANULE)
    driver.free(address, 2 * GRANULE)


def test_synchronize_waits_for_what_its_device_was_given(driven: Driven, mapped: int) -> None:
    driver, double = driven.driver, driven.double
    one, other = _stream(double, 0), _stream(double, 1)
    for device in (0, 1):
        driver.free_memory(device)  # CUDA waits for no device that nothing was asked of
    double.fill(one, mapped, 4, 1, device=0)
    double.fill(other, mapped + 4, 4, 2, device=1)
    driver.synchronize(0)
    assert contents(driver, mapped, 8) == b"\1\1\1\1\0\0\0\0"
    driver.synchronize(1)
    assert contents(driver, mapped, 8) == b"\1\1\1\1\2\2\2\2"


def _stream(double: Double, device: int) -> int:
    """One that keeps its work."""
    from doubles.level_zero import LevelZeroDouble

    return double.new_list(device) if isinstance(double, LevelZeroDouble) else 300 + device


def test_an_event_passes_behind_the_work_before_it(driven: Driven, mapped: int) -> None:
    driver, double = driven.driver, driven.double
    stream = _stream(double, 0)
    double.fill(stream, mapped, 4, 1)
    event = driver.record(stream, 0)
    double.fill(stream, mapped, 4, 2)
    later = driver.record(stream, 0)
    assert (driver.passed(event), driver.passed(later)) == (False, False)
    assert double.run(stream, 1) == 1
    assert not driver.passed(event)
    double.run(stream, 1)
    assert (driver.passed(event), driver.passed(later)) == (True, False)
    assert contents(driver, mapped, 4) == b"\1" * 4
    driver.wait(later)
    assert driver.passed(later)
    assert contents(driver, mapped, 4) == b"\2" * 4
    for each in (event, later):
        driver.forget(each)
    assert double.count("events") == 0


def test_the_default_stream_has_nothing_before_an_event(driver: Driver) -> None:
    event = driver.record(0, 1)
    assert driver.passed(event)
    driver.wait(event)
    driver.forget(event)
    refused(Meaning.INVALID, driver.passed, event)
    refused(Meaning.INVALID, driver.forget, event)


# ---- refusals ----


@pytest.mark.parametrize("meaning", list(CODES["cuda"]))
def test_a_refusal_says_which_call_was_answered_what_and_leaves_all_as_it_was(
    driven: Driven, meaning: Meaning, staging: int
) -> None:
    driver, double, calls, codes = driven
    address = driver.reserve(2 * GRANULE, 0, 0)
    handle, spare = (driver.create(GRANULE, FIRST, shareable=True) for _ in range(2))
    driver.map(address, GRANULE, handle)
    driver.allow(address, GRANULE, [FIRST, SECOND], "rw")
    driver.fill(address, 4, 9)
    managed, event, fd = driver.managed(4096), driver.record(0, 0), driver.export(handle)
    registered, _ = driver.register(staging + mmap.PAGESIZE, mmap.PAGESIZE), driver.free_memory(1)
    asked: dict[str, Callable[[], object]] = {
        "granularity": lambda: driver.granularity(FIRST),
        "reserve": lambda: driver.reserve(GRANULE, 0, 0),
        "free": lambda: driver.free(address, 2 * GRANULE),
        "create": lambda: driver.create(GRANULE, FIRST, shareable=False),
        "release": lambda: driver.release(spare),
        "export": lambda: driver.export(handle),
        "adopt": lambda: driver.adopt(fd, GRANULE, FIRST),
        "map": lambda: driver.map(address + GRANULE, GRANULE, spare),
        "unmap": lambda: driver.unmap(address, GRANULE),
        "allow": lambda: driver.allow(address, GRANULE, [FIRST, SECOND], "r"),
        "managed": lambda: driver.managed(4096),
        "free_managed": lambda: driver.free_managed(managed),
        "register": lambda: driver.register(staging, mmap.PAGESIZE),
        "unregister": lambda: driver.unregister(registered),
        "copy": lambda: driver.copy(staging, address, 4),
        "fill": lambda: driver.fill(address, 4, 1),
        "synchronize": lambda: driver.synchronize(1),
        "free_memory": lambda: driver.free_memory(1),
        "record": lambda: driver.record(0, 1),
        "passed": lambda: driver.passed(event),
        "wait": lambda: driver.wait(event),
        "forget": lambda: driver.forget(event),
    }
    assert asked.keys() == calls.keys()
    holds, bytes_ = double.holds(), double.bytes(FIRST)
    memory = identity_of(fd)
    descriptors = descriptors_of(memory)
    for name, call in asked.items():
        double.refuse(calls[name], codes[meaning])
        error = refused(meaning, call)
        assert (error.call, error.code) == (calls[name], codes[meaning])
        assert calls[name] in str(error)
        assert (double.holds(), double.bytes(FIRST)) == (holds, bytes_), name
        assert descriptors_of(memory) == descriptors, name
    assert double.allowed(FIRST, address) == "rw"
    assert contents(driver, address, 4) == b"\t" * 4

    os.close(fd)
    driver.free_managed(managed)
    driver.unregister(registered)
    driver.forget(event)
    driver.unmap(address, GRANULE)
    for each in (handle, spare):
        driver.release(each)
    driver.free(address, 2 * GRANULE)
    assert double.holds() == {}


# ---- threads and forks ----


def test_a_slow_call_holds_up_nobody_else(driven: Driven) -> None:
    driver, double = driven.driver, driven.double
    made: list[int] = []
    with double.slow(driven.calls["create"]) as gate:
        creating = threading.Thread(target=lambda: made.append(driver.create(GRANULE, FIRST, shareable=False)))
        creating.start()
        gate.wait()
        address = driver.reserve(GRANULE, 0, 0)
        driver.free(address, GRANULE)
        assert not made
    creating.join()
    driver.release(made[0])


def test_threads_have_places_of_their_own(driver: Driver, double: Double) -> None:
    failed: list[BaseException] = []

    def work(device: int) -> None:
        where = Location("device", device)
        try:
            for _ in range(20):
                address, handle = driver.reserve(GRANULE, 0, 0), driver.create(GRANULE, where, shareable=False)
                driver.map(address, GRANULE, handle)
                driver.release(handle)
                driver.allow(address, GRANULE, [FIRST, SECOND], "rw")
                driver.fill(address, 8, device + 1)
                assert contents(driver, address, 8) == bytes([device + 1]) * 8
                event = driver.record(0, device)
                driver.wait(event)
                driver.forget(event)
                driver.unmap(address, GRANULE)
                driver.free(address, GRANULE)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number % 2,)) for number in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not failed
    assert double.holds() == {}


FORK = """
import os, sys
sys.path[:0] = {path!r}
import doubles, drivers
from stead.errors import Unsupported
double = doubles.Double(sys.argv[2])
double.reset()
driver = drivers.driver_of(sys.argv[1], double)
first = drivers.FIRST
address, handle = driver.reserve(2 << 20, 0, 0), driver.create(2 << 20, first, shareable=True)
driver.map(address, 2 << 20, handle)
driver.allow(address, 2 << 20, [first], "rw")
event = driver.record(0, 0)
asked = dict(
    granularity=(first,), reserve=(2 << 20, 0, 0), free=(address, 2 << 20), release=(handle,), export=(handle,),
    adopt=(0, 2 << 20, first), map=(address, 2 << 20, handle), unmap=(address, 2 << 20),
    allow=(address, 2 << 20, [first], "r"), managed=(4096,), free_managed=(4096,), register=(4096, 4096),
    unregister=(4096,), copy=(address, address, 4), fill=(address, 4, 0), synchronize=(0,), free_memory=(0,),
    record=(0, 0), passed=(event,), wait=(event,), forget=(event,),
)
child = os.fork()
if not child:
    try:
        for name, arguments in asked.items():
            try:
                getattr(driver, name)(*arguments)
            except Unsupported as error:
                if "fork" not in str(error):
                    raise
            else:
                raise AssertionError(name)
    except BaseException as error:
        print(repr(error), flush=True)
        os._exit(1)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
driver.fill(address, 4, 1)
driver.unmap(address, 2 << 20)
print("the parent goes on")
"""


def test_a_forked_child_is_told_and_the_parent_goes_on(driven: Driven, request: Any) -> None:
    name = request.node.callspec.params["driven"]
    text = FORK.format(path=sys.path)
    ran = subprocess.run(
        [sys.executable, "-c", text, name, driven.double.path], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, "the parent goes on\n"), ran.stdout + ran.stderr


def test_without_a_device_there_is_no_driver(driven: Driven, request: Any) -> None:
    driven.double.reset(devices=0)
    with pytest.raises(Unsupported, match=r"device|GPU"):
        driver_of(request.node.callspec.params["driven"], driven.double)
