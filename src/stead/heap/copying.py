"""Copying what is large: without the GIL, and by several threads, since one processor does not copy as fast as
the memory could."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

# From here on bytes are copied without the GIL, if NumPy is there to do it.
LARGE = 1 << 18

# What is worth a thread, which takes some 50 us to start and to end; and how many saturate the memory.
_SHARE = 8 << 20
_MOST = 4


def copy(to: memoryview, source: memoryview) -> None:
    """All of ``source`` to memory of the same length."""
    size = source.nbytes
    numpy: Any = sys.modules.get("numpy") if size >= LARGE else None
    if numpy is None:
        to[:] = source
        return
    there, here = numpy.frombuffer(to, "u1"), numpy.frombuffer(source, "u1")
    threads = min(size // _SHARE, _MOST, len(os.sched_getaffinity(0))) if size >= 2 * _SHARE else 1
    if threads < 2:
        numpy.copyto(there, here)
        return
    step = -(-size // threads) + 63 & ~63
    helpers = []
    done = 1
    with suppress(RuntimeError):  # no more threads to be had: then this one does what is left
        for n in range(1, threads):
            part = slice(n * step, (n + 1) * step)
            helper = threading.Thread(target=numpy.copyto, args=(there[part], here[part]), name="stead-copy")
            helper.start()
            helpers.append(helper)
            done += 1
    try:
        numpy.copyto(there[:step], here[:step])
        if done < threads:
            numpy.copyto(there[done * step :], here[done * step :])
    finally:
        for helper in helpers:
            helper.join()
