"""Break the heap's source in one place at a time, where the order of two stores is what makes it safe to be killed
between them: step_heap must find each. `make mutants`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
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


# What only a repair that was cut off shows is looked for, too.
STEPS = {"step_heap": (["150"], ["1", "between"]), "step_objects": (["0"], ["20"])}

# In what step_objects goes through.
OBJECTS = [
    ("several words that change without a note", "inside.c",
     "    __atomic_store_n(&shared->redo_count, h->filled_count, __ATOMIC_RELEASE); /* the commit */\n    IN_ORDER();\n"
     "    h->filled_count = 0;\n    redo_finish(h);\n",
     "    for (unsigned i = 0; i < h->filled_count; i++)\n        apply(h, &shared->redo[i]);\n    h->filled_count = 0;\n"),
    ("a note that nobody reads", "repair.c", "    redo_finish(h);\n", ""),
    ("a message after its reference", "channel.c",
     "        redo_add(h, &o->tail, ~UINT64_C(0), tail + 1);\n        redo_commit(h);\n",
     "        redo_commit(h);\n        __atomic_store_n(&o->tail, tail + 1, __ATOMIC_RELEASE);\n"),
    ("a message before it is written", "channel.c",
     "    c->address = m->address;\n    c->length = m->length;\n    c->kind = m->kind;\n    memcpy(c->bytes, bytes, m->length);\n"
     "    IN_ORDER();\n    if (!m->address) {\n        __atomic_store_n(&o->tail, tail + 1, __ATOMIC_RELEASE); /* the commit */\n",
     "    c->address = m->address;\n    if (!m->address)\n        __atomic_store_n(&o->tail, tail + 1, __ATOMIC_RELEASE);\n"
     "    IN_ORDER();\n    c->length = m->length;\n    c->kind = m->kind;\n    memcpy(c->bytes, bytes, m->length);\n"
     "    if (!m->address) {\n"),
    ("a reference that ends, and nobody is told", "inside.c",
     "        unit_set_add(ever_of(h, h->place), head);\n        (void)custody_add(h, word, -1);\n",
     "        (void)custody_add(h, word, -1);\n"),
    ("permits that stay with the dead", "repair.c", "    objects_forget(h, place);\n", ""),
    ("a channel that ends with its messages", "object_table.c", "        channel_drain(h, o);\n", ""),
    ("a channel before its reference to its block", "object_table.c",
     "    if (wanted->kind == STEAD_CHANNEL && !custody_add(h, word, 1))\n",
     "    __atomic_store_n(&o->address, s->start, __ATOMIC_RELEASE);\n"
     "    if (wanted->kind == STEAD_CHANNEL && !custody_add(h, word, 1))\n"),
    ("a child whose holds nobody notes", "heap_fork.c", "        unit_set_add(ever_of(h, child), head);\n", ""),
    ("a waiter who is not counted off", "sync.c", "    if (may || last)\n        count_mine(h, o, -1);\n", "    (void)last;\n"),
]  # fmt: skip


def outcome(program: str, name: str, old: str, new: str) -> tuple[bool, str]:
    """Whether the mutant survives, and what was seen."""
    source = (NATIVE / name).read_text()
    if source.count(old) < 1:
        raise SystemExit(f"{name} has changed: {old!r} is not in it")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for each in (*NATIVE.glob("*.[ch]"), *HERE.glob("step*.[ch]")):
            (folder / each.name).write_text(each.read_text())
        (folder / name).write_text(source.replace(old, new))
        sources = [each for each in os.environ["STEPPED"].split() if each]
        built = folder / program
        flags = ["-O1", "-g", "-std=gnu11", *os.environ["QUICKLY"].split(), f"-I{folder}"]
        units = [folder / each for each in (f"{program}.c", *sources)]
        subprocess.run([*os.environ.get("CC", "cc").split(), *flags, *units, "-o", built, "-lpthread"], check=True)
        try:
            for which in STEPS[program]:
                done = subprocess.run([built, *which], capture_output=True, text=True, timeout=200, check=False)
                if done.returncode:
                    break
        except subprocess.TimeoutExpired:
            return False, "hangs"
    return done.returncode == 0, f"{done.returncode}: {done.stdout.strip().splitlines()[-1:]}"


def main() -> None:
    survived = []
    everything = [("step_heap", each) for each in MUTANTS] + [("step_objects", each) for each in OBJECTS]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        outcomes = pool.map(lambda each: outcome(each[0], *each[1][1:]), everything)
        for (_, (what, name, *_)), (survives, seen) in zip(everything, outcomes, strict=True):
            print(f"{what}: {name}: {seen}", flush=True)
            if survives:
                survived.append(what)
    print(f"{len(everything) - len(survived)} of {len(everything)} mutants were found")
    if survived:
        sys.exit(f"not found: {survived}")


if __name__ == "__main__":
    main()
