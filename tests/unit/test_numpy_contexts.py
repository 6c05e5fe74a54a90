"""stead.numpy: where a handler holds and where it does not: nested contexts, threads, tasks; what is refused."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import stead
from arrays import lives_in
from conftest import need

need("numpy")
import numpy as np  # noqa: E402

from stead.numpy import allocating_in, handler_name  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    Array = np.ndarray[Any, Any]

MIB = 1 << 20
DEFAULT = "default_allocator"


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
