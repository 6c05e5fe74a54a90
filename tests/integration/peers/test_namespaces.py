"""Members in two network namespaces: as on two hosts, with a cable between them that can be pulled out."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from integration.peers.conftest import Crowd, agreed

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = "1 GiB"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Hosts:
    """Two namespaces: ``here`` is 10.99.0.1, ``there`` 10.99.0.2."""

    def __init__(self) -> None:
        self._names = [f"stead-{os.getpid()}-{end}" for end in ("here", "there")]
        self.here, self.there = (["ip", "netns", "exec", name] for name in self._names)

    def make(self) -> None:
        here, there = self._names
        for name in self._names:
            ip("netns", "add", name)
        ip("-n", here, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", there)
        for number, name in enumerate(self._names, start=1):
            ip("-n", name, "address", "add", f"10.99.0.{number}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
            ip("-n", name, "link", "set", "lo", "up")

    def cable(self, state: str) -> None:
        ip("-n", self._names[0], "link", "set", "cable", state)

    def remove(self) -> None:
        for name in self._names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    made = Hosts()
    try:
        made.make()
    except (OSError, subprocess.CalledProcessError) as error:
        made.remove()
        why = f"network namespaces cannot be made here: {getattr(error, 'stderr', '') or error}"
        if "netns" in os.environ.get("STEAD_REQUIRE", "").split(","):
            pytest.fail(f"STEAD_REQUIRE names netns, and {why}")
        pytest.skip(why)
    yield made
    made.remove()


@pytest.fixture
def crowd(hosts: Hosts) -> Iterator[Crowd]:
    made = Crowd("tcp://10.99.0.1:4000")
    yield made
    made.end()


def test_two_hosts_agree(crowd: Crowd, hosts: Hosts) -> None:
    crowd.serve(2, prefix=hosts.here)
    members = [crowd.member("near", prefix=hosts.here), crowd.member("far", prefix=hosts.there)]
    for each in members:
        each.ask("reserve", SIZE)
    where = agreed([each.answer() for each in members])
    assert crowd.member("late", prefix=hosts.there).tell("reserve", SIZE) == list(where)


def test_a_network_that_is_gone_in_the_middle_leaves_nothing_held_and_is_good_again_later(
    crowd: Crowd, hosts: Hosts
) -> None:
    crowd.serve(2, timeout=5, prefix=hosts.here)
    near = crowd.member("near", prefix=hosts.here)
    far = crowd.member("far", timeout=5, prefix=hosts.there)
    # Both have claimed the range when the cable is out: the vote of one does not arrive.
    far.tell("die", "before", 2, "SIGSTOP")
    for each in (near, far):
        each.ask("reserve", SIZE)
    far.wait_until_stopped()
    hosts.cable("down")
    far.go_on()
    outcome = near.answer()
    assert (outcome["error"], outcome["peer"]) == ("PeerFailed", "far")
    outcome = far.answer()
    assert (outcome["error"], outcome["peer"]) == ("PeerFailed", "the hub at tcp://10.99.0.1:4000")
    assert near.held == far.held == []

    hosts.cable("up")
    far.tell("die", "never", 0)
    for each in (near, far):
        each.ask("reserve", SIZE)
    agreed([each.answer() for each in (near, far)])
