"""What metrics say of events, and of what is held: the same for every library of metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stead.ranges import Range
from stead.seeing.holdings import holdings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stead.events import Event

EVENTS = {
    "events": "What stead did, by event.",
    "bytes": "Of addresses that were reserved or released, of memory that was committed or decommitted, by event.",
    "seconds": "How long a commit took.",
}

# What is said of each, and its labels.
LEVELS: dict[str, tuple[str, list[str]]] = {
    "reservations": ("Reservations that are held.", []),
    "reserved_bytes": ("Addresses that are held, guards included.", []),
    "committed_bytes": ("Of those, with memory behind them.", []),
    "used_bytes": ("In live blocks.", ["of", "name"]),
    "room_bytes": ("Memory for blocks, used or not.", ["of", "name"]),
    "blocks": ("Live blocks.", ["of", "name"]),
}


def measured(event: Event) -> tuple[int, float | None]:
    """Bytes and seconds of an event: 0 and None where it has none."""
    where = event.facts.get("range")
    size = (
        where.size
        if isinstance(where, Range) and event.name in ("reserve", "release", "commit", "decommit")
        else 0
    )
    if event.name == "growth":
        size = event.facts["after"] - event.facts["before"]
    return size, event.facts.get("seconds")


def levels() -> Iterator[tuple[str, list[str], int]]:
    """What is held now: name, labels, value. What has the same name is added up."""
    held = holdings(thorough=False)
    found = held["reservations"]
    yield "reservations", [], len(found)
    yield "reserved_bytes", [], sum(int(each["outer_stop"], 16) - int(each["outer_start"], 16) for each in found)
    parts = [part for each in found for part in each["parts"]]
    yield "committed_bytes", [], sum(int(part["stop"], 16) - int(part["start"], 16) for part in parts)
    sums: dict[tuple[str, str, str], int] = {}
    for of, name, fill in (
        *(("arena", each["name"], each["fill"]) for each in held["arenas"]),
        *(("heap", each["name"], each["fill"]) for each in held["heaps"]),
    ):
        if fill:
            for level, value in (
                ("used_bytes", fill["used"]),
                ("room_bytes", fill["committed"]),
                ("blocks", fill["blocks"]),
            ):
                key = (level, of, name or "")
                sums[key] = sums.get(key, 0) + value
    for (level, of, name), value in sums.items():
        yield level, [of, name], value
