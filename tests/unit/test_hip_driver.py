"""HipDriver: what is HIP's alone. What every driver must do is in test_drivers.py."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

import pytest

from drivers import FIRST, GRANULE, SECOND, descriptors_of, identity_of
from stead.devices.driver import DriverError, Meaning
from stead.devices.hip import HipDriver
from stead.errors import Unsupported

if TYPE_CHECKING:
    from doubles.hip import HipDouble

INVALID_VALUE, OUT_OF_MEMORY, NO_DEVICE, NOT_SUPPORTED = 1, 2, 100, 801


@pytest.fixture
def driver(hip_double: HipDouble) -> HipDriver:
    return HipDriver(str(hip_double.path))


def _current(double: HipDouble) -> int:
    device = ctypes.c_int(-1)
    assert double.library.hipGetDevice(ctypes.byref(device)) == 0
    return device.value


def test_the_one_that_is_loaded_is_taken(hip_double: HipDouble) -> None:
    assert len(HipDriver().devices()) == 2
    assert hip_double.calls("hipInit") == 1


def test_a_driver_that_does_not_start_says_why(hip_double: HipDouble) -> None:
    hip_double.refuse("hipInit", NO_DEVICE)
    with pytest.raises(
        Unsupported, match=r"HIP needs .*amdgpu.* found: hipInit answered hipErrorNoDevice \(100\)"
    ):
        HipDriver(str(hip_double.path))


@pytest.mark.parametrize("version", [60400000, 70000000, 70100000, 100000000])
def test_a_descriptor_is_passed_as_the_version_wants_it(hip_double: HipDouble, version: int) -> None:
    hip_double.set_version(version)
    driver = HipDriver(str(hip_double.path))
    handle = driver.create(GRANULE, SECOND, shareable=True)
    fd = driver.export(handle)
    again = driver.adopt(fd, GRANULE, SECOND)
    os.close(fd)
    for each in (handle, again):
        driver.release(each)
    assert hip_double.holds() == {}


def test_what_early_versions_lack_is_not_claimed(hip_double: HipDouble) -> None:
    hip_double.set_version(60400000)
    facts = HipDriver(str(hip_double.path)).devices()
    assert [each.host_located for each in facts] == [False, False]
    assert [each.shares_by_descriptor for each in facts] == [True, True]


def test_an_attribute_that_the_runtime_does_not_know_is_a_no(hip_double: HipDouble, driver: HipDriver) -> None:
    hip_double.refuse("hipDeviceGetAttribute", INVALID_VALUE)
    one, other = driver.devices()
    assert not one.manages_addresses
    assert not one.shares_by_descriptor
    assert not one.host_located
    assert other.manages_addresses
    hip_double.refuse("hipDeviceGetAttribute", 999)
    with pytest.raises(DriverError, match="hipDeviceGetAttribute answered hipErrorUnknown"):
        driver.devices()


def test_a_full_device_shares_memory_all_the_same(hip_double: HipDouble, driver: HipDriver) -> None:
    handle = driver.create(512 * GRANULE, FIRST, shareable=False)
    assert [each.shares_by_descriptor for each in driver.devices()] == [True, True]
    driver.release(handle)


@pytest.mark.parametrize("code", [INVALID_VALUE, OUT_OF_MEMORY])
def test_an_alignment_that_is_refused_is_not_asked_for(
    hip_double: HipDouble, driver: HipDriver, code: int
) -> None:
    hip_double.refuse("hipMemAddressReserve", code)
    address = driver.reserve(GRANULE, 1 << 30, 0)
    assert address % (1 << 30) == 0
    driver.free(address, GRANULE)
    hip_double.refuse("hipMemAddressReserve", NOT_SUPPORTED)
    with pytest.raises(DriverError, match="hipErrorNotSupported"):
        driver.reserve(GRANULE, 1 << 30, 0)
    assert hip_double.holds() == {}


def test_memory_is_where_it_was_asked_for_and_the_current_device_as_it_was(
    hip_double: HipDouble, driver: HipDriver
) -> None:
    assert hip_double.library.hipSetDevice(1) == 0
    handle = driver.create(GRANULE, FIRST, shareable=True)
    assert (hip_double.bytes(FIRST), hip_double.bytes(SECOND)) == (GRANULE, 0)
    event = driver.record(0, 0)
    driver.synchronize(0)
    driver.free_memory(0)
    fd = driver.export(handle)
    again = driver.adopt(fd, GRANULE, FIRST)
    assert _current(hip_double) == 1
    for meaning in (OUT_OF_MEMORY, NOT_SUPPORTED):
        hip_double.refuse("hipMemCreate", meaning)
        with pytest.raises(DriverError):
            driver.create(GRANULE, FIRST, shareable=False)
        assert _current(hip_double) == 1
    os.close(fd)
    driver.forget(event)
    for each in (handle, again):
        driver.release(each)
    assert hip_double.library.hipSetDevice(0) == 0


def test_a_descriptor_lives_as_its_handle(hip_double: HipDouble, driver: HipDriver) -> None:
    """For the versions that read it as late as access is set."""
    handle = driver.create(GRANULE, FIRST, shareable=True)
    fd = driver.export(handle)
    memory = identity_of(fd)
    before = descriptors_of(memory)
    again = driver.adopt(fd, GRANULE, FIRST)
    os.close(fd)
    assert descriptors_of(memory) == before  # one closed, one kept
    hip_double.refuse("hipMemRelease", INVALID_VALUE)
    with pytest.raises(DriverError):
        driver.release(again)
    assert descriptors_of(memory) == before
    driver.release(again)
    assert descriptors_of(memory) == before - 1
    driver.release(handle)


def test_what_is_registered_may_be_elsewhere_on_devices(hip_double: HipDouble, driver: HipDriver) -> None:
    hip_double.set(0, registered_at_host_address=False)
    hip_double.set(1, registered_at_host_address=False)
    memory = ctypes.create_string_buffer(4096)
    there = driver.register(ctypes.addressof(memory), 4096)
    assert there != ctypes.addressof(memory)
    driver.fill(there, 4, ord("x"))
    assert memory.raw[:5] == b"xxxx\0"
    driver.unregister(ctypes.addressof(memory))


@pytest.mark.parametrize(
    ("call", "method"), [("hipHostGetDevicePointer", "register"), ("hipEventRecord", "record")]
)
def test_what_is_half_done_is_undone(hip_double: HipDouble, driver: HipDriver, call: str, method: str) -> None:
    memory = ctypes.create_string_buffer(4096)
    hip_double.refuse(call, INVALID_VALUE)
    with pytest.raises(DriverError, match=call):
        getattr(driver, method)(*{"register": (ctypes.addressof(memory), 4096), "record": (0, 1)}[method])
    assert hip_double.holds() == {}
    assert _current(hip_double) == 0


@pytest.mark.parametrize("method", ["copy", "fill"])
def test_contents_are_there_when_the_call_returns(hip_double: HipDouble, driver: HipDriver, method: str) -> None:
    """Both may return before the device is done: what becomes of it is told, too."""
    address = driver.managed(4096)
    hip_double.refuse("hipStreamSynchronize", 719)
    with pytest.raises(DriverError, match="hipStreamSynchronize") as caught:
        getattr(driver, method)(*{"copy": (address, address + 8, 8), "fill": (address, 8, 1)}[method])
    assert caught.value.meaning is Meaning.GONE
    driver.free_managed(address)


def test_an_answer_without_a_name(hip_double: HipDouble, driver: HipDriver) -> None:
    hip_double.refuse("hipMemAddressFree", 4242)
    with pytest.raises(DriverError, match=r"hipMemAddressFree answered hipErrorUnknown \(4242\)") as caught:
        driver.free(4096, 4096)
    assert caught.value.meaning is Meaning.OTHER
