"""The last rank is killed, or stopped, while the others are in a collective call, or before they come to one. The
arguments: which call, by which signal, a folder where each of the others writes what became of it, and how many
those are."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import stead
from stead.peers import mpi

MiB = 1 << 20


def outcome(heap: stead.SymmetricHeap, call: str, array: Any) -> str:
    calls: dict[str, Any] = {
        "securing": lambda: heap.allocate(16 * MiB),
        "allocate": lambda: heap.allocate(16 * MiB),
        "barrier": heap.barrier,
        "close": heap.close,
    }
    before = heap.statistics()
    try:
        calls[call]()
    except stead.PeerFailed as error:
        said = str(error)
    else:
        return f"{call} was done without the last rank"
    if call == "close":
        return f"PeerFailed: {said}; closed: {heap.closed}"
    if heap.statistics() != before:
        return f"{heap.statistics()} after {before}"
    # Nothing can be agreed on any more, and that is said at once; what is shared is there all the same.
    try:
        heap.allocate(16 * MiB)
    except stead.PeerFailed:
        pass
    else:
        return "allocated without the last rank"
    if heap.get(heap.pointer(array, 0), 8) != bytes(8):
        return "rank 0 has lost what it had"
    return f"PeerFailed: {said}"


def main(call: str, end: str, folder: str, _others: str) -> None:
    comm: Any = importlib.import_module("mpi4py.MPI").COMM_WORLD
    victim = comm.size - 1
    heap = stead.SymmetricHeap("64 MiB", comm, timeout=60)
    array: Any = heap.array(100)
    array[:] = comm.rank
    heap.barrier(60)
    # Quicker from here on. A rank that gets no processor for a second shall not be named in place of the one that
    # is gone, by whoever is above it in the tree.
    mpi._LEVEL = 1.0
    voting: Any = heap._voting
    voting.timeout = voting._exchange._timeout = 2.0
    if comm.rank == victim:
        if call == "securing":  # half of the call is done
            memory: Any = heap._memory
            memory.secure = lambda pages: os.kill(os.getpid(), getattr(signal, end))
            heap.allocate(16 * MiB)
        os.kill(os.getpid(), getattr(signal, end))
        os._exit(1)  # Stopped, and then continued, as Open MPI's launcher does where it ends a job: it is too late
    if call == "close":
        array = None
    said = outcome(heap, call, array)
    Path(folder, str(comm.rank)).write_text(said)
    # MPI_Finalize would wait for the last rank; and where one ends the launcher may end all.
    for _ in ("written", "known"):
        if comm.rank:
            comm.send(None, dest=0)
            comm.recv(source=0)
        else:
            for rank in range(1, victim):
                comm.recv(source=rank)
            for rank in range(1, victim):
                comm.send(None, dest=rank)
    os._exit(0)


if __name__ == "__main__":
    # The launcher looks at the process that it has started: that one only waits, so that it does not end the
    # others.
    child = os.fork()
    if not child:
        main(*sys.argv[1:])
    _, status = os.waitpid(child, os.WUNTRACED)
    if os.WIFSTOPPED(status) or os.WIFSIGNALED(status):
        while len(os.listdir(sys.argv[3])) < int(sys.argv[4]):  # so many others are to write
            time.sleep(0.05)
        if os.WIFSTOPPED(status):
            os.kill(child, signal.SIGKILL)
