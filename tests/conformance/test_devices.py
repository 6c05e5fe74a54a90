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
    "discarded memory reads as zero",
    "a misaligned offset is refused and the range stays reserved",
}


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
