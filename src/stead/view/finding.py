"""Where a range would go: `stead find`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stead.seeing.capture import mapping_seen
from stead.sizes import format_size
from stead.view.rows import print_rows, row_of
from stead.view.text import plain, plural, print_facts

if TYPE_CHECKING:
    from rich.console import Console

    from stead.seeing.finding import Finding

_OBSTACLES = 10


def print_finding(console: Console, found: Finding) -> None:
    placement, taken = found.placement, found.taken
    process = f"process {taken.pid}" + (f" ({taken.title})" if taken.title else "")
    size = format_size(placement.size)
    answer = f"{size} would go to {found.where}" if found.where else f"{size} does not fit"
    console.print(plain(console, answer), style="bold")
    wanted = f"aligned to {format_size(placement.alignment)}, {placement.prefer}"
    if placement.guard:
        wanted += f", with a guard of {format_size(placement.guard)} on both sides"
    facts = [("in", process), ("wanted", wanted), ("window", str(placement.within))]
    if found.where:
        drawn = ", this one drawn by seed 0" if placement.prefer == "scattered" else ""
        facts.append(("places", f"{found.places:,}{drawn}"))
    else:
        facts.append(("largest gap", str(found.largest) if found.largest else "none"))
    facts += [("kept clear", f"{room}: {why}") for room, why in found.rooms]
    number = len(found.obstacles)
    which = f"{plural(number, 'mapping')}{', the largest' if number > _OBSTACLES else ''}:"
    facts.append(("in the way", which if number else "nothing"))
    print_facts(console, facts)
    if found.obstacles:
        print_rows(console, [row_of(mapping_seen(each)) for each in found.obstacles[:_OBSTACLES]])
    if number > _OBSTACLES:
        console.print(f"and {number - _OBSTACLES:,} more")
