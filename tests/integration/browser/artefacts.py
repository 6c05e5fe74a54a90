"""Artefacts of processes that are made up, so that each test knows what is where."""

from __future__ import annotations

from typing import Any

PAGE = 4096
CODE, HEAP, LIBRARY, STACK = 0x555500000000, 0x555500600000, 0x7F0000000000, 0x7FFFFFF00000


def mapping(
    start: int, count: int, kind: str = "anonymous", access: str = "rw-p", name: str = "", **more: Any
) -> dict[str, Any]:
    made: dict[str, Any] = {
        "start": hex(start), "stop": hex(start + count * PAGE), "access": access, "kind": kind,
        "state": "committed", "name": name, "deleted": False, "offset": "0x0", "device": "0:0", "inode": 0,
        "reservation": None, "resident": None, "swapped": None, "pages": None,
    }  # fmt: skip
    return made | more


def process(mappings: list[dict[str, Any]], pid: int = 1234, **more: Any) -> dict[str, Any]:
    nothing = {"most": None, "used": None}
    made: dict[str, Any] = {
        "host": 0, "pid": pid, "rank": None, "title": "python", "command": ["python", "-m", "work"], "user": 0,
        "started_at": None, "pages_by": None, "published_at": None, "unread": [],
        "limits": dict.fromkeys(("address_space", "data", "mappings", "memory"), nothing),
        "mappings": sorted(mappings, key=lambda each: int(each.get("start", "0"), 16)),
        "reservations": [], "arenas": [], "heaps": [],
    }  # fmt: skip
    return made | more


def host(bits: int = 47, name: str = "here") -> dict[str, Any]:
    return {
        "name": name, "boot_id": name, "kernel": "Linux 6.18", "machine": "x86_64", "page_size": PAGE,
        "address_bits": bits, "lowest": "0x10000", "overcommit": "heuristic", "memory_available": None,
    }  # fmt: skip


def artefact(*processes: dict[str, Any], hosts: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"schema": "stead.snapshot/1", "taken_at": 1.8e9, "hosts": hosts or [host()], "processes": [*processes]}


def program(shift: int = 0, pid: int = 1234, **more: Any) -> dict[str, Any]:
    """One of each kind. ``shift``: bytes by which all but the pool lies higher, as another process of the same
    program has it."""
    pool = 0x400000000000
    begin, end = pool + 16 * PAGE, pool + (24 + (1 << 20)) * PAGE
    return process(
        [
            mapping(CODE + shift, 16, "file", "r-xp", "/usr/bin/python3", resident=12 * PAGE),
            mapping(HEAP + shift, 1024, "heap", "rw-p", "[heap]", resident=1000 * PAGE),
            mapping(LIBRARY + shift, 400, "file", "r--p", "/usr/lib/libcrypto.so.3", resident=100 * PAGE),
            mapping(LIBRARY + shift + 400 * PAGE, 600, "file", "r-xp", "/usr/lib/libcrypto.so.3", resident=0),
            mapping(LIBRARY + shift + 1000 * PAGE, 64, resident=64 * PAGE),
            mapping(LIBRARY + shift + 1100 * PAGE, 8, "shared memory", "rw-s", "/dev/shm/queue", resident=PAGE),
            mapping(STACK + shift, 33, "stack", "rw-p", "[stack]", resident=9 * PAGE),
            mapping(pool, 16, "ours", "---p", "pool", state="guard", resident=0, reservation=0),
            mapping(
                begin, 8, "ours", "rw-p", "pool", resident=3 * PAGE, reservation=0,
                pages=[[0, 2, "resident"], [4, 1, "swapped"], [6, 1, "resident"]],
            ),
            mapping(
                begin + 8 * PAGE, 1 << 20, "ours", "---p", "pool", state="reserved", resident=0, reservation=0,
            ),
        ],
        pid,
        reservations=[
            {
                "start": hex(begin), "stop": hex(end), "outer_start": hex(pool), "outer_stop": hex(end),
                "name": "pool", "generation": 0, "since": None, "parts": [],
            }
        ],
        arenas=[
            {
                "start": hex(begin), "stop": hex(begin + 8 * PAGE), "name": "pool", "quota": None,
                "fill": {
                    "committed": 8 * PAGE, "used": 2 * PAGE, "blocks": 1, "high_water": 6 * PAGE, "dirty": 0,
                    "largest_free_run": 6 * PAGE,
                },
            }
        ],
        **more,
    )  # fmt: skip


def ranks(number: int) -> dict[str, Any]:
    """The same program so many times, each 64 GiB below the last: address randomization moves them apart."""
    many = []
    for rank in range(number):
        many.append(program(-rank << 36, 2000 + rank, rank=rank))
    return artefact(*many)


def crowd(mappings: int) -> dict[str, Any]:
    """As many as a process may have."""
    at, many = LIBRARY, []
    for i in range(mappings):
        kind, access = (("anonymous", "rw-p"), ("file", "r--p"), ("file", "r-xp"))[i % 3]
        many.append(mapping(at, 1 + i % 7, kind, access, f"/lib/{i // 40}" if i % 3 else "", resident=PAGE))
        at += (1 + i % 7 + (i % 5 == 0)) * PAGE
    return artefact(process(many))
