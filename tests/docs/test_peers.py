"""The examples of docs/peers.md run, as they are printed. (That of MPI is run with the tests of MPI.)"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[2] / "docs/peers.md").read_text()
EXAMPLES = dict(re.findall(r"^## ([^\n]*)\n(?:(?!^## ).)*?^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE))

SAID = {"Pipes": "[True, True]\n", "Threads": "True\n", "Sockets": "3 1\n"}


def test_every_example_is_known() -> None:
    assert set(EXAMPLES) == {*SAID, "MPI"}
    assert TEXT.count("```python") == len(EXAMPLES)


@pytest.mark.parametrize("title", SAID)
def test_an_example(title: str, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(EXAMPLES[title])
    done = subprocess.run(
        [sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stderr == ""
    assert done.stdout == SAID[title]
