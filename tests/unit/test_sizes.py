"""Sizes as people write them."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import need
from stead.sizes import format_size, parse_size

UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50, "kB": 10**3, "GB": 10**9, "B": 1}


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("64 GiB", 64 << 30),
        ("64GiB", 64 << 30),
        ("64 gib", 64 << 30),
        (" 64  GiB ", 64 << 30),
        ("1.5 MiB", 3 << 19),
        ("0.5KiB", 512),
        ("0x1000", 4096),
        ("0X1000", 4096),
        ("0xFFFF_0000", 0xFFFF0000),
        ("4096", 4096),
        ("1_000", 1000),
        ("0", 0),
        ("7 bytes", 7),
        ("1 byte", 1),
        ("8B", 8),
        ("2 kB", 2000),
        ("1 TB", 10**12),
        ("1 EiB", 1 << 60),
        (4096, 4096),
        (0, 0),
        (-5, -5),  # whether a negative number makes sense is for the caller to say
    ],
)
def test_sizes_are_read(written: int | str, size: int) -> None:
    assert parse_size(written, "size") == size


class Indexable:
    def __index__(self) -> int:
        return 12345


def test_whatever_counts_as_an_index_is_a_size() -> None:
    assert parse_size(Indexable(), "size") == 12345


def test_a_numpy_integer_is_a_size_and_becomes_a_plain_int() -> None:
    need("numpy")
    import numpy

    for made in (numpy.uint64(1 << 63), numpy.int32(4096), numpy.array(7)):
        read = parse_size(made, "size")
        assert type(read) is int
        assert read == int(made)


@pytest.mark.parametrize("value", [True, False, 1.0, None, b"4096", [4096], 1j, Fraction(2)])
def test_what_is_no_whole_number_is_a_type_error_that_names_argument_and_value(value: object) -> None:
    with pytest.raises(TypeError, match=rf"^guard is {re.escape(repr(value))}, must be"):
        parse_size(value, "guard")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        *["", " ", "GiB", "four", "-5", "+5", "1e3", "0x", "0xg", "0x_", "1 2", "1.", ".5", "64 GiB x", "٤٠٩٦"],
        *["9" * 5000, "0." + "1" * 5000, "1\n2", "1,5 MiB", "0b11", "0o7", "nan", "inf", "½"],
    ],
)
def test_what_cannot_be_read_is_a_value_error_that_names_argument_and_value(text: str) -> None:
    with pytest.raises(ValueError, match=rf"^size is {re.escape(repr(text))}"):
        parse_size(text, "size")


@pytest.mark.parametrize("unit", ["apples", "GiBs", "G", "M", "k", "KiiB", "bit"])
def test_an_unknown_unit_is_named(unit: str) -> None:
    with pytest.raises(ValueError, match=rf"^size is '64 {unit}'.*{unit}"):
        parse_size(f"64 {unit}", "size")


@pytest.mark.parametrize("text", ["1.5", "0.1 KiB", "1.0001 KiB", "0.3 MiB"])
def test_a_fraction_of_a_byte_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=rf"^size is '{text}', which is no whole number of bytes"):
        parse_size(text, "size")


@given(st.text(max_size=12))
def test_no_text_raises_anything_but_a_value_error_that_names_the_argument(text: str) -> None:
    try:
        read = parse_size(text, "size")
    except ValueError as refused:
        assert str(refused).startswith("size is ")
    else:
        assert read >= 0


@given(st.integers(0, 1 << 70), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " "]))
def test_a_number_and_a_unit_multiply(number: int, unit: str, space: str) -> None:
    assert parse_size(f"{number}{space}{unit}", "size") == number * UNITS[unit]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (4096, "4 KiB"),
        (3 << 29, "1.5 GiB"),
        (22 << 40, "22 TiB"),
        (84 << 40, "84 TiB"),
        ((1 << 20) + 1, "1 MiB"),
        (1 << 64, "16 EiB"),
        (10 * 1024 + 512, "10.5 KiB"),
        (1234, "1.21 KiB"),
    ],
)
def test_sizes_are_written_as_people_would(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(0, 1 << 65))
def test_what_is_written_reads_back_to_three_digits(size: int) -> None:
    number, unit = format_size(size).split(" ")
    back = Fraction(number) * {"B": 1, "EiB": 2**60, **UNITS}[unit]
    assert abs(back - size) * 200 <= size


@given(st.integers(1, 999), st.integers(0, 6))
def test_whole_amounts_of_a_unit_round_trip(amount: int, power: int) -> None:
    size = amount * 1024**power
    assert parse_size(format_size(size), "size") == size
