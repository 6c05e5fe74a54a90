"""Structures with raw pointers in slices, for the programs here."""

from __future__ import annotations

import ctypes
from typing import Any

import stead
from stead.symmetric import Slices

MIB = 1 << 20
NODE = 48  # bytes: next, number, and what is left


def word(address: int) -> ctypes.c_uint64:
    return ctypes.c_uint64.from_address(address)


def make(comm: Any, slice_size: int = 64 * MIB, timeout: float = 30.0) -> Slices:
    """Slices in a reservation of all ranks, from its second page on."""
    with stead.peers.Mpi(comm) as together:
        held = stead.reserve(4096 + slice_size * comm.size, together=together, name="slices")
    return Slices(held, 4096, slice_size, comm, timeout=timeout)


def build(slices: Slices, count: int) -> list[int]:
    """A linked list of numbered nodes: their addresses, in its order."""
    nodes = [slices.allocate(NODE) for _ in range(count)]
    for number, (here, following) in enumerate(zip(nodes, [*nodes[1:], 0], strict=True)):
        word(here).value, word(here + 8).value = following, number
    return nodes


def walk(head: int) -> list[int]:
    """The numbers of a list's nodes."""
    found = []
    while head:
        found.append(word(head + 8).value)
        head = word(head).value
    return found


def all_equal(comm: Any, value: object) -> bool:
    return len(set(comm.allgather(value))) == 1
