"""stead.shared_memory passes the standard library's tests of its own module, where Python comes with them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "standard_shared_memory.py"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_standard_librarys_own_tests(method: str) -> None:
    if importlib.util.find_spec("test") is None or importlib.util.find_spec("test._test_multiprocessing") is None:
        pytest.skip("this Python comes without its tests")
    # "-P": tests/ holds no module called like one of the standard library's, and shall never.
    ran = subprocess.run([sys.executable, "-P", str(SCRIPT), method], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr, ran.stderr
