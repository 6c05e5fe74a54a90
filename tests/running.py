"""The command line, run as its users do."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from stead import cli

if TYPE_CHECKING:
    from click.testing import Result

PROGRAM = [sys.executable, "-c", "from stead.cli import main; main()"]


def stead_runs(*arguments: str, **environment: str) -> Result:
    from click.testing import CliRunner

    return CliRunner().invoke(cli.commands(), arguments, env={"COLUMNS": "80", **environment})


def refused(result: Result, says: str) -> None:
    """One line on stderr that says why, nothing on stdout, exit 1."""
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert says in result.stderr
