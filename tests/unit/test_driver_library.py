"""Calling a driver's library: what is missing, what is too old, and aligning what no driver aligns."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stead.devices import library
from stead.devices.driver import DriverError, Location, Meaning
from stead.devices.hip import HipDriver
from stead.devices.level_zero import LevelZeroDriver
from stead.devices.library import DriverLibrary, already_loaded, on_the_host, opened, reserved
from stead.errors import RollbackFailed, Unsupported

if TYPE_CHECKING:
    from pathlib import Path

    from doubles.hip import HipDouble


@pytest.mark.parametrize("driver", [HipDriver, LevelZeroDriver])
def test_no_library(driver: type[HipDriver] | type[LevelZeroDriver]) -> None:
    with pytest.raises(Unsupported, match=r"needs .*lib(amdhip64|ze_loader)\.so.*found: none .*libnothing\.so"):
        driver("libnothing.so")


@pytest.mark.parametrize("driver", [HipDriver, LevelZeroDriver])
def test_another_library(driver: type[HipDriver] | type[LevelZeroDriver]) -> None:
    with pytest.raises(
        Unsupported, match=r"needs a library with \w+; found: a library without it \(libc\.so\.6\)"
    ):
        driver("libc.so.6")


def test_the_first_library_that_there_is() -> None:
    assert opened("this", "C's library", ["libnothing.so", "libc.so.6"])._name == "libc.so.6"
    with pytest.raises(Unsupported, match=r"this needs C's library; found: none .*libnothing\.so"):
        opened("this", "C's library", ["libnothing.so", "libnone.so"])


def test_what_is_loaded_already_is_found(hip_double: HipDouble) -> None:
    found = already_loaded("libamdhip64.so")
    assert found is not None
    assert found == already_loaded(hip_double.path.name)
    assert already_loaded("libnothing.so") is None


def _of_libc() -> DriverLibrary:
    functions, newer = {"abs": (ctypes.c_int,)}, {"no_such_function": ()}
    return DriverLibrary("libc", ctypes.CDLL(None), functions, newer, {5: Meaning.OUT_OF_MEMORY}, str)


def test_a_call_that_the_library_is_too_old_for() -> None:
    libc = _of_libc()
    assert (libc.has("abs"), libc.has("no_such_function")) == (True, False)
    with pytest.raises(DriverError, match="older than this call") as caught:
        libc.call("no_such_function")
    assert caught.value.meaning is Meaning.UNSUPPORTED


def test_an_answer_is_what_it_means() -> None:
    libc = _of_libc()
    libc.call("abs", 0)
    for code, meaning in ((5, Meaning.OUT_OF_MEMORY), (6, Meaning.OTHER)):
        with pytest.raises(DriverError, match=rf"abs answered {code} \({code}\)") as caught:
            libc.call("abs", code)
        assert caught.value.meaning is meaning


def test_the_only_node_of_a_host_is_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    online = tmp_path / "online"
    monkeypatch.setattr(library, "NODES", online)
    first, second, device = Location("host node", 0), Location("host node", 1), Location("device", 0)
    assert on_the_host(first) == Location("host")  # a kernel without NUMA
    online.write_text("0\n")
    assert [on_the_host(each) for each in (first, second, device)] == [Location("host"), second, device]
    online.write_text("0-1\n")
    assert on_the_host(first) == first


# ---- alignment ----


class Addresses:
    """Gives what is next in ``places``, whatever it is asked for; or the hint, if it ``listens``."""

    def __init__(self, places: list[int], listens: bool = True) -> None:
        self.places, self.listens = places, listens
        self.held: dict[int, int] = {}
        self.stuck: set[int] = set()

    def reserve(self, size: int, hint: int) -> int:
        place = hint if hint and self.listens else self.places.pop(0)
        self.held[place] = size
        return place

    def free(self, address: int, size: int) -> None:
        if address in self.stuck:
            raise DriverError("free", 1, "no", Meaning.OTHER)
        assert self.held.pop(address) == size


@given(
    st.integers(1, 2**40), st.integers(1, 2**40), st.integers(1, 2**20), st.integers(0, 20), st.booleans(),
    st.integers(0, 2**30),
)  # fmt: skip
def test_an_aligned_place_or_none(one: int, other: int, size: int, power: int, listens: bool, hint: int) -> None:
    addresses, alignment = Addresses([one, other, other + 1], listens), 1 << power
    try:
        got = reserved(addresses.reserve, addresses.free, size, alignment, hint)
    except DriverError as error:
        assert not listens
        assert "no multiple of the alignment" in str(error)
        assert addresses.held == {}
    else:
        assert got % alignment == 0
        assert addresses.held == {got: size}


def test_without_an_alignment_any_place_will_do() -> None:
    addresses = Addresses([12345])
    assert reserved(addresses.reserve, addresses.free, 10, 0, 0) == 12345


def test_what_is_not_aligned_and_cannot_be_given_back_is_told() -> None:
    addresses = Addresses([4097])
    addresses.stuck.add(4097)
    with pytest.raises(RollbackFailed, match="still held") as caught:
        reserved(addresses.reserve, addresses.free, 4096, 4096, 0)
    assert [tuple(each) for each in caught.value.leaked] == [(4097, 8193)]
