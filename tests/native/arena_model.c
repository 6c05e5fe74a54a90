/* arena_model.c - an arena beside a sorted list of its live blocks. The first bytes of a stream say what arena, all
 * others what happens to it; the letters are in `phases`. */
#define _GNU_SOURCE
#include "arena_model.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__has_include) && __has_include(<sanitizer/asan_interface.h>)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

/* ---- tables that end where they should ---- */

static uint64_t pages(uint64_t bytes)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    return (bytes + page - 1) / page * page;
}

static void open_tables(const tabled_arena *t, uint32_t units)
{
    for (int i = 0; i < STEAD_TABLES; i++) {
        uint64_t used = stead_arena_table_used(i, units), whole = pages(used);
        if (whole && mprotect(t->memory + t->offsets[i], whole, PROT_READ | PROT_WRITE))
            abort();
        ASAN_UNPOISON_MEMORY_REGION(t->memory + t->offsets[i], used);
        ASAN_POISON_MEMORY_REGION(t->memory + t->offsets[i] + used, whole - used);
    }
}

tabled_arena tabled_arena_make(uint64_t base, uint32_t max_units, uint64_t guard)
{
    tabled_arena t;
    stead_arena_tables(max_units, t.offsets);
    t.memory = mmap(NULL, t.offsets[STEAD_TABLES], PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (t.memory == MAP_FAILED)
        abort();
    open_tables(&t, 0);
    t.arena = stead_arena_make(t.memory, base, max_units, guard);
    return t;
}

void tabled_arena_extend(const tabled_arena *t, uint32_t units, int zero)
{
    open_tables(t, stead_arena_units(t->arena) + units);
    stead_arena_extend(t->arena, units, zero);
}

void tabled_arena_drop(const tabled_arena *t)
{
    open_tables(t, stead_arena_max_units(t->arena)); /* whoever is mapped there next must not find poison */
    for (int i = 0; i < STEAD_TABLES; i++)
        ASAN_UNPOISON_MEMORY_REGION(t->memory + t->offsets[i], t->offsets[i + 1] - t->offsets[i]);
    munmap(t->memory, t->offsets[STEAD_TABLES]);
}

/* ---- the model ---- */

#define GRANULE 16 /* what is zero, by the bit: no block of a span begins elsewhere, and all others have whole units */
#define OUTS 4
#define RECENT 8

typedef struct {
    uint64_t address, usable, node;
    int held;
} live_block;

typedef struct {
    const char *name;
    const uint8_t *next, *stop;
    int trace;
    unsigned operation, phase;
    char letter;

    tabled_arena tabled;
    stead_arena *arena;
    uint64_t base, guard, guard_alignment;
    uint32_t max_units, units;

    live_block *live; /* in order of address */
    size_t count, room;
    stead_run out[OUTS];
    unsigned outs;
    uint64_t freed[RECENT], given[RECENT]; /* addresses; nodes */
    uint8_t *zero;                         /* a bit for each granule that was not written since it was zero */
    uint64_t high_water;
} model;

#define MUST(condition)                          \
    do {                                         \
        if (!(condition))                        \
            differ(m, #condition, __LINE__);     \
    } while (0)
#define TRACE(...)                     \
    do {                               \
        if (m->trace)                  \
            (void)printf(__VA_ARGS__); \
    } while (0)

static void differ(const model *m, const char *what, int line)
{
    (void)printf("arena_model.c:%d: not so: %s\n  %s, operation %u (%c): max_units %u, units %u, guard %" PRIu64
                 ", base %#" PRIx64 ", %zu live blocks\n",
                 line, what, m->name, m->operation, m->letter, m->max_units, m->units, m->guard, m->base, m->count);
    (void)fflush(stdout);
    abort();
}

/* The stream; zeros when it is over. */
static uint64_t number(model *m, int bytes)
{
    uint64_t n = 0;
    while (bytes--)
        n = n << 8 | (m->next < m->stop ? *m->next++ : 0);
    return n;
}

static uint64_t unit_address(const model *m, uint64_t unit)
{
    return m->base + unit * STEAD_UNIT;
}

/* ---- what is zero ---- */

/* Sets the bits of [from, to), or asks whether all of them are set. */
static int zeros(const model *m, uint64_t from, uint64_t to, int set, int value)
{
    uint64_t g = (from - m->base) / GRANULE, stop = (to - m->base + GRANULE - 1) / GRANULE;
    for (; g < stop; g++) {
        if (g % 8 == 0 && stop - g >= 8) { /* eight at once */
            if (set)
                m->zero[g / 8] = value ? 0xff : 0;
            else if (m->zero[g / 8] != 0xff)
                return 0;
            g += 7;
        } else if (set) {
            m->zero[g / 8] = (uint8_t)((m->zero[g / 8] & ~(1u << g % 8)) | (unsigned)value << g % 8);
        } else if (!(m->zero[g / 8] >> g % 8 & 1)) {
            return 0;
        }
    }
    return 1;
}

/* ---- the list of live blocks ---- */

/* The first block that ends above an address. */
static size_t above(const model *m, uint64_t address)
{
    size_t low = 0, high = m->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (m->live[middle].address + m->live[middle].usable > address)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static int overlaps_out(const model *m, uint64_t from, uint64_t to)
{
    for (unsigned i = 0; i < m->outs; i++)
        if (from < unit_address(m, m->out[i].head + (uint64_t)m->out[i].units) && unit_address(m, m->out[i].head) < to)
            return 1;
    return 0;
}

/* A block at `at` in the list, with its guard, is in what is committed, and nobody else's. */
static void check_room(const model *m, size_t at, uint64_t address, uint64_t usable)
{
    MUST(address >= m->base && address + usable + m->guard <= unit_address(m, m->units));
    MUST(at == 0 || m->live[at - 1].address + m->live[at - 1].usable + m->guard <= address);
    MUST(at == m->count || address + usable + m->guard <= m->live[at].address);
    MUST(!overlaps_out(m, address, address + usable));
}

static void enter(model *m, const stead_block *block, int held)
{
    size_t at = above(m, block->address);
    check_room(m, at, block->address, block->usable);
    if (m->count == m->room) {
        m->room = m->room * 2 + 16;
        m->live = realloc(m->live, m->room * sizeof *m->live);
        MUST(m->live);
    }
    memmove(m->live + at + 1, m->live + at, (m->count++ - at) * sizeof *m->live);
    m->live[at] = (live_block){block->address, block->usable, block->node, held};
}

static void leave(model *m, size_t at)
{
    m->freed[m->operation % RECENT] = m->live[at].address;
    m->given[m->operation % RECENT] = m->live[at].node;
    memmove(m->live + at, m->live + at + 1, (--m->count - at) * sizeof *m->live);
}

/* What any call must answer about an address; and the block that it is in. */
static int expected(const model *m, uint64_t address, size_t *at)
{
    *at = above(m, address);
    if (address < m->base || address >= unit_address(m, m->units))
        return STEAD_FOREIGN;
    if (*at == m->count || address < m->live[*at].address)
        return STEAD_NOT_LIVE;
    if (address > m->live[*at].address)
        return STEAD_INTERIOR;
    return m->live[*at].held ? STEAD_HELD : STEAD_DONE;
}

/* ---- comparing all of it ---- */

typedef struct {
    const model *m;
    size_t seen;
} visitor;

static void visit(void *context, uint64_t address, uint64_t usable)
{
    visitor *v = context;
    const model *m = v->m;
    MUST(v->seen < m->count && m->live[v->seen].address == address && m->live[v->seen].usable == usable);
    v->seen++;
}

static void compare(const model *m)
{
    visitor v = {m, 0};
    uint32_t unit = 0;
    const char *wrong = stead_arena_check(m->arena, &unit);
    if (wrong)
        (void)printf("unit %u: %s\n", unit, wrong);
    MUST(!wrong);
    stead_arena_each(m->arena, visit, &v);
    MUST(v.seen == m->count);
}

static stead_statistics statistics(model *m)
{
    stead_statistics s;
    uint64_t used = 0, blocks[STEAD_CLASSES + 1] = {0};
    stead_arena_statistics(m->arena, &s);
    for (size_t i = 0; i < m->count; i++) {
        used += m->live[i].usable;
        blocks[m->live[i].node & 1 ? stead_class_of(m->live[i].usable) : STEAD_CLASSES]++;
    }
    for (unsigned c = 0; c < STEAD_CLASSES; c++) {
        MUST(s.small[c].blocks == blocks[c] && s.small[c].bytes == blocks[c] * stead_class_size(c));
        MUST(s.small[c].capacity >= blocks[c] && !s.small[c].spans == !blocks[c]); /* empty spans were given back */
    }
    MUST(s.large.blocks == blocks[STEAD_CLASSES]);
    MUST(s.blocks == m->count && s.used == used);
    MUST(s.size == m->max_units * (uint64_t)STEAD_UNIT && s.committed == m->units * (uint64_t)STEAD_UNIT);
    MUST(s.high_water >= used && s.high_water >= m->high_water && s.high_water <= s.committed);
    MUST(s.dirty == stead_arena_dirty(m->arena) && s.dirty <= s.committed - used);
    MUST(s.largest_run <= s.size - used && s.largest_run >= s.size - s.committed);
    m->high_water = s.high_water;
    return s;
}
