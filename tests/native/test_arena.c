/* native/arena.h: one case after the other, threads, forks; then random streams of operations beside a model, and
 * those of the fuzzer's corpus. Prints every check that fails; exits with 1 if any did.
 *   test_arena [SEED | FILE]...    only these streams, operation by operation
 *   STEAD_SEED=N test_arena        the random ones from here on */
#define _GNU_SOURCE
#include "arena_model.h"
#include "arena_threads.h"

#include <dirent.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define BASE (UINT64_C(1) << 44)
#define KIB UINT64_C(1024)
#define MIB (KIB * 1024)
#ifndef CORPUS
#define CORPUS "corpus/arena"
#endif

#ifdef UNDER_TSAN
enum { SEEDS = 100 }; /* of one thread there is little to find */
#else
enum { SEEDS = 1000 };
#endif

static int checks, failures;

void check_equal(const char *file, int line, const char *what, int64_t got, int64_t wanted)
{
    checks++;
    if (got == wanted)
        return;
    failures++;
    printf("%s:%d: %s is %" PRId64 " (%#" PRIx64 "), not %" PRId64 " (%#" PRIx64 ")\n", file, line, what, got, (uint64_t)got,
           wanted, (uint64_t)wanted);
}

static const char *wrong(const tabled_arena *t)
{
    uint32_t unit;
    return stead_arena_check(t->arena, &unit);
}

static tabled_arena make(uint64_t bytes, uint64_t guard)
{
    tabled_arena t = tabled_arena_make(BASE, (uint32_t)(bytes / STEAD_UNIT), guard);
    tabled_arena_extend(&t, (uint32_t)(bytes / STEAD_UNIT), 1);
    return t;
}

static void drop(const tabled_arena *t)
{
    SAME(wrong(t), NULL);
    tabled_arena_drop(t);
}

static uint64_t largest(const tabled_arena *t)
{
    stead_statistics s;
    stead_arena_statistics(t->arena, &s);
    return s.largest_run;
}

/* ---- sizes ---- */

static void test_every_size_has_the_smallest_class_that_holds_it(void)
{
    int good = 1;
    for (uint64_t size = 1; size <= STEAD_SMALL; size++) {
        unsigned c = stead_class_of(size);
        good &= c < STEAD_CLASSES && stead_class_size(c) >= size && (!c || stead_class_size(c - 1) < size);
        good &= size < 128 || stead_class_size(c) < size + size / 4; /* little is wasted */
    }
    EQUAL(good, 1);
    EQUAL(stead_class_size(0), 16);
    EQUAL(stead_class_size(STEAD_CLASSES - 1), STEAD_SMALL);
}

static void test_tables_are_apart_and_grow_with_the_units(void)
{
    uint64_t offsets[STEAD_TABLES + 1];
    static const uint32_t units[] = {1, 1000, 1 << 20, STEAD_MAX_UNITS};
    for (unsigned i = 0; i < sizeof units / sizeof *units; i++) {
        stead_arena_tables(units[i], offsets);
        for (int table = 0; table < STEAD_TABLES; table++) {
            EQUAL(offsets[table] % (64 * KIB), 0);
            EQUAL(stead_arena_table_used(table, units[i]) <= offsets[table + 1] - offsets[table], 1);
            EQUAL(stead_arena_table_used(table, units[i]) > stead_arena_table_used(table, units[i] - 1), 1);
        }
    }
}

static void test_what_cannot_be_had_is_refused_and_changes_nothing(void)
{
    tabled_arena t = make(MIB, 0), guarded = make(MIB, 4096);
    static const uint64_t sizes[] = {MIB + 1, UINT64_C(1) << 44, UINT64_C(1) << 63, UINT64_MAX - 4095, UINT64_MAX};
    stead_block block;
    uint64_t usable, missing, address = stead_arena_allocate(t.arena, 5 * STEAD_UNIT, 1);
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        EQUAL(stead_arena_take(t.arena, sizes[i], 1, 0, &block), STEAD_NO_SPACE);
        EQUAL(stead_arena_take(t.arena, sizes[i], 1, STEAD_LAST, &block), STEAD_NO_SPACE);
        EQUAL(stead_arena_take(guarded.arena, sizes[i], 1, STEAD_LAST, &block), STEAD_NO_SPACE);
        EQUAL(stead_arena_resize(t.arena, address, sizes[i], &usable, &missing), STEAD_NO_SPACE);
        EQUAL(usable, 5 * STEAD_UNIT);
        EQUAL(stead_arena_shortfall(t.arena, sizes[i], 1) > 0, 1);
        SAME(wrong(&t), NULL);
        SAME(wrong(&guarded), NULL);
    }
    EQUAL(stead_arena_take(t.arena, 1, UINT64_C(1) << 63, STEAD_LAST, &block), STEAD_NO_SPACE);
    drop(&t);
    drop(&guarded);
}

static void test_an_arena_without_memory_has_no_space(void)
{
    tabled_arena t = tabled_arena_make(BASE, 16, 0);
    stead_block block;
    uint64_t usable, missing;
    EQUAL(stead_arena_take(t.arena, 1, 1, STEAD_LAST, &block), STEAD_NO_SPACE);
    EQUAL(stead_arena_free(t.arena, BASE), STEAD_FOREIGN);
    EQUAL(stead_arena_shortfall(t.arena, 3 * 16 * KIB, 1), 12);
    EQUAL(largest(&t), 16 * STEAD_UNIT);
    tabled_arena_extend(&t, 12, 0);
    EQUAL(stead_arena_take(t.arena, 3 * 16 * KIB, 1, 0, &block), STEAD_DONE);
    EQUAL(block.zero_to, 0);
    EQUAL(stead_arena_shortfall(t.arena, 1, 1), 1);
    EQUAL(stead_arena_resize(t.arena, BASE, 5 * STEAD_UNIT, &usable, &missing), STEAD_DONE);
    EQUAL(stead_arena_shortfall(t.arena, 7 * STEAD_UNIT, 1), 0); /* the free run at the end counts */
    EQUAL(stead_arena_shortfall(t.arena, 8 * STEAD_UNIT, 1), 1);
    EQUAL(stead_arena_shortfall(t.arena, 4 * STEAD_UNIT, 8 * STEAD_UNIT), 0);
    EQUAL(stead_arena_shortfall(t.arena, 5 * STEAD_UNIT, 8 * STEAD_UNIT), 1);
    EQUAL(stead_arena_shortfall(t.arena, STEAD_UNIT, 16 * STEAD_UNIT), 5);
    drop(&t);
}

/* ---- refusals ---- */

static void refuses(uint64_t size)
{
    tabled_arena t = make(MIB, 0);
    stead_arena *a = t.arena;
    stead_block kept, block, held;
    uint64_t usable, missing;
    EQUAL(stead_arena_take(a, size, 1, 0, &kept), STEAD_DONE); /* and so its span stays */
    EQUAL(stead_arena_take(a, size, 1, 0, &block), STEAD_DONE);
    EQUAL(stead_arena_take(a, size, 1, STEAD_HOLD, &held), STEAD_DONE);
    EQUAL(stead_arena_free(a, block.address + 1), STEAD_INTERIOR);
    EQUAL(stead_arena_free(a, block.address + block.usable - 1), STEAD_INTERIOR);
    EQUAL(stead_arena_resize(a, block.address + 1, 1, &usable, &missing), STEAD_INTERIOR);
    EQUAL(stead_arena_give(a, block.node), STEAD_NOT_LIVE); /* not taken to be given */
    EQUAL(stead_arena_free_held(a, block.address), STEAD_NOT_LIVE);
    EQUAL(stead_arena_resize_held(a, block.address, 1, &usable, &missing), STEAD_NOT_LIVE);
    EQUAL(stead_arena_free(a, block.address), STEAD_DONE);
    EQUAL(stead_arena_free(a, block.address), STEAD_NOT_LIVE);
    EQUAL(stead_arena_free(a, block.address + 1), STEAD_NOT_LIVE);
    EQUAL(stead_arena_resize(a, block.address, 1, &usable, &missing), STEAD_NOT_LIVE);
    EQUAL(stead_arena_find(a, block.address, &block), STEAD_NOT_LIVE);

    EQUAL(stead_arena_free(a, held.address), STEAD_HELD);
    EQUAL(stead_arena_free(a, held.address + 1), STEAD_INTERIOR);
    EQUAL(stead_arena_free_held(a, held.address + 1), STEAD_INTERIOR);
    EQUAL(stead_arena_resize(a, held.address, 1, &usable, &missing), STEAD_HELD);
    EQUAL(stead_arena_give(a, held.node), STEAD_DONE);
    EQUAL(stead_arena_give(a, held.node), STEAD_NOT_LIVE);
    EQUAL(stead_arena_free_held(a, held.address), STEAD_NOT_LIVE);

    EQUAL(stead_arena_take(a, size, 1, 0, &block), STEAD_DONE); /* one that gets a holder later */
    EQUAL(stead_arena_hold(a, block.address + 1), STEAD_INTERIOR);
    EQUAL(stead_arena_hold(a, block.address), STEAD_DONE);
    EQUAL(stead_arena_hold(a, block.address), STEAD_HELD);
    EQUAL(stead_arena_free(a, block.address), STEAD_HELD);
    EQUAL(wrong(&t), NULL);
    EQUAL(stead_arena_free_held(a, block.address), STEAD_DONE);
    EQUAL(stead_arena_hold(a, block.address), STEAD_NOT_LIVE);
    EQUAL(stead_arena_hold(a, BASE - 1), STEAD_FOREIGN);

    EQUAL(stead_arena_free(a, 0), STEAD_FOREIGN);
    EQUAL(stead_arena_free(a, BASE - 1), STEAD_FOREIGN);
    EQUAL(stead_arena_free(a, BASE + MIB), STEAD_FOREIGN);
    EQUAL(stead_arena_free(a, UINT64_MAX), STEAD_FOREIGN);
    EQUAL(stead_arena_free(a, BASE + MIB - 1), STEAD_NOT_LIVE);
    EQUAL(stead_arena_free(a, kept.address), STEAD_DONE);
    EQUAL(largest(&t), MIB);
    drop(&t);
}

/* ---- space ---- */

static void test_all_of_it_can_be_filled(void)
{
    static uint64_t addresses[MIB / 16 + 1];
    for (unsigned c = 0; c < STEAD_CLASSES + 3; c++) {
        uint64_t size = c < STEAD_CLASSES ? stead_class_size(c) : (UINT64_C(20) * KIB) << c % 4;
        tabled_arena t = make(MIB, 0);
        size_t count = 0;
        while ((addresses[count] = stead_arena_allocate(t.arena, size, 1)))
            count++;
        EQUAL((count + 4) * size >= MIB / 5 * 4, 1); /* what the blocks of short spans do not fill is little */
        EQUAL(largest(&t) < size, 1);
        for (size_t i = 0; i < count; i += 2)
            EQUAL(stead_arena_free(t.arena, addresses[i]), STEAD_DONE);
        for (size_t i = 0; i < count; i += 2)
            EQUAL((addresses[i] = stead_arena_allocate(t.arena, size, 1)) != 0, 1); /* as much again */
        SAME(wrong(&t), NULL);
        for (size_t i = 0; i < count; i++)
            EQUAL(stead_arena_free(t.arena, addresses[i]), STEAD_DONE);
        EQUAL(largest(&t), MIB);
        drop(&t);
    }
}

static void test_every_alignment_up_to_the_whole_arena(void)
{
    static const uint64_t guards[] = {0, 4096, 8192};
    for (unsigned g = 0; g < 3; g++) {
        tabled_arena t = make(4 * MIB, guards[g]);
        for (uint64_t alignment = 1; alignment <= 4 * MIB; alignment *= 2) {
            uint64_t odd = stead_arena_allocate(t.arena, 1, 1), some = stead_arena_allocate(t.arena, 1, alignment);
            EQUAL(odd != 0, 1);
            EQUAL(some % alignment, 0);
            EQUAL(some == 0, alignment == 4 * MIB); /* the only place has been taken */
            EQUAL(stead_arena_free(t.arena, odd), STEAD_DONE);
            if (some)
                EQUAL(stead_arena_free(t.arena, some), STEAD_DONE);
        }
        stead_arena_purge(t.arena);
        EQUAL(stead_arena_allocate(t.arena, 1, 4 * MIB), BASE);
        drop(&t);
    }
}

static void test_a_block_ends_where_its_guard_begins(void)
{
    static const uint64_t guards[] = {4096, 8192, 12288, 64 * KIB, 128 * KIB, MIB};
    stead_block one, two;
    for (unsigned g = 0; g < sizeof guards / sizeof *guards; g++) {
        tabled_arena t = make(16 * MIB, guards[g]);
        for (uint64_t size = 1; size < 3 * MIB; size = size * 3 + 1) {
            EQUAL(stead_arena_take(t.arena, size, 1, 0, &one), STEAD_DONE);
            EQUAL(stead_arena_take(t.arena, size, 16, 0, &two), STEAD_DONE);
            EQUAL(one.usable, size);
            EQUAL((one.address + one.usable) % 4096, 0);
            EQUAL(two.address % 16, 0);
            EQUAL(two.usable - size < 16, 1);
            EQUAL(two.address >= one.address + one.usable + guards[g] || one.address >= two.address + two.usable + guards[g], 1);
            EQUAL(stead_arena_free(t.arena, one.address + one.usable), STEAD_NOT_LIVE);
            EQUAL(stead_arena_free(t.arena, one.address), STEAD_DONE);
            EQUAL(stead_arena_free(t.arena, two.address), STEAD_DONE);
        }
        EQUAL(largest(&t), 16 * MIB);
        drop(&t);
    }
}

static void test_what_is_zero_is_known_until_it_is_handed_out_and_again_when_given_back(void)
{
    tabled_arena t = make(MIB, 0);
    stead_block block;
    stead_run run;
    for (int again = 0; again < 2; again++) {
        EQUAL(stead_arena_dirty(t.arena), 0);
        EQUAL(stead_arena_checkout(t.arena, 1, &run), 0);
        EQUAL(stead_arena_take(t.arena, MIB / 4, 1, STEAD_HOLD, &block), STEAD_DONE);
        EQUAL(block.zero_to - block.zero_from, MIB / 4);
        EQUAL(stead_arena_give(t.arena, block.node), STEAD_DONE);
        EQUAL(stead_arena_dirty(t.arena), MIB / 4);
        EQUAL(stead_arena_take(t.arena, MIB, 1, STEAD_HOLD, &block), STEAD_DONE);
        EQUAL(block.zero_from, MIB / 4);
        EQUAL(block.zero_to, MIB);
        EQUAL(stead_arena_give(t.arena, block.node), STEAD_DONE);
        EQUAL(stead_arena_checkout(t.arena, MIB + 1, &run), 0);
        EQUAL(stead_arena_checkout(t.arena, MIB, &run), 1);
        EQUAL(run.from, BASE);
        EQUAL(run.to, BASE + MIB);
        EQUAL(stead_arena_take(t.arena, 1, 1, STEAD_LAST, &block), STEAD_NO_SPACE); /* while it is out */
        stead_arena_checkin(t.arena, &run, 1);
    }
    EQUAL(stead_arena_take(t.arena, 100, 1, STEAD_HOLD, &block), STEAD_DONE); /* a span's blocks, while they are new */
    EQUAL(block.zero_to, block.usable);
    EQUAL(stead_arena_give(t.arena, block.node), STEAD_DONE);
    EQUAL(stead_arena_take(t.arena, 100, 1, STEAD_HOLD, &block), STEAD_DONE);
    EQUAL(block.zero_to, 0);
    drop(&t);
}

static void test_a_run_that_is_out_is_put_back_in_parts(void)
{
    enum { UNITS = MIB / STEAD_UNIT };
    tabled_arena t = make(MIB, 0);
    stead_block block, blocks[2];
    stead_run run;
    stead_statistics found;
    EQUAL(stead_arena_take(t.arena, MIB, 1, STEAD_HOLD, &block), STEAD_DONE);
    EQUAL(stead_arena_give(t.arena, block.node), STEAD_DONE);
    EQUAL(stead_arena_checkout(t.arena, MIB, &run), 1);
    stead_arena_split(t.arena, run.head, UNITS / 4);
    stead_arena_split(t.arena, run.head + UNITS / 4, UNITS / 4);
    stead_arena_checkin(t.arena, &(stead_run){.head = run.head, .units = UNITS / 4}, 0);
    stead_arena_checkin(t.arena, &(stead_run){.head = run.head + UNITS / 2, .units = UNITS / 2}, 0);
    EQUAL(wrong(&t) == NULL, 1);
    stead_arena_statistics(t.arena, &found);
    EQUAL(found.runs, 2);
    EQUAL(stead_arena_take(t.arena, MIB / 2, 1, STEAD_HOLD, &blocks[0]), STEAD_DONE);
    EQUAL(blocks[0].address, BASE + MIB / 2);
    EQUAL(stead_arena_take(t.arena, MIB / 4, 1, STEAD_HOLD, &blocks[1]), STEAD_DONE);
    EQUAL(blocks[1].address, BASE);
    EQUAL(stead_arena_take(t.arena, 1, 1, STEAD_LAST, &block), STEAD_NO_SPACE); /* the second quarter is out */
    for (int i = 0; i < 2; i++)
        EQUAL(stead_arena_give(t.arena, blocks[i].node), STEAD_DONE);
    stead_arena_checkin(t.arena, &(stead_run){.head = run.head + UNITS / 4, .units = UNITS / 4}, 0);
    EQUAL(wrong(&t) == NULL, 1);
    EQUAL(stead_arena_take(t.arena, MIB, 1, STEAD_HOLD, &block), STEAD_DONE); /* it is one again */
    drop(&t);
}

/* ---- streams ---- */

static void run_seed(uint64_t seed, int trace)
{
    static uint8_t bytes[4096];
    char name[40];
    uint64_t random = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(next_random(&random) >> 32);
    (void)snprintf(name, sizeof name, "seed %" PRIu64, seed);
    arena_stream_run(name, bytes, 64 + next_random(&random) % (sizeof bytes - 64), trace);
}

static int run_file(const char *path, int trace)
{
    static uint8_t bytes[1 << 16];
    FILE *file = fopen(path, "rb");
    if (!file)
        return -1;
    size_t size = fread(bytes, 1, sizeof bytes, file);
    (void)fclose(file);
    arena_stream_run(path, bytes, size, trace);
    return 0;
}

static int run_corpus(void)
{
    char path[512];
    int count = 0;
    DIR *folder = opendir(CORPUS);
    EQUAL(folder != NULL, 1);
    for (struct dirent *each; folder && (each = readdir(folder));)
        if (each->d_name[0] != '.') {
            (void)snprintf(path, sizeof path, "%s/%s", CORPUS, each->d_name);
            EQUAL(run_file(path, 0), 0);
            count++;
        }
    if (folder)
        (void)closedir(folder);
    return count;
}

int main(int count, char **arguments)
{
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 1; i < count; i++) {
        char *end;
        uint64_t seed = strtoull(arguments[i], &end, 0);
        if (!*end)
            run_seed(seed, 1);
        else if (run_file(arguments[i], 1))
            perror(arguments[i]);
    }
    if (count > 1)
        return 0;
    test_every_size_has_the_smallest_class_that_holds_it();
    test_tables_are_apart_and_grow_with_the_units();
    test_what_cannot_be_had_is_refused_and_changes_nothing();
    test_an_arena_without_memory_has_no_space();
    refuses(100);
    refuses(3000);
    refuses(STEAD_SMALL);
    refuses(STEAD_SMALL + 1);
    test_all_of_it_can_be_filled();
    test_every_alignment_up_to_the_whole_arena();
    test_a_block_ends_where_its_guard_begins();
    test_what_is_zero_is_known_until_it_is_handed_out_and_again_when_given_back();
    test_a_run_that_is_out_is_put_back_in_parts();
    const char *from = getenv("STEAD_SEED");
    uint64_t first = from ? strtoull(from, NULL, 0) : 1;
    for (uint64_t seed = first; seed < first + SEEDS; seed++)
        run_seed(seed, 0);
    int files = run_corpus();
    test_threads(); /* last: a process that had a second one locks otherwise */
    printf("%d checks of native/arena.h, %d random streams from seed %" PRIu64 ", %d of the corpus: %d failed\n", checks, SEEDS,
           first, files, failures);
    return failures != 0;
}
