"""The same addresses at every rank of an MPI job, with contents of each rank's own."""

from stead.symmetric.slices import Slices

__all__ = ["Slices"]
