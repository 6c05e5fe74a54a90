"""`stead find`: where a range would go."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from stead.claiming import plan
from stead.cli.common import SIZE_HELP, json_option, one_line_errors, pid_argument, print_json, range_, size
from stead.seeing.finding import find_in
from stead.snapshot import snapshot
from stead.space.process import this_process

if TYPE_CHECKING:
    import click

    from stead.placement import Preference
    from stead.ranges import Range
    from stead.seeing.finding import Finding


def commands() -> list[click.Command]:
    import click

    return [
        click.Command(
            "find",
            callback=one_line_errors(find),
            help="Say where a range would go in process PID, by default in this one, and what is in the way. "
            "Exits with 1 where it does not fit.",
            params=[
                pid_argument(),
                click.Option(["--size"], required=True, metavar="SIZE", help=SIZE_HELP, callback=size),
                click.Option(
                    ["--within"],
                    metavar="FROM-TO",
                    callback=range_,
                    help="The window, such as 0x400000000000-0x540000000000. By default where reserve() looks.",
                ),
                click.Option(
                    ["--align"],
                    metavar="SIZE",
                    callback=size,
                    help="A power of two up to 1 TiB. By default 2 MiB for 2 MiB and more, else a page.",
                ),
                click.Option(
                    ["--guard"], metavar="SIZE", default="0", callback=size, help="Kept free on both sides."
                ),
                click.Option(
                    ["--prefer"],
                    type=click.Choice(["low", "high", "scattered"]),
                    default="scattered",
                    show_default=True,
                    help="Which of the places that fit.",
                ),
                json_option(),
            ],
        )
    ]


def find(
    pid: int | None,
    size: int,
    within: Range | None,
    align: int | None,
    guard: int,
    prefer: Preference,
    as_json: bool,
) -> None:
    wanted = plan(this_process(), size, within, align, guard, prefer).wanted
    taken = snapshot(pid)
    if not taken.mappings:
        raise ProcessLookupError(0, f"process {taken.pid} ({taken.title}) has no address space")
    found = find_in(taken, wanted)
    if as_json:
        print_json(_to_json(found))
    else:
        from stead.view.finding import print_finding
        from stead.view.text import make_console

        print_finding(make_console(), found)
    if found.where is None:
        sys.exit(1)


def _to_json(found: Finding) -> dict[str, Any]:
    return {
        "pid": found.taken.pid,
        "fits": found.where is not None,
        "range": found.where,
        "places": found.places,
        "placement": asdict(found.placement),
        "largest_gap": found.largest,
        "in_the_way": [asdict(each) for each in found.obstacles],
        "kept_clear": [{"range": room, "why": why} for room, why in found.rooms],
    }
