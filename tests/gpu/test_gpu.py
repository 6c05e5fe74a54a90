"""The programs beside this on a real GPU, and on the driver's double, each in a process of its own: where one
driver was loaded in a process, the other cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpu.programs import PROGRAMS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from doubles import CudaDouble

FILE = Path(__file__).with_name("programs.py")


def run(name: str, env: Mapping[str, str]) -> None:
    ran = subprocess.run(
        [sys.executable, str(FILE), name],
        capture_output=True, text=True, timeout=240, check=False, env={**os.environ, **env},
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (0, "good\n"), ran.stderr


@pytest.mark.parametrize("name", PROGRAMS)
def test_on_the_double(name: str, cuda_library: CudaDouble) -> None:
    run(name, {"LD_LIBRARY_PATH": str(cuda_library.path.parent), "STEAD_DOUBLE_DEVICES": "2"})


@pytest.mark.parametrize("name", PROGRAMS)
def test_on_a_gpu(name: str) -> None:
    if not os.path.exists("/dev/nvidiactl"):
        if "gpu" in os.environ.get("STEAD_REQUIRE", "").split(","):
            pytest.fail("STEAD_REQUIRE names gpu, and there is none")
        pytest.skip("no NVIDIA GPU: not run on one anywhere yet")
    run(name, {})
