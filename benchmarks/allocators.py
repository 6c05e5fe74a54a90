"""The arena's C core beside mimalloc and glibc's malloc: the same work, in turns, each time in a fresh process.

README.md says how to read it. Measures and does not judge: a bound that is missed is printed as missed, and the
exit status is 0. The arena never touches the memory that it hands out, the others keep lists in theirs: where
blocks are not touched, that counts for it, and so each such section is there again with every page touched.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import record
from harness import Bound, Report, Row, Section, in_turns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Mode = Literal["plain", "touched", "footprint"]

_HERE = Path(__file__).resolve().parent
KiB, MiB = 1 << 10, 1 << 20
NAMES = {
    "arena": "arena, by address",
    "nodes": "arena, by node",
    "mimalloc": "mimalloc",
    "glibc": "glibc malloc",
    "nothing": "the loop alone",
}
NO_MIMALLOC = "mimalloc is skipped, and with it the bounds that need it: {}. apt-get install libmimalloc-dev"


class N:
    """In a test, in the place of the number of operations."""


class Replay:
    """replay.c, compiled with the core in native/, and the ways to allocate that there are here."""

    def __init__(self) -> None:
        core = _HERE.parent / "native"
        needs_python = re.compile(r"Python\.h|binding\.h|_type\.h")
        sources = [each for each in sorted(core.glob("*.c")) if not needs_python.search(each.read_text())]
        self.program = record.build(
            record.BUILD / f"replay-{platform.machine()}",
            [_HERE / "replay.c", *sources],
            *("-O3", "-flto", f"-I{core}", "-lm", "-ldl", "-lpthread"),  # as meson.build compiles the core
            needed=(_HERE / "ways.h", *core.glob("*.h")),
        )
        self.notes: list[str] = []
        self.ways = ["arena", "nodes", "mimalloc", "glibc", "nothing"]
        try:
            self("mimalloc", "plain", "pair", 16, 4, 100)
        except RuntimeError as error:
            self.ways.remove("mimalloc")
            self.notes.append(NO_MIMALLOC.format(error))

    def command(self, way: str, mode: Mode, *test: object) -> list[str]:
        return [str(self.program), way, mode, *map(str, test)]

    def __call__(self, way: str, mode: Mode, *test: object) -> dict[str, Any]:
        command = self.command(way, mode, *test)
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip() or f"replay ended with {done.returncode}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def measure(self, way: str, mode: Mode, test: Sequence[object], n: int) -> float:
        """Nanoseconds for each operation; N in ``test`` is how many."""
        found = self(way, mode, *(n if each is N else each for each in test))
        return float(found["nanoseconds"] / found["operations"])

    def time(
        self, rounds: int, n: int, mode: Mode, *test: object, ways: Sequence[str] = tuple(NAMES)
    ) -> dict[str, list[float]]:
        """The samples of each way."""
        cases = {way: partial(self.measure, way, mode, test) for way in ways if way in self.ways}
        return in_turns(cases, rounds, n)


def rows(
    found: dict[str, list[float]], at_most: float | None = None, glibc_at_least: float | None = None
) -> list[Row]:
    """A row for each way. The bounds are for the arena, by address: so many times mimalloc's time, and so many
    times faster than glibc."""
    made = []
    arena, mimalloc = found["arena"], found.get("mimalloc")
    for way, samples in found.items():
        row = Row(NAMES[way], samples)
        if way in ("arena", "nodes") and mimalloc:
            row.against = ("mimalloc", mimalloc)
            if way == "arena" and at_most:
                row.bound = Bound("<=", at_most)
        elif way == "glibc":
            row.against = ("arena", arena)
            if glibc_at_least:
                row.bound = Bound(">=", glibc_at_least)
        made.append(row)
    return made


TOUCHING = ("arena", "mimalloc", "glibc")


# ---- synthetic ---------------------------------------------------------------------------------------


def pairs(replay: Replay, rounds: int, n: int) -> list[Section]:
    return [
        Section(
            f"1. allocate and free {name}, again and again",
            rows(replay.time(rounds, n, "plain", "pair", size, 4, N)),
        )
        for size, name in ((256, "256 B"), (64 * KiB, "64 KiB"))
    ]


def churn(replay: Replay, rounds: int, n: int, seed: int) -> list[Section]:
    numbers = ("churn", 10_000, 64, 64 * KiB, N, seed)
    title = f"2. random churn over 10,000 live blocks of 64 B to 64 KiB (seed {seed})"
    return [
        Section(f"{title}, not touched", rows(replay.time(rounds, n, "plain", *numbers), 1.5, 3)),
        Section(f"{title}, touched", rows(replay.time(rounds, n, "touched", *numbers, ways=TOUCHING))),
    ]


def million(replay: Replay, rounds: int, n: int, seed: int) -> list[Section]:
    numbers = ("fill", 1_000_000, 16, KiB, N, seed)
    title = f"3. a million live blocks of 16 B to 1 KiB (seed {seed}): allocated, a million replaced, freed"
    plain = Section(f"{title}; not touched", rows(replay.time(rounds, n, "plain", *numbers), 2))
    touched = Section(f"{title}; touched", rows(replay.time(rounds, n, "touched", *numbers, ways=TOUCHING)))
    memory = Section("3. memory for each of these blocks, beyond what was asked for, all touched", [])
    for way in (each for each in TOUCHING if each in replay.ways):
        found = replay(way, "footprint", *(1_000_000 if each is N else each for each in numbers))
        beyond = (found["resident"] - found["requested"]) / found["live"]
        memory.rows.append(Row(f"{NAMES[way]}: resident", [beyond], unit="B"))
        if way == "arena":
            rounding = (found["high_water"] - found["requested"]) / found["live"]
            memory.rows.append(Row("  of it: blocks rounded up, and room in spans", [rounding], unit="B"))
            memory.rows.append(
                Row("  the tables, were they all used", [found["tables"] / found["live"]], unit="B")
            )
            memory.notes = [f"asked for: {found['requested'] / found['live']:.1f} bytes for each"]
    return [plain, touched, memory]


def pages(replay: Replay, rounds: int, n: int) -> list[Section]:
    return [
        Section(
            f"4. allocate {name}, touch every page, free",
            rows(replay.time(rounds, n // (size // MiB), "touched", "pair", size, 4, N, ways=TOUCHING)),
        )
        for size, name in ((MiB, "1 MiB"), (64 * MiB, "64 MiB"))
    ]


def threads(replay: Replay, rounds: int, n: int, seed: int) -> list[Section]:
    """Each way with one thread and two, all in turns: it is their ratio that counts."""
    numbers = (1000, 16, 4 * KiB, N, seed)
    ways = [way for way in ("arena", "nodes", "mimalloc", "glibc") if way in replay.ways]

    tests = {"alone": ("churn", *numbers), "one": ("threads", 1, *numbers), "two": ("threads", 2, *numbers)}
    found = in_turns(
        {
            f"{way} {name}": partial(replay.measure, way, "plain", test)
            for way in ways
            for name, test in tests.items()
        },
        rounds,
        n,
    )
    section = Section(f"5. churn over 1,000 live blocks of 16 B to 4 KiB in each thread (seed {seed})", [])
    for way in ways:
        two = found[f"{way} two"]
        bound = Bound(">=", 1.5) if way == "arena" else None
        section.rows += [
            Row(f"{NAMES[way]}: two threads, for each operation", two),
            Row("  one, in a process that has no other", found[f"{way} alone"], ("two threads", two), bound),
            Row("  one, beside one that waits", found[f"{way} one"], ("two threads", two)),
        ]
    section.notes = ["a ratio is how much more two threads do in the same time"]
    handed = Section(
        "5. one thread allocates 16 B to 4 KiB, another one frees",
        rows(replay.time(rounds, n, "plain", "handover", 16, 4 * KiB, N, seed)),
    )
    return [section, handed]


# ---- real traces -------------------------------------------------------------------------------------


def traces(quick: bool) -> tuple[list[tuple[str, Path]], list[str]]:
    found, notes = [], []
    for program in record.PROGRAMS:
        found.append((f"{program}, as kept in the repository", record.kept(program)))
        if quick:
            continue
        try:
            found.append((f"{program}, recorded here", record.full(program)))
        except RuntimeError as error:
            notes.append(f"no long trace of {program}: {error}")
    return found, notes


def replayed(replay: Replay, rounds: int, name: str, path: Path) -> list[Section]:
    count = replay("nothing", "plain", "trace", path)["operations"]
    title = f"6. trace of {name}: {count:,} operations"
    ways = [*TOUCHING, "nothing"]
    return [
        Section(f"{title}, not touched", rows(replay.time(rounds, 1, "plain", "trace", path, ways=ways))),
        Section(f"{title}, touched", rows(replay.time(rounds, 1, "touched", "trace", path, ways=TOUCHING))),
    ]


def fragmentation(replay: Replay, name: str, path: Path) -> Section:
    section = Section(f"7. memory after the trace of {name}, all touched")
    for way in (each for each in TOUCHING if each in replay.ways):
        found = replay(way, "footprint", "trace", path)
        most, last = ("at most asked for", [found["most_requested"]]), ("live then", [found["requested"]])
        section.rows += [
            Row(f"{NAMES[way]}: most resident", [found["most_resident"]], most, unit="B"),
            Row("  resident at the end", [found["resident"]], last, unit="B"),
            Row("  the same, after giving back what can be", [found["settled"]], last, unit="B"),
        ]
        if way == "arena":
            section.rows.insert(1, Row("  of it: most in blocks and spans", [found["high_water"]], most, unit="B"))
            section.notes = [
                f"asked for at most {found['most_requested']:,} bytes; at the end {found['requested']:,} in "
                f"{found['live']:,} blocks"
            ]
    return section


# ---- instructions ------------------------------------------------------------------------------------


def instructions(replay: Replay, seed: int, kept: Sequence[tuple[str, Path]]) -> Section:
    section = Section("8. instructions for each operation, by callgrind: they do not vary")
    if not shutil.which("valgrind"):
        section.notes = ["skipped: there is no valgrind. apt-get install valgrind"]
        return section

    def count(way: str, *test: object) -> int:
        valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=play_*"]
        command = [*valgrind, *replay.command(way, "plain", *test)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        collected = re.search(r"Collected : (\d+)", done.stderr)
        if done.returncode or not collected:
            raise RuntimeError(done.stderr[-2000:])
        return int(collected[1])

    def between(way: str, n: int, *test: object) -> float:
        """The difference that n more make, each of which comes with a quarter of one that is not timed."""
        few, many = (count(way, *(each if each is not N else m for each in test)) for m in (n, 2 * n))
        return (many - few) / (n + n // 4)

    def through(way: str, path: Path) -> float:
        return count(way, "trace", path) / float(replay(way, "plain", "trace", path)["operations"])

    numbers = ("churn", 10_000, 64, 64 * KiB, N, seed)
    cases: dict[str, Callable[[str], float]] = {
        "pair of 256 B": lambda way: between(way, 20_000, "pair", 256, 4, N),
        "churn of section 2": lambda way: between(way, 100_000, *numbers),
    }
    for name, path in kept:
        cases[f"trace of {name.partition(',')[0]}"] = partial(through, path=path)
    for name, measure in cases.items():
        found = {way: [measure(way)] for way in (*TOUCHING, "nothing") if way in replay.ways}
        for row in rows(found):
            row.label, row.unit = f"{name}: {row.label}", "instr"
            section.rows.append(row)
    return section


# ---- all of it ---------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description="The arena beside mimalloc and glibc: medians, ratios, bounds.")
    parser.add_argument("--quick", action="store_true", help="a smoke run; its numbers mean little")
    parser.add_argument("--json", metavar="FILE", help="write every sample")
    parser.add_argument("--seed", type=int, default=1, help="of the random sequences")
    chosen = parser.parse_args()
    quick: bool = chosen.quick
    seed: int = chosen.seed
    rounds = 3 if quick else 15
    report = Report(rounds)
    show = report.show

    replay = Replay()
    for note in replay.notes:
        print(note)
    n = 100_000 if quick else 2_000_000
    show(*pairs(replay, rounds, n))
    show(*churn(replay, rounds, n, seed))
    show(*million(replay, rounds, 1_000_000, seed))
    show(*pages(replay, rounds, 256 if quick else 2048))
    show(*threads(replay, rounds, n, seed))
    recorded, notes = traces(quick)
    for name, path in recorded:
        show(*replayed(replay, rounds, name, path))
    for name, path in recorded:
        show(fragmentation(replay, name, path))
    show(instructions(replay, seed, [each for each in recorded if "kept" in each[0]]))

    for note in notes:
        print(note)
    report.end(chosen.json)


if __name__ == "__main__":
    main()
