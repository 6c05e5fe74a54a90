"""Snapshots and recordings as files: one snapshot on each line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from stead.seeing.schema import NoSnapshot, check

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stead.seeing.shape import Artefact


def load(path: Path) -> Artefact:
    """The first snapshot of a file. Raises OSError, and NoSnapshot, which names the file and what is wrong."""
    for found in frames(path):
        return found
    raise NoSnapshot(str(path), "is empty, and has no snapshot")


def frames(path: Path) -> Iterator[Artefact]:
    """The snapshots of a recording, in order. A last line that was cut short, since whoever recorded was killed,
    is left out; what else is no snapshot raises NoSnapshot."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            here = f"{path}, line {number}"
            try:
                data = json.loads(line)
            except (ValueError, RecursionError):
                if number > 1 and not line.endswith(b"\n"):
                    return
                raise NoSnapshot(here, "is no JSON") from None
            try:
                yield check(data)
            except NoSnapshot as error:
                raise NoSnapshot(here, f"is no snapshot: {error}") from None
