"""The program `stead`: arguments in, data and a view out. One file for each command.

click and rich are an extra (stead[cli]), and are imported only when a command runs: the workers that the
demo spawns import this module too.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click

# Modules here that have a command, in the order of the help.
_COMMANDS = ("show", "why", "find", "ps", "top", "budget", "diff", "record", "doctor", "mpi", "demo")


def main() -> None:
    """The program `stead`."""
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ModuleNotFoundError:
        sys.exit("stead's command line needs click and rich: pip install 'stead[cli]'")
    commands().main(prog_name="stead")


def commands() -> click.Group:
    """All commands, as a click group."""
    import click

    class InOrder(click.Group):
        def list_commands(self, ctx: click.Context) -> list[str]:
            return list(self.commands)

    group = InOrder(
        "stead",
        help="One address, everywhere: look at address spaces, and meet in them.",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        params=[],
    )
    for name in _COMMANDS:
        for command in import_module(f"stead.cli.{name}").commands():
            group.add_command(command)
    return group
