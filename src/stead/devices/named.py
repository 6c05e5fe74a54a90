"""Devices as a person names them: "cuda:0", "opencl:1", or the TOML file that describes them."""

from __future__ import annotations

import re
from pathlib import Path

from stead.devices import files, spaces
from stead.devices.constraints import DeviceConstraints

_NUMBERED = re.compile(r"(cuda|hip|level-zero|opencl):([0-9]{1,4})", re.ASCII)

NAMES = "cuda:N, hip:N, level-zero:N, opencl:N, or a TOML file that describes devices"


def named(text: str) -> tuple[DeviceConstraints, ...]:
    """What the device, or the devices of the file, ask of a range.

    Raises ValueError that names what is wrong, Unsupported where a driver is missing, OSError.
    """
    if numbered := _NUMBERED.fullmatch(text):
        kind, number = numbered[1].replace("-", " "), int(numbered[2])
        if kind == "opencl":
            from stead.devices import opencl

            return (opencl.constraints_of(opencl.device(number)),)
        return (DeviceConstraints.of(spaces.driver(kind), number),)
    if not Path(text).is_file():
        raise ValueError(f"device is {text!r}, must be {NAMES}")
    return files.read(text)
