"""What is lent by token: it comes in order, on lines that are used again, and nothing is left open."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from doors import connected, open_count, opened
from others import other
from stead import calling, door
from stead.calling import Lent
from stead.errors import LimitReached, PeerFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stead.door import Door


@pytest.fixture
def fd() -> Iterator[int]:
    made = os.memfd_create("test")
    yield made
    os.close(made)


def ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(64) == b""
    except ConnectionResetError:  # it was closed before it had read all
        return True


class Thing:
    """A file with its number in it, which is closed with the last reference."""

    def __init__(self, number: int) -> None:
        self.fd = os.memfd_create("lent")
        os.write(self.fd, number.to_bytes(2, "little"))

    def __del__(self) -> None:
        os.close(self.fd)


def lent(made: Door, count: int) -> tuple[list[bytes], list[Thing]]:
    things = [Thing(number) for number in range(count)]
    tokens = [os.urandom(door.TOKEN) for _ in things]
    for token, thing in zip(tokens, things, strict=True):
        made.lend(token, thing)
    return tokens, things


def taken(made: Door, tokens: Sequence[bytes], count: int | None = None) -> list[int]:
    """The numbers in what came."""
    with Lent(made.name, tokens, deadline=300) as coming:
        return [read_and_close(coming.take()) for _ in range(len(tokens) if count is None else count)]


def read_and_close(fd: int) -> int:
    try:
        assert not os.get_inheritable(fd)
        return int.from_bytes(os.pread(fd, 2, 0), "little")
    finally:
        os.close(fd)


def forget_lines() -> None:
    """Those that were kept."""
    while calling._kept:
        calling._kept.popitem()[1].close()


@pytest.mark.parametrize("count", [0, 1, door.MOST_LENT, door.MOST_LENT + 1, 5 * door.MOST_LENT - 1])
def test_what_is_lent_comes_in_the_order_of_the_tokens(count: int) -> None:
    with opened() as made:
        tokens, things = lent(made, count)
        assert taken(made, tokens) == list(range(count))
        assert taken(made, tokens[::-1]) == list(range(count))[::-1]
        assert len(things) == count


def test_nothing_is_left_open_by_lending_and_taking() -> None:
    forget_lines()
    before = open_count()
    with opened() as made:
        tokens, things = lent(made, 3 * door.MOST_LENT)
        for some in (0, 1, door.MOST_LENT, door.MOST_LENT + 1, 3 * door.MOST_LENT):
            assert taken(made, tokens, some) == list(range(some))
        with pytest.raises(PeerFailed):
            taken(made, [*tokens, bytes(door.TOKEN)])
    forget_lines()
    del things
    assert open_count() <= before


def test_what_lives_no_more_is_not_lent() -> None:
    with opened() as made:
        tokens, things = lent(made, 3)
        assert taken(made, tokens) == [0, 1, 2]
        del things[1]
        with pytest.raises(PeerFailed, match="does not hand out"):
            taken(made, tokens)
        assert taken(made, [tokens[0], tokens[2]]) == [0, 2]
        with pytest.raises(PeerFailed, match="does not hand out"):
            taken(made, [os.urandom(door.TOKEN)])


def test_tokens_that_are_none_are_dropped_without_a_word() -> None:
    with opened() as made:
        tokens, things = lent(made, door.MOST_LENT + 1)
        for nonsense in (b"", tokens[0][:-1], tokens[0] + b"x", b"".join(tokens)):
            with connected(made) as rude:
                rude.send(door.BY_TOKEN + nonsense)
                assert ended(rude)
        assert taken(made, tokens) == list(range(len(things)))


def test_there_is_no_room_for_what_comes() -> None:
    code = """
import resource
name, tokens = hear()
full = []
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
try:
    while True:
        full.append(os.dup(0))
except OSError:
    pass
for _ in range(4):  # for the line, and some of what comes
    os.close(full.pop())
with calling.Lent(name, tokens) as coming:
    refused = attempt(coming.take)
left = len(os.listdir("/proc/self/fd")) - 1
say((refused, left == 64 - 4))
"""
    with opened() as made, other(code) as asking:
        tokens, things = lent(made, door.MOST_LENT)
        asking.say((made.name, tokens))
        refused, nothing_is_left = asking.hear()
        assert isinstance(refused, LimitReached)
        assert refused.limit == "RLIMIT_NOFILE"
        assert nothing_is_left
        assert things


@contextmanager
def door_of(lines: Sequence[int], fd: int) -> Iterator[str]:
    """A door that drops each line when it has answered so often there; in the end it is not there any more."""
    name = f"stead:test:{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind("\0" + name)
        listening.listen()

        def serve() -> None:
            for answers in lines:
                client, _ = listening.accept()
                with client:
                    for _ in range(answers):
                        client.recv(64)
                        socket.send_fds(client, [b"given"], [fd])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield name
        thread.join()


def take_one(name: str) -> None:
    with Lent(name, [bytes(door.TOKEN)]) as coming:
        os.close(coming.take())


def test_who_asks_again_does_so_on_the_line_of_before(fd: int) -> None:
    with door_of([3], fd) as name:
        for _ in range(3):
            take_one(name)
    forget_lines()


def test_a_line_that_was_dropped_is_made_anew_once(fd: int) -> None:
    with door_of([1, 2, 1, 0], fd) as name:
        for _ in range(4):
            take_one(name)
        with pytest.raises(PeerFailed):
            take_one(name)  # the last is dropped before it was of any use
    with pytest.raises(PeerFailed, match="is not open"):
        take_one(name)


def test_a_line_is_dropped_where_many_ask() -> None:
    with opened(deadline=600, most_clients=1) as made:
        tokens, things = lent(made, 2)
        assert taken(made, tokens) == [0, 1]
        with connected(made):
            assert taken(made, tokens) == [0, 1]
        assert things
    forget_lines()


def test_lines_to_many_doors_are_not_all_kept() -> None:
    forget_lines()
    before = open_count()
    for _ in range(3 * calling.MOST_KEPT):
        with opened() as made:
            tokens, things = lent(made, 1)
            assert taken(made, tokens) == [0]
            del things
    assert open_count() <= before + calling.MOST_KEPT
    forget_lines()


def test_a_forked_child_asks_on_a_line_of_its_own() -> None:
    code = """
name, tokens = hear()

def take(number):
    with calling.Lent(name, [tokens[number]], deadline=300) as coming:
        fd = coming.take()
    try:
        return int.from_bytes(os.pread(fd, 2, 0), "little")
    finally:
        os.close(fd)

take(0)
child = os.fork()
mine = 1 if child else 2
found = {take(mine) for _ in range(300)}
if child == 0:
    os._exit(found != {2})
say((found, os.waitpid(child, 0)[1]))
"""
    with opened(deadline=600) as made, other(code) as asking:
        tokens, things = lent(made, 3)
        asking.say((made.name, tokens))
        assert asking.hear() == ({1}, 0)
        assert things
