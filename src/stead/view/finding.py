"""Where a range would go: `stead find`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stead.seeing.capture import mapping_seen
from stead.sizes import format_size
from stead.view.rows import print_rows, row_of
from stead.view.text import plain, plural, print_facts

if TYPE_CHECKING:
    from rich.console import Console

    from stead.placement import Placement
    from stead.seeing.finding import Finding, Left

_OBSTACLES = 10


def print_finding(console: Console, found: Finding) -> None:
    asked, taken = found.asked, found.taken
    process = f"process {taken.pid}" + (f" ({taken.title})" if taken.title else "")
    size = format_size((found.placement or asked).size)
    answer = f"{size} would go to {found.where}" if found.where else f"{size} does not fit"
    console.print(plain(console, answer), style="bold")
    wanted = f"aligned to {format_size(asked.alignment)}, {asked.prefer}"
    if asked.guard:
        wanted += f", with a guard of {format_size(asked.guard)} on both sides"
    facts = [("in", process), ("wanted", wanted), ("window", str(asked.within))]
    before: Placement | None = asked
    for each in found.left:
        facts.append(("for", str(each.device) + (f": {each.device.note}" if each.device.note else "")))
        facts.append(("  leaves", _leaves(before, each)))
        before = each.placement
    if found.where:
        drawn = ", this one drawn by seed 0" if asked.prefer == "scattered" else ""
        facts.append(("places", f"{found.places:,}{drawn}"))
    elif found.placement:
        facts.append(("largest gap", str(found.largest) if found.largest else "none"))
    if found.guilty:
        facts.append(("kept from it", f"by {', '.join(f'device {each.name!r}' for each in found.guilty)}"))
    facts += [("kept clear", f"{room}: {why}") for room, why in found.rooms]
    number = len(found.obstacles)
    which = f"{plural(number, 'mapping')}{', the largest' if number > _OBSTACLES else ''}:"
    if found.placement:
        facts.append(("in the way", which if number else "nothing"))
    print_facts(console, facts)
    if found.obstacles:
        print_rows(console, [row_of(mapping_seen(each)) for each in found.obstacles[:_OBSTACLES]])
    if number > _OBSTACLES:
        console.print(f"and {number - _OBSTACLES:,} more")


def _leaves(before: Placement | None, after: Left) -> str:
    """What of a placement is left, and what has changed."""
    left = after.placement
    if before is None or left is None:
        return "nothing" if before is None else "nothing: it reaches no address of what was left"
    parts = [str(left.within) if left.within != before.within else "the window as it was"]
    if left.alignment != before.alignment:
        parts.append(f"aligned to {format_size(left.alignment)}")
    if left.size != before.size:
        parts.append(f"rounded up to whole {format_size(after.device.granularity)}")
    return ", ".join([*parts, plural(after.places, "place")])
