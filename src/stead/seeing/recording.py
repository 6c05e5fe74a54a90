"""Snapshots of processes, again and again, into a file."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from stead.seeing.capture import capture

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

    from stead.seeing.shape import Artefact


def record(file: IO[str], pids: tuple[int, ...], seconds: float, every: float) -> Iterator[Artefact]:
    """Write a snapshot of ``pids`` now, and one more after ``every`` seconds and so on, until ``seconds`` have
    passed: each is on its own line, and in the file before it is yielded, so that a recording that is killed is
    good as far as it got.

    Raises what capture does: ProcessLookupError when one of them ends.
    """
    began = time.monotonic()
    number = 0
    while True:
        taken = capture(*pids)
        file.write(json.dumps(taken) + "\n")
        file.flush()
        yield taken
        # Where taking one takes longer than the time between two, some are left out.
        number = max(number + 1, int((time.monotonic() - began) / every))
        if number * every > seconds:
            return
        time.sleep(max(began + number * every - time.monotonic(), 0))
