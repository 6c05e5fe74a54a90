"""What the processes of test_heap_sync.py do. Importable, so that spawn finds it."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import stead

if TYPE_CHECKING:
    from collections.abc import Callable

SHIFT = 24


def told(call: Callable[[], Any]) -> str:
    """What a call answered, or the name of what it raised."""
    try:
        return str(call())
    except (stead.AddressSpaceError, RuntimeError) as error:
        return type(error).__name__


def hold(lock: Any, say: stead.Channel, times: int) -> None:
    for _ in range(times):
        lock.acquire()
    say.send("held")
    signal.pause()


def wait(call: Callable[[], Any], say: stead.Channel) -> None:
    say.send("waits")
    say.send(told(call))


def wait_in(condition: stead.Condition, say: stead.Channel) -> None:
    condition.acquire()
    say.send("waits")
    say.send(told(condition.wait))
    say.send(condition.lock._is_mine())
    condition.release()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupted(what: str, objects: dict[str, Any], say: stead.Channel) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    condition: stead.Condition = objects["condition"]
    if what == "condition":
        condition.acquire()
    calls = {
        "lock": objects["lock"].acquire,
        "condition": condition.wait,
        "semaphore": objects["semaphore"].acquire,
        "barrier": objects["barrier"].wait,
        "receive": objects["channel"].receive,
        "spinning": lambda: objects["channel"].receive(spin=3600),
        "send": lambda: objects["full"].send([1]),
    }
    try:
        say.send("waits")
        calls[what]()
    except KeyboardInterrupt:
        say.send(condition.lock._is_mine())


def produce(channel: stead.Channel, accepted: Any, producer: int, stop: Any) -> None:
    """Sends messages of every kind until it is told to stop; notes what was accepted."""
    heap = channel.heap
    limit, number = accepted.shape[1], 0
    while not stop[0] and number < limit:
        kind = number % 5
        word = producer << SHIFT | number
        if kind == 0:
            obj: Any = word
        elif kind == 1:
            obj = heap.array(1, "i8")
            obj[0] = word
        elif kind == 2:
            obj = {"word": word, "more": b"x" * (number % 400)}
        elif kind == 3:
            obj = str(word) + " " * (number % 700)
        else:
            obj = heap.put(word)
        channel.send(obj)
        accepted[producer, number] = 1
        number += 1


def word_of(obj: Any, heap: stead.SharedHeap) -> int:
    if isinstance(obj, dict):
        return int(obj["word"])
    if isinstance(obj, stead.Ref):
        return int(heap.get(obj))
    return int(obj[0]) if hasattr(obj, "dtype") else int(obj)


def consume(channel: stead.Channel, taken: Any) -> None:
    """Each message has its own place, to which nobody else ever writes unless it came twice."""
    for obj in channel:
        word = word_of(obj, channel.heap)
        taken[word >> SHIFT, word & ((1 << SHIFT) - 1)] += 1


def churn(condition: stead.Condition, semaphore: stead.Semaphore, pair: Any, stop: Any) -> None:
    """Two numbers that are equal whenever nobody has the lock, unless he died there."""
    while not stop[0]:
        with semaphore:
            try:
                condition.acquire()
            except stead.OwnerDied:
                pair[1] = pair[0]
            try:
                if pair[0] != pair[1]:
                    pair[2] += 1
                pair[0] += 1
                pair[1] += 1
                try:
                    if pair[0] % 3:
                        condition.notify(2)
                    else:
                        condition.wait(0.01)
                except stead.OwnerDied:
                    pair[1] = pair[0]
            finally:
                condition.release()
