"""What the workers of the tests run: importable by spawned processes."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

import stead

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_kept: list[stead.Reservation] = []


def read_and_write(r: stead.Reservation, connection: Connection) -> None:
    """Read through the raw address, write through a view."""
    seen = ctypes.string_at(r.address, 5)
    with r.view() as view:
        view[5:10] = b"child"
    connection.send((r.address, seen, os.getpid()))


def look(r: stead.Reservation) -> tuple[int, bytes, int]:
    return r.address, ctypes.string_at(r.address, 5), os.getpid()


def look_at(argument: tuple[stead.Reservation, int]) -> int:
    r, offset = argument
    with r.view() as view:
        return view[offset]


def sit_on(address: int, size: int) -> int:
    """Occupy a place in this worker."""
    _kept.append(stead.reserve(size, at=address, name="squatter"))
    return os.getpid()


def try_to_write(r: stead.Reservation) -> str:
    with r.view() as view:
        if not view.readonly:
            return "writable"
    try:
        r.protect(0, "1 MiB", access="rw")
    except stead.Unsupported:
        return "read-only"
    return "made writable"


def attach_and_write(handle: stead.Handle) -> str:
    return try_to_write(handle.attach())


def make_and_send(size: int) -> stead.Reservation:
    """The worker makes it, the parent gets it."""
    r = stead.reserve(size, name="from the worker")
    with r.commit(backing="shared") as view:
        view[:4] = b"made"
    _kept.append(r)
    return r


def attach_what_comes(connection: Connection) -> None:
    """Attach what comes until None; answer with the address and the first bytes, or with the refusal."""
    while True:
        try:
            r = connection.recv()
        except (stead.AddressSpaceError, stead.PeerFailed) as error:
            connection.send(error)
            continue
        if r is None:
            return
        try:
            connection.send((r.address, ctypes.string_at(r.address, 5)))
            del r
        except Exception as error:
            connection.send(error)


def reserve_together(connection: Connection, size: int, blocked: stead.Range | None) -> None:
    """Take part in an agreement, then commit what the parent sends into it."""
    if blocked is not None:
        _kept.append(stead.reserve(blocked.size, at=blocked.start))
    try:
        r = stead.reserve(size, together=stead.peers.Member(connection))
    except stead.AddressSpaceError as error:
        connection.send(error)
        return
    connection.send(r.range)
    arrived = connection.recv()
    assert arrived is r
    connection.send(ctypes.string_at(arrived.address, 4))


def leave_in_the_middle(connection: Connection, size: int) -> None:
    """Speak once, then die before the vote."""
    member = stead.peers.Member(connection)

    class DiesAtTheVote:
        rounds = 0
        me = member.me

        def allreduce(self, message: object) -> object:
            self.rounds += 1
            if self.rounds == 2:
                os.kill(os.getpid(), 9)
            return member.allreduce(message)  # type: ignore[arg-type]

    stead.reserve(size, together=DiesAtTheVote())  # type: ignore[arg-type]
