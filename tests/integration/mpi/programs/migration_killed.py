"""A rank stops for good in the middle of a migration: `sender`, `receiver` or `bystander`, as the argument says.

The others hear of it in time, and hold what they held before. The one that stops is killed by SIGKILL after that:
were it killed at once, mpiexec would end the whole job before they could look."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import stead
from stead.symmetric import migration

sys.path.insert(0, str(Path(__file__).parents[3]))

from integration.mpi.programs.pointers import MIB, build, make, walk

TIMEOUT = 10.0  # seconds: half of it a rank may get no processor


def main() -> None:
    comm: Any = importlib.import_module("mpi4py.MPI").COMM_WORLD
    folder = Path(sys.argv[2])
    who = {"sender": 0, "receiver": 1, "bystander": comm.size - 1}[sys.argv[1]]
    migration.ROUND = MIB
    slices = make(comm, timeout=TIMEOUT)
    nodes = comm.bcast(build(slices, 100) if comm.rank == 0 else None)
    large = [slices.allocate(2 * MIB) for _ in range(8)] if comm.rank == 0 else []
    mine = slices.allocate(48)
    dying = comm.bcast(os.getpid(), root=who)

    def progress(done: int, total: int) -> None:
        assert 0 < done < total
        if comm.rank == who:
            os.kill(os.getpid(), signal.SIGSTOP)

    try:
        slices.migrate(
            nodes + large if comm.rank == 0 else None, to=1 if comm.rank == 0 else None, progress=progress
        )
    except stead.PeerFailed as error:
        assert error.peer.startswith(f"rank {who}"), error
    else:
        raise AssertionError("without a rank")
    assert slices.lives_here(nodes[0]) is (comm.rank == 0)
    if comm.rank == 0:
        assert walk(nodes[0]) == list(range(100))
        slices.free(large[0])
    slices.free(mine)
    try:
        slices.collect()
    except stead.PeerFailed:
        (folder / f"good-{comm.rank}").touch()
    # Nobody ends in the usual way, which would wait for who has stopped.
    with open(folder / "fifo", "r+b", buffering=0) as fifo:
        fifo.write(b"x")
        if comm.rank == (0 if who else 1):
            for _ in range(comm.size - 1):
                fifo.read(1)
            os.kill(dying, signal.SIGKILL)
        signal.pause()


if __name__ == "__main__":
    main()
