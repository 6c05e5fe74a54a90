"""What a message costs through a channel, there and back between two processes: beside multiprocessing's.

README.md says what the rows mean. Measures and does not judge: a bound that is missed is printed as missed, and
the exit status is 0.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from contextlib import ExitStack, contextmanager
from itertools import repeat
from typing import TYPE_CHECKING, Any

from harness import Bound, Report, Row, Section, in_turns

import stead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZES = (8, 64, 200)

# Seconds. Longer than any answer takes; and who answers sleeps while the others are measured.
SPIN = 0.001


def echo(receive: Callable[[], Any], send: Callable[[Any], None], processors: set[int]) -> None:
    """What comes goes back; None is the end."""
    os.sched_setaffinity(0, processors)
    while (message := receive()) is not None:
        send(message)


@contextmanager
def answered(
    send: Callable[[Any], None], receive: Callable[[], Any], *other: Callable[..., Any], on: int = 0
) -> Iterator[Any]:
    """A case for each message, in a process that answers. ``on``: both on one processor, or each on its own; 0: as
    the scheduler likes."""
    everywhere = os.sched_getaffinity(0)
    ends = {min(everywhere)}, {max(everywhere) if on == 2 else min(everywhere)}
    mine, theirs = ends if on else (everywhere, everywhere)
    process = multiprocessing.get_context("fork").Process(target=echo, args=(*other, theirs))
    process.start()

    def case(message: object) -> Callable[[int], float]:
        def run(n: int) -> float:
            nothing = repeat(None, n)
            os.sched_setaffinity(0, mine)
            began = time.perf_counter_ns()
            for _ in nothing:
                send(message)
                receive()
            took = time.perf_counter_ns() - began
            os.sched_setaffinity(0, everywhere)
            return took / n

        return run

    try:
        yield case
    finally:
        send(None)
        process.join()


def by_channel(heap: stead.SharedHeap, spin: float, on: int = 0) -> Any:
    there, back = heap.channel(spin=spin), heap.channel(spin=spin)
    return answered(there.send, back.receive, there.receive, back.send, on=on or 2 * (spin == SPIN))


def by_pipe(on: int = 0) -> Any:
    here, other = multiprocessing.Pipe()
    return answered(here.send, here.recv, other.recv, other.send, on=on)


def by_queue() -> Any:
    context = multiprocessing.get_context("fork")
    there, back = context.SimpleQueue(), context.SimpleQueue()
    return answered(there.put, back.get, there.get, back.put)


def round_trips(rounds: int, n: int) -> list[Section]:
    heap = stead.SharedHeap("64 MiB")
    found = []
    with ExitStack() as stack:
        ways = {
            "Pipe": stack.enter_context(by_pipe()),
            "SimpleQueue": stack.enter_context(by_queue()),
            "blocking": stack.enter_context(by_channel(heap, 0.0)),
            "by default": stack.enter_context(by_channel(heap, heap.channel().spin)),
            "spinning": stack.enter_context(by_channel(heap, SPIN)),
        }
        for size in SIZES:
            message = b"x" * size
            samples = in_turns({name: case(message) for name, case in ways.items()}, rounds, n)
            pipe = ("Pipe", samples["Pipe"])
            found.append(
                Section(
                    f"{size} bytes, there and back",
                    [
                        Row("multiprocessing.Pipe", samples["Pipe"]),
                        Row("multiprocessing.SimpleQueue", samples["SimpleQueue"], pipe),
                        Row("channel, blocking", samples["blocking"], pipe, Bound("<=", 0.5)),
                        Row("channel, as it is by default", samples["by default"], pipe),
                        Row("channel, spinning", samples["spinning"], pipe),
                        Row("the quickest round of these", [min(samples["spinning"])]),
                        Row(
                            "channel, spinning, again",
                            samples["spinning"],
                            ("2 us", [2000.0] * rounds),
                            Bound("<=", 1),
                        ),
                    ],
                )
            )
        cases = {
            "an int": 5, "a str": "message", "a tuple": (1, "a"), "bytes": b"x" * 64,
        }  # fmt: skip
        samples = in_turns({name: ways["spinning"](each) for name, each in cases.items()}, rounds, n)
        rows = [Row(name, each, ("bytes", samples["bytes"])) for name, each in samples.items()]
        found.append(Section("other messages, spinning", rows))
    return found


def where_they_run(rounds: int, n: int) -> Section:
    """What the scheduler decides above, decided: to wake a processor that sleeps costs more than all else."""
    heap = stead.SharedHeap("64 MiB")
    rows, message = [], b"x" * 64
    for on, where in ((1, "on one processor"), (2, "on two")):
        with ExitStack() as stack:
            ways = {
                "Pipe": stack.enter_context(by_pipe(on)),
                "blocking": stack.enter_context(by_channel(heap, 0.0, on)),
                "by default": stack.enter_context(by_channel(heap, heap.channel().spin, on)),
            }
            samples = in_turns({name: case(message) for name, case in ways.items()}, rounds, n)
        pipe = ("Pipe", samples["Pipe"])
        rows += [
            Row(f"multiprocessing.Pipe, {where}", samples["Pipe"]),
            Row(f"channel, blocking, {where}", samples["blocking"], pipe, Bound("<=", 0.5)),
            Row(f"channel, as it is by default, {where}", samples["by default"], pipe),
        ]
    return Section("64 bytes, there and back, where they run", rows)


def arrays(rounds: int, n: int) -> list[Section]:
    """Built by the sender and summed up by nobody: what it costs to hand it over."""
    import numpy as np

    heap = stead.SharedHeap("1 GiB")
    size = 1 << 20
    with ExitStack() as stack:
        pipe, channel = stack.enter_context(by_pipe()), stack.enter_context(by_channel(heap, SPIN))
        array = heap.array(size // 8)
        array[:] = 1
        samples = in_turns({"Pipe": pipe(np.ones(size // 8)), "channel": channel(array)}, rounds, n)
    rows = [
        Row("multiprocessing.Pipe", samples["Pipe"]),
        Row("channel, by reference", samples["channel"], ("Pipe", samples["Pipe"])),
    ]
    return [Section("an array of 1 MiB, there and back", rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run; its numbers mean little")
    parser.add_argument("--json", metavar="FILE", help="write all samples, in nanoseconds")
    options = parser.parse_args()
    rounds, n = (3, 300) if options.quick else (21, 5_000)
    report = Report(rounds)
    report.show(*round_trips(rounds, n))
    report.show(where_they_run(rounds, n))
    report.show(*arrays(rounds, max(n // 25, 10)))
    report.end(options.json)


if __name__ == "__main__":
    main()
