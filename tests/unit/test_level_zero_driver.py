"""LevelZeroDriver: what is Level Zero's alone. What every driver must do is in test_drivers.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from drivers import FIRST, GRANULE, SECOND, contents
from stead.devices.driver import DriverError, Location, Meaning
from stead.devices.level_zero import LevelZeroDriver
from stead.devices.outliving import Mappings
from stead.errors import RollbackFailed, Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterator

    from doubles.level_zero import LevelZeroDouble

BOTH = (FIRST, SECOND)
WHERE = 0x600000000000
UNKNOWN, OUT_OF_DEVICE_MEMORY, DEVICE_LOST = 0x7FFFFFFE, 0x70000003, 0x70000001


@pytest.fixture
def driver(level_zero_double: LevelZeroDouble) -> LevelZeroDriver:
    return LevelZeroDriver(str(level_zero_double.path))


@pytest.fixture
def three(driver: LevelZeroDriver) -> Iterator[int]:
    """Three mappings in a row, of a granule each, which the devices may use."""
    address = driver.reserve(3 * GRANULE, 0, 0)
    for number in range(3):
        handle = driver.create(GRANULE, FIRST, shareable=False)
        driver.map(address + number * GRANULE, GRANULE, handle)
        driver.release(handle)
    driver.allow(address, 3 * GRANULE, BOTH, "rw")
    for number in range(3):
        driver.fill(address + number * GRANULE, 4, number + 1)
    yield address
    driver.unmap(address, 3 * GRANULE)
    driver.free(address, 3 * GRANULE)


def unsupported(error: pytest.ExceptionInfo[DriverError]) -> bool:
    return error.value.meaning is Meaning.UNSUPPORTED


# ---- the driver ----


def test_the_one_that_is_loaded_is_taken(level_zero_double: LevelZeroDouble) -> None:
    assert len(LevelZeroDriver().devices()) == 2
    assert level_zero_double.calls("zeInit") == 1


def test_a_driver_that_does_not_start_says_why(level_zero_double: LevelZeroDouble) -> None:
    level_zero_double.refuse("zeInit", 0x78000001)
    with pytest.raises(Unsupported, match=r"zeInit answered ZE_RESULT_ERROR_UNINITIALIZED \(2013265921\)"):
        LevelZeroDriver(str(level_zero_double.path))


def test_devices_whose_driver_does_not_manage_addresses(
    level_zero_double: LevelZeroDouble, driver: LevelZeroDriver
) -> None:
    level_zero_double.set(0, manages_addresses=False)
    assert [each.manages_addresses for each in driver.devices()] == [False, False]


def test_a_driver_of_some_years_ago(level_zero_double: LevelZeroDouble) -> None:
    level_zero_double.set_old()
    driver = LevelZeroDriver(str(level_zero_double.path))
    for each in driver.devices():
        assert each.manages_addresses
        assert not each.host_located
        assert not each.registered_at_host_address
    handle = driver.create(GRANULE, FIRST, shareable=False)
    for call in (
        lambda: driver.synchronize(0),
        lambda: driver.free_memory(0),
        lambda: driver.export(handle),
        lambda: driver.register(4096, 4096),
        lambda: driver.create(GRANULE, FIRST, shareable=True),
        lambda: driver.adopt(0, GRANULE, FIRST),
    ):
        with pytest.raises(DriverError) as caught:
            call()
        assert unsupported(caught), caught.value
    driver.release(handle)
    assert level_zero_double.holds() == {}


def test_a_hint_that_an_old_driver_refuses(level_zero_double: LevelZeroDouble) -> None:
    level_zero_double.set_old()
    driver = LevelZeroDriver(str(level_zero_double.path))
    level_zero_double.move(1)
    elsewhere = driver.reserve(GRANULE, 0, WHERE)
    assert elsewhere != WHERE
    level_zero_double.refuse("zeVirtualMemReserve", OUT_OF_DEVICE_MEMORY)
    with pytest.raises(DriverError, match="OUT_OF_DEVICE_MEMORY"):
        driver.reserve(GRANULE, 0, 0)
    driver.free(elsewhere, GRANULE)


def test_memory_is_shared_by_no_descriptor_where_no_kind_of_it_goes_both_ways(
    level_zero_double: LevelZeroDouble, driver: LevelZeroDriver
) -> None:
    level_zero_double.set(1, shares_by_descriptor=False)
    assert [each.shares_by_descriptor for each in driver.devices()] == [True, False]
    with pytest.raises(DriverError, match="device 1 shares memory by no descriptor") as caught:
        driver.create(GRANULE, SECOND, shareable=True)
    assert unsupported(caught)


def test_a_node_of_a_host_with_several(driver: LevelZeroDriver) -> None:
    with pytest.raises(DriverError, match="NUMA") as caught:
        driver.granularity(Location("host node", 1))
    assert unsupported(caught)


# ---- memory that outlives its handle ----


def test_a_handle_is_destroyed_when_its_last_mapping_goes(
    level_zero_double: LevelZeroDouble, driver: LevelZeroDriver
) -> None:
    address, handle = driver.reserve(3 * GRANULE, 0, 0), driver.create(GRANULE, FIRST, shareable=False)
    for number in range(2):
        driver.map(address + number * GRANULE, GRANULE, handle)
    driver.release(handle)
    assert level_zero_double.calls("zePhysicalMemDestroy") == 0
    driver.unmap(address, GRANULE)
    assert level_zero_double.bytes(FIRST) == GRANULE
    driver.unmap(address + GRANULE, GRANULE)
    assert level_zero_double.holds("handles", "memories", "mappings") == {}
    driver.free(address, 3 * GRANULE)


def test_an_unmapping_that_is_refused_in_the_middle_changes_nothing(
    level_zero_double: LevelZeroDouble, driver: LevelZeroDriver, three: int
) -> None:
    level_zero_double.refuse("zeVirtualMemUnmap", UNKNOWN, nth=3)
    with pytest.raises(DriverError, match="zeVirtualMemUnmap answered ZE_RESULT_ERROR_UNKNOWN"):
        driver.unmap(three, 3 * GRANULE)
    assert [contents(driver, three + number * GRANULE, 4) for number in range(3)] == [
        b"\1" * 4,
        b"\2" * 4,
        b"\3" * 4,
    ]
    assert {level_zero_double.allowed(each, three) for each in BOTH} == {"rw"}


def test_what_could_not_be_mapped_again_is_told(
    level_zero_double: LevelZeroDouble, driver: LevelZeroDriver
) -> None:
    address = driver.reserve(3 * GRANULE, 0, 0)
    for number in range(3):
        handle = driver.create(GRANULE, FIRST, shareable=False)
        driver.map(address + number * GRANULE, GRANULE, handle)
        driver.release(handle)
    level_zero_double.refuse("zeVirtualMemUnmap", UNKNOWN, nth=3)
    level_zero_double.refuse("zeVirtualMemMap", OUT_OF_DEVICE_MEMORY)
    with pytest.raises(RollbackFailed, match="not mapped any more") as caught:
        driver.unmap(address, 3 * GRANULE)
    assert [tuple(each) for each in caught.value.leaked] == [(address, address + GRANULE)]
    assert level_zero_double.bytes(FIRST) == 2 * GRANULE
    driver.unmap(address + GRANULE, 2 * GRANULE)
    driver.free(address, 3 * GRANULE)
    assert level_zero_double.holds() == {}


def test_what_is_unmapped_is_unmapped_though_its_memory_does_not_go(
    level_zero_double: LevelZeroDouble, driver: LevelZeroDriver
) -> None:
    address, handle = driver.reserve(GRANULE, 0, 0), driver.create(GRANULE, FIRST, shareable=False)
    driver.map(address, GRANULE, handle)
    driver.release(handle)
    level_zero_double.refuse("zePhysicalMemDestroy", DEVICE_LOST)
    driver.unmap(address, GRANULE)
    assert level_zero_double.count("mappings") == 0
    driver.free(address, GRANULE)


def test_a_handle_is_released_once(driver: LevelZeroDriver, three: int) -> None:
    handle = driver.create(GRANULE, FIRST, shareable=False)
    address = driver.reserve(GRANULE, 0, 0)
    driver.map(address, GRANULE, handle)
    driver.release(handle)
    with pytest.raises(DriverError, match="released before"):
        driver.release(handle)
    driver.unmap(address, GRANULE)
    driver.free(address, GRANULE)


def test_a_handle_comes_again_with_other_memory() -> None:
    """Drivers' handles are pointers, and memory is used again."""
    mappings = Mappings()
    mappings.add(GRANULE, GRANULE, 7)
    assert not mappings.released(7)
    assert mappings.unmapped([GRANULE]) == {7}
    mappings.add(GRANULE, GRANULE, 7)
    assert mappings.unmapped([GRANULE]) == set()


def test_whole_mappings_without_a_gap() -> None:
    mappings = Mappings()
    mappings.add(0, 1, 1)
    mappings.add(2, 2, 2)
    assert [start for start, _ in mappings.inside("unmap", 2, 2)] == [2]
    for start, size in ((0, 2), (0, 3), (0, 4), (1, 1), (2, 1), (3, 1), (2, 3)):
        with pytest.raises(DriverError, match="not whole mappings"):
            mappings.inside("unmap", start, size)


# ---- one access for all ----


def test_there_is_one_access_for_all_devices(
    level_zero_double: LevelZeroDouble, driver: LevelZeroDriver, three: int
) -> None:
    for who, access in (((FIRST,), "r"), ((SECOND,), "none")):
        with pytest.raises(DriverError, match="there is one access for all of them") as caught:
            driver.allow(three, GRANULE, who, access)  # type: ignore[arg-type]
        assert unsupported(caught)
        assert {level_zero_double.allowed(each, three) for each in BOTH} == {"rw"}
    driver.allow(three, GRANULE, (FIRST,), "rw")
    driver.allow(three, GRANULE, BOTH, "r")
    assert {level_zero_double.allowed(each, three) for each in BOTH} == {"r"}
    driver.allow(three, 3 * GRANULE, BOTH, "rw")


def test_one_device_alone_may_be_allowed_less_and_more(driver: LevelZeroDriver) -> None:
    address, handle = driver.reserve(GRANULE, 0, 0), driver.create(GRANULE, FIRST, shareable=False)
    driver.map(address, GRANULE, handle)
    for access in ("r", "rw", "none", "rw"):
        driver.allow(address, GRANULE, (FIRST,), access)
    with pytest.raises(DriverError):
        driver.allow(address, GRANULE, (SECOND,), "r")
    driver.allow(address, GRANULE, (SECOND,), "rw")
    driver.unmap(address, GRANULE)
    driver.release(handle)
    driver.free(address, GRANULE)


def test_access_that_is_refused_is_not_taken_down(
    level_zero_double: LevelZeroDouble, driver: LevelZeroDriver, three: int
) -> None:
    level_zero_double.refuse("zeVirtualMemSetAccessAttribute", UNKNOWN)
    with pytest.raises(DriverError):
        driver.allow(three, GRANULE, BOTH, "none")
    driver.allow(three, GRANULE, (FIRST,), "rw")  # the other still may that


# ---- order ----


@pytest.mark.parametrize("call", ["zeEventPoolCreate", "zeEventCreate", "zeCommandListAppendBarrier"])
def test_an_event_that_cannot_be_recorded_leaves_nothing(
    level_zero_double: LevelZeroDouble, driver: LevelZeroDriver, call: str
) -> None:
    level_zero_double.refuse(call, OUT_OF_DEVICE_MEMORY)
    with pytest.raises(DriverError, match=call):
        driver.record(0, 0)
    assert (level_zero_double.count("events"), level_zero_double.pools()) == (0, 0)
    event = driver.record(0, 0)
    driver.forget(event)
    assert (level_zero_double.count("events"), level_zero_double.pools()) == (0, 0)


def test_a_list_that_cannot_be_made_is_told_and_tried_again(
    level_zero_double: LevelZeroDouble, driver: LevelZeroDriver, three: int
) -> None:
    assert level_zero_double.calls("zeCommandListCreateImmediate") == 1  # one of a device, for all
    fresh = LevelZeroDriver(str(level_zero_double.path))
    level_zero_double.refuse("zeCommandListCreateImmediate", OUT_OF_DEVICE_MEMORY)
    with pytest.raises(DriverError, match="zeCommandListCreateImmediate"):
        fresh.fill(three, 4, 9)
    fresh.fill(three, 4, 9)
    assert contents(driver, three, 4) == b"\t" * 4


def test_a_stream_is_a_list(level_zero_double: LevelZeroDouble, driver: LevelZeroDriver) -> None:
    with pytest.raises(DriverError, match="ZE_RESULT_ERROR_INVALID_NULL_HANDLE"):
        driver.record(12345, 0)
    assert level_zero_double.pools() == 0
