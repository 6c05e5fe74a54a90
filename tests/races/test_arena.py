"""Arenas under threads and forks. Each thread marks every byte of its blocks and looks whether the marks last."""

from __future__ import annotations

import itertools
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal

import pytest

import stead
from conftest import need
from races.test_fork import in_child

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def churn(
    arena: stead.Arena, mark: int, seed: int, rounds: int, swap: Callable[[stead.Block], stead.Block]
) -> None:
    draw = random.Random(seed)
    live: list[tuple[stead.Block, int]] = []
    for _ in range(rounds):
        if len(live) > 30 or (live and draw.random() < 0.4):
            block, expected = live.pop(draw.randrange(len(live)))
            with memoryview(block) as view:
                assert view[0] == view[-1] == expected
                assert bytes(view[:256]) == bytes([expected]) * min(256, len(view))
            if draw.random() < 0.5:
                swap(block)  # some thread frees it
            continue
        size = int(2 ** draw.uniform(0, 18))
        block = arena.block(size)
        with memoryview(block) as view:
            view[:] = bytes([mark]) * size
        live.append((block, mark))


def test_threads_share_an_arena() -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    arena = stead.Arena("256 MiB", step="1 MiB", keep="4 MiB")
    passed: list[stead.Block] = []
    lock = threading.Lock()

    def swap(block: stead.Block) -> stead.Block:
        with lock:
            passed.append(block)
            return passed.pop(0)

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(churn, arena, i + 1, seed + i, 3000, swap) for i in range(8)]:
            done.result(timeout=120)
    passed.clear()
    arena.check()
    assert arena.statistics().blocks == 0
    arena.close()


def test_threads_fill_an_arena_that_grows_under_them() -> None:
    arena = stead.Arena("64 MiB", step=4096)
    ready = threading.Barrier(4)

    def fill() -> list[int]:
        ready.wait(10)
        found = []
        while True:
            try:
                found.append(arena.allocate(100_000))
            except stead.OutOfSpace:
                return found

    with ThreadPoolExecutor(4) as pool:
        lists = [done.result(timeout=120) for done in [pool.submit(fill) for _ in range(4)]]
    addresses = sorted(address for each in lists for address in each)
    assert len(addresses) == 64 * MIB // (25 * 4096)  # not one place was lost
    assert all(b - a >= 100_000 for a, b in itertools.pairwise(addresses))
    arena.check()
    for address in addresses:
        arena.free(address)
    arena.close()


@pytest.mark.parametrize("hardened", [False, True])
def test_a_forked_child_has_a_working_copy(hardened: bool) -> None:
    arena = stead.Arena("64 MiB", hardened=hardened)
    block = arena.block(5000)
    memoryview(block)[:5] = b"mine!"
    address = arena.allocate(100)

    def work() -> None:
        assert bytes(memoryview(block)[:5]) == b"mine!"
        memoryview(block)[:5] = b"copy!"
        arena.free(address)
        more = [arena.block(size) for size in (1, 100, 10_000, 20 * MIB)]
        for each in more:
            memoryview(each)[:] = b"\xff" * len(each)
        arena.check()
        arena.trim()

    assert in_child(work) == 0
    assert bytes(memoryview(block)[:5]) == b"mine!"
    arena.check()
    arena.free(address)
    assert arena.statistics().blocks == 1


def test_a_forked_child_takes_nothing_of_a_shared_arena() -> None:
    arena = stead.Arena("64 MiB", backing="shared", keep=0)
    block = arena.block(2 * MIB)
    memoryview(block)[:5] = b"ours!"
    address = arena.allocate(2 * MIB)
    arena.free(address)
    big = arena.block(2 * MIB)
    memoryview(big)[:] = b"\xff" * len(big)

    def work() -> None:
        nonlocal big
        for size in (1, MIB):
            with pytest.raises(stead.Unsupported, match="shared with the parent"):
                arena.allocate(size)
        memoryview(block)[:5] = b"both!"
        del big  # the child's name for it: the parent's block keeps its contents
        assert arena.trim() == 0

    assert in_child(work) == 0
    assert bytes(memoryview(block)[:5]) == b"both!"
    assert memoryview(big)[-1] == 0xFF
    arena.check()


@pytest.mark.parametrize("backing", ["anonymous", "shared"])
def test_numpy_in_a_forked_child(backing: Literal["anonymous", "shared"]) -> None:
    need("numpy")
    import numpy

    from stead.numpy import allocating_in

    arena = stead.Arena("64 MiB", backing=backing)
    with allocating_in(arena):
        x = numpy.full(1000, 1)
        expected = x.tobytes()
        numpy.ones(10)  # whose memory is kept for the next

        def work() -> None:
            assert x.tobytes() == expected
            if backing == "shared":
                for size in (10, 1000, MIB):
                    with pytest.raises(MemoryError):
                        numpy.empty(size)
            else:
                y = numpy.full(10, 2.0) + x[:10]
                assert arena.owns(y.ctypes.data)
                x[:] = 3
            arena.check()

        assert in_child(work) == 0
        assert x.tobytes() == expected
        assert (numpy.full(10, 4.0) == 4.0).all()


def test_a_fork_amid_other_threads_never_blocks_the_child() -> None:
    """A lock that a thread of the parent held at the fork would stop the child for ever: the alarm ends it."""
    import signal

    arena = stead.Arena("256 MiB", step="1 MiB", keep="1 MiB")
    stop = threading.Event()

    def busy(seed: int) -> None:
        draw = random.Random(seed)
        while not stop.is_set():
            arena.free(arena.allocate(int(2 ** draw.uniform(0, 21))))

    def work() -> None:
        signal.alarm(20)
        for i in range(300):
            arena.free(arena.allocate(1 + i * 997))
        arena.check()

    threads = [threading.Thread(target=busy, args=(i,)) for i in range(3)]
    for each in threads:
        each.start()
    try:
        assert [in_child(work) for _ in range(40)] == [0] * 40
    finally:
        stop.set()
        for each in threads:
            each.join()
    arena.check()


def test_a_grandchild_works_too() -> None:
    arena = stead.Arena("64 MiB")

    def work() -> None:
        arena.allocate(100)

        def deeper() -> None:
            arena.allocate("1 MiB")
            arena.check()

        assert in_child(deeper) == 0

    assert in_child(work) == 0
    assert os.getpid()
    assert arena.statistics().blocks == 0
