"""stead.numpy: which arrays live in an arena, how long, and what a full arena makes of it."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from typing import TYPE_CHECKING, Any

import pytest

import stead
from arrays import lives_in
from conftest import need
from memory import resident

need("numpy")
import numpy as np  # noqa: E402

from stead.numpy import allocating_in, handler_name  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    Array = np.ndarray[Any, Any]

MIB = 1 << 20
DEFAULT = "default_allocator"


# ---- what lives there -----------------------------------------------------------------------------

WAYS: dict[str, Callable[[Array], Array]] = {
    "empty": lambda _: np.empty(100),
    "zeros": lambda _: np.zeros((3, 7), "float32"),
    "ones": lambda _: np.ones(1000),
    "full": lambda _: np.full((2, 2), 7, order="F"),
    "arange": lambda _: np.arange(100),
    "from a list": lambda _: np.array([[1, 2], [3, 4]]),
    "of objects": lambda _: np.array([object(), None, "text"], dtype=object),
    "of text": lambda _: np.array(["one", "three"]),
    "of records": lambda _: np.zeros(5, [("a", "i1"), ("b", "f8", 3)]),
    "of no elements": lambda _: np.empty((0, 5)),
    "of no dimensions": lambda _: np.array(1.5),
    "from an iterator": lambda _: np.fromiter(range(1000), int),
    "a copy": lambda x: x.copy(),
    "another type": lambda x: x.astype("int16"),
    "arithmetic": lambda x: x * 2 + x,
    "a comparison": lambda x: x > 1,
    "an index": lambda x: x[[1, 2, 3]],
    "a mask": lambda x: x[x > 5],
    "sorted": np.sort,
    "joined": lambda x: np.concatenate([x, x]),
    "a product": lambda x: np.outer(x, x),
    "random": lambda _: np.random.default_rng(1).random(100),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_new_array_lives_in_the_arena(arena: stead.Arena, way: str) -> None:
    x = np.arange(10.0)
    expected = None if way in ("empty", "of objects") else WAYS[way](x)
    with allocating_in(arena) as entered:
        made = WAYS[way](x)
    assert entered is arena
    assert lives_in(arena, made)
    assert made.ctypes.data % 16 == 0
    assert handler_name(x) == DEFAULT
    if expected is not None:
        np.testing.assert_array_equal(made, expected)
    blocks = arena.statistics().blocks
    del made
    assert arena.statistics().blocks == blocks - 1


def test_temporaries_live_there_and_leave_nothing(arena: stead.Arena) -> None:
    x = np.ones(MIB // 2)  # 4 MiB, of NumPy's own
    with allocating_in(arena):
        assert float(((x + 1.0) * (x + 2.0)).sum()) == 6 * len(x)
    statistics = arena.statistics()
    assert statistics.high_water >= 8 * MIB
    assert (statistics.used, statistics.blocks) == (0, 0)


def test_a_view_is_of_the_same_block(arena: stead.Arena) -> None:
    with allocating_in(arena):
        x = np.arange(1000)
        part = x[10:20]
    assert handler_name(part) is None
    assert arena.owns(part.ctypes.data)
    del x
    assert arena.statistics().blocks == 1
    assert list(part[:3]) == [10, 11, 12]


def test_an_array_is_freed_by_nobody_else(arena: stead.Arena) -> None:
    with allocating_in(arena):
        x = np.ones(100)
    with pytest.raises(stead.NotLive, match="gives itself back"):
        arena.free(x.ctypes.data)
    with pytest.raises(stead.NotLive):
        arena.resize(x.ctypes.data, 8)
    with pytest.raises(BufferError, match="1 live block"):
        arena.close()
    assert x.sum() == 100


def test_handler_names(arena: stead.Arena) -> None:
    assert handler_name() == DEFAULT
    assert handler_name(np.ones(3)) == DEFAULT
    with allocating_in(arena):
        assert handler_name() == "stead"
    assert handler_name() == DEFAULT
    assert handler_name(np.frombuffer(b"its memory is the text's", np.uint8)) is None


@pytest.mark.parametrize("size", [1, 8, 100, 1024, 4096, 16384, 16385, MIB, MIB + 1, 3 * MIB, 33 * MIB])
def test_zeros_are_zeros_where_something_was(arena: stead.Arena, size: int) -> None:
    with allocating_in(arena):
        for _ in range(3):
            x = np.zeros(size, np.uint8)
            assert not x.any()
            x[:] = 255
            del x
            y = np.empty(size, np.uint8)
            y[:] = 255
            del y


def test_zeros_after_other_sizes_of_the_same_class(arena: stead.Arena) -> None:
    with allocating_in(arena):
        for size in (112, 97, 100, 105, 112, 20_000, 17_000, 20_000, 500_000, 400_000, 500_000):
            x = np.empty(size, np.uint8)
            x[:] = 255
            del x
            x = np.zeros(size, np.uint8)
            assert not x.any()
            x[:] = 255
            del x


def test_empty_is_zeros_in_a_zeroed_arena() -> None:
    with stead.Arena("64 MiB", zero=True) as arena, allocating_in(arena):
        for size in (100, 100, 5000, 5000, MIB, MIB, 3 * MIB, 3 * MIB):
            x = np.empty(size, np.uint8)
            assert not x.any()
            x[:] = 255
            del x


def test_arrays_of_objects_hold_and_drop_them(arena: stead.Arena) -> None:
    class Thing:
        pass

    thing = Thing()
    gone = weakref.ref(thing)
    with allocating_in(arena):
        x = np.empty(1000, dtype=object)
        assert x[0] is None
        x[:] = thing
        y = x.copy()
    del thing, x
    assert y[999] is gone()
    y.resize(2000, refcheck=False)
    assert y[1999] in (0, None)
    y[0] = y  # a cycle, which the garbage collector does not see in an array
    y[0] = None
    del y
    assert gone() is None


# ---- resize ---------------------------------------------------------------------------------------


def test_resize_stays_where_there_is_room(arena: stead.Arena) -> None:
    with allocating_in(arena):
        x = np.arange(MIB // 8)
    at = x.ctypes.data
    for count in (MIB, 4 * MIB, 1000, 2 * MIB):  # grown after the context, too; the arena grows for it
        kept = min(count, len(x), MIB // 8)
        x.resize(count, refcheck=False)
        assert x.ctypes.data == at
        assert (x[:1000] == np.arange(1000)).all()
        if kept == MIB // 8:
            assert not x[kept:].any()
        assert arena.size_of(at) >= x.nbytes
    assert arena.statistics().blocks == 1


def test_resize_moves_where_there_is_none(arena: stead.Arena) -> None:
    with allocating_in(arena):
        x = np.arange(MIB // 8)
        behind = np.arange(MIB // 8)
    at = x.ctypes.data
    x.resize(MIB, refcheck=False)
    assert x.ctypes.data != at
    assert lives_in(arena, x)
    assert (x[: MIB // 8] == behind).all()
    assert not x[MIB // 8 :].any()
    assert not arena.owns(at)
    assert arena.statistics().blocks == 2


def test_what_numpy_keeps_is_no_obstacle_to_a_resize(arena: stead.Arena) -> None:
    with allocating_in(arena):
        x, behind, last = (np.empty(size, np.uint8) for size in (MIB // 2, MIB // 2, MIB))
    at = x.ctypes.data
    for each in (x, behind, last):
        each[:] = 1
    del each
    assert behind.ctypes.data == at + MIB // 2
    del behind
    x.resize(MIB, refcheck=False)
    assert x.ctypes.data == at
    assert not x[MIB // 2 :].any()
    assert last.all()


def test_small_arrays_grow_within_what_their_size_was_rounded_up_to(arena: stead.Arena) -> None:
    with allocating_in(arena):
        x = np.ones(1100, np.uint8)
    at, room = x.ctypes.data, arena.size_of(x.ctypes.data)
    assert room > 1100
    x.resize(room, refcheck=False)
    assert x.ctypes.data == at
    x.resize(room + 1, refcheck=False)
    assert x.ctypes.data != at
    assert x[:1100].all()
    assert not x[1100:].any()
    x.resize(0, refcheck=False)
    x.resize(10, refcheck=False)
    assert not x.any()


def test_a_resize_that_does_not_fit_leaves_the_array() -> None:
    with stead.Arena("4 MiB") as arena:
        with allocating_in(arena):
            x = np.arange(1000)
        at = x.ctypes.data
        with pytest.raises(MemoryError):
            x.resize(MIB, refcheck=False)
        assert (x.ctypes.data, len(x), int(x.sum())) == (at, 1000, 499500)
        del x


# ---- how long -------------------------------------------------------------------------------------


def test_arrays_outlive_the_context_and_keep_the_arena() -> None:
    arena = stead.Arena("64 MiB")
    where, gone = arena.range, weakref.ref(arena)
    with allocating_in(arena):
        x, y = np.arange(1000), np.ones(MIB)
    del arena
    gc.collect()
    x += 1
    assert gone() is not None
    assert (int(x[-1]), float(y.sum())) == (1000, MIB)
    part = x[5:]
    del x, y
    assert int(part[0]) == 6
    assert gone() is not None
    del part
    assert gone() is None
    assert not any(each.range.overlaps(where) for each in stead.snapshot().mappings)


def test_a_context_that_made_nothing_keeps_nothing() -> None:
    arena = stead.Arena("4 MiB")
    gone = weakref.ref(arena)
    with allocating_in(arena):
        pass
    del arena
    assert gone() is None


def test_arrays_at_the_end_of_the_interpreter() -> None:
    code = """if True:
        import numpy, stead, stead.numpy, threading
        arena = stead.Arena("64 MiB", keep="1 MiB")
        with stead.numpy.allocating_in(arena):
            kept = [numpy.ones(2 ** (i % 20)) for i in range(100)]
            objects = numpy.array([arena, kept], dtype=object)
        numpy.kept = kept[50:]
        del arena
        with stead.numpy.allocating_in(stead.Arena("4 MiB")):
            numpy.other = numpy.ones(10)
            raise SystemExit
    """
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


# ---- no room --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [np.empty, np.zeros, np.ones])
def test_a_full_arena_is_a_memory_error_that_changes_nothing(make: Callable[[int], Array]) -> None:
    with stead.Arena("4 MiB") as arena:
        with allocating_in(arena):
            x = np.ones(100)
            before = arena.statistics()
            for count in (MIB, 1 << 40):
                with pytest.raises(MemoryError):
                    make(count)
            assert arena.statistics() == before
            made = [make(MIB // 16) for _ in range(7)]
            with pytest.raises(MemoryError):
                make(MIB // 8)
            made.clear()
            y = make(MIB // 4)
            assert lives_in(arena, y)
        assert x.sum() == 100
        del x, y


def test_what_numpy_keeps_is_freed_before_memory_runs_out() -> None:
    with stead.Arena("4 MiB") as arena, allocating_in(arena):
        for size in (10_000, 100_000, 300_000, 700_000, MIB):
            np.ones(size, np.uint8)
        x = np.empty(4 * MIB, np.uint8)
        assert lives_in(arena, x)
        del x


def test_a_limit_gives_memory_back() -> None:
    with stead.Arena("256 MiB", keep="2 MiB", backing=stead.ANONYMOUS) as arena:
        with allocating_in(arena):
            for _ in range(3):
                x = np.ones(4 * MIB)
                assert resident(arena.range) >= 32 * MIB
                del x
                assert resident(arena.range) <= 3 * MIB
