"""`stead show`: an address space as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stead.cli.common import from_option, json_option, one_line_errors, pid_argument, print_json, taken_of

if TYPE_CHECKING:
    from pathlib import Path

    import click


def commands() -> list[click.Command]:
    import click

    return [
        click.Command(
            "show",
            callback=one_line_errors(show),
            help="Show the address space of process PID, by default of this one, or of several in turn.",
            params=[
                pid_argument(nargs=-1),
                click.Option(["--all", "everything"], is_flag=True, help="Every mapping: fold none together."),
                from_option(),
                json_option(),
            ],
        )
    ]


def show(pids: tuple[int, ...], everything: bool, source: Path | None, as_json: bool) -> None:
    taken = taken_of(pids, source)
    if as_json:
        print_json(taken)
        return
    from stead.view.space import print_artefact
    from stead.view.text import make_console

    print_artefact(make_console(), taken, everything=everything)
