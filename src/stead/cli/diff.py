"""`stead diff`: two snapshots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stead.cli.common import json_option, one_line_errors, print_json
from stead.seeing.differences import differences, to_json
from stead.seeing.files import load

if TYPE_CHECKING:
    import click


def commands() -> list[click.Command]:
    import click

    def file(name: str) -> click.Argument:
        return click.Argument(
            [name], type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar=name.upper()
        )

    return [
        click.Command(
            "diff",
            callback=one_line_errors(diff),
            help="Say what is different in AFTER, a file that `stead show --json` wrote: what was mapped, "
            "unmapped or changed since BEFORE, and where memory grew.",
            params=[file("before"), file("after"), json_option()],
        )
    ]


def diff(before: Path, after: Path, as_json: bool) -> None:
    found = differences(load(before), load(after))
    if as_json:
        print_json(to_json(found))
        return
    from stead.view.changes import print_differences
    from stead.view.text import make_console

    print_differences(make_console(), found)
