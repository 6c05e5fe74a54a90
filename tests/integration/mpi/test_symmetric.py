"""Symmetric heaps under a real mpiexec."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from integration.mpi.conftest import Ranks


@pytest.mark.parametrize("how", ["direct", "mpi", "mixed"])
def test_on_all_ranks(ranks: Ranks, number: int, how: str) -> None:
    printed = ranks("symmetric.py", number, how)
    assert printed.count("good") == number, printed


def test_alone(ranks: Ranks) -> None:
    assert "good" in ranks("symmetric.py", 1, "direct")
