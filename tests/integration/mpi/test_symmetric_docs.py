"""The examples of docs/symmetric-heap.md run, as they are printed, under a real mpiexec."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import stead

if TYPE_CHECKING:
    from integration.mpi.conftest import Ranks

TEXT = (Path(__file__).parents[3] / "docs/symmetric-heap.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def test_the_examples(ranks: Ranks, number: int, tmp_path: Path) -> None:
    expected = [f"True [ 0. -1.] {float(-number)}", "True True"]
    for code, said in zip(EXAMPLES, expected, strict=True):
        script = tmp_path / "example.py"
        script.write_text(code)
        printed = ranks(str(script), number)
        assert said in printed.splitlines(), printed


def test_every_call_in_the_table_is_there() -> None:
    named = set(re.findall(r"`heap\.(\w+)\(", TEXT))
    assert {name for name in named if not hasattr(stead.SymmetricHeap, name)} == set()
    public = {name for name in vars(stead.SymmetricHeap) if not name.startswith("_")}
    assert public - named - {"closed", "rank", "ranks", "range", "address", "size", "close"} == set()
