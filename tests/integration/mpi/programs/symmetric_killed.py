"""The last rank is killed (or, where the launcher would end the whole job for that, stopped) while the others are
in a collective call, or before they come to one. The arguments: which call, and how it ends."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Any

import stead

MPI: Any = importlib.import_module("mpi4py.MPI")
MiB = 1 << 20


def main() -> None:
    comm: Any = MPI.COMM_WORLD
    call, end = sys.argv[1:]
    victim = comm.size - 1
    heap = stead.SymmetricHeap("64 MiB", comm, timeout=2)
    array = heap.array(100)
    array[:] = comm.rank
    heap.barrier(60)
    if comm.rank == victim:
        if call == "securing":  # half of the call is done
            memory: Any = heap._memory
            memory.secure = lambda pages: os.kill(os.getpid(), getattr(signal, end))
            heap.allocate(16 * MiB)
        os.kill(os.getpid(), getattr(signal, end))
    secured = heap.statistics()
    calls: dict[str, Any] = {
        "securing": lambda: heap.allocate(16 * MiB),
        "allocate": lambda: heap.allocate(16 * MiB),
        "barrier": heap.barrier,
        "close": heap.close,
    }
    if call == "close":
        del array
    try:
        calls[call]()
    except stead.PeerFailed as error:
        print(f"PeerFailed on {comm.rank}: {error}", flush=True)
    else:
        raise AssertionError(f"{call} without rank {victim}")
    if call == "close":
        assert heap.closed
    else:
        assert heap.statistics() == secured, "nothing has changed"
        # Nothing can be agreed on any more, and that is said at once; what is shared is there all the same.
        try:
            heap.allocate(16 * MiB)
        except stead.PeerFailed:
            pass
        else:
            raise AssertionError("allocated without a rank")
        if heap.reaches(0) == "directly":
            assert heap.get(heap.pointer(array, 0), 8) == bytes(8)
    print(f"good {comm.rank}", flush=True)
    # MPI_Finalize would wait for the dead. Rank 0 ends the job, when the others have said what they have to say.
    if comm.rank:
        comm.send(None, dest=0)
        signal.pause()
    for rank in range(1, victim):
        comm.recv(source=rank)
    comm.Abort(0)


if __name__ == "__main__":
    main()
