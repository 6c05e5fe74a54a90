"""Artefacts made by hand, and what the views draw of them."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

from stead.maps import Kind, Mapping, mapping
from stead.ranges import Range
from stead.seeing.capture import mapping_seen

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stead.seeing.shape import Artefact, Host, MappingSeen, ProcessSeen

PAGE = 4096
KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

HOST: Host = {
    "name": "somewhere", "boot_id": "0b57f0f4-0000-4000-8000-000000000000", "kernel": "Linux 6.18",
    "machine": "x86_64", "page_size": PAGE, "address_bits": 47, "lowest": "0x10000", "overcommit": "heuristic",
    "committed_memory": {"most": 16 * GIB, "used": GIB}, "memory_available": 8 * GIB,
}  # fmt: skip


def at(start: int, pages: int, name: str = "", permissions: str = "rw-p", inode: int = 0) -> Mapping:
    return mapping(Range.sized(start, pages * PAGE), permissions, 0, (0, 0), inode, name)


def lies(
    start: int, size: int, kind: Kind | str, name: str = "", access: str = "rw-p", **more: Any
) -> MappingSeen:
    """A mapping of the artefact; ``more``: resident, state, reservation and so on."""
    made = mapping_seen(
        Mapping(
            Range.sized(start, size), access, 0, (0, 0), 9 if str(kind) == "file" else 0, name, False, Kind(kind)
        )
    )
    return {**made, **more}  # type: ignore[typeddict-item]


def process(mappings: list[MappingSeen] | list[Mapping], pid: int = 1, **more: Any) -> ProcessSeen:
    seen = [mapping_seen(each) if isinstance(each, Mapping) else each for each in mappings]
    unlimited = {"most": None, "used": None}
    made = {
        "host": 0, "pid": pid, "rank": None, "title": "someone", "command": ["someone"], "user": 1000,
        "started_at": 1790000000.0, "pages_by": None, "published_at": None, "unread": [],
        "limits": dict.fromkeys(("address_space", "data", "mappings", "memory"), unlimited),
        "mappings": seen, "reservations": [], "arenas": [], "heaps": [],
    }  # fmt: skip
    return {**made, **more}  # type: ignore[typeddict-item]


def artefact(*processes: ProcessSeen, taken_at: float = 1790000100.0) -> Artefact:
    return {"schema": "stead.snapshot/1", "taken_at": taken_at, "hosts": [HOST], "processes": list(processes)}


def drawn(
    draw: Callable[..., None],
    *arguments: Any,
    width: int = 80,
    encoding: str = "utf-8",
    colour: bool = False,
    **more: Any,
) -> str:
    """What a view prints."""
    from rich.console import Console

    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    console = Console(
        file=file, width=width, markup=False, highlight=False, emoji=False, force_terminal=colour,
        color_system="standard" if colour else None, _environ={"TERM": "xterm"},
    )  # fmt: skip
    draw(console, *arguments, **more)
    file.flush()
    return raw.getvalue().decode(encoding)


def expect(picture: str, path: Path) -> None:
    """That it is the picture that was looked at; STEAD_REDRAW=1 puts the new one in its place, to be looked at."""
    if os.environ.get("STEAD_REDRAW"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(picture, encoding="utf-8")
    assert picture == path.read_text(encoding="utf-8")
