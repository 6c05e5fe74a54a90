"""Every example runs, and says what it did."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import need

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path: Path) -> None:
    for module in re.findall(r"^(?:import|from) (numpy|mpi4py|pyopencl)\b", path.read_text(), re.MULTILINE):
        need(module)
    done = subprocess.run(
        [sys.executable, "-W", "error", path], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout.strip()


def test_a_kv_cache_that_grows_in_place_copies_nothing() -> None:
    """Its answers are compared by itself."""
    need("numpy")
    path = next(each for each in EXAMPLES if each.stem == "kv_cache")
    done = subprocess.run(
        [sys.executable, path, "--device", "host", "--tokens", "150", "--layers", "1"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    table = {name: line.split()[1:] for line in done.stdout.splitlines()[2:] for name in line.split()[:1]}
    copied, peak = ({name: int(row[column].replace(",", "")) for name, row in table.items()} for column in (0, 1))
    assert copied["growing"] == 0 < copied["copying"]
    assert 0 < peak["growing"] <= peak["copying"]
