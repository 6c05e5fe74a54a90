"""Agreement between threads, each with a simulated space."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import stead
from stead.peers import Threads
from stead.testing import SimulatedSpace

GiB = 1 << 30


def in_threads(bodies: list[Any]) -> list[Any]:
    """What each one returned, or raised."""
    outcomes: list[Any] = [None] * len(bodies)

    def run(number: int) -> None:
        try:
            outcomes[number] = bodies[number]()
        except Exception as error:
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


@pytest.mark.parametrize("count", [1, 2, 7])
def test_all_threads_hold_the_same_range_time_after_time(count: int) -> None:
    group = Threads([f"thread {n}" for n in range(count)])
    spaces = [SimulatedSpace() for _ in range(count)]

    def body(number: int) -> list[stead.Reservation]:
        with group.member(f"thread {number}") as member:
            return [stead.reserve(GiB, space=spaces[number], together=member) for _ in range(20)]

    outcomes = in_threads([lambda n=n: body(n) for n in range(count)])
    ranges = [[each.range for each in outcome] for outcome in outcomes]
    assert all(each == ranges[0] for each in ranges)
    assert len(set(ranges[0])) == 20


def test_a_thread_that_does_not_come_is_named_and_nobody_holds_anything() -> None:
    group = Threads(["a", "b", "late"], timeout=0.2)
    spaces = [SimulatedSpace(), SimulatedSpace()]
    outcomes = in_threads(
        [
            lambda n=n: stead.reserve(GiB, space=spaces[n], together=group.member("ab"[n]))
            for n in range(2)
        ]
    )  # fmt: skip
    for outcome in outcomes:
        assert isinstance(outcome, stead.PeerFailed)
        assert outcome.peer == "late"
    assert not any(each.kernel.ours for each in spaces)


def test_a_thread_that_leaves_by_an_error_is_told_to_those_who_wait() -> None:
    group = Threads(["stays", "leaves"], timeout=60)

    def leave() -> None:
        with group.member("leaves"):
            raise RuntimeError("on purpose")

    space = SimulatedSpace()
    stays, left = in_threads(
        [lambda: stead.reserve(GiB, space=space, together=group.member("stays")), leave]
    )  # fmt: skip
    assert isinstance(left, RuntimeError)
    assert isinstance(stays, stead.PeerFailed)
    assert stays.peer == "leaves"
    assert not space.kernel.ours


@pytest.mark.parametrize("names", [[], ["a", "a"]])
def test_names_must_tell_the_members_apart(names: list[str]) -> None:
    with pytest.raises(ValueError, match="names is"):
        Threads(names)


def test_a_member_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"name is 'c', must be one of a, b"):
        Threads(["a", "b"]).member("c")
