"""What it costs four processes to agree on a range over sockets: beside the pipes of multiprocessing.

python benchmarks/agreement_sockets.py; README.md says what the rows mean.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from harness import Bound, Report, Row, Section, in_turns, timed

import stead

if TYPE_CHECKING:
    from collections.abc import Callable

GiB = 1 << 30
KEY = b"the key of the benchmark, 32 b. "
MEMBERS = 4


def work(connection: Any, address: str | None) -> None:
    """A worker: so many agreements as it is told, over its pipe or over sockets; or so many messages there and
    back."""
    member = stead.peers.Socket(address, key=KEY, name=f"{os.getpid()}") if address else None
    together = member or stead.peers.Member(connection)
    while number := connection.recv():
        if number < 0:
            for _ in range(-number):
                connection.send_bytes(connection.recv_bytes())
        for _ in range(number):
            stead.reserve(GiB, together=together).release()
    if member:
        member.close()


class Crowd:
    """This process and three workers."""

    def __init__(self, stack: ExitStack, address: str | None) -> None:
        context = multiprocessing.get_context("spawn")
        if address:
            hub = stack.enter_context(stead.peers.Hub(address, MEMBERS, key=KEY))
            address = hub.address
        self.ends: list[Any] = []
        for _ in range(MEMBERS - 1):
            here, there = context.Pipe()
            context.Process(target=work, args=(there, address), daemon=True).start()
            self.ends.append(here)
        self.together: Any = (
            stack.enter_context(stead.peers.Socket(address, key=KEY, name="this"))
            if address
            else stead.peers.Coordinator(self.ends)
        )
        stack.callback(self._tell, 0)

    def _tell(self, number: int) -> None:
        for each in self.ends:
            each.send(number)

    def agree(self, n: int) -> float:
        self._tell(n)
        return timed(lambda: stead.reserve(GiB, together=self.together).release())(n)

    def there_and_back(self, n: int) -> float:
        def round_trip() -> None:
            for each in self.ends:
                each.send_bytes(bytes(400))
            for each in self.ends:
                each.recv_bytes()

        self._tell(-n)
        return timed(round_trip)(n)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run; its numbers mean little")
    parser.add_argument("--json", metavar="FILE", help="write all samples, in nanoseconds")
    options = parser.parse_args()
    rounds, n = (3, 10) if options.quick else (21, 100)
    with ExitStack() as stack:
        pipes = Crowd(stack, None)
        unix = Crowd(stack, f"unix:@stead-bench-{os.getpid()}")
        tcp = Crowd(stack, "tcp://127.0.0.1:0")
        cases: dict[str, Callable[[int], float]] = {
            "messages": pipes.there_and_back,
            "pipes": pipes.agree,
            "unix": unix.agree,
            "tcp": tcp.agree,
        }
        samples = in_turns(cases, rounds, n)
        report = Report(rounds)
        piped = ("over pipes", samples["pipes"])
        five_ms = [5e6] * rounds
        report.show(
            Section(
                f"{MEMBERS} processes agree on 1 GiB, and give it back",
                [
                    Row("400 bytes to three workers and back, over pipes", samples["messages"]),
                    Row("reserve(together=Coordinator(…))", samples["pipes"]),
                    Row("reserve(together=Socket(…)), a Unix socket", samples["unix"], piped),
                    Row("reserve(together=Socket(…)), TCP", samples["tcp"], piped),
                    Row("the same", samples["tcp"], ("5 ms", five_ms), Bound("<=", 1.0)),
                ],
            )
        )
        report.end(options.json)


if __name__ == "__main__":
    main()
