"""The door: what it hands out, and to whom; that nonsense, slowness and forks do it no harm."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from doors import connected, open_count, opened
from others import other, run
from stead import door
from stead.calling import ask
from stead.errors import PeerFailed
from stead.openfiles import Identity

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def fd() -> Iterator[int]:
    made = os.memfd_create("test")
    os.write(made, b"contents")
    yield made
    os.close(made)


def request(identity: Identity, magic: bytes = door.BY_FILE) -> bytes:
    return struct.pack("<8sQQ?", magic, identity.device, identity.inode, True)


def test_only_what_was_registered_is_handed_out(fd: int) -> None:
    unregistered = os.memfd_create("another")
    with opened() as made:
        made.register(fd, Identity.of(fd))
        got = ask(made.name, Identity.of(fd), False)
        assert os.pread(got, 8, 0) == b"contents"
        os.close(got)
        with pytest.raises(PeerFailed, match="does not hand out this file"):
            ask(made.name, Identity.of(unregistered), True)
    os.close(unregistered)


def test_a_number_that_was_reused_is_not_handed_out(fd: int) -> None:
    first = os.memfd_create("first")
    identity = Identity.of(first)
    with opened() as made:
        made.register(first, identity)
        os.dup2(fd, first)
        with pytest.raises(PeerFailed, match="does not hand out"):
            ask(made.name, identity, True)
        # Nor what took its place, which was never described:
        with pytest.raises(PeerFailed, match="does not hand out"):
            ask(made.name, Identity.of(fd), True)
        made.register(first, Identity.of(first))
        os.close(first)
        with pytest.raises(PeerFailed, match="does not hand out"):
            ask(made.name, Identity.of(fd), True)


def test_any_descriptor_of_the_file_will_do(fd: int) -> None:
    second = os.dup(fd)
    with opened() as made:
        made.register(second, Identity.of(second))
        made.register(fd, Identity.of(fd))
        os.close(second)
        os.close(ask(made.name, Identity.of(fd), True))


@pytest.mark.parametrize(
    "nonsense",
    [
        b"?",
        b"",
        b"x" * 25,
        b"x" * 26,
        b"\x80\x04K\x05.",
        b"y" * 60_000,
        struct.pack("<8sQQ?", b"stead-0?", 1, 1, 1),
    ],
    ids=["short", "empty", "right size", "too long", "a pickle", "huge", "another version"],
)
def test_nonsense_is_dropped_without_a_word_and_the_next_is_served(fd: int, nonsense: bytes) -> None:
    with opened() as made:
        made.register(fd, Identity.of(fd))
        with connected(made) as rude:
            rude.send(nonsense)
            assert ended(rude)
        os.close(ask(made.name, Identity.of(fd), True))


def ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(64) == b""
    except ConnectionResetError:  # it was closed before it had read all
        return True


def test_who_says_nothing_is_dropped() -> None:
    with opened(deadline=0.01) as made, connected(made) as silent:
        assert ended(silent)


def test_nobody_waits_for_one_who_says_nothing(fd: int) -> None:
    with opened(deadline=600) as made:
        made.register(fd, Identity.of(fd))
        with connected(made):
            os.close(ask(made.name, Identity.of(fd), True, deadline=300))


def test_of_too_many_the_one_who_waits_longest_is_dropped(fd: int) -> None:
    with opened(deadline=600, most_clients=3) as made:
        made.register(fd, Identity.of(fd))
        silent = [connected(made) for _ in range(3)]
        os.close(ask(made.name, Identity.of(fd), True))
        assert ended(silent[0])
        for each in silent:
            each.close()


def test_one_who_leaves_at_once_does_no_harm(fd: int) -> None:
    with opened() as made:
        made.register(fd, Identity.of(fd))
        for _ in range(100):
            connected(made).close()
            with connected(made) as leaving:
                leaving.send(request(Identity.of(fd)))
        os.close(ask(made.name, Identity.of(fd), True))


def test_nothing_is_left_open_by_serving_and_asking(fd: int) -> None:
    before = open_count()
    with opened() as made:
        made.register(fd, Identity.of(fd))
        for _ in range(10):
            os.close(ask(made.name, Identity.of(fd), True))
            with pytest.raises(PeerFailed):
                ask(made.name, Identity(1, 1), True)
    assert open_count() <= before


@contextmanager
def false_door(answer: bytes | None, fds: list[int]) -> Iterator[str]:
    """Someone who listens and answers anything."""
    import threading

    name = f"stead:test:{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind("\0" + name)
        listening.listen()

        def serve() -> None:
            client, _ = listening.accept()
            with client:
                client.recv(64)
                if answer is not None:
                    socket.send_fds(client, [answer], fds)

        thread = threading.Thread(target=serve)
        thread.start()
        yield name
        thread.join()


def test_an_answer_that_is_wrong_is_refused_and_what_came_with_it_closed(fd: int) -> None:
    another = os.memfd_create("another")
    read_only = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    cases: list[tuple[bytes | None, list[int], str]] = [
        (b"given", [another], "something else"),
        (b"given", [read_only], "something else"),
        (b"given", [fd, fd], "something else"),
        (b"given", [], "something else"),
        (b"not here", [fd], "something else"),
        (b"x" * 100, [fd], "something else"),
        (None, [], "closed without an answer"),
    ]
    before = open_count()
    for answer, fds, reason in cases:
        with false_door(answer, fds) as name, pytest.raises(PeerFailed, match=reason):
            ask(name, Identity.of(fd), True)
        assert open_count() <= before
    os.close(another)
    os.close(read_only)


def test_a_door_that_does_not_answer_is_given_up(fd: int) -> None:
    name = f"stead:test:{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind("\0" + name)
        listening.listen(1)
        waiting = []
        for _ in range(2):  # as many as it has room for: the first asks in vain, the second cannot even connect
            with pytest.raises(PeerFailed, match=r"did not answer within 0\.01 s"):
                ask(name, Identity.of(fd), True, deadline=0.01)
            while True:
                each = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                each.setblocking(False)
                waiting.append(each)
                try:
                    each.connect("\0" + name)
                except BlockingIOError:
                    break
        for each in waiting:
            each.close()


def test_a_door_that_is_not_there(fd: int) -> None:
    with pytest.raises(PeerFailed, match=r"is not open: .*refused"):
        ask(f"stead:test:{os.getpid()}", Identity.of(fd), True)


def test_on_request_it_is_opened_and_closed(fd: int) -> None:
    from stead.descriptors import close_door, describe, open_door

    close_door()  # that a test before this one may have needed
    assert describe(fd).door == ""
    made = open_door()
    try:
        assert open_door() is made
        sent = describe(fd)
        assert sent.door == made.name
        os.close(ask(sent.door, Identity.of(fd), True))
    finally:
        close_door()
    close_door()
    assert describe(fd).door == ""
    with pytest.raises(PeerFailed, match="is not open"):
        ask(sent.door, Identity.of(fd), True)


FORK = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # the fork of a process with threads is what is tested
fd = os.memfd_create("test")
door.open_door()
before = len(os.listdir("/proc/self/fd"))
sent = describe(fd)
started, ready = os.pipe()
child = os.fork()
if child == 0:
    # It has the file, and neither the door nor any descriptor of it.
    inherited = len(os.listdir("/proc/self/fd")) - 2
    again = describe(fd)
    door.open_door()
    own = describe(fd)
    os.write(ready, pickle.dumps((before - inherited, again.door, own)))
    signal.pause()
"""


def test_a_forked_child_does_not_serve_its_parents_door_and_may_have_its_own() -> None:
    with other(FORK + "say((sent, child, pickle.loads(os.read(started, 65536)))); hear()") as parent:
        sent, child, (closed, its_door, own) = parent.hear()
        try:
            # Listening, two to wake it, the selector.
            assert (closed, its_door) == (4, "")
            assert own.door not in ("", sent.door)
            identity = Identity(sent.device, sent.inode)
            os.close(ask(sent.door, identity, True))
            os.close(ask(own.door, identity, True))
            parent.kill()
            with pytest.raises(PeerFailed, match="is not open"):
                ask(sent.door, identity, True)
            os.close(ask(own.door, identity, True))
        finally:
            os.kill(child, 9)


def test_without_descriptors_left_nobody_is_let_in_until_there_are_some_again() -> None:
    code = """
import resource
fd = os.memfd_create("test")
made = door.open_door()
sent = describe(fd)
full = []
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
while True:
    try:
        full.append(os.dup(fd))
    except OSError:
        break
say(sent)
hear()
for each in full:
    os.close(each)
hear()
"""
    with other(code) as process:
        sent = process.hear()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect("\0" + sent.door)
            connection.send(request(Identity(sent.device, sent.inode)))
            process.say("now")
            assert connection.recv(64) == b"given"


def test_a_process_with_an_open_door_ends_without_a_word() -> None:
    assert run("door.open_door(); say('ended')") == "ended"


def test_many_ask_at_once(fd: int) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def one(_: int) -> bytes:
        got = ask(made.name, Identity.of(fd), False, deadline=300)
        try:
            return os.pread(got, 8, 0)
        finally:
            os.close(got)

    with opened(deadline=600) as made:
        made.register(fd, Identity.of(fd))
        with ThreadPoolExecutor(32) as pool:
            assert set(pool.map(one, range(500))) == {b"contents"}
