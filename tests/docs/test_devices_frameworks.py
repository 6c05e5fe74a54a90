"""The examples of docs/devices-frameworks.md, as far as they go without a device: on the driver's double."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from conftest import need

if TYPE_CHECKING:
    from doubles import CudaDouble

TEXT = (Path(__file__).parents[2] / "docs/devices-frameworks.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
BEGIN = "import sys, doubles\ndoubles.CudaDouble(sys.argv[1]).reset(memory='4 GiB')\n"


def said(double: CudaDouble, code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code, str(double.path)], capture_output=True, text=True, timeout=240,
        env={
            **os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CUDA_PYTHON_DISABLE_MAJOR_VERSION_WARNING": "1"
        },
        check=False,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout


def test_an_arena(cuda_double: CudaDouble) -> None:
    assert re.fullmatch(r"0x[0-9a-f]+–0x[0-9a-f]+ \(1 GiB\) 0\n", said(cuda_double, EXAMPLES[0]))


def test_numba(cuda_double: CudaDouble) -> None:
    need("numba_cuda")
    (example,) = (each for each in EXAMPLES if "set_memory_manager" in each)
    use = "array = numba.cuda.device_array(10)\nprint(arena.owns(array.device_ctypes_pointer.value))\n"
    assert said(cuda_double, f"{EXAMPLES[0]}import numba.cuda\n{example}{use}").endswith("\nTrue\n")


def test_every_name_is_there() -> None:
    need("torch")
    import stead.torch

    for name in re.findall(r"stead\.torch\.(\w+)", TEXT):
        assert hasattr(stead.torch, name), name
