"""The ranks of an MPI job as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from stead.mpi_doctor import on
from stead.ranges import Range
from stead.sizes import format_size
from stead.view.text import plain, plural, print_facts

if TYPE_CHECKING:
    from rich.console import Console

    from stead.mpi_doctor import Report

_BOLD = "bold"


def print_ranks(console: Console, report: Report) -> None:
    console.print(plain(console, f"{plural(len(report.ranks), 'rank')} · {report.library}"), style=_BOLD)
    if len(report.ranks) == 1:
        console.print("alone: start it with mpiexec -n N to look at a job", style="dim")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for header in ("rank", "host", "pid", "pages", "bits", "randomized", "RLIMIT_AS", "stack", "available"):
        table.add_column(header, justify="right" if header in ("rank", "pid", "bits") else "left")
    for each in report.ranks:
        limits = (_limit(each.address_space_limit), _limit(each.stack_limit))
        table.add_row(
            str(each.rank), plain(console, each.host), str(each.pid), format_size(each.page_size),
            str(each.address_bits), each.aslr, *limits,
            "not told" if each.available is None else format_size(each.available),
        )  # fmt: skip
    console.print(table)
    kernels: dict[str, list[int]] = {}
    for each in report.ranks:
        kernels.setdefault(each.boot, []).append(each.rank)
    facts = [("share memory", on(ranks)) for ranks in kernels.values() if len(ranks) > 1]
    facts += [("not alike", each) for each in report.differences]
    if facts:
        console.print()
        print_facts(console, facts)
    console.print()
    if report.start is None:
        console.print(Text("no range for all", "bold red"))
        console.print(plain(console, report.refusal or ""))
    else:
        where = Range.sized(report.start, report.size)
        found = (
            f"one range for all: {where}, in {plural(report.exchanges, 'exchange')}, {report.milliseconds:.1f} ms"
        )
        console.print(plain(console, found), style="bold green")


def _limit(size: int | None) -> str:
    return "unlimited" if size is None else format_size(size)
