"""Snapshots of processes, again and again, into a file."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from stead.seeing.capture import capture

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stead.seeing.shape import Artefact


def record(path: Path, pids: tuple[int, ...], seconds: float, every: float) -> Iterator[Artefact]:
    """Write a snapshot of ``pids`` now, and one more after ``every`` seconds and so on, until ``seconds`` have
    passed: each is on its own line, and in the file before it is yielded, so that a recording that is killed is
    good as far as it got. A file that is there is replaced once the first is taken.

    Raises OSError, and what capture does: ProcessLookupError when one of them ends.
    """
    began = time.monotonic()
    number = 0
    taken = capture(*pids)
    with open(path, "w", encoding="utf-8") as file:
        while True:
            file.write(json.dumps(taken) + "\n")
            file.flush()
            yield taken
            # Where taking one takes longer than the time between two, some are left out.
            number = max(number + 1, int((time.monotonic() - began) / every))
            if number * every > seconds:
                return
            time.sleep(max(began + number * every - time.monotonic(), 0))
            taken = capture(*pids)
