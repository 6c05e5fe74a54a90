"""The kit over a device's space, with each driver on its double: memory of the host that the driver makes, since
the kit looks at contents as a host does, and memory of a device where it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import stead
from stead.devices.driver import Location
from stead.devices.memory import HostMemory
from stead.devices.space import DeviceSpace
from stead.testing import CHECKS, MEMORY_CHECKS, check_address_space

if TYPE_CHECKING:
    from doubles import Double
    from stead.devices.driver import Driver
    from stead.ranges import Range

# Their sources are of memory that the host's kernel makes, which is not to be had behind a driver's addresses.
OF_THE_KERNEL = {
    "discarded memory reads as zero",
    "a misaligned offset is refused and the range stays reserved",
}


class Located(DeviceSpace):
    """With memory of the host behind whatever the kit commits, in pieces as small as they come."""

    def commit(self, where: Range, source: Any, access: Any) -> None:
        backing = HostMemory((0, 1), piece=self.granularity)
        super().commit(where, self.secure(backing, where.size, "w" in access), access)


@pytest.fixture(params=["cuda", "hip", "level_zero"])
def driver_and_double(request: pytest.FixtureRequest) -> tuple[Driver, Double]:
    double: Double = request.getfixturevalue(f"{request.param}_double")
    driver: Driver
    if request.param == "cuda":
        from stead.devices.cuda import CudaDriver

        driver = CudaDriver()
    elif request.param == "hip":
        from stead.devices.hip import HipDriver

        driver = HipDriver(str(double.path))
    else:
        from stead.devices.level_zero import LevelZeroDriver

        driver = LevelZeroDriver(str(double.path))
    return driver, double


def test_a_devices_space_passes_every_check(driver_and_double: tuple[Driver, Double]) -> None:
    driver, double = driver_and_double
    ran = check_address_space(lambda: Located(driver), leave_out=OF_THE_KERNEL)
    assert len(ran) == len(CHECKS) + len(MEMORY_CHECKS) - len(OF_THE_KERNEL)
    assert double.holds() == {}


def test_it_passes_where_the_driver_goes_elsewhere_now_and_then(
    driver_and_double: tuple[Driver, Double],
) -> None:
    """A claim that the driver did not follow is Occupied, and the kit's retries find another place."""
    driver, double = driver_and_double
    where = stead.testing.place_for(DeviceSpace(driver), 4)
    double.move(1)
    space = DeviceSpace(driver)
    with pytest.raises(stead.Occupied):
        space.reserve_at(where)
    assert double.holds() == {}
    space.reserve_at(where)
    space.release(where)
    assert double.holds() == {}


def test_memory_of_a_device_comes_and_goes(driver_and_double: tuple[Driver, Double]) -> None:
    driver, double = driver_and_double
    space = DeviceSpace(driver)
    where = stead.testing.place_for(space, 4)
    device = Location("device", 1)
    space.reserve_at(where)
    backing = stead.devices.memory.DeviceMemory(1, piece=space.granularity)
    space.commit(where, space.secure(backing, where.size, True), "rw")
    assert double.bytes(device) == where.size
    space.protect(where, "r")
    space.pause(where, keep=True)
    assert double.bytes(device) == 0
    space.resume(where)
    assert double.bytes(device) == where.size
    assert double.allowed(device, where.start) == "r"
    space.decommit(where)
    space.release(where)
    assert double.holds() == {}
