"""How participants of an agreement exchange: over pipes to workers, between threads, over stream sockets, over
MPI.

# in the parent, with one multiprocessing connection to each worker
range_for_all = stead.reserve("1 GiB", together=stead.peers.Coordinator(connections))
# in each worker, with its connection to the parent
same_range = stead.reserve("1 GiB", together=stead.peers.Member(connection))
# in one process, and in each of four of any kind, on any host
hub = stead.peers.Hub("tcp://0.0.0.0:4000", 4, key=key)
same_range = stead.reserve("1 GiB", together=stead.peers.Socket("tcp://10.0.0.1:4000", key=key))
# in each rank of an MPI job
same_range = stead.reserve("1 GiB", together=stead.peers.Mpi(MPI.COMM_WORLD))
"""

from stead.peers.hub import Hub
from stead.peers.mpi import Mpi
from stead.peers.pipes import Coordinator, Member
from stead.peers.sockets import Socket
from stead.peers.threads import Threads

__all__ = ["Coordinator", "Hub", "Member", "Mpi", "Socket", "Threads"]
