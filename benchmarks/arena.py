"""What an arena costs from Python: beside empty calls, bytearray, and NumPy's own allocator.

README.md says what the rows mean. Measures and does not judge: a bound that is missed is printed as missed, and
the exit status is 0. allocators.py has the core in C beside other allocators.
"""

from __future__ import annotations

import argparse
import importlib
import operator
import threading
import time
from itertools import repeat
from typing import TYPE_CHECKING, Any

from harness import Bound, Report, Row, Section, in_turns

import stead

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from stead.numpy import allocating_in
else:  # NumPy starts threads, and the first sections are for a process that has none
    np: Any = None
    allocating_in: Any = None

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30
PAGE = 4096

SIZES = {"256 B": 256, "4 KiB": 4 * KiB, "64 KiB": 64 * KiB, "1 MiB": MiB, "64 MiB": 64 * MiB}


def looped(body: Callable[[repeat[None]], None]) -> Callable[[int], float]:
    """A case whose body has the loop itself: what is measured costs as much as a call does."""

    def run(n: int) -> float:
        nothing = repeat(None, n)
        began = time.perf_counter_ns()
        body(nothing)
        return (time.perf_counter_ns() - began) / n

    return run


# ---- allocate and free --------------------------------------------------------------------------------


def _pair(arena: stead.Arena, size: int) -> Callable[[int], float]:
    def body(nothing: repeat[None]) -> None:
        allocate, free = arena.allocate, arena.free
        for _ in nothing:
            free(allocate(size))

    return looped(body)


@looped
def _two_empty_calls(nothing: repeat[None]) -> None:
    index = operator.index
    for _ in nothing:
        index(index(256))


@looped
def _with_an_address(nothing: repeat[None]) -> None:
    """What no allocator is spared: one call answers an int that is no small one, the other takes it."""
    index, add, base = operator.index, operator.add, 0x4800_0000_0000
    for _ in nothing:
        index(add(256, base))


@looped
def _empty_loop(nothing: repeat[None]) -> None:
    for _ in nothing:
        pass


def pairs(title: str, rounds: int, n: int) -> list[Section]:
    arena = stead.Arena(GiB)
    cases = {"floor": _two_empty_calls, "address": _with_an_address, "loop": _empty_loop}
    cases |= {name: _pair(arena, size) for name, size in SIZES.items()}
    found = in_turns(cases, rounds, n)
    rows = [
        Row("floor: operator.index(operator.index(256))", found["floor"]),
        Row("with an address: operator.index(operator.add(256, base))", found["address"]),
    ]
    for name in SIZES:
        bound = Bound("<=", 2) if name == "256 B" else None
        rows.append(Row(f"free(allocate({name}))", found[name], ("floor", found["floor"]), bound))
    rows.append(Row("free(allocate(256 B)) again", found["256 B"], ("with an address", found["address"])))
    rows.append(Row("and again", found["256 B"], ("60 ns", [60.0] * rounds), Bound("<=", 1)))
    rows.append(Row("of each row: the loop, empty", found["loop"]))
    return [Section(title, rows)]


# ---- blocks -------------------------------------------------------------------------------------------


def _made_and_dropped(make: Callable[[int], object], size: int) -> Callable[[int], float]:
    def body(nothing: repeat[None]) -> None:
        made = make
        for _ in nothing:
            made(size)

    return looped(body)


def blocks(title: str, rounds: int, n: int) -> list[Section]:
    arena = stead.Arena(GiB)
    cases = {"bytearray": _made_and_dropped(bytearray, 256)}
    cases |= {name: _made_and_dropped(arena.block, size) for name, size in SIZES.items()}
    found = in_turns(cases, rounds, n)
    rows = [Row("bytearray(256)", found["bytearray"])]
    for name in SIZES:
        rows.append(Row(f"arena.block({name})", found[name], ("bytearray", found["bytearray"]), Bound("<=", 0.7)))
    rows.append(Row("flat: 64 MiB beside 256 B", found["64 MiB"], ("256 B", found["256 B"])))
    return [Section(title, rows)]


# ---- every page touched ---------------------------------------------------------------------------------


def touched(rounds: int) -> list[Section]:
    arena = stead.Arena(GiB)
    rows = []
    for name, size, n, limit in (("1 MiB", MiB, 300, 1.0), ("64 MiB", 64 * MiB, 5, 20.0)):

        def body(nothing: repeat[None], size: int = size) -> None:
            for _ in nothing:
                np.empty(size, np.uint8)[::PAGE] = 1

        rows += _beside(
            f"{name}: np.empty, a byte of each page", arena, looped(body), rounds, n, Bound(">=", limit)
        )
    return [Section("3. every page touched", rows)]


# ---- NumPy ----------------------------------------------------------------------------------------------


def _in(arena: stead.Arena, case: Callable[[int], float]) -> Callable[[int], float]:
    def run(n: int) -> float:
        with allocating_in(arena):
            return case(n)

    return run


def _beside(
    label: str, arena: stead.Arena, case: Callable[[int], float], rounds: int, n: int, bound: Bound | None
) -> list[Row]:
    """A ratio at most, of the arena's time to the default's; or at least, of the default's to the arena's."""
    found = in_turns({"default": case, "arena": _in(arena, case)}, rounds, n)
    if bound and bound.sense == ">=":
        first, second = ("in the arena", found["arena"]), ("default", found["default"])
    else:
        first, second = ("default", found["default"]), ("in the arena", found["arena"])
    return [Row(f"{label}: {first[0]}", first[1]), Row(f"{label}: {second[0]}", second[1], first, bound)]


def _one_at_a_time(size: int) -> Callable[[int], float]:
    x = np.ones(size // 8)

    def body(nothing: repeat[None]) -> None:
        for _ in nothing:
            x + 1.0

    return looped(body)


def _into_what_is_there(size: int) -> Callable[[int], float]:
    x, y = np.ones(size // 8), np.ones(size // 8)

    def body(nothing: repeat[None]) -> None:
        for _ in nothing:
            np.add(x, 1.0, out=y)

    return looped(body)


def _two_at_once(size: int) -> Callable[[int], float]:
    x = np.ones(size // 8)

    def body(nothing: repeat[None]) -> None:
        for _ in nothing:
            one, two = x + 1.0, x + 2.0
            del one, two

    return looped(body)


def small_arrays(rounds: int, n: int) -> list[Section]:
    arena = stead.Arena(GiB)
    rows = []
    for name, size in (("64 B", 64), ("256 B", 256), ("1 KiB", KiB), ("4 KiB", 4 * KiB)):
        for what, case in (
            ("np.empty", _made_and_dropped(np.empty, size // 8)),
            ("x + 1.0", _one_at_a_time(size)),
        ):
            rows += _beside(f"{what}, {name}", arena, case, rounds, n, Bound("<=", 1.05))
    return [Section("4. NumPy's small arrays", rows)]


def temporaries(rounds: int) -> list[Section]:
    arena = stead.Arena(GiB)
    rows = []
    for name, size, n, limit in (("1 MiB", MiB, 100, 8.0), ("16 MiB", 16 * MiB, 5, 2.5)):
        for what, case in (("x + 1.0", _one_at_a_time(size)), ("two of them", _two_at_once(size))):
            rows += _beside(f"{what}, {name}", arena, case, rounds, n, Bound(">=", limit))
        floor = in_turns({"floor": _into_what_is_there(size)}, rounds, n)["floor"]
        rows.append(Row(f"floor, {name}: np.add(x, 1.0, out=y), without allocating", floor))
    return [Section("5. NumPy's temporaries", rows)]


def zeros(rounds: int) -> list[Section]:
    arena = stead.Arena(4 * GiB)
    rows = []
    for size in (64 << shift for shift in range(0, 25, 2)):  # to 1 GiB
        n = min(20_000, 64 * MiB // size) if size < 32 * MiB else 100
        case = _made_and_dropped(np.zeros, size // 8)
        rows += _beside(f"np.zeros, {_size(size)}", arena, case, rounds, n, Bound("<=", 1.1))
    return [Section("6. np.zeros, made and dropped", rows)]


def zeros_filled(rounds: int) -> list[Section]:
    """What dropping pages costs whoever then touches them all."""
    arena = stead.Arena(4 * GiB)
    rows = []
    for size, n in ((MiB, 100), (16 * MiB, 5), (64 * MiB, 2)):

        def body(nothing: repeat[None], count: int = size // 8) -> None:
            for _ in nothing:
                np.zeros(count)[:] = 1.0

        rows += _beside(f"np.zeros and filled, {_size(size)}", arena, looped(body), rounds, n, None)
    return [Section("7. np.zeros, every byte written then", rows)]


def _size(size: int) -> str:
    for unit, bytes_ in (("GiB", GiB), ("MiB", MiB), ("KiB", KiB)):
        if size >= bytes_:
            return f"{size // bytes_} {unit}"
    return f"{size} B"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run; its numbers mean little")
    parser.add_argument("--json", metavar="FILE", help="write all samples, in nanoseconds")
    options = parser.parse_args()
    rounds, n = (3, 2_000) if options.quick else (21, 100_000)

    report = Report(rounds)

    def run(*all_: Callable[[], list[Section]]) -> None:
        for each in all_:
            report.show(*each())

    run(
        lambda: pairs("1. allocate and free", rounds, n),
        lambda: blocks("2. a block made and dropped", rounds, n),
    )
    globals()["np"] = importlib.import_module("numpy")
    globals()["allocating_in"] = importlib.import_module("stead.numpy").allocating_in
    run(
        lambda: touched(rounds),
        lambda: small_arrays(rounds, n // 5),
        lambda: temporaries(rounds),
        lambda: zeros(rounds),
        lambda: zeros_filled(rounds),
    )
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
    run(
        lambda: pairs("8. allocate and free, in a process that has had a second thread", rounds, n),
        lambda: blocks("9. a block made and dropped, in such a process", rounds, n),
    )
    report.end(options.json)


if __name__ == "__main__":
    main()
