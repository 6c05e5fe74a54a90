"""`stead ps`: who uses stead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stead.cli.common import json_option, one_line_errors, print_json
from stead.seeing.processes import look

if TYPE_CHECKING:
    import click


def commands() -> list[click.Command]:
    import click

    return [
        click.Command(
            "ps",
            callback=one_line_errors(ps),
            help="List the other processes of this user that use stead, and what they hold: all of it where they "
            "publish (STEAD_PUBLISH=1), else what the names in their maps tell.",
            params=[json_option()],
        )
    ]


def ps(as_json: bool) -> None:
    taken = look()
    if as_json:
        print_json(taken)
        return
    from stead.view.processes import print_processes
    from stead.view.text import make_console

    print_processes(make_console(), taken)
