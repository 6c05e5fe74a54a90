"""Bytes of a device's memory on their way to another process, where they have the same address: the reservation
that they lie in, and where. For the reducers of other libraries."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stead import ledger
from stead.devices.space import DeviceSpace
from stead.handle import Handle
from stead.ranges import Range
from stead.reservation import Reservation

if TYPE_CHECKING:
    from stead.devices.view import DeviceView


@dataclass(frozen=True, slots=True)
class SentBytes:
    """``size`` bytes at ``address``. Who sends them keeps them as long as others use them: nobody is counted."""

    handle: Handle
    address: int
    size: int

    @classmethod
    def of(cls, address: int, size: int) -> SentBytes | None:
        """None where that is not a device's memory in one reservation. Raises Unsupported where it was not made
        with ``shareable=True``, Paused, DriverError."""
        if size <= 0:
            return None
        where = Range.sized(address, size)
        for held in ledger.within(where):
            if (
                isinstance(held, Reservation)
                and isinstance(held.space, DeviceSpace)
                and held.range.contains(where)
            ):
                mapped = [each for each in held.space.mapped(held.range) if each.range.overlaps(where)]
                if any(each.physical.location.kind != "device" for each in mapped):
                    return None
                handle = Handle.of(held)
                parts = tuple(part for part in handle.parts if part.range.overlaps(where))
                return cls(replace(handle, parts=parts), address, size)
        return None

    def arrive(self) -> DeviceView:
        """Them, in this process; the reservation stays as long as the view. Raises what
        :meth:`stead.Handle.attach` raises."""
        reservation = self.handle.attach()
        view: DeviceView = reservation.view(self.address - reservation.address, self.size)  # type: ignore[assignment]
        return view
