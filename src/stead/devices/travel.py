"""A device's memory on its way to another process of the same user: by a descriptor for each of its pieces, which
the door of whoever sends it lends (SCM_RIGHTS: what stands for a device's memory cannot be opened in /proc)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stead.devices.driver import DriverError, Location
from stead.devices.memory import Exported, Imported, refused
from stead.door import open_door
from stead.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stead.calling import Lent
    from stead.devices.mapped import Mapped
    from stead.ranges import Range
    from stead.space.protocol import Access


@dataclass(frozen=True, slots=True)
class SentMemory:
    """What is mapped at ``range``: which memory, in pieces of ``piece`` bytes, who may do what. ``uuids``: of the
    devices by number, since one that is number 1 there may be number 0 here (CUDA_VISIBLE_DEVICES)."""

    range: Range
    tokens: tuple[bytes, ...]
    piece: int
    location: Location
    who: tuple[Location, ...]
    access: Access
    uuids: tuple[tuple[int, str], ...]

    @property
    def length(self) -> int:
        """Bytes of it."""
        return self.range.size

    def receive(self, uuids: tuple[tuple[int, str], ...], lent: Lent) -> Imported:
        """The same memory, as a backing: its descriptors are the next of ``lent``. ``uuids``: of the devices here.
        Raises PeerFailed where the sender has it no more, or is gone; Unsupported where this process does not see
        the device that it is on."""
        location, who = self.location, self.who
        if uuids != self.uuids:
            location, who = self._translated(uuids)
        exported = tuple([Exported(lent.take(), token) for token in self.tokens])
        return Imported(exported, self.piece, location, who)

    def _translated(self, uuids: tuple[tuple[int, str], ...]) -> tuple[Location, tuple[Location, ...]]:
        """Where it is, and who may access it, by the numbers of the devices here."""
        numbers = {uuid: number for number, uuid in uuids}
        here = {there: numbers[uuid] for there, uuid in self.uuids if uuid in numbers}

        def translated(location: Location) -> Location | None:
            if location.kind != "device":
                return location
            return Location("device", here[location.id]) if location.id in here else None

        location = translated(self.location)
        who = tuple(each for each in map(translated, self.who) if each is not None)
        if location is None or not who:
            uuid = dict(self.uuids).get(self.location.id, "")
            seen = ", ".join(numbers) or "none"
            raise Unsupported(
                f"receiving memory of {self.location}", f"that device here: {uuid}", f"devices {seen}"
            )
        return location, who

    def is_mapped(self, here: Iterable[Mapped]) -> bool:
        """Whether just this memory is what is mapped in its range."""
        try:
            found = [each.cut(self.range) for each in here]
        except ValueError:  # in other pieces: it is other memory
            return False
        tokens = [
            each.physical.exported[number].token if number in each.physical.exported else None
            for each in found
            for number in range(each.first, each.first + each.pieces)
        ]
        start = found[0].range.start if found else None
        return start == self.range.start and tokens == list(self.tokens)


def send(mapped: Mapped, uuids: tuple[tuple[int, str], ...], access: Access | None) -> SentMemory:
    """Let other processes have it, for as long as it is mapped here. Raises Unsupported where it was not made for
    that, or no door can be opened; DriverError."""
    physical = mapped.physical
    if not physical.shareable:
        raise Unsupported(
            f"sending {mapped.range}",
            "memory made to be shared: DeviceMemory(shareable=True)",
            "memory that was not",
        )
    try:
        exported = [physical.export(number) for number in range(mapped.first, mapped.first + mapped.pieces)]
    except DriverError as error:
        raise refused(error, f"sending {mapped.range}") from error
    door = open_door()
    for each in exported:
        door.lend(each.token, each)
    tokens = tuple(each.token for each in exported)
    allowed = mapped.access if access is None or mapped.access == "none" else access
    return SentMemory(mapped.range, tokens, physical.piece, physical.location, physical.who, allowed, uuids)
