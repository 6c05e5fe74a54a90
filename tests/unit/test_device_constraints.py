"""What devices ask of a place, alone, together and against the places that there are."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stead import NoGap, Unsupported
from stead.devices.constraints import EVERYWHERE, DeviceConstraints, bits, blamed, constrain, narrow, unreachable
from stead.devices.driver import DeviceFacts, Driver, Location
from stead.placement import Footprint, Placement
from stead.ranges import NOTHING, Range, RangeSet

if TYPE_CHECKING:
    from collections.abc import Sequence

GIB = 1 << 30


def device(name: str, window: Range = EVERYWHERE, granularity: int = 1, alignment: int = 1) -> DeviceConstraints:
    return DeviceConstraints(name, "made up", window, granularity, alignment, "a test")


@st.composite
def windows(draw: st.DrawFn, top: int = 96) -> Range:
    start = draw(st.integers(0, top - 1))
    return Range(start, draw(st.integers(start + 1, top)))


POWERS = st.sampled_from([1, 2, 4, 8, 16])
DEVICES = st.builds(device, st.sampled_from("abcdef"), windows(), POWERS, POWERS)
PLACEMENTS = st.builds(
    Placement, st.integers(1, 24), windows(), st.sampled_from([1, 2, 4, 8]), st.integers(0, 3), st.just("low")
)
FOOTPRINTS = st.builds(Footprint, st.lists(windows(), max_size=4).map(RangeSet), st.sampled_from([1, 2, 4]))


# ---- one device -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"name": ""}, ValueError, "name is '', must say which device it is"),
        ({"name": 3}, TypeError, "name is 3, must be of type str"),
        ({"kind": None}, TypeError, "kind is None, must be of type str"),
        ({"window": (0, 1)}, TypeError, "window is (0, 1), must be of type Range"),
        ({"window": Range(5, 5)}, ValueError, "window is (5, 5), must be addresses"),
        ({"window": Range(-1, 5)}, ValueError, "window is (-1, 5), must be addresses"),
        ({"window": Range(0, (1 << 64) + 1)}, ValueError, "must be addresses between 0 and 2**64"),
        ({"granularity": 3 << 10}, ValueError, "granularity is 0xc00, must be a power of two up to 1 TiB"),
        ({"granularity": True}, TypeError, "granularity is True, must be of type int"),
        ({"alignment": 0}, ValueError, "alignment is 0x0, must be a power of two up to 1 TiB"),
        ({"alignment": 1 << 41}, ValueError, "alignment is 0x20000000000, must be a power of two up to 1 TiB"),
        ({"alignment": 2.0}, TypeError, "alignment is 2.0, must be of type int"),
    ],
)
def test_what_is_wrong_is_named(arguments: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error) as caught:
        DeviceConstraints(**{"name": "fpga0", "kind": "file", **arguments})
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("number", "error"), [(0, ValueError), (65, ValueError), (True, TypeError), ("32", TypeError)]
)
def test_bits_that_are_none(number: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"address-bits is {number!r}, must be"):
        bits(number)


def test_a_device_says_what_it_is() -> None:
    assert bits(32) == Range(0, 4 * GIB)
    assert str(device("nic", bits(32))) == "device 'nic' reaches 32 bits of addresses (a test)"
    assert str(device("gpu", granularity=1 << 21, alignment=1 << 21)) == (
        "device 'gpu' reaches 64 bits of addresses, in multiples of 2 MiB (a test)"
    )
    assert str(device("fpga", Range(GIB, 2 * GIB), 1 << 12, 1 << 16)) == (
        "device 'fpga' reaches 0x000040000000–0x000080000000 (1 GiB), in multiples of 4 KiB, "
        "aligned to 64 KiB (a test)"
    )


def test_a_device_can_be_sent() -> None:
    made = device("gpu", bits(47), 4096)
    assert pickle.loads(pickle.dumps(made)) == made
    assert {made: 1}[made] == 1


# ---- several --------------------------------------------------------------------------------------


def together(devices: Sequence[DeviceConstraints]) -> DeviceConstraints | None:
    try:
        made = devices[0]
        for each in devices[1:]:
            made = made & each
    except NoGap:
        return None
    return made


@given(DEVICES, DEVICES, DEVICES)
def test_merging_is_associative(a: DeviceConstraints, b: DeviceConstraints, c: DeviceConstraints) -> None:
    right: DeviceConstraints | None
    try:
        right = a & (b & c)
    except NoGap:
        right = None
    assert together([a, b, c]) == right


@given(PLACEMENTS, st.lists(DEVICES, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_one_after_the_other_in_any_order_is_all_at_once(
    wanted: Placement, devices: list[DeviceConstraints], random: Any
) -> None:
    merged = together(devices)
    steps = narrow(wanted, devices)
    assert [step.device for step in steps] == devices
    assert steps[-1].left == (merged.narrow(wanted) if merged else None)
    random.shuffle(devices)
    assert narrow(wanted, devices)[-1].left == steps[-1].left


@given(PLACEMENTS, st.lists(DEVICES, min_size=1, max_size=3), FOOTPRINTS)
def test_a_place_obeys_all_devices_and_there_is_one_where_a_byte_by_byte_search_finds_one(
    wanted: Placement, devices: list[DeviceConstraints], seen: Footprint
) -> None:
    left = narrow(wanted, devices)[-1].left
    where = left.choose(seen) if left else None
    page, coarse = seen.granularity, max(each.granularity for each in devices)
    size = -(-wanted.size // max(page, coarse)) * max(page, coarse)
    guard = -(-wanted.guard // page) * page
    step = max(page, wanted.alignment, *(max(each.granularity, each.alignment) for each in devices))

    def obeys(start: int) -> bool:
        outer = Range(start - guard, start + size + guard)
        windows = [wanted.within, *(each.window for each in devices)]
        return (
            start % step == 0
            and all(window.contains(outer) for window in windows)
            and not any(seen.occupied.overlapping(outer))
        )

    lowest = next(filter(obeys, range(97)), None)
    assert where == (None if lowest is None else Range.sized(lowest, size))


@given(st.lists(PLACEMENTS, min_size=1, max_size=3), st.lists(DEVICES, max_size=3))
def test_windows_that_no_device_reaches_are_not_tried(
    wanted: list[Placement], devices: list[DeviceConstraints]
) -> None:
    kept = [step.left for each in wanted for step in narrow(each, devices)[-1:] if step.left]
    if not devices:
        assert constrain(wanted, devices) == tuple(wanted)
    elif kept:
        assert constrain(wanted, devices) == tuple(kept)
    else:
        with pytest.raises(NoGap) as caught:
            constrain(wanted, devices)
        assert caught.value.wanted == wanted[-1]
        assert any(each.name in str(caught.value) for each in devices)


# ---- refusals -------------------------------------------------------------------------------------


def test_two_devices_apart_are_both_named() -> None:
    low, high, all_of_it = device("low", bits(32)), device("high", Range(1 << 40, 1 << 41)), device("all")
    wanted = Placement(4096, Range(0, 1 << 47))
    said = (
        "no address is within reach of both: device 'low' reaches 32 bits of addresses (a test); "
        "device 'high' reaches 0x010000000000–0x020000000000 (1 TiB) (a test)"
    )
    with pytest.raises(NoGap) as caught:
        constrain([wanted], [low, all_of_it, high])
    assert str(caught.value) == said
    with pytest.raises(NoGap) as caught:
        low & high
    assert str(caught.value) == said


def test_a_device_that_does_not_reach_the_window_is_named() -> None:
    wanted = Placement(4096, Range(1 << 46, 1 << 47))
    error = unreachable(wanted, [device("all"), device("fpga0", bits(32))])
    assert str(error) == (
        f"no room for {wanted}: device 'fpga0' reaches 32 bits of addresses (a test), "
        "and that is all outside of this window"
    )


def test_the_device_without_which_there_were_room_is_named() -> None:
    wanted = Placement(GIB, Range(0, 1 << 47))
    fpga, gpu, small = device("fpga0", bits(32)), device("gpu", granularity=1 << 21), device("small", bits(31))
    seen = Footprint(RangeSet([(0, 4 * GIB)]), 4096)
    error = NoGap("no room", wanted=wanted, largest=None)
    assert str(blamed(error, wanted, [gpu, fpga], seen)) == f"no room; {fpga}"
    # Without one of them the other would be in the way still.
    assert str(blamed(error, wanted, [gpu, fpga, small], seen)) == f"no room; {gpu}; {fpga}; {small}"
    # It is nobody's fault, or there is room.
    full = Footprint(RangeSet([(0, 1 << 47)]), 4096)
    assert blamed(error, wanted, [gpu, fpga], full) is error
    assert blamed(error, wanted, [gpu, fpga], Footprint(NOTHING, 4096)) is error


# ---- from a driver --------------------------------------------------------------------------------


class Pretends:
    """As much of a driver as is asked: two devices, one of which has its own addresses."""

    name = "Level Zero"

    def devices(self) -> list[DeviceFacts]:
        def facts(number: int, name: str, unified: bool) -> DeviceFacts:
            return DeviceFacts(number, name, "", GIB, unified, True, True, False, False, False, False)

        return [facts(0, "Big one", True), facts(1, "Old one", False)]

    def granularity(self, location: Location, *, recommended: bool = False) -> int:
        assert location == Location("device", 0)
        return 2 << 20 if recommended else 64 << 10

    def reserve(self, size: int, alignment: int, hint: int) -> int:
        return -(-hint // (4 << 20)) * (4 << 20)

    def free(self, address: int, size: int) -> None:
        assert address


def test_what_a_driver_says() -> None:
    driver = cast("Driver", Pretends())
    made = DeviceConstraints.of(driver, 0)
    assert (made.name, made.kind, made.window) == ("level-zero:0", "Level Zero", EVERYWHERE)
    assert (made.granularity, made.alignment) == (64 << 10, 4 << 20)
    assert made.source == "the Level Zero driver, of Big one"
    with pytest.raises(ValueError, match="number is 2, must be that of a device of Level Zero: 0, 1"):
        DeviceConstraints.of(driver, 2)
    with pytest.raises(Unsupported, match="found: Old one, which has addresses of its own"):
        DeviceConstraints.of(driver, 1)
