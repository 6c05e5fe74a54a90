"""Arenas in a device's memory: blocks that cannot be touched from here, freed behind streams."""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING, Any

import pytest

import stead

if TYPE_CHECKING:
    from collections.abc import Iterator

    from doubles import CudaDouble

MIB = 1 << 20
STREAM, OTHER = 7, 8


@pytest.fixture
def arena(cuda_double: CudaDouble) -> Iterator[Any]:
    with stead.Arena("64 MiB", backing=stead.DeviceMemory(1)) as made:
        yield made
        made.check()
    assert not cuda_double.holds()


def test_blocks_are_where_others_can_take_them(arena: Any) -> None:
    with arena.block(1000) as block:
        assert isinstance(block, stead.DeviceBlock)
        assert arena.range.start <= block.address < arena.range.stop
        assert (block.size, len(block), block.arena, block.freed) == (1000, 1000, arena, False)
        assert block.__dlpack_device__() == (2, 1)
    assert block.freed
    block = arena.block(1000)
    interface = block.__cuda_array_interface__
    assert interface["data"] == (block.address, False)
    assert (interface["shape"], interface["strides"], interface["version"]) == ((1000,), None, 3)
    with pytest.raises(BufferError, match="given away"):
        block.free()
    with pytest.raises(TypeError):
        memoryview(block)


def test_what_a_capsule_shows_lives_as_long(arena: Any) -> None:
    block = arena.block(4096)
    capsule = block.__dlpack__()
    del block
    gc.collect()
    assert arena.statistics().blocks == 1
    del capsule
    gc.collect()
    assert arena.statistics().blocks == 0


def test_memory_comes_in_steps_and_a_full_device_is_OutOfSpace(cuda_double: CudaDouble) -> None:
    arena = stead.Arena("64 MiB", backing=stead.DeviceMemory())
    assert cuda_double.bytes() == 0
    kept = [arena.allocate(1000)]
    first = cuda_double.bytes()
    assert 0 < first < 64 * MIB
    assert arena.statistics().committed == first
    cuda_double.limit(first)
    with pytest.raises(stead.OutOfSpace, match="device 0"):
        kept.extend(arena.allocate(MIB) for _ in range(64))
    cuda_double.limit("1 GiB")
    kept.append(arena.allocate(MIB))
    for each in kept:
        arena.free(each)
    arena.close()
    assert not cuda_double.holds()


def test_pieces_that_do_not_divide_it(cuda_double: CudaDouble) -> None:
    with stead.Arena("32 MiB", backing=stead.DeviceMemory(piece="6 MiB")) as arena:
        whole = arena.allocate("31 MiB")
        assert cuda_double.bytes() == 32 * MIB
        arena.free(whole)
    assert not cuda_double.holds()


def test_nobody_gets_a_block_that_a_stream_still_uses(arena: Any, cuda_double: CudaDouble) -> None:
    """As much as there is, so that every byte is handed out again as soon as it may be."""
    blocks = [arena.allocate(8 * MIB) for _ in range(7)]
    cuda_double.fill(STREAM, blocks[0], 8 * MIB, 1, device=1)
    arena.free_after(blocks[0], STREAM)
    with pytest.raises(stead.NotLive):
        arena.free(blocks[0])
    with pytest.raises(stead.NotLive):
        arena.free_after(blocks[0], STREAM)
    rest: list[int] = []
    with pytest.raises(stead.OutOfSpace):
        rest.extend(arena.allocate(8 * MIB) for _ in range(8))
    assert blocks[0] not in rest
    assert cuda_double.run(STREAM) >= 2  # the work, and the event behind it
    assert arena.allocate(8 * MIB) == blocks[0]
    for each in blocks + rest:
        arena.free(each)


def test_a_block_waits_for_all_of_its_streams(arena: Any, cuda_double: CudaDouble) -> None:
    block = arena.block(1000)
    for stream in (STREAM, OTHER):
        block.record_stream(stream)
        cuda_double.fill(stream, block.address, 1000, 1, device=1)
    with pytest.raises(TypeError, match="stream is 'x'"):
        block.record_stream("x")
    del block
    assert arena.statistics().blocks == 1
    cuda_double.run(OTHER)
    assert arena.statistics().blocks == 1
    cuda_double.run(STREAM)
    assert arena.statistics().blocks == 0
    assert not cuda_double.count("faults")
    assert not cuda_double.count("events")


def test_closing_waits_for_the_streams(cuda_double: CudaDouble) -> None:
    arena = stead.Arena("64 MiB", backing=stead.DeviceMemory())
    address = arena.allocate(1000)
    cuda_double.fill(STREAM, address, 1000, 1)
    arena.free_after(address, STREAM)
    arena.close()
    assert not cuda_double.count("faults")
    assert not cuda_double.holds()


def test_a_driver_that_refuses_an_event_leaves_the_block_live(arena: Any, cuda_double: CudaDouble) -> None:
    address = arena.allocate(1000)
    cuda_double.refuse("cuEventRecord", 1)
    with pytest.raises(stead.DriverError):
        arena.free_after(address, STREAM)
    assert arena.statistics().blocks == 1
    arena.free_after(address)
    assert arena.statistics().blocks == 0


def test_many_that_wait_are_looked_at_by_and_by(arena: Any, cuda_double: CudaDouble) -> None:
    for _ in range(200):
        arena.free_after(arena.allocate(64), 0)
    assert cuda_double.count("events") <= 65
    assert arena.statistics().blocks == 0


def test_threads(arena: Any, cuda_double: CudaDouble) -> None:
    wrong: list[BaseException] = []

    def work(stream: int) -> None:
        try:
            for number in range(300):
                block = arena.block(100 + number)
                if number % 3 == 0:
                    block.record_stream(stream)
                if number % 7 == 0:
                    cuda_double.run(stream)
                arena.free_after(arena.allocate(64), stream)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(10 + number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong
    for number in range(4):
        cuda_double.run(10 + number)
    assert arena.statistics().blocks == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [({"zero": True}, "zero"), ({"guard": 4096}, "guard"), ({"hardened": True}, "hardened")],
)
def test_what_would_touch_the_memory_is_refused(
    cuda_double: CudaDouble, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        stead.Arena("64 MiB", backing=stead.DeviceMemory(), **options)
    gc.collect()
    assert not cuda_double.holds()


def test_numpy_gets_none_of_it(arena: Any) -> None:
    pytest.importorskip("numpy")
    with pytest.raises(stead.Unsupported):
        arena.array(10)
    assert arena.statistics().blocks == 0


def test_freeing_behind_a_stream_is_for_devices(cuda_double: CudaDouble) -> None:
    with stead.Arena("1 MiB") as ours:
        address = ours.allocate(10)
        with pytest.raises(stead.Unsupported, match="memory of a device"):
            ours.free_after(address, 0)
        ours.free(address)
