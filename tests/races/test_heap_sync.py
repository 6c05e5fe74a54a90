"""Locks, conditions, semaphores, barriers and channels between processes, of which some are killed."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import stead
from races import sync_workers as workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.process import BaseProcess

numpy = pytest.importorskip("numpy")

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

LONG = 120  # seconds after which something is lost, and not late


@pytest.fixture
def heap() -> Iterator[stead.SharedHeap]:
    made = stead.SharedHeap("256 MiB", name="sync")
    yield made
    made.close(force=True)


class Crew:
    """Processes that are killed at the end, if not before."""

    def __init__(self, method: str) -> None:
        self._context: Any = multiprocessing.get_context(method)
        self.members: list[BaseProcess] = []

    def __call__(self, work: Callable[..., None], *arguments: Any) -> BaseProcess:
        member: BaseProcess = self._context.Process(target=work, args=arguments)
        member.start()
        self.members.append(member)
        return member

    def kill(self, member: BaseProcess) -> None:
        member.kill()
        self.end(member)

    def end(self, member: BaseProcess) -> None:
        member.join(LONG)
        assert member.exitcode is not None
        member.close()
        self.members.remove(member)


@pytest.fixture(params=["spawn", "fork"])
def crew(request: pytest.FixtureRequest) -> Iterator[Crew]:
    made = Crew(request.param)
    yield made
    for each in list(made.members):
        made.kill(each)


@pytest.fixture
def forked() -> Iterator[Crew]:
    made = Crew("fork")
    yield made
    for each in list(made.members):
        made.kill(each)


# ---- one after the other ------------------------------------------------------------------------------------


def test_a_lock_whose_owner_was_killed(heap: stead.SharedHeap, crew: Crew) -> None:
    lock, say = heap.lock(), heap.channel()
    for with_statement in (True, False):
        owner = crew(workers.hold, lock, say, 1)
        assert say.receive(LONG) == "held"
        assert f"held by process {owner.pid}" in repr(lock)
        assert not lock.acquire(False)
        with pytest.raises(RuntimeError, match="does not hold"):
            lock.release()
        crew.kill(owner)
        if with_statement:
            with pytest.raises(stead.OwnerDied), lock:
                raise AssertionError
        else:
            with pytest.raises(stead.OwnerDied):
                lock.acquire(timeout=LONG)
            assert lock.locked()
            lock.release()
        assert not lock.locked()
        with lock:  # told once
            pass
    heap.check()


def test_a_try_is_told_too(heap: stead.SharedHeap, forked: Crew) -> None:
    lock, say = heap.lock(), heap.channel()
    owner = forked(workers.hold, lock, say, 1)
    assert say.receive(LONG) == "held"
    forked.kill(owner)
    with pytest.raises(stead.OwnerDied):
        lock.acquire(False)
    lock.release()


def test_notified_in_another_process(heap: stead.SharedHeap, crew: Crew) -> None:
    condition, say = heap.condition(), heap.channel()
    waiter = crew(workers.wait_in, condition, say)
    assert say.receive(LONG) == "waits"
    with condition:
        condition.notify()
    assert [say.receive(LONG), say.receive(LONG)] == ["True", True]
    crew.end(waiter)


def test_who_was_killed_while_waiting_takes_no_turn(heap: stead.SharedHeap, crew: Crew) -> None:
    condition, say = heap.condition(), heap.channel()
    waiters = [crew(workers.wait_in, condition, say) for _ in range(2)]
    assert [say.receive(LONG), say.receive(LONG)] == ["waits", "waits"]
    with condition:  # both wait: they said so with the lock
        pass
    crew.kill(waiters[0])
    heap.collect()
    with condition:
        condition.notify()
    assert [say.receive(LONG), say.receive(LONG)] == ["True", True]
    crew.end(waiters[1])


def test_who_waits_learns_that_the_owner_was_killed(heap: stead.SharedHeap, crew: Crew) -> None:
    """Whoever was to notify may be dead."""
    condition, say, other = heap.condition(), heap.channel(), heap.channel()
    waiter = crew(workers.wait_in, condition, say)
    assert say.receive(LONG) == "waits"
    owner = crew(workers.hold, condition, other, 1)
    assert other.receive(LONG) == "held"
    crew.kill(owner)
    assert [say.receive(LONG), say.receive(LONG)] == ["OwnerDied", True]
    crew.end(waiter)
    with condition:
        pass


def test_permits_of_the_killed_come_back(heap: stead.SharedHeap, crew: Crew) -> None:
    semaphore, say = heap.semaphore(2), heap.channel()
    owner = crew(workers.hold, semaphore, say, 2)
    assert say.receive(LONG) == "held"
    assert not semaphore.acquire(False)
    waiter = crew(workers.wait, semaphore.acquire, say)
    assert say.receive(LONG) == "waits"
    crew.kill(owner)
    assert say.receive(LONG) == "True"
    crew.end(waiter)
    assert semaphore.acquire(timeout=LONG)
    assert semaphore.acquire(timeout=LONG)
    assert not semaphore.acquire(False)


def await_waiting(barrier: stead.Barrier, count: int, member: BaseProcess) -> None:
    while barrier.n_waiting < count:
        member.join(0.001)


def test_a_killed_waiter_breaks_the_barrier(heap: stead.SharedHeap, crew: Crew) -> None:
    barrier, say = heap.barrier(3), heap.channel()
    victim, other = crew(workers.wait, barrier.wait, say), crew(workers.wait, barrier.wait, say)
    assert [say.receive(LONG), say.receive(LONG)] == ["waits", "waits"]
    await_waiting(barrier, 2, victim)
    crew.kill(victim)
    assert say.receive(LONG) == "BarrierOwnerDied"
    crew.end(other)
    with pytest.raises(threading.BrokenBarrierError) as error:
        barrier.wait(LONG)
    assert isinstance(error.value, stead.OwnerDied)
    assert barrier.broken
    barrier.reset()
    others = [crew(workers.wait, barrier.wait, say) for _ in range(2)]
    assert barrier.wait(LONG) in (0, 1, 2)
    for each in others:
        crew.end(each)
    assert sorted(say.receive(LONG) for _ in range(4))[2:] == ["waits", "waits"]


def test_the_last_one_does_not_go_on_with_the_dead(heap: stead.SharedHeap, forked: Crew) -> None:
    barrier, say = heap.barrier(2), heap.channel()
    victim = forked(workers.wait, barrier.wait, say)
    await_waiting(barrier, 1, victim)
    forked.kill(victim)
    with pytest.raises(stead.OwnerDied):
        barrier.wait(LONG)


def test_who_is_killed_in_the_action_breaks_the_barrier(heap: stead.SharedHeap, crew: Crew) -> None:
    barrier, say = heap.barrier(2, workers.die), heap.channel()
    members = [crew(workers.wait, barrier.wait, say) for _ in range(2)]
    assert sorted(say.receive(LONG) for _ in range(3)) == ["BarrierOwnerDied", "waits", "waits"]
    for each in members:
        crew.end(each)
    assert barrier.broken


@pytest.mark.parametrize("what", ["lock", "condition", "semaphore", "barrier", "receive", "spinning", "send"])
def test_ctrl_c_while_waiting(heap: stead.SharedHeap, forked: Crew, what: str) -> None:
    objects: dict[str, Any] = {
        "lock": heap.lock(), "condition": heap.condition(), "semaphore": heap.semaphore(0),
        "barrier": heap.barrier(2), "channel": heap.channel(), "full": heap.channel(1),
    }  # fmt: skip
    objects["lock"].acquire()
    objects["full"].send(0)
    say = heap.channel()
    waiter = forked(workers.interrupted, what, objects, say)
    assert say.receive(LONG) == "waits"
    assert waiter.pid
    os.kill(waiter.pid, signal.SIGINT)
    assert say.receive(LONG) is (what == "condition")
    forked.end(waiter)
    assert len(objects["full"]) == 1
    if what == "condition":  # it ended with the lock
        with pytest.raises(stead.OwnerDied):
            objects["condition"].acquire()
        objects["condition"].release()
    heap.check()


READER = """
import pickle, sys, stead
handle, objects = pickle.load(sys.stdin.buffer)
heap = handle.attach()
channel, lock = pickle.loads(objects)
assert heap.read_only and channel.heap is heap
got = channel.receive(60), channel.receive(60), channel.receive(60)
assert got[0] == b"bytes" and got[1][2] == 7 and not got[1].flags.writeable, got
assert got[2]["large"].sum() == 50000
for obj in (b"bytes", [1], got[1]):
    try:
        channel.send(obj)
    except stead.Unsupported:
        pass
    else:
        raise AssertionError
for make in (heap.lock, heap.channel):
    try:
        make()
    except stead.Unsupported:
        pass
with lock:
    print("read", flush=True)
"""


def test_who_may_only_read_receives(heap: stead.SharedHeap) -> None:
    channel, lock, array = heap.channel(), heap.lock(), heap.array(5)
    array[2] = 7
    channel.send(b"bytes")
    channel.send(array)
    channel.send({"large": numpy.ones(50_000)})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    given = pickle.dumps((heap.handle("r"), pickle.dumps((channel, lock))))
    done = subprocess.run(
        [sys.executable, "-c", READER],
        input=given,
        capture_output=True,
        env=environment,
        timeout=LONG,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"read\n"), done.stderr.decode()
    heap.collect()
    heap.check()


# ---- killed at any moment -------------------------------------------------------------------------------------


def messages(heap: stead.SharedHeap, forked: Crew, kills: int, seed: int, capacity: int) -> None:
    print("seed", seed)
    draw = random.Random(seed)
    most = 3 + kills
    accepted, taken = heap.array((most, 200_000), "u1"), heap.array((most, 200_000), "u1")
    stop = heap.array(1, "u1")
    accepted[:], taken[:], stop[:] = 0, 0, 0
    channel = heap.channel(capacity)
    names = iter(range(most))

    def producer() -> BaseProcess:
        return forked(workers.produce, channel, accepted, next(names), stop)

    def consumer() -> BaseProcess:
        return forked(workers.consume, channel, taken)

    crews = {True: [producer() for _ in range(3)], False: [consumer() for _ in range(2)]}
    consumers_killed = 0
    for _ in range(kills):
        goal = int(taken.sum()) + draw.randrange(1, 300)
        while taken.sum() < goal:
            crews[True][0].join(0.001)
        produces = draw.random() < 0.5
        crew = crews[produces]
        forked.kill(crew.pop(draw.randrange(len(crew))))
        consumers_killed += not produces
        heap.check()
        crew.append(producer() if produces else consumer())
    stop[0] = 1
    for each in crews[True]:
        forked.end(each)
    channel.close()
    for each in crews[False]:
        forked.end(each)
    assert len(channel) == 0
    assert taken.max() <= 1, "a message came twice"
    lost = int((accepted & ~taken & 1).sum())
    assert lost <= consumers_killed, f"{lost} messages were lost, {consumers_killed} consumers killed"
    unnoted = int((taken & ~accepted & 1).sum())
    assert unnoted <= kills - consumers_killed
    heap.collect()
    heap._expire(True)
    heap.check()
    statistics = heap.statistics()
    assert (statistics.blocks, statistics.kept_blocks) == (4, 1)  # the channel and the three arrays; the channel


@pytest.mark.parametrize("capacity", [2, 64])
def test_no_message_is_lost_or_doubled(heap: stead.SharedHeap, forked: Crew, capacity: int) -> None:
    messages(heap, forked, 8, random.randrange(1 << 30), capacity)


@pytest.mark.long
def test_no_message_is_lost_or_doubled_by_many_kills(heap: stead.SharedHeap, forked: Crew) -> None:
    messages(heap, forked, 200, random.randrange(1 << 30), 16)


def locked(heap: stead.SharedHeap, forked: Crew, kills: int, seed: int) -> None:
    print("seed", seed)
    draw = random.Random(seed)
    condition, semaphore = heap.condition(), heap.semaphore(3)
    pair, stop = heap.array(3, "i8"), heap.array(1, "u1")
    pair[:], stop[:] = 0, 0

    def member() -> BaseProcess:
        return forked(workers.churn, condition, semaphore, pair, stop)

    crew = [member() for _ in range(4)]
    for _ in range(kills):
        goal = int(pair[0]) + draw.randrange(1, 200)
        while pair[0] < goal:
            crew[0].join(0.001)
        forked.kill(crew.pop(draw.randrange(len(crew))))
        heap.check()
        crew.append(member())
    stop[0] = 1
    for each in crew:
        forked.end(each)
    assert pair[2] == 0, "two were in the lock at once, or nobody was told of a death"
    heap.collect()
    assert semaphore.value == 3
    assert not condition.locked()
    heap.check()


def test_locks_survive_their_owners(heap: stead.SharedHeap, forked: Crew) -> None:
    locked(heap, forked, 8, random.randrange(1 << 30))


@pytest.mark.long
def test_locks_survive_many_owners(heap: stead.SharedHeap, forked: Crew) -> None:
    locked(heap, forked, 200, random.randrange(1 << 30))
