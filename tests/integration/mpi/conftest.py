"""Programs on the ranks of an MPI job, of the MPI that is installed beside this Python (`nox -s mpi` has two)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from conftest import need

if TYPE_CHECKING:
    from collections.abc import Mapping

PROGRAMS = Path(__file__).with_name("programs")

# There may be fewer processors than ranks, and who runs this may be root in a container.
_ANY_MACHINE = {
    "MPIR_CVAR_POLLS_BEFORE_YIELD": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
}


class Ranks(Protocol):
    def __call__(
        self,
        program: str,
        number: int,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        timeout: float = 120.0,
        fails: bool | None = False,
    ) -> str:
        """Run ``program`` (a name in programs/, or a path) on so many ranks: what they printed. ``fails``: whether
        an exit status other than 0 is expected; None: any is good."""
        ...


@pytest.fixture
def ranks() -> Ranks:
    need("mpi4py")
    beside = Path(sys.executable).with_name("mpiexec")
    mpiexec = str(beside) if beside.exists() else shutil.which("mpiexec")
    if mpiexec is None:
        need("mpiexec")
    return lambda *arguments, **options: _run(str(mpiexec), *arguments, **options)


def _run(
    mpiexec: str,
    program: str,
    number: int,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    timeout: float = 120.0,
    fails: bool | None = False,
) -> str:
    path = Path(program) if os.sep in program else PROGRAMS / program
    command = [mpiexec, "-n", str(number), sys.executable, str(path), *arguments]
    running = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **_ANY_MACHINE, **(env or {})},
        start_new_session=True,
    )
    try:
        printed, _ = running.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        printed, _ = running.communicate()
        pytest.fail(f"{' '.join(command)} did not end within {timeout} s; it printed:\n{printed}")
    if fails is not None and (running.returncode != 0) != fails:
        pytest.fail(f"{' '.join(command)} ended with {running.returncode}; it printed:\n{printed}")
    return printed


@pytest.fixture(params=[2, 3, 4])
def number(request: pytest.FixtureRequest) -> int:
    """Ranks."""
    found: int = request.param
    return found
