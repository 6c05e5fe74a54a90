"""The machine: `stead doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from stead.sizes import format_size
from stead.view.text import make_table, plain, print_facts

if TYPE_CHECKING:
    from rich.console import Console

    from stead.doctor import Report


def print_report(console: Console, report: Report) -> None:
    machine = (
        f"{report.kernel} {report.machine} · Python {report.python} · pages of {format_size(report.page_size)}"
    )
    console.print(plain(console, machine), style="bold")
    console.print("\nlimits", style="bold")
    print_facts(console, [(each.name, each.text) for each in report.limits])
    there = sum(each.present for each in report.features)
    console.print(f"\nfeatures, found by trying: {there} of {len(report.features)}", style="bold")
    features = make_table("", "feature", "found", "without it")
    for each in report.features:
        mark = Text("yes", "green") if each.present else Text("no", "bold red")
        features.add_row(mark, each.name, each.found, Text(each.absence, "dim" if each.present else ""))
    console.print(features)
