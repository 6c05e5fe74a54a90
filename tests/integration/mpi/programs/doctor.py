"""`stead mpi doctor` with the arguments given; the last rank may have less address space than the others."""

from __future__ import annotations

import os
import resource

from mpi4py import MPI

from stead.cli import main

if "LIMITED" in os.environ and MPI.COMM_WORLD.rank == MPI.COMM_WORLD.size - 1:
    resource.setrlimit(resource.RLIMIT_AS, (1 << 40, resource.getrlimit(resource.RLIMIT_AS)[1]))

if __name__ == "__main__":
    main()
