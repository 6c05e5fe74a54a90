"""Slices: each rank allocates in a part of one range that all ranks hold, and blocks move between ranks at their
addresses."""

from __future__ import annotations

import os
from array import array
from base64 import b64decode, b64encode
from contextlib import suppress
from threading import RLock
from typing import TYPE_CHECKING, Any, SupportsIndex

from stead.arena import image
from stead.arena.arena import Arena
from stead.arena.sources import Within, usual
from stead.claiming import reserve
from stead.errors import Obstacle, Occupied, PeersDisagree, Released
from stead.ranges import Range, RangeSet, align_down, align_up
from stead.reservation import Reservation
from stead.securing import PAGE
from stead.sizes import parse_address, parse_at_least, parse_int
from stead.symmetric.group import Group
from stead.symmetric.image import Segment
from stead.symmetric.migration import Arrival, Migration, Wish
from stead.symmetric.pages import Pages
from stead.symmetric.residents import Cargo, Residents, pieces
from stead.symmetric.saving import find, save, saved_facts

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from typing import Self

    from mpi4py import MPI

    from stead.arena import ArenaStatistics
    from stead.symmetric.image import Save

_MOST_RANKS = 1 << 16  # copies are counted in 16 bits
_NOBODY = Cargo(b"", 0, 0, b"")


class Slices:
    """One slice for each rank of ``comm``, of ``slice_size`` bytes, side by side from ``offset`` on (both whole
    pages), in a reservation that all ranks hold at the same address; collective. Nothing else is committed there.

    A block's address is nobody else's at any rank, wherever it was allocated: a structure with raw pointers works
    at every rank it is moved to. Its contents live at one rank, or as copies at several: each frees its own, and
    the address is handed out again, by the rank that allocated it, when all have.

    ``migrate`` and ``collect`` are collective: every rank calls them, in the same order. ``timeout``: seconds that
    they wait for the slowest. After PeerFailed because a rank went away they are of no further use; all that
    lives here stays usable.

    Threads: every method is safe; blocks must not be freed by one thread while another one moves them.

    Raises ValueError, TypeError, Occupied, LimitReached, PeersDisagree; PeerFailed where another rank could not.
    """

    allocate: Callable[..., int]
    """``allocate(size, alignment=16)``: the address of so many bytes in this rank's slice, as of
    :meth:`stead.Arena.allocate`. Raises OutOfSpace, ValueError, TypeError, Released."""

    def __init__(
        self,
        reservation: Reservation,
        offset: SupportsIndex | str,
        slice_size: SupportsIndex | str,
        comm: MPI.Intracomm,
        *,
        timeout: float = 30.0,
    ) -> None:
        self._group = Group(comm, timeout)
        self._lock = RLock()
        self._mixed = False  # blocks of ours live elsewhere, or others' here
        self._closed = False
        wrong: BaseException | None = None
        where = Range(0, 1)
        try:
            where = _slices(reservation, offset, slice_size, self._group.size)
            self._build(reservation, where)
        except BaseException as error:
            wrong = error
        try:
            self._group.vote(wrong, "make its slice")
            said = self._group.gather([where.start, where.size])
            for rank, (start, size) in enumerate(said):
                if [start, size] != said[0]:
                    one, other = Range.sized(*said[0]), Range.sized(start, size)
                    raise PeersDisagree(f"the slices are {one} for rank 0, and {other} for rank {rank}")
        except BaseException:
            self._tear_down()
            raise

    def _build(self, reservation: Reservation, where: Range) -> None:
        ranks, rank = self._group.size, self._group.rank
        own = Range.sized(where.start + rank * (where.size // ranks), where.size // ranks)
        self._reservation = reservation
        self._arena = Arena(Within(reservation, own, usual()), name=reservation.name)
        self._residents = Residents(where, ranks, rank, self._arena)
        self._pages = Pages(reservation, self._residents)
        self.allocate = self._arena.allocate

    # ---- what is where ----

    @property
    def rank(self) -> int:
        """Of this process."""
        return self._group.rank

    @property
    def reservation(self) -> Reservation:
        """In which the slices are."""
        return self._reservation

    @property
    def range(self) -> Range:
        """All slices."""
        return self._live().slices

    def slice_of(self, rank: int) -> Range:
        """The addresses that a rank hands out. Raises ValueError where there is no such rank."""
        return self._live().slice_of(self._rank(rank, "rank"))

    def owner_of(self, address: SupportsIndex) -> int:
        """The rank in whose slice an address is. Raises NotLive where it is in none."""
        at = parse_address(address)
        owner = self._live().owner_of(at)
        if owner is None:
            raise self._residents.why_not(at)
        return owner

    def lives_here(self, address: SupportsIndex) -> bool:
        """Whether a block that begins at ``address`` has contents at this rank."""
        at = parse_address(address)
        with self._lock:
            return self._live().size_of(at) is not None

    def size_of(self, address: SupportsIndex) -> int:
        """Bytes that can be used at the address of a block that lives here: as many as were asked for, or more.
        Raises NotLive."""
        at = parse_address(address)
        with self._lock:
            size = self._live().size_of(at)
            if size is None:
                raise self._residents.why_not(at)
            return size

    def view(self, address: SupportsIndex, size: SupportsIndex | str | None = None) -> memoryview:
        """The first ``size`` bytes of a block that lives here, by default all. While it is alive the block can be
        copied, but not moved or freed (BufferError). Raises NotLive, ValueError."""
        with self._lock:
            room = self.size_of(address)
            wanted = room if size is None else parse_at_least(size, "size", 1)
            if wanted > room:
                raise ValueError(f"size is {size!r}, and the block at {address:#x} has {room} bytes")
            return self._reservation.view(parse_address(address) - self._reservation.address, wanted)

    def statistics(self) -> ArenaStatistics:
        """Of this rank's slice: a block of it counts until its address can be handed out again."""
        self._live()
        return self._arena.statistics()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self._residents.slices}"
        return f"<Slices of {self._group.size} ranks, {state}>"

    # ---- freeing ----

    def free(self, address: SupportsIndex) -> None:
        """End the contents of a block that live here; at other ranks nothing changes. Its address is handed out
        again when it has contents nowhere any more, and its owner has learnt of it: at once where it never left,
        with the next collective call otherwise.

        Raises NotLive, BufferError where a view of it is alive; nothing has changed then.
        """
        if not self._mixed and not self._reservation._leases:
            self._arena.free(address)
            return
        at = parse_address(address)
        with self._lock:
            residents = self._live()
            if self._reservation._leases:
                self._check_no_views([Range.sized(at, self.size_of(at))], "free")
            size = residents.free(at)
            owner = residents.owner_of(at)
            if owner is not None and owner != residents.rank:
                touched = Range(align_down(at, PAGE), align_up(at + size, PAGE))
                if left := residents.vacant(owner, touched):
                    self._pages.clear(owner, left)

    # ---- moving ----

    def migrate(
        self,
        blocks: Iterable[SupportsIndex] | SupportsIndex | None = None,
        *,
        to: SupportsIndex | None = None,
        copy: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> list[Arrival]:
        """Move ``blocks`` that live here to rank ``to``, where they live at the same addresses from now on: what
        came here, by the rank that sent it. Collective; a rank that sends nothing gives no blocks.

        ``blocks``: an address, addresses, or, quickest, a buffer of them (an array of "Q", a NumPy array of
        uint64); those that lie side by side are sent as one. ``copy``: they stay here, too; each rank frees its
        own. ``progress(done, total)``: bytes of all ranks, called now and then. To move to oneself does nothing.

        All or none: raises NotLive, ValueError, TypeError, BufferError where a view is alive, Occupied where the
        receiver has contents of a block already, LimitReached where it has no memory, whatever ``progress``
        raises; at the other ranks PeerFailed with that reason; and PeerFailed when a rank went away. Nothing has
        moved then.
        """
        with self._lock:
            self._live()
            wish: Wish | None = None
            refusal: BaseException | None = None
            try:
                wish = self._wish(blocks, to, copy, progress)
            except BaseException as error:
                refusal = error
            arrived = Migration(self._group, self._residents, self._pages).run(wish, refusal, progress)
            self._mixed = self._mixed or bool(arrived) or bool(wish and wish.cargo.blocks)
            return arrived

    def collect(self) -> None:
        """Owners learn which of their blocks were freed elsewhere, and hand those addresses out again. Every
        ``migrate`` does that, too. Collective."""
        self.migrate()

    def _wish(self, blocks: Any, to: Any, copy: Any, progress: Any) -> Wish:
        if progress is not None and not callable(progress):
            raise TypeError(f"progress is {progress!r}, must be callable, or None")
        addresses = _addresses(blocks)
        if to is None and len(addresses):
            raise ValueError(f"to is None, must be a rank: there are {len(addresses)} blocks to be sent")
        receiver = None if to is None else self._rank(to, "to")
        cargo = self._residents.cargo(addresses)
        if receiver in (None, self.rank) or not cargo.blocks:
            return Wish(_NOBODY, None, False)
        if not copy:
            self._check_no_views(pieces(cargo.runs), "move")
        return Wish(cargo, receiver, bool(copy))

    # ---- saving ----

    def save(self, folder: str | os.PathLike[str]) -> str:
        """Save all slices, one file for each rank, in place of the older save in ``folder`` (made where there is
        none): the path of this rank's. Collective; nobody may use the slices meanwhile.

        The older save stays whole until the new one is, whoever is killed. Raises LimitReached where the disk is
        full, OSError; PeerFailed where another rank could not, or went away.
        """
        with self._lock:
            self.collect()
            self._group.begin()
            facts, segments = self.image()
            return save(self._group, os.fspath(folder), {"slices": facts}, segments)

    @classmethod
    def restore(cls, folder: str | os.PathLike[str], comm: MPI.Intracomm, *, timeout: float = 30.0) -> Slices:
        """What as many ranks saved, at the same addresses, in a reservation of its own (``reservation``, to
        be released after ``close``). Collective. Restores the newest save of which every rank has its file.

        Raises Occupied where the addresses are taken here, which says by what; UnreadableSave where the file is
        damaged, cut off or not one for this rank; LimitReached, OSError; PeerFailed where another rank could not.
        Nothing is held then.
        """
        with Group(comm, timeout) as group:
            found = find(group, os.fspath(folder))
            reservation: Reservation | None = None
            wrong: BaseException | None = None
            try:
                try:
                    facts = saved_facts(found, "slices")
                    start, size, name = facts["reservation"]
                    reservation = reserve(size, at=start, name=name)
                except BaseException as error:
                    wrong = error
                group.vote(wrong, "claim the addresses of the save")
                assert reservation
                made = cls(reservation, facts["offset"], facts["slice"], comm, timeout=timeout)
                try:
                    group.run(made.refill(found, facts, {}), "read its file")
                except BaseException:
                    made.abandon()
                    raise
            except BaseException:
                if reservation:
                    reservation.release()
                raise
            finally:
                found.close()
            return made

    def image(self) -> tuple[dict[str, Any], dict[str, Segment]]:
        """All that is to be saved of this rank: facts for JSON, and memory."""
        residents, base = self._live(), self._reservation.address
        units, header = image.quiet(self._arena)
        committed = list(self._reservation.committed.overlapping(residents.slices))
        sets = residents.tables()
        facts = {
            "reservation": [base, self._reservation.size, self._reservation.name],
            "offset": residents.slices.start - base,
            "slice": residents.slices.size // residents.ranks,
            "units": units,
            "header": b64encode(header).decode(),
            "sets": list(sets),
            "committed": [[each.start - base, each.size] for each in committed],
        }
        tables = image.tables(self._arena, units)
        segments = {"slices": Segment(base, committed)}
        segments |= {f"table {number}": Segment(each.start, [each]) for number, each in enumerate(tables)}
        return facts, segments | {f"set {key}": Segment(each.start, [each]) for key, each in sets.items()}

    def refill(self, found: Save, facts: dict[str, Any], others: dict[str, Segment]) -> Generator[None]:
        """Slices that are empty become what was saved of them; ``others``: what else is in the file. Raises
        UnreadableSave, LimitReached, Corrupted."""
        yield from found.load(others | self._prepare(facts))
        image.adopt(self._arena, b64decode(facts["header"]))
        self._mixed = True

    def _prepare(self, facts: dict[str, Any]) -> dict[str, Segment]:
        """Memory for what was saved."""
        residents, base = self._live(), self._reservation.address
        tables = image.prepare(self._arena, facts["units"])
        sets = residents.need_tables(facts["sets"])
        committed = [Range.sized(base + offset, size) for offset, size in facts["committed"]]
        for owner in range(residents.ranks):
            if owner != residents.rank:
                within = residents.slice_of(owner)
                self._pages.commit(owner, [part for each in committed if (part := each.intersection(within))])
        segments = {"slices": Segment(base, list(self._reservation.committed.overlapping(residents.slices)))}
        segments |= {f"table {number}": Segment(each.start, [each]) for number, each in enumerate(tables)}
        return segments | {f"set {key}": Segment(each.start, [each]) for key, each in sets.items()}

    # ---- the end ----

    def close(self) -> None:
        """Give the memory of all slices back at this rank; the reservation stays. Idempotent, and collective.
        Raises BufferError where a view of a block is alive."""
        with self._lock:
            if self._closed:
                return
            self._check_no_views([self._residents.slices], "close the slices of")
            self._closed = True
            self._tear_down()

    def abandon(self) -> None:
        """Close without a word to the others, who need not be on their way to close."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._tear_down(alone=True)

    def __enter__(self) -> Self:
        self._live()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except BufferError:
            if kind is None:  # else the traceback keeps views of its frames alive: do not hide it behind them
                raise

    def _tear_down(self, *, alone: bool = False) -> None:
        arena, residents = getattr(self, "_arena", None), getattr(self, "_residents", None)
        if arena is not None:
            arena.abandon()
        if residents is not None:
            where = residents.slices
            if not self._reservation.released:
                with suppress(BufferError):  # it goes with the last view
                    self._reservation.decommit(where.start - self._reservation.address, where.size)
            residents.close()
        if not alone:
            self._group.close()

    # ---- inside ----

    def _live(self) -> Residents:
        if self._closed or self._reservation.released:
            raise Released(f"{self!r}")
        return self._residents

    def _rank(self, given: Any, argument: str) -> int:
        number = parse_int(given, argument)
        if not 0 <= number < self._group.size:
            raise ValueError(f"{argument} is {given!r}, must be a rank: from 0 to {self._group.size - 1}")
        return number

    def _check_no_views(self, runs: list[Range], doing: str) -> None:
        viewed = self._reservation.viewed
        if not viewed:
            return
        moving = RangeSet(runs)
        for each in viewed:
            for part in moving.overlapping(each):
                raise BufferError(
                    f"cannot {doing} {part}: a view of it is alive; delete or release the memoryviews"
                )


def _slices(reservation: Any, offset: Any, slice_size: Any, ranks: int) -> Range:
    if not isinstance(reservation, Reservation):
        raise TypeError(f"reservation is {reservation!r}, must be a Reservation")
    reservation.check_live()
    start, size = parse_at_least(offset, "offset", 0), parse_at_least(slice_size, "slice_size", PAGE)
    for argument, given, value in (("offset", offset, start), ("slice_size", slice_size, size)):
        if value % PAGE:
            raise ValueError(f"{argument} is {given!r}, must be a multiple of the page size, {PAGE}")
    if ranks > _MOST_RANKS:
        raise ValueError(f"comm has {ranks} ranks, must have at most {_MOST_RANKS}")
    if start + size * ranks > reservation.size:
        raise ValueError(
            f"slice_size is {slice_size!r}: {ranks} of them from offset {offset!r} are more than the reservation "
            f"has, {reservation.size} bytes"
        )
    where = Range.sized(reservation.address + start, size * ranks)
    for part in reservation.committed.overlapping(where):
        raise Occupied(where, Obstacle(part, "a committed part of the reservation", "this process"))
    return where


def _addresses(blocks: Any) -> Any:
    """As a buffer of unsigned 64-bit numbers."""
    if blocks is None:
        return array("Q")
    if isinstance(blocks, SupportsIndex) and not hasattr(blocks, "__len__"):
        blocks = (blocks,)
    try:
        view = memoryview(blocks)
    except TypeError:
        try:
            return array("Q", (parse_address(each) for each in blocks))
        except TypeError as error:
            raise TypeError(f"blocks is {type(blocks).__name__}, must be addresses: {error}") from None
    if view.itemsize != 8 or view.format not in ("Q", "L", "N", "q", "l", "n", "P") or not view.c_contiguous:
        raise TypeError(
            f"blocks is a buffer of {view.format!r}, must be one of 64-bit integers, contiguous, or a list of "
            "addresses"
        )
    return view
