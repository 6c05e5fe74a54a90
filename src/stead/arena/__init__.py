"""Blocks out of one range of addresses: see :class:`stead.Arena`."""

from stead.arena.arena import Arena
from stead.arena.statistics import ArenaStatistics, SizeClass

__all__ = ["Arena", "ArenaStatistics", "SizeClass"]
