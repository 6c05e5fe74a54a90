"""Two processes that allocate and free small blocks from one shared heap at once, beside one; and beside an
arena of each one's own. The core in C, without Python; each time in fresh processes, in turns.

Two processes need two processors that nobody else wants: the loop alone says how far they had them. What they
cost each other shows in the processors' time, too, however busy the machine is."""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
from functools import partial
from pathlib import Path

import record
from harness import Bound, Report, Row, Section, in_turns

_HERE = Path(__file__).resolve().parent
WAYS = {"heap": "shared heap", "arena": "private arena", "loop": "the loop alone"}
WORK = {"pair": "64 B, again and again", "mixed": "16 B to 1 KiB among 64 live blocks"}


def build() -> Path:
    core = _HERE.parent / "native"
    needs_python = re.compile(r"Python\.h|binding\.h|_type\.h")
    sources = [each for each in sorted(core.glob("*.c")) if not needs_python.search(each.read_text())]
    return record.build(
        record.BUILD / f"heap-scaling-{platform.machine()}",
        [_HERE / "heap_scaling.c", *sources],
        *(f"-I{core}", "-ldl", "-lpthread"),
        needed=tuple(core.glob("*.h")),
    )


def measure(program: Path, way: str, processes: int, work: str, clock: str, n: int) -> float:
    """Nanoseconds for each pair, whoever of the processes makes it."""
    command = [str(program), way, str(processes), work, str(n)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=600, check=True).stdout)
    return float(found[clock] / found["operations"])


def scaling(program: Path, rounds: int, n: int, work: str) -> Section:
    cases = {
        f"{way} {processes} {clock}": partial(measure, program, way, processes, work, clock)
        for way in WAYS
        for processes in (1, 2)
        for clock in ("wall", "processor")
    }
    found = in_turns(cases, rounds, n)
    section = Section(f"allocate and free {WORK[work]}", notes=["two: how much more they do in the same time"])
    for way, name in WAYS.items():
        one, two = found[f"{way} 1 wall"], found[f"{way} 2 wall"]
        busy, both_busy = found[f"{way} 1 processor"], found[f"{way} 2 processor"]
        section.rows += [
            Row(f"{name}: two processes at once, for each pair", two),
            Row("  one, for as many as both", one, ("two", two), Bound(">=", 1.2) if way == "heap" else None),
        ]
        section.rows += [
            Row(
                "  processor time, one",
                busy,
                ("private arena", found["arena 1 processor"]) if way == "heap" else None,
            ),
            Row("  processor time, two", both_busy, ("one", busy)),
        ]
    return section


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Two processes at one shared heap, beside one: medians and ratios."
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run; its numbers mean little")
    parser.add_argument("--json", metavar="FILE", help="write every sample")
    chosen = parser.parse_args()
    rounds, n = (3, 200_000) if chosen.quick else (15, 3_000_000)
    report, program = Report(rounds), build()
    for work in WORK:
        report.show(scaling(program, rounds, n, work))
    report.end(chosen.json)


if __name__ == "__main__":
    main()
