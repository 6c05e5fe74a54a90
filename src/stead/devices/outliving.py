"""What is mapped through Level Zero, which does not look after that itself: memory whose handle is destroyed is
gone from under its mappings, an unmapping is of the one that begins there, and access is of all devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stead.devices.driver import DriverError, Meaning
from stead.ranges import Range

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from stead.devices.driver import DeviceAccess, Location


class Mapping:
    """One handle's memory at one place. ``who`` was ever allowed what ``access`` says now."""

    def __init__(self, size: int, handle: int) -> None:
        self.size, self.handle = size, handle
        self.access: DeviceAccess = "none"
        self.who: set[Location] = set()


class Mappings:
    """By their starts. Not locked: whoever uses it is."""

    def __init__(self) -> None:
        self._all: dict[int, Mapping] = {}
        self._released: set[int] = set()

    def add(self, start: int, size: int, handle: int) -> None:
        self._all[start] = Mapping(size, handle)

    def inside(self, call: str, address: int, size: int) -> list[tuple[int, Mapping]]:
        """Those that this range is, in order; DriverError of ``call`` where it is not whole ones without a gap."""
        found = [(start, each) for start, each in sorted(self._all.items()) if address <= start < address + size]
        at = address
        for start, each in found:
            if start != at:
                break
            at += each.size
        if not found or at != address + size:
            text = f"{Range.sized(address, size)} is not whole mappings without a gap"
            raise DriverError(call, -1, "nothing", Meaning.INVALID, text)
        return found

    def released(self, handle: int) -> bool:
        """Whether the handle can be destroyed now; otherwise when :meth:`unmapped` says so. DriverError where it
        was released before."""
        if handle in self._released:
            raise DriverError("zePhysicalMemDestroy", -1, "nothing", Meaning.INVALID, "it was released before")
        if all(each.handle != handle for each in self._all.values()):
            return True
        self._released.add(handle)
        return False

    def unmapped(self, starts: Collection[int]) -> set[int]:
        """The handles to destroy."""
        handles = {self._all.pop(start).handle for start in starts}
        unused = handles & self._released - {each.handle for each in self._all.values()}
        self._released -= unused
        return unused

    @staticmethod
    def check(
        call: str, inside: Sequence[tuple[int, Mapping]], who: Collection[Location], access: DeviceAccess
    ) -> None:
        """DriverError where others, who were allowed something else, would be allowed this, too."""
        for start, each in inside:
            others = each.who.difference(who)
            if others and each.access != access:
                may = f"{', '.join(map(str, sorted(others)))} may {each.access!r}"
                text = f"{access!r} for some, where at {start:#x} {may}: there is one access for all of them"
                raise DriverError(call, -1, "nothing", Meaning.UNSUPPORTED, text)

    @staticmethod
    def allowed(inside: Sequence[tuple[int, Mapping]], who: Collection[Location], access: DeviceAccess) -> None:
        for _, each in inside:
            each.who.update(who)
            each.access = access
