"""A plugin for a pytest that runs NumPy's own tests: under an arena where IN_ARENA is set, and what came of each
test as JSON into OUTCOMES.

    IN_ARENA=1 OUTCOMES=out.json python -m pytest -p numpy_in_arena --pyargs numpy._core.tests.test_numeric"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import stead
import stead.numpy

if TYPE_CHECKING:
    import pytest

entered = contextlib.ExitStack()
outcomes: dict[str, str] = {}
arena = stead.Arena("64 GiB", name="numpy's tests")


def pytest_configure() -> None:
    if "IN_ARENA" in os.environ:
        entered.enter_context(stead.numpy.allocating_in(arena))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.outcome != "passed" or report.when == "call":
        outcomes[report.nodeid] = report.outcome


def pytest_unconfigure() -> None:
    name = stead.numpy.handler_name()
    entered.close()
    arena.check()
    found = {"handler": name, "high_water": arena.statistics().high_water, "outcomes": outcomes}
    Path(os.environ["OUTCOMES"]).write_text(json.dumps(found))
