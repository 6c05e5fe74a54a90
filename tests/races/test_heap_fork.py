"""A heap over a fork: the child is attached in its own right, holds what it inherited, and nobody waits for
ever."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

import stead
from races.test_fork import in_child

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


@pytest.fixture
def heap() -> Iterator[stead.SharedHeap]:
    made = stead.SharedHeap("256 MiB", name="forked")
    yield made
    gc.collect()
    made.collect()
    made._expire(True)
    made.check()
    made.close()


def test_inherited_blocks_are_the_childs_own(heap: stead.SharedHeap) -> None:
    block = heap.block(10)
    address = block.address
    memoryview(block)[:] = b"0123456789"
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(ready[1], b"x")
        os.read(go[0], 1)  # by now the parent has freed it
        good = bytes(block) == b"0123456789" and heap.owns(address) and heap._held(address) == 1
        block.free()
        os._exit(0 if good and not heap.owns(address) else 1)
    os.read(ready[0], 1)
    assert sorted(heap.processes) == sorted([os.getpid(), pid])
    block.free()
    assert heap.owns(address)
    assert [each.blocks for each in heap.statistics().holders if each.pid == pid] == [1]
    os.write(go[1], b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not heap.owns(address)
    for each in (*ready, *go):
        os.close(each)


def test_what_the_child_does_is_its_own(heap: stead.SharedHeap) -> None:
    block, address = heap.block(10), heap.allocate(10)

    def work() -> None:
        heap.free(address)
        with pytest.raises(stead.NotLive, match="not by this one"):
            heap.free(address)
        mine = heap.block(100_000)
        assert bytes(pickle.loads(pickle.dumps(mine)))[:0] == b""
        heap.check()
        ref = heap.put([1, 2])
        assert heap.get(ref) == [1, 2]

    assert in_child(work) == 0
    heap.free(address)
    block.free()
    heap.collect()
    assert heap.statistics().blocks == 0


def test_a_child_that_is_gone_holds_nothing(heap: stead.SharedHeap) -> None:
    kept = heap.block(1000)
    pid = os.fork()
    if pid == 0:
        heap.allocate(5000)
        signal.pause()
    while len(heap.statistics().holders) < 2 or heap.statistics().blocks < 2:
        pass  # until the child has allocated
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert heap.collect() == 1
    assert heap.statistics().blocks == 1
    kept.free()


def test_a_child_may_close_and_so_may_the_parent(heap: stead.SharedHeap) -> None:
    block = heap.block(10)

    def work() -> None:
        with pytest.raises(BufferError, match="holds 1 block"):
            heap.close()
        heap.close(force=True)
        with pytest.raises(stead.Released):
            heap.allocate(1)

    assert in_child(work) == 0
    memoryview(block)[:1] = b"x"
    heap.check()
    block.free()


def test_children_of_children(heap: stead.SharedHeap) -> None:
    block = heap.block(8)

    def generation(depth: int) -> None:
        with memoryview(block) as view:
            view[depth] = depth
        if depth < 5:
            assert in_child(lambda: generation(depth + 1)) == 0

    generation(0)
    assert bytes(block)[:6] == bytes(range(6))
    heap.collect()
    assert heap.processes == (os.getpid(),)


def test_a_heap_that_is_made_in_the_child_is_not_the_parents(heap: stead.SharedHeap) -> None:
    def work() -> None:
        other = stead.SharedHeap("1 MiB")
        assert other.processes == (os.getpid(),)
        other.block(10).free()
        other.close()

    assert in_child(work) == 0


def test_several_heaps_and_one_that_is_closed(heap: stead.SharedHeap) -> None:
    heaps = [stead.SharedHeap("1 MiB") for _ in range(4)]
    blocks = [each.block(10) for each in heaps]
    heaps[1].close(force=True)

    def work() -> None:
        for each, block in zip(heaps, blocks, strict=True):
            if not each.closed:
                assert len(each.processes) == 2
                block.free()
                each.check()

    assert in_child(work) == 0
    blocks.clear()
    for each in heaps:
        if not each.closed:
            each.collect()
            each.close()


def test_forks_while_threads_allocate(heap: stead.SharedHeap) -> None:
    stop = threading.Event()
    wrong: list[Any] = []

    def churn() -> None:
        try:
            held: list[Any] = []
            while not stop.is_set():
                held.append(heap.block(100 * len(held) + 1))
                pickle.loads(pickle.dumps(held[0]))
                if len(held) > 200:
                    del held[::2]
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=churn) for _ in range(3)]
    for thread in threads:
        thread.start()

    def work() -> None:
        signal.alarm(60)
        for size in (10, 5000, 100_000):
            heap.block(size).free()
        heap.put(b"x" * 100)

    try:
        for _ in range(30):
            assert in_child(work) == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong
    heap.collect()
    assert heap.processes == (os.getpid(),)


def test_forks_while_the_collector_gives_blocks_back(heap: stead.SharedHeap) -> None:
    """A finalizer between the hooks of a fork would wait for a lock that its own thread has."""

    class Cycle:
        def __init__(self) -> None:
            self.itself, self.block = self, heap.block(10)

    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(20):
            made = Cycle()
            del made
            assert in_child(lambda: None) == 0
    finally:
        gc.set_threshold(*before)
    assert gc.isenabled()


def test_a_fork_that_fails_leaves_all_as_it_was(heap: stead.SharedHeap) -> None:
    import resource

    block = heap.block(10)
    pid = os.fork()
    if pid == 0:
        # As a user with no processes left; root is not held to the limit.
        try:
            os.setuid(65534)
            resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
            os._exit(2 if os.fork() else 3)
        except BlockingIOError:
            heap.check()
            block.free()
            heap.allocate(10)
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (0, 2)
    block.free()
