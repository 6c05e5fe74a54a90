"""Which blocks of all slices live in this process: bookkeeping, in C (native/strips.h). Exchanges nothing, and
touches no block.

A block's slice has an owner, whose arena hands the address out. Its contents live at one rank, or as copies at
several; each of them frees its own. The address can be handed out again when all have: who frees the contents of
another's block keeps a note, which its owner gets with the next collective call.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

from stead import _native
from stead.backing import Anonymous
from stead.claiming import reserve
from stead.errors import NotLive, Obstacle, Occupied
from stead.ranges import Range, align_up
from stead.securing import PAGE

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from stead.arena.arena import Arena
    from stead.reservation import Reservation

# Two bits for each 16 bytes, of which most are never touched.
_BITS = Anonymous(overcommit=True)
_STRIP = 3  # numbers: start, size, count


class Cargo(NamedTuple):
    """Blocks that move together. ``strips``: by address; ``size``: bytes; ``runs``: what they fill, by address."""

    strips: bytes
    blocks: int
    size: int
    runs: bytes

    @classmethod
    def of(cls, strips: bytes) -> Cargo:
        return cls(strips, *_native.strips_facts(strips))


class Notes(NamedTuple):
    """For an owner: of which of its blocks contents were freed here, and which were copied from here (strips)."""

    freed: bytes
    copied: bytes


class Residents:
    """The part of one rank. ``slices``: from the first one's start to the last one's end; not safe from several
    threads at once."""

    def __init__(self, slices: Range, ranks: int, rank: int, arena: Arena) -> None:
        self.slices, self.ranks, self.rank = slices, ranks, rank
        self._slice = slices.size // ranks
        self._book = _native.Book(slices.start, self._slice, ranks, rank, arena)
        self._tables: dict[int, Reservation] = {}  # by owner; of copies, by the number of ranks
        self._freed: dict[int, array[int]] = {}
        self._copied: dict[int, list[bytes]] = {}
        # Now, since where they are needed nothing may be refused any more.
        self._need(rank)
        self._need_copies()

    # ---- what is where ----

    def slice_of(self, owner: int) -> Range:
        return Range.sized(self.slices.start + owner * self._slice, self._slice)

    def owner_of(self, address: int) -> int | None:
        """Whose slice it is in; None: nobody's."""
        number = (address - self.slices.start) // self._slice
        return number if 0 <= number < self.ranks else None

    def size_of(self, address: int) -> int | None:
        """Bytes of the block that lives here and begins at this address; None where there is none."""
        code, size = self._book.find(address)
        return size if code == _native.ARENA_DONE else None

    def why_not(self, address: int) -> NotLive:
        """Why there is no block here that begins at this address."""
        code, owner = self._book.find(address)[0], self.owner_of(address)
        if owner is None:
            said = f"is in none of the slices, {self.slices}"
        elif code == _native.BOOK_AWAY:
            said = "is that of a block of ours that lives at another rank"
        elif code == _native.ARENA_INTERIOR:
            said = "is inside a block, not at its start"
        elif owner == self.rank:
            said = "is that of no live block"
        else:
            said = f"is in the slice of rank {owner}, and no block lives here that begins there"
        return NotLive(f"address is {address:#x}, which {said}", address=address)

    def cargo(self, addresses: Any) -> Cargo:
        """The blocks that begin at these addresses (unsigned 64-bit, a buffer). Raises NotLive, ValueError."""
        found = self._book.strips(addresses)
        if isinstance(found, bytes):
            return Cargo.of(found)
        code, refused = found
        if code == _native.BOOK_TWICE:
            raise ValueError(f"blocks has {refused:#x} more than once")
        raise self.why_not(refused)

    def by_owner(self, strips: bytes) -> list[tuple[int, bytes]]:
        """The strips in the slice of each owner."""
        numbers = memoryview(strips).cast("Q")
        starts = numbers[::_STRIP]
        found, at = [], 0
        while at < len(starts):
            owner = self.owner_of(starts[at])
            if owner is None:
                raise ValueError(f"a strip at {starts[at]:#x}, in none of the slices, {self.slices}")
            stop = bisect_left(starts, self.slice_of(owner).stop, at)
            found.append((owner, bytes(numbers[at * _STRIP : stop * _STRIP])))
            at = stop
        return found

    # ---- coming and going ----

    def check_room(self, strips: bytes) -> None:
        """These blocks can come: nothing later on will be refused. Raises Occupied where one is here already,
        LimitReached."""
        for owner, part in self.by_owner(strips):
            self._need(owner)
            here = self._book.first_out if owner == self.rank else self._book.first_in
            if clash := here(owner, part):
                where = Range.sized(clash, self.size_of(clash) or PAGE)
                raise Occupied(where, Obstacle(where, "the same block", f"rank {self.rank}"))

    def came(self, strips: bytes) -> None:
        for owner, part in self.by_owner(strips):
            (self._book.drop if owner == self.rank else self._book.add)(owner, part)

    def went(self, strips: bytes) -> None:
        for owner, part in self.by_owner(strips):
            (self._book.add if owner == self.rank else self._book.drop)(owner, part)

    def were_copied(self, strips: bytes) -> None:
        """Another rank has them, too."""
        for owner, part in self.by_owner(strips):
            if owner == self.rank:
                self._count(part)
            else:
                self._copied.setdefault(owner, []).append(part)

    def free(self, address: int) -> int:
        """The contents of a block here end: its size. Raises NotLive."""
        owner = self.owner_of(address)
        code, size = self._book.free(address)
        if code != _native.ARENA_DONE:
            raise self.why_not(address)
        if owner is not None and owner != self.rank:
            self._freed.setdefault(owner, array("Q")).append(address)
        return size

    # ---- notes ----

    def notes(self) -> dict[int, Notes]:
        """For each owner who has to be told something, until :meth:`forget_notes`."""
        owners = self._freed.keys() | self._copied.keys()
        return {
            owner: Notes(self._freed.get(owner, array("Q")).tobytes(), b"".join(self._copied.get(owner, ())))
            for owner in owners
        }

    def forget_notes(self) -> None:
        """They have been delivered."""
        self._freed, self._copied = {}, {}

    def heed_notes(self, notes: Iterable[Notes]) -> int:
        """What others have told us of our blocks, all of it: how many addresses can be handed out again."""
        told = list(notes)
        # All copies before any end of one, or a block would look as if nobody had it.
        for each in told:
            if each.copied:
                self._count(each.copied)
        freed = 0
        for each in told:
            if each.freed:
                again, wrong = self._book.freed(each.freed)
                freed += again
                assert not wrong, f"{wrong} blocks were freed elsewhere that are none of ours"
        return freed

    def _count(self, strips: bytes) -> None:
        code, refused = self._book.copied(strips)
        # There are fewer ranks than can be counted, and each has one copy at most.
        assert code == _native.ARENA_DONE, f"copies of {refused:#x}, {code}"

    # ---- pages ----

    def pages_left(self, strips: bytes) -> list[tuple[int, list[Range]]]:
        """By owner, whole pages in which nothing lives here any more, after these blocks have gone."""
        found = []
        for owner, part in self.by_owner(strips):
            runs = Cargo.of(part).runs
            if owner == self.rank:  # of what lives in the pages at its edges the arena alone knows
                found.append((owner, pieces(_native.runs_pages(runs, PAGE, False))))
            else:
                touched = pieces(_native.runs_pages(runs, PAGE, True))
                found.append((owner, [page for each in touched for page in self.vacant(owner, each)]))
        return found

    def vacant(self, owner: int, where: Range) -> list[Range]:
        """Pages of ``where``, none of which is in the middle of a block, in which nothing lives here."""
        return pieces(self._book.vacant(owner, where.start, where.stop, PAGE))

    # ---- tables ----

    def _need(self, owner: int) -> None:
        """Memory for the set of an owner."""
        if owner not in self._tables:
            self._lay(owner, self._book._needs(self._slice)[0])
            self._book._lay(owner, self._tables[owner].address)

    def _need_copies(self) -> None:
        self._lay(self.ranks, self._book._needs(self._slice)[1])
        self._book._lay_copies(self._tables[self.ranks].address)

    def _lay(self, key: int, size: int) -> None:
        table = reserve(align_up(size, PAGE))
        try:
            table.commit(backing=_BITS)
        except BaseException:
            table.release()
            raise
        self._tables[key] = table

    def tables(self) -> dict[int, Range]:
        """The memory of the sets, by owner, and under the number of ranks that of the copies."""
        return {key: table.range for key, table in self._tables.items()}

    def need_tables(self, keys: Iterable[int]) -> dict[int, Range]:
        """The same, after those of these keys were made. Raises LimitReached."""
        for key in keys:
            if key != self.ranks:
                self._need(key)
        return self.tables()

    def close(self) -> None:
        for table in self._tables.values():
            table.release()
        self._tables = {}


def pieces(packed: bytes) -> list[Range]:
    """What the core calls pieces: (start, size)."""
    numbers = memoryview(packed).cast("Q")
    return [Range.sized(start, size) for start, size in zip(numbers[::2], numbers[1::2], strict=True)]
