<<<<<<< HEAD
"""The kit over a device's space, with each driver on its double: memory of the host that the driver makes, since
the kit looks at contents as a host does, and memory of a device where it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from drivers import NAMES, SECOND, contents, driver_of
from stead.devices.memory import DeviceMemory, HostMemory
from stead.devices.space import DeviceSpace
from stead.errors import Occupied
from stead.testing import CHECKS, MEMORY_CHECKS, check_address_space, place_for

if TYPE_CHECKING:
    from doubles import Double
    from stead.devices.driver import Driver
    from stead.ranges import Range

# Their sources are of memory that the host's kernel makes, which is not to be had behind a driver's addresses.
OF_THE_KERNEL = {
=======
"""The spaces of devices' drivers pass the kit, with memory of the host that the driver makes, on the driver's
double."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import stead
from stead.devices.spaces import driver
from stead.testing import CHECKS, MEMORY_CHECKS, check_address_space

if TYPE_CHECKING:
    from doubles import CudaDouble

# A driver drops no contents and keeps the memory, and takes no memory of the kernel's at an offset.
NOT_A_DRIVERS = {
>>>>>>> 44c68efc394c3d3b630759dee7cc5cd1407fa69c
    "discarded memory reads as zero",
    "a misaligned offset is refused and the range stays reserved",
}


<<<<<<< HEAD
class Located(DeviceSpace):
    """With memory of the host behind whatever the kit commits, in pieces as small as they come."""

    def commit(self, where: Range, source: Any, access: Any) -> None:
        backing = HostMemory((0, 1), piece=self.granularity)
        super().commit(where, self.secure(backing, where.size, "w" in access), access)


@pytest.fixture(params=NAMES)
def driver_and_double(request: pytest.FixtureRequest) -> tuple[Driver, Double]:
    double: Double = request.getfixturevalue(f"{request.param}_double")
    return driver_of(request.param, double), double


def test_a_devices_space_passes_every_check(driver_and_double: tuple[Driver, Double]) -> None:
    driver, double = driver_and_double
    ran = check_address_space(lambda: Located(driver), leave_out=OF_THE_KERNEL)
    assert len(ran) == len(CHECKS) + len(MEMORY_CHECKS) - len(OF_THE_KERNEL)
    assert double.holds() == {}


def test_a_claim_that_the_driver_does_not_follow_is_lost_and_holds_nothing(
    driver_and_double: tuple[Driver, Double],
) -> None:
    driver, double = driver_and_double
    space = DeviceSpace(driver)
    where = place_for(space, 4)
    double.move(1)
    with pytest.raises(Occupied):
        space.reserve_at(where)
    assert double.holds() == {}
    space.reserve_at(where)
    space.release(where)
    assert double.holds() == {}


def test_memory_of_a_device_comes_and_goes(driver_and_double: tuple[Driver, Double]) -> None:
    driver, double = driver_and_double
    space = DeviceSpace(driver)
    where = place_for(space, 4)
    space.reserve_at(where)
    backing = DeviceMemory(1, piece=space.granularity)
    space.commit(where, space.secure(backing, where.size, True), "rw")
    driver.fill(where.start, where.size, 7)
    space.protect(where, "r")
    space.pause(where, keep=True)
    assert double.bytes(SECOND) == 0
    space.resume(where)
    assert double.bytes(SECOND) == where.size
    assert double.allowed(SECOND, where.start) == "r"
    assert contents(driver, where.start, where.size) == b"\7" * where.size
    space.decommit(where)
    space.release(where)
    assert double.holds() == {}
=======
def make() -> stead.DeviceSpace:
    return stead.DeviceSpace(driver("cuda"), usual=stead.HostMemory(piece="2 MiB"))


def test_cuda_passes(cuda_double: CudaDouble) -> None:
    ran = check_address_space(make, leave_out=NOT_A_DRIVERS)
    assert len(ran) == len(CHECKS) + len(MEMORY_CHECKS) - len(NOT_A_DRIVERS)
    assert not cuda_double.holds()


@pytest.mark.parametrize("check", CHECKS, ids=lambda each: each.__name__)
def test_what_cudas_users_get_passes(check: object, cuda_double: CudaDouble) -> None:
    assert callable(check)
    check(stead.CudaSpace())
    assert not cuda_double.holds()
>>>>>>> 44c68efc394c3d3b630759dee7cc5cd1407fa69c
