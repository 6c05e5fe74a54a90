"""Where an array's memory is, for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

    import stead


def lives_in(arena: stead.Arena, array: numpy.ndarray[Any, Any]) -> bool:
    """Whether an arena holds it; NumPy must say the same."""
    from stead.numpy import handler_name

    owned = arena.owns(array.ctypes.data)
    assert (handler_name(array) == "stead") is owned
    return owned
