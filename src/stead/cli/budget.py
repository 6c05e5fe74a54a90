"""`stead budget`: what may still be mapped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stead.cli.common import json_option, one_line_errors, pid_argument, print_json
from stead.seeing import capture
from stead.seeing.budgeting import budget_of, to_json

if TYPE_CHECKING:
    import click


def commands() -> list[click.Command]:
    import click

    return [
        click.Command(
            "budget",
            callback=one_line_errors(budget),
            help="Say what process PID, by default this one, may still map: limits and what is used of them, the "
            "largest gap, and what stead holds of it.",
            params=[pid_argument(), json_option()],
        )
    ]


def budget(pid: int | None, as_json: bool) -> None:
    taken = capture(*(() if pid is None else (pid,)), pages=False)
    found = budget_of(taken["processes"][0], taken["hosts"][0])
    if as_json:
        print_json(to_json(found))
        return
    from stead.view.budget import print_budget
    from stead.view.text import make_console

    print_budget(make_console(), found)
