"""How participants of an agreement exchange: over pipes to workers, between threads, over MPI.

# in the parent, with one multiprocessing connection to each worker
range_for_all = stead.reserve("1 GiB", together=stead.peers.Coordinator(connections))
# in each worker, with its connection to the parent
same_range = stead.reserve("1 GiB", together=stead.peers.Member(connection))
# in each rank of an MPI job
same_range = stead.reserve("1 GiB", together=stead.peers.Mpi(MPI.COMM_WORLD))
"""

from stead.peers.mpi import Mpi
from stead.peers.pipes import Coordinator, Member
from stead.peers.threads import Threads

__all__ = ["Coordinator", "Member", "Mpi", "Threads"]
