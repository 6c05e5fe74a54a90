"""SharedHeap in one process: what it hands out, refuses, says, and gives back."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest

import stead
from stead import securing
from stead.heap import files, registry

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20


@pytest.fixture
def heap() -> Iterator[stead.SharedHeap]:
    made = stead.SharedHeap("64 MiB", name="unit")
    yield made
    gc.collect()
    if not made.closed:
        made.check()
        made.close(force=True)


# ---- by address -----------------------------------------------------------------------------------


def test_blocks_by_address(heap: stead.SharedHeap) -> None:
    one, other = heap.allocate(100), heap.allocate("1 MiB", 4096)
    assert other % 4096 == 0
    assert heap.size_of(one) >= 100
    assert heap.owns(one + 99)
    assert not heap.owns(heap.range.stop)
    heap.lease(one)
    heap.free(one)
    assert heap.owns(one)
    heap.free(one)
    assert not heap.owns(one)
    heap.free(other)
    heap.check()
    assert heap.statistics().used == 0


@pytest.mark.parametrize(
    ("address", "why"),
    [
        (lambda heap, live: live, "never handed out"),
        (lambda heap, live: heap.allocate("1 MiB") + 4096, "is inside the live block at"),
        (lambda heap, live: 4096, "is no address of this heap"),
        (lambda heap, live: -1, "is no address of this heap"),
        (lambda heap, live: 1 << 70, "is no address of this heap"),
    ],
)
def test_what_cannot_be_freed_or_held(heap: stead.SharedHeap, address: Any, why: str) -> None:
    live = heap.allocate(100)
    heap.free(live)
    at = address(heap, live)
    for call in (heap.free, heap.lease, heap.size_of):
        with pytest.raises(stead.NotLive, match=why):
            call(at)


@pytest.mark.parametrize("wrong", ["text", 1.5, None, True])
def test_an_address_is_an_int(heap: stead.SharedHeap, wrong: Any) -> None:
    for call in (heap.free, heap.lease, heap.size_of, heap.owns):
        with pytest.raises(TypeError, match="address is"):
            call(wrong)


@pytest.mark.parametrize(
    ("size", "alignment", "named"),
    [(0, 16, "size"), (-5, 16, "size"), ("x", 16, "size"), (16, 3, "alignment"), (16, 0, "alignment")],
)
def test_wrong_sizes_are_named(heap: stead.SharedHeap, size: Any, alignment: Any, named: str) -> None:
    for call in (heap.allocate, heap.block):
        with pytest.raises(ValueError, match=f"{named} is"):
            call(size, alignment)


def test_an_alignment_beyond_the_heap_is_refused_and_one_up_to_it_is_not(heap: stead.SharedHeap) -> None:
    with pytest.raises(ValueError, match="at most the heap's size"):
        heap.allocate(16, 128 * MIB)
    assert heap.allocate(16, 32 * MIB) % (32 * MIB) == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"size": 0}, "size"),
        ({"size": "64 TiB"}, "size"),
        ({"size": 4096, "step": 0}, "step"),
        ({"size": 4096, "keep": -1}, "keep"),
        ({"size": 4096, "transit": -1.0}, "transit"),
        ({"size": 4096, "transit": float("inf")}, "transit"),
        ({"size": 4096, "transit": float("nan")}, "transit"),
        ({"size": 4096, "name": "a\0b"}, "name"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"{named} is"):
        stead.SharedHeap(**arguments)


# ---- space and memory -----------------------------------------------------------------------------


def test_exhaustion_says_what_fits(heap: stead.SharedHeap) -> None:
    heap.allocate("40 MiB")
    with pytest.raises(stead.OutOfSpace) as caught:
        heap.allocate("40 MiB")
    assert caught.value.size == 40 * MIB
    heap.allocate(caught.value.largest_free_run)
    with pytest.raises(stead.OutOfSpace):
        heap.allocate(1 << 63)


def test_every_byte_can_be_had(heap: stead.SharedHeap) -> None:
    address = heap.allocate("64 MiB")
    heap.free(address)
    for _ in range(4096):
        heap.allocate(16384)
    with pytest.raises(stead.OutOfSpace):
        heap.allocate(1)
    heap.check()


def test_memory_grows_in_steps_and_is_there() -> None:
    with stead.SharedHeap("1 GiB", step="64 KiB") as heap:
        assert heap.statistics().committed == 0
        heap.free(heap.allocate(1))
        committed = heap.statistics().committed
        assert committed == 65536
        assert os.fstat(heap._live().data_fd).st_blocks * 512 == committed
        assert os.fstat(heap._live().data_fd).st_size == 1 << 30


def test_a_shortage_of_memory_is_an_error_before_anything_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with stead.SharedHeap("1 GiB") as heap:
        monkeypatch.setattr(securing, "available_memory", lambda: 32 * MIB)
        with pytest.raises(stead.LimitReached, match="more than there is"):
            heap.allocate("100 MiB")
        assert heap.statistics().committed == 0
        # The step is what cannot be had; what is needed can.
        heap.free(heap.allocate("20 MiB"))
        heap.check()


def test_memory_that_ran_out_halfway_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([1 << 40, 0, 0, 0])
    monkeypatch.setattr(securing, "available_memory", lambda: next(answers))
    monkeypatch.setattr(securing, "_PIECE", 32 * MIB)
    with stead.SharedHeap("1 GiB", step=4096) as heap:
        with pytest.raises(stead.LimitReached):
            heap.allocate("100 MiB")
        assert os.fstat(heap._live().data_fd).st_blocks == 0


def test_trim_gives_memory_back(heap: stead.SharedHeap) -> None:
    block = heap.block("16 MiB")
    memoryview(block)[:] = b"x" * (16 * MIB)
    blocks = os.fstat(heap._live().data_fd).st_blocks
    block.free()
    assert heap.statistics().dirty >= 16 * MIB
    assert heap.trim("64 MiB") == 0
    assert heap.trim("8 MiB") >= 8 * MIB
    heap.trim()
    assert heap.statistics().dirty == 0
    assert os.fstat(heap._live().data_fd).st_blocks * 512 <= blocks * 512 - 16 * MIB
    with memoryview(heap.block("16 MiB")) as view:
        assert not any(view[:: 1 << 16])


def test_keep_gives_memory_back_by_itself() -> None:
    heap = stead.SharedHeap("64 MiB", keep="2 MiB")
    for _ in range(5):
        block = heap.block("16 MiB")
        memoryview(block)[:] = b"x" * (16 * MIB)
        del block
    assert heap.statistics().dirty <= 4 * MIB
    heap.check()
    heap.close()


# ---- blocks ---------------------------------------------------------------------------------------


def test_a_block_is_a_buffer_that_gives_itself_back(heap: stead.SharedHeap) -> None:
    block = heap.block(1000, 256)
    assert block.address % 256 == 0
    assert (block.size, len(block), block.freed, block.heap) == (1000, 1000, False, heap)
    view = memoryview(block)
    view[:5] = b"hello"
    assert (view.format, view.itemsize, view.readonly, view.contiguous) == ("B", 1, False, True)
    gone = weakref.ref(block)
    address = block.address
    del block
    assert heap.owns(address)  # by the view
    view.release()
    assert gone() is None
    assert not heap.owns(address)


def test_free_needs_the_views_to_be_gone(heap: stead.SharedHeap) -> None:
    block = heap.block(10)
    with memoryview(block), pytest.raises(BufferError, match="1 live view"):
        block.free()
    block.free()
    block.free()
    assert block.freed
    assert "given back" in repr(block)
    with pytest.raises(ValueError, match="given back"):
        memoryview(block)
    with pytest.raises(stead.NotLive):
        pickle.dumps(block)
    with pytest.raises(ValueError, match="given back"), block:
        pass


def test_a_block_is_a_context_and_does_not_hide_an_error(heap: stead.SharedHeap) -> None:
    with heap.block(10) as block:
        pass
    assert block.freed
    with pytest.raises(BufferError), heap.block(10) as block:
        view = memoryview(block)
    with pytest.raises(KeyError), heap.block(10) as block:  # noqa: PT012
        kept = memoryview(block)
        raise KeyError
    del view, kept


def test_a_block_arrives_as_the_same_memory(heap: stead.SharedHeap) -> None:
    block = heap.block(10)
    with memoryview(block) as view:
        view[:] = b"0123456789"
    arrived = pickle.loads(pickle.dumps(block))
    assert (arrived.address, arrived.size, arrived.heap) == (block.address, 10, heap)
    block.free()
    assert bytes(arrived) == b"0123456789"
    with pytest.raises(TypeError, match="cannot be copied"):
        copy.copy(arrived)
    with pytest.raises(TypeError, match="made by"):
        stead.SharedBlock(0, 10, False, None)


def test_underway_it_is_kept_as_often_as_it_was_sent(heap: stead.SharedHeap) -> None:
    block = heap.block(10)
    address = block.address
    sent = [pickle.dumps(block), pickle.dumps(block)]
    del block
    statistics = heap.statistics()
    assert (statistics.kept_blocks, statistics.holders[0].blocks) == (1, 0)
    with pytest.raises(stead.NotLive, match="on its way"):
        heap.free(address)
    del statistics
    for each in sent:
        assert pickle.loads(each).address == address
    assert not heap.owns(address)
    with pytest.raises(stead.NotLive, match="nobody held it"):
        pickle.loads(sent[0])
    other = heap.block(10)  # at the same address, and not the same block
    assert other.address == address
    with pytest.raises(stead.NotLive):
        pickle.loads(sent[0])


def test_what_does_not_arrive_in_time_is_given_back() -> None:
    heap = stead.SharedHeap("1 MiB", transit=0.0)
    pickle.dumps(heap.block(10))
    assert heap.statistics().blocks == 1
    assert heap.collect() == 1
    assert heap.statistics().blocks == 0
    heap.close()


# ---- the end --------------------------------------------------------------------------------------


def test_close_needs_everything_to_be_gone(heap: stead.SharedHeap) -> None:
    block, address = heap.block(10), heap.allocate(10)
    with pytest.raises(BufferError, match="holds 2 blocks"):
        heap.close()
    del block
    with pytest.raises(BufferError, match=f"holds 1 block, the first at {address:#x}"):
        heap.close()
    heap.free(address)
    heap.close()
    heap.close()
    assert heap.closed
    assert "closed" in repr(heap)


def test_afterwards_everything_is_refused(heap: stead.SharedHeap) -> None:
    ref = heap.put(1)
    handle = heap.handle()
    del ref
    heap.close()
    for call in (
        lambda: heap.allocate(1), lambda: heap.allocate("1 KiB"), lambda: heap.free(4096), lambda: heap.block(1),
        lambda: heap.array(1), lambda: heap.put(1), lambda: heap.range, lambda: heap.statistics(), heap.check,
        heap.trim, heap.collect, lambda: heap.processes, lambda: heap.handle(), lambda: heap.owns(1),
        lambda: pickle.dumps(heap), lambda: heap.lease(1), lambda: heap.size_of(1),
    ):  # fmt: skip
        with pytest.raises(stead.Released):
            call()
    with pytest.raises(stead.PeerFailed):
        handle.attach()


def test_it_goes_with_its_last_object() -> None:
    heap = stead.SharedHeap("1 MiB")
    where, fd = heap.range, heap._live().data_fd
    block = heap.block(10)
    gone = weakref.ref(heap)
    del heap
    gc.collect()
    assert gone() is not None
    assert registry.at(where.start) is gone()
    del block
    assert gone() is None
    assert registry.at(where.start) is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    stead.reserve(where.size, at=where.start).release()


def test_a_forced_close_keeps_the_addresses(heap: stead.SharedHeap) -> None:
    where, block = heap.range, heap.block(10)
    view = memoryview(block)
    heap.close(force=True)
    with pytest.raises(stead.Occupied, match="closed by force"):
        stead.reserve(where.size, at=where.start)
    view.release()
    block.free()
    del block
    with open("/proc/self/maps") as maps:
        [line] = [each for each in maps if each.startswith(f"{where.start:x}-")]
    assert " ---p " in line


def test_a_forced_close_waits_for_nobody_inside(heap: stead.SharedHeap) -> None:
    block = heap.block(10)
    lock = heap._object_make(1, block.address, 0, 0)
    assert heap._lock_acquire(lock, -1) == 0
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(heap._lock_acquire(lock, -1)))
    thread.start()
    while True:  # until the thread is inside
        try:
            heap.close(force=True)
        except BufferError as error:
            assert "going on in other threads" in str(error)
            break
        else:
            pytest.fail("closed under a thread")
    assert not heap.closed
    heap._lock_release(lock)
    thread.join()
    assert answers == [0]


def test_a_with_statement_closes_and_does_not_hide_an_error() -> None:
    with stead.SharedHeap("1 MiB") as heap:
        heap.free(heap.allocate(10))
    assert heap.closed
    with pytest.raises(BufferError), stead.SharedHeap("1 MiB") as heap:
        block = heap.block(1)
    with pytest.raises(KeyError), stead.SharedHeap("1 MiB") as heap:  # noqa: PT012
        kept = heap.block(1)
        raise KeyError
    del block, kept


# ---- handles --------------------------------------------------------------------------------------


def test_a_heap_that_is_here_is_the_one_that_arrives(heap: stead.SharedHeap) -> None:
    assert pickle.loads(pickle.dumps(heap)) is heap
    assert heap.handle().attach() is heap
    assert heap.handle("r").attach() is heap
    assert copy.copy(heap) is heap
    assert copy.deepcopy([heap])[0] is heap
    assert heap.handle().access == "rw"
    assert not heap.read_only
    with pytest.raises(ValueError, match="access is 'w'"):
        heap.handle("w")


def test_threads_attach_the_same_heap(heap: stead.SharedHeap) -> None:
    sent = pickle.dumps(heap)
    found: list[Any] = []
    barrier = threading.Barrier(8)

    def work() -> None:
        barrier.wait()
        found.append(pickle.loads(sent))
        for _ in range(200):
            heap.block(5000).free()
            pickle.loads(pickle.dumps(heap.block(10)))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(each is heap for each in found)
    assert len(found) == 8
    heap.check()
    assert heap.statistics().blocks == 0


def test_the_files_are_sealed_private_and_named(heap: stead.SharedHeap) -> None:
    memory = heap._live()
    for fd in (memory.control_fd, memory.data_fd):
        assert os.fstat(fd).st_mode & 0o777 == 0o600
        assert not os.get_inheritable(fd)
        for size in (0, 1 << 40):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
        assert "unit" in os.readlink(f"/proc/self/fd/{fd}")


@pytest.mark.parametrize("wrong", ["control", "data", "identity", "unsealed"])
def test_a_wrong_file_is_refused(heap: stead.SharedHeap, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = stead.SharedHeap("64 MiB")
    one, two = heap._live(), other._live()
    control, data, identity = one.control_fd, one.data_fd, one.identity
    with open("/dev/zero") as zero:
        if wrong == "control":
            control = two.control_fd
        elif wrong == "data":
            data = two.control_fd
        elif wrong == "unsealed":
            data = zero.fileno()
        else:
            identity = two.identity
        with pytest.raises(stead.PeerFailed, match="heap"):
            files.attach(identity, one.where, "rw", control, data, None, "somebody")
    other.close()


def test_check_finds_damage() -> None:
    heap = stead.SharedHeap("1 MiB")
    heap.allocate(100)
    os.pwrite(heap._live().control_fd, b"\xff" * 64, 1 << 16)  # the first of the tables: what the first units are
    with pytest.raises(stead.Corrupted):
        heap.check()
    heap.close(force=True)


def test_statistics(heap: stead.SharedHeap) -> None:
    statistics = heap.statistics()
    assert (statistics.used, statistics.blocks, statistics.free, statistics.size) == (0, 0, 64 * MIB, 64 * MIB)
    assert statistics.fragmentation == 0
    block = heap.block(5000)
    statistics = heap.statistics()
    assert statistics.blocks == 1
    assert statistics.used >= 5000
    [holder] = statistics.holders
    assert (holder.pid, holder.alive, holder.blocks, holder.bytes) == (os.getpid(), True, 1, statistics.used)
    assert heap.processes == (os.getpid(),)
    assert sum(each.blocks for each in statistics.classes) == 1
    del block
