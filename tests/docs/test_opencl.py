"""The examples of docs/opencl.md run, as they are printed."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from conftest import need
from stead.devices.constraints import DeviceConstraints

TEXT = (Path(__file__).parents[2] / "docs/opencl.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def said(code: str, folder: Path) -> str:
    (folder / "example.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-W", "error", "example.py"],
        capture_output=True, text=True, timeout=100, check=False, cwd=folder,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout


def test_a_kernel_follows_pointers(tmp_path: Path) -> None:
    need("numpy")
    need("pyopencl")
    assert said(EXAMPLES[0], tmp_path) == "[5. 4. 3. 2. 1.]\n"


def test_a_limited_device(tmp_path: Path) -> None:
    assert said(EXAMPLES[1], tmp_path) == "True\n"
    assert len(EXAMPLES) == 2


def test_the_file_is_one(tmp_path: Path) -> None:
    [written] = re.findall(r"^```toml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    (tmp_path / "boards.toml").write_text(written)
    [made] = DeviceConstraints.read(tmp_path / "boards.toml")
    [entry] = tomllib.loads(written)["device"]
    assert (made.name, made.note) == (entry["name"], entry["note"])
    assert (made.window.stop, made.granularity, made.alignment) == (1 << 32, 64 << 10, 2 << 20)
