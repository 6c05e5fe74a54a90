"""The spaces of devices' drivers pass the kit, with memory of the host that the driver makes, each on the driver's
double; and memory of a device, which the kit cannot look at, does what it should."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import stead
from drivers import NAMES, SECOND, contents
from stead.devices.spaces import CudaSpace, HipSpace, LevelZeroSpace
from stead.testing import CHECKS, MEMORY_CHECKS, check_address_space, place_for

if TYPE_CHECKING:
    from doubles import Double

SPACES = {"cuda": CudaSpace, "hip": HipSpace, "level_zero": LevelZeroSpace}

# A driver drops no contents and keeps the memory, and takes no memory of the kernel's at an offset.
NOT_A_DRIVERS = {
    "discarded memory reads as zero",
    "a misaligned offset is refused and the range stays reserved",
}


@pytest.fixture(params=NAMES)
def driver_space(request: pytest.FixtureRequest) -> stead.DeviceSpace:
    """What a driver's users get, on its double."""
    request.getfixturevalue(f"{request.param}_double")
    return SPACES[request.param]()


@pytest.fixture
def double(driver_space: stead.DeviceSpace, request: pytest.FixtureRequest) -> Double:
    found: Double = request.getfixturevalue(f"{request.node.callspec.params['driver_space']}_double")
    return found


def test_a_drivers_space_passes(driver_space: stead.DeviceSpace, double: Double) -> None:
    usual = stead.HostMemory(piece="2 MiB")
    ran = check_address_space(lambda: stead.DeviceSpace(driver_space.driver, usual=usual), leave_out=NOT_A_DRIVERS)
    assert len(ran) == len(CHECKS) + len(MEMORY_CHECKS) - len(NOT_A_DRIVERS)
    assert not double.holds()


@pytest.mark.parametrize("check", CHECKS, ids=lambda each: each.__name__)
def test_what_its_users_get_passes(check: object, driver_space: stead.DeviceSpace, double: Double) -> None:
    assert callable(check)
    check(driver_space)
    assert not double.holds()


def test_a_claim_that_the_driver_does_not_follow_is_lost_and_holds_nothing(
    driver_space: stead.DeviceSpace, double: Double
) -> None:
    where = place_for(driver_space, 4)
    double.move(64)
    with pytest.raises(stead.Occupied):
        driver_space.reserve_at(where)
    assert not double.holds()
    driver_space.reserve_at(where)
    driver_space.release(where)
    assert not double.holds()


def test_memory_of_a_device_comes_and_goes(driver_space: stead.DeviceSpace, double: Double) -> None:
    where, driver = place_for(driver_space, 4), driver_space.driver
    driver_space.reserve_at(where)
    backing = stead.DeviceMemory(1, piece=driver_space.granularity)
    driver_space.commit(where, driver_space.secure(backing, where.size, True), "rw")
    driver.fill(where.start, where.size, 7)
    driver_space.protect(where, "r")
    driver_space.pause(where, keep=True)
    assert double.bytes(SECOND) == 0
    driver_space.resume(where)
    assert double.bytes(SECOND) == where.size
    assert double.allowed(SECOND, where.start) == "r"
    assert contents(driver, where.start, where.size) == b"\7" * where.size
    driver_space.decommit(where)
    driver_space.release(where)
    assert not double.holds()
