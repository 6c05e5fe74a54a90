"""The spaces of the drivers that there are, each with the driver of this process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stead.devices.space import DeviceSpace

if TYPE_CHECKING:
    from collections.abc import Callable

    from stead.devices.driver import Driver

_drivers: dict[tuple[str, int], Driver] = {}
_arrivals: dict[str, DeviceSpace] = {}


def driver(name: str) -> Driver:
    """This process's driver called "cuda", "hip" or "level zero"; made once. Raises Unsupported where there is
    none, ValueError for another name."""
    if name not in _MAKERS:
        raise ValueError(f"driver is {name!r}, must be one of {', '.join(_MAKERS)}")
    key = (name, os.getpid())  # no driver survives a fork: a child's says so itself
    if key not in _drivers:
        _drivers.setdefault(key, _MAKERS[name]())
    return _drivers[key]


def _cuda() -> Driver:
    from stead.devices.cuda import CudaDriver

    return CudaDriver()


def _hip() -> Driver:
    from stead.devices.hip import HipDriver

    return HipDriver()


def _level_zero() -> Driver:
    from stead.devices.level_zero import LevelZeroDriver

    return LevelZeroDriver()


_MAKERS: dict[str, Callable[[], Driver]] = {"cuda": _cuda, "hip": _hip, "level zero": _level_zero}


class CudaSpace(DeviceSpace):
    """The addresses of this process through the CUDA driver. Raises Unsupported where there is none, or no device
    that manages addresses; it says which, and what to install."""

    def __init__(self) -> None:
        super().__init__(driver("cuda"))


class HipSpace(DeviceSpace):
    """The addresses of this process through AMD's HIP. Not run on hardware yet. Raises Unsupported."""

    def __init__(self) -> None:
        super().__init__(driver("hip"))


class LevelZeroSpace(DeviceSpace):
    """The addresses of this process through Intel's Level Zero. Not run on hardware yet. Raises Unsupported."""

    def __init__(self) -> None:
        super().__init__(driver("level zero"))


def space_of(driver_name: str) -> DeviceSpace:
    """The space of this process for what arrives, of the driver that calls itself so: "CUDA", "HIP", "Level Zero".
    Raises Unsupported."""
    space = _arrivals.get(driver_name)
    if space is None or space.driver is not driver(driver_name.lower()):
        make = {"CUDA": CudaSpace, "HIP": HipSpace, "Level Zero": LevelZeroSpace}[driver_name]
        space = _arrivals[driver_name] = make()
    return space
