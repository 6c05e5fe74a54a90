"""Real traces of allocations: of two Python programs, every object by malloc, recorded by recorder.c.

``python benchmarks/record.py stdlib numpy`` records the first ten million operations of both into
benchmarks/build/, which allocators.py does by itself. ``--keep`` records a shorter beginning of the same programs
into benchmarks/traces/, for those who only replay.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import lzma
import os
import platform
import shlex
import sqlite3
import subprocess
import sys
import sysconfig
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType

_HERE = Path(__file__).resolve().parent
BUILD, KEPT = _HERE / "build", _HERE / "traces"
OPERATIONS = 10_000_000
KEPT_OPERATIONS = {"stdlib": 1_000_000, "numpy": 1_500_000}  # almost half a million of which are `import numpy`


def build(target: Path, sources: list[Path], *options: str, needed: tuple[Path, ...] = ()) -> Path:
    """Compile where a source, or what it includes, is newer than what was compiled."""
    newest = max(each.stat().st_mtime for each in (*sources, *needed))
    if not target.exists() or target.stat().st_mtime <= newest:
        target.parent.mkdir(exist_ok=True)
        # Two benchmarks may start at once: each compiles its own, and the last to rename wins.
        unfinished = target.with_name(f"{target.name}.{os.getpid()}")
        compiler = shlex.split(os.environ.get("CC", "cc"))
        common = ["-std=gnu11", "-O2", "-Wall", "-Wextra"]
        subprocess.run([*compiler, *common, "-o", unfinished, *sources, *options], check=True)
        unfinished.rename(target)
    return target


def record(program: str, operations: int, target: Path) -> Path:
    """Run a program with the recorder until it has made so many operations. Raises RuntimeError where it ends
    before that, or cannot run here."""
    if program == "numpy" and importlib.util.find_spec("numpy") is None:
        raise RuntimeError("this Python has no NumPy")
    recorder = build(
        BUILD / f"recorder-{platform.machine()}.so",
        [_HERE / "recorder.c"],
        *("-shared", "-fPIC", "-fvisibility=hidden", "-ldl", "-lpthread"),
    )
    unfinished = target.with_name(f"{target.name}.{os.getpid()}")
    unfinished.unlink(missing_ok=True)
    environment = os.environ | {
        "LD_PRELOAD": str(recorder),
        "STEAD_TRACE": str(unfinished),
        "STEAD_TRACE_LIMIT": str(operations),
        "PYTHONMALLOC": "malloc",
        "PYTHONHASHSEED": "0",
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, "-W", "ignore", __file__, program, "--run"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode or done.stdout:  # it says "done" where the recorder has not ended it
        unfinished.unlink(missing_ok=True)
        raise RuntimeError(f"{shlex.join(command)} ended too early: {done.stdout}{done.stderr[-2000:]}")
    unfinished.rename(target)
    return target


def full(program: str) -> Path:
    """The trace of the first ten million operations, recorded on this machine. Raises RuntimeError."""
    target = BUILD / f"{program}-{platform.machine()}-{platform.python_version()}.trace"
    newest = max(each.stat().st_mtime for each in (_HERE / "recorder.c", _HERE / "record.py"))
    if not target.exists() or target.stat().st_mtime <= newest:
        record(program, OPERATIONS, target)
    return target


def kept(program: str) -> Path:
    """The trace that is in the repository, unpacked."""
    source, target = KEPT / f"{program}.trace.xz", BUILD / f"{program}-kept.trace"
    if not target.exists() or target.stat().st_mtime <= source.stat().st_mtime:
        target.parent.mkdir(exist_ok=True)
        unfinished = target.with_name(f"{target.name}.{os.getpid()}")
        unfinished.write_bytes(lzma.decompress(source.read_bytes()))
        unfinished.rename(target)
    return target


def keep(program: str) -> Path:
    """Record the trace that is in the repository."""
    BUILD.mkdir(exist_ok=True)
    trace = record(program, KEPT_OPERATIONS[program], BUILD / f"{program}-kept.trace")
    target = KEPT / f"{program}.trace.xz"
    target.write_bytes(lzma.compress(trace.read_bytes(), preset=9 | lzma.PRESET_EXTREME))
    os.utime(trace)  # newer than what it would be unpacked from
    return target


# ---- the programs. They give the same every time, and go on until the recorder has enough ------------------


def _stdlib() -> None:
    """An index of Python's own library: parse, compile, names into a database, a report in JSON. The last trees
    stay for a while, code and index stay."""
    database = sqlite3.connect(":memory:")
    database.execute("create table names(name text, file text, line integer)")
    database.execute("create index by_name on names(name)")
    compiled: list[CodeType] = []
    places: dict[str, list[tuple[int, int]]] = {}
    recent: OrderedDict[str, ast.Module] = OrderedDict()
    for number, (path, source) in enumerate(_modules()):
        recent[path] = tree = ast.parse(source, path)
        if len(recent) > 8:
            recent.popitem(last=False)
        names = [(each.id, path, each.lineno) for each in ast.walk(tree) if isinstance(each, ast.Name)]
        for name, _, line in names:
            places.setdefault(name, []).append((number, line))
        database.executemany("insert into names values (?, ?, ?)", names)
        compiled.append(compile(tree, path, "exec"))
        query = "select name, count(*) from names where file = ? group by name order by 2 desc"
        report = json.dumps({path: database.execute(query, (path,)).fetchall()}, indent=1)
        assert path in json.loads(report)


def _modules() -> Iterator[tuple[str, str]]:
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        name = path.relative_to(library)
        if {"site-packages", "test", "tests", "lib2to3"}.isdisjoint(name.parts):
            yield str(name), path.read_text(encoding="utf-8", errors="replace")


def _numpy() -> None:
    """Pictures of all sizes go through a pipeline: smooth, gradient, spectrum, cells and their shapes, tiles. The
    last pictures stay for a while, and so do their tiles; a few numbers of each stay."""
    import numpy

    random = numpy.random.default_rng(7)
    recent: OrderedDict[int, list[numpy.ndarray[Any, Any]]] = OrderedDict()
    features: list[numpy.ndarray[Any, Any]] = []
    for number in range(1_000_000):
        height, width = (int(each) for each in numpy.exp2(random.uniform(4, 10, 2)))
        picture = random.integers(0, 256, (height, width), dtype=numpy.uint8).astype(numpy.float32)
        padded = numpy.pad(picture, 1, mode="edge")
        smooth = numpy.zeros_like(picture)
        for i in range(9):
            smooth += padded[i // 3 : i // 3 + height, i % 3 : i % 3 + width] / 9
        down, across = numpy.gradient(smooth)
        slope = numpy.hypot(down, across)
        spectrum = numpy.abs(numpy.fft.rfft2(smooth - smooth.mean()))
        edges = numpy.argwhere(slope > numpy.quantile(slope, 0.98))
        order = numpy.lexsort((edges[:, 1], edges[:, 0] // 8))
        cells = numpy.array_split(edges[order], max(len(edges) // 24, 1))
        shapes = [numpy.array([*cell.mean(axis=0), *cell.std(axis=0)]) for cell in cells if len(cell)]
        tiles = [picture[i : i + 32, j : j + 32].copy() for i in range(0, height, 32) for j in range(0, width, 32)]
        contrast = [float(tile.max() - tile.min()) for tile in tiles]
        histogram = numpy.histogram(smooth, bins=32)[0]
        features.append(numpy.concatenate([histogram, numpy.sort(contrast)[-4:], numpy.ravel(shapes)[:16]]))
        recent[number] = [picture, spectrum, *tiles]
        if len(recent) > 24:
            recent.popitem(last=False)
        if number % 64 == 63:
            lengths = numpy.array([len(each) for each in features])
            table = numpy.zeros((len(features), lengths.max()))
            for row, each in zip(table, features, strict=True):
                row[: len(each)] = each
            table[:] = table[numpy.argsort(table[:, 0], kind="stable")]


PROGRAMS: dict[str, Callable[[], None]] = {"stdlib": _stdlib, "numpy": _numpy}


def main() -> None:
    parser = argparse.ArgumentParser(description="Record what programs allocate.")
    parser.add_argument("program", nargs="+", choices=PROGRAMS)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--keep", action="store_true", help="a shorter trace, into benchmarks/traces/")
    what.add_argument("--run", action="store_true", help="run it, and record nothing")
    chosen = parser.parse_args()
    for program in chosen.program:
        if chosen.run:
            PROGRAMS[program]()
            print(f"{program}: done")
        else:
            path = keep(program) if chosen.keep else full(program)
            print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
