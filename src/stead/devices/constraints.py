"""What a device can address, as data: a window of addresses, and what places there are multiples of.

Pure arithmetic on placements, so that a reservation obeys every device that will use it. Where the numbers come
from is not decided here: a driver says them (:meth:`DeviceConstraints.of`, :mod:`stead.devices.opencl`), or a
person does (:mod:`stead.devices.files`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

from stead.devices.driver import Location
from stead.devices.hints import followed_at
from stead.errors import NoGap, Unsupported
from stead.placement import MAX_ALIGNMENT, Placement
from stead.ranges import Range, align_up
from stead.sizes import format_size
from stead.space.process import this_process

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from os import PathLike

    from stead.devices.driver import Driver
    from stead.placement import Footprint

EVERYWHERE = Range(0, 1 << 64)


@dataclass(frozen=True, slots=True)
class DeviceConstraints:
    """What the device ``name`` asks of a range that it is to use. Sizes are in bytes.

    ``kind``: for people, such as "CUDA" or "OpenCL". ``window``: the addresses that it reaches. ``granularity``:
    what places and sizes are multiples of. ``alignment``: what places are multiples of beyond that. Both are
    powers of two up to 1 TiB. ``source``: who says so. ``note``: for people.

    Raises TypeError or ValueError that names the field and the value.
    """

    name: str
    kind: str
    window: Range = EVERYWHERE
    granularity: int = 1
    alignment: int = 1
    source: str = "given by hand"
    note: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            wanted = {"window": Range, "granularity": int, "alignment": int}.get(field.name, str)
            if not isinstance(value, wanted) or isinstance(value, bool):
                raise TypeError(f"{field.name} is {value!r}, must be of type {wanted.__name__}")
        if not self.name:
            raise ValueError("name is '', must say which device it is")
        if not 0 <= self.window.start < self.window.stop <= EVERYWHERE.stop:
            raise ValueError(f"window is {tuple(self.window)}, must be addresses between 0 and 2**64, and some")
        for name, value in (("granularity", self.granularity), ("alignment", self.alignment)):
            if value <= 0 or value & (value - 1) or value > MAX_ALIGNMENT:
                raise ValueError(f"{name} is {value:#x}, must be a power of two up to 1 TiB")

    @staticmethod
    def read(path: str | PathLike[str]) -> tuple[DeviceConstraints, ...]:
        """Those that a TOML file lists: :func:`stead.devices.files.read`."""
        from stead.devices.files import read

        return read(path)

    @classmethod
    def of(cls, driver: Driver, number: int) -> DeviceConstraints:
        """Those of a driver's device, for memory that it maps itself. A device that shares the addresses of its
        process reaches all of them; its driver maps in multiples of the granularity, and recommends an alignment
        or follows hints at that alone.

        Raises ValueError where there is no such device, Unsupported where it has addresses of its own,
        DriverError.
        """
        devices = {each.number: each for each in driver.devices()}
        if (facts := devices.get(number)) is None:
            there = ", ".join(map(str, devices)) or "none at all"
            raise ValueError(f"number is {number!r}, must be that of a device of {driver.name}: {there}")
        if not facts.unified:
            raise Unsupported(
                f"one range for this process and {driver.name} device {number}",
                "unified addressing: a device that uses the addresses of its process",
                f"{facts.name}, which has addresses of its own",
            )
        here = Location("device", number)
        granularity = driver.granularity(here)
        followed = followed_at(driver, granularity, this_process().windows[0]) if facts.manages_addresses else 1
        return cls(
            f"{driver.name.lower().replace(' ', '-')}:{number}",
            driver.name,
            EVERYWHERE,
            granularity,
            max(driver.granularity(here, recommended=True), followed),
            f"the {driver.name} driver, of {facts.name}",
        )

    def __and__(self, other: DeviceConstraints) -> DeviceConstraints:
        """What obeys both: the addresses that both reach, the larger granularity and alignment. Associative.

        Raises NoGap where there is no address that both reach."""
        window = self.window.intersection(other.window)
        if window is None:
            raise _apart(self, other, None)
        return DeviceConstraints(
            f"{self.name} and {other.name}",
            _joined(self.kind, other.kind),
            window,
            max(self.granularity, other.granularity),
            max(self.alignment, other.alignment),
            _joined(self.source, other.source),
            _joined(self.note, other.note),
        )

    def narrow(self, wanted: Placement) -> Placement | None:
        """``wanted`` as this device lets it be: in its window, a multiple of its granularity, aligned. None where
        it reaches no address of the window."""
        window = wanted.within.intersection(self.window)
        if window is None:
            return None
        return replace(
            wanted,
            size=align_up(wanted.size, self.granularity),
            within=window,
            alignment=max(wanted.alignment, self.granularity, self.alignment),
        )

    @property
    def reach(self) -> str:
        """The window in words: "32 bits of addresses", or from where to where."""
        bits = (self.window.stop - 1).bit_length()
        if self.window == Range(0, 1 << bits):
            return f"{bits} bits of addresses"
        return str(self.window)

    def __str__(self) -> str:
        text = f"device {self.name!r} reaches {self.reach}"
        if self.granularity > 1:
            text += f", in multiples of {format_size(self.granularity)}"
        if self.alignment > self.granularity:
            text += f", aligned to {format_size(self.alignment)}"
        return f"{text} ({self.source})"


def bits(number: int) -> Range:
    """The window of a device that has so many bits of addresses. Raises TypeError or ValueError that names
    them."""
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"address-bits is {number!r}, must be an int")
    if not 1 <= number <= 64:
        raise ValueError(f"address-bits is {number}, must be from 1 to 64")
    return Range(0, 1 << number)


class Step(NamedTuple):
    """What is left of a placement when ``device``, and those before it, have had their say: ``left``, or None
    where no address is."""

    device: DeviceConstraints
    left: Placement | None


def narrow(wanted: Placement, devices: Iterable[DeviceConstraints]) -> tuple[Step, ...]:
    """One device after the other. What is left in the end does not depend on their order."""
    steps = []
    left: Placement | None = wanted
    for device in devices:
        left = device.narrow(left) if left else None
        steps.append(Step(device, left))
    return tuple(steps)


def constrain(wanted: Sequence[Placement], devices: Sequence[DeviceConstraints]) -> tuple[Placement, ...]:
    """Placements to try in this order, as all devices let them be; those that a device does not reach are left
    out.

    Raises NoGap that names the devices where none is left."""
    if not devices:
        return tuple(wanted)
    last = [narrow(each, devices)[-1].left for each in wanted]
    kept = tuple(each for each in last if each)
    if not kept:
        raise unreachable(wanted[-1], devices)
    return kept


def unreachable(wanted: Placement, devices: Sequence[DeviceConstraints]) -> NoGap:
    """Why :func:`narrow` leaves nothing of ``wanted``. Intervals that share no point include two that share none
    (Helly), so that there always are two to name."""
    for one, other in combinations(devices, 2):
        if not one.window.overlaps(other.window):
            return _apart(one, other, wanted)
    outside = next(each for each in devices if not each.window.overlaps(wanted.within))
    return NoGap(
        f"no room for {wanted}: {outside}, and that is all outside of this window", wanted=wanted, largest=None
    )


def guilty(
    wanted: Placement, devices: Sequence[DeviceConstraints], seen: Footprint
) -> tuple[DeviceConstraints, ...]:
    """Which devices keep ``wanted``, as it was before any was heard, from the gaps of ``seen``: each one without
    which there would be room; where only several together do, all that narrow it; none where there is room, or
    would be none anyway."""

    def fits(some: Sequence[DeviceConstraints]) -> bool:
        left = narrow(wanted, some)[-1].left if some else wanted
        return left is not None and bool(left.slots(seen).total)

    if fits(devices) or not fits(()):
        return ()
    alone = tuple(each for each in devices if fits([other for other in devices if other is not each]))
    return alone or tuple(each for each in devices if each.narrow(wanted) != wanted)


def blamed(error: NoGap, wanted: Placement, devices: Sequence[DeviceConstraints], seen: Footprint) -> NoGap:
    """``error``, which names also those that are :func:`guilty`."""
    if not (names := guilty(wanted, devices, seen)):
        return error
    said = "; ".join(map(str, names))
    return NoGap(f"{error}; {said}", wanted=error.wanted, largest=error.largest)


def _apart(one: DeviceConstraints, other: DeviceConstraints, wanted: Placement | None) -> NoGap:
    return NoGap(f"no address is within reach of both: {one}; {other}", wanted=wanted, largest=None)


def _joined(one: str, other: str) -> str:
    """Both texts; associative, and without repeats."""
    parts = dict.fromkeys(part for text in (one, other) for part in text.split("; ") if part)
    return "; ".join(parts)
