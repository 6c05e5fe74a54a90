"""The programs beside this on a real GPU, and on the driver's double, each in a process of its own: where one
driver was loaded in a process, the other cannot be."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpu import frameworks, programs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from doubles import CudaDouble

HERE = Path(__file__).parent
REQUIRED = os.environ.get("STEAD_REQUIRE", "").split(",")


def run(file: str, name: str, env: Mapping[str, str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-X", "faulthandler", str(HERE / file), name],
        capture_output=True, text=True, timeout=240, check=False, env={**os.environ, **env},
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (0, "good\n"), ran.stderr


@pytest.fixture(scope="module")
def gpu() -> None:
    if not os.path.exists("/dev/nvidiactl"):
        if "gpu" in REQUIRED:
            pytest.fail("STEAD_REQUIRE names gpu, and there is none")
        pytest.skip("no NVIDIA GPU (docs/decisions/0016 has what these said on one)")


@contextmanager
def alone(exclusive: bool) -> Iterator[None]:
    """On the GPU, among the tests that run side by side."""
    with open(Path(tempfile.gettempdir()) / f"stead-gpu-{os.getuid()}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield


@pytest.mark.parametrize("name", programs.PROGRAMS)
def test_on_the_double(name: str, cuda_library: CudaDouble) -> None:
    env = {"LD_LIBRARY_PATH": str(cuda_library.path.parent), "STEAD_DOUBLE_DEVICES": "2"}
    run("programs.py", name, env)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("name", programs.PROGRAMS)
def test_on_a_gpu(name: str) -> None:
    with alone(name in programs.ALONE):
        run("programs.py", name, {})


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("name", frameworks.PROGRAMS)
def test_with_others_on_a_gpu(name: str) -> None:
    library = name.partition("_")[0]
    if not find_spec(library):
        if library in REQUIRED:
            pytest.fail(f"STEAD_REQUIRE names {library}, and there is none")
        pytest.skip(f"no {library}")
    with alone(False):
        run("frameworks.py", name, {})
