"""Arena.array; and NumPy's arrays in hardened and guarded arenas."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import pytest

import stead
from conftest import need

need("numpy")
import numpy as np  # noqa: E402

from stead.numpy import allocating_in, handler_name  # noqa: E402

MIB = 1 << 20


# ---- Arena.array ----------------------------------------------------------------------------------


def test_an_array_in_a_block(arena: stead.Arena) -> None:
    x = arena.array((3, 5), "float32", "F")
    assert (x.shape, x.dtype, x.flags.f_contiguous, x.flags.writeable) == ((3, 5), np.float32, True, True)
    assert x.ctypes.data % 64 == 0
    assert arena.owns(x.ctypes.data)
    assert handler_name(x) is None  # it does not own its memory: the Block does
    x[:] = 7
    part = x[1:]
    del x
    assert (arena.statistics().blocks, float(part.sum())) == (1, 70.0)
    del part
    assert arena.statistics().blocks == 0


@pytest.mark.parametrize("shape", [0, (0,), (3, 0, 2), ()])
def test_arrays_with_one_element_or_none(arena: stead.Arena, shape: Any) -> None:
    x = arena.array(shape)
    assert x.shape == np.empty(shape).shape
    assert x.dtype == np.float64


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"shape": -1}, "shape is -1"),
        ({"shape": (3, -2)}, r"shape is \(3, -2\)"),
        ({"shape": 3, "dtype": object}, "dtype is"),
        ({"shape": 3, "dtype": [("a", object)]}, "dtype is"),
        ({"shape": 3, "order": "K"}, "order is 'K'"),
        ({"shape": "many"}, "shape is 'many'"),
        ({"shape": 2.5}, "shape is 2.5"),
        ({"shape": (2, 2.5)}, r"shape is \(2, 2.5\)"),
    ],
)
def test_bad_arrays_are_named(arena: stead.Arena, arguments: dict[str, Any], named: str) -> None:
    with pytest.raises((ValueError, TypeError), match=named):
        arena.array(**arguments)
    assert arena.statistics().blocks == 0


def test_an_array_beyond_the_arena_is_out_of_space(arena: stead.Arena) -> None:
    for shape in (9 * MIB, (1 << 40, 1 << 40)):
        with pytest.raises(stead.OutOfSpace):
            arena.array(shape)


def test_an_arrays_block_keeps_the_arena() -> None:
    arena = stead.Arena("4 MiB", zero=True)
    gone = weakref.ref(arena)
    x = arena.array(1000)
    del arena
    assert not x.any()
    assert gone() is not None
    del x
    assert gone() is None


# ---- careful arenas -------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"hardened": True}, {"guard": 4096}, {"hardened": True, "guard": 4096}])
def test_arrays_in_careful_arenas(options: dict[str, Any]) -> None:
    with stead.Arena("64 MiB", **options) as arena:
        with allocating_in(arena):
            x = np.arange(1000) + 1
            assert not np.zeros(1000).any()
            y = np.ones(MIB)
            with pytest.raises(MemoryError):
                np.ones(64 * MIB)
        x.resize(3000, refcheck=False)
        assert int(x.sum()) == 500500
        assert (arena.statistics().blocks, float(y[-1])) == (2, 1.0)
        arena.check()
        del x, y
        arena.check()


def test_a_write_past_the_end_of_an_array_is_noticed() -> None:
    arena = stead.Arena("64 MiB", hardened=True)
    with allocating_in(arena):
        x = np.zeros(100, np.uint8)
    end = x.ctypes.data + 100
    kept = ctypes.string_at(end, 1)
    ctypes.memset(end, 0, 1)
    with pytest.raises(stead.Corrupted, match="past its end, at byte 100"):
        arena.check()
    ctypes.memmove(end, kept, 1)
    del x
    arena.close()
