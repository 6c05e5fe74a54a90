"""The example of MPI in docs/peers.md runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from integration.mpi.conftest import Ranks

TEXT = (Path(__file__).parents[3] / "docs/peers.md").read_text()


def test_the_example_runs_and_prints_what_it_says(ranks: Ranks, tmp_path: Path) -> None:
    [code] = re.findall(r"^## MPI\n+```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    script = tmp_path / "example.py"
    script.write_text(code)
    assert ranks(str(script), 3) == "1\n"
