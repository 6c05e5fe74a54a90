"""Memory at the same addresses at every rank of an MPI job: see :class:`stead.SymmetricHeap`."""

from stead.symmetric.heap import SymmetricHeap, SymmetricStatistics
from stead.symmetric.pointer import GlobalPointer
from stead.symmetric.slices import Slices

__all__ = ["GlobalPointer", "Slices", "SymmetricHeap", "SymmetricStatistics"]
