"""`stead demo`: raw pointers, followed by fresh processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from stead.cli.common import json_option, one_line_errors, print_json

if TYPE_CHECKING:
    import click


def commands() -> list[click.Command]:
    import click

    return [
        click.Command(
            "demo",
            callback=one_line_errors(demo),
            help="Index the text files of FOLDER, by default the sources of Python's standard library, and let "
            "fresh processes follow the index's raw pointers. Exits with 1 where anything disagrees.",
            params=[
                click.Argument(
                    ["folder"],
                    required=False,
                    type=click.Path(exists=True, file_okay=False, path_type=Path),
                ),
                click.Option(
                    ["--workers"],
                    type=click.IntRange(1, 64),
                    default=4,
                    show_default=True,
                    help="Fresh processes.",
                ),
                click.Option(
                    ["--queries"],
                    type=click.IntRange(1),
                    default=2000,
                    show_default=True,
                    help="Random words that each worker is asked for, besides the commonest.",
                ),
                click.Option(["--seed"], type=int, help="Of the random words. By default drawn, and printed."),
                click.Option(["--no-progress"], is_flag=True, help="No bar while it works."),
                json_option(),
            ],
        )
    ]


def demo(
    folder: Path | None, workers: int, queries: int, seed: int | None, no_progress: bool, as_json: bool
) -> None:
    from stead.demo import run
    from stead.view.demo import Bars, print_result
    from stead.view.text import make_console

    errors = make_console(stderr=True)
    with Bars(errors, shown=errors.is_terminal and not no_progress) as bars:
        result = run(folder, workers=workers, queries=queries, seed=seed, progress=bars)
    if as_json:
        print_json(result.to_json())
    else:
        print_result(make_console(), result)
    if result.disagreements:
        sys.exit(1)
