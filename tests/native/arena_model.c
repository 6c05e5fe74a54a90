/* arena_model.c - an arena beside a sorted list of its live blocks. */
#define _GNU_SOURCE
#include "arena_model.h"

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

/* Poison ends where a page does: behind it nothing can be touched anyway. */
static void open_tables(const tabled_arena *t, uint32_t before, uint32_t units)
{
    for (int i = 0; i < STEAD_TABLES; i++) {
        unsigned char *table = t->memory + t->offsets[i];
        uint64_t was = stead_arena_table_used(i, before), used = stead_arena_table_used(i, units);
        if (used && mprotect(table, pages(used), PROT_READ | PROT_WRITE))
            abort();
        ASAN_UNPOISON_MEMORY_REGION(table + was, pages(was) - was);
        ASAN_POISON_MEMORY_REGION(table + used, pages(used) - used);
    }
}

tabled_arena tabled_arena_make(uint64_t base, uint32_t max_units, uint64_t guard)
{
    tabled_arena t;
    stead_arena_tables(max_units, t.offsets);
    t.memory = mmap(NULL, t.offsets[STEAD_TABLES], PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (t.memory == MAP_FAILED)
        abort();
    open_tables(&t, 0, 0);
    t.arena = stead_arena_make(t.memory, base, max_units, guard);
    return t;
}

void tabled_arena_extend(const tabled_arena *t, uint32_t units, int zero)
{
    uint32_t before = stead_arena_units(t->arena);
    open_tables(t, before, before + units);
    stead_arena_extend(t->arena, units, zero);
}

void tabled_arena_drop(const tabled_arena *t)
{
    uint32_t units = stead_arena_units(t->arena);
    for (int i = 0; i < STEAD_TABLES; i++) { /* whoever is mapped there next must not find poison */
        uint64_t used = stead_arena_table_used(i, units);
        ASAN_UNPOISON_MEMORY_REGION(t->memory + t->offsets[i] + used, pages(used) - used);
    }
    munmap(t->memory, t->offsets[STEAD_TABLES]);
}

/* ---- the model ---- */

#define LARGEST_PAGE 65536
#define GRANULE 16 /* no block of a span begins elsewhere, and all others have their units to themselves */

void model_differs(const model *m, const char *file, int line, const char *what)
{
    (void)printf("%s:%d: not so: %s\n  %s, operation %u (%c): max_units %u, units %u, guard %" PRIu64 ", base %#" PRIx64
                 ", %zu live blocks\n",
                 file, line, what, m->name, m->operation, m->letter, m->max_units, m->units, m->guard, m->base, m->count);
    (void)fflush(stdout);
    abort();
}

static uint64_t zero_bytes(const model *m)
{
    return m->max_units * (uint64_t)(STEAD_UNIT / GRANULE / 8);
}

model model_make(const char *name, uint64_t base, uint32_t max_units, uint64_t guard)
{
    model made = {.name = name, .letter = '-', .base = base, .max_units = max_units, .guard = guard};
    uint64_t guard_units = guard / STEAD_UNIT;
    made.guard_alignment = (guard_units & -guard_units) * STEAD_UNIT;
    if (made.guard_alignment > LARGEST_PAGE) /* guards must begin where pages do, whatever their size is */
        made.guard_alignment = LARGEST_PAGE;
    made.tabled = tabled_arena_make(base, max_units, guard);
    made.arena = made.tabled.arena;
    made.zero = mmap(NULL, zero_bytes(&made), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const model *m = &made;
    MUST(m->zero != MAP_FAILED);
    MUST(stead_arena_base(m->arena) == base && stead_arena_max_units(m->arena) == max_units);
    return made;
}

void model_drop(model *m)
{
    munmap(m->zero, zero_bytes(m));
    tabled_arena_drop(&m->tabled);
    free(m->live);
}

void model_extend(model *m, uint32_t units, int zero)
{
    uint64_t end = model_address(m, m->units);
    TRACE("extend by %u, zero %d\n", units, zero);
    tabled_arena_extend(&m->tabled, units, zero);
    m->units += units;
    MUST(stead_arena_units(m->arena) == m->units);
    model_set_zero(m, end, model_address(m, m->units), zero);
}

/* ---- what is zero ---- */

void model_set_zero(model *m, uint64_t from, uint64_t to, int value)
{
    uint64_t g = (from - m->base) / GRANULE, stop = (to - m->base + GRANULE - 1) / GRANULE;
    while (g < stop) {
        if (g % 8 == 0 && stop - g >= 8) {
            memset(m->zero + g / 8, value ? 0xff : 0, (stop - g) / 8);
            g += (stop - g) / 8 * 8;
        } else {
            m->zero[g / 8] = (uint8_t)((m->zero[g / 8] & ~(1u << g % 8)) | (value ? 1u << g % 8 : 0));
            g++;
        }
    }
}

int model_is_zero(const model *m, uint64_t from, uint64_t to)
{
    uint64_t g = (from - m->base) / GRANULE, stop = from < to ? (to - m->base + GRANULE - 1) / GRANULE : 0;
    while (g < stop) {
        int whole = g % 8 == 0 && stop - g >= 8;
        if (whole ? m->zero[g / 8] != 0xff : !(m->zero[g / 8] >> g % 8 & 1))
            return 0;
        g += whole ? 8 : 1;
    }
    return 1;
}

/* ---- the list of live blocks ---- */

size_t model_above(const model *m, uint64_t address)
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
        if (from < model_address(m, m->out[i].head + (uint64_t)m->out[i].units) && model_address(m, m->out[i].head) < to)
            return 1;
    return 0;
}

void model_check_room(const model *m, size_t at, uint64_t from, uint64_t to)
{
    MUST(from >= m->base && from < to && to <= model_address(m, m->units));
    MUST(at == 0 || m->live[at - 1].address + m->live[at - 1].usable + m->guard <= from);
    MUST(at == m->count || to <= m->live[at].address);
    MUST(!overlaps_out(m, from, to));
}

void model_enter(model *m, const stead_block *block, int held)
{
    size_t at = model_above(m, block->address);
    model_check_room(m, at, block->address, block->address + block->usable + m->guard);
    if (m->count == m->room) {
        m->room = m->room * 2 + 16;
        m->live = realloc(m->live, m->room * sizeof *m->live);
        MUST(m->live);
    }
    memmove(m->live + at + 1, m->live + at, (m->count++ - at) * sizeof *m->live);
    m->live[at] = (live_block){block->address, block->usable, block->node, held};
}

void model_leave(model *m, size_t at)
{
    m->freed[m->operation % RECENT] = m->live[at].address;
    m->given[m->operation % RECENT] = m->live[at].node;
    memmove(m->live + at, m->live + at + 1, (--m->count - at) * sizeof *m->live);
}

int model_expected(const model *m, uint64_t address, size_t *at)
{
    *at = model_above(m, address);
    if (address < m->base || address >= model_address(m, m->units))
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

void model_compare(const model *m)
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

stead_statistics model_statistics(model *m)
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
