"""reserve(devices=…): memory that host and devices share, in the way that was asked for; and constraints that the
place obeys."""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING, get_args

import pytest

import stead
from stead.devices.sharing import Sharing
from stead.peers import Threads
from stead.ranges import Range
from stead.testing import SimulatedSpace

if TYPE_CHECKING:
    from doubles import CudaDouble

MIB = 1 << 20
GIB = 1 << 30
INVALID, NOT_SUPPORTED, OUT_OF_MEMORY = 1, 801, 2

NARROW = stead.DeviceConstraints("fpga", "by hand", Range(0, 1 << 36), granularity=1 << 16)


@pytest.mark.parametrize("way", get_args(Sharing))
def test_each_way_gives_memory_for_the_host(cuda_double: CudaDouble, way: Sharing) -> None:
    for device in (0, 1):
        cuda_double.set(device, reaches_pageable=True)
    held = stead.reserve("4 MiB", devices=[0, 1], sharing=way)
    assert held.sharing == way
    view = held.commit()
    view[:5] = b"stead"
    assert bytes(view[:6]) == b"stead\0"
    expected = {"pageable": {}, "registered": {"registered": 1}, "managed": {"managed": 1}}
    if way == "located":
        assert cuda_double.count("mappings") == 1
        assert cuda_double.holds()["reservations"] == 1
    else:
        assert cuda_double.holds() == expected[way]
    with pytest.raises(BufferError):
        held.release()
    del view
    held.release()
    held.release()
    assert not cuda_double.holds()


@pytest.mark.parametrize("way", get_args(Sharing))
def test_what_nobody_has_any_more_is_given_back(cuda_double: CudaDouble, way: Sharing) -> None:
    for device in (0, 1):
        cuda_double.set(device, reaches_pageable=True)
    held = stead.reserve("4 MiB", devices=[0], sharing=way)
    view = held.commit()
    del held
    gc.collect()
    view[:1] = b"x"
    del view
    gc.collect()
    assert not cuda_double.holds()


@pytest.mark.parametrize(
    ("facts", "devices", "expected"),
    [
        ([{}, {}], [0, 1], "registered"),
        ([{"reaches_pageable": True}, {"reaches_pageable": True}], [0, 1], "pageable"),
        ([{"reaches_pageable": True}, {}], [0, 1], "registered"),
        ([{"reaches_pageable": True}, {}], [0], "pageable"),
        ([{"registered_at_host_address": False}, {}], [0, 1], "located"),
        ([{"registered_at_host_address": False}, {}], [1], "registered"),
    ],
)
def test_without_a_wish_it_is_the_best_that_all_of_them_have(
    cuda_double: CudaDouble, facts: list[dict[str, bool]], devices: list[int], expected: str
) -> None:
    for number, each in enumerate(facts):
        cuda_double.set(number, **each)
    with stead.reserve("4 MiB", devices=devices) as held:
        assert held.sharing == expected
    assert not cuda_double.holds()


def test_what_one_of_them_lacks_is_refused_and_says_which(cuda_double: CudaDouble) -> None:
    cuda_double.set(1, registered_at_host_address=False, host_located=False)
    with pytest.raises(stead.Unsupported, match=r"registered: not by device 1 \(Double 1\)"):
        stead.reserve("4 MiB", devices=[0, 1], sharing="registered")
    with pytest.raises(stead.Unsupported, match=r"pageable: not by device 0.*located: not by device 1"):
        stead.reserve("4 MiB", devices=[0, 1])
    assert not cuda_double.holds()


def test_a_device_that_calls_it_otherwise_is_refused_at_commit(cuda_double: CudaDouble) -> None:
    """What the attribute promises is compared with what the driver says."""
    held = stead.reserve("4 MiB", devices=[0], sharing="registered")
    cuda_double.set(0, registered_at_host_address=False)
    with pytest.raises(stead.Unsupported, match="host's address"):
        held.commit()
    assert not held.parts
    assert not cuda_double.holds()
    held.release()


def test_registering_that_fails_leaves_nothing(cuda_double: CudaDouble) -> None:
    held = stead.reserve("4 MiB", devices=[0], sharing="registered")
    cuda_double.refuse("cuMemHostRegister", OUT_OF_MEMORY)
    with pytest.raises(stead.LimitReached):
        held.commit()
    assert not held.parts
    held.commit(0, "2 MiB")
    with pytest.raises(ValueError, match="registered as a whole"):
        held.decommit(0, "1 MiB")
    held.decommit()
    assert not cuda_double.holds()
    held.release()


def test_an_arena_in_memory_that_a_device_shares(cuda_double: CudaDouble) -> None:
    for way in ("registered", "located"):
        with stead.reserve("64 MiB", devices=[0], sharing=way) as held:
            arena = stead.Arena(held)
            block = arena.block(1000)
            memoryview(block)[:3] = b"abc"
            assert cuda_double.count("registered" if way == "registered" else "mappings") == 1
            del block
            arena.close()
        assert not cuda_double.holds()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"devices": []}, "devices is empty"),
        ({"devices": [7]}, "devices has 7"),
        ({"devices": ["0"]}, "devices is '0'"),
        ({"devices": [0], "sharing": "somehow"}, "sharing is 'somehow'"),
        ({"sharing": "managed"}, "sharing is 'managed'"),
        ({"devices": [NARROW], "sharing": "managed"}, "sharing is 'managed'"),
        ({"devices": [0], "sharing": "managed", "at": GIB}, "at is 1073741824"),
        ({"devices": [0], "sharing": "managed", "within": (GIB, 2 * GIB)}, "within is"),
        ({"devices": [0], "space": stead.this_process()}, "space is"),
    ],
)
def test_nonsense_names_the_argument(cuda_double: CudaDouble, arguments: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        stead.reserve("4 MiB", **arguments)  # type: ignore[arg-type]
    assert not cuda_double.holds()


# ---- constraints ----------------------------------------------------------------------------------


def test_the_place_obeys_every_device() -> None:
    card = stead.DeviceConstraints("card", "by hand", Range(1 << 32, 1 << 40), alignment=1 << 24)
    with stead.reserve("1 MiB", devices=[NARROW, card]) as held:
        assert Range(1 << 32, 1 << 36).contains(held.range)
        assert held.address % (1 << 24) == 0
        assert held.sharing is None


def test_a_device_and_a_constraint_together(cuda_double: CudaDouble) -> None:
    with stead.reserve("4 MiB", devices=[0, NARROW]) as held:
        assert NARROW.window.contains(held.range)
        assert held.sharing == "registered"
    with stead.reserve("4 MiB", devices=[NARROW], space=stead.CudaSpace()) as held:
        assert NARROW.window.contains(held.range)
    assert not cuda_double.holds()


def test_whoever_makes_it_impossible_is_named() -> None:
    far = stead.DeviceConstraints("far", "by hand", Range(1 << 44, 1 << 45))
    with pytest.raises(stead.NoGap, match=r"'fpga'.*'far'"):
        stead.reserve("1 MiB", devices=[NARROW, far])
    with pytest.raises(stead.NoGap, match="'fpga'"):
        stead.reserve("1 MiB", devices=[NARROW], within=(1 << 40, 1 << 41))
    with pytest.raises(stead.NoGap, match="'fpga'"):
        stead.reserve("128 GiB", devices=[NARROW])
    with pytest.raises(ValueError, match=r"at is 0x480000000000.*'fpga'"):
        stead.reserve("1 MiB", devices=[NARROW], at=0x4800_0000_0000)
    with stead.reserve("1 MiB", devices=[NARROW], at=1 << 35) as held:
        assert held.address == 1 << 35


def test_one_peers_device_binds_all() -> None:
    """Whoever's windows are searched, the place is within reach of the one peer's device."""
    for _ in range(4):  # whose windows they are is drawn
        group = Threads(["wide", "narrow"], timeout=30)
        spaces = {name: SimulatedSpace() for name in ("wide", "narrow")}
        got: dict[str, Range] = {}

        def meet(name: str, group: Threads = group, got: dict[str, Range] = got, spaces: object = spaces) -> None:
            device = {"narrow": [stead.DeviceConstraints("fpga", "by hand", Range(0, 1 << 36))], "wide": None}[
                name
            ]
            held = stead.reserve(
                "1 MiB",
                space=spaces[name],  # type: ignore[index]
                devices=device,
                together=group.member(name),
            )
            got[name] = held.range
            held.release()

        threads = [threading.Thread(target=meet, args=(name,)) for name in spaces]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert got["wide"] == got["narrow"]
        assert got["wide"].stop <= 1 << 36
