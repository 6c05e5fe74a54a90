"""How a descriptor reaches another process, and that a wrong file never does."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from stead.descriptors import Descriptor, boot_id, close_door, describe, open_descriptor, start_time
from stead.errors import PeerFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def memory(contents: bytes = b"contents") -> Iterator[int]:
    fd = os.memfd_create("test")
    try:
        os.write(fd, contents)
        yield fd
    finally:
        os.close(fd)


@contextmanager
def opened(sent: Descriptor, writable: bool = True) -> Iterator[int]:
    fd = open_descriptor(sent, writable)
    try:
        yield fd
    finally:
        os.close(fd)


def open_count() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_what_is_opened_is_the_same_file_by_another_descriptor() -> None:
    with memory() as fd, opened(describe(fd)) as ours:
        assert ours != fd
        assert os.pread(ours, 8, 0) == b"contents"
        os.pwrite(ours, b"C", 0)
        assert os.pread(fd, 8, 0) == b"Contents"
        assert not os.get_inheritable(ours)


def test_a_receiver_that_only_reads_cannot_write() -> None:
    with memory() as fd, opened(describe(fd), writable=False) as ours:
        assert os.pread(ours, 8, 0) == b"contents"
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(ours, b"C", 0)


def test_a_file_that_the_sender_has_closed_is_a_failed_peer() -> None:
    with memory() as fd:
        sent = describe(fd)
    with pytest.raises(PeerFailed, match=f"{os.getpid()}.*released it"):
        open_descriptor(sent, True)


def test_another_file_under_the_same_number_is_found_out() -> None:
    with memory() as fd:
        sent = describe(fd)
        with memory(b"another") as other:
            os.dup2(other, fd)
            before = open_count()
            with pytest.raises(PeerFailed, match="released it"):
                open_descriptor(sent, True)
            assert open_count() == before


@pytest.mark.parametrize("writable", [True, False])
def test_a_pipe_under_the_same_number_is_found_out_and_never_waited_for(tmp_path: Path, writable: bool) -> None:
    # Opening a named pipe for reading waits until someone writes: the number must be looked at first.
    os.mkfifo(tmp_path / "pipe")
    with memory() as fd:
        sent = describe(fd)
        pipe = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        os.dup2(pipe, fd)
        os.close(pipe)
        with pytest.raises(PeerFailed, match="released it"):
            open_descriptor(sent, writable)


def test_a_socket_under_the_same_number_is_found_out() -> None:
    with memory() as fd, socket.socket() as other:
        sent = describe(fd)
        os.dup2(other.fileno(), fd)
        with pytest.raises(PeerFailed, match="released it"):
            open_descriptor(sent, True)


def test_a_sender_that_has_ended_is_a_failed_peer() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        started = start_time(child.pid)
        assert started is not None
        with memory() as fd:
            sent = replace(describe(fd), pid=child.pid, started=started)
        child.kill()
        child.wait()
        with pytest.raises(PeerFailed, match=f"{child.pid}.*ended"):
            open_descriptor(sent, True)


def test_another_process_under_the_senders_pid_is_found_out() -> None:
    close_door()  # that a test before this one may have needed: it knows the file whatever the pid is
    with memory() as fd:
        sent = replace(describe(fd), started=0)
        with pytest.raises(PeerFailed, match="ended"):
            open_descriptor(sent, True, search=False)
        os.close(open_descriptor(sent, True))  # but it is the same file that this process has open
    with memory(b"another"), pytest.raises(PeerFailed, match=r"ended.*no other process"):
        open_descriptor(sent, True)


def test_another_boot_or_machine_is_found_out() -> None:
    with memory() as fd, pytest.raises(PeerFailed, match="booted, or on another"):
        open_descriptor(replace(describe(fd), boot="another"), True)


def test_a_process_knows_when_it_started_and_where() -> None:
    assert start_time(os.getpid()) == start_time(os.getpid())
    assert start_time(1 << 29) is None
    assert boot_id() == boot_id() != ""


# Text, since a function of this file could not be found by a worker, whose path is not pytest's.
RECEIVE = """
import os
from stead.descriptors import open_descriptor
if wait:
    answer.recv_bytes()
fd = open_descriptor(sent, True)
answer.send_bytes(os.pread(fd, 8, 0))
os.pwrite(fd, b"C", 0)
os.close(fd)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_of_any_start_method_gets_the_file(method: str) -> None:
    context: Any = multiprocessing.get_context(method)  # whose type knows no Process
    here, there = context.Pipe()
    with memory() as fd:
        work = {"sent": describe(fd), "answer": there, "wait": False}
        child = context.Process(target=exec, args=(RECEIVE, work))
        child.start()
        there.close()
        assert here.recv_bytes() == b"contents"
        child.join()
        assert child.exitcode == 0
        assert os.pread(fd, 8, 0) == b"Contents"
    here.close()


class Late:
    """Describes its file while it is pickled, as a handle does."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> tuple[object, ...]:
        return replace, (describe(self.fd),)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_what_is_sent_while_a_process_starts_outlives_the_senders_own(method: str) -> None:
    context: Any = multiprocessing.get_context(method)  # whose type knows no Process
    here, there = context.Pipe()
    with memory() as fd:
        work = {"sent": Late(fd), "answer": there, "wait": True}
        child = context.Process(target=exec, args=(RECEIVE, work))
        child.start()
    there.close()
    here.send_bytes(b"closed now")
    assert here.recv_bytes() == b"contents"
    child.join()
    assert child.exitcode == 0
    here.close()
