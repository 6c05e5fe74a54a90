"""NumPy's own tests of arrays, inside an arena and outside of it: what fails inside fails outside, too.

Not among them: test_mem_policy, which asserts that arrays have the handlers that it sets and NumPy's own name
where it sets none; and files that hardly make arrays (printing, docstrings, CPU features, C API builds)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from conftest import need

FILES = [
    "multiarray",
    "numeric",
    "umath",
    "ufunc",
    "indexing",
    "item_selection",
    "nditer",
    "mem_overlap",
    "regression",
    "array_coercion",
    "casting_unittests",
    "dtype",
    "dlpack",
    "stringdtype",  # from NumPy 2 on
    "datetime",
    "records",
    "einsum",
    "half",
]


def run_numpys_tests(into: Path, **environment: str) -> dict[str, Any]:
    import numpy

    package = "numpy._core.tests" if hasattr(numpy, "_core") else "numpy.core.tests"
    folder = Path(numpy.__file__).parent / package.split(".", 1)[1].replace(".", "/")
    modules = [f"{package}.test_{name}" for name in FILES if (folder / f"test_{name}.py").exists()]
    # NumPy's own choice of what is slow; OpenBLAS's threads have nothing to do with us.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "numpy_in_arena", "-p", "no:cacheprovider"]
    ran = subprocess.run(
        [*command, "-m", "not slow", "--pyargs", *modules],
        cwd=into,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parent),
            "OPENBLAS_NUM_THREADS": "1",
            "OUTCOMES": str(into / "outcomes.json"),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert ran.returncode in (0, 1), ran.stdout[-5000:] + ran.stderr[-5000:]  # 1: some tests failed
    found: dict[str, Any] = json.loads((into / "outcomes.json").read_text())
    return found


@pytest.mark.long
@pytest.mark.timeout(900)
def test_numpys_tests_fail_nowhere_else_in_an_arena(tmp_path: Path) -> None:
    need("numpy")
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    with ThreadPoolExecutor(2) as pool:
        runs = pool.submit(run_numpys_tests, inside, IN_ARENA="1"), pool.submit(run_numpys_tests, outside)
        within, without = (run.result() for run in runs)
    assert (within["handler"], without["handler"], without["high_water"]) == ("stead", "default_allocator", 0)
    assert within["high_water"] > 1 << 20
    assert len(within["outcomes"]) > 10_000
    assert within["outcomes"].keys() == without["outcomes"].keys()
    new = {
        name: outcome
        for name, outcome in within["outcomes"].items()
        if outcome == "failed" and without["outcomes"][name] != "failed"
    }
    assert not new
