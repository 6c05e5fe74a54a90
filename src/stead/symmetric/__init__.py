"""Memory at the same addresses at every rank of an MPI job: see :class:`stead.SymmetricHeap`."""

from stead.symmetric.heap import SymmetricHeap, SymmetricStatistics
from stead.symmetric.pointer import GlobalPointer

__all__ = ["GlobalPointer", "SymmetricHeap", "SymmetricStatistics"]
