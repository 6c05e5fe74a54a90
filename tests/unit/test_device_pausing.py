"""pause() and resume(): the memory goes, the addresses stay, and a refusal at any call leaves what was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import stead

if TYPE_CHECKING:
    from collections.abc import Iterator

    from doubles import CudaDouble

PAGE = 2 << 20
OUT_OF_MEMORY, INVALID = 2, 1
THERE = {"reservations": 1, "handles": 4, "memories": 4, "mappings": 4}
AWAY = {"reservations": 1}


@pytest.fixture
def held(cuda_double: CudaDouble) -> Iterator[stead.Reservation]:
    """Three pieces of one device, and one, read-only, of the other, each with its number in every byte."""
    made = stead.reserve(16 * PAGE, space=stead.CudaSpace())
    made.commit(0, 3 * PAGE, backing=stead.DeviceMemory(piece=PAGE))
    made.commit(8 * PAGE, PAGE, backing=stead.DeviceMemory(1))
    for number in (0, 1, 2, 8):
        made.view(number * PAGE, PAGE).fill(number + 1)  # type: ignore[attr-defined]
    made.protect(8 * PAGE, PAGE, access="r")
    yield made
    made.release()
    assert not cuda_double.holds()


def contents(held: stead.Reservation) -> list[bytes]:
    return [held.view(number * PAGE, 3).read() for number in (0, 1, 2, 8)]  # type: ignore[attr-defined]


WRITTEN = [b"\1\1\1", b"\2\2\2", b"\3\3\3", b"\t\t\t"]


@pytest.mark.parametrize("keep", [True, False])
def test_the_memory_goes_and_comes_and_the_addresses_stay(
    held: stead.Reservation, cuda_double: CudaDouble, keep: bool
) -> None:
    before, generation = held.committed, held.generation
    held.pause(keep=keep)
    assert held.paused
    assert cuda_double.holds() == AWAY
    assert held.committed == before
    held.resume()
    assert not held.paused
    assert cuda_double.holds() == THERE
    assert held.generation >= generation + 2
    if keep:
        assert contents(held) == WRITTEN
    with pytest.raises(ValueError, match="read-only"):
        held.view(8 * PAGE, PAGE).write(b"no")


def test_views_and_others_reservations_stay(held: stead.Reservation, cuda_double: CudaDouble) -> None:
    with stead.reserve(PAGE, space=held.space) as other:
        kept = other.commit(backing=stead.DeviceMemory())
        kept.fill(7)  # type: ignore[attr-defined]
        view = held.view(0, PAGE)
        held.pause(keep=True)
        assert kept[:2].read() == b"\7\7"  # type: ignore[attr-defined]
        with pytest.raises(stead.DriverError):
            view.read()  # type: ignore[attr-defined]
        held.resume()
        assert view[:2].read() == b"\1\1"  # type: ignore[attr-defined]
        del view, kept


def test_what_is_paused_is_refused_until_it_is_resumed(held: stead.Reservation) -> None:
    held.pause()
    for call in (
        lambda: held.pause(),
        lambda: held.view(0, PAGE),
        lambda: held.decommit(),
        lambda: held.protect(0, PAGE, access="r"),
    ):
        with pytest.raises(stead.Paused, match="resume it first"):
            call()
    with pytest.raises(stead.Occupied):
        held.commit(0, PAGE, backing=stead.DeviceMemory())
    held.commit(4 * PAGE, PAGE, backing=stead.DeviceMemory()).fill(3)  # type: ignore[attr-defined]
    held.resume()
    held.resume()
    assert held.view(4 * PAGE, 2).read() == b"\3\3"  # type: ignore[attr-defined]
    held.decommit(4 * PAGE, PAGE)


def test_released_while_it_is_paused(held: stead.Reservation, cuda_double: CudaDouble) -> None:
    held.pause(keep=True)
    held.release()
    assert not cuda_double.holds()
    held.resume()
    with pytest.raises(stead.Released):
        held.pause()


def test_it_waits_for_what_the_devices_still_do(held: stead.Reservation, cuda_double: CudaDouble) -> None:
    cuda_double.fill(7, held.address, PAGE, 0x55)
    held.pause(keep=True)
    assert cuda_double.count("faults") == 0
    held.resume()
    assert contents(held)[0] == b"UUU"


@pytest.mark.parametrize(
    ("call", "times"), [("cuMemUnmap", 2), ("cuMemcpy", 2), ("cuMemSetAccess", 2)], ids=lambda each: str(each)
)
def test_a_pause_that_is_refused_at_any_call_leaves_all_there(
    held: stead.Reservation, cuda_double: CudaDouble, call: str, times: int
) -> None:
    for nth in range(1, times + 1):
        cuda_double.refuse(call, INVALID, nth)
        generation = held.generation
        with pytest.raises(stead.DriverError):
            held.pause(keep=True)
        assert not held.paused
        assert held.generation == generation
        assert cuda_double.holds() == THERE
        assert contents(held) == WRITTEN


@pytest.mark.parametrize(("call", "times"), [("cuMemCreate", 4), ("cuMemMap", 4), ("cuMemSetAccess", 2)])
def test_a_resume_that_runs_out_at_any_call_leaves_it_paused(
    held: stead.Reservation, cuda_double: CudaDouble, call: str, times: int
) -> None:
    held.pause(keep=True)
    for nth in range(1, times + 1):
        cuda_double.refuse(call, OUT_OF_MEMORY, nth)
        with pytest.raises(stead.LimitReached) as refused:
            held.resume()
        assert refused.value.limit == "device memory"
        assert held.paused
        assert cuda_double.holds() == AWAY
    held.resume()
    assert contents(held) == WRITTEN
    assert cuda_double.holds() == THERE


def test_another_tenant_has_the_memory_meanwhile(held: stead.Reservation, cuda_double: CudaDouble) -> None:
    cuda_double.limit("8 MiB")
    held.pause(keep=True)
    with stead.reserve(16 * PAGE, space=held.space) as tenant:
        tenant.commit(0, 4 * PAGE, backing=stead.DeviceMemory())
        with pytest.raises(stead.LimitReached, match="6 MiB of device 0"):
            held.resume()
        assert held.paused
    held.resume()
    assert contents(held) == WRITTEN


def test_what_others_have_cannot_be_paused(cuda_double: CudaDouble) -> None:
    with stead.reserve(4 * PAGE, space=stead.CudaSpace()) as held:
        held.commit(0, PAGE, backing=stead.DeviceMemory(shareable=True))
        held.pause()
        held.resume()
        stead.Handle.of(held)
        with pytest.raises(stead.Unsupported, match="no other process has"):
            held.pause()
        assert not held.paused


def test_memory_of_the_process_cannot_be_paused() -> None:
    with stead.reserve(PAGE) as held:
        held.commit(0, 4096)
        with pytest.raises(stead.Unsupported, match="memory of a device"):
            held.pause()
        held.resume()
        assert not held.paused


def test_an_arena_keeps_its_blocks(cuda_double: CudaDouble) -> None:
    arena = stead.Arena("64 MiB", backing=stead.DeviceMemory())
    block = arena.block(1000)
    address = block.address
    reservation = arena.reservation
    assert reservation is not None
    reservation.pause()
    assert cuda_double.bytes() == 0
    more = arena.block(1000)
    assert more.address != address
    reservation.resume()
    assert cuda_double.bytes() > 0
    del block, more
    arena.close()
    assert not cuda_double.holds()
