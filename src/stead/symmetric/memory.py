"""The memory of a symmetric heap in this process: this rank's own, at the addresses that all ranks hold, and,
mapped elsewhere, that of the ranks on the same host.

Own memory is one memfd of the heap's full length of which nothing is allocated at first; pages are allocated
(secured) as the plan needs them, and given back as holes.
"""

from __future__ import annotations

import os
import pickle
import weakref
from typing import TYPE_CHECKING

from stead.backing import Sparse
from stead.claiming import reserve
from stead.descriptors import describe, open_descriptor
from stead.errors import AddressSpaceError, PeerFailed
from stead.securing import PUNCH_HOLE, allocate, extend, sparse_memory
from stead.snapshot import SHARED_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stead.descriptors import Descriptor
    from stead.peers import Mpi
    from stead.ranges import Range
    from stead.reservation import Reservation
    from stead.symmetric.voting import Voting

# So that a block can be aligned to the size of the heap.
LARGEST_ALIGNMENT = 1 << 40


class SymmetricMemory:
    """Owns the reservation, whose first ``size`` bytes are the heap's, and the descriptor. ``neighbours``: the
    memory of other ranks on this host, by rank."""

    def __init__(self, held: Reservation, size: int, name: str) -> None:
        """Puts a new memfd behind the heap. Raises LimitReached, OSError."""
        self.held, self.size, self.name = held, size, name
        self.neighbours: dict[int, Reservation] = {}
        self.fd = sparse_memory(SHARED_PREFIX + name, size)
        self._close = weakref.finalize(self, os.close, self.fd)
        self._close.atexit = False
        held.commit(0, size, backing=Sparse(self.fd))

    @property
    def address(self) -> int:
        return self.held.address

    def secure(self, pages: Iterable[Range]) -> list[Range]:
        """Allocate all of the pages (offsets), or none: the same pages. Raises LimitReached, OSError."""
        done: list[Range] = []
        try:
            for each in pages:
                extend(self.fd, each.start, each.stop, self.address)
                done.append(each)
        except BaseException:
            self.give_back(done)
            raise
        return done

    def give_back(self, pages: Iterable[Range]) -> None:
        """Let go of what is in the pages (offsets); they read as zeros, for everyone. Raises OSError."""
        for each in pages:
            allocate(self.fd, PUNCH_HOLE, each.start, each.size, _no_hole)

    def base(self, rank: int, me: int) -> int:
        """Where the memory of a rank is in this process; 0: nowhere."""
        held = self.held if rank == me else self.neighbours.get(rank)
        return 0 if held is None else held.address

    def meet(self, voting: Voting) -> bool:
        """Map the memory of all ranks on this host, as far as it can be had: whether each rank has that of every
        other.

        Raises PeerFailed."""
        comm = voting.comm
        try:
            told = pickle.dumps(describe(self.fd))
        except OSError:
            told = b""  # then nobody can open it, and all are told so
        for rank, each in enumerate(voting.gather(told)):
            if rank != comm.rank and each:
                self._map(rank, pickle.loads(each))
        # The descriptor of each stays open until all have had their look; and all hear whether anyone misses
        # anyone.
        complete = len(self.neighbours) == comm.size - 1
        return all(said == b"\1" for said in voting.gather(bytes([complete])))

    def _map(self, rank: int, sent: Descriptor) -> None:
        try:
            fd = open_descriptor(sent, writable=True, search=False)
        except (PeerFailed, OSError):
            return  # on another host, or in another container: it is reached through MPI
        try:
            if os.fstat(fd).st_size != self.size:
                return
            held = reserve(self.size, name=f"{self.name}:{rank}")
            held.commit(backing=Sparse(fd))
            self.neighbours[rank] = held
        except (AddressSpaceError, OSError):
            return  # no room for it here (RLIMIT_AS): through MPI as well
        finally:
            os.close(fd)

    def check_unused(self) -> None:
        """Raises BufferError where a view is live."""
        for each in (self.held, *self.neighbours.values()):
            each._check_no_views(each.range, "close")

    def release(self) -> None:
        """Give all of it back. Raises BufferError where a view is live."""
        self.check_unused()
        for each in (*self.neighbours.values(), self.held):
            each.release()
        self._close()


def create(
    size: int, name: str | None, exchange: Mpi, voting: Voting, more: int = 0, at: int | None = None
) -> SymmetricMemory:
    """Hold ``size`` bytes of addresses at all ranks, with memory behind them, or at none (collective); and
    ``more`` without. ``at``: exactly there.

    Raises what :func:`stead.reserve` does, LimitReached, OSError."""
    align = min(1 << (size.bit_length() - 1), LARGEST_ALIGNMENT)
    if at is None:
        held = reserve(size + more, align=align, name=name, together=exchange)
    else:
        held = voting.together(
            "claiming its addresses",
            lambda: reserve(size + more, at=at, name=name),
            lambda made: made.release(),
        )
    try:
        return voting.together(
            "mapping its memory", lambda: SymmetricMemory(held, size, name or "symmetric"), lambda made: None
        )
    except BaseException:
        held.release()
        raise


def _no_hole(number: int) -> Exception:
    return OSError(number, f"memory of a symmetric heap cannot be given back: {os.strerror(number)}")
