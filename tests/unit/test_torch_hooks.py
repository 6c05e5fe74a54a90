"""The functions of one arena in a device's memory, which PyTorch calls for the segments of a MemPool: frees come
behind their streams, and nothing ever waits for the GIL. On the driver's double."""

from __future__ import annotations

import ctypes
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

import stead
from conftest import need
from stead.integrations import torch as plugin
from torch_calls import Functions, functions_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from doubles import CudaDouble

MIB = 1 << 20
STREAM, OTHER = 1001, 1002


@pytest.fixture
def arena(cuda_double: CudaDouble) -> Iterator[stead.Arena]:
    """Of 8 MiB, all of it committed; at whose end nothing is left with the driver."""
    with stead.Arena("8 MiB", backing=stead.DeviceMemory(0)) as arena:
        plugin._order(arena, 0)
        arena._commit_ahead(None)
        yield arena
        if not arena.closed:
            arena.check()
    assert cuda_double.holds("handles", "mappings", "events") == {}
    assert cuda_double.count("faults") == 0


@pytest.fixture
def calls(arena: stead.Arena) -> Functions:
    return functions_of(arena)


def test_a_block_is_nobody_elses_while_its_stream_works(
    arena: stead.Arena, calls: Functions, cuda_double: CudaDouble
) -> None:
    first = calls.allocate(4 * MIB, 0, STREAM)
    cuda_double.fill(STREAM, first, 4 * MIB, 1)
    calls.free(first, 4 * MIB, 0, STREAM)
    assert arena.owns(first)
    second = calls.allocate(4 * MIB, 0, OTHER)
    assert second != first
    assert cuda_double.count("works") == 2  # the fill, and the event behind it: nobody has waited
    cuda_double.run(STREAM)
    assert calls.allocate(4 * MIB, 0, OTHER) == first
    for each in (first, second):
        calls.free(each, 4 * MIB, 0, OTHER)
    cuda_double.run(OTHER)
    assert arena.statistics().blocks == 0


def test_where_there_is_no_other_room_it_waits_for_the_streams(
    arena: stead.Arena, calls: Functions, cuda_double: CudaDouble
) -> None:
    """PyTorch frees what it has cached and asks again at once: cudaFree would have waited."""
    one, other = (calls.allocate(4 * MIB, 0, STREAM) for _ in range(2))
    cuda_double.fill(STREAM, one, 4 * MIB, 1)
    for each in (one, other):
        calls.free(each, 4 * MIB, 0, STREAM)
    again = calls.allocate(8 * MIB, 0, OTHER)
    assert again == min(one, other)
    assert cuda_double.count("works") == 0
    calls.free(again, 8 * MIB, 0, OTHER)


def test_streams_pass_each_other(arena: stead.Arena, calls: Functions, cuda_double: CudaDouble) -> None:
    slow, quick = calls.allocate(4 * MIB, 0, STREAM), calls.allocate(4 * MIB, 0, OTHER)
    cuda_double.fill(STREAM, slow, 1, 1)
    calls.free(slow, 4 * MIB, 0, STREAM)
    calls.free(quick, 4 * MIB, 0, OTHER)
    cuda_double.run(OTHER)
    assert calls.allocate(4 * MIB, 0, OTHER) == quick
    assert arena.owns(slow)
    calls.free(quick, 4 * MIB, 0, OTHER)


def test_no_room_is_a_null_pointer(arena: stead.Arena, calls: Functions) -> None:
    for size in (9 * MIB, 1 << 50, -1):
        assert calls.allocate(size, 0, STREAM) is None
    whole = calls.allocate(8 * MIB, 0, STREAM)
    assert calls.allocate(1, 0, STREAM) is None
    assert calls.allocate(1, 1, STREAM) is None  # another device's
    calls.free(whole, 8 * MIB, 0, STREAM)
    calls.free(None, 0, 0, STREAM)


def test_a_driver_that_cannot_say_when_is_waited_for_as_a_whole(
    arena: stead.Arena, calls: Functions, cuda_double: CudaDouble
) -> None:
    for refused in ("cuEventCreate", "cuEventRecord", "cuCtxPushCurrent"):
        block = calls.allocate(8 * MIB, 0, STREAM)
        cuda_double.refuse(refused, 999)
        cuda_double.fill(STREAM, block, 1, 1)
        calls.free(block, 8 * MIB, 0, STREAM)
        assert arena.statistics().blocks == 1
        assert calls.allocate(8 * MIB, 0, OTHER) == block
        assert cuda_double.count("works") == 0
        calls.free(block, 8 * MIB, 0, OTHER)
        cuda_double.run(OTHER)
        assert arena.statistics().blocks == 0


def test_a_device_that_is_lost_gives_nothing_out_twice(
    arena: stead.Arena, calls: Functions, cuda_double: CudaDouble
) -> None:
    block = calls.allocate(8 * MIB, 0, STREAM)
    calls.free(block, 8 * MIB, 0, STREAM)
    cuda_double.refuse("cuEventQuery", 700)
    cuda_double.refuse("cuEventSynchronize", 700)
    assert calls.allocate(8 * MIB, 0, OTHER) is None
    assert arena.owns(block)


def test_a_block_that_is_freed_again_while_it_waits_is_freed_once(
    arena: stead.Arena, calls: Functions, cuda_double: CudaDouble
) -> None:
    block = calls.allocate(8 * MIB, 0, STREAM)
    cuda_double.fill(STREAM, block, 1, 1)
    for _ in range(2):
        calls.free(block, 8 * MIB, 0, STREAM)
    cuda_double.run(STREAM)
    again = calls.allocate(8 * MIB, 0, OTHER)
    assert (again, arena.statistics().blocks) == (block, 1)
    calls.free(again, 8 * MIB, 0, OTHER)


def test_close_waits_for_the_streams(arena: stead.Arena, calls: Functions, cuda_double: CudaDouble) -> None:
    block = calls.allocate(8 * MIB, 0, STREAM)
    cuda_double.fill(STREAM, block, 8 * MIB, 1)
    calls.free(block, 8 * MIB, 0, STREAM)
    arena.close()
    assert cuda_double.count("works") == 0
    assert calls.allocate(1, 0, STREAM) is None
    calls.free(block, 8 * MIB, 0, STREAM)  # of nobody: nothing happens


def test_a_forked_child_frees_nothing(arena: stead.Arena, calls: Functions, cuda_double: CudaDouble) -> None:
    block = calls.allocate(8 * MIB, 0, STREAM)
    child = os.fork()
    if not child:
        calls.free(block, 8 * MIB, 0, STREAM)
        os._exit(0 if arena.owns(block) and calls.allocate(1, 0, STREAM) is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    calls.free(block, 8 * MIB, 0, STREAM)
    assert calls.allocate(8 * MIB, 0, STREAM) == block
    calls.free(block, 8 * MIB, 0, STREAM)


def test_several_arenas_at_a_time(arena: stead.Arena, calls: Functions) -> None:
    with stead.Arena("4 MiB", backing=stead.DeviceMemory(1)) as another:
        plugin._order(another, 1)
        another._commit_ahead(None)
        others = functions_of(another)
        here, there = calls.allocate(MIB, 0, STREAM), others.allocate(MIB, 1, STREAM)
        assert (arena.owns(here), another.owns(there)) == (True, True)
        calls.free(there, MIB, 1, STREAM)  # the address says whose it is
        calls.free(here, MIB, 0, STREAM)


THREADS = """
#include <pthread.h>
#include <stddef.h>

static void *(*allocate)(ptrdiff_t, int, void *);
static void (*release)(void *, ptrdiff_t, int, void *);
static void *owners[8192]; /* of each KiB */
static char *base;

static void *work(void *seed)
{
    char *live[16] = {0};
    for (ptrdiff_t i = 0; i < 3000; i++) {
        ptrdiff_t at = i % 16;
        if (live[at]) {
            __atomic_store_n(&owners[(live[at] - base) >> 10], NULL, __ATOMIC_SEQ_CST);
            release(live[at], 0, 0, (void *)(1000 + (i % 3)));
        }
        live[at] = allocate((i * 7919 + (ptrdiff_t)seed * 104729) % 20000 + 1024, 0, (void *)(1000 + (i % 3)));
        if (!live[at])
            return "no room";
        if (__atomic_exchange_n(&owners[(live[at] - base) >> 10], seed, __ATOMIC_SEQ_CST))
            return "not its own";
    }
    for (int i = 0; i < 16; i++) {
        __atomic_store_n(&owners[(live[i] - base) >> 10], NULL, __ATOMIC_SEQ_CST);
        release(live[i], 0, 0, NULL);
    }
    return NULL;
}

const char *run(void *one, void *other, char *start)
{
    pthread_t threads[3];
    void *said = NULL, *each;
    allocate = (void *(*)(ptrdiff_t, int, void *))one;
    release = (void (*)(void *, ptrdiff_t, int, void *))other;
    base = start;
    for (ptrdiff_t i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, work, (void *)(i + 1));
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], &each);
        said = each ? each : said;
    }
    return said;
}
"""


def test_threads_need_no_gil(arena: stead.Arena, calls: Functions, tmp_path: Path) -> None:
    """The thread that waits for them keeps the GIL: one of them that wanted it would wait for ever."""
    need("cc")
    source, built = tmp_path / "threads.c", tmp_path / "threads.so"
    source.write_text(THREADS)
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-pthread", "-o", built, source], check=True)
    run = ctypes.PyDLL(str(built)).run
    run.argtypes, run.restype = [ctypes.c_void_p] * 3, ctypes.c_char_p
    functions = (ctypes.cast(each, ctypes.c_void_p) for each in (calls.allocate, calls.free))
    assert run(*functions, arena.range.start) is None
    assert arena._settle(all=True) >= 0
    assert arena.statistics().blocks == 0
