"""Hubs and their members in one process: what they take, what they refuse, and what they leave behind."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

import stead
from stead.messages import Proposal, Vote
from stead.peers import Hub, Socket
from stead.peers.addresses import Address, connect
from stead.peers.envelopes import MAGIC
from stead.peers.hub import MOST_STRANGERS
from stead.testing import SimulatedSpace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GiB = 1 << 30
KEY = b"the key of the tests"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """Of one member; and nothing of it is left."""
    gc.collect()
    before = left_open()
    with Hub(f"unix:{tmp_path}/hub", 1, key=KEY) as made:
        yield made
    gc.collect()
    after = left_open()
    assert after[0] <= before[0]
    assert after[1] <= before[1]
    assert not list(tmp_path.iterdir())


def left_open() -> tuple[int, set[str]]:
    names = {each.name for each in threading.enumerate() if "stead hub" in each.name}
    return len(os.listdir("/proc/self/fd")), names


def reserve(member: Socket, size: str = "1 GiB") -> stead.Reservation:
    return stead.reserve(size, space=SimulatedSpace(), together=member)


def member(hub: Hub, name: str = "one", timeout: float = 30.0) -> Socket:
    return Socket(hub.address, key=KEY, name=name, timeout=timeout)


# ---- arguments ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda **kw: Hub(peers=1, **kw), Socket])
@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"address": "nowhere"}, ValueError, "address is 'nowhere'"),
        ({"address": 7}, TypeError, "address is 7"),
        ({"address": "tcp://127.0.0.1:0"}, ValueError, "key is empty"),
        ({"address": "tcp://127.0.0.1:0", "key": "text"}, TypeError, "key is of type str"),
        ({"address": "unix:@x", "timeout": 0}, ValueError, "timeout is 0"),
        ({"address": "unix:@x", "timeout": float("nan")}, ValueError, "timeout is nan"),
        ({"address": "unix:@x", "timeout": float("inf")}, ValueError, "timeout is inf"),
        ({"address": "unix:@x", "timeout": "1"}, TypeError, "timeout is '1'"),
    ],
)
def test_an_argument_that_cannot_be_is_named(make: Any, arguments: Any, error: type, named: str) -> None:
    before = left_open()
    with pytest.raises(error, match=named):
        make(**arguments)
    assert left_open() == before


@pytest.mark.parametrize("peers", [0, -1, 1.0, True, "2", 1 << 20])
def test_a_number_of_peers_that_cannot_be_is_named(peers: Any) -> None:
    with pytest.raises(ValueError, match="peers is"):
        Hub("unix:@x", peers)


@pytest.mark.parametrize("name", ["", "a\nb", "a" * 101])
def test_a_name_that_cannot_be_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="name is"):
        Socket("unix:@x", name=name)


def test_a_key_is_never_shown() -> None:
    with Hub(f"unix:@stead-shown-{os.getpid()}", 1, key=KEY) as hub:
        one = member(hub)
        assert "key of the tests" not in repr(hub) + repr(one) + str(hub.address)


def test_where_somebody_listens_no_second_hub_is_started(hub: Hub) -> None:
    with pytest.raises(OSError, match="somebody listens there"):
        Hub(hub.address, 1, key=KEY)
    reserve(member(hub))


# ---- the ends -------------------------------------------------------------------------------------------


def test_a_member_that_is_dropped_after_its_agreement_has_left(hub: Hub) -> None:
    first = reserve(member(hub, "one"))
    assert reserve(member(hub, "other")).range == first.range


def test_who_has_closed_its_exchange_is_told_so(hub: Hub) -> None:
    with member(hub) as one:
        reserve(one)
    one.close()
    space = SimulatedSpace()
    with pytest.raises(stead.PeerFailed, match="has closed its exchange"):
        stead.reserve(GiB, space=space, together=one)
    assert not space.kernel.ours


def test_who_waits_when_the_hub_is_closed_is_told(tmp_path: Path) -> None:
    hub = Hub(f"unix:{tmp_path}/hub", 2, key=KEY)
    outcome: list[Any] = []

    def wait() -> None:
        with member(hub) as one, pytest.raises(stead.PeerFailed) as failed:
            reserve(one)
        outcome.append(failed.value)

    waiting = threading.Thread(target=wait)
    waiting.start()
    while not hub.members:
        pass
    hub.close()
    hub.close()
    waiting.join()
    assert "hub" in outcome[0].peer
    assert not (tmp_path / "hub").exists()


def test_one_that_is_not_there_is_not_waited_for_without_end() -> None:
    space = SimulatedSpace()
    with pytest.raises(stead.PeerFailed, match=r"the hub at unix:@stead-nobody: is not there") as failed:
        stead.reserve(GiB, space=space, together=Socket("unix:@stead-nobody", timeout=0.1))
    assert failed.value.peer == "the hub at unix:@stead-nobody"
    assert not space.kernel.ours


def test_a_host_that_has_no_address_is_said() -> None:
    with pytest.raises(stead.PeerFailed, match="cannot be reached"):
        reserve(Socket("tcp://host.invalid:1", key=KEY, timeout=60))


# ---- connections that are lost --------------------------------------------------------------------------


def losing_the_first(kind: type, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The hub has answered so, and it does not arrive: the connection is lost with it."""
    asked = Socket._asked
    lost: list[Any] = []

    def losing(self: Socket, say: bytes, until: float) -> Any:
        answer = asked(self, say, until)
        if isinstance(answer, kind) and not lost:
            lost.append(answer)
            raise ConnectionResetError
        return answer

    monkeypatch.setattr(Socket, "_asked", losing)
    return lost


def test_an_outcome_that_is_lost_is_asked_for_again(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is learned over another connection."""
    lost = losing_the_first(Vote, monkeypatch)
    with member(hub) as one:
        held = reserve(one)
        assert lost
        # And it is one agreement, not two.
        with member(hub, "late") as late:
            assert reserve(late).range == held.range


def test_a_connection_that_is_lost_in_an_agreement_ends_it_and_the_next_is_as_good(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = losing_the_first(Proposal, monkeypatch)
    space = SimulatedSpace()
    with member(hub) as one:
        with pytest.raises(stead.PeerFailed, match="one: is gone"):
            stead.reserve(GiB, space=space, together=one)
        assert lost
        assert not space.kernel.ours
        reserve(one)


def test_a_hub_that_ends_every_connection_is_not_asked_for_ever(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def losing(self: Socket, say: bytes, until: float) -> Any:
        raise ConnectionResetError("on purpose")

    monkeypatch.setattr(Socket, "_asked", losing)
    with pytest.raises(stead.PeerFailed, match="ends every connection: on purpose"):
        reserve(member(hub))


def test_a_connection_that_was_lost_between_two_agreements_is_made_anew(hub: Hub) -> None:
    with member(hub) as one:
        first = reserve(one)
        assert one._line
        one._line.socket.shutdown(socket.SHUT_RDWR)
        assert reserve(one).range != first.range


def test_what_was_changed_on_its_way_ends_the_connection_and_nothing_is_held(hub: Hub) -> None:
    with member(hub) as one:
        reserve(one)
        assert one._line
        one._line.socket.sendall(b"\0\0\0\1L" + bytes(32))  # injected: it would have this member leave
        again = reserve(one)  # over another connection, in the same session
        assert hub.members == ("one",)
    assert any("not sealed with the key" in str(each) for each in hub.refused)
    assert again.range


def test_a_hub_that_was_started_anew_says_that_it_knows_nothing(tmp_path: Path) -> None:
    hub = Hub(f"unix:{tmp_path}/hub", 1, key=KEY)
    with member(hub) as one:
        reserve(one)
        hub.close()
        with Hub(hub.address, 1, key=KEY):
            with pytest.raises(stead.PeerFailed, match="started again"):
                reserve(one)
            with pytest.raises(stead.PeerFailed, match="knows of 0 agreements, one of 1"):
                reserve(one)
            with Socket(hub.address, key=KEY, name="one, again") as again:
                reserve(again)


# ---- strangers ------------------------------------------------------------------------------------------


def test_more_strangers_than_there_is_room_for_do_not_keep_a_member_out(hub: Hub) -> None:
    strangers = [connect(Address.parse(hub.address), 30) for _ in range(MOST_STRANGERS + 40)]
    reserve(member(hub))
    assert any("had to make room" in str(each) for each in hub.refused)
    for each in strangers:
        each.close()


def test_a_stranger_who_says_nothing_is_dropped_after_a_while() -> None:
    with Hub("tcp://127.0.0.1:0", 1, key=KEY, timeout=0.2) as hub:
        with connect(Address.parse(hub.address), 30) as silent, connect(Address.parse(hub.address), 30) as slow:
            with suppress(ConnectionError):  # where this process was too slow itself
                slow.sendall(MAGIC[:3])
            for each in (silent, slow):
                each.settimeout(30)
                with suppress(ConnectionError):
                    assert each.recv(1) == b""
        assert all("too slow to join" in str(each) for each in hub.refused)
        assert len(hub.refused) == 2


def test_what_is_no_hub_is_said_to_be_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.6 and so on, for as long as it takes\r\n")
                connection.recv(1000)

        thread = threading.Thread(target=answer)
        thread.start()
        address = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(stead.PeerFailed, match=r"is not a hub of this version of stead: it begins with b'SSH"):
            reserve(Socket(address, key=KEY))
        thread.join()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_without_a_key_another_user_is_not_let_in() -> None:
    program = f"""
import os, stead
from stead.testing import SimulatedSpace
os.setuid(65534)
try:
    stead.reserve(1 << 30, space=SimulatedSpace(), together=stead.peers.Socket("unix:@stead-{os.getpid()}"))
except stead.PeerFailed as error:
    print(error)
"""
    with Hub(f"unix:@stead-{os.getpid()}", 1, timeout=60) as hub:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert "is of user 0, not of user 65534" in done.stdout
        assert any("is of user 65534, not of user 0" in str(each) for each in hub.refused)
        reserve(Socket(hub.address))


# ---- fork -----------------------------------------------------------------------------------------------


def test_a_forked_child_has_none_of_it_and_disturbs_nothing(tmp_path: Path) -> None:
    program = """
import os, sys, stead
from stead.testing import SimulatedSpace

hub = stead.peers.Hub(sys.argv[1], 1)
one = stead.peers.Socket(hub.address, name="one")
first = stead.reserve(1 << 30, space=SimulatedSpace(), together=one)
pid = os.fork()
if pid == 0:
    sockets = []
    for each in os.listdir("/proc/self/fd"):
        try:
            if "socket" in os.readlink(f"/proc/self/fd/{each}") and int(each) > 2:
                sockets.append(each)
        except FileNotFoundError:
            pass
    assert not sockets, sockets
    try:
        stead.reserve(1 << 30, space=SimulatedSpace(), together=one)
    except stead.PeerFailed as error:
        assert "before a fork" in str(error), error
    else:
        raise AssertionError
    hub.close()
    one.close()
    with stead.peers.Socket(hub.address, name="child") as other:
        assert stead.reserve(1 << 30, space=SimulatedSpace(), together=other).range == first.range
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert stead.reserve(1 << 30, space=SimulatedSpace(), together=one).range != first.range
assert hub.members == ("one",)
"""
    subprocess.run([sys.executable, "-c", program, f"unix:{tmp_path}/hub"], check=True)
    # The parent has ended without closing its hub, and yet removed its file.
    assert not list(tmp_path.iterdir())
