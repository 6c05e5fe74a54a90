"""Where an arena's addresses come from, and the memory behind them: a reservation, or a block of another
arena."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol
from weakref import WeakValueDictionary

from stead import _native
from stead.arena.holes import Holes
from stead.backing import ANONYMOUS, Anonymous, as_backing
from stead.devices.memory import DeviceBacking, DeviceMemory
from stead.devices.space import DeviceSpace
from stead.errors import Unsupported
from stead.ranges import Range, align_up
from stead.securing import PAGE, needed_huge_page_size, transparent_huge_pages
from stead.space.process import this_process

if TYPE_CHECKING:
    from typing import Literal

    from stead.backing import Backing
    from stead.devices.driver import Driver
    from stead.reservation import Reservation

    type_of_backing = Backing | DeviceBacking | Literal["anonymous", "shared", "none"] | None

UNIT = _native.ARENA_UNIT


class Source(Protocol):
    """``touchable``: there is memory to read and write; ``private``: a forked child has its own copy;
    ``discardable``: what MADV_DONTNEED drops reads as zeros; ``granularity``: of commits and discards, bytes."""

    where: Range
    touchable: bool
    private: bool
    discardable: bool
    granularity: int
    at_once: bool  # all of it is committed by one call

    def commit(self, offset: int, size: int) -> bool:
        """Put memory behind ``size`` bytes from ``offset``: whether it reads as zeros."""
        ...

    def discard(self, where: Range) -> bool:
        """Drop contents: whether it reads as zeros now."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


# Who hands out what, by the owner's id; one that is forgotten without close goes by itself.
_handed_out: WeakValueDictionary[int, _Sole] = WeakValueDictionary()


class _Sole:
    """The only one that hands out a reservation or a block, until close."""

    _owner: Reservation | _native.Block | None = None

    def _claim(self, owner: Reservation | _native.Block) -> None:
        if _handed_out.setdefault(id(owner), self) is not self:
            raise ValueError(f"source is {owner!r}, which another arena hands out already")
        self._owner = owner

    def close(self) -> None:
        if self._owner is not None:
            _handed_out.pop(id(self._owner), None)
            self._owner = None


class Committed(_Sole):
    """A reservation in which the arena commits."""

    touchable = True

    _backing: Backing | DeviceBacking | Literal["anonymous", "shared"]

    def __init__(
        self,
        reservation: Reservation,
        backing: Backing | DeviceBacking | Literal["anonymous", "shared"],
        own: bool,
    ) -> None:
        self.where = reservation.range
        self._reservation, self._backing, self._own = reservation, backing, own
        anonymous = isinstance(as_backing(backing, None), Anonymous)
        explicit = isinstance(backing, Anonymous) and backing.huge == "explicit"
        self.granularity = needed_huge_page_size() if explicit else reservation.space.granularity
        self.private = anonymous
        self.discardable = anonymous and not explicit
        # Anything else begins at its own offset with each commit: another commit would be the same memory again.
        self.at_once = not anonymous and backing != "shared" and not isinstance(backing, DeviceBacking)
        self._fresh = anonymous or backing == "shared"
        self._views: list[memoryview] = []
        self._claim(reservation)

    def commit(self, offset: int, size: int) -> bool:
        # The views keep the memory from being decommitted, and the reservation from being released.
        self._views.append(self._reservation.commit(offset, size, backing=self._backing))
        return self._fresh

    def discard(self, where: Range) -> bool:
        self._reservation.discard(where.start - self.where.start, where.size)
        return self._fresh

    def close(self) -> None:
        super().close()
        self._views.clear()
        if self._own:
            self._reservation.release()


class Whole(_Sole):
    """Memory that is there already: a block of another arena, or a reservation that is committed from end to
    end."""

    touchable = True
    at_once = True

    def __init__(self, owner: _native.Block | Reservation) -> None:
        start = align_up(owner.address, UNIT)
        stop = (owner.address + owner.size) // UNIT * UNIT
        if stop <= start:
            raise ValueError(
                f"source is {owner!r}, in which there is no whole page of {UNIT} bytes; "
                f"make it larger, or give it alignment={UNIT}"
            )
        self.where = Range(start, stop)
        self._view: memoryview | None
        if isinstance(owner, _native.Block):
            if owner.freed:
                raise ValueError(f"source is {owner!r}")
            outer: Source = owner.arena._source
            self._view, self._discard = memoryview(owner), outer.discard
            self.private, self.discardable, self.granularity = outer.private, outer.discardable, outer.granularity
        else:
            self._view = owner.view()
            self.private = not any(part.backing.shareable for part in owner.parts)
            self.discardable = all(isinstance(part.backing, Anonymous) for part in owner.parts)
            self.granularity = max(part.source.granularity for part in owner.parts)
            self._discard = partial(_discard, owner, self.discardable)
        if self._view.readonly:
            raise ValueError(f"source is {owner!r}, which is read-only")
        self._claim(owner)

    def commit(self, offset: int, size: int) -> bool:
        return False

    def discard(self, where: Range) -> bool:
        return self._discard(where)

    def close(self) -> None:
        super().close()
        self._view = None


def _discard(reservation: Reservation, zeros: bool, where: Range) -> bool:
    reservation.discard(where.start - reservation.address, where.size)
    return zeros


class Addresses(_Sole):
    """Addresses alone: what is behind them is the caller's business, and is never touched."""

    touchable = False
    private = True
    discardable = False
    granularity = UNIT
    at_once = True

    def __init__(self, reservation: Reservation, own: bool) -> None:
        self.where = reservation.range
        self._reservation, self._own = reservation, own
        self._claim(reservation)

    def commit(self, offset: int, size: int) -> bool:
        return False

    def discard(self, where: Range) -> bool:
        return False

    def close(self) -> None:
        super().close()
        if self._own:
            self._reservation.release()


class Within:
    """A part of a reservation whose other parts are somebody else's: memory is committed in it as the arena grows,
    and stays until whoever made this takes it back. ``backing`` None: addresses alone, as above."""

    at_once = False
    private = True
    granularity = PAGE

    def __init__(self, reservation: Reservation, where: Range, backing: Anonymous | None) -> None:
        self.where = where
        self._reservation, self._backing = reservation, backing
        self.touchable = self.discardable = backing is not None

    def commit(self, offset: int, size: int) -> bool:
        if self._backing is not None:
            at = self.where.start - self._reservation.address + offset
            self._reservation.commit(at, size, backing=self._backing)
        return True

    def discard(self, where: Range) -> bool:
        self._reservation.discard(where.start - self._reservation.address, where.size)
        return True

    def close(self) -> None:
        """The memory is not the arena's."""


class OfDevice(Committed):
    """A reservation in the space of a device's driver, in which the arena commits memory that cannot be touched
    from here."""

    touchable = False
    private = False  # a forked child has no part in it
    discardable = False
    at_once = False

    _backing: DeviceMemory

    def __init__(self, reservation: Reservation, backing: DeviceMemory, own: bool) -> None:
        self.where = reservation.range
        self._reservation, self._backing, self._own = reservation, backing, own
        self._fresh = False
        self._views = []
        self.granularity = reservation.space.granularity if backing.piece is None else backing.piece
        # Others that were given a piece would go on with it, and find the next one's blocks in it.
        self.holes = Holes(None if backing.shareable else backing.piece)
        self.driver: Driver = reservation.space.driver  # type: ignore[attr-defined]  # a DeviceSpace's
        self.device = backing.device
        self._claim(reservation)

    def commit(self, offset: int, size: int) -> bool:
        # No view is kept: the arena's blocks are addresses, and the memory may be paused. Where the reservation
        # ends before a piece does, what is left is one of its own.
        rest = 0 if self._backing.piece is None else size % self._backing.piece
        if size > rest:
            self._reservation.commit(offset, size - rest, backing=self._backing)
        if rest:
            last = DeviceMemory(
                self.device, accessible_from=self._backing.accessible_from, shareable=self._backing.shareable
            )
            self._reservation.commit(offset + size - rest, rest, backing=last)
        return False

    def drop(self, offset: int, size: int) -> None:
        """Give the memory of whole pieces back."""
        self._reservation.decommit(offset, size)


def in_reservation(reservation: Reservation, backing: type_of_backing, own: bool) -> Source:
    """The memory of a reservation: what is committed in it, or what the arena will commit.

    Raises ValueError where a part is committed and another is not, Unsupported in a space that is not this
    process."""
    reservation.check_live()
    if backing == "none":
        return Addresses(reservation, own)
    if reservation.space.identity != this_process().identity:
        raise Unsupported(
            "an arena that touches its memory", "a reservation in this process", repr(reservation.space)
        )
    if isinstance(reservation.space, DeviceSpace):
        return _of_device(reservation, backing, own)
    if not reservation.parts:
        return Committed(reservation, backing or usual(), own)
    if backing is not None:
        raise ValueError(f"backing is {backing!r}, but memory is committed in {reservation!r} already")
    if reservation.committed.size != reservation.size:
        raise ValueError(f"source is {reservation!r}: commit nothing in it, or all of it")
    return Whole(reservation)


def _of_device(reservation: Reservation, backing: type_of_backing | DeviceBacking, own: bool) -> Source:
    chosen = backing or reservation.space.usual or DeviceMemory()
    if reservation.parts:
        raise ValueError(f"source is {reservation!r}: commit nothing in it, the arena does as it grows")
    if isinstance(chosen, DeviceMemory):
        return OfDevice(reservation, chosen, own)
    return Committed(reservation, chosen, own)  # type: ignore[arg-type]  # 'none' has gone before


def usual() -> Anonymous:
    """Anonymous memory, in huge pages where a program may ask for them: blocks lie close together."""
    try:
        transparent_huge_pages("enabled")
    except Unsupported:
        return ANONYMOUS
    return Anonymous(huge="transparent")
