"""What can be behind a range of a device space: memory of a device, memory of the host that devices reach, and
what another process exported."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, SupportsIndex

from stead.devices.driver import DriverError, Location, Meaning
from stead.door import TOKEN
from stead.errors import LimitReached, Unsupported
from stead.ranges import align_up
from stead.sizes import format_size, parse_int, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stead.devices.driver import Driver


class Physical:
    """Physical memory in equal pieces, each a handle of the driver's: all of them, or none. What is not released
    goes with the last reference. It is the source of a part of a reservation, which has no file."""

    fd, offset = -1, 0

    def __init__(
        self, driver: Driver, location: Location, piece: int, handles: Sequence[int], who: tuple[Location, ...],
        shareable: bool,
    ) -> None:  # fmt: skip
        self.driver, self.location, self.piece, self.shareable, self.who = driver, location, piece, shareable, who
        self.handles: dict[int, int] = dict(enumerate(handles))
        self.exported: dict[int, Exported] = {}  # pieces that other processes may have

    def __del__(self, at_exit: Callable[[], bool] = sys.is_finalizing) -> None:
        # At exit the driver ends with the process, and takes everything with it.
        if self.handles and not at_exit():
            _release_all(self.driver, self.handles)

    @property
    def granularity(self) -> int:
        """Bytes: it can be cut there."""
        return self.piece

    @property
    def size(self) -> int:
        """Bytes that are held."""
        return len(self.handles) * self.piece

    def export(self, number: int) -> Exported:
        """A piece for other processes. Raises DriverError."""
        if number not in self.exported:
            self.exported[number] = Exported(self.driver.export(self.handles[number]), os.urandom(TOKEN))
        return self.exported[number]

    def release(self, first: int, count: int) -> None:
        """Let go of so many pieces. What is mapped of them stays until it is unmapped."""
        for number in range(first, first + count):
            self.driver.release(self.handles[number])
            del self.handles[number]
            self.exported.pop(number, None)


class Exported:
    """A descriptor that stands for memory, and the token by which a door lends it. Closed with the last
    reference."""

    def __init__(self, fd: int, token: bytes) -> None:
        self.fd, self.token = fd, token

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.fd)


def _release_all(driver: Driver, handles: dict[int, int]) -> None:
    while handles:
        _, handle = handles.popitem()
        try:
            driver.release(handle)
        except (DriverError, Unsupported):
            return  # the driver is going down, or a forked child has no say in it


class DeviceBacking:
    """Backings that a device's driver makes. Subclasses are dataclasses with ``location`` and ``who``."""

    __slots__ = ()

    piece: int | None
    shareable: bool

    @property
    def location(self) -> Location:
        raise NotImplementedError

    @property
    def who(self) -> tuple[Location, ...]:
        """Who may access it."""
        raise NotImplementedError

    def discard(self, source: Physical, size: int) -> int | None:
        raise Unsupported("discarding a device's memory", "memory whose pages the host's kernel drops", repr(self))

    def secure(self, driver: Driver, size: int) -> Physical:
        """Create ``size`` bytes, rounded up to whole pieces. Raises LimitReached, Unsupported, ValueError."""
        where = self.location
        granule = driver.granularity(where)
        piece = align_up(size, granule) if self.piece is None else self.piece
        if piece % granule:
            raise ValueError(f"piece is {piece}, must be a multiple of {format_size(granule)} for {where}")
        handles = create(driver, -(-size // piece), piece, where, self.shareable)
        return Physical(driver, where, piece, handles, self.who, self.shareable)


def create(driver: Driver, count: int, piece: int, where: Location, shareable: bool) -> list[int]:
    """The handles of so many new pieces, or none. Raises LimitReached, Unsupported, DriverError."""
    return collect(driver, count, lambda _: driver.create(piece, where, shareable=shareable), piece, where)


def collect(driver: Driver, count: int, make: Callable[[int], int], piece: int, where: object) -> list[int]:
    """So many handles, or none and the reason why; ``where``: for people."""
    handles: list[int] = []
    try:
        for number in range(count):
            handles.append(make(number))
    except BaseException as error:
        _release_all(driver, dict(enumerate(handles)))
        if isinstance(error, DriverError):
            raise refused(error, f"{format_size(count * piece)} of {where}") from error
        raise
    return handles


def refused(error: DriverError, what: str) -> Exception:
    """What a driver's refusal is for those who asked for ``what``."""
    if error.meaning is Meaning.OUT_OF_MEMORY:
        return LimitReached(f"{what} cannot be had: {error}", "device memory")
    if error.meaning is Meaning.UNSUPPORTED:
        return Unsupported(what, "a driver and a device that can", str(error))
    return error


@dataclass(frozen=True, slots=True)
class DeviceMemory(DeviceBacking):
    """Memory of device number ``device``; its contents are undefined.

    ``accessible_from``: numbers of other devices that may use it, too. ``piece``: how much of it is one
    allocation of the driver's, in bytes or text: only whole ones can be decommitted; by default each commit is
    one. ``shareable``: other processes can be given it. ValueError and TypeError name the argument.
    """

    device: int = 0
    accessible_from: tuple[int, ...] = ()
    piece: int | None = None
    shareable: bool = False

    def __init__(
        self,
        device: SupportsIndex = 0,
        *,
        accessible_from: Sequence[int] = (),
        piece: SupportsIndex | str | None = None,
        shareable: bool = False,
    ) -> None:
        set_once = object.__setattr__
        set_once(self, "device", device_number(device, "device"))
        numbers = [device_number(each, "accessible_from") for each in accessible_from]
        set_once(self, "accessible_from", tuple(numbers))
        set_once(self, "piece", _parse_piece(piece))
        set_once(self, "shareable", bool(shareable))

    @property
    def location(self) -> Location:
        return locations(self.device)[0]

    @property
    def who(self) -> tuple[Location, ...]:
        return locations(self.device, *self.accessible_from)


@dataclass(frozen=True, slots=True)
class HostMemory(DeviceBacking):
    """Memory of the host, made by a device's driver: it is zero, and has one address for the host and for
    ``devices``. ``numa``: the node that it is on, by default the first. The rest is as for DeviceMemory."""

    devices: tuple[int, ...] = (0,)
    numa: int = 0
    piece: int | None = None
    shareable: bool = False

    def __init__(
        self,
        devices: Sequence[int] = (0,),
        *,
        numa: SupportsIndex = 0,
        piece: SupportsIndex | str | None = None,
        shareable: bool = False,
    ) -> None:
        set_once = object.__setattr__
        set_once(self, "devices", tuple(device_number(each, "devices") for each in devices))
        set_once(self, "numa", device_number(numa, "numa"))
        set_once(self, "piece", _parse_piece(piece))
        set_once(self, "shareable", bool(shareable))

    @property
    def location(self) -> Location:
        return Location("host node", self.numa)

    @property
    def who(self) -> tuple[Location, ...]:
        return (self.location, *locations(*self.devices))


@dataclass(frozen=True, slots=True)
class Imported(DeviceBacking):
    """What another process exported, one after the other, each of ``piece`` bytes."""

    exported: tuple[Exported, ...]
    piece: int
    origin: Location
    allowed: tuple[Location, ...]
    shareable: bool = True

    @property
    def location(self) -> Location:
        return self.origin

    @property
    def who(self) -> tuple[Location, ...]:
        return self.allowed

    def secure(self, driver: Driver, size: int) -> Physical:
        exported, piece, origin = self.exported, self.piece, self.origin
        if size != len(exported) * piece:
            raise ValueError(f"size is {size}, and {len(exported)} pieces of {piece} bytes were exported")

        def adopt(number: int) -> int:
            return driver.adopt(exported[number].fd, piece, origin)

        physical = Physical(
            driver, origin, piece, collect(driver, len(exported), adopt, piece, self), self.allowed, True
        )
        physical.exported.update(enumerate(exported))
        return physical

    def __str__(self) -> str:
        return f"{self.origin} of another process"


def device_number(given: SupportsIndex, argument: str) -> int:
    """A device's number, from 0."""
    number = parse_int(given, argument)
    if number < 0:
        raise ValueError(f"{argument} is {number}, must be 0 or more")
    return number


@lru_cache
def locations(*devices: int) -> tuple[Location, ...]:
    """Each device once, in order."""
    return tuple(Location("device", each) for each in dict.fromkeys(devices))


def _parse_piece(piece: SupportsIndex | str | None) -> int | None:
    if piece is None:
        return None
    size = parse_size(piece, "piece")
    if size <= 0:
        raise ValueError(f"piece is {piece!r}, must be at least 1 byte")
    return size
