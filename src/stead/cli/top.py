"""`stead top`: who uses stead, live."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from stead.cli.common import one_line_errors
from stead.seeing.processes import look

if TYPE_CHECKING:
    import click


def commands() -> list[click.Command]:
    import click

    return [
        click.Command(
            "top",
            callback=one_line_errors(top),
            help="Show live which processes of this user use stead, what they hold, and how that grows; s sorts, "
            "/ filters, q quits.",
            params=[
                click.Option(
                    ["--every"],
                    type=click.FloatRange(0.1),
                    default=1,
                    show_default=True,
                    help="Seconds between two looks.",
                )
            ],
        )
    ]


def top(every: float) -> None:
    try:
        from stead.view.top import Top
    except ModuleNotFoundError as error:
        sys.exit(f"`stead top` needs textual: pip install 'stead[top]' ({error})")
    if not sys.stdout.isatty():
        sys.exit("`stead top` needs a terminal; `stead ps` prints once, and `stead ps --json` as data")
    Top(look, every).run()
