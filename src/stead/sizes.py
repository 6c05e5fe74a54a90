"""Sizes as people write them: "64 GiB" in, "64 GiB" out. Pure."""

from __future__ import annotations

import operator
import re
from fractions import Fraction
from typing import SupportsIndex

type_of_size = "an int of bytes, or a string such as '64 GiB', '1.5 MiB', '4096' or '0x1000'"

_UNITS = {"": 1, "b": 1, "byte": 1, "bytes": 1}
for _power, _letter in enumerate("kmgtpe", start=1):
    _UNITS[f"{_letter}ib"] = 1024**_power
    _UNITS[f"{_letter}b"] = 1000**_power

# Bounded: Python refuses to convert thousands of digits, with an error that names no argument.
_WRITTEN = re.compile(r"\s*([0-9][0-9_]{0,99}(?:\.[0-9]{1,99})?)\s*([A-Za-z]*)\s*", re.ASCII)
_HEX = re.compile(r"\s*0[xX]([0-9a-fA-F][0-9a-fA-F_]*)\s*", re.ASCII)


def parse_size(value: SupportsIndex | str, argument: str) -> int:
    """Bytes. A string is a number with an optional unit: KiB, MiB … are powers of 1024, kB, MB … of 1000.

    Raises TypeError or ValueError that names ``argument`` and the value.
    """
    if type(value) is int:
        return value
    if isinstance(value, str):
        return _parse_text(value, argument)
    if isinstance(value, bool):
        raise TypeError(f"{argument} is {value!r}, must be {type_of_size}")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{argument} is {value!r}, must be {type_of_size}") from None


def parse_at_least(value: SupportsIndex | str, argument: str, least: int) -> int:
    """Bytes, as many as ``least`` or more. Raises as :func:`parse_size` does."""
    number = parse_size(value, argument)
    if number < least:
        raise ValueError(f"{argument} is {value!r}, must be at least {least} byte{'s' * (least != 1)}")
    return number


def parse_int(value: SupportsIndex, argument: str) -> int:
    """A plain number. Raises TypeError that names ``argument`` and the value, for a bool, too."""
    if type(value) is int:  # a look whether it is SupportsIndex takes microseconds
        return value
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{argument} is {value!r}, must be an int")
    return value.__index__()


def parse_address(value: SupportsIndex) -> int:
    """An address; for a number that cannot be one, one that nothing has. Raises TypeError."""
    number = parse_int(value, "address")
    return number if 0 <= number < 1 << 64 else (1 << 64) - 1


def _parse_text(text: str, argument: str) -> int:
    if hexadecimal := _HEX.fullmatch(text):
        return int(hexadecimal[1].replace("_", ""), 16)
    written = _WRITTEN.fullmatch(text)
    if not written:
        raise ValueError(f"{argument} is {text!r}, must be {type_of_size}")
    unit = _UNITS.get(written[2].lower())
    if unit is None:
        raise ValueError(
            f"{argument} is {text!r}: unknown unit {written[2]!r}; write B, KiB, MiB, GiB, TiB or PiB"
        )
    size = Fraction(written[1].replace("_", "")) * unit
    if size.denominator != 1:
        raise ValueError(f"{argument} is {text!r}, which is no whole number of bytes")
    return int(size)


def format_size(size: int) -> str:
    """The shortest text that says the size exactly or to three digits: "4 KiB", "1.5 GiB", "22 TiB"."""
    for power, unit in reversed(list(enumerate(("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")))):
        if size >= 1024**power or power == 0:
            amount = size / 1024**power
            digits = 0 if amount >= 100 or size % 1024**power == 0 else 1 if amount >= 10 else 2
            text = f"{amount:.{digits}f}"
            return f"{text.rstrip('0').rstrip('.') if digits else text} {unit}"
    raise AssertionError(size)
