"""stead.numpy: which arrays live in an arena, how long, and what a thread, a task or a full arena makes of it."""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import gc
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import stead
from conftest import need
from memory import resident

need("numpy")
import numpy as np  # noqa: E402

from stead.numpy import allocating_in, handler_name  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Array = np.ndarray[Any, Any]

MIB = 1 << 20
DEFAULT = "default_allocator"


@pytest.fixture
def arena() -> Iterator[stead.Arena]:
    with stead.Arena("64 MiB") as arena:  # at whose end no array may be left
        yield arena
        arena.check()


def lives_in(arena: stead.Arena, array: Array) -> bool:
    owned = arena.owns(array.ctypes.data)
    assert (handler_name(array) == "stead") is owned
    return owned


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


# ---- nested, and how it ends ----------------------------------------------------------------------


def test_the_innermost_arena_counts(arena: stead.Arena) -> None:
    with stead.Arena("4 MiB") as other:
        with allocating_in(arena):
            one = np.ones(10)
            with allocating_in(other):
                two = np.ones(10)
                with allocating_in(arena):
                    three = one + two
                four = two + two
            five = one + four
        six = five + five
        assert [lives_in(arena, each) for each in (one, three, five)] == [True] * 3
        assert [lives_in(other, each) for each in (two, four)] == [True] * 2
        assert handler_name(six) == DEFAULT
        del two, four


def test_an_error_ends_it_like_any_context(arena: stead.Arena) -> None:
    with pytest.raises(KeyError), allocating_in(arena):
        raise KeyError
    assert handler_name() == DEFAULT


def test_another_handler_comes_back(arena: stead.Arena) -> None:
    outer = allocating_in(arena)
    with stead.Arena("4 MiB") as other:
        with outer:
            with allocating_in(other):
                pass
            assert lives_in(arena, np.ones(3))


@pytest.mark.parametrize("wrong", [None, "1 GiB", 4096, stead.Arena])
def test_what_is_no_arena_is_named(wrong: Any) -> None:
    with pytest.raises(TypeError, match="arena is"), allocating_in(wrong):
        pass
    assert handler_name() == DEFAULT


def test_a_closed_arena_is_refused() -> None:
    arena = stead.Arena("4 MiB", name="short")
    arena.close()
    with pytest.raises(stead.Released, match="short"), allocating_in(arena):
        pass


def test_memory_that_must_not_be_touched_is_refused() -> None:
    with stead.Arena("4 MiB", backing="none") as arena:
        with pytest.raises(stead.Unsupported, match="may be touched"), allocating_in(arena):
            pass


def test_an_arena_that_is_closed_in_its_context() -> None:
    arena = stead.Arena("4 MiB")
    with allocating_in(arena):
        arena.close()
        for size in (8, MIB):
            with pytest.raises(MemoryError):
                np.ones(size)
    assert handler_name(np.ones(3)) == DEFAULT


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


# ---- threads and tasks ----------------------------------------------------------------------------


def in_thread(work: Callable[[], object]) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result(timeout=60)


def test_a_thread_begins_with_numpys_own(arena: stead.Arena) -> None:
    made: list[Array] = []
    with allocating_in(arena):
        thread = threading.Thread(target=lambda: made.append(np.ones(10)), **_own_context())
        thread.start()
        thread.join()
    assert handler_name(made[0]) == DEFAULT


def _own_context() -> dict[str, Any]:
    """From Python 3.14 on threads can inherit the context: one of their own, then."""
    return {"context": contextvars.Context()} if sys.version_info >= (3, 14) else {}


def test_a_thread_runs_in_a_copy_of_the_context(arena: stead.Arena) -> None:
    made: list[Array] = []
    with allocating_in(arena):
        context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(lambda: made.append(np.ones(10)),))
    thread.start()
    thread.join()
    assert lives_in(arena, made.pop())
    assert handler_name(np.ones(3)) == DEFAULT


def test_a_thread_enters_by_itself_and_no_other_sees_it(arena: stead.Arena) -> None:
    inside, done = threading.Event(), threading.Event()
    made: list[Array] = []

    def work() -> None:
        with allocating_in(arena):
            inside.set()
            assert done.wait(60)
            made.append(np.ones(10))

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(60)
    assert handler_name(np.ones(10)) == DEFAULT
    done.set()
    thread.join()
    assert lives_in(arena, made.pop())


def test_a_pools_threads_are_given_the_context_with_the_work(arena: stead.Arena) -> None:
    with ThreadPoolExecutor(2) as pool, allocating_in(arena):
        contexts = [contextvars.copy_context() for _ in range(8)]  # each can be entered by one thread at a time
        made = [pool.submit(each.run, np.ones, 10).result(timeout=60) for each in contexts]
    assert all(lives_in(arena, each) for each in made)
    contexts.clear()


def test_tasks_and_to_thread_copy_the_context(arena: stead.Arena) -> None:
    async def task() -> Array:
        await asyncio.sleep(0)
        return np.ones(10)

    async def own(other: stead.Arena) -> Array:
        with allocating_in(other):
            await asyncio.sleep(0)
            return np.ones(10)

    async def main(other: stead.Arena) -> list[Array]:
        with allocating_in(arena):
            made = await asyncio.gather(task(), own(other), asyncio.to_thread(np.ones, 10), task())
        return [*made, np.ones(10)]

    with stead.Arena("4 MiB") as other:
        one, two, three, four, five = asyncio.run(main(other))
        assert [lives_in(arena, each) for each in (one, three, four)] == [True] * 3
        assert lives_in(other, two)
        assert handler_name(five) == DEFAULT
        del two


def test_arrays_are_freed_in_any_thread(arena: stead.Arena) -> None:
    with allocating_in(arena):
        made = [np.ones(2**i) for i in range(18)]
    in_thread(made.clear)
    assert arena.statistics().blocks == 0


def test_threads_hammer_one_arena() -> None:
    """Arrays that one thread made are checked and dropped by another, while all share the arena."""
    ready = threading.Barrier(4)
    passed: list[tuple[Array, int]] = []

    def work(arena: stead.Arena, mark: int) -> None:
        draw = np.random.default_rng(mark)
        sizes = (2 ** draw.uniform(0, 18, 400)).astype(int)
        ready.wait(60)
        with allocating_in(arena):
            for size in sizes:
                x = np.full(size, mark, np.uint8)
                y = np.zeros(size, np.uint8)
                assert not y.any()
                y += x
                passed.append((y, mark))
                try:
                    other, expected = passed.pop(0)
                except IndexError:
                    continue
                assert (other == expected).all()

    with stead.Arena("256 MiB", step="1 MiB", keep="1 MiB") as arena:
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(work, arena, i + 1) for i in range(4)]:
                done.result(timeout=120)
        passed.clear()
        arena.check()
        assert arena.statistics().blocks == 0


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
