"""What every test sees: a header that says which machine this is, and skips that cannot be silent."""

from __future__ import annotations

import gc
import importlib.util
import os
import platform
import resource
import shutil
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

import doubles
import stead
from doubles import build
from doubles.hip import HIP, HipDouble
from doubles.level_zero import LEVEL_ZERO, LevelZeroDouble
from stead.devices import spaces

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A failing example prints the blob that repeats it (@reproduce_failure). No deadline: machines are shared.
settings.register_profile("stead", deadline=None, print_blob=True)
settings.load_profile("stead")


def pytest_report_header() -> list[str]:
    space = stead.this_process()
    limits = {name: resource.getrlimit(getattr(resource, name))[0] for name in ("RLIMIT_AS", "RLIMIT_STACK")}
    return [
        f"kernel: {platform.release()} {platform.machine()}, page size {space.granularity}",
        f"claims: {space.manner}, addresses: {space.usable}, limits: {limits}",
        f"required: {os.environ.get('STEAD_REQUIRE', 'nothing')}",
    ]


def pytest_collection_finish() -> None:
    """What pytest and Hypothesis have made so far is no test's garbage: many a fixture collects, and each time it
    would be looked through (0.1 s)."""
    gc.collect()
    gc.freeze()


def need(what: str) -> None:
    """Skip where ``what`` (a module or a command) is missing; fail where STEAD_REQUIRE names it."""
    try:
        present = shutil.which(what) or importlib.util.find_spec(what)
    except ModuleNotFoundError:  # the package that it is in
        present = None
    if present:
        return
    if what in os.environ.get("STEAD_REQUIRE", "").split(","):
        pytest.fail(f"STEAD_REQUIRE names {what}, which is not installed")
    pytest.skip(f"{what} is not installed", allow_module_level=True)


@pytest.fixture
def arena() -> Iterator[stead.Arena]:
    """At whose end no block and no array may be left."""
    with stead.Arena("64 MiB") as arena:
        yield arena
        gc.collect()
        arena.check()


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """No test may leave files in /dev/shm."""
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    yield
    after = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    assert not {name for name in after - before if "stead" in name}


@pytest.fixture(scope="session")
def cuda_library(tmp_path_factory: pytest.TempPathFactory) -> doubles.CudaDouble:
    """CUDA's driver for this process: a double, which has no device but for the tests that ask for
    `cuda_double`."""
    need("cc")
    need("cuda.bindings")
    double = doubles.CudaDouble(doubles.build(doubles.CUDA, tmp_path_factory.mktemp("cuda")))
    from cuda.bindings import driver

    driver.cuDriverGetVersion()
    if not double.calls("cuDriverGetVersion"):
        pytest.skip("cuda.bindings has found a real driver in this process before its double was loaded")
    return double


@pytest.fixture
def cuda_double(cuda_library: doubles.CudaDouble) -> Iterator[doubles.CudaDouble]:
    """The driver's double, as new: two devices with 1 GiB each, granularity 2 MiB."""
    cuda_library.reset()
    spaces._drivers.clear()  # the driver that stead has was the one before
    yield cuda_library
    gc.collect()
    spaces._drivers.clear()
    cuda_library.reset(devices=0)


@pytest.fixture(scope="session")
def _hip_library(tmp_path_factory: pytest.TempPathFactory) -> HipDouble:
    need("cc")
    return HipDouble(build(HIP, tmp_path_factory.mktemp("hip")))


@pytest.fixture
def hip_double(_hip_library: HipDouble) -> Iterator[HipDouble]:
    """The HIP runtime's double, as new: as `cuda_double`. HipDriver takes its path."""
    _hip_library.reset()
    spaces._drivers.clear()
    yield _hip_library
    gc.collect()
    _hip_library.reset(devices=0)


@pytest.fixture(scope="session")
def _level_zero_library(tmp_path_factory: pytest.TempPathFactory) -> LevelZeroDouble:
    need("cc")
    return LevelZeroDouble(build(LEVEL_ZERO, tmp_path_factory.mktemp("level_zero")))


@pytest.fixture
def level_zero_double(
    _level_zero_library: LevelZeroDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LevelZeroDouble]:
    """The Level Zero loader's double, as new: as `cuda_double`, on a host with one NUMA node. LevelZeroDriver
    takes its path."""
    (tmp_path / "online").write_text("0")
    monkeypatch.setattr("stead.devices.library.NODES", tmp_path / "online")
    _level_zero_library.reset()
    spaces._drivers.clear()
    yield _level_zero_library
    gc.collect()
    _level_zero_library.reset(devices=0)
