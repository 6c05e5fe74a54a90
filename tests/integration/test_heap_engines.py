"""A heap and what is in it, through everything that sends Python objects to other processes."""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import pickle
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from subprocess import PIPE, Popen
from typing import TYPE_CHECKING, Any

import pytest

import stead
from conftest import need
from integration import heap_workers as workers

if TYPE_CHECKING:
    from collections.abc import Iterator

numpy = pytest.importorskip("numpy")

# So that any child finds what this process found.
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

METHODS = ["spawn", "fork", "forkserver"]

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


@pytest.fixture
def heap() -> Iterator[stead.SharedHeap]:
    """And afterwards nothing of it is held by anybody, when the dead are buried and no message is underway."""
    made = stead.SharedHeap("1 GiB", name="tested")
    yield made
    gc.collect()
    if not made.closed:
        made.collect()
        made._expire(True)
        made.check()
        made.close()


class Worker:
    """A process that does what it is told, one call after the other."""

    def __init__(self, method: str = "spawn") -> None:
        context: Any = multiprocessing.get_context(method)
        self._here, there = context.Pipe()
        self.process = context.Process(target=workers.serve, args=(there,))
        self.process.start()
        there.close()

    def __call__(self, function: Any, *arguments: Any, keep: bool = False) -> Any:
        self._here.send((function, arguments, keep))
        answer = self._here.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()

    def end(self) -> None:
        if self.process.is_alive():
            self._here.send(None)
        self.process.join(60)
        assert self.process.exitcode in (0, -signal.SIGKILL)
        self._here.close()


@contextmanager
def working(method: str = "spawn") -> Iterator[Worker]:
    worker = Worker(method)
    try:
        yield worker
    finally:
        worker.end()


def make(heap: stead.SharedHeap, n: int = 1000) -> Any:
    return workers.make(heap, n)


# ---- multiprocessing ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_an_array_is_an_argument_and_a_result(heap: stead.SharedHeap, method: str) -> None:
    array = make(heap)
    where = workers.address(array)
    with working(method) as worker:
        assert worker(workers.look, array) == ("HeapArray", where, 499500.0)
        assert worker(workers.look, array[::-2]) == ("HeapArray", where + 999 * 8, float(array[1::2].sum()))
        worker(workers.fill, array[10:20], -1.0)
        assert array[10] == array[19] == -1
        assert array[9] == 9
        back = worker(make, heap, 10)
        assert heap.owns(workers.address(back))
        assert back.tolist() == list(range(10))


@pytest.mark.parametrize("method", METHODS)
def test_a_process_gets_it_when_it_is_started(heap: stead.SharedHeap, method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    array, block = make(heap), heap.block(100)
    process = context.Process(target=workers.fill, args=(array, 3.0))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert (array == 3).all()
    del block


@pytest.mark.parametrize("method", METHODS)
def test_executors_and_pools(heap: stead.SharedHeap, method: str) -> None:
    context = multiprocessing.get_context(method)
    array = make(heap)
    expected = ("HeapArray", workers.address(array), 499500.0)
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        assert [each.result() for each in [executor.submit(workers.look, array) for _ in range(6)]] == [
            expected
        ] * 6
        assert executor.submit(workers.make, heap, 4).result().tolist() == [0, 1, 2, 3]
    with context.Pool(2) as pool:
        assert pool.map(workers.look, [array] * 6) == [expected] * 6
        assert [each.sum() for each in pool.starmap(workers.make, [(heap, n) for n in (2, 3, 4)])] == [1, 3, 6]
        assert bytes(pool.apply(workers.make_block, (heap, b"hello"))) == b"hello"


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_sends_an_array_and_exits(heap: stead.SharedHeap, method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=workers.queue_and_exit, args=(heap, queue, 50))
    process.start()
    process.join()
    heap.collect()
    array = queue.get()
    assert array.tolist() == list(range(50))
    queue.close()
    queue.join_thread()


def test_objects_that_were_put(heap: stead.SharedHeap) -> None:
    with working() as worker:
        ref = heap.put({"a": numpy.arange(10), "b": "text"})
        got = worker(workers.get, ref)
        assert got["b"] == "text"
        assert workers.address(got["a"]) == workers.address(heap.get(ref)["a"])
        other = worker(workers.put, heap, [numpy.ones(5)])
        [there] = heap.get(other)
        assert there.sum() == 5
        assert not there.flags.writeable


def test_the_same_address_in_every_process_and_the_maker_dies_first() -> None:
    with working() as maker, working() as other:
        array = maker(workers.make_heap, "256 MiB")
        assert other(workers.look, array)[1] == workers.address(array)
        maker.kill()
        # Any process that has it attached can send it on.
        with working() as late:
            assert late(workers.look, array) == ("HeapArray", workers.address(array), 7000.0)
            assert late(workers.look, other(workers.make, stead.heap.registry.at(workers.address(array)), 3))
        heap = stead.heap.registry.at(workers.address(array))
        assert heap is not None
        assert heap.collect() >= 1
        heap.check()
    del array
    gc.collect()
    heap.close(force=True)


def test_killed_holders_give_back_what_they_held(heap: stead.SharedHeap) -> None:
    with working() as one, working("fork") as two:
        for worker in (one, two):
            for _ in range(5):
                worker(workers.make, heap, 100_000, keep=True)
        held = {each.pid: each for each in heap.statistics().holders}
        assert held[one.process.pid].blocks == 5
        assert held[two.process.pid].bytes >= 4_000_000
        assert held[one.process.pid].alive
        one.kill()
        [dead] = [each for each in heap.statistics().holders if each.pid == one.process.pid]
        assert not dead.alive
        assert heap.collect() == 1
        assert heap.statistics().blocks == 5
        two.kill()
        heap.collect()
        heap.check()
        statistics = heap.statistics()
        assert (statistics.blocks, statistics.used) == (0, 0)
        assert [each.pid for each in statistics.holders] == [os.getpid()]


def test_a_normal_exit_gives_back_at_once(heap: stead.SharedHeap) -> None:
    for method in METHODS:
        with working(method) as worker:
            worker(workers.make, heap, 1000, keep=True)
            assert heap.statistics().blocks == 1
        assert heap.statistics().blocks == 0, method
        assert heap.processes == (os.getpid(),), method


def test_what_one_process_holds_another_cannot_free(heap: stead.SharedHeap) -> None:
    with working() as worker:
        worker(workers.make, heap, 10, keep=True)
        [(address, *_)] = heap._blocks()
        with pytest.raises(stead.NotLive, match=f"held by process {worker.process.pid}"):
            heap.free(address)
        heap.lease(address)
        worker(workers.forget)
        assert heap.owns(address)
        heap.free(address)
        assert not heap.owns(address)


# ---- refusals -------------------------------------------------------------------------------------


def test_what_is_in_the_way_is_named_and_pools_survive_it(heap: stead.SharedHeap) -> None:
    array = make(heap)
    where = heap.range
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        executor.submit(workers.sit_on, where.start, 1 << 20).result()
        with pytest.raises(stead.Occupied, match="squatter"):
            executor.submit(workers.look, array).result()
        assert executor.submit(os.getpid).result()


def test_a_block_that_is_gone_is_said_to_be() -> None:
    heap = stead.SharedHeap("64 MiB", transit=0.0)
    sent = pickle.dumps(heap.array(10))
    heap.collect()
    with pytest.raises(stead.NotLive, match="nobody held it"):
        pickle.loads(sent)
    heap.close()


@pytest.mark.parametrize("access", ["r", None])
def test_a_sender_that_is_gone_is_said_to_be(access: Any) -> None:
    with working() as worker:
        handle = worker(make_handle, access)
        worker.kill()
    with pytest.raises(stead.PeerFailed, match="has ended"):
        handle.attach()


@pytest.mark.parametrize("access", ["r", None])
def test_the_sender_may_be_gone_where_another_has_the_heap(access: Any) -> None:
    with working() as maker, working() as other:
        handle = maker(make_handle, access)
        assert other(attach, handle, keep=True) == "kept"
        maker.kill()
        heap = handle.attach()
        assert heap.read_only == (access == "r")
        assert heap.collect() == 1
        assert heap.processes == tuple(sorted([os.getpid(), other.process.pid]))
        heap.close()


def attach(handle: stead.HeapHandle) -> stead.SharedHeap:
    return handle.attach()


def test_heaps_that_arrived_are_let_go_of_in_time() -> None:
    """A worker would keep the memory of each heap that it ever saw."""
    with working() as worker:
        for number in range(12):
            heap = stead.SharedHeap("64 MiB", name=f"passing {number}")
            assert worker(workers.look, make(heap))[2] == 499500
            heap.collect()
            heap.close()
        # Those that nobody else has go when another arrives; the last array but one was still there then.
        assert worker(mapped, "passing") <= 2


def mapped(name: str) -> int:
    with open("/proc/self/maps") as maps:
        return len({line.split(" ", 5)[5] for line in maps if name in line and ":control" not in line})


def make_handle(access: Any) -> stead.HeapHandle:
    heap = stead.SharedHeap("1 MiB")
    workers._kept.append(heap)
    return heap.handle(access)


# ---- read-only ------------------------------------------------------------------------------------


def test_the_kernel_keeps_a_read_only_attachment_read_only(heap: stead.SharedHeap) -> None:
    array, block = make(heap), heap.block(10)
    with working() as worker:
        assert worker(workers.attach_read_only, heap.handle("r")) == ["True"] + ["unsupported"] * 4
        assert worker(workers.look, array) == ("HeapArray", workers.address(array), 499500.0)
        refused = ["read-only array", "stays read-only", "Permission denied"]
        assert worker(workers.try_to_write, array) == refused
        assert worker(readonly, block)
        # It holds what it uses, all the same, and passes it on.
        worker(identity, array, keep=True)
        assert heap.statistics().holders[1].blocks == 1
        with working() as other:
            other(workers.attach_read_only, worker(handle_of, array))
            assert other(workers.try_to_write, array) == refused
    assert array[0] == 0


def identity(obj: Any) -> Any:
    return obj


def readonly(block: stead.SharedBlock) -> bool:
    return memoryview(block).readonly


def handle_of(array: Any) -> stead.HeapHandle:
    heap = stead.heap.registry.at(workers.address(array))
    assert heap
    with pytest.raises(stead.Unsupported, match="attached for writing"):
        heap.handle("rw")
    return heap.handle()


# ---- the end --------------------------------------------------------------------------------------


def test_a_stale_array_after_a_forced_close_faults_and_says_where(heap: stead.SharedHeap) -> None:
    text = (
        "import stead; from integration import heap_workers as w; w.touch_after_force(stead.SharedHeap('64 MiB'))"
    )
    with Popen([sys.executable, "-c", text], stdout=PIPE, stderr=PIPE, text=True, env=ENVIRONMENT) as process:
        out, err = process.communicate()
    assert out == "closed\n"
    assert process.returncode == -signal.SIGSEGV
    assert "touch_after_force" in err


def test_the_addresses_of_a_forced_close_are_never_used_again(heap: stead.SharedHeap) -> None:
    with working() as worker:
        array = worker(workers.make, heap, 100)
        assert worker(workers.force_and_look, heap) == (True, True)
        assert array.sum() == 4950  # the others have it as before
        with pytest.raises(stead.Occupied, match="closed by force"):
            worker(workers.look, array)


@pytest.mark.long
def test_a_hundred_workers_attach_at_once(heap: stead.SharedHeap) -> None:
    hundred_workers(heap, 100)


def test_twenty_workers_attach_at_once(heap: stead.SharedHeap) -> None:
    hundred_workers(heap, 20)


def hundred_workers(heap: stead.SharedHeap, n: int) -> None:
    context: Any = multiprocessing.get_context("forkserver")
    barrier, queue = context.Barrier(n + 1), context.Queue()
    processes = [context.Process(target=workers.attach_at_once, args=(heap, barrier, queue)) for _ in range(n)]
    for process in processes:
        process.start()
    barrier.wait()
    answers = [queue.get() for _ in processes]
    assert {start for start, _, _ in answers} == {heap.range.start}
    assert len(heap.processes) == n + 1
    for _, pid, array in answers:
        assert (array == pid).all()
    assert len({workers.address(array) for *_, array in answers}) == n
    barrier.wait()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    queue.close()
    queue.join_thread()
    heap.collect()
    assert heap.processes == (os.getpid(),)
    heap.check()


# ---- others ---------------------------------------------------------------------------------------


def test_joblib_with_loky(heap: stead.SharedHeap) -> None:
    need("joblib")
    joblib: Any = importlib.import_module("joblib")
    array = make(heap, 1 << 18)  # more than joblib sends by pickle if it is an ordinary array
    expected = ("HeapArray", workers.address(array[5:]), float(array[5:].sum()))
    with joblib.parallel_config("loky", n_jobs=2):
        assert joblib.Parallel()(joblib.delayed(workers.look)(array[5:]) for _ in range(4)) == [expected] * 4
        back = joblib.Parallel()(joblib.delayed(workers.make)(heap, n) for n in (5, 6))
    assert [each.tolist() for each in back] == [list(range(5)), list(range(6))]
    assert all(heap.owns(workers.address(each)) for each in back)
    importlib.import_module("joblib.externals.loky").get_reusable_executor().shutdown(wait=True)


def test_dask() -> None:
    need("distributed")
    heap = stead.SharedHeap("1 GiB")
    distributed: Any = importlib.import_module("distributed")
    array = make(heap, 1 << 18)
    expected = ("HeapArray", workers.address(array), float(array.sum()))
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert client.submit(workers.look, array).result() == expected
        made = client.submit(workers.make, heap, 1000)
        assert client.submit(workers.look, made).result()[0] == "HeapArray"
        assert heap.owns(workers.address(made.result()))
    heap.check()
    heap.close(force=True)  # threads of Dask that are not done yet have hold of an array


def test_ray(heap: stead.SharedHeap) -> None:
    need("ray")
    ray: Any = importlib.import_module("ray")
    array = make(heap, 1 << 18)
    expected = ("HeapArray", workers.address(array), float(array.sum()))
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": ENVIRONMENT["PYTHONPATH"]}},
    )
    try:
        look, back = ray.remote(workers.look), ray.remote(workers.make)
        assert ray.get([look.remote(array) for _ in range(4)]) == [expected] * 4
        made = ray.get(back.remote(heap, 10))
        assert made.tolist() == list(range(10))
        assert heap.owns(workers.address(made))
    finally:
        ray.shutdown()
