"""`stead find`: where a range would go."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from stead.claiming import plan
from stead.cli.common import (
    SIZE_HELP,
    json_option,
    one_line_errors,
    pid_argument,
    print_json,
    range_,
    size,
)
from stead.devices.named import NAMES, named
from stead.seeing.finding import find_in
from stead.snapshot import snapshot
from stead.space.process import this_process

if TYPE_CHECKING:
    import click

    from stead.devices.constraints import DeviceConstraints
    from stead.placement import Placement, Preference
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
                click.Option(
                    ["--device", "devices"],
                    multiple=True,
                    metavar="DEVICE",
                    help=f"A device that is to use the range: {NAMES}. May be given several times.",
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
    devices: tuple[str, ...],
    as_json: bool,
) -> None:
    wanted = plan(this_process(), size, within, align, guard, prefer).wanted
    constraints = _constraints(devices)
    taken = snapshot(pid)
    if not taken.mappings:
        raise ProcessLookupError(0, f"process {taken.pid} ({taken.title}) has no address space")
    found = find_in(taken, wanted, constraints)
    if as_json:
        print_json(_to_json(found))
    else:
        from stead.view.finding import print_finding
        from stead.view.text import make_console

        print_finding(make_console(), found)
    if found.where is None:
        sys.exit(1)


def _constraints(devices: tuple[str, ...]) -> list[DeviceConstraints]:
    import click

    try:
        return [each for text in devices for each in named(text)]
    except ValueError as error:  # of a file, which opens with its name
        raise click.BadParameter(str(error), param_hint="'--device'") from None


def _to_json(found: Finding) -> dict[str, Any]:
    return {
        "pid": found.taken.pid,
        "fits": found.where is not None,
        "range": found.where,
        "places": found.places,
        "asked": asdict(found.asked),
        "placement": _as_json(found.placement),
        "devices": [
            {**asdict(each.device), "leaves": _as_json(each.placement), "places": each.places}
            for each in found.left
        ],
        "kept_from_it_by": [each.name for each in found.guilty],
        "largest_gap": found.largest,
        "in_the_way": [asdict(each) for each in found.obstacles],
        "kept_clear": [{"range": room, "why": why} for room, why in found.rooms],
    }


def _as_json(placement: Placement | None) -> dict[str, Any] | None:
    return asdict(placement) if placement else None
