"""stead.integrations.torch: the C functions that PyTorch loads, called as it calls them, from C and any thread.

What is said to ``use`` stays for the life of a process, so that each test has devices of its own."""

from __future__ import annotations

import ctypes
import itertools
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import stead
from conftest import need
from stead.integrations import torch as plugin
from torch_calls import Functions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20

devices = itertools.count(100)


@pytest.fixture(params=[ctypes.CDLL, ctypes.PyDLL])
def torch_calls(request: pytest.FixtureRequest) -> Functions:
    return Functions(request.param)


@pytest.fixture
def device() -> Iterator[int]:
    number = next(devices)
    yield number
    plugin.use(None, number)


made: list[stead.Arena] = []


@pytest.fixture(autouse=True)
def _no_addresses_stay() -> Iterator[None]:
    """What torch was given is kept for good: it is closed, so that other tests find the process as it was."""
    yield
    while made:
        made.pop().close()


def new_arena(*arguments: Any, **options: Any) -> stead.Arena:
    made.append(stead.Arena(*arguments, **options))
    return made[-1]


def addresses_alone(size: int = 64 * MIB) -> stead.Arena:
    return new_arena(stead.reserve(size), backing="none")


def test_tensors_are_blocks_of_memory_that_is_never_touched(torch_calls: Functions, device: int) -> None:
    arena = addresses_alone()
    plugin.use(arena, device, ordered=False)
    blocks = [torch_calls.allocate(size, device, None) for size in (1, 512, 513, 100_000, 5 * MIB)]
    assert all(address % 512 == 0 and arena.owns(address) for address in blocks)
    assert (arena.size_of(blocks[4]), arena.statistics().blocks) == (5 * MIB, 5)
    for address in blocks:
        torch_calls.free(address, 1, device, None)
    assert arena.statistics().blocks == 0
    again = torch_calls.allocate(5 * MIB, device, None)
    assert arena.owns(again)
    torch_calls.free(again, 5 * MIB, device, None)
    arena.check()


def test_a_tensor_is_freed_by_torch_alone(torch_calls: Functions, device: int) -> None:
    arena = addresses_alone()
    plugin.use(arena, device, ordered=False)
    address = torch_calls.allocate(1000, device, None)
    with pytest.raises(stead.NotLive, match="gives itself back"):
        arena.free(address)
    with pytest.raises(BufferError, match="1 live block"):
        arena.close()
    torch_calls.free(address, 1000, device, None)


def test_no_room_is_a_null_pointer_that_changes_nothing(torch_calls: Functions, device: int) -> None:
    arena = addresses_alone(4 * MIB)
    plugin.use(arena, device, ordered=False)
    before = arena.statistics()
    for size in (5 * MIB, 1 << 50, (1 << 63) - 1, -1, -(1 << 63)):
        assert torch_calls.allocate(size, device, None) is None
    assert arena.statistics() == before
    address = torch_calls.allocate(4 * MIB, device, None)
    assert torch_calls.allocate(1, device, None) is None
    torch_calls.free(None, 0, device, None)
    torch_calls.free(address, 4 * MIB, device, None)
    empty = torch_calls.allocate(0, device, None)
    assert empty is None or arena.owns(empty)
    torch_calls.free(empty, 0, device, None)
    assert arena.statistics().blocks == 0


def test_each_device_has_its_arena(torch_calls: Functions) -> None:
    arenas = {next(devices): addresses_alone() for _ in range(3)}
    for device, arena in arenas.items():
        plugin.use(arena, device, ordered=False)
    made = {device: torch_calls.allocate(1000, device, None) for device in arenas}
    assert all(arenas[device].owns(address) for device, address in made.items())
    assert torch_calls.allocate(1000, next(devices), None) is None  # nobody's
    first, *_ = arenas
    for address in made.values():
        torch_calls.free(address, 1000, first, None)  # the address says whose it is
    assert [arena.statistics().blocks for arena in arenas.values()] == [0, 0, 0]
    for device in arenas:
        plugin.use(None, device)
        assert torch_calls.allocate(1000, device, None) is None


def test_another_arena_for_a_device_leaves_its_tensors(torch_calls: Functions, device: int) -> None:
    before, after = addresses_alone(), addresses_alone()
    plugin.use(before, device, ordered=False)
    old = torch_calls.allocate(1000, device, None)
    plugin.use(after, device, ordered=False)
    new = torch_calls.allocate(1000, device, None)
    assert (before.owns(old), after.owns(new)) == (True, True)
    torch_calls.free(old, 1000, device, None)
    plugin.use(None, device)
    torch_calls.free(new, 1000, device, None)
    assert (before.statistics().blocks, after.statistics().blocks) == (0, 0)
    plugin.use(before, device, ordered=False)  # it has its place already
    old = torch_calls.allocate(1000, device, None)
    assert before.owns(old)
    torch_calls.free(old, 1000, device, None)


def test_what_torch_was_given_is_kept(torch_calls: Functions, device: int) -> None:
    arena = stead.Arena(stead.reserve(64 * MIB), backing="none")
    gone = weakref.ref(arena)
    plugin.use(arena, device, ordered=False)
    address = torch_calls.allocate(1000, device, None)
    del arena
    plugin.use(None, device)
    kept = gone()
    assert kept is not None
    torch_calls.free(address, 1000, device, None)
    kept.close()


def test_a_closed_arena_gives_null_pointers(torch_calls: Functions, device: int) -> None:
    arena = addresses_alone()
    plugin.use(arena, device, ordered=False)
    where = arena.range
    arena.close()
    assert torch_calls.allocate(1000, device, None) is None
    torch_calls.free(where.start, 1000, device, None)  # of nobody: nothing happens
    with pytest.raises(stead.Released):
        plugin.use(arena, device)


def test_a_tensor_that_is_freed_twice_is_told_and_corrupts_nothing(
    torch_calls: Functions, device: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: said.append(what.exc_value))
    arena = addresses_alone()
    plugin.use(arena, device, ordered=False)
    one, other = (torch_calls.allocate(1000, device, None) for _ in range(2))
    for address in (one, one, other + 512, arena.range.stop - 1):
        torch_calls.free(address, 1000, device, None)
    assert [type(each) for each in said] == [stead.NotLive] * 3
    arena.check()
    assert arena.statistics().blocks == 1
    torch_calls.free(other, 1000, device, None)


def test_a_memory_of_ones_own_grows_trims_and_is_hardened(torch_calls: Functions, device: int) -> None:
    """A host's arena, and a careful one: both go through Python, from a thread that holds no GIL."""
    choices: list[dict[str, Any]] = [{"step": "1 MiB", "keep": "1 MiB"}, {"hardened": True}, {"guard": 4096}]
    for options in choices:
        arena = new_arena("64 MiB", **options)
        plugin.use(arena, device, ordered=False)
        address = torch_calls.allocate(20 * MIB, device, None)
        ctypes.memset(address, 1, 20 * MIB)
        torch_calls.free(address, 20 * MIB, device, None)
        arena.check()
        assert arena.statistics().blocks == 0
        assert torch_calls.allocate(65 * MIB, device, None) is None


def test_threads_share_a_device(torch_calls: Functions, device: int) -> None:
    arena = addresses_alone()
    plugin.use(arena, device, ordered=False)
    ready = threading.Barrier(4)

    def work(seed: int) -> None:
        ready.wait(60)
        live: list[int] = []
        for i in range(3000):
            size = (seed * 7919 + i * 104_729) % 40_000
            live.append(torch_calls.allocate(size, device, None))
            if len(live) > 20:
                torch_calls.free(live.pop(i % 20), 0, device, None)
        assert len(set(live)) == len(live)
        for each in live:
            torch_calls.free(each, 0, device, None)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, i) for i in range(4)]:
            done.result(timeout=120)
    arena.check()
    assert arena.statistics().blocks == 0


THREADS = """
#include <pthread.h>
#include <stddef.h>
#include <string.h>

static void *(*allocate)(ptrdiff_t, int, void *);
static void (*release)(void *, ptrdiff_t, int, void *);
static int device;

static void *work(void *seed)
{
    char *live[16] = {0};
    for (ptrdiff_t i = 0; i < 2000; i++) {
        ptrdiff_t size = (i * 7919 + (ptrdiff_t)seed * 104729) % 20000 + 1, at = i % 16;
        release(live[at], 0, device, NULL);
        live[at] = allocate(size, device, NULL);
        if (!live[at])
            return "no room";
        memset(live[at], (int)(ptrdiff_t)seed, (size_t)size);
        if (live[at][0] != live[at][size - 1])
            return "not its own";
    }
    for (int i = 0; i < 16; i++)
        release(live[i], 0, device, NULL);
    return NULL;
}

const char *run(void *one, void *other, int number)
{
    pthread_t threads[3];
    void *said = NULL, *each;
    allocate = (void *(*)(ptrdiff_t, int, void *))one;
    release = (void (*)(void *, ptrdiff_t, int, void *))other;
    device = number;
    for (ptrdiff_t i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, work, (void *)(i + 1));
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], &each);
        said = each ? each : said;
    }
    return said;
}
"""


@pytest.mark.parametrize("options", [{}, {"step": "64 KiB", "keep": "64 KiB"}, {"hardened": True}])
def test_threads_that_know_no_python(device: int, options: dict[str, Any], tmp_path: Path) -> None:
    """As those of PyTorch's autograd: they come without a Python thread state."""
    need("cc")
    source, built = tmp_path / "threads.c", tmp_path / "threads.so"
    source.write_text(THREADS)
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-pthread", "-o", built, source], check=True)
    run = ctypes.CDLL(str(built)).run
    run.argtypes, run.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int], ctypes.c_char_p
    calls = Functions()
    arena = new_arena("64 MiB", **options)
    plugin.use(arena, device, ordered=False)
    functions = (ctypes.cast(each, ctypes.c_void_p) for each in (calls.allocate, calls.free))
    assert run(*functions, device) is None
    arena.check()
    assert arena.statistics().blocks == 0


@pytest.mark.parametrize("arena", ["64 MiB", 0, stead.Arena])
def test_what_is_no_arena_is_named(arena: Any) -> None:
    with pytest.raises(TypeError, match="arena is"):
        plugin.use(arena, 0)


@pytest.mark.parametrize(
    ("device", "error"), [(-1, ValueError), (1 << 40, ValueError), ("cuda:0", TypeError), (1.5, TypeError)]
)
def test_what_is_no_device_is_named(device: Any, error: type[Exception]) -> None:
    arena = addresses_alone()
    with pytest.raises(error, match="device is"):
        plugin.use(arena, device)


def test_torch_finds_the_functions(device: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's own class loads the library and looks the names up; what it is given then needs its CUDA build."""
    need("torch")
    import torch

    calls = Functions()
    expected = [ctypes.cast(each, ctypes.c_void_p).value for each in (calls.allocate, calls.free)]
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(torch._C, "_cuda_customAllocator", lambda *each: given.append(each), raising=False)
    arena = addresses_alone()
    made = plugin.allocator(arena, device)
    assert isinstance(made, torch.cuda.memory.CUDAPluggableAllocator)
    assert [list(each) for each in given] == [expected]
    address = calls.allocate(1000, device, None)
    assert arena.owns(address)
    calls.free(address, 1000, device, None)


def test_tensors_on_a_gpu_live_in_the_arena() -> None:
    """In a process of its own: an allocator can be changed once, before anything else."""
    need("torch")
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU that this torch can use")
    command = [sys.executable, "-c", ON_A_GPU]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "done\n", "")


# The memory is the host's, pinned: the device reaches it at the same address.
ON_A_GPU = """
import ctypes, torch, stead, stead.integrations.torch as plugin
cuda, context, reached = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p(), ctypes.c_uint64()
assert cuda.cuInit(0) == 0
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert cuda.cuCtxSetCurrent(context) == 0
memory = stead.reserve("64 MiB")
view = memory.commit()
address = ctypes.c_void_p(memory.address)
assert cuda.cuMemHostRegister_v2(address, ctypes.c_size_t(memory.size), 2) == 0
assert cuda.cuMemHostGetDevicePointer_v2(ctypes.byref(reached), address, 0) == 0
assert reached.value == memory.address
view.release()
arena = stead.Arena(memory)
torch.cuda.memory.change_current_allocator(plugin.allocator(arena))
x = torch.arange(1_000_000, device="cuda", dtype=torch.float64)
assert arena.owns(x.data_ptr())
assert (x * 2 + 1).sum().item() == 1_000_000 ** 2
del x
torch.cuda.synchronize()
assert arena.statistics().blocks == 0, arena.statistics()
print("done")
"""
