"""An array of a SharedHeap from rank to rank, and to all."""

from __future__ import annotations

import importlib
from typing import Any

import stead


def main() -> None:
    comm: Any = importlib.import_module("mpi4py.MPI").COMM_WORLD
    if comm.rank == 0:
        heap = stead.SharedHeap("1 GiB")
        array: Any = heap.array(1000)
        array[:] = 1.0
        comm.send(array[10:], dest=1)
        assert comm.recv(source=1) == ("HeapArray", array[10:].ctypes.data)
        assert array[10] == 5.0
    else:
        array = None
        if comm.rank == 1:
            got: Any = comm.recv(source=0)
            got[0] = 5.0
            comm.send((type(got).__name__, got.ctypes.data), dest=0)
    everywhere: Any = comm.bcast(array, root=0)
    assert set(comm.allgather(everywhere.ctypes.data)) == {everywhere.ctypes.data}
    assert everywhere.sum() == 1004.0
    comm.barrier()  # rank 0 holds it until all have it
    print("good", flush=True)


if __name__ == "__main__":
    main()
