"""Break the heap's source in one place at a time, where the order of two stores is what makes it safe to be killed
between them: step_heap must find each. `make mutants`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
NATIVE = HERE.parents[1] / "native"

MUTANTS = [
    (
        "a large block's word before its run",
        "heap.c",
        "        ent_store(a, head, large_entry(units, 0, 0)); /* the commit; while the payload is zero, it may be given"
        " back */\n        __atomic_fetch_add(held_of_block(h, head, STEAD_CLASSES, 0), 1, __ATOMIC_RELAXED);\n"
        "        word_begin(word, h->place);\n",
        "        word_begin(word, h->place);\n        ent_store(a, head, large_entry(units, 0, 0));\n",
    ),
    ("nobody notes that he will own", "heap.c", "{ unit_set_add(ever_of(heap_of(a), a->place), head); }", "{ (void)a, (void)head; }"),
    (
        "a holder that is noted after it is one",
        "heap.c",
        "            unit_set_add(ever_of(h, h->place), s.head);\n            added = word_add(h, word, h->place, generation);\n",
        "            added = word_add(h, word, h->place, generation);\n            unit_set_add(ever_of(h, h->place), s.head);\n",
    ),
    (
        "a span's entries cleared after it is free",
        "spans.c",
        "        spans_clear(a, head, units);\n        runs_give(a, head, units);\n",
        "        runs_give(a, head, units);\n        spans_clear(a, head, units);\n",
    ),
    ("freeing without a note", "runs.c", "    runs_note(a, start, head, stop, end);\n", ""),
    ("taking without a note", "runs.c", "    runs_note(a, run, head, stop, end);\n", ""),
    # Not here: the note before runs are merged in a rebuild; no state that is stepped through needs it.
    ("edges that nobody cleans", "repair.c", "        clean_edges(a, head, e);\n", ""),
    (
        "a set of holders that is free before no word names it",
        "holders.c",
        "            __atomic_store_n(word, w & ~(IDS | OVERFLOW), __ATOMIC_SEQ_CST); /* the commit */\n"
        "            give_set(h, SET_OF(w));\n",
        "            give_set(h, SET_OF(w));\n"
        "            __atomic_store_n(word, w & ~(IDS | OVERFLOW), __ATOMIC_SEQ_CST);\n",
    ),
    ("sets of holders that nobody collects", "repair.c", "    sets_rebuild(h);\n", ""),
    (
        "an emptied set of holders that stays",
        "holders.c",
        "        if (empty(set)) {",
        "        if (set->places[place / 64] & 0 || (empty(set) && place == 1)) {",
    ),
    ("a word named by a set too late", "holders.c", "    set->word = number_of(h, word);\n    IN_ORDER();\n    return swap(word, &w, (w & ~IDS) | OVERFLOW | n); /* the commit */\n",
     "    int got = swap(word, &w, (w & ~IDS) | OVERFLOW | n);\n    IN_ORDER();\n    set->word = number_of(h, word);\n    return got;\n"),
    ("memory that is counted before it is a run", "arena.c", "    ent_store(a, head, entry(FREE, units));\n    __atomic_store_n(&a->state->units, stop, __ATOMIC_RELEASE); /* the commit */\n",
     "    __atomic_store_n(&a->state->units, stop, __ATOMIC_RELEASE);\n    ent_store(a, head, entry(FREE, units));\n"),
    ("a place that is left before what it held", "repair.c", "        heap_reap_place(h, place);\n        roster_leave(&shared->roster, place, identity);\n",
     "        roster_leave(&shared->roster, place, identity);\n        heap_reap_place(h, place);\n"),
    ("a unit that is done before it is", "repair.c", "        reap_unit(h, unit, place);\n        unit_set_drop(ever, unit);\n",
     "        unit_set_drop(ever, unit);\n        reap_unit(h, unit, place);\n"),
    ("spans that nobody adopts", "repair.c", "            unit_set_add(abandoned_of(h, class_of(e)), head);\n        }", "        }"),
    ("large blocks that nobody frees", "repair.c", "        if (!(word_load(word) & PAYLOAD))\n            heap_free_large(h, head);\n", ""),
    ("what was taken out stays out", "repair.c", "        reap_out(h, head, place);\n", "        (void)reap_out;\n"),
    ("spans without an owner that a rebuild does not list", "repair.c", "            unit_set_add(abandoned_of(h, class_of(e)), head);\n        runs_relist",
     "            (void)0;\n        runs_relist"),
    ("an emptied set of holders that a rebuild leaves", "holders.c", "        if (named && empty(&h->sets[n]))", "        if (named && 0)"),
    ("a lock whose owner may be dead", "heap.c", "        heap_rebuild(h);\n}", "        (void)h;\n}"),
]  # fmt: skip


def survives(folder: Path, name: str, old: str, new: str) -> bool:
    source = (NATIVE / name).read_text()
    if source.count(old) < 1:
        raise SystemExit(f"{name} has changed: {old!r} is not in it")
    for each in (*NATIVE.glob("*.[ch]"), HERE / "step_heap.c"):
        (folder / each.name).write_text(each.read_text())
    (folder / name).write_text(source.replace(old, new))
    sources = [each for each in os.environ["STEPPED"].split() if each]
    program = folder / "step_heap"
    compiler = os.environ.get("CC", "cc").split()
    subprocess.run([*compiler, "-O1", "-g", "-std=gnu11", "-DROBUST_SLICE=1000", f"-I{folder}", *(folder / each for each in sources),
                    "-o", program, "-lpthread"], check=True)  # fmt: skip
    try:
        for which in (["150"], ["1", "between"]):  # what only a repair that was cut off shows
            done = subprocess.run([program, *which], capture_output=True, text=True, timeout=200, check=False)
            if done.returncode:
                break
    except subprocess.TimeoutExpired:
        print("hangs", flush=True)
        return False
    print(f"{name}: {done.returncode}: {done.stdout.strip().splitlines()[-1:]}", flush=True)
    return done.returncode == 0


def main() -> None:
    survived = []
    for what, name, old, new in MUTANTS:
        with tempfile.TemporaryDirectory() as folder:
            print(what, end=": ", flush=True)
            if survives(Path(folder), name, old, new):
                survived.append(what)
    print(f"{len(MUTANTS) - len(survived)} of {len(MUTANTS)} mutants were found")
    if survived:
        sys.exit(f"not found: {survived}")


if __name__ == "__main__":
    main()
