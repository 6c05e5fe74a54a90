"""Who uses stead: `stead ps`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stead.seeing.sums import sums
from stead.sizes import format_size
from stead.view.text import make_table, plain, shorten

if TYPE_CHECKING:
    from rich.console import Console

    from stead.seeing.shape import Artefact


def print_processes(console: Console, taken: Artefact) -> None:
    if not taken["processes"]:
        console.print("no other process of this user uses stead")
        return
    numbers = ("pid", "holds", "committed", "in memory", "res", "arenas", "heaps")
    table = make_table(*numbers, "command", right=numbers)
    for column in table.columns:
        column.no_wrap = True
    silent = False
    for process in taken["processes"]:
        found = sums(process)
        said = process["published_at"] is not None
        silent = silent or not said
        counts = [f"{n:,}" if said else "?" for n in (found.reservations, found.arenas, found.heaps)]
        command = " ".join(process["command"]) or process["title"]
        table.add_row(
            str(process["pid"]),
            format_size(found.ours_reserved + found.ours_committed),
            format_size(found.ours_committed),
            "?" if found.ours_resident is None else format_size(found.ours_resident),
            *counts,
            shorten(plain(console, command), max(console.width - 62, 12), console.options.ascii_only),
        )
    console.print(table)
    if silent:
        console.print("?: does not publish (STEAD_PUBLISH=1); what it holds is told by names alone", style="dim")
