"""Lock, Condition, Semaphore and Barrier of a heap, between threads of one process; races/test_heap_sync.py has
processes."""

from __future__ import annotations

import gc
import math
import pickle
import threading
from typing import TYPE_CHECKING, Any

import pytest

import stead
from stead.heap import inner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def heap() -> Iterator[stead.SharedHeap]:
    made = stead.SharedHeap("16 MiB", name="sync")
    yield made
    gc.collect()
    if not made.closed:
        made.check()
        made.close(force=True)


def in_threads(count: int, work: Callable[[], Any]) -> list[Any]:
    """What ``work`` answered, or raised, in each of so many threads at once."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return found


# ---- locks ------------------------------------------------------------------------------------------


def test_a_lock_is_held_once(heap: stead.SharedHeap) -> None:
    lock = heap.lock()
    assert not lock.locked()
    assert lock.acquire()
    assert lock.locked()
    assert not lock.acquire(False)
    assert not lock.acquire(timeout=0.01)
    assert not lock.acquire(True, 0)
    lock.release()
    with lock as held:
        assert held is True
    assert not lock.locked()


def test_a_lock_that_is_not_held_cannot_be_released(heap: stead.SharedHeap) -> None:
    with pytest.raises(RuntimeError, match="does not hold"):
        heap.lock().release()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((False, 1), ValueError),
        ((False, 0), ValueError),
        ((True, -2), ValueError),
        ((True, math.nan), ValueError),
        ((True, 1e100), OverflowError),
        ((True, threading.TIMEOUT_MAX * 2), OverflowError),
    ],
)
def test_a_lock_refuses_what_threadings_refuses(
    heap: stead.SharedHeap, arguments: tuple[bool, float], error: type[Exception]
) -> None:
    lock = heap.lock()
    with pytest.raises(error):
        lock.acquire(*arguments)
    assert not lock.locked()


def test_threads_exclude_each_other(heap: stead.SharedHeap) -> None:
    lock, inside, most = heap.lock(), [0], [0]

    def work() -> None:
        for _ in range(200):
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    assert in_threads(4, work) == [None] * 4
    assert most == [1]


def test_they_are_equal_where_they_are_the_same(heap: stead.SharedHeap) -> None:
    lock, other = heap.lock(), heap.lock()
    copy = pickle.loads(pickle.dumps(lock))
    assert copy is not lock
    assert (copy, hash(copy)) == (lock, hash(lock))
    assert lock != other
    assert lock != heap.semaphore()
    with lock:
        assert copy.locked()
        assert not other.locked()
    assert copy.heap is heap


def test_the_last_one_ends_it(heap: stead.SharedHeap) -> None:
    before = heap.statistics().blocks
    lock = heap.lock()
    copy = pickle.loads(pickle.dumps(lock))
    del lock
    assert heap.statistics().blocks == before + 1
    with copy:
        pass
    del copy
    assert heap.statistics().blocks == before


def test_more_locks_than_there_is_room_for(heap: stead.SharedHeap) -> None:
    locks = [heap.lock() for _ in range(4096)]
    with pytest.raises(stead.LimitReached, match="4096"):
        heap.lock()
    del locks[0]
    locks.append(heap.lock())
    for each in locks:
        assert each.acquire(False)
    del locks, each
    channels = [heap.channel(1, 64) for _ in range(10)]
    del channels
    assert heap.statistics().blocks == 0
    for _ in range(5000):
        heap.lock()


def test_what_it_says(heap: stead.SharedHeap) -> None:
    import os

    lock = heap.lock()
    assert repr(lock).startswith("<unlocked stead.Lock object at 0x")
    with lock:
        assert f"held by process {os.getpid()}" in repr(lock)
    assert "stead.Condition" in repr(heap.condition(lock))
    assert repr(heap.semaphore(3)).startswith("<3 of a stead.Semaphore")
    assert "waiters=0/2" in repr(heap.barrier(2))
    with pytest.raises(TypeError, match=r"SharedHeap\.lock"):
        stead.Lock()


def test_a_closed_heap_has_none(heap: stead.SharedHeap) -> None:
    lock, barrier, semaphore = heap.lock(), heap.barrier(2), heap.semaphore()
    condition = heap.condition()
    heap.close(force=True)
    for call in (lock.acquire, lock.release, barrier.wait, semaphore.release, condition.wait):
        with pytest.raises(stead.Released):
            call()
    for each in (lock, barrier, semaphore, condition):
        assert "stead." in repr(each)


def test_timeouts_are_seconds() -> None:
    assert inner.nanoseconds(None) == inner.nanoseconds(math.inf) == -1
    assert inner.nanoseconds(-3) == inner.nanoseconds(0) == 0
    assert inner.nanoseconds(1e-12) == 1
    assert inner.nanoseconds(2.5) == 2_500_000_000


# ---- conditions -----------------------------------------------------------------------------------------


def test_a_condition_needs_its_lock(heap: stead.SharedHeap) -> None:
    condition = heap.condition()
    for call in (condition.wait, condition.notify, condition.notify_all):
        with pytest.raises(RuntimeError, match="does not hold"):
            call()
    with condition:
        assert not condition.wait(0.01)
        assert not condition.wait(-1)
        assert condition.locked()
        assert not condition.wait_for(lambda: False, 0.01)
        assert condition.wait_for(lambda: 5) == 5
    assert not condition.locked()


def test_a_notification_goes_to_as_many(heap: stead.SharedHeap) -> None:
    condition, waiting, turns = heap.condition(), [0], [0]

    def wait() -> bool:
        with condition:
            waiting[0] += 1
            condition.notify_all()
            return condition.wait_for(lambda: turns[0] > 0 and not turns.__setitem__(0, turns[0] - 1))

    def give() -> None:
        with condition:
            condition.wait_for(lambda: waiting[0] == 3)
            turns[0] = 1
            condition.notify_all()
            turns[0] = 3
            condition.notify(7)

    works = iter([wait, wait, wait, give])
    assert sorted(map(str, in_threads(4, lambda: next(works)()))) == ["None", "True", "True", "True"]


def test_conditions_share_a_lock(heap: stead.SharedHeap) -> None:
    lock = heap.lock()
    one, other = heap.condition(lock), heap.condition(lock)
    assert one.lock is lock
    with one:
        assert not other.acquire(False)
        other.notify()
    copy = pickle.loads(pickle.dumps(one))
    assert (copy, copy.lock) == (one, lock)


def test_a_condition_takes_only_locks_of_its_heap(heap: stead.SharedHeap) -> None:
    with pytest.raises(TypeError, match="must be a Lock"):
        heap.condition(threading.Lock())  # type: ignore[arg-type]
    with stead.SharedHeap("1 MiB") as other:
        lock = other.lock()
        with pytest.raises(ValueError, match="must be of"):
            heap.condition(lock)
        del lock


# ---- semaphores -------------------------------------------------------------------------------------------


def test_a_semaphore_has_so_many_permits(heap: stead.SharedHeap) -> None:
    semaphore = heap.semaphore(2)
    with semaphore:
        assert semaphore.acquire()
        assert semaphore.value == 0
        assert not semaphore.acquire(False)
        assert not semaphore.acquire(timeout=0.01)
        semaphore.release()
    assert semaphore.value == 2
    semaphore.release(3)
    assert semaphore.value == 5


def test_a_semaphore_refuses_what_threadings_refuses(heap: stead.SharedHeap) -> None:
    with pytest.raises(ValueError, match="initial value"):
        heap.semaphore(-1)
    semaphore = heap.semaphore()
    with pytest.raises(ValueError, match="timeout"):
        semaphore.acquire(False, 1)
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="one or more"):
            semaphore.release(wrong)
    with pytest.raises(ValueError, match="too many times"):
        semaphore.release(1 << 40)
    assert semaphore.value == 1


def test_a_bounded_semaphore_has_no_more(heap: stead.SharedHeap) -> None:
    semaphore = heap.bounded_semaphore(2)
    with pytest.raises(ValueError, match="too many times"):
        semaphore.release()
    with semaphore:
        with pytest.raises(ValueError, match="too many times"):
            semaphore.release(2)
    assert semaphore.value == 2
    assert isinstance(pickle.loads(pickle.dumps(semaphore)), stead.BoundedSemaphore)


def test_permits_beyond_what_is_counted(heap: stead.SharedHeap) -> None:
    """A consumer never gives back what it acquires: 65,535 of that are counted, and more must not wait for
    ever."""
    semaphore = heap.semaphore(70_000)
    for _ in range(69_990):
        assert semaphore.acquire(False)
    assert semaphore.value == 10


def test_all_permits_are_found_at_once(heap: stead.SharedHeap) -> None:
    """A try is not refused because another thread is just looking."""
    semaphore = heap.semaphore(400)
    got = in_threads(4, lambda: sum(semaphore.acquire(False) for _ in range(100)))
    assert got == [100] * 4
    assert semaphore.value == 0


# ---- barriers -----------------------------------------------------------------------------------------------


def test_all_go_on_when_all_are_there(heap: stead.SharedHeap) -> None:
    barrier = heap.barrier(3)
    for _ in range(20):
        assert sorted(in_threads(3, barrier.wait)) == [0, 1, 2]
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (3, 0, False)


def test_the_last_one_acts_before_they_go_on(heap: stead.SharedHeap) -> None:
    done: list[int] = []
    barrier = heap.barrier(3, lambda: done.append(barrier.n_waiting))
    seen = in_threads(3, lambda: [(barrier.wait(), len(done)) for _ in range(10)])
    assert done == [0] * 10
    for rounds in seen:
        # Never fewer than his own; the next round's, too, where he was slow.
        assert all(after >= number for number, (_, after) in enumerate(rounds, 1))


def test_an_action_that_fails_breaks_it(heap: stead.SharedHeap) -> None:
    def act() -> None:
        raise KeyError("act")

    barrier = heap.barrier(3, act)
    found = in_threads(3, barrier.wait)
    assert sorted(type(each).__name__ for each in found) == [
        "BrokenBarrierError",
        "BrokenBarrierError",
        "KeyError",
    ]
    assert barrier.broken
    barrier.reset()
    assert not barrier.broken


def test_who_gives_up_breaks_it(heap: stead.SharedHeap) -> None:
    barrier = heap.barrier(2, timeout=0.01)
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    assert barrier.broken
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(10)
    barrier.reset()
    assert sorted(in_threads(2, lambda: barrier.wait(60))) == [0, 1]
    barrier.abort()
    assert barrier.broken


def test_reset_and_abort_end_the_waiting(heap: stead.SharedHeap) -> None:
    for name, broken in (("reset", False), ("abort", True)):
        barrier = heap.barrier(2)
        found: list[Any] = []

        def wait(barrier: stead.Barrier = barrier, found: list[Any] = found) -> None:
            found.extend(in_threads(1, barrier.wait))

        thread = threading.Thread(target=wait)
        thread.start()
        while not barrier.n_waiting:
            thread.join(0.001)
        getattr(barrier, name)()
        thread.join()
        assert [type(each) for each in found] == [threading.BrokenBarrierError]
        assert barrier.broken is broken


def test_a_barrier_refuses_what_threadings_refuses(heap: stead.SharedHeap) -> None:
    with pytest.raises(ValueError, match="parties"):
        heap.barrier(0)
    with pytest.raises(TypeError, match="action"):
        heap.barrier(1, 5)  # type: ignore[arg-type]


def test_a_barriers_errors_are_caught_as_threadings() -> None:
    error = pickle.loads(pickle.dumps(stead.BarrierOwnerDied("it died")))
    assert isinstance(error, threading.BrokenBarrierError)
    assert isinstance(error, stead.OwnerDied)
    assert str(error) == "it died"
