"""Addresses of hubs, and whose socket file may be replaced."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from stead.peers.addresses import Address, Listening, connect

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("given", "parsed", "said"),
    [
        ("unix:/tmp/a", Address("/tmp/a"), "unix:/tmp/a"),
        ("unix:@name", Address("\0name"), "unix:@name"),
        ("tcp://10.0.0.1:4000", Address("", "10.0.0.1", 4000), "tcp://10.0.0.1:4000"),
        ("tcp://host.example:0", Address("", "host.example", 0), "tcp://host.example:0"),
        ("tcp://[::1]:65535", Address("", "::1", 65535), "tcp://[::1]:65535"),
        (("::1", 7), Address("", "::1", 7), "tcp://[::1]:7"),
        (("localhost", 7), Address("", "localhost", 7), "tcp://localhost:7"),
    ],
)
def test_an_address_as_people_write_it(given: Any, parsed: Address, said: str) -> None:
    assert Address.parse(given) == parsed
    assert str(parsed) == said
    assert Address.parse(said) == parsed


def test_a_relative_path_stays_where_it_was_after_a_chdir(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert Address.parse("unix:socket").path == str(tmp_path / "socket")


@pytest.mark.parametrize(
    "given",
    [
        "",
        "unix:",
        "unix:@",
        "unix:/" + "a" * 108,
        "unix:a\0b",
        "tcp://",
        "tcp://host",
        "tcp://host:65536",
        "tcp://a..b:1",
        "tcp://" + "a" * 64 + ":1",
        "tcp://:4000",
        "tcp://::1:4000",
        "tcp://user@host:1",
        "tcp://host:1/path",
        "http://host:1",
        "/tmp/a",
        ("", 1),
        ("host", -1),
    ],
)
def test_what_is_no_address_is_named(given: Any) -> None:
    with pytest.raises(ValueError, match="address is"):
        Address.parse(given)


@pytest.mark.parametrize("given", [None, 7, b"unix:/tmp/a", ("host",), ("host", "7"), ("host", True), ["host", 7]])
def test_what_is_of_another_type_is_named(given: Any) -> None:
    with pytest.raises(TypeError, match="address is"):
        Address.parse(given)


def listening(path: Path, private: bool = True) -> Listening:
    return Listening(Address.parse(f"unix:{path}"), private)


def test_the_file_of_a_socket_is_gone_with_it_and_is_this_users_alone(tmp_path: Path) -> None:
    path = tmp_path / "hub"
    here = listening(path)
    assert path.stat().st_mode & 0o777 == 0o600
    connect(here.address, 5).close()
    here.close()
    assert not path.exists()


def test_the_file_of_one_who_was_killed_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "hub"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fsencode(path))
        dead.listen()
    assert path.exists()
    here = listening(path)
    connect(here.address, 5).close()
    here.close()
    assert not path.exists()


def test_where_somebody_listens_nobody_else_does(tmp_path: Path) -> None:
    path = tmp_path / "hub"
    first = listening(path)
    with pytest.raises(OSError, match="somebody listens there"):
        listening(path)
    connect(first.address, 5).close()
    first.close()


@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_what_is_no_socket_stays(tmp_path: Path, what: str) -> None:
    path = tmp_path / "hub"
    if what == "file":
        path.write_text("precious")
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    before = path.lstat()
    with pytest.raises(FileExistsError, match="no socket"):
        listening(path)
    assert path.lstat() == before


def test_a_file_that_is_somebody_elses_by_now_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "hub"
    here = listening(path)
    path.unlink()
    path.write_text("precious")
    here.close()
    assert path.read_text() == "precious"


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="cannot listen at unix:"):
        listening(tmp_path / "no" / "hub")


def test_a_port_that_is_taken_is_said() -> None:
    first = Listening(Address.parse("tcp://127.0.0.1:0"), private=False)
    with pytest.raises(OSError, match=f"cannot listen at {first.address}"):
        Listening(first.address, private=False)
    first.close()


def test_nobody_there_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(ConnectionRefusedError):
            connect(Address("", "127.0.0.1", taken.getsockname()[1]), 5)


def test_who_meets_itself_has_met_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody listens, and the kernel gives us as our own port the one that we ask for."""

    def connected_to_itself(*_: object) -> socket.socket:
        alone = socket.socket()
        alone.bind(("127.0.0.1", 0))
        alone.connect(alone.getsockname())
        return alone

    monkeypatch.setattr(socket, "create_connection", connected_to_itself)
    with pytest.raises(ConnectionRefusedError):
        connect(Address("", "127.0.0.1", 1), 5)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_the_dead_socket_of_another_user_stays(tmp_path: Path) -> None:
    path = tmp_path / "hub"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fsencode(path))
    os.chown(path, 12345, -1)
    with pytest.raises(FileExistsError, match="user 12345"):
        listening(path)
    assert path.exists()
