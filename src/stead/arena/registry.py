"""The arenas of this process, for those who look. Keeps none alive."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import ref

if TYPE_CHECKING:
    from stead.arena.arena import Arena

_arenas: set[ref[Arena]] = set()


def add(arena: Arena) -> None:
    _arenas.add(ref(arena, _arenas.discard))


def everything() -> list[Arena]:
    found = (each() for each in tuple(_arenas))
    return [each for each in found if each is not None and not each.closed]
