"""`stead why`: what is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stead.cli.common import checked, from_option, json_option, one_line_errors, pid_argument, print_json, taken_of
from stead.seeing.why import explain, parse_where, to_json

if TYPE_CHECKING:
    from pathlib import Path

    import click

    from stead.ranges import Range


def commands() -> list[click.Command]:
    import click

    return [
        click.Command(
            "why",
            callback=one_line_errors(why),
            help="Say what is at WHERE, an address or a range (0x1000, 0x1000-0x2000, 0x1000+64KiB), in each "
            "process PID, by default in this one: whose it is, since when, and the nearest ranges that are free "
            "in all of them.",
            params=[
                click.Argument(["where"], metavar="WHERE", callback=_where),
                pid_argument(nargs=-1),
                from_option(),
                json_option(),
            ],
        )
    ]


def _where(context: click.Context, parameter: click.Parameter, value: str) -> Range:
    return checked(context, parameter, lambda name: parse_where(value))


def why(where: Range, pids: tuple[int, ...], source: Path | None, as_json: bool) -> None:
    found = explain(taken_of(pids, source), where)
    if as_json:
        print_json(to_json(found))
        return
    from stead.view.text import make_console
    from stead.view.why import print_why

    print_why(make_console(), found)
