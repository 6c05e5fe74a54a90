"""A symmetric heap with slices: `save FOLDER` by one job, `restore FOLDER` by another, `taken FOLDER`: refused."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import stead

sys.path.insert(0, str(Path(__file__).parents[3]))

from integration.mpi.programs.pointers import MIB, build, walk, word

COUNT = 200


def save(comm: Any, folder: Path) -> None:
    heap = stead.SymmetricHeap(4 * MIB, comm, slice=16 * MIB, name="restart")
    table, doomed = heap.allocate(1000), heap.allocate(70_000)
    nodes = build(heap.slices, COUNT)
    word(table).value, word(table + 8).value = nodes[0], 7 * comm.rank
    heap.free(doomed)
    heap.migrate(nodes, to=(comm.rank + 1) % comm.size)
    if comm.rank == 0:
        (folder / "roots.json").write_text(json.dumps({"table": table}))
    heap.save(folder / "saves")
    # Only what was saved comes back.
    word(table + 8).value = 99
    heap.close()


def restore(comm: Any, folder: Path) -> None:
    table = json.loads((folder / "roots.json").read_text())["table"]
    heap = stead.SymmetricHeap.restore(folder / "saves", comm)
    assert heap.statistics().blocks == 1
    assert word(table + 8).value == 7 * comm.rank
    heads = comm.allgather(word(table).value)
    assert walk(heads[comm.rank - 1]) == list(range(COUNT))
    # One-sided calls, and allocation, go on.
    there = (comm.rank + 1) % comm.size
    assert heap.get(heap.pointer(table, there), 16)[8:] == (7 * there).to_bytes(8, "little")
    again = heap.allocate(70_000)
    assert len(set(comm.allgather(again))) == 1
    assert again != table
    heap.free(table)
    heap.migrate(list_of(heads[comm.rank - 1]), to=(comm.rank - 1) % comm.size)
    assert walk(heads[comm.rank]) == list(range(COUNT))
    heap.close()
    # The slices by themselves are not all that is in these files.
    with pytest.raises(stead.UnreadableSave, match="segment 'symmetric'"):
        stead.symmetric.Slices.restore(folder / "saves", comm)
    with pytest.raises(stead.Unsupported, match="slice="), stead.SymmetricHeap(MIB, comm) as without:
        without.migrate()


def list_of(head: int) -> list[int]:
    found = []
    while head:
        found.append(head)
        head = word(head).value
    return found


def taken(comm: Any, folder: Path) -> None:
    """Rank 1 has something there: it says what; nobody holds anything."""
    table = json.loads((folder / "roots.json").read_text())["table"]
    obstacle = stead.reserve(4096, at=table // 4096 * 4096, name="somebody else") if comm.rank == 1 else None
    with pytest.raises(stead.Occupied if obstacle else stead.PeerFailed, match="somebody else"):
        stead.SymmetricHeap.restore(folder / "saves", comm)
    if obstacle:
        obstacle.release()
    stead.SymmetricHeap.restore(folder / "saves", comm).close()


def main() -> None:
    comm: Any = importlib.import_module("mpi4py.MPI").COMM_WORLD
    {"save": save, "restore": restore, "taken": taken}[sys.argv[1]](comm, Path(sys.argv[2]))
    print("good", flush=True)


if __name__ == "__main__":
    main()
