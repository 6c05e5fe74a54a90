"""The examples of docs/seeing.md run, as they are printed; and every command is in it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from conftest import need

TEXT = (Path(__file__).parents[2] / "docs/seeing.md").read_text()


def test_the_examples_print_what_they_say(tmp_path: Path) -> None:
    found = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    said = [["1073741824 0 2147483648"], ["reserve 1048576", "release 1048576"]]
    assert len(found) == 1 + len(said)
    for number, code in enumerate(found):
        script = tmp_path / f"example{number}.py"
        script.write_text(code)
        done = subprocess.run([sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=100)
        assert done.stderr == ""
        expected = said[number - 1] if number else []
        assert done.stdout.splitlines() == expected
        for line in expected:
            assert line in code


def test_every_command_that_looks_is_in_it() -> None:
    need("click")
    need("rich")
    from stead.cli import commands

    for name in set(commands().commands) - {"doctor", "mpi", "demo"}:
        assert f"`stead {name}" in TEXT
