"""A reservation on its way to another process, and its arrival at the same address.

Pickling a reservation sends a handle and attaches it where it arrives: the same addresses, the same shared
memory behind them. A process that has it already gets the one it has.
"""

from __future__ import annotations

import copyreg
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from stead import ledger
from stead.backing import File, SharedMemory
from stead.backing import Part as MemoryPart
from stead.calling import Lent
from stead.claiming import claim_sent
from stead.descriptors import Descriptor, boot_id, describe, open_descriptor
from stead.devices.space import DeviceSpace
from stead.devices.spaces import space_of
from stead.devices.travel import SentMemory, send
from stead.door import open_door
from stead.errors import (
    AddressSpaceError,
    Obstacle,
    Occupied,
    PeerFailed,
    PeersDisagree,
    RollbackFailed,
    Unsupported,
)
from stead.messages import Agreed, Said, Vote
from stead.reservation import Reservation, table_lock
from stead.space.process import ProcessSpace, this_process

if TYPE_CHECKING:
    from typing import Any

    from stead.agreement import Exchange
    from stead.backing import Backing
    from stead.identity import Identity
    from stead.parts import Part
    from stead.ranges import Range
    from stead.space.protocol import Access


@dataclass(frozen=True, slots=True)
class SentPart:
    """A committed part: where, which file at which offset (bytes), and what may be done with it."""

    range: Range
    length: int
    kind: Literal["shared memory", "file"]
    name: str
    descriptor: Descriptor
    offset: int
    access: Access


@dataclass(frozen=True, slots=True)
class Handle:
    """What another process of the same user needs to attach a reservation. Small, picklable, and good as long
    as the process that made it lives and holds the reservation, or another that has attached it does."""

    identity: Identity
    range: Range
    outer: Range
    name: str | None
    generation: int
    parts: tuple[SentPart | SentMemory, ...]
    driver: str | None = None
    """In whose space it is, where that is a device's driver's."""
    door: str = ""
    """At which a device's memory is lent."""

    @classmethod
    def of(cls, reservation: Reservation, *, access: Literal["r"] | None = None) -> Handle:
        """A handle for ``reservation``; with ``access="r"`` the receiver may only read, and the kernel sees to it.

        Raises Unsupported where a part cannot be shared (anonymous memory, a private file), Released.
        """
        if access not in (None, "r"):
            raise ValueError(f"access is {access!r}, must be 'r' or None (as here)")
        space = reservation.space
        if not isinstance(space, ProcessSpace | DeviceSpace) or reservation.sharing == "managed":
            raise Unsupported("sending a reservation", "the space of a process", repr(space))
        with table_lock:
            reservation.check_live()
            parts: tuple[SentPart | SentMemory, ...]
            driver, door = None, ""
            if isinstance(space, DeviceSpace):
                parts = tuple(send(each, space.uuids, access) for each in space.mapped(reservation.range))
                driver, door = space.driver.name, open_door().name if parts else ""
            else:
                parts = tuple(_sent(part, access) for part in reservation.parts)
            return cls(
                reservation.identity,
                reservation.range,
                reservation.outer,
                reservation.name,
                reservation.generation,
                parts,
                driver,
                door,
            )

    def attach(self, *, together: Exchange | None = None) -> Reservation:
        """The reservation in this process, at the same address.

        Parts that this process has not yet committed are committed. With ``together`` all at the other ends of the
        exchange attach, whoever made it included, or none does. Raises Occupied that names what is in the
        way, PeerFailed when nobody has the memory any more, or another could not attach it; LimitReached.
        """
        with table_lock:
            own = ledger.at(self.outer.start)
            here = own if isinstance(own, Reservation) and own.identity == self.identity else None
            new = here is None
            added: list[Range] = []
            try:
                missing = [each for each in self.parts if here is None or not _is_here(here, each)]
                tokens = [token for each in missing if isinstance(each, SentMemory) for token in each.tokens]
                with Lent(self.door, tokens) as lent:
                    if here is None:
                        here = self._claim()
                    for each in missing:
                        _bring(here, each, lent, added)
            except BaseException as error:
                if here is not None:
                    _take_back(here, new, added, error)
                _vote(together, self, error)
                raise
            if new:
                here.generation = self.generation
        try:
            _vote(together, self, None)
        except BaseException as error:
            _take_back(here, new, added, error)
            raise
        return here

    def _claim(self) -> Reservation:
        here = claim_sent(this_process() if self.driver is None else space_of(self.driver), self.outer)
        here.stand_for(self.range, self.outer, self.name, self.identity)
        return here


def _take_back(here: Reservation, new: bool, added: list[Range], cause: BaseException) -> None:
    """What was attached a moment ago, and cannot stay."""
    try:
        if new:
            here.release()
        else:
            for each in added:
                here.decommit(each.start - here.address, each.size)
    except (AddressSpaceError, BufferError) as error:
        raise RollbackFailed(f"{cause}; and {here!r} could not be given back: {error}", [here.outer]) from cause


def _vote(together: Exchange | None, handle: Handle, refusal: BaseException | None) -> None:
    """Say how it went, and hear how the others fared."""
    if together is None:
        return
    refused = (Said.by(together.me, refusal),) if refusal else ()
    token = handle.identity[0]
    votes = together.allreduce(Vote(Agreed(handle.range, handle.outer, token), refused=refused))
    if refusal:
        return
    if not isinstance(votes, Vote) or not votes.alike:
        raise PeersDisagree("which reservation to attach")
    if votes.refused:
        raise PeerFailed(votes.refused[0].peer, f"could not attach {handle.range}: {votes.refused[0].what}")


def _sent(part: Part, access: Access | None) -> SentPart:
    if not part.backing.shareable:
        raise Unsupported(
            f"sending {part.range} to another process",
            "shared memory or a shared file behind it (commit(..., backing='shared'))",
            f"{part.backing!r}, which is private to this process",
        )
    memory = part.backing.memory if isinstance(part.backing, MemoryPart) else part.backing
    kind: Literal["shared memory", "file"] = "file" if isinstance(memory, File) else "shared memory"
    name = memory.path if isinstance(memory, File) else memory.name if isinstance(memory, SharedMemory) else ""
    allowed = part.access if access is None or part.access == "none" else access
    return SentPart(
        part.range, part.length, kind, str(name), describe(part.source.fd), part.source.offset, allowed
    )


def _bring(here: Reservation, sent: SentPart | SentMemory, lent: Lent, added: list[Range]) -> None:
    """Commit it, and say so."""
    backing: Any = sent.receive(_driven(here).uuids, lent) if isinstance(sent, SentMemory) else _received(sent)
    here.receive(sent.range, sent.length, backing, "r" if sent.access == "none" else sent.access)
    added.append(sent.range)
    if sent.access == "none":
        here.protect(sent.range.start - here.address, sent.length, access="none")


def _driven(here: Reservation) -> DeviceSpace:
    assert isinstance(here.space, DeviceSpace)
    return here.space


def _is_here(here: Reservation, sent: SentPart | SentMemory) -> bool:
    """Whether all of the part is committed here, with the same memory behind it. Raises Occupied where something
    else is."""
    return _is_memory_here(here, sent) if isinstance(sent, SentMemory) else _is_file_here(here, sent)


def _is_memory_here(here: Reservation, sent: SentMemory) -> bool:
    mapped = _driven(here).mapped(sent.range)
    if mapped and not sent.is_mapped(mapped):
        by = Obstacle(mapped[0].range, "other memory that is committed in this reservation", "this process")
        raise Occupied(sent.range, by)
    return bool(mapped)


def _is_file_here(here: Reservation, sent: SentPart) -> bool:
    found = [part.piece(sent.range) for part in here.parts if part.range.overlaps(sent.range)]
    if not found:
        return False
    at = sent.range.start
    for part in found:
        same = part.backing.shareable and part.source.offset == sent.offset + part.range.start - sent.range.start
        if part.range.start != at or not same or not _same_file(part.source.fd, sent.descriptor):
            break
        at = part.range.stop
    if at == sent.range.stop:
        return True
    raise Occupied(sent.range, here.obstacle(found[0]))


def _same_file(fd: int, sent: Descriptor) -> bool:
    mine = os.fstat(fd)
    return (boot_id(), mine.st_dev, mine.st_ino) == (sent.boot, sent.device, sent.inode)


def _received(sent: SentPart) -> Backing:
    fd = open_descriptor(sent.descriptor, "w" in sent.access)
    if sent.kind == "file":
        return File.adopt(fd, sent.name, sent.offset)
    memory = SharedMemory.adopt(fd, name=sent.name)
    return memory.at(sent.offset) if sent.offset else memory


# ---- pickling -------------------------------------------------------------------------------------


class FailedArrival:
    """Stands in for a reservation that could not arrive among the arguments of a pool's task: every use of it
    raises the reason. See :func:`_arrive`."""

    __slots__ = ("_reason",)

    def __init__(self, reason: Exception) -> None:
        self._reason = reason

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise self._reason

    def _refuse(self, *arguments: Any, **named: Any) -> Any:
        raise self._reason

    # What Python, and NumPy, look up in the class.
    __enter__ = __len__ = __iter__ = __getitem__ = __setitem__ = __array__ = _refuse
    __array_interface__ = property(_refuse)

    def __exit__(self, *exception: object) -> None: ...

    def __reduce__(self) -> Any:
        return FailedArrival, (self._reason,)

    def __repr__(self) -> str:
        return f"<FailedArrival: {self._reason}>"


# Loops that do not survive an exception from unpickling: concurrent.futures declares its pool broken, and
# multiprocessing.Pool loses the task and waits for it for ever.
_POOL_LOOPS = {
    ("multiprocessing.pool", "worker"),
    ("multiprocessing.pool", "_handle_results"),
    ("concurrent.futures.process", "_process_worker"),
    ("concurrent.futures.process", "wait_result_broken_or_wakeup"),
    ("joblib.externals.loky.process_executor", "_process_worker"),
    ("loky.process_executor", "_process_worker"),
}
_ON_THE_WAY = (
    "stead.",
    "multiprocessing.",
    "concurrent.futures.",
    "joblib.",
    "loky.",
    "pickle",
    "cloudpickle",
)


def in_pool_loop() -> bool:
    """Whether it is a pool's own loop that unpickles, and not the user's code."""
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if (module, frame.f_code.co_name) in _POOL_LOOPS:
            return True
        if not module.startswith(_ON_THE_WAY):
            return False
        frame = frame.f_back  # type: ignore[assignment]  # None at the bottom, and the loop ends
    return False


def _arrive(handle: Handle) -> Reservation | FailedArrival:
    """Unpickles a reservation. A refusal is raised, or, in the loop of a pool, kept until the task uses it: only
    there does it reach the one who sent the task."""
    try:
        return handle.attach()
    except (AddressSpaceError, OSError) as error:
        if in_pool_loop():
            return FailedArrival(error)
        raise


def _reduce(reservation: Reservation) -> Any:
    return _arrive, (Handle.of(reservation),)


copyreg.pickle(Reservation, _reduce)
