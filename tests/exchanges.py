"""A kit for exchanges: whatever they go over, all participants hold the same, or none holds anything."""

from __future__ import annotations

import os
import threading
import time
from multiprocessing import Pipe
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import stead
from stead.peers import Coordinator, Hub, Member, Mpi, Socket, Threads, mpi
from stead.ranges import Range
from stead.testing import Manner, SimulatedSpace

if TYPE_CHECKING:
    from collections.abc import Callable

    from stead.agreement import Exchange
    from stead.messages import Message

GiB = 1 << 30
KEY = b"the key of the tests"


class Dies(BaseException):
    """What a participant that is killed raises in its own thread."""


class Group:
    """Some participants of one exchange. ``timeout``: seconds, where one is waited for that never comes."""

    names: list[str]
    exchanges: list[Exchange]

    def vanish(self, number: int) -> None:
        """As if its process had been killed."""

    def ended(self, number: int) -> None:
        """Its thread says no more."""

    def close(self) -> None: ...


class OverThreads(Group):
    def __init__(self, count: int, timeout: float) -> None:
        self.names = [f"thread {n}" for n in range(count)]
        group = Threads(self.names, timeout)
        self.members = [group.member(name) for name in self.names]
        self.exchanges = list(self.members)

    def vanish(self, number: int) -> None:
        self.members[number].__exit__(Dies)


class OverPipes(Group):
    def __init__(self, count: int, timeout: float) -> None:
        self.pipes = [Pipe() for _ in range(count - 1)]
        members = [Member(there, timeout * 4) for _, there in self.pipes]
        self.exchanges = [Coordinator([here for here, _ in self.pipes], timeout), *members]
        self.names = ["the parent", *(f"worker {n}" for n in range(1, count))]

    def vanish(self, number: int) -> None:
        ends = [self.pipes[number - 1][1]] if number else [here for here, _ in self.pipes]
        for each in ends:
            each.close()

    def close(self) -> None:
        for each in self.pipes:
            for end in each:
                end.close()


class OverSockets(Group):
    def __init__(self, address: str, count: int, timeout: float) -> None:
        self.hub = Hub(address, count, key=KEY, timeout=timeout)
        self.names = [f"member {n}" for n in range(count)]
        self.sockets = [Socket(self.hub.address, key=KEY, name=name, timeout=timeout) for name in self.names]
        self.exchanges = list(self.sockets)

    def vanish(self, number: int) -> None:
        self.sockets[number]._drop()  # what the kernel does: the connection ends, and nothing is said

    def close(self) -> None:
        for each in self.sockets:
            each.close()
        self.hub.close()


def over_unix(count: int, timeout: float) -> Group:
    return OverSockets(f"unix:@stead-{os.getpid()}-{os.urandom(6).hex()}", count, timeout)


def over_tcp(count: int, timeout: float) -> Group:
    return OverSockets("tcp://127.0.0.1:0", count, timeout)


class OverTree(Group):
    """The tree of MPI's exchange over queues of this process, which lose nothing and tell of nobody's death: that
    shows by the time. The time is simulated: it passes when all are waiting."""

    def __init__(self, count: int, timeout: float) -> None:
        boxes: dict[tuple[int, int, int], SimpleQueue[bytes]] = {}
        self._clock = _Clock(count)

        def box(source: int, dest: int, tag: int) -> SimpleQueue[bytes]:
            with self._clock.lock:
                return boxes.setdefault((source, dest, tag), SimpleQueue())

        ranks: list[Any] = [_Communicator(rank, count, box, self._clock) for rank in range(count)]
        self.exchanges = [Mpi(rank, timeout) for rank in ranks]
        self.names = [f"rank {n}" for n in range(count)]
        vars(mpi)["time"] = self._clock

    def ended(self, number: int) -> None:
        self._clock.ended()

    def close(self) -> None:
        vars(mpi)["time"] = time


class _Clock:
    def __init__(self, threads: int) -> None:
        self.lock = threading.Lock()
        self._now, self._running, self._waiting = 0.0, threads, set[int]()

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        time.sleep(0)
        with self.lock:
            self._waiting.add(threading.get_ident())
            if len(self._waiting) == self._running:
                self._now += 0.05
                self._waiting.clear()

    def sent(self) -> None:
        with self.lock:
            self._waiting.clear()

    def ended(self) -> None:
        with self.lock:
            self._running -= 1
            self._waiting.clear()


class _Communicator:
    """What Mpi uses of one."""

    def __init__(self, rank: int, size: int, box: Callable[[int, int, int], SimpleQueue[bytes]], clock: _Clock):
        self.rank, self.size, self._box, self._clock = rank, size, box, clock

    def Is_inter(self) -> bool:
        return False

    def Dup(self) -> _Communicator:
        return self

    def isend(self, data: bytes, dest: int, tag: int) -> Any:
        self._box(self.rank, dest, tag).put(data)
        self._clock.sent()
        return self

    def Test(self) -> bool:
        return True

    def improbe(self, source: int, tag: int) -> Any:
        try:
            data = self._box(source, self.rank, tag).get_nowait()
        except Empty:
            return None
        return _Received(data)


class _Received:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def recv(self) -> bytes:
        return self._data


EXCHANGES: dict[str, Callable[[int, float], Group]] = {
    "threads": OverThreads,
    "pipes": OverPipes,
    "unix sockets": over_unix,
    "TCP sockets": over_tcp,
    "a tree": OverTree,
}


class Mortal:
    """An exchange whose participant is killed in its ``last`` exchange: before it speaks, or when it has heard."""

    def __init__(self, group: Group, number: int, last: int, heard: bool) -> None:
        self._group, self._number, self._left, self._heard = group, number, last, heard
        self.me = group.exchanges[number].me

    def allreduce(self, message: Message) -> Message:
        if not self._left and not self._heard:
            self._die()
        answer = self._group.exchanges[self._number].allreduce(message)
        if not self._left:
            self._die()
        self._left -= 1
        return answer

    def _die(self) -> None:
        self._group.vanish(self._number)
        raise Dies


def reserve_all(group: Group, exchanges: list[Any], spaces: list[SimulatedSpace]) -> list[Any]:
    """All at once, a thread each: what each one got, or raised."""
    outcomes: list[Any] = [None] * len(spaces)

    def run(number: int) -> None:
        try:
            outcomes[number] = stead.reserve(GiB, space=spaces[number], together=exchanges[number])
        except BaseException as error:
            outcomes[number] = error
        group.ended(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(spaces))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def check_undisturbed(make: Callable[[int, float], Group], count: int) -> None:
    """All hold the same, time after time, whatever their kernels' manners."""
    group = make(count, 60.0)
    spaces = [SimulatedSpace(manner=list(Manner)[k % 3]) for k in range(count)]
    rounds = [reserve_all(group, group.exchanges, spaces) for _ in range(3)]
    assert len({each[0].range for each in rounds}) == 3
    for outcomes in rounds:
        assert len({(each.range, each.identity) for each in outcomes}) == 1
    for space in spaces:
        assert space.kernel.ours.size == 3 * GiB
        assert space.kernel.clobbered == []
    group.close()


def check_failing(
    make: Callable[[int, float], Group], who: int, last: int, heard: bool, crowded: bool, timeout: float
) -> bool:
    """One of three goes at that point: the others end in PeerFailed that names it, with nothing held, or all hold
    what was decided before. Whether it did get that far."""
    window = SimulatedSpace().windows[0]
    # Crowded: one has only the top of the window free, so that more is said.
    taken = [Range(window.start, window.stop - 3 * GiB)] if crowded else []
    spaces = [SimulatedSpace(), SimulatedSpace(occupied=taken), SimulatedSpace()]
    group = make(3, timeout)
    exchanges: list[Any] = list(group.exchanges)
    exchanges[who] = Mortal(group, who, last, heard)
    outcomes = reserve_all(group, exchanges, spaces)
    group.close()
    died = isinstance(outcomes[who], Dies)
    living = [number for number in range(3) if number != who]
    assert len({tuple(spaces[number].kernel.ours) for number in living}) == 1, outcomes
    for number in living:
        outcome = outcomes[number]
        assert spaces[number].kernel.clobbered == []
        if isinstance(outcome, stead.PeerFailed):
            assert died
            # Where it had to be waited for, a machine that stood still may have made another one late.
            assert timeout < 10 or outcome.peer.startswith(group.names[who]), (outcome, group.names[who])
            assert not spaces[number].kernel.ours
        else:
            assert isinstance(outcome, stead.Reservation), outcome
            assert list(spaces[number].kernel.ours) == [outcome.range]
    return died
