"""Processes that meet over stream sockets, each told what to do by its test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stead.ranges import Range

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

KEY = b"the key of the tests"
MEMBER = Path(__file__).with_name("member.py")


class Peer:
    """One process, and what goes to it and comes back. ``prefix``: a command that runs it."""

    def __init__(self, name: str, prefix: Sequence[str] = ()) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [*prefix, sys.executable, str(MEMBER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, what: str, *arguments: object) -> None:
        """Tell it, and do not wait for the answer."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps([what, arguments]) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        """To the oldest that was asked; None also where it has died."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def tell(self, what: str, *arguments: object) -> Any:
        self.ask(what, *arguments)
        return self.answer()

    @property
    def held(self) -> list[Range]:
        return [Range(*each) for each in self.tell("held")]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        self.wait_until_stopped()

    def wait_until_stopped(self) -> None:
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for each in (self.process.stdin, self.process.stdout):
            assert each
            each.close()


class Crowd:
    """A hub in a process of its own, and members."""

    def __init__(self, address: str) -> None:
        self._address, self.address = address, address
        self.everyone: list[Peer] = []
        self.hub: Peer

    def start(self, name: str, prefix: Sequence[str] = ()) -> Peer:
        self.everyone.append(Peer(name, prefix))
        return self.everyone[-1]

    def serve(self, peers: int, timeout: float = 60.0, prefix: Sequence[str] = ()) -> Peer:
        self.hub = self.start("the hub", prefix)
        self.address = self.hub.tell("serve", self._address, peers, KEY.hex(), timeout)
        assert isinstance(self.address, str), self.address
        return self.hub

    def member(self, name: str, key: bytes = KEY, timeout: float = 60.0, prefix: Sequence[str] = ()) -> Peer:
        peer = self.start(name, prefix)
        peer.tell("member", self.address, name, key.hex(), timeout)
        return peer

    def members(self, *names: str) -> list[Peer]:
        """Which start at the same time: most of a test is starting processes."""
        peers = [self.start(name) for name in names]
        for each in peers:
            each.ask("member", self.address, each.name, KEY.hex())
        for each in peers:
            each.answer()
        return peers

    def joined(self, *names: str) -> None:
        """Wait until the hub has let them in."""
        while not set(names) <= set(self.hub.tell("members")):
            pass

    def gone(self, name: str) -> None:
        """Wait until the hub knows it."""
        while name in self.hub.tell("members"):
            pass

    def end(self) -> None:
        for each in self.everyone:
            each.kill()


def agreed(outcomes: Sequence[Any]) -> Range:
    """What all of them have got."""
    assert all(isinstance(each, list) for each in outcomes), outcomes
    [found] = {tuple(each) for each in outcomes}
    return Range(*found)


@pytest.fixture(params=["unix", "tcp"])
def crowd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Crowd]:
    made = Crowd(f"unix:{tmp_path}/hub" if request.param == "unix" else "tcp://127.0.0.1:0")
    yield made
    made.end()
