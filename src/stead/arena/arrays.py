"""NumPy arrays in Blocks: see :meth:`stead.Arena.array`. Imports NumPy only when it is asked for one."""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING, Any, SupportsIndex, cast

from stead.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy
    from numpy.typing import DTypeLike

    from stead import _native

_CACHE_LINE = 64


def new_array(
    arena: _native.Arena, shape: SupportsIndex | Iterable[SupportsIndex], dtype: DTypeLike, order: str
) -> numpy.ndarray[Any, Any]:
    import numpy

    if arena._untouchable:
        raise Unsupported("a NumPy array", "memory that may be touched from here", repr(arena))
    lengths, kind, size = layout(shape, dtype, order)
    view = memoryview(arena.block(max(size, 1), _CACHE_LINE))
    return numpy.ndarray(lengths, kind, buffer=view, order=cast("Any", order))


def layout(
    shape: SupportsIndex | Iterable[SupportsIndex], dtype: DTypeLike, order: str, where: str = "an arena"
) -> tuple[tuple[int, ...], numpy.dtype[Any], int]:
    """The lengths, the dtype and the bytes of an array that is to live in ``where``. Raises TypeError,
    ValueError."""
    import numpy

    kind = numpy.dtype(dtype)
    if kind.hasobject:
        raise TypeError(f"dtype is {kind!r}, which holds Python objects: these cannot live in {where}")
    if order not in ("C", "F"):
        raise ValueError(f"order is {order!r}, must be 'C' or 'F'")
    lengths = _lengths(shape)
    size = kind.itemsize
    for each in lengths:
        if each < 0:
            raise ValueError(f"shape is {shape!r}: no dimension may be negative")
        size *= each
    return lengths, kind, size


def _lengths(shape: SupportsIndex | Iterable[SupportsIndex]) -> tuple[int, ...]:
    try:
        return (index(cast("SupportsIndex", shape)),)
    except TypeError:
        pass
    try:
        return tuple(map(index, cast("Iterable[SupportsIndex]", shape)))
    except TypeError:
        raise TypeError(f"shape is {shape!r}, must be an int or a tuple of ints") from None
