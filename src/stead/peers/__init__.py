"""How participants of an agreement exchange: over the pipes between a parent and its workers.

# in the parent, with one multiprocessing connection to each worker
range_for_all = stead.reserve("1 GiB", together=stead.peers.Coordinator(connections))
# in each worker, with its connection to the parent
same_range = stead.reserve("1 GiB", together=stead.peers.Member(connection))
"""

from stead.peers.pipes import Coordinator, Member

__all__ = ["Coordinator", "Member"]
