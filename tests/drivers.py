"""Drivers of devices on their doubles, for the tests that run over all of them."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from stead.devices.driver import Location

if TYPE_CHECKING:
    from doubles import Double
    from stead.devices.driver import Driver

NAMES = ("cuda", "hip", "level_zero")  # the fixture of each one's double: cuda_double and so on
GRANULE = 2 << 20  # of each double, after a reset
FIRST, SECOND, HOST = Location("device", 0), Location("device", 1), Location("host")


def driver_of(name: str, double: Double) -> Driver:
    """A new one."""
    if name == "cuda":
        from stead.devices.cuda import CudaDriver

        return CudaDriver()
    if name == "hip":
        from stead.devices.hip import HipDriver

        return HipDriver(str(double.path))
    from stead.devices.level_zero import LevelZeroDriver

    return LevelZeroDriver(str(double.path))


def contents(driver: Driver, address: int, size: int) -> bytes:
    """What is there, copied by the driver."""
    found = ctypes.create_string_buffer(size)
    driver.copy(ctypes.addressof(found), address, size)
    return found.raw


def identity_of(fd: int) -> tuple[int, int]:
    """Of the file that it is of."""
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def descriptors_of(identity: tuple[int, int]) -> int:
    """How many this process has open; those of other files, which may come and go meanwhile, do not count."""
    count = 0
    for each in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the one that the directory was read by
            count += identity_of(int(each)) == identity
    return count
