"""Real devices, each in a process of its own: a driver starts threads that never end, and no test that forks later
is to have them.

PoCL comes with the wheel of pyopencl[pocl]. Intel's driver for processors, which says itself that it shares system
memory, is used where its wheel (intel-opencl-rt) is installed.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from conftest import need
from integration.opencl import kernels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# How a platform is called, by the name that STEAD_REQUIRE knows it by.
PLATFORMS = {"pocl": "Portable Computing Language", "intel-opencl-rt": "Intel(R) OpenCL"}


class Worker:
    """A process that has one platform, and does what it is told, one call after the other."""

    def __init__(self, platform: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self.process = context.Process(target=kernels.serve, args=(there, PLATFORMS[platform]))
        self.process.start()
        there.close()

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self.begin(function, *arguments)
        return self.result()

    def begin(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._here.send((function, arguments))

    def result(self) -> Any:
        answer = self._here.recv()  # EOFError where a kernel has killed it
        if isinstance(answer, Exception):
            raise answer
        return answer

    def end(self) -> None:
        self._here.close()
        self.process.join()


@pytest.fixture(scope="package", params=PLATFORMS)
def platform(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    need("pyopencl")
    name: str = request.param
    with pytest.MonkeyPatch.context() as patch:
        # Nothing of an earlier run is used, and nothing is left for a later one: neither by pyopencl nor by PoCL.
        patch.setenv("PYOPENCL_NO_CACHE", "1")
        patch.setenv("POCL_CACHE_DIR", str(tmp_path_factory.mktemp("pocl")))
        if name == "intel-opencl-rt":
            library = Path(sys.prefix, "lib/libintelocl.so")
            if not library.exists():
                missing(name, "is not installed")
            # Its wheel says where it is in the words of another installer.
            vendors = tmp_path_factory.mktemp("vendors")
            (vendors / "intel.icd").write_text(f"{library}\n")
            patch.setenv("OCL_ICD_VENDORS", str(vendors))
        yield name


def missing(name: str, why: str) -> None:
    if name in os.environ.get("STEAD_REQUIRE", "").split(","):
        pytest.fail(f"STEAD_REQUIRE names {name}, which {why}")
    pytest.skip(f"{name} {why}")


@pytest.fixture(scope="package")
def device(platform: str) -> Iterator[Worker]:
    """One that lives as long as the tests of its platform do."""
    worker = Worker(platform)
    if not worker(kernels.has_device):
        worker.end()
        missing(platform, "has no device here")
    yield worker
    worker.end()


@pytest.fixture
def another(platform: str, device: Worker) -> Iterator[Worker]:
    """A second process with the same device."""
    with ExitStack() as stack:
        worker = Worker(platform)
        stack.callback(worker.end)
        yield worker
