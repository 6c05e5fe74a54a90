"""Devices that a person describes, in a TOML file.

    [[device]]
    name = "fpga0"
    address-bits = 32                # or: window = "0x100000000-0x200000000"
    granularity = "64 KiB"           # places and sizes are multiples of it
    alignment = "2 MiB"              # places are
    note = "behind the old bridge"

Only the name is needed. Sizes are ints or text.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from stead.devices.constraints import EVERYWHERE, DeviceConstraints, bits
from stead.ranges import Range
from stead.sizes import parse_size

if TYPE_CHECKING:
    from os import PathLike
    from typing import Any

_KEYS = ("name", "address-bits", "window", "granularity", "alignment", "note")


def read(path: str | PathLike[str]) -> tuple[DeviceConstraints, ...]:
    """All devices of the file, as listed.

    Raises OSError where it cannot be read; ValueError that names the file, the device and the key where it is
    wrong.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    if unknown := sorted(set(content) - {"device"}):
        raise ValueError(f"{path} has the key {unknown[0]!r}, must have [[device]] only")
    entries = content.get("device")
    if not isinstance(entries, list) or not entries or not all(isinstance(each, dict) for each in entries):
        raise ValueError(f"{path} has no [[device]], must have one for each device")
    found: dict[str, DeviceConstraints] = {}
    for number, entry in enumerate(entries, start=1):
        called = f" ({entry['name']!r})" if "name" in entry else ""
        where = f"{path}, device {number}{called}"
        try:
            made = _device(entry, str(path))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from None
        if made.name in found:
            raise ValueError(f"{where}: name is {made.name!r}, as of another device there")
        found[made.name] = made
    return tuple(found.values())


def _device(entry: dict[str, Any], source: str) -> DeviceConstraints:
    if unknown := sorted(set(entry) - set(_KEYS)):
        raise ValueError(f"the key {unknown[0]!r} is unknown, must be one of {', '.join(_KEYS)}")
    if "name" not in entry:
        raise ValueError("name is missing")
    if "address-bits" in entry and "window" in entry:
        raise ValueError("address-bits and window are both given, must be one of them")
    window = EVERYWHERE
    if "address-bits" in entry:
        window = bits(entry["address-bits"])
    elif "window" in entry:
        window = _window(entry["window"])
    sizes = {key: parse_size(entry[key], key) for key in ("granularity", "alignment") if key in entry}
    return DeviceConstraints(entry["name"], "file", window, source=source, note=entry.get("note", ""), **sizes)


def _window(value: Any) -> Range:
    """As text, or as an array of two."""
    return Range.parse(tuple(value) if isinstance(value, list) else value, "window")
