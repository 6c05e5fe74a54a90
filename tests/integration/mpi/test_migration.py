"""Slices under a real mpiexec: blocks move and are copied; a rank stops in the middle; saves, restored by another
job, and by none where they are damaged or the addresses taken."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
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


def test_a_symmetric_heap_is_saved_and_restored(ranks: Ranks, number: int, tmp_path: Path) -> None:
    for what in ("save", "restore", "taken"):
        printed = ranks("symmetric_restart.py", number, what, str(tmp_path))
        assert printed.count("good") == number, printed


def test_the_examples_of_the_page_run(ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[3] / "docs/migration.md").read_text()
    found = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(found) == 2
    monkeypatch.chdir(tmp_path)
    printed = []
    for number, code in enumerate(found):
        script = tmp_path / f"example{number}.py"
        script.write_text(code)
        printed.append(ranks(str(script), 3))
    assert printed[0].splitlines() == ["1000 nodes at rank 2, the first at its old address: True"]
    assert printed[1].splitlines() == ["1000 blocks that rank 0 has allocated"]
