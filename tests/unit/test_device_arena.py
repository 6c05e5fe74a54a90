"""Arenas in a device's memory: blocks that cannot be touched from here, freed behind streams."""

from __future__ import annotations

import contextlib
import gc
import random
import threading
from typing import TYPE_CHECKING, Any

import pytest

import stead
from stead.devices.driver import Location

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
    """As much as there is, so that every byte is handed out again as soon as it may be: who needs it waits."""
    blocks = [arena.allocate(8 * MIB) for _ in range(7)]
    cuda_double.fill(STREAM, blocks[0], 8 * MIB, 1, device=1)
    arena.free_after(blocks[0], STREAM)
    with pytest.raises(stead.NotLive):
        arena.free(blocks[0])
    with pytest.raises(stead.NotLive):
        arena.free_after(blocks[0], STREAM)
    eighth = arena.allocate(8 * MIB)
    assert eighth != blocks[0]
    assert arena.allocate(8 * MIB) == blocks[0]
    assert cuda_double.run(STREAM) == 1  # the work is done; left is the event of the second, which was in vain
    with pytest.raises(stead.OutOfSpace):
        arena.allocate(8 * MIB)
    assert not cuda_double.count("faults")
    for each in [*blocks, eighth]:
        arena.free(each)


def test_a_full_device_waits_for_the_streams_first(cuda_double: CudaDouble) -> None:
    cuda_double.limit("16 MiB")
    with stead.Arena("64 MiB", step="8 MiB", backing=stead.DeviceMemory()) as arena:
        blocks = [arena.allocate(8 * MIB) for _ in range(2)]
        cuda_double.fill(STREAM, blocks[1], 8 * MIB, 1)
        arena.free_after(blocks[1], STREAM)
        assert arena.allocate(8 * MIB) == blocks[1]
        with pytest.raises(stead.OutOfSpace, match="cannot grow") as refused:
            arena.allocate(8 * MIB)
        assert isinstance(refused.value.__cause__, stead.LimitReached)
        for each in blocks:
            arena.free(each)
    assert not cuda_double.count("faults")


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


# ---- giving memory back ----

PIECE = 2 * MIB


@pytest.fixture
def pieces(cuda_double: CudaDouble) -> Iterator[Any]:
    """32 MiB in pieces; it grows by one of them."""
    with stead.Arena("32 MiB", backing=stead.DeviceMemory(piece=PIECE), step=PIECE) as made:
        yield made
        made.check()
    assert not cuda_double.holds()


def there(arena: Any, double: CudaDouble) -> int:
    """Bytes that are committed, as the arena and the driver say."""
    committed = int(arena.statistics().committed)
    assert double.bytes() == committed
    return committed


def test_free_pieces_go_back_to_the_driver_and_come_back(pieces: Any, cuda_double: CudaDouble) -> None:
    blocks = [pieces.allocate(PIECE) for _ in range(16)]
    freed = {blocks[number] for number in (3, 4, 5, 10)}
    for each in freed:
        pieces.free(each)
    pieces.reservation.view(0, 3).write(b"old")
    generation = pieces.reservation.generation
    assert pieces.trim() == 4 * PIECE
    assert pieces.reservation.generation > generation
    assert there(pieces, cuda_double) == 12 * PIECE
    assert pieces.statistics().largest_free_run == 3 * PIECE
    assert pieces.trim() == 0
    pieces.check()
    again = [pieces.allocate(PIECE)]
    assert there(pieces, cuda_double) == 13 * PIECE
    again += [pieces.allocate(PIECE) for _ in range(3)]
    assert set(again) == freed
    assert there(pieces, cuda_double) == 16 * PIECE
    assert pieces.reservation.view(0, 3).read() == b"old"
    with pytest.raises(stead.OutOfSpace):
        pieces.allocate(PIECE)
    for each in {*blocks, *again}:
        pieces.free(each)


def test_a_piece_with_a_live_block_stays(pieces: Any, cuda_double: CudaDouble) -> None:
    kept, rest = pieces.allocate(65536), pieces.allocate("31 MiB")
    pieces.free(rest)
    assert pieces.trim() == 15 * PIECE
    assert there(pieces, cuda_double) == PIECE
    other = pieces.allocate(65536)  # there is room beside it
    assert there(pieces, cuda_double) == PIECE
    pieces.free(other)
    whole = pieces.allocate("31 MiB")  # in what had stayed and what had gone, together
    assert there(pieces, cuda_double) == 16 * PIECE
    pieces.free(kept)
    pieces.free(whole)
    assert pieces.trim() == 16 * PIECE
    assert there(pieces, cuda_double) == 0


def test_so_much_stays_as_is_to_be_kept(pieces: Any, cuda_double: CudaDouble) -> None:
    pieces.free(pieces.allocate("32 MiB"))
    assert pieces.trim(keep="9 MiB") == 22 * MIB
    assert there(pieces, cuda_double) == 10 * MIB
    assert pieces.trim(keep="9 MiB") == 0
    ahead = pieces.allocate("20 MiB")
    assert there(pieces, cuda_double) == 30 * MIB
    pieces.free(ahead)


def test_what_waits_for_a_stream_stays(pieces: Any, cuda_double: CudaDouble) -> None:
    block = pieces.allocate(PIECE)
    cuda_double.fill(STREAM, block, PIECE, 1)
    pieces.free_after(block, STREAM)
    assert pieces.trim() == 0
    cuda_double.run(STREAM)
    assert pieces.trim() == PIECE
    assert not cuda_double.count("faults")


def test_a_decommit_that_is_refused_leaves_the_rest_as_it_was(pieces: Any, cuda_double: CudaDouble) -> None:
    blocks = [pieces.allocate(PIECE) for _ in range(6)]
    for number in (0, 2, 3, 5):
        pieces.free(blocks[number])
    cuda_double.refuse("cuMemUnmap", 1, nth=2)
    with pytest.raises(stead.DriverError, match="cuMemUnmap"):
        pieces.trim()
    pieces.check()
    left = there(pieces, cuda_double)
    assert 2 * PIECE < left < 6 * PIECE
    assert pieces.trim() == left - 2 * PIECE
    for number in (1, 4):
        pieces.free(blocks[number])


def test_a_device_that_is_full_is_OutOfSpace_and_what_is_out_stays_so(
    pieces: Any, cuda_double: CudaDouble
) -> None:
    pieces.free(pieces.allocate("32 MiB"))
    assert pieces.trim() == 32 * MIB
    cuda_double.limit(PIECE)
    with pytest.raises(stead.OutOfSpace, match="device 0"):
        pieces.allocate(2 * PIECE)
    pieces.check()
    assert there(pieces, cuda_double) == 0
    block = pieces.allocate(PIECE)
    cuda_double.limit("1 GiB")
    other = pieces.allocate(15 * PIECE)
    pieces.free(block)
    pieces.free(other)


def test_what_is_paused_cannot_be_trimmed(pieces: Any, cuda_double: CudaDouble) -> None:
    pieces.free(pieces.allocate(PIECE))
    pieces.reservation.pause()
    with pytest.raises(stead.Paused):
        pieces.trim()
    pieces.reservation.resume()
    assert pieces.trim() == PIECE
    pieces.reservation.pause()
    pieces.reservation.resume()
    assert there(pieces, cuda_double) == 0


def test_memory_ahead_counts_what_has_gone(pieces: Any, cuda_double: CudaDouble) -> None:
    pieces.free(pieces.allocate("16 MiB"))
    pieces.trim()
    pieces._commit_ahead(3 * PIECE)
    assert there(pieces, cuda_double) == 3 * PIECE
    pieces._commit_ahead(None)
    assert there(pieces, cuda_double) == 32 * MIB


def test_growth_into_what_has_gone_is_told(pieces: Any) -> None:
    pieces.free(pieces.allocate(4 * PIECE))
    pieces.trim(keep=PIECE)
    heard: list[stead.events.Event] = []
    with stead.events.subscribe(heard.append):
        block = pieces.allocate(3 * PIECE)
    [growth] = [each.facts for each in heard if each.name == "growth"]
    assert (growth["before"], growth["after"]) == (PIECE, 4 * PIECE)
    pieces.free(block)


@pytest.mark.parametrize(
    "backing", [stead.DeviceMemory(), stead.DeviceMemory(piece=PIECE, shareable=True)], ids=["whole", "shareable"]
)
def test_what_cannot_go_stays(cuda_double: CudaDouble, backing: stead.DeviceMemory) -> None:
    with stead.Arena("32 MiB", backing=backing) as arena:
        arena.free(arena.allocate(4 * PIECE))
        before = cuda_double.bytes()
        assert arena.trim() == 0
        assert cuda_double.bytes() == before > 0


@pytest.mark.parametrize("seed", range(4))
def test_every_live_block_has_its_memory(pieces: Any, cuda_double: CudaDouble, seed: int) -> None:
    draw = random.Random(seed)
    live: dict[int, int] = {}
    for _ in range(150):
        what = draw.random()
        if what < 0.5:
            size = draw.choice((1000, 65536, MIB, 3 * MIB, 7 * MIB))
            with contextlib.suppress(stead.OutOfSpace):
                live[pieces.allocate(size, draw.choice((16, 16, 65536, 4 * MIB)))] = size
        elif what < 0.85 and live:
            at = draw.choice(list(live))
            pieces.free(at)
            del live[at]
        elif what < 0.95:
            pieces.trim(keep=draw.choice((0, 0, 5 * MIB)))
        else:
            pieces.check()
            there(pieces, cuda_double)
        for at, size in live.items():
            for byte in (at, at + size - 1):
                assert cuda_double.allowed(Location("device", 0), byte) == "rw"
    for at in live:
        pieces.free(at)
    pieces.trim()
    assert there(pieces, cuda_double) == 0
    pieces.free(pieces.allocate("32 MiB"))


def test_threads_allocate_while_another_trims(pieces: Any, cuda_double: CudaDouble) -> None:
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for number in range(100):
                at = pieces.allocate((1 + number % 3) * MIB)
                cuda_double.allowed(Location("device", 0), at)
                pieces.free(at)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for each in threads:
        each.start()
    while any(each.is_alive() for each in threads):
        pieces.trim()
    for each in threads:
        each.join()
    assert not failed
    pieces.trim()
    assert there(pieces, cuda_double) == 0
