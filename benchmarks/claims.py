"""What stead costs beside the bare system calls, the old way, and a pickle.

README.md says what the rows mean. Measures and does not judge: a bound that is missed is printed as missed,
and the exit status is 0.
"""

from __future__ import annotations

import argparse
import errno
import multiprocessing
import operator
import os
import threading
import time
from itertools import repeat
from typing import TYPE_CHECKING, Any

from harness import Bound, Raw, Report, Row, Section, in_turns, timed

from stead import (
    Footprint,
    LimitReached,
    Placement,
    ProcessSpace,
    Reservation,
    SharedMemory,
    _native,
    reserve,
    snapshot,
    this_process,
)
from stead.snapshot import mappings_within
from stead.space.live import LiveKernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from multiprocessing.connection import Connection

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30
PAGE = os.sysconf("SC_PAGESIZE")
CROWD = 30_000
# Filling up takes a while for each mapping; where the administrator allows a million of them, leave it.
MOST_MAPPINGS = 200_000


# ---- claims ------------------------------------------------------------------------------------------


def lost_claims(raw: Raw, rounds: int, n: int) -> list[Section]:
    sections = []
    with reserve(GiB) as held:
        for size, name in ((4 * KiB, "4 KiB"), (GiB, "1 GiB")):
            address = held.address
            claim = _native.claim
            assert claim(address, size) == -errno.EEXIST
            found = in_turns(
                {
                    "raw": raw.timed("lost_claim", address, size),
                    "stead": _loop_of_two(claim, address, size),
                    "old": raw.timed("lost_hint", address, size),
                    "floor": _loop_of_two(operator.xor, address, size),
                    "loop": _empty_loop,
                },
                rounds,
                n,
            )
            section = Section(f"1. lost claim of {name}: the address is occupied")
            section.rows = [
                Row("C: mmap(MAP_FIXED_NOREPLACE), refused", found["raw"]),
                Row("stead._native.claim from Python", found["stead"], ("C", found["raw"]), Bound("<=", 1.3)),
                Row(
                    "the old way, in C: hint, compare, munmap",
                    found["old"],
                    ("stead", found["stead"]),
                    Bound(">=", 6),
                ),
                Row("floor of such a call: operator.xor, same arguments", found["floor"]),
                Row("of each Python row: the loop, empty", found["loop"]),
            ]
            sections.append(section)
    return sections


def after_a_thread(raw: Raw, rounds: int, n: int) -> Section:
    """Last, since a process that has had a second thread never again counts as one without."""
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    with reserve(GiB) as held:
        found = in_turns(
            {
                "raw claim": raw.timed("lost_claim", held.address, 4 * KiB),
                "claim": _loop_of_two(_native.claim, held.address, 4 * KiB),
                "raw pair": raw.timed("pair", _free_place(GiB), GiB, 0),
                "pair": timed(lambda: reserve(GiB).release()),
            },
            rounds,
            n,
        )
    section = Section("7. in a process that has had a second thread: the GIL is released around each call")
    section.rows = [
        Row("C: a lost claim of 4 KiB", found["raw claim"]),
        Row("stead._native.claim from Python", found["claim"], ("C", found["raw claim"])),
        Row("C: mmap(MAP_FIXED_NOREPLACE) + munmap, at one place", found["raw pair"]),
        Row("stead.reserve(1 << 30).release()", found["pair"], ("C", found["raw pair"])),
    ]
    return section


def _loop_of_two(call: Callable[[int, int], int], first: int, second: int) -> Callable[[int], float]:
    """As harness.timed, without a function of Python's around a call that is shorter than that."""

    def run(n: int) -> float:
        nothing = repeat(None, n)
        began = time.perf_counter_ns()
        for _ in nothing:
            call(first, second)
        return (time.perf_counter_ns() - began) / n

    return run


def _empty_loop(n: int) -> float:
    nothing = repeat(None, n)
    began = time.perf_counter_ns()
    for _ in nothing:
        pass
    return (time.perf_counter_ns() - began) / n


def _free_place(size: int) -> int:
    with reserve(size) as held:
        return held.address


def reserve_and_release(raw: Raw, rounds: int, n: int) -> Section:
    place = _free_place(GiB)
    window = this_process().windows[0]
    draws = iter(range(0, 1 << 62, n))  # no place twice: each round goes on where the last one stopped

    def scattered(dontdump: int) -> Callable[[int], float]:
        def run(n: int) -> float:
            return raw("scattered_pair", *window, 2 * MiB, GiB, next(draws), dontdump, n) / n

        return run

    found = in_turns(
        {
            "pair": raw.timed("pair", place, GiB, 0),
            "pair, dontdump": raw.timed("pair", place, GiB, 1),
            "scattered": scattered(0),
            "scattered, dontdump": scattered(1),
            "stead": timed(lambda: reserve(GiB).release()),
        },
        rounds,
        n,
    )
    stead = found["stead"]
    section = Section("2. reserve and release 1 GiB")
    section.rows = [
        Row("C: mmap(MAP_FIXED_NOREPLACE) + munmap, at one place", found["pair"]),
        Row("C: the same, with madvise(MADV_DONTDUMP) between", found["pair, dontdump"]),
        Row("C: without it, scattered as stead scatters", found["scattered"]),
        Row("C: scattered, with MADV_DONTDUMP: all that stead asks for", found["scattered, dontdump"]),
        Row("stead.reserve(1 << 30).release()", stead, ("C at one place", found["pair"]), Bound("<=", 2.5)),
        Row("  the same samples, against all that stead asks for", stead, ("C", found["scattered, dontdump"])),
    ]
    return section


def in_a_crowd(raw: Raw, rounds: int, n: int) -> Section:
    place = _free_place(GiB)

    def crowded(measure: Callable[[int], float]) -> Callable[[int], float]:
        def run(n: int) -> float:
            first = raw("crowd", CROWD, PAGE)
            try:
                return measure(n)
            finally:
                raw("drop", first, CROWD * PAGE)

        return run

    ours = timed(lambda: reserve(GiB).release())
    bare = raw.timed("pair", place, GiB, 0)
    found = in_turns(
        {"ours": ours, "ours, crowd": crowded(ours), "bare": bare, "bare, crowd": crowded(bare)}, rounds, n
    )
    looks = in_turns({"look": crowded(timed(_look_choose_claim))}, 3 if rounds > 3 else 1, 1)["look"]
    section = Section(f"3. reserve and release 1 GiB, with {CROWD:,} foreign mappings elsewhere in the process")
    section.rows = [
        Row("C at one place, without them", found["bare"]),
        Row("C at one place, with them", found["bare, crowd"], ("without", found["bare"])),
        Row("stead, without them", found["ours"]),
        Row("stead, with them", found["ours, crowd"], ("without", found["ours"]), Bound("<=", 2)),
        Row("the old way, with them: read all maps, choose, claim, release", looks),
    ]
    return section


def _look_choose_claim() -> None:
    space = this_process()
    seen = Footprint(snapshot().occupied, space.granularity)
    where = Placement(GiB, space.windows[0], 2 * MiB, prefer="low").choose(seen)
    assert where is not None
    space.reserve_at(where)
    space.release(where)


# ---- memory ------------------------------------------------------------------------------------------


def commit_and_decommit(raw: Raw, rounds: int, n: int) -> Section:
    size = 64 * KiB
    place = _free_place(GiB)
    raw("hold", place, GiB)
    with reserve(GiB) as held:

        def pair() -> None:
            view = held.commit(0, size)
            del view  # a live view would forbid to decommit
            held.decommit(0, size)

        found = in_turns(
            {
                "raw": raw.timed("commit_pair", place, size, 0),
                "raw, dontdump": raw.timed("commit_pair", place, size, 1),
                "stead": timed(pair),
            },
            rounds,
            n,
        )
    raw("drop", place, GiB)
    section = Section("4. commit and decommit 64 KiB of anonymous memory, untouched")
    section.rows = [
        Row("C: mmap(MAP_FIXED) read-write + mmap(MAP_FIXED) PROT_NONE", found["raw"]),
        Row("C: the same, with madvise(MADV_DONTDUMP) after", found["raw, dontdump"]),
        Row("stead: commit, drop the view, decommit", found["stead"], ("C", found["raw"])),
    ]
    return section


# ---- at the limit of mappings -----------------------------------------------------------------------


class Telling(LiveKernel):
    """Remembers the answer of the last mprotect: it is called only on the lower rungs of decommit."""

    answer: int | None = None

    def protect(self, address: int, size: int, protection: int) -> int:
        self.answer = _native.protect(address, size, protection)
        return self.answer


def at_the_limit(samples: int) -> Section:
    section = Section("5. decommit one 4 KiB page, at the limit of mappings (vm.max_map_count)")
    with open("/proc/sys/vm/max_map_count") as file:
        limit = int(file.read())
    if limit > MOST_MAPPINGS:
        section.notes = [f"skipped: vm.max_map_count is {limit:,}, which would take long to fill"]
        return section
    found = _in_a_process(_fill_and_decommit, samples)
    if isinstance(found, str):
        section.notes = [f"FAILED: {found}"]
        return section
    calm, alone, inside = found["calm"], found["alone"], found["inside"]
    calm_inside = found["calm inside"]
    section.rows = [
        Row("a page by itself, with few mappings", calm["ns"]),
        Row("a page by itself, at the limit", alone["ns"], ("with few", calm["ns"])),
        Row("a page inside a larger part, with few mappings", calm_inside["ns"]),
        Row("a page inside a larger part, at the limit", inside["ns"], ("with few", calm_inside["ns"])),
    ]
    section.notes = [
        f"{found['filled']:,} alternate pages committed in {found['seconds']:.1f} s, until {found['said']}; "
        f"vm.max_map_count is {limit:,}",
        "before each sample at the limit every mapping that is to be had is taken, until mmap is refused",
        *(
            f"{name}: {_rungs(each['rungs'])}; the first five: {_listed(each['ns'][:5])}"
            for name, each in (("by itself", alone), ("inside", inside))
        ),
        f"all that is left of the alternate pages in one call, at the limit: {found['whole'] / 1e6:.1f} ms, "
        f"by {found['whole rung']}",
        "+ accessible for a while: the contents went at once, the access goes when a mapping is to be had",
        f"such pages at the limit: {found['lingering']}; once mappings were to be had: {found['left']}",
        f"failures: {len(found['failures'])} {' '.join(found['failures'][:1])}".rstrip(),
    ]
    return section


def _listed(nanoseconds: Sequence[float]) -> str:
    return ", ".join(f"{each / 1000:.1f}" for each in nanoseconds) + " us"


def _rungs(rungs: Sequence[str]) -> str:
    return ", ".join(f"{rungs.count(each)} of {len(rungs)} by {each}" for each in sorted(set(rungs)))


def _fill_and_decommit(samples: int) -> dict[str, Any]:
    kernel = Telling()
    space = ProcessSpace(kernel)
    failures: list[str] = []

    def decommit(held: Reservation, page: int, size: int = PAGE) -> tuple[float, str]:
        kernel.answer = None
        began = time.perf_counter_ns()
        try:
            held.decommit(page * PAGE, size)
        except Exception as error:
            failures.append(repr(error))
            return time.perf_counter_ns() - began, f"nothing: {error!r}"
        spent = time.perf_counter_ns() - began
        if kernel.answer is None:
            return spent, "MAP_FIXED"
        rung = "mprotect" if kernel.answer == 0 else "accessible for a while"
        return spent, f"MADV_DONTNEED + {rung}"

    def measure(held: Reservation, pages: Iterable[int], first: Callable[[int], None]) -> dict[str, Any]:
        answers = []
        for page in pages:
            first(page)
            answers.append(decommit(held, page))
        return {"ns": [spent for spent, _ in answers], "rungs": [rung for _, rung in answers]}

    filler, larger = reserve(8 * GiB, space=space), reserve(GiB, space=space)
    filled = 0

    def fill() -> str:
        """Commit every other page, until there is no mapping to be had; how that was said."""
        nonlocal filled
        try:
            while True:
                filler.commit((1 + 2 * filled) * PAGE, PAGE)
                filled += 1
        except (LimitReached, MemoryError) as refused:
            return f"LimitReached ({refused.limit})" if isinstance(refused, LimitReached) else "MemoryError"

    raw, holes, foreign = Raw(), _free_place(GiB), 0

    def crowd_out(page: int) -> None:
        """Take every last mapping: a commit needs two, these need one each, and the last passes the limit."""
        nonlocal foreign
        try:
            while True:
                raw("hold", holes + 2 * foreign * PAGE, PAGE)
                foreign += 1
        except OSError as refused:
            if refused.errno != errno.ENOMEM:
                raise

    calm = measure(filler, [1] * samples, lambda page: filler.commit(page * PAGE, PAGE).release())
    inner = range(1, 2 * samples, 2)
    larger.commit(0, 4 * samples * PAGE)
    calm_inside = measure(larger, inner, lambda page: None)
    larger.decommit()
    larger.commit(0, 4 * samples * PAGE)

    # The interpreter gets no memory at the limit either: leave it some. What is kept, keeps it from being
    # given back.
    room = [bytes(400) for _ in range(40_000)]
    kept = room[::500]
    del room

    began = time.perf_counter()
    said = fill()
    seconds = time.perf_counter() - began
    pages = [1 + 2 * (number * 97 % filled) for number in range(samples)]
    alone = measure(filler, pages, crowd_out)
    inside = measure(larger, inner, crowd_out)
    lingering = _lingering(larger)
    whole, rung = decommit(filler, 0, filler.size)
    filler.release()
    raw("drop", holes, GiB)
    del kept
    decommit(larger, 2 * samples + 1)  # one that finds a mapping takes along what was left
    return {
        "calm": calm, "calm inside": calm_inside, "alone": alone, "inside": inside, "filled": filled,
        "said": said, "seconds": seconds, "failures": failures, "lingering": lingering,
        "left": _lingering(larger), "whole": whole, "whole rung": rung,
    }  # fmt: skip


def _lingering(held: Reservation) -> int:
    """Pages that can be touched, though they are not committed any more."""
    seen = mappings_within(held.range)
    touchable = sum(each.range.size for each in seen if not each.permissions.startswith("---"))
    return (touchable - held.committed.size) // PAGE


def _in_a_process(body: Callable[[int], dict[str, Any]], samples: int) -> dict[str, Any] | str:
    """What ``body`` finds in a fresh process, or what became of it."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_result, args=(sender, body, samples))
    process.start()
    sender.close()
    try:
        found: dict[str, Any] | str = receiver.recv()
    except EOFError:
        found = "the process ended without a word"
    process.join()
    return found


def _send_result(sender: Connection, body: Callable[[int], dict[str, Any]], samples: int) -> None:
    try:
        sender.send(body(samples))
    except Exception as error:
        sender.send(f"{type(error).__name__}: {error}")


# ---- hand-over ---------------------------------------------------------------------------------------


def hand_over(sizes: Sequence[tuple[int, str, int]]) -> list[Section]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    worker = context.Process(target=_first_bytes, args=(there,), daemon=True)
    worker.start()
    there.close()
    sections = []
    for size, name, rounds in sizes:
        with reserve(size) as held:
            view = held.commit(backing=SharedMemory(name="bench"))
            view[:] = bytes(range(256)) * (size // 256)
            copied = view.tobytes()
            first = view[0]
            cases: dict[str, Callable[[int], float]] = {
                "handed": lambda n, held=held, first=first: _until_read(here, held, first),  # type: ignore[misc]
                "pickled": lambda n, copied=copied, first=first: _until_read(here, copied, first),  # type: ignore[misc]
            }
            found = in_turns(cases, rounds, 1)
            del view, copied, cases
        section = Section(f"6. hand-over of {name} to a running worker: from send to the first byte read")
        section.rows = [
            Row("conn.send(reservation), shared memory", found["handed"]),
            Row("conn.send(bytes), pickled", found["pickled"], ("handed over", found["handed"])),
        ]
        sections.append(section)
    here.send(None)
    worker.join()
    return sections


def _until_read(connection: Connection, what: object, first: int) -> float:
    began = time.monotonic_ns()  # one clock for all processes of a machine
    connection.send(what)
    ended, found = connection.recv()
    assert found == first
    return float(ended - began)


def _first_bytes(connection: Connection) -> None:
    """The worker. Gives back what it gets, so that each hand-over attaches anew."""
    while (got := connection.recv()) is not None:
        if isinstance(got, Reservation):
            view = got.view(0, 1)
            first, ended = view[0], time.monotonic_ns()
            del view
            got.release()
        else:
            first, ended = got[0], time.monotonic_ns()
        del got
        connection.send((ended, first))


# ---- all of it ---------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description="What stead costs: medians, quartiles, ratios, bounds.")
    parser.add_argument("--quick", action="store_true", help="a smoke run of seconds; its numbers mean little")
    parser.add_argument("--json", metavar="FILE", help="write every sample, in nanoseconds")
    chosen = parser.parse_args()
    quick: bool = chosen.quick
    rounds = 3 if quick else 31
    report = Report(rounds)
    show = report.show

    raw = Raw()
    show(*lost_claims(raw, rounds, 500 if quick else 10_000))
    show(reserve_and_release(raw, rounds, 200 if quick else 3_000))
    show(in_a_crowd(raw, rounds, 200 if quick else 2_000))
    show(commit_and_decommit(raw, rounds, 200 if quick else 2_000))
    show(at_the_limit(16 if quick else 256))
    large = [] if quick else [(256 * MiB, "256 MiB", 7)]
    show(*hand_over([(MiB, "1 MiB", rounds), *large]))
    show(after_a_thread(raw, rounds, 500 if quick else 5_000))

    report.end(chosen.json)


if __name__ == "__main__":
    main()
