"""The artefact as types: what `snapshot-1.schema.json` says, for those who read it in Python."""

from __future__ import annotations

from typing import Literal, TypedDict

SCHEMA = "stead.snapshot/1"


class Limit(TypedDict):
    most: int | None
    used: int | None


class Host(TypedDict):
    name: str
    boot_id: str
    kernel: str
    machine: str
    page_size: int
    address_bits: int
    lowest: str
    overcommit: Literal["heuristic", "always", "never", "unknown"]
    committed_memory: Limit
    memory_available: int | None


class Limits(TypedDict):
    address_space: Limit
    data: Limit
    mappings: Limit
    memory: Limit


class MappingSeen(TypedDict):
    start: str
    stop: str
    access: str
    kind: str
    state: Literal["committed", "reserved", "guard"]
    name: str
    deleted: bool
    offset: str
    device: str
    inode: int
    reservation: int | None
    resident: int | None
    swapped: int | None
    pages: list[tuple[int, int, Literal["resident", "swapped"]]] | None


class PartSeen(TypedDict):
    start: str
    stop: str
    access: str
    backing: str


class ReservationSeen(TypedDict):
    start: str
    stop: str
    outer_start: str
    outer_stop: str
    name: str | None
    generation: int
    since: float | None
    parts: list[PartSeen]


class Fill(TypedDict):
    committed: int
    used: int
    blocks: int
    high_water: int
    dirty: int
    largest_free_run: int


class ArenaSeen(TypedDict):
    start: str
    stop: str
    name: str | None
    quota: int | None
    fill: Fill | None


class HolderSeen(TypedDict):
    pid: int
    alive: bool
    blocks: int | None
    bytes: int | None


class ChannelSeen(TypedDict):
    number: int
    messages: int
    capacity: int
    closed: bool


class HeapSeen(TypedDict):
    start: str
    stop: str
    name: str | None
    identity: str
    read_only: bool
    fill: Fill | None
    holders: list[HolderSeen]
    channels: list[ChannelSeen]


class Holdings(TypedDict):
    """What stead holds in one process."""

    reservations: list[ReservationSeen]
    arenas: list[ArenaSeen]
    heaps: list[HeapSeen]


class ProcessSeen(Holdings):
    host: int
    pid: int
    rank: int | None
    title: str
    command: list[str]
    user: int | None
    started_at: float | None
    pages_by: Literal["scan", "pagemap", "smaps"] | None
    published_at: float | None
    unread: list[str]
    limits: Limits
    mappings: list[MappingSeen]


class Artefact(TypedDict):
    """Address spaces at one moment."""

    schema: str
    taken_at: float
    hosts: list[Host]
    processes: list[ProcessSeen]


def address(value: int) -> str:
    """An address as the artefact has it."""
    return f"{value:#x}"
