"""Many claims of one range at once: exactly one winner each, and no byte changed anywhere else."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path

import pytest

import stead
from stead import _native
from stead.ranges import Range

PAGE = os.sysconf("SC_PAGESIZE")
THREADS = 8
MAX_MAPPINGS = int(Path("/proc/sys/vm/max_map_count").read_text())


def race(rounds: int, where: Range) -> int:
    """Claim ``where`` from all threads in each round; the number of rounds with exactly one winner."""
    space = stead.this_process()
    begin, end = threading.Barrier(THREADS), threading.Barrier(THREADS)
    won = [0] * THREADS
    fair = 0

    def contend(me: int) -> None:
        nonlocal fair
        for _ in range(rounds):
            won[me] = 0
            begin.wait()
            try:
                space.reserve_at(where)
                won[me] = 1
            except stead.Occupied:
                pass
            if end.wait() == 0:
                fair += sum(won) == 1
            begin.wait()
            if won[me]:
                space.release(where)
            end.wait()

    threads = [threading.Thread(target=contend, args=(me,)) for me in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return fair


def with_sentinels(rounds: int, seed: int) -> tuple[int, bool]:
    """Race for a gap between two committed neighbours; whether these kept every byte."""
    with stead.reserve(12 * PAGE, align=PAGE, seed=seed) as r:
        gap = Range(r.address + 4 * PAGE, r.address + 8 * PAGE)
        for offset in (0, 8 * PAGE):
            with r.commit(offset, 4 * PAGE) as view:
                view[:] = b"\xa5" * len(view)
        _native.unmap(gap.start, gap.size)  # a hole to fight for, between pages that must not change
        fair = race(rounds, gap)
        intact = True
        for offset in (0, 8 * PAGE):
            with r.view(offset, 4 * PAGE) as view:
                intact &= bytes(view) == b"\xa5" * len(view)
        stead.this_process().reserve_at(gap)
    return fair, intact


def test_threads_race_for_one_range() -> None:
    assert with_sentinels(500, seed=1) == (500, True)


@pytest.mark.long
def test_a_hundred_thousand_racing_claims_of_threads() -> None:
    rounds = 100_000 // THREADS
    assert with_sentinels(rounds, seed=2) == (rounds, True)


def _race_in_process(seed: int, rounds: int) -> tuple[int, bool]:
    return with_sentinels(rounds, seed)


@pytest.mark.long
def test_racing_claims_in_processes_at_the_same_addresses() -> None:
    """Four processes, each with its own space: the same addresses, and nobody sees another's claims."""
    rounds = 100_000 // THREADS // 4
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        answers = pool.starmap(_race_in_process, [(3, rounds)] * 4)
    assert answers == [(rounds, True)] * 4


def test_reserve_finds_its_way_between_claims_of_others() -> None:
    """Threads map and unmap raw pages in a small window while we reserve there."""
    window = Range(0x4700_0000_0000, 0x4700_0000_0000 + 64 * PAGE)
    stop = threading.Event()
    clobbered: list[int] = []

    def disturb(seed: int) -> None:
        number = seed
        while not stop.is_set():
            number = (number * 6364136223846793005 + 1442695040888963407) % (1 << 64)
            address = window.start + (number >> 33) % 64 * PAGE
            if _native.claim(address, PAGE) == address:
                _native.unmap(address, PAGE)

    threads = [threading.Thread(target=disturb, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(300):
            with stead.reserve(2 * PAGE, within=window, align=PAGE) as r:
                with r.commit() as view:
                    view[:] = b"\x5a" * len(view)
                    if bytes(view) != b"\x5a" * len(view):
                        clobbered.append(r.address)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not clobbered


def test_a_free_does_not_fail_at_the_limit_of_mappings() -> None:
    """In a child of its own: the limit is the process's."""
    if MAX_MAPPINGS > 300_000:
        pytest.skip(f"vm.max_map_count is {MAX_MAPPINGS}: filling it up takes too long (the simulated test does)")
    process = multiprocessing.get_context("spawn").Process(target=_fill_and_free)
    process.start()
    process.join()
    assert process.exitcode == 0


def _fill_and_free() -> None:
    pages = 2 * MAX_MAPPINGS + 10_000
    with stead.reserve(pages * PAGE) as r:
        committed = []

        def fill() -> None:
            for k in range(0, pages, 2):
                r.commit(k * PAGE, PAGE).release()
                committed.append(k)

        with pytest.raises(stead.LimitReached) as caught:
            fill()
        assert caught.value.limit == "max_map_count"
        assert len(committed) > 1000
        for k in committed[::3]:
            r.decommit(k * PAGE, PAGE)
        # A part of a committed piece, where taking the access away would need one mapping more.
        for k in committed[::-1]:
            r.decommit(k * PAGE, PAGE)
        assert not r.parts
        with r.commit(0, 4 * PAGE) as view:
            assert not any(view)
