"""Slices under a real mpiexec: blocks move and are copied; a rank stops in the middle; saves, restored by another
job, and by none where they are damaged or the addresses taken."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from integration.mpi.conftest import Ranks


def test_structures_move_with_their_pointers(ranks: Ranks, number: int) -> None:
    printed = ranks("migration.py", number)
    assert printed.count("good") == number, printed


@pytest.mark.parametrize("who", ["sender", "receiver", "bystander"])
def test_a_rank_that_stops_in_the_middle(ranks: Ranks, tmp_path: Path, who: str) -> None:
    number = 3 if who == "bystander" else 2
    os.mkfifo(tmp_path / "fifo")
    printed = ranks("migration_killed.py", number, who, str(tmp_path), fails=True)
    assert len(list(tmp_path.glob("good-*"))) == number - 1, printed


def test_what_was_saved_is_restored(ranks: Ranks, number: int, tmp_path: Path) -> None:
    folder = str(tmp_path)
    ranks("saving.py", number, "save", folder)
    printed = ranks("saving.py", number, "restore", folder, "1")
    assert printed.count("good") == number, printed
    printed = ranks("saving.py", number, "taken", folder, "somebody else")
    assert printed.count("good") == number, printed


def test_a_second_save_takes_the_place_of_the_first(ranks: Ranks, tmp_path: Path) -> None:
    folder = str(tmp_path)
    ranks("saving.py", 2, "again", folder)
    printed = ranks("saving.py", 2, "restore", folder, "2")
    assert printed.count("good") == 2, printed


@pytest.mark.parametrize("how", ["kill-writing", "kill-renaming"])
def test_a_save_whose_rank_is_killed_leaves_the_older_one(ranks: Ranks, tmp_path: Path, how: str) -> None:
    folder = str(tmp_path)
    ranks("saving.py", 3, how, folder, fails=True)
    printed = ranks("saving.py", 3, "restore", folder, "1")
    assert printed.count("good") == 3, printed


def test_damaged_files_are_refused(ranks: Ranks, tmp_path: Path) -> None:
    ranks("saving.py", 2, "save", str(tmp_path))
    path = tmp_path / "saves" / "rank-1.1.stead"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-100] ^= 4
    for data, why in [(whole[:-1], "cut off or added to"), (bytes(flipped), "its contents are damaged")]:
        path.write_bytes(data)
        printed = ranks("saving.py", 2, "damaged", str(tmp_path), why)
        assert printed.count("good") == 2, printed
    path.unlink()
    printed = ranks("saving.py", 3, "damaged", str(tmp_path), "x", fails=True)
    assert "there is no file of rank 1" in printed
