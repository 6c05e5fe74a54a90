"""What the tests of heaps under other libraries share."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

import stead

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def heap() -> Iterator[stead.SharedHeap]:
    """And afterwards nothing of it is held here, whoever else still has it."""
    made = stead.SharedHeap("1 GiB", name="tested")
    yield made
    gc.collect()
    made._expire(True)
    made.check()
    made.close()
