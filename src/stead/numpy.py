"""NumPy arrays whose memory comes from an arena, by NumPy's own data handler (NEP 49).

    with stead.numpy.allocating_in(arena):
        x = numpy.ones(1_000_000)       # in the arena, and so are temporaries
    x += 1                              # still there: arrays outlive the context, and keep the arena alive

The handler is a context variable (contextvars). A thread begins with a context of its own, in which NumPy's
default is set: give it the handler by entering ``allocating_in`` in the thread, or by running it in a copy of
the context:

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(work,))

An asyncio task copies the context by itself, and so does ``asyncio.to_thread``; a pool's threads do not.
"""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy

from stead import _native
from stead.arena import Arena
from stead.errors import Released, Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterator

multiarray: Any = importlib.import_module(
    "numpy._core.multiarray" if hasattr(numpy, "_core") else "numpy.core.multiarray"
)

__all__ = ["allocating_in", "handler_name"]


@contextmanager
def allocating_in(arena: Arena) -> Iterator[Arena]:
    """Every array that NumPy makes in this context gets its memory from ``arena``; nested, the innermost counts.

    Arrays made in it are like any others: they own their memory, can be resized (in place where there is room
    behind them), and give it back wherever and whenever they end; they keep the arena alive. Where the arena
    has no room NumPy raises MemoryError. What is not memory of an array (its shape, Python objects) is not in
    the arena, nor is what other libraries wrap without NumPy's allocator.

    Raises TypeError where ``arena`` is none, Released after its close, Unsupported where its memory must not be
    touched.
    """
    if not isinstance(arena, Arena):
        raise TypeError(f"arena is {arena!r}, must be a stead.Arena")
    if arena.closed:
        raise Released(f"{arena!r}")
    if arena._untouchable:
        raise Unsupported(
            "NumPy arrays in an arena", "memory that may be touched", f"{arena!r} with backing='none'"
        )
    api = multiarray._ARRAY_API
    before = _native.set_data_handler(api, _native.data_handler(arena))
    try:
        yield arena
    finally:
        _native.set_data_handler(api, before)


def handler_name(array: numpy.ndarray[Any, Any] | None = None) -> str | None:
    """Who allocated an array's memory, or would that of a new one: "stead", "default_allocator", or another's
    name. None for an array that does not own its memory."""
    name: str | None = multiarray.get_handler_name() if array is None else multiarray.get_handler_name(array)
    return name
