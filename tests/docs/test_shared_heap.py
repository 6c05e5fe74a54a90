"""The examples of docs/shared-heap.md run, as they are printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import need

TEXT = (Path(__file__).parents[2] / "docs/shared-heap.md").read_text()
EXAMPLES = re.findall(r"^## ([^\n]*)\n(?:(?!^## ).)*?^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)

SAID = {
    "put and get": "100 False\n",
    "PyTorch": "[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]] True\n",
    "Arrow": "True\n",
    "pandas": "[5.0, 2.0] [1.0, 2.0]\n[7.0, 2.0]\n",
}


def said(code: str, tmp_path: Path) -> str:
    need("numpy")
    for library in re.findall(r"\b(torch|pyarrow|pandas)\b", code):
        need(library)
    script = tmp_path / "example.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stderr == ""
    return done.stdout


def test_the_first_example(tmp_path: Path) -> None:
    code = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)[0]
    assert said(code, tmp_path) == "1000041.0 42.0\nfirst\n"


def test_every_example_is_known() -> None:
    assert [title for title, _ in EXAMPLES] == list(SAID)
    assert TEXT.count("```python") == len(SAID) + 1


@pytest.mark.parametrize("title", SAID)
def test_an_example(title: str, tmp_path: Path) -> None:
    assert said(dict(EXAMPLES)[title], tmp_path) == SAID[title]
