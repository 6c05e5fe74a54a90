"""What the benchmarks share: the loops in C, rounds that take turns, medians and ratios, one table.

Other programs load the machine while this runs, so no number stands alone: what is compared is measured in
turns, a ratio is the median of the rounds' ratios, and the quartiles say how far to trust it.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_HERE = Path(__file__).resolve().parent

_UNSIGNED, _SIGNED, _SIZE, _INT = ctypes.c_uint64, ctypes.c_int64, ctypes.c_size_t, ctypes.c_int
_SIGNATURES: dict[str, list[Any]] = {
    "nothing": [_SIGNED],
    "lost_claim": [_UNSIGNED, _SIZE, _SIGNED],
    "lost_hint": [_UNSIGNED, _SIZE, _SIGNED],
    "pair": [_UNSIGNED, _SIZE, _INT, _SIGNED],
    "scattered_pair": [_UNSIGNED, _UNSIGNED, _UNSIGNED, _SIZE, _UNSIGNED, _INT, _SIGNED],
    "commit_pair": [_UNSIGNED, _SIZE, _INT, _SIGNED],
    "hold": [_UNSIGNED, _SIZE],
    "drop": [_UNSIGNED, _SIZE],
    "crowd": [_SIZE, _SIZE],
}


class Raw:
    """The functions of raw.c. Compiles them where the source is newer than what was compiled."""

    def __init__(self) -> None:
        source, built = _HERE / "raw.c", _HERE / "build" / f"raw-{platform.machine()}.so"
        if not built.exists() or built.stat().st_mtime <= source.stat().st_mtime:
            built.parent.mkdir(exist_ok=True)
            # Two benchmarks may start at once: each compiles its own, and the last to rename wins.
            unfinished = built.with_suffix(f".{os.getpid()}")
            compiler = shlex.split(os.environ.get("CC", "cc"))
            options = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC"]
            subprocess.run([*compiler, *options, "-o", unfinished, source], check=True)
            unfinished.rename(built)
        self._library = ctypes.CDLL(str(built))
        for name, arguments in _SIGNATURES.items():
            function = getattr(self._library, f"raw_{name}")
            function.argtypes, function.restype = arguments, ctypes.c_int64

    def __call__(self, name: str, *arguments: int) -> int:
        got = int(getattr(self._library, f"raw_{name}")(*arguments))
        if got < 0:
            raise OSError(-got, f"{os.strerror(-got)}, in raw_{name}{arguments}")
        return got

    def timed(self, name: str, *arguments: int) -> Callable[[int], float]:
        """A case: n rounds, in nanoseconds for each."""
        return lambda n: self(name, *arguments, n) / n


def timed(body: Callable[[], object]) -> Callable[[int], float]:
    """A case in Python: ``body`` n times, by a loop with nothing else in it; nanoseconds for each."""

    def run(n: int) -> float:
        nothing = repeat(None, n)
        began = time.perf_counter_ns()
        for _ in nothing:
            body()
        return (time.perf_counter_ns() - began) / n

    return run


def in_turns(cases: Mapping[str, Callable[[int], float]], rounds: int, n: int) -> dict[str, list[float]]:
    """Each case's nanoseconds, round by round. Each round begins with another case, so that none always
    follows the same one."""
    names = list(cases)
    for name in names:  # caches, specializing interpreter
        cases[name](min(n, 100))
    samples: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        at = number % len(names)
        for name in names[at:] + names[:at]:
            samples[name].append(cases[name](n))
    return samples


@dataclass
class Bound:
    """What a ratio should be: at most, or at least, so much."""

    sense: Literal["<=", ">="]
    limit: float

    def missed_by(self, ratio: float) -> float:
        """0 where it is reached."""
        return max(ratio - self.limit if self.sense == "<=" else self.limit - ratio, 0.0)


@dataclass
class Row:
    """One line of the table. ``against``: the samples it is divided by, round by round, and their name.
    ``unit``: "ns", "B" or any other."""

    label: str
    samples: Sequence[float]
    against: tuple[str, Sequence[float]] | None = None
    bound: Bound | None = None
    unit: str = "ns"

    @property
    def ratio(self) -> float | None:
        if self.against is None:
            return None
        return median(mine / theirs for mine, theirs in zip(self.samples, self.against[1], strict=True))

    def line(self) -> str:
        middle, low, high = (
            _amount(each, self.unit) for each in (median(self.samples), *_quartiles(self.samples))
        )
        text = f"  {self.label:<58} {middle:>9} {low + ' .. ' + high if len(self.samples) > 1 else '':>18}"
        ratio = self.ratio
        if ratio is None or self.against is None:
            return text
        text += f"  {ratio:7.2f} x {self.against[0]}"
        if self.bound:
            text += f"; bound {self.bound.sense} {self.bound.limit:g}: "
            missed = self.bound.missed_by(ratio)
            text += f"not reached, by {missed:.2f}" if missed else "reached"
        return text

    def raw(self) -> dict[str, Any]:
        """For JSON."""
        found: dict[str, Any] = {
            "label": self.label, f"median_{self.unit}": median(self.samples),
            f"samples_{self.unit}": list(self.samples),
        }  # fmt: skip
        if self.against and self.ratio is not None:
            found |= {"against": self.against[0], "ratio": self.ratio}
            if self.bound:
                found |= {"bound": f"{self.bound.sense} {self.bound.limit:g}"}
                found |= {"reached": not self.bound.missed_by(self.ratio)}
        return found


@dataclass
class Section:
    """Rows that were measured in turns, and what to know about them."""

    title: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def show(self) -> None:
        print(f"\n{self.title}")
        for row in self.rows:
            print(row.line())
        for note in self.notes:
            print(f"  - {note}")
        sys.stdout.flush()


def _quartiles(samples: Sequence[float]) -> tuple[float, float]:
    if len(samples) < 2:
        return samples[0], samples[0]
    low, _, high = quantiles(samples, n=4, method="inclusive")
    return low, high


def _amount(value: float, unit: str) -> str:
    if unit == "ns":
        return _time(value)
    if unit != "B":
        return f"{value:.1f} {unit}"
    return f"{value / 2**20:.2f} MiB" if value >= 2**20 else f"{value:.1f} B"


def _time(nanoseconds: float) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if nanoseconds >= size * 10 or (unit != "us" and nanoseconds >= size):
            amount = nanoseconds / size
            return f"{amount:.{0 if amount >= 100 else 1 if amount >= 10 else 2}f} {unit}"
    return f"{nanoseconds:.0f} ns" if nanoseconds >= 100 else f"{nanoseconds:.1f} ns"


def machine() -> dict[str, str]:
    """What the numbers were measured on."""
    processor = platform.processor()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                processor = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": f"{processor}, {len(os.sched_getaffinity(0))} in use",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "load": "{:.2f} {:.2f} {:.2f}".format(*os.getloadavg()),
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
    }


class Report:
    """What one run found, on which machine: printed as it is found."""

    def __init__(self, rounds: int) -> None:
        self._machine = machine()
        self._sections: list[Section] = []
        for key, value in self._machine.items():
            print(f"{key + ':':<11}{value}")
        print(f"median and quartiles of {rounds} rounds in turns; ratios: the median of each round's")

    def show(self, *found: Section) -> None:
        for each in found:
            each.show()
            self._sections.append(each)

    def end(self, path: str | None) -> None:
        """How many bounds were reached; and all samples as JSON into a file, where there is a path."""
        bounded = [row for each in self._sections for row in each.rows if row.bound]
        missed = [row for row in bounded if row.bound and row.bound.missed_by(row.ratio or 0.0)]
        print(f"\n{len(bounded) - len(missed)} of {len(bounded)} bounds reached", end="")
        print("".join(f"; not: {row.label} ({row.ratio:.2f})" for row in missed))
        if path:
            found = [
                {"title": each.title, "rows": [row.raw() for row in each.rows], "notes": each.notes}
                for each in self._sections
            ]
            Path(path).write_text(json.dumps({"machine": self._machine, "sections": found}, indent=1) + "\n")
