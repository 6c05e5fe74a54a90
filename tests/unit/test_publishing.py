"""What a process says of what stead holds in it, and who can read it."""

from __future__ import annotations

import os
import signal
import zlib
from typing import TYPE_CHECKING, Any

import pytest

import stead
from others import NOBODY, SOMEBODY, need_root, other, run
from stead.seeing import publishing
from stead.seeing.publishing import read

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOLDS = """
held = stead.reserve("1 MiB", name="theirs", guard="64 KiB")
view = held.commit(0, "64 KiB")
arena = stead.Arena("1 MiB", name="blocks")
heap = stead.SharedHeap("16 MiB", name="things")
channel = heap.channel(3)
"""


@pytest.fixture
def ended() -> Iterator[None]:
    yield
    stead.publish(False)


def test_another_process_is_seen_with_all_that_it_holds() -> None:
    with other(HOLDS + "stead.publish()\nsay(held.outer)\nhear()") as child:
        outer = child.hear()
        os.kill(child.pid, signal.SIGSTOP)  # nobody waits for it
        [seen] = stead.capture(child.pid)["processes"]
        assert seen["published_at"] is not None
        assert {each["name"] for each in seen["reservations"]} >= {"theirs", "blocks", "things"}
        [mine] = [each for each in seen["reservations"] if each["name"] == "theirs"]
        assert mine["since"] is not None
        assert [each["name"] for each in seen["arenas"]] == ["blocks"]
        assert [(each["pid"], each["blocks"]) for each in seen["heaps"][0]["holders"]] == [(child.pid, None)]
        assert [each["capacity"] for each in seen["heaps"][0]["channels"]] == [3]
        states = [each["state"] for each in seen["mappings"] if outer[0] <= int(each["start"], 16) < outer[1]]
        assert states == ["guard", "committed", "reserved", "guard"]
        os.kill(child.pid, signal.SIGCONT)


def test_the_environment_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEAD_PUBLISH", "1")
    with other("say(1)\nhear()") as child:
        child.hear()
        assert read(child.pid) is not None
    monkeypatch.setenv("STEAD_PUBLISH", "0")
    with other("say(1)\nhear()") as child:
        child.hear()
        assert read(child.pid) is None


def test_it_is_written_anew(ended: None) -> None:
    stead.publish(interval=0.01)
    first = read(os.getpid())
    assert first is not None
    with stead.reserve("1 MiB", name="later"):
        found = first
        while "later" not in [each["name"] for each in found[1]["reservations"]]:
            again = read(os.getpid())
            assert again is not None
            found = again
        assert found[0] > first[0]


def test_no_more_when_it_has_ended() -> None:
    stead.publish()
    stead.publish()
    assert read(os.getpid()) is not None
    stead.publish(False)
    stead.publish(False)
    assert read(os.getpid()) is None
    assert "stead-publish" not in [each.name for each in __import__("threading").enumerate()]


def test_a_forked_child_speaks_for_itself() -> None:
    code = (
        HOLDS
        + """
import threading, warnings
warnings.simplefilter("ignore")  # of Python 3.12: a process with threads forks
stead.publish(interval=0.01)
ends = os.pipe(), os.pipe()
pid = os.fork()
if pid == 0:
    extra = stead.reserve("1 MiB", name="only the child's")
    from stead.seeing import publishing
    publishing._publisher.write()
    os.write(ends[0][1], b"x")
    os.read(ends[1][0], 1)
    os._exit(0)
os.read(ends[0][0], 1)
say(pid)
hear()
os.write(ends[1][1], b"x")
os.waitpid(pid, 0)
"""
    )
    with other(code) as parent:
        child = parent.hear()
        theirs, its = read(parent.pid), read(child)
        assert theirs is not None
        assert its is not None
        assert "only the child's" not in {each["name"] for each in theirs[1]["reservations"]}
        assert {each["name"] for each in its[1]["reservations"]} >= {"theirs", "only the child's"}
        parent.say(1)
        assert parent.process.wait() == 0  # and so has the child ended


def test_what_a_child_without_hooks_inherits_is_not_taken_for_its_own() -> None:
    code = (
        HOLDS
        + """
stead.publish()
from stead.seeing import publishing
os.set_inheritable(publishing._publisher._fd, True)
child = subprocess.Popen(["sleep", "1000"], close_fds=False)
say(child.pid)
hear()
child.kill()
"""
    )
    with other(code) as parent:
        child = parent.hear()
        try:
            assert read(parent.pid) is not None
            assert read(child) is None
        finally:
            os.kill(child, signal.SIGKILL)


def test_others_may_not_read_it() -> None:
    need_root()
    with other(f"become({NOBODY})\nstead.publish()\nsay(1)\nhear()") as child:
        child.hear()
        assert read(child.pid) is not None  # root may
        asking = f"""
from stead.seeing.publishing import read
become({SOMEBODY})
say(type(attempt(read, {child.pid})).__name__)
"""
        with other(asking) as asker:
            assert asker.hear() == "PermissionError"


def _written(text: bytes) -> str:
    """Short enough for a command line."""
    return f"b'[' * {len(text)}" if text.startswith(b"[[") else repr(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [(b"no json", "Expecting value"), (b"[]", "must be of type object"), (b"[" * 200_000, "nested too deeply"),
     (b'{"reservations": []}', "has no 'arenas'"),
     (b'{"reservations": [], "arenas": [], "heaps": []}', "at is None")],
)  # fmt: skip
def test_what_is_written_by_somebody_else_is_refused_and_said(text: bytes, says: str) -> None:
    code = f"""
from stead.seeing.publishing import NAME, _HEADER, _MAGIC
from stead.proc import stat_field
fd = os.memfd_create(NAME)
text = eval({_written(text)!r})
os.pwrite(fd, _HEADER.pack(_MAGIC, len(text), {zlib.crc32(text)}, stat_field("self", 22)) + text, 0)
say(1)
hear()
"""
    with other(code) as child:
        child.hear()
        with pytest.raises(ValueError, match=says):
            read(child.pid)
        [seen] = stead.capture(child.pid)["processes"]
        assert seen["published_at"] is None
        assert any(says in each for each in seen["unread"])


def test_a_descriptor_that_became_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    """As in a program that closes all descriptors when it becomes a daemon."""
    path = tmp_path / "precious"
    code = f"""
stead.publish(interval=0.01)
from stead.seeing import publishing
fd, thread = publishing._publisher._fd, publishing._publisher._thread
file = os.open({str(path)!r}, os.O_RDWR | os.O_CREAT)
os.dup2(file, fd)
thread.join()
stead.publish(False)
os.write(fd, b"mine")
say(1)
"""
    assert run(code) == 1
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize("header", [b"", b"x" * 40, b"steadp1\0" + b"\xff" * 32])
def test_what_is_half_written_is_nothing(header: bytes) -> None:
    code = f"fd = os.memfd_create('stead:published')\nos.pwrite(fd, {header!r}, 0)\nsay(1)\nhear()"
    with other(code) as child:
        child.hear()
        assert read(child.pid) is None


@pytest.mark.parametrize("interval", [0, -1, "1", float("nan"), 10_000, None])
def test_a_wrong_interval_is_named(interval: Any) -> None:
    with pytest.raises(ValueError, match="interval is "):
        stead.publish(interval=interval)
    assert publishing._publisher is None


def test_a_process_that_publishes_ends_as_others_do() -> None:
    with other(HOLDS + "stead.publish(interval=0.01)\nsay(1)\nhear()") as child:
        child.hear()
        child.say(1)
        assert child.process.wait() == 0
