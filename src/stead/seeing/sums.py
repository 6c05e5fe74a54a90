"""A process in numbers: what lists, differences and recordings say of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stead.seeing.shape import ProcessSeen


@dataclass(frozen=True, slots=True)
class Sums:
    """In bytes, but for counts. ``resident`` and ``swapped``: None where they are not known. ``ours_…``: of what
    is stead's; ``used``: in the live blocks of arenas and heaps, of what is committed there (``room``)."""

    mappings: int
    mapped: int
    reserved: int
    committed: int
    resident: int | None
    swapped: int | None
    ours_reserved: int
    ours_committed: int
    ours_resident: int | None
    reservations: int
    arenas: int
    heaps: int
    channels: int
    messages: int
    holders: int
    used: int
    room: int


def sums(process: ProcessSeen) -> Sums:
    mapped = reserved = ours = ours_committed = resident = swapped = ours_resident = 0
    known = process["pages_by"] is not None
    for each in process["mappings"]:
        size = int(each["stop"], 16) - int(each["start"], 16)
        mapped += size
        held = each["state"] != "committed"
        reserved += size if held else 0
        resident += each["resident"] or 0
        swapped += each["swapped"] or 0
        if each["kind"] == "ours":
            ours += size
            ours_committed += 0 if held else size
            ours_resident += each["resident"] or 0
    fills = [each["fill"] for each in process["arenas"]] + [each["fill"] for each in process["heaps"]]
    return Sums(
        mappings=len(process["mappings"]),
        mapped=mapped,
        reserved=reserved,
        committed=mapped - reserved,
        resident=resident if known else None,
        swapped=swapped if known else None,
        ours_reserved=ours - ours_committed,
        ours_committed=ours_committed,
        ours_resident=ours_resident if known else None,
        reservations=len(process["reservations"]),
        arenas=len(process["arenas"]),
        heaps=len(process["heaps"]),
        channels=sum(len(each["channels"]) for each in process["heaps"]),
        messages=sum(channel["messages"] for each in process["heaps"] for channel in each["channels"]),
        holders=len({holder["pid"] for each in process["heaps"] for holder in each["holders"] if holder["alive"]}),
        used=sum(fill["used"] for fill in fills if fill),
        room=sum(fill["committed"] for fill in fills if fill),
    )
