"""Processes that are killed while they use a heap: it passes its check, what the living hold is there, the rest
is free."""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
from subprocess import PIPE, Popen
from typing import TYPE_CHECKING, Any

import pytest

import stead
from conftest import need
from integration import heap_workers as workers

if TYPE_CHECKING:
    from collections.abc import Iterator

numpy = pytest.importorskip("numpy")

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

CHURN = """
import pickle, sys
from integration import heap_workers
handle, seed = pickle.load(sys.stdin.buffer)
heap_workers.churn(handle.attach(), seed)
"""


@pytest.fixture
def heap() -> Iterator[stead.SharedHeap]:
    made = stead.SharedHeap("1 GiB", name="torture")
    yield made
    made.close(force=True)


def listing() -> set[str]:
    """What of stead is in the places where others leave things; elsewhere on the machine others are at work."""
    found = {*os.listdir("/dev/shm"), *os.listdir(tempfile.gettempdir())}
    return {each for each in found if "stead" in each or "doomed" in each}


class Churner:
    """A process that allocates and frees, and has begun to."""

    def __init__(self, heap: stead.SharedHeap, seed: int, **options: Any) -> None:
        import pickle

        self.process = Popen([sys.executable, "-c", CHURN], stdin=PIPE, stdout=PIPE, env=ENVIRONMENT, **options)
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(pickle.dumps((heap.handle(), seed)))
        self.process.stdin.flush()
        assert self.process.stdout.readline() == b"begun\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for each in (self.process.stdin, self.process.stdout):
            assert each
            each.close()


def torture(heap: stead.SharedHeap, kills: int, seed: int) -> None:
    draw = random.Random(seed)
    before = listing()
    mine = heap.array(100_000)
    mine[:] = numpy.arange(100_000)
    churners = [Churner(heap, draw.random().__hash__()) for _ in range(3)]
    for count in range(kills):
        churners.pop(draw.randrange(len(churners))).kill()
        if count % 2:
            heap.collect()
        heap.put(numpy.ones(draw.randrange(10_000))).free()
        heap.check()
        assert mine.sum() == 4999950000.0
        churners.append(Churner(heap, draw.randrange(1 << 30)))
    for churner in churners:
        churner.kill()
    heap.collect()
    heap.check()
    statistics = heap.statistics()
    assert (statistics.blocks, [each.pid for each in statistics.holders]) == (1, [os.getpid()])
    del mine
    heap.trim()
    statistics = heap.statistics()
    assert (statistics.used, statistics.free_runs, statistics.dirty) == (0, 1, 0)
    assert listing() == before


def test_killed_processes_lose_nothing_of_others(heap: stead.SharedHeap) -> None:
    torture(heap, 6, 20261124)


@pytest.mark.long
def test_many_killed_processes(heap: stead.SharedHeap) -> None:
    torture(heap, 100, 20261125)


def test_the_whole_group_is_killed(heap: stead.SharedHeap) -> None:
    """A process that made a heap, and all who share it: nothing of it is left in the system."""
    text = """
import os, signal, stead, sys
from integration import heap_workers
heap = stead.SharedHeap("1 GiB", name="doomed")
for seed in range(3):
    if not os.fork():
        heap_workers.churn(heap, seed)
heap_workers.churn(heap, 99)
"""
    before = listing()
    with Popen(
        [sys.executable, "-W", "ignore", "-c", text], stdout=PIPE, env=ENVIRONMENT, start_new_session=True
    ) as process:
        assert process.stdout
        assert [process.stdout.readline() for _ in range(4)] == [b"begun\n"] * 4
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.read()  # until the last of them has closed it
    assert listing() == before
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/maps") as maps:
                assert "doomed" not in maps.read()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            pass


def test_a_small_dev_shm_is_no_limit() -> None:
    need("unshare")
    text = """
import multiprocessing, os, stead
from integration import heap_workers
if __name__ == "__main__":
    assert os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize == 1 << 20
    heap = stead.SharedHeap("1 GiB")
    array = heap.array(64 << 20, "u1")
    array[:] = 1
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(heap_workers.look, (array,))[2] == 64 << 20
    assert os.listdir("/dev/shm") == [] or all("stead" not in each for each in os.listdir("/dev/shm"))
    print("good")
"""
    script = 'mount -t tmpfs -o size=1M tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh", sys.executable, "-W", "ignore"]
    with Popen([*command, "-c", text], stdout=PIPE, stderr=PIPE, text=True, env=ENVIRONMENT) as process:
        out, err = process.communicate()
    if "unshare" in err or "mount" in err:
        pytest.skip(f"no mount namespace here: {err.strip()}")
    assert (out, err) == ("good\n", "")


def test_processes_that_grow_at_once(heap: stead.SharedHeap) -> None:
    children = []
    for number in range(4):
        pid = os.fork()
        if pid == 0:
            good = True
            for _ in range(20):
                array = heap.array(1 << 18)
                array[:] = number
                good = good and bool((array == number).all())
                workers._kept.append(array)
            heap.check()
            os._exit(0 if good else 1)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 4
    heap.collect()
    statistics = heap.statistics()
    assert statistics.blocks == 0
    assert statistics.committed >= 20 * (2 << 20)  # as many times as much, where none ended before another began
    heap.check()
