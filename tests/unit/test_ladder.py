"""Every rung of the ladder forced, between real processes of their own."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from others import NOBODY, SOMEBODY, need_mount_namespace, need_root, other
from stead.descriptors import describe, open_descriptor
from stead.errors import PeerFailed

if TYPE_CHECKING:
    from pathlib import Path

SEND = """
def send(contents=b"contents"):
    fd = os.memfd_create("test")
    os.write(fd, contents)
    say(describe(fd))
    return fd
"""

RECEIVE = """
def receive(writable=True):
    fd = open_descriptor(hear(), writable)
    return os.pread(fd, 8, 0), os.get_inheritable(fd), attempt(os.pwrite, fd, b"C", 0)
"""

KEEP = RECEIVE + "fd = open_descriptor(hear(), True)\nsay('kept')\nhear()"


def read(fd: int) -> bytes:
    try:
        return os.pread(fd, 8, 0)
    finally:
        os.close(fd)


def test_a_sender_that_may_not_be_looked_into_hands_it_out_at_its_door() -> None:
    with (
        other(SEND + f"become({NOBODY}); shut_proc(); fd = send(); hear(); say(os.pread(fd, 8, 0))") as sender,
        other(RECEIVE + f"become({NOBODY}); say(receive()); say(receive(False))") as receiver,
        other(f"become({NOBODY}); say(attempt(open_descriptor, hear(), True))") as without,
    ):
        sent = sender.hear()
        assert sent.door
        # Only the door makes it possible:
        without.say(replace(sent, door=""))
        refused = without.hear()
        assert isinstance(refused, PeerFailed)
        assert "may not be asked" in str(refused)
        assert "no door open" in str(refused)
        receiver.say(sent)
        assert receiver.hear() == (b"contents", False, 1)
        receiver.say(sent)
        contents, inheritable, written = receiver.hear()
        assert (contents, inheritable) == (b"Contents", False)
        assert "Bad file descriptor" in str(written)
        sender.say("looked")
        assert sender.hear() == b"Contents"


def test_an_ordinary_sender_opens_no_door_and_starts_no_thread() -> None:
    with other(SEND + "fd = send(); import threading; say(threading.active_count())") as sender:
        assert sender.hear().door == ""
        assert sender.hear() == 1


def test_nobody_else_is_let_in_at_the_door() -> None:
    need_root()
    talk = f"become({SOMEBODY}); sent = hear(); say(attempt(calling.ask, sent.door, IDENTITY, True))"
    talk = talk.replace("IDENTITY", "calling.Identity(sent.device, sent.inode)")
    # One that does not look at whom it talks to is dropped all the same, whatever it asks.
    rude = """
with door.a_socket() as raw:
    raw.connect("\\0" + sent.door)
    attempt(raw.send, door.REQUEST.pack(door.BY_FILE, sent.device, sent.inode, True))
    answer = attempt(raw.recv, 64)
    say(answer if isinstance(answer, bytes) else type(answer).__name__)
"""
    with (
        other(SEND + f"become({NOBODY}); fd = send(); hear()") as sender,
        other(talk + "\n" + rude) as stranger,
    ):
        sent = sender.hear()
        assert sent.door
        stranger.say(sent)
        refused = stranger.hear()
        assert isinstance(refused, PeerFailed)
        assert f"is user {NOBODY}'s, not user {SOMEBODY}'s" in str(refused)
        assert stranger.hear() in (b"", "ConnectionResetError")


def test_nobody_else_gets_it_in_any_way() -> None:
    need_root()
    with (
        other(SEND + f"become({NOBODY}); fd = send(); hear()") as sender,
        other(f"become({SOMEBODY}); say(attempt(open_descriptor, hear(), False))") as stranger,
    ):
        stranger.say(sender.hear())
        refused = stranger.hear()
        assert isinstance(refused, PeerFailed)
        for reason in ("may not be asked", "is user", "no file with a path", "no other process of this user"):
            assert reason in str(refused)


@pytest.mark.parametrize("user", ["this one", "an unprivileged one"])
def test_when_the_sender_has_been_killed_anyone_who_has_it_serves(user: str) -> None:
    uid = NOBODY if user == "an unprivileged one" else os.geteuid()
    # Changing the user makes a process undumpable: its /proc is opened again, as that of an ordinary one.
    ordinary = f"become({uid}); ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)\n"
    with (
        other(ordinary + SEND + "fd = send(); hear()") as sender,
        other(ordinary + KEEP) as keeper,
        other(ordinary + RECEIVE + "say(receive())") as receiver,
    ):
        sent = sender.hear()
        keeper.say(sent)
        assert keeper.hear() == "kept"
        sender.kill()
        receiver.say(sent)
        assert receiver.hear() == (b"contents", False, 1)
        keeper.kill()
        receiver.process.wait()
        with pytest.raises(PeerFailed, match=r"has ended.*no other process of this user has it open"):
            open_descriptor(sent, True)


def test_a_recycled_pid_is_not_asked_and_another_boot_is_refused_on_every_rung() -> None:
    with other(SEND + "fd = send(); hear()") as sender:
        sent = sender.hear()
        with pytest.raises(PeerFailed, match="has ended"):
            open_descriptor(replace(sent, started=sent.started - 1), True, search=False)
        assert read(open_descriptor(replace(sent, started=sent.started - 1), True)) == b"contents"
        with pytest.raises(PeerFailed, match="booted, or on another"):
            open_descriptor(replace(sent, boot="another"), True)


def test_a_file_is_opened_by_its_path_when_the_sender_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"contents")
    with other("fd = os.open(hear(), os.O_RDWR); say(describe(fd)); hear()") as sender:
        sender.say(str(path))
        sent = sender.hear()
        sender.kill()
    assert read(open_descriptor(sent, False)) == b"contents"
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(PeerFailed, match=r"its path cannot be opened: .*No such file.*no other process"):
        open_descriptor(sent, False)
    path.write_bytes(b"another")
    with pytest.raises(PeerFailed, match="another file is at its path"):
        open_descriptor(sent, False)


def test_a_file_that_got_the_inode_of_the_one_that_was_sent_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"contents")
    fd = os.open(path, os.O_RDWR)
    sent = describe(fd)
    os.close(fd)
    path.unlink()
    path.write_bytes(b"another")
    if sent.generation is None or path.stat().st_ino != sent.inode:
        pytest.skip("this file system counts no generations, or does not reuse an inode at once")
    with pytest.raises(PeerFailed, match="another file is at its path"):
        open_descriptor(sent, True)


def test_a_pipe_at_the_path_is_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"contents")
    with path.open("rb") as file:
        sent = describe(file.fileno())
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(PeerFailed, match="another file is at its path"):
        open_descriptor(sent, False)


def test_without_proc_the_door_is_the_way() -> None:
    need_mount_namespace()
    # Both ends in one mount namespace, where something else is mounted over /proc.
    hidden = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /proc && exec "$0" "$@"')
    nested = (
        SEND
        + """
fd = send()
receiver = subprocess.Popen([sys.executable, "-c", hear()], stdin=subprocess.PIPE, stdout=sys.stdout)
sys.stdout = os.fdopen(receiver.stdin.fileno(), "w", closefd=False)
say(describe(fd)); say(describe(fd))
receiver.wait()
"""
    )
    from others import PRELUDE

    receive = PRELUDE + RECEIVE + "say(receive()); say(attempt(receive, False))"
    with other(nested, *hidden) as sender:
        sent = sender.hear()
        assert sent.door
        assert sent.boot == ""
        sender.say(receive)
        assert sender.hear() == (b"contents", False, 1)
        # Read-only would take opening it anew: it is refused rather than given for writing.
        refused = sender.hear()
        assert isinstance(refused, PeerFailed)
        assert "closed without an answer" in str(refused)
