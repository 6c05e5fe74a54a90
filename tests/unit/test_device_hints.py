"""Where a driver follows hints is found out, whatever it does with them."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import pytest

import stead
from stead.devices.cuda import CudaDriver
from stead.devices.hints import followed_at
from stead.peers import Threads
from stead.space.process import this_process
from stead.space.simulated import SimulatedSpace

if TYPE_CHECKING:
    from doubles import CudaDouble

MIB = 1 << 20
WINDOW = this_process().windows[0]


@pytest.mark.parametrize("alignment", [2 * MIB, 4 * MIB, 32 * MIB, 1024 * MIB])
def test_claims_are_where_the_driver_goes(cuda_double: CudaDouble, alignment: int) -> None:
    cuda_double.set_parcels(alignment)
    space = stead.CudaSpace()
    assert (space.granularity, space.alignment) == (2 * MIB, alignment)
    with stead.reserve(6 * MIB, space=space) as held, stead.reserve(6 * MIB, guard=1, space=space) as guarded:
        assert held.address % alignment == guarded.address % alignment == 0
        assert (held.size, guarded.size) == (6 * MIB, 6 * MIB)
        assert guarded.outer.start == guarded.address - alignment
        assert held.address == held.outer.start
        assert cuda_double.count("reservations") == 2
    assert not cuda_double.holds()


def test_elsewhere_is_refused_by_name(cuda_double: CudaDouble) -> None:
    space = stead.CudaSpace()
    at = WINDOW.start + 2 * MIB
    with pytest.raises(ValueError, match=r"^at is 0x400000200000, must be a multiple of where .*, 33554432$"):
        stead.reserve(2 * MIB, at=at, space=space)
    with stead.reserve(2 * MIB, at=WINDOW.start, space=space) as held:
        assert held.size == 2 * MIB
    assert not cuda_double.holds()


def test_a_driver_that_follows_none_is_asked_for_each(cuda_double: CudaDouble) -> None:
    driver = CudaDriver()
    cuda_double.move()
    assert followed_at(driver, 2 * MIB, WINDOW) == 2 * MIB
    assert not cuda_double.holds()


def test_a_driver_that_refuses_is_no_harm(cuda_double: CudaDouble) -> None:
    driver = CudaDriver()
    for number in range(1, 40):
        cuda_double.refuse("cuMemAddressReserve", 2, number)
    assert followed_at(driver, 2 * MIB, WINDOW) == 2 * MIB
    assert not cuda_double.holds()


def test_what_is_in_the_way_of_the_question_is_no_harm(cuda_double: CudaDouble) -> None:
    driver = CudaDriver()
    for occupied in range(1, 4):
        cuda_double.move(occupied)
        assert followed_at(driver, 2 * MIB, WINDOW) == 32 * MIB
    assert not cuda_double.holds()


def test_what_is_left_of_the_drivers_own_parcels_goes_first(cuda_double: CudaDouble) -> None:
    """And is given back afterwards."""
    space = stead.CudaSpace()
    cuda_double.own("256 MiB", "2 MiB")
    with stead.reserve("64 MiB", at=WINDOW.start, space=space) as held:
        assert cuda_double.count("reservations") == 1
        with pytest.raises(stead.Occupied):
            stead.reserve("64 MiB", at=held.address, space=space)
        assert cuda_double.count("reservations") == 1
    CudaDriver().context(0)
    with stead.reserve("2 MiB", at=WINDOW.start, space=space), stead.reserve("2 MiB", space=space):
        assert cuda_double.count("reservations") == 2
    assert followed_at(CudaDriver(), 2 * MIB, WINDOW) == 32 * MIB
    assert cuda_double.count("reservations") == 0


def test_what_is_in_the_rest_of_a_parcel_is_in_the_way_and_named(cuda_double: CudaDouble) -> None:
    space = stead.CudaSpace()
    at = WINDOW.start + (1 << 40)
    with stead.reserve(4096, at=at + 20 * MIB, name="in the way") as small:
        with pytest.raises(stead.Occupied) as refused:
            stead.reserve(2 * MIB, at=at, space=space)
        assert refused.value.by is not None
        assert refused.value.by.range.overlaps(small.range)
        assert refused.value.nearest is not None
        assert refused.value.nearest.start % space.alignment == 0
        assert space.footprint(WINDOW).occupied.covers(stead.Range(at, at + 32 * MIB))
    assert not cuda_double.holds()


def test_those_without_a_device_agree_with_those_that_have_one(cuda_double: CudaDouble) -> None:
    """The other's addresses are simulated: two of one process would be in each other's way."""
    space = stead.CudaSpace()
    group = Threads(["device", "other"], timeout=20)
    met: dict[str, stead.Range] = {}

    def meet(name: str, where: Any, align: str | None) -> None:
        with contextlib.suppress(stead.PeersDisagree):
            held = stead.reserve("2 MiB", space=where, align=align, together=group.member(name))
            met[name] = held.range
            held.release()

    for align in (None, "32 MiB"):
        met.clear()
        peers = (("device", space, align), ("other", SimulatedSpace(), align))
        both = [threading.Thread(target=meet, args=each) for each in peers]
        for each in both:
            each.start()
        for each in both:
            each.join()
        assert set(met) == (set() if align is None else {"device", "other"})
    assert met["device"] == met["other"]
    assert not cuda_double.holds()
