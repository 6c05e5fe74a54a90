"""Symmetric heaps under a real mpiexec."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from integration.mpi.conftest import Ranks

EXAMPLE = Path(__file__).parents[3] / "examples/distributed_index.py"


@pytest.mark.parametrize("how", ["direct", "mpi", "mixed"])
def test_on_all_ranks(ranks: Ranks, number: int, how: str) -> None:
    printed = ranks("symmetric.py", number, how)
    assert printed.count("good") == number, printed


def test_alone(ranks: Ranks) -> None:
    assert "good" in ranks("symmetric.py", 1, "direct")


@pytest.mark.parametrize(
    ("call", "end", "said"),
    [
        ("allocate", "SIGKILL", "rank {last}: did not answer in time"),
        ("allocate", "SIGSTOP", "rank {last}: did not answer in time"),
        ("securing", "SIGKILL", "rank {last}: did not answer in time"),
        ("barrier", "SIGKILL", "a rank: did not come in time"),
        ("close", "SIGKILL", "rank {last}: did not answer in time; closed: True"),
    ],
)
def test_the_others_are_told_that_a_rank_is_gone(
    ranks: Ranks, tmp_path: Path, number: int, call: str, end: str, said: str
) -> None:
    others = number - 1
    ranks("symmetric_killed.py", number, call, end, str(tmp_path), str(others), fails=None)
    expected = "PeerFailed: " + said.format(last=others)
    found = {int(each.name): each.read_text() for each in tmp_path.iterdir()}
    assert sorted(found) == list(range(others))
    assert found[0] == expected
    # A rank that is told by one between them hears what that one was told.
    assert all(each.startswith("PeerFailed: ") for each in found.values()), found


@pytest.mark.parametrize("how", [(), ("--mpi",)], ids=["directly", "through MPI"])
def test_an_index_over_all_ranks_equals_the_serial_one(ranks: Ranks, number: int, how: tuple[str, ...]) -> None:
    folder = Path(sysconfig.get_path("stdlib"), "json")
    printed = ranks(str(EXAMPLE), number, str(folder), *how)
    assert "equal to the serial answer" in printed
    assert f"by {number} ranks" in printed
