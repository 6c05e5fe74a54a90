"""What is saved by one job, and restored by another: lists of raw pointers that live away from where they were
allocated, copies, and whatever comes next; and the refusals.

`save FOLDER`, and twice with `again`; `kill-writing`, `kill-renaming`: the last rank dies by SIGKILL in the middle
of a second save. `restore FOLDER GENERATION`; `taken`, `damaged`: must be refused at rank 1."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

import stead
from stead import ledger
from stead.symmetric import Slices, saving

sys.path.insert(0, str(Path(__file__).parents[3]))

from integration.mpi.programs.pointers import MIB, all_equal, build, make, walk, word

COUNT = 500


def save(comm: Any, folder: Path, how: str) -> None:
    """Rank r's list lives at r + 1; its copy at r, too, where r is even. Some blocks have been freed elsewhere."""
    slices = make(comm)
    nodes = build(slices, COUNT)
    doomed = [slices.allocate(5000) for _ in range(40)]
    large = slices.allocate(3 * MIB)
    with slices.view(large) as view:
        view[-4:] = b"last"
    to = (comm.rank + 1) % comm.size
    slices.migrate([*nodes, *doomed], to=to, copy=comm.rank % 2 == 0)
    source = (comm.rank - 1) % comm.size
    for each in comm.allgather(doomed)[source]:
        slices.free(each)
    roots = comm.allgather({"head": nodes[0], "large": large, "doomed": doomed})
    if comm.rank == 0:
        (folder / "roots.json").write_text(json.dumps(roots))
    path = slices.save(folder / "saves")
    assert path == str(folder / "saves" / f"rank-{comm.rank}.1.stead")
    if how == "save":
        slices.close()
        return
    word(nodes[0] if comm.rank % 2 == 0 else large).value = 0  # a second generation
    monkeypatch = pytest.MonkeyPatch()
    if comm.rank == comm.size - 1 and how == "kill-writing":
        monkeypatch.setattr(saving, "write", die)
    if comm.rank == comm.size - 1 and how == "kill-renaming":
        monkeypatch.setattr(os, "rename", die)
    slices.save(folder / "saves")
    names = {each.name for each in (folder / "saves").iterdir() if each.name.startswith(f"rank-{comm.rank}.")}
    assert names == {f"rank-{comm.rank}.2.stead"}


def die(*_: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("killed")


def restore(comm: Any, folder: Path, generation: int) -> None:
    roots = json.loads((folder / "roots.json").read_text())
    slices = Slices.restore(folder / "saves", comm)
    assert all_equal(comm, slices.range)
    source = (comm.rank - 1) % comm.size
    theirs, ours = roots[source], roots[comm.rank]
    assert walk(theirs["head"]) == list(range(COUNT))
    even = comm.rank % 2 == 0
    assert slices.lives_here(ours["head"]) is even
    if even:
        assert walk(ours["head"]) == (list(range(COUNT)) if generation == 1 else [0])
    with slices.view(ours["large"]) as view:
        assert bytes(view) == bytes(len(view) - 4) + b"last"
    # Those of odd ranks were moved and freed; copies of the even ones are left.
    assert slices.statistics().blocks == COUNT + 1 + (40 if even else 0)
    assert [slices.lives_here(each) for each in theirs["doomed"]] == [False] * 40
    again = {slices.allocate(48) for _ in range(COUNT)} | {slices.allocate(5000) for _ in range(20)}
    assert ours["large"] not in again
    if not even:
        assert again & set(ours["doomed"])
    # The lists go home, where there is not a copy of it, and all is freed.
    here = list_of(theirs["head"])
    slices.migrate(() if source % 2 == 0 else here, to=source)
    if source % 2 == 0:
        for each in here:
            slices.free(each)
    if not even:
        assert walk(ours["head"]) == list(range(COUNT))
        for each in list_of(ours["head"]):
            slices.free(each)
    slices.collect()
    assert slices.statistics().blocks == 1 + COUNT + 20 + (40 + COUNT if even else 0)
    # And can be saved again.
    slices.save(folder / "again")
    slices.close()
    slices.reservation.release()


def list_of(head: int) -> list[int]:
    found = []
    while head:
        found.append(head)
        head = word(head).value
    return found


def refused(comm: Any, folder: Path, how: str, why: str) -> None:
    """Rank 1 says why, the others that it was rank 1, and nobody holds anything."""
    roots = json.loads((folder / "roots.json").read_text())
    head = roots[0]["head"]
    obstacle = None
    if how == "taken" and comm.rank == 1:
        obstacle = stead.reserve(4096, at=head // 4096 * 4096 + 8 * MIB, name="somebody else")
    kind: type[stead.AddressSpaceError] = stead.Occupied if how == "taken" else stead.UnreadableSave
    before = held()
    try:
        Slices.restore(folder / "saves", comm)
    except stead.PeerFailed as error:
        assert comm.rank != 1, error
        assert error.peer == "rank 1"
        assert why in str(error), error
    except kind as error:
        assert comm.rank == 1, error
        assert why in str(error), error
        if isinstance(error, stead.Occupied):
            assert error.by
            assert "somebody else" in error.by.name
            assert error.range.start <= head < error.range.stop
    else:
        raise AssertionError("not refused")
    assert held() == before
    if obstacle:
        obstacle.release()


def held() -> int:
    """Reservations that have not been released."""
    return sum(not each.released for entry in list(ledger.held) if (each := entry()))


def main() -> None:
    comm: Any = importlib.import_module("mpi4py.MPI").COMM_WORLD
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "restore":
        restore(comm, folder, int(sys.argv[3]))
    elif what in ("taken", "damaged"):
        refused(comm, folder, what, sys.argv[3])
    else:
        save(comm, folder, what)
    print("good", flush=True)


if __name__ == "__main__":
    main()
