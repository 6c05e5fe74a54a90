"""What the crowd of heap.py is forked from: all that it needs, imported, and out of reach of the garbage
collector, which would write to it in every process."""

from __future__ import annotations

import gc

import heap_workers
import numpy

import stead.heap.arrays

__all__ = ["heap_workers", "numpy", "stead"]

gc.collect()
gc.freeze()
