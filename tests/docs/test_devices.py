"""The examples of docs/devices.md run, as they are printed, on the driver's double."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from doubles import CudaDouble

HERE = Path(__file__).parents[1]
TEXT = (HERE.parent / "docs/devices.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)

# In every process that the example starts, too.
PRELOAD = """
import sys
sys.path.insert(0, {tests!r})
import doubles
double = doubles.CudaDouble({path!r})
double.reset()
"""


@pytest.mark.parametrize("number", range(3))
def test_it_prints_what_it_says(number: int, cuda_double: CudaDouble, tmp_path: Path) -> None:
    assert len(EXAMPLES) == 3
    code = EXAMPLES[number]
    file = tmp_path / "example.py"
    file.write_text(PRELOAD.format(tests=str(HERE), path=str(cuda_double.path)) + code)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(file)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stderr == ""
    assert done.stdout == "".join(f"{said}\n" for said in re.findall(r"# prints (.*)", code))
