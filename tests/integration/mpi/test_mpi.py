"""Under a real mpiexec: meeting in a shared heap, and agreement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from integration.mpi.conftest import Ranks


@pytest.mark.parametrize("program", ["shared_heap.py", "agreement.py"])
def test_on_all_ranks(ranks: Ranks, number: int, program: str) -> None:
    printed = ranks(program, number)
    assert printed.count("good") == number, printed
