/* test_strips.c - the book of blocks beside a plain list of who has what; runs; saved tables. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "fit.h"
#include "strips.h"

#define CHECK(WHAT) \
    do { \
        if (!(WHAT)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #WHAT); \
            exit(1); \
        } \
    } while (0)

#define BASE UINT64_C(0x480000000000)
#define SLICE (UINT64_C(1) << 20)
#define RANKS 3u
#define ME 1u
#define MOST 400

static uint64_t seed = 88172645463325252u;

static uint64_t draw(uint64_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % below;
}

static void *zeros(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

static stead_arena *new_arena(uint64_t base)
{
    uint64_t at[STEAD_TABLES + 1];
    stead_arena_tables(SLICE / STEAD_UNIT, at);
    return stead_arena_make(zeros(at[STEAD_TABLES]), base, SLICE / STEAD_UNIT, 0);
}

static stead_book new_book(void)
{
    stead_book book = {.base = BASE, .slice = SLICE, .ranks = RANKS, .rank = ME};
    book.arena = new_arena(BASE + ME * SLICE);
    stead_arena_extend(book.arena, SLICE / STEAD_UNIT, 1);
    book.sets = calloc(RANKS, sizeof *book.sets);
    CHECK(book.sets);
    for (uint32_t i = 0; i < RANKS; i++) /* exactly as much as is needed: whoever writes beyond it is found out */
        book.sets[i] = stead_blocks_in(calloc(1, stead_blocks_bytes(SLICE)), SLICE);
    book.copies = calloc(1, stead_copies_bytes(SLICE));
    CHECK(book.copies);
    return book;
}

static void end_book(stead_book *book)
{
    for (uint32_t i = 0; i < RANKS; i++)
        free(book->sets[i].begins);
    free(book->sets);
    free(book->copies);
    uint64_t at[STEAD_TABLES + 1];
    stead_arena_tables(SLICE / STEAD_UNIT, at);
    munmap(book->arena, at[STEAD_TABLES]);
}

/* ---- our own blocks, some of which go, come, are copied and are freed elsewhere ---- */

typedef struct {
    uint64_t address, size;
    int away;
    unsigned others; /* how many other processes have it */
} block;

static block list[MOST];
static size_t listed;

static void forget(size_t i) { list[i] = list[--listed]; }

static void compare(const stead_book *book)
{
    for (size_t i = 0; i < listed; i++) {
        uint64_t size = 0;
        int got = stead_book_find(book, list[i].address, &size);
        CHECK(got == (list[i].away ? STEAD_AWAY : STEAD_DONE));
        CHECK(size == list[i].size);
        if (list[i].size > 16)
            CHECK(stead_book_find(book, list[i].address + 16, &size) == STEAD_INTERIOR);
    }
    stead_statistics s;
    uint32_t unit;
    stead_arena_statistics(book->arena, &s);
    CHECK(s.blocks == listed);
    CHECK(!stead_arena_check(book->arena, &unit));
}

static void some(stead_book *book, int away, stead_strip **strips, size_t *n, size_t *chosen, size_t *count)
{
    uint64_t addresses[MOST], refused = 0;
    *count = 0;
    for (size_t i = 0; i < listed; i++)
        if (list[i].away == away && draw(3))
            chosen[(*count)++] = i;
    for (size_t i = *count; i > 1; i--) { /* in any order */
        size_t k = draw(i), kept = chosen[i - 1];
        chosen[i - 1] = chosen[k];
        chosen[k] = kept;
    }
    for (size_t i = 0; i < *count; i++)
        addresses[i] = list[chosen[i]].address;
    if (away) { /* what is away cannot be asked for: as the sender says it */
        *n = *count;
        *strips = malloc((*count + 1) * sizeof **strips);
        CHECK(*strips);
        for (size_t i = 0; i < *count; i++)
            (*strips)[i] = (stead_strip){addresses[i], list[chosen[i]].size, 1};
        return;
    }
    CHECK(stead_book_strips(book, addresses, *count, strips, n, &refused) == STEAD_DONE);
    CHECK(stead_strips_blocks(*strips, *n) == *count);
    CHECK(stead_book_sound(book, ME, *strips, *n));
    if (*count) {
        stead_strip *none;
        size_t nothing;
        uint64_t twice[2] = {addresses[0], addresses[0]};
        CHECK(stead_book_strips(book, twice, 2, &none, &nothing, &refused) == STEAD_TWICE && refused == addresses[0]);
        twice[1] = BASE + RANKS * SLICE;
        CHECK(stead_book_strips(book, twice, 2, &none, &nothing, &refused) == STEAD_FOREIGN && refused == twice[1]);
    }
}

static void test_ours(void)
{
    stead_book book = new_book();
    for (int step = 0; step < 3000; step++) {
        stead_strip *strips;
        size_t n, chosen[MOST], count, i;
        uint64_t size;
        switch (draw(6)) {
        case 0:
        case 1:
            for (uint64_t more = draw(60); more-- && listed < MOST; listed++) {
                size_t sizes[] = {1, 16, 48, 64, 64, 64, 100, 1024, 5000, 40000};
                uint64_t at = stead_arena_allocate(book.arena, sizes[draw(10)], 16);
                if (!at)
                    break;
                CHECK(stead_book_find(&book, at, &size) == STEAD_DONE);
                list[listed] = (block){at, size, 0, 0};
            }
            break;
        case 2: /* they go */
            some(&book, 0, &strips, &n, chosen, &count);
            CHECK(!stead_book_first(&book, ME, strips, n, 1));
            stead_book_add(&book, ME, strips, n);
            CHECK(!stead_book_first(&book, ME, strips, n, 0));
            for (i = 0; i < count; i++) {
                list[chosen[i]].away = 1;
                list[chosen[i]].others++;
            }
            free(strips);
            break;
        case 3: /* they come */
            some(&book, 1, &strips, &n, chosen, &count);
            stead_book_drop(&book, ME, strips, n);
            for (i = 0; i < count; i++) {
                list[chosen[i]].away = 0;
                list[chosen[i]].others--;
            }
            free(strips);
            break;
        case 4: { /* copied */
            uint64_t refused;
            some(&book, 0, &strips, &n, chosen, &count);
            CHECK(stead_book_copied(&book, strips, n, &refused) == STEAD_DONE);
            for (i = 0; i < count; i++)
                list[chosen[i]].others++;
            free(strips);
            break;
        }
        default: /* freed: here, or elsewhere */
            for (uint64_t left = draw(40); left-- && listed;) {
                i = draw(listed);
                if (!list[i].away && draw(2)) {
                    CHECK(stead_book_free(&book, list[i].address, &size) == STEAD_DONE && size == list[i].size);
                    if (!list[i].others)
                        forget(i);
                    else
                        list[i].away = 1;
                } else if (list[i].others) {
                    size_t wrong, gone = !--list[i].others && list[i].away;
                    CHECK(stead_book_freed(&book, &list[i].address, 1, &wrong) == gone && !wrong);
                    if (gone)
                        forget(i);
                } else {
                    size_t wrong;
                    CHECK(!stead_book_freed(&book, &list[i].address, 1, &wrong) && wrong == 1);
                }
            }
        }
        if (step % 20 == 0)
            compare(&book);
    }
    compare(&book);
    listed = 0;
    end_book(&book);
}

/* ---- others' blocks ---- */

static void test_theirs(void)
{
    stead_book book = new_book();
    static unsigned char model[SLICE / STEAD_GRANULE]; /* 1: begins, 2: ends */
    uint64_t start = BASE + 2 * SLICE, size;
    for (int step = 0; step < 4000; step++) {
        uint64_t at = draw(SLICE / STEAD_GRANULE), granules = 1 + draw(draw(4) ? 8 : 900), count = 1 + draw(200);
        if (at + granules * count > SLICE / STEAD_GRANULE)
            continue;
        stead_strip strip = {start + at * STEAD_GRANULE, granules * STEAD_GRANULE, count};
        int clash = 0;
        for (uint64_t i = at; i < at + granules * count; i++)
            clash |= model[i];
        if (clash) { /* take out what begins and ends in it */
            for (uint64_t i = at; i < at + granules * count; i++) {
                if (!(model[i] & 1) || stead_book_find(&book, start + i * STEAD_GRANULE, &size) != STEAD_DONE)
                    continue;
                CHECK(stead_book_free(&book, start + i * STEAD_GRANULE, &size) == STEAD_DONE);
                model[i] &= 2;
                CHECK(model[i + size / STEAD_GRANULE - 1] & 2);
                model[i + size / STEAD_GRANULE - 1] &= 1;
            }
            continue;
        }
        CHECK(stead_book_sound(&book, 2, &strip, 1) && !stead_book_sound(&book, 0, &strip, 1));
        CHECK(!stead_book_first(&book, 2, &strip, 1, 1));
        stead_book_add(&book, 2, &strip, 1);
        CHECK(!stead_book_first(&book, 2, &strip, 1, 0));
        for (uint64_t i = 0; i < count; i++) {
            model[at + i * granules] |= 1;
            model[at + (i + 1) * granules - 1] |= 2;
        }
        CHECK(stead_book_find(&book, strip.start, &size) == STEAD_DONE && size == strip.size);
    }
    for (uint64_t i = 0; i < SLICE / STEAD_GRANULE; i++)
        CHECK((stead_book_find(&book, start + i * STEAD_GRANULE, &size) == STEAD_DONE) == (model[i] & 1));
    CHECK(stead_book_find(&book, BASE - 1, &size) == STEAD_FOREIGN);
    CHECK(stead_book_find(&book, start + SLICE, &size) == STEAD_FOREIGN);
    stead_piece pages[SLICE / 4096];
    size_t found = stead_book_vacant(&book, 2, start, start + SLICE, 4096, pages, SLICE / 4096);
    for (size_t i = 0; i < found; i++)
        for (uint64_t k = (pages[i].start - start) / STEAD_GRANULE; k < (pages[i].start + pages[i].size - start) / STEAD_GRANULE; k++)
            CHECK(!model[k]);
    end_book(&book);
}

static void test_copies_that_cannot_be_counted(void)
{
    stead_book book = new_book();
    uint64_t one = stead_arena_allocate(book.arena, 64, 16), refused;
    stead_strip strip = {one, 64, 1};
    for (unsigned i = 0; i < UINT16_MAX; i++)
        CHECK(stead_book_copied(&book, &strip, 1, &refused) == STEAD_DONE);
    CHECK(stead_book_copied(&book, &strip, 1, &refused) == STEAD_MANY && refused == one);
    end_book(&book);
}

/* ---- saved tables ---- */

static void test_tables_are_adopted(void)
{
    uint64_t at[STEAD_TABLES + 1], base = BASE, blocks[500];
    stead_arena *old = new_arena(base), *new = new_arena(base), *other = new_arena(base + SLICE);
    uint32_t unit;
    stead_arena_tables(SLICE / STEAD_UNIT, at);
    stead_arena_extend(old, 200, 1);
    for (int i = 0; i < 500; i++)
        blocks[i] = stead_arena_allocate(old, 1 + draw(i % 10 ? 300 : 9000), 16);
    for (int i = 0; i < 500; i += 3)
        CHECK(!blocks[i] || stead_arena_free(old, blocks[i]) == STEAD_DONE);
    stead_arena_purge(old);
    size_t header = stead_arena_header();
    memcpy((char *)new + header, (char *)old + header, at[STEAD_TABLES] - header);
    CHECK(stead_arena_adopt(other, old) == STEAD_FOREIGN);
    CHECK(stead_arena_adopt(new, old) == STEAD_DONE);
    CHECK(!stead_arena_check(new, &unit));
    munmap(old, at[STEAD_TABLES]); /* nothing of it is used any more */
    for (int i = 0; i < 500; i++) {
        stead_block found;
        if (blocks[i])
            CHECK((stead_arena_find(new, blocks[i], &found) == STEAD_DONE) == (i % 3 != 0));
    }
    for (int i = 0; i < 500; i++)
        if (blocks[i] && i % 3)
            CHECK(stead_arena_free(new, blocks[i]) == STEAD_DONE);
    stead_arena_extend(new, SLICE / STEAD_UNIT - 200, 1);
    stead_arena_purge(new);
    CHECK(stead_arena_allocate(new, SLICE, 16) == base);
    CHECK(!stead_arena_check(new, &unit));
    munmap(new, at[STEAD_TABLES]);
    munmap(other, at[STEAD_TABLES]);
}

/* ---- runs ---- */

static void test_runs(void)
{
    enum { N = 2000 };
    char *memory = zeros(N * 4096), *before = malloc(N * 4096);
    stead_piece runs[N];
    size_t n = 0;
    CHECK(before);
    for (uint64_t at = 0; at + 200000 < N * 4096 && n < N; n++) {
        uint64_t size = 16 * (1 + draw(draw(10) ? 20 : 10000));
        runs[n] = (stead_piece){(uint64_t)(uintptr_t)memory + at, size};
        for (uint64_t i = 0; i < size; i++)
            memory[at + i] = (char)(1 + draw(250));
        at += size + 16 * draw(3) + 16;
    }
    memcpy(before, memory, N * 4096);
    for (size_t first = 0, offset = 0, count; first < n;) {
        uint64_t bytes = stead_runs_next(runs + first, n - first, offset, 65536, 1 << 18, &count);
        CHECK(bytes);
        if (!count) {
            offset += bytes;
            CHECK(offset <= runs[first].size);
            if (offset == runs[first].size) {
                first++;
                offset = 0;
            }
            continue;
        }
        char *buffer = malloc(bytes);
        CHECK(buffer && bytes <= 1 << 18 && first + count <= n);
        stead_runs_gather(runs + first, count, offset, buffer);
        for (size_t i = first; i < first + count; i++) {
            uint64_t skipped = i == first ? offset : 0;
            memset((char *)(uintptr_t)runs[i].start + skipped, 0, runs[i].size - skipped);
        }
        stead_runs_scatter(runs + first, count, offset, buffer);
        free(buffer);
        first += count;
        offset = 0;
    }
    CHECK(!memcmp(before, memory, N * 4096));
    stead_piece pages[8];
    uint64_t next, start = (uint64_t)(uintptr_t)memory;
    memset(memory, 0, N * 4096);
    memory[5 * 4096 + 4095] = memory[7 * 4096] = memory[8 * 4096 + 9] = 1;
    CHECK(stead_pages_written(start, start + N * 4096, 4096, pages, 1, &next) == 1 && next == start + 7 * 4096);
    CHECK(stead_pages_written(start, start + N * 4096, 4096, pages, 8, &next) == 2 && next == start + N * 4096);
    CHECK(pages[0].start == start + 5 * 4096 && pages[0].size == 4096 && pages[1].size == 2 * 4096);
    free(before);
    munmap(memory, N * 4096);
}

int main(void)
{
    test_ours();
    test_theirs();
    test_copies_that_cannot_be_counted();
    test_tables_are_adopted();
    test_runs();
    puts("strips: good");
    return 0;
}
