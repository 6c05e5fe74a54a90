"""Agreement over real pipes between threads, each with a simulated space: whoever goes, at whatever message."""

from __future__ import annotations

import threading
from multiprocessing import Pipe
from typing import TYPE_CHECKING, Any

import pytest

import stead
from stead.peers import Coordinator, Member
from stead.ranges import Range
from stead.testing import Manner, SimulatedSpace

if TYPE_CHECKING:
    from collections.abc import Callable

GiB = 1 << 30


class Dies(BaseException):
    """What a participant that goes away raises in its own thread."""


class Mortal:
    """A connection whose owner goes away at its ``last`` use of it."""

    def __init__(self, connection: Any, last: int, closes: list[Any]) -> None:
        self._connection, self._left, self._closes = connection, last, closes

    def _use(self) -> None:
        if self._left == 0:
            for each in self._closes:
                each.close()
            raise Dies
        self._left -= 1

    def send_bytes(self, data: bytes) -> None:
        self._use()
        self._connection.send_bytes(data)

    def recv_bytes(self, most: int) -> Any:
        self._use()
        return self._connection.recv_bytes(most)

    def poll(self, timeout: float) -> Any:
        return self._connection.poll(timeout)


def together(spaces: list[SimulatedSpace], exchanges: list[Any]) -> list[stead.Reservation | BaseException]:
    """Reserve in all spaces at once, a thread each: what each one got, or raised."""
    outcomes: list[Any] = [None] * len(spaces)

    def run(number: int) -> None:
        try:
            outcomes[number] = stead.reserve(GiB, space=spaces[number], together=exchanges[number])
        except BaseException as error:
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(spaces))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def participants(count: int, mortal: Callable[[int, Any, list[Any]], Any]) -> list[Any]:
    """A coordinator and ``count`` members, their connections wrapped."""
    pipes = [Pipe() for _ in range(count)]
    ours = [here for here, _ in pipes]
    members = [Member(mortal(number + 1, there, [there]), timeout=20) for number, (_, there) in enumerate(pipes)]
    return [Coordinator([mortal(0, here, ours) for here in ours], timeout=20), *members]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_all_hold_the_same_range(count: int) -> None:
    spaces = [SimulatedSpace(manner=list(Manner)[k % 3]) for k in range(count + 1)]
    outcomes = together(spaces, participants(count, lambda number, connection, closes: connection))
    ranges = {outcome.range for outcome in outcomes if isinstance(outcome, stead.Reservation)}
    assert len(ranges) == 1
    assert len({outcome.identity for outcome in outcomes if isinstance(outcome, stead.Reservation)}) == 1
    for space in spaces:
        assert list(space.kernel.ours) == list(ranges)


@pytest.mark.parametrize("who", [0, 1, 2])
@pytest.mark.parametrize("crowded", [False, True])
@pytest.mark.parametrize("last", range(12))
def test_whoever_goes_at_whatever_message(who: int, crowded: bool, last: int) -> None:
    """The living end in PeerFailed with nothing held; or, where the vote was decided, hold what it decided."""
    window = SimulatedSpace().windows[0]
    # Crowded: one of them has only the top of the window free, so that there is a lost round first.
    taken = [Range(window.start, window.stop - 3 * GiB)] if crowded else []
    spaces = [SimulatedSpace(), SimulatedSpace(occupied=taken), SimulatedSpace()]

    def mortal(number: int, connection: Any, closes: list[Any]) -> Any:
        return Mortal(connection, last, closes) if number == who else connection

    outcomes = together(spaces, participants(2, mortal))
    living = [number for number in range(3) if not isinstance(outcomes[number], Dies)]
    held = {tuple(spaces[number].kernel.ours) for number in living}
    if len(living) == 3:
        assert len(held) == 1  # it was not used so often: all went well
    for number in living:
        outcome = outcomes[number]
        assert isinstance(outcome, stead.PeerFailed | stead.Reservation), outcome
        if isinstance(outcome, stead.PeerFailed):
            assert not spaces[number].kernel.ours
        else:
            assert list(spaces[number].kernel.ours) == [outcome.range]
        assert not spaces[number].kernel.clobbered
    if who != 0:
        # While the parent lives all the living learn the same.
        assert len(held) == 1


def test_a_member_whose_parent_is_gone_is_told_at_once() -> None:
    here, there = Pipe()
    here.close()
    space = SimulatedSpace()
    with pytest.raises(stead.PeerFailed, match="the parent"):
        stead.reserve(GiB, space=space, together=Member(there))
    assert not space.kernel.ours


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_wrong_timeout_is_named(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout is"):
        Coordinator([], timeout=timeout)
