/* arena.c - the tables; large blocks, which are runs of units; from an address to its block. */
#include <string.h>

#include "fit.h"


/* ---- the tables ---- */

static const uint32_t width[STEAD_TABLES] = {
    sizeof(uint64_t), sizeof(list_link), sizeof(zero_part), sizeof(span), 16 * sizeof(uint16_t), 256 * sizeof(uint16_t),
};

#define LARGEST_PAGE UINT64_C(65536)

uint64_t stead_arena_table_used(int table, uint32_t units)
{
    return (table ? 0 : sizeof(stead_arena)) + (uint64_t)width[table] * units;
}

void stead_arena_tables(uint32_t max_units, uint64_t offsets[STEAD_TABLES + 1])
{
    uint64_t at = 0;
    for (int i = 0; i < STEAD_TABLES; i++) {
        offsets[i] = at;
        at += (stead_arena_table_used(i, max_units) + LARGEST_PAGE - 1) & ~(LARGEST_PAGE - 1);
    }
    offsets[STEAD_TABLES] = at;
}

/* Units of each length that are kept at most: so many, and such a part of the arena. */
#define KEPT_EACH 64u
#define KEPT_SHARE 1024u

void arena_begin(stead_arena *a, uint64_t base, uint32_t max_units)
{
    a->base = base;
    a->max_units = max_units;
    for (unsigned i = 0; i < LANES; i++) {
        memset(a->lanes[i].partial, 0xff, sizeof a->lanes[i].partial);
        memset(a->lanes[i].spare, 0xff, sizeof a->lanes[i].spare);
    }
    uint32_t most = max_units / KEPT_SHARE < KEPT_EACH ? max_units / KEPT_SHARE : KEPT_EACH;
    for (uint32_t units = 1; units <= KEPT_UNITS; units++)
        a->kept[units].most = (uint16_t)(most / units < KEPT_RUNS ? most / units : KEPT_RUNS);
}

stead_arena *stead_arena_make(void *memory, uint64_t base, uint32_t max_units, uint64_t guard)
{
    stead_arena *a = memory;
    uint64_t at[STEAD_TABLES + 1];
    stead_arena_tables(max_units, at);
    a->ent = (uint64_t *)(a + 1);
    a->links_of_runs = (void *)((char *)memory + at[1]);
    a->zero = (void *)((char *)memory + at[2]);
    a->spans = (void *)((char *)memory + at[3]);
    a->links[0] = (void *)((char *)memory + at[4]);
    a->links[1] = (void *)((char *)memory + at[5]);
    a->guard_units = (uint32_t)(guard / STEAD_UNIT);
    a->state = &a->own;
    runs_forget(a);
    arena_begin(a, base, max_units);
    return a;
}

void stead_arena_extend(stead_arena *a, uint32_t units, int zero)
{
    if (!units)
        return;
    runs_enter(a);
    uint32_t head = a->state->units, stop = head + units;
    ent_store(a, head, entry(FREE, units));
    __atomic_store_n(&a->state->units, stop, __ATOMIC_RELEASE); /* the commit */
    runs_add(a, head, units, (zero_part){head, zero ? stop : head});
    runs_leave(a);
}

uint32_t stead_arena_units(const stead_arena *a) { return __atomic_load_n(&a->state->units, __ATOMIC_ACQUIRE); }
uint32_t stead_arena_max_units(const stead_arena *a) { return a->max_units; }
uint64_t stead_arena_base(const stead_arena *a) { return a->base; }
unsigned stead_class_of(uint32_t size) { return class_for(size); }
uint32_t stead_class_size(unsigned size_class) { return class_size(size_class); }

/* ---- large blocks ---- */

/* The class whose blocks all have this alignment, or STEAD_CLASSES: a run. */
unsigned class_of_request(const stead_arena *a, uint64_t size, uint64_t alignment)
{
    if (__builtin_expect(size > STEAD_SMALL || alignment > STEAD_UNIT || a->guard_units, 0))
        return STEAD_CLASSES;
    unsigned c = class_for(size);
    if (__builtin_expect(alignment > 16, 0)) /* all are multiples of 16 */
        while (c < STEAD_CLASSES && class_size(c) & (alignment - 1))
            c++;
    return c;
}

static uint64_t round_up(uint64_t value, uint64_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

static uint64_t units_for(uint64_t size) { return size / STEAD_UNIT + (size % STEAD_UNIT != 0); }

/* Guards are whole pages, and so must begin where a page does: pages are at most the largest power of two that
 * divides the guard. */
static uint64_t guard_alignment(const stead_arena *a)
{
    uint64_t multiple = (a->guard_units & -a->guard_units) * (uint64_t)STEAD_UNIT;
    return multiple < LARGEST_PAGE ? multiple : LARGEST_PAGE;
}

static int fits_at_all(const stead_arena *a, uint64_t size, uint64_t alignment)
{
    uint64_t whole = a->max_units * (uint64_t)STEAD_UNIT;
    return size <= whole && alignment <= whole;
}

/* Units of a run, its guard included; and where in it the block begins, so that it ends where its guard begins. */
static uint64_t run_length(const stead_arena *a, uint64_t size, uint64_t alignment, uint32_t *offset)
{
    *offset = 0;
    if (!a->guard_units)
        return units_for(size);
    uint64_t whole = round_up(size, guard_alignment(a));
    *offset = (uint32_t)((whole - size) & ~(alignment - 1));
    return whole / STEAD_UNIT + a->guard_units;
}

static uint64_t run_alignment(const stead_arena *a, uint64_t alignment)
{
    uint64_t pages = guard_alignment(a);
    return pages > alignment ? pages : alignment;
}

uint64_t large_usable(const stead_arena *a, uint64_t e)
{
    return (length_of(e) - a->guard_units) * (uint64_t)STEAD_UNIT - offset_of(e);
}

uint64_t large_address(const stead_arena *a, uint32_t head, uint64_t e)
{
    return address_of(a, head) + offset_of(e);
}

static int take_large(stead_arena *a, uint64_t size, uint64_t alignment, int flags, stead_block *block)
{
    uint32_t offset, head = NONE;
    zero_part zero;
    if (!fits_at_all(a, size, alignment))
        return STEAD_NO_SPACE;
    uint64_t units = run_length(a, size, alignment, &offset), e = 0;
    if (units > a->max_units)
        return STEAD_NO_SPACE;
    runs_enter(a);
    head = runs_take(a, (uint32_t)units, run_alignment(a, alignment), flags & STEAD_LAST, &zero);
    if (head != NONE) {
        e = large_entry(units, offset, (flags & STEAD_HOLD) != 0);
        ent_store(a, head, e); /* the commit */
    }
    runs_leave(a);
    if (head == NONE)
        return STEAD_NO_SPACE;
    uint64_t from = (uint64_t)(zero.from - head) * STEAD_UNIT, to = (uint64_t)(zero.to - head) * STEAD_UNIT;
    block->address = large_address(a, head, e);
    block->usable = large_usable(a, e);
    block->node = large_node(head);
    block->zero_from = from > offset ? from - offset : 0;
    block->zero_to = to > offset ? to - offset : 0;
    if (block->zero_to > block->usable)
        block->zero_to = block->usable;
    if (block->zero_from > block->zero_to)
        block->zero_from = block->zero_to;
    return STEAD_DONE;
}

int arena_take(stead_arena *a, uint64_t size, uint64_t alignment, int flags, stead_block *block)
{
    if (__builtin_expect(a->disowned, 0))
        return STEAD_DISOWNED;
    unsigned c = class_of_request(a, size, alignment);
    if (__builtin_expect(c < STEAD_CLASSES, 1))
        return spans_take(a, c, alignment, flags, block);
    int got = take_large(a, size, alignment, flags, block);
    if (got == STEAD_NO_SPACE && flags & STEAD_LAST) {
        stead_arena_purge(a);
        got = take_large(a, size, alignment, flags, block);
    }
    return got;
}

uint64_t stead_arena_shortfall(stead_arena *a, uint64_t size, uint64_t alignment)
{
    unsigned c = class_of_request(a, size, alignment);
    uint32_t offset;
    int small = c < STEAD_CLASSES;
    if (!fits_at_all(a, size, alignment))
        return UINT64_MAX;
    uint64_t units = small ? spans_length(a, c, SPAN_UNITS) : run_length(a, size, alignment, &offset);
    runs_enter(a);
    runs_unkeep(a);
    uint32_t end = a->state->units - runs_last_free(a);
    uint64_t stop = runs_aligned(a, end, small ? STEAD_UNIT : run_alignment(a, alignment)) + units;
    uint64_t missing = stop > a->state->units ? stop - a->state->units : 0;
    runs_leave(a);
    return missing;
}

/* ---- from an address to its block ---- */

/* Finds what an address is in, and locks what keeps it so: the lane (returned) of a span, or runs_lock (NONE). */
static unsigned enter_run(stead_arena *a, uint32_t unit, uint64_t *e);

static inline unsigned enter(stead_arena *a, uint32_t unit, uint64_t *e)
{
    uint64_t seen = ent_load(a, unit);
    if (__builtin_expect(kind_of(seen) == SPAN, 1)) {
        unsigned l = lane_of(seen);
        stead_acquire(&a->lanes[l].lock);
        if (__builtin_expect(ent_load(a, unit) == seen, 1)) {
            *e = seen;
            return l;
        }
        stead_unlock(&a->lanes[l].lock);
    }
    return enter_run(a, unit, e);
}

static unsigned enter_run(stead_arena *a, uint32_t unit, uint64_t *e)
{
    runs_enter(a);
    *e = a->ent[unit];
    if (__builtin_expect(kind_of(*e) != SPAN, 1))
        return NONE;
    runs_leave(a);
    return enter(a, unit, e);
}

static inline void leave(stead_arena *a, unsigned l)
{
    stead_unlock(l == NONE ? &a->runs_lock : &a->lanes[l].lock);
}

static int unit_of(const stead_arena *a, uint64_t address, uint32_t *unit)
{
    uint64_t offset = address - a->base;
    *unit = (uint32_t)(offset / STEAD_UNIT);
    return address >= a->base && offset / STEAD_UNIT < stead_arena_units(a);
}

static int find_small(const stead_arena *a, uint64_t address, uint32_t head, unsigned c, stead_block *block)
{
    uint32_t offset = (uint32_t)(address - address_of(a, head)), size = class_size(c), i = block_at(offset, c);
    unsigned word = word_of(a, head, c, i);
    if (word != LIVE && word != HELD)
        return STEAD_NOT_LIVE;
    *block = (stead_block){.address = address_of(a, head) + i * size, .usable = size, .node = small_node(head, i)};
    if (offset != i * size)
        return STEAD_INTERIOR;
    return word == HELD ? STEAD_HELD : STEAD_DONE;
}

static int find_large(const stead_arena *a, uint64_t address, uint32_t unit, stead_block *block)
{
    uint32_t head = runs_head_of(a, unit);
    uint64_t e = a->ent[head], start = large_address(a, head, e);
    if (kind_of(e) != LARGE || address < start || address - start >= large_usable(a, e))
        return STEAD_NOT_LIVE;
    *block = (stead_block){.address = start, .usable = large_usable(a, e), .node = large_node(head)};
    if (address != start)
        return STEAD_INTERIOR;
    return held(e) ? STEAD_HELD : STEAD_DONE;
}

static int find(const stead_arena *a, uint64_t address, uint32_t unit, unsigned l, uint64_t e, stead_block *block)
{
    return l == NONE ? find_large(a, address, unit, block)
                     : find_small(a, address, unit - back_of(e), class_of(e), block);
}

int stead_arena_find(stead_arena *a, uint64_t address, stead_block *block)
{
    uint32_t unit;
    uint64_t e;
    if (!unit_of(a, address, &unit))
        return STEAD_FOREIGN;
    unsigned l = enter(a, unit, &e);
    int got = find(a, address, unit, l, e, block);
    leave(a, l);
    return got;
}

int stead_arena_find_row(stead_arena *a, uint64_t address, stead_block *block, uint32_t *row)
{
    uint32_t unit;
    uint64_t e;
    *row = 0;
    if (!unit_of(a, address, &unit))
        return STEAD_FOREIGN;
    unsigned l = enter(a, unit, &e);
    int got = find(a, address, unit, l, e, block);
    if (got == STEAD_DONE) {
        *row = 1;
        for (uint32_t head = unit - back_of(e), i = (uint32_t)(block->node & 0xffff) >> 1;
             l != NONE && word_of(a, head, class_of(e), i + *row) == LIVE;)
            ++*row;
    }
    leave(a, l);
    return got;
}

/* What is not as it was wanted, though live: a block of nobody's is not the holder's. */
static int refusal(int got) { return got == STEAD_DONE ? STEAD_NOT_LIVE : got; }

int arena_free(stead_arena *a, uint64_t address, int wanted)
{
    uint32_t unit;
    uint64_t e;
    stead_block block;
    if (__builtin_expect(!unit_of(a, address, &unit), 0))
        return STEAD_FOREIGN;
    unsigned l = enter(a, unit, &e);
    int got = STEAD_DONE;
    if (__builtin_expect(l != NONE, 1)) {
        unsigned c = class_of(e);
        uint32_t head = unit - back_of(e), offset = (uint32_t)(address - address_of(a, head)), i = block_at(offset, c);
        unsigned word = wanted == STEAD_HELD ? HELD : LIVE;
        if (__builtin_expect(i * class_size(c) == offset && word_of(a, head, c, i) == word, 1))
            spans_push(a, l, c, head, i);
        else
            got = refusal(find_small(a, address, head, c, &block));
    } else {
        got = find_large(a, address, unit, &block);
        if (got == wanted) {
            runs_give(a, (uint32_t)(block.node >> 16), length_of(a->ent[block.node >> 16]));
            got = STEAD_DONE;
        } else {
            got = refusal(got);
        }
    }
    leave(a, l);
    return got;
}

int stead_arena_hold(stead_arena *a, uint64_t address)
{
    uint32_t unit;
    uint64_t e;
    stead_block block = {0};
    if (!unit_of(a, address, &unit))
        return STEAD_FOREIGN;
    unsigned l = enter(a, unit, &e);
    int got = find(a, address, unit, l, e, &block);
    uint32_t head = (uint32_t)(block.node >> 16);
    if (got == STEAD_DONE && l != NONE)
        links_of(a, head, class_of(e))[(block.node & 0xffff) >> 1] = HELD;
    else if (got == STEAD_DONE)
        ent_store(a, head, large_entry(length_of(a->ent[head]), (unsigned)offset_of(a->ent[head]), 1));
    leave(a, l);
    return got;
}

/* Checked as well: a node that is given back twice must not free somebody else's block. */
int arena_give(stead_arena *a, uint64_t node)
{
    uint32_t head = (uint32_t)(node >> 16), i = (uint32_t)(node & 0xffff) >> 1;
    uint64_t e;
    int got = STEAD_NOT_LIVE;
    unsigned l = enter(a, head, &e);
    if (l != NONE) {
        if (node & 1 && !back_of(e) && word_of(a, head, class_of(e), i) == HELD) {
            spans_push(a, l, class_of(e), head, i);
            got = STEAD_DONE;
        }
    } else if (!(node & 1) && kind_of(e) == LARGE && held(e)) {
        runs_give(a, head, length_of(e));
        got = STEAD_DONE;
    }
    leave(a, l);
    return got;
}

/* ---- resize ---- */

/* Under runs_lock. */
static int resize_large(stead_arena *a, uint32_t head, uint64_t e, uint64_t units, uint64_t *missing)
{
    uint64_t length = length_of(e);
    if (units < length) {
        uint32_t rest = (uint32_t)(length - units), at = head + (uint32_t)units;
        ent_store(a, at, entry(FREE, rest));
        ent_store(a, head, e - ((uint64_t)rest << 32)); /* the commit */
        runs_give(a, at, rest);
    } else if (units > length) {
        uint64_t more = units - length, stop = head + length;
        runs_unkeep(a); /* what is kept may lie in the way */
        uint64_t next = stop < a->state->units && kind_of(a->ent[stop]) == FREE ? length_of(a->ent[stop]) : 0;
        if (next < more) {
            if (stop + next == a->state->units)
                *missing = more - next;
            return STEAD_NO_SPACE;
        }
        runs_lengthen(a, head, e, (uint32_t)more);
    }
    return STEAD_DONE;
}

static int resize(stead_arena *a, uint64_t address, uint64_t size, int wanted, uint64_t *usable, uint64_t *missing)
{
    uint32_t unit;
    uint64_t e;
    stead_block block;
    *missing = 0;
    if (!unit_of(a, address, &unit))
        return STEAD_FOREIGN;
    unsigned l = enter(a, unit, &e);
    int got = find(a, address, unit, l, e, &block);
    if (got == wanted) {
        uint32_t head = (uint32_t)(block.node >> 16);
        uint64_t units = units_for(size);
        if (l != NONE || a->guard_units) /* a guard stays where it is */
            got = size <= block.usable ? STEAD_DONE : STEAD_NO_SPACE;
        else
            got = units > a->max_units ? STEAD_NO_SPACE : resize_large(a, head, e, units, missing);
        *usable = l != NONE ? block.usable : large_usable(a, a->ent[head]);
    } else {
        got = refusal(got);
    }
    leave(a, l);
    return got;
}

int stead_arena_resize(stead_arena *a, uint64_t address, uint64_t size, uint64_t *usable, uint64_t *missing)
{
    return resize(a, address, size, STEAD_DONE, usable, missing);
}

int stead_arena_resize_held(stead_arena *a, uint64_t address, uint64_t size, uint64_t *usable, uint64_t *missing)
{
    return resize(a, address, size, STEAD_HELD, usable, missing);
}

/* ---- giving memory back ---- */

uint64_t stead_arena_dirty(const stead_arena *a)
{
    return __atomic_load_n(&a->state->dirty_units, __ATOMIC_RELAXED) * STEAD_UNIT;
}

int stead_arena_checkout(stead_arena *a, uint64_t least, stead_run *run)
{
    if (a->disowned)
        return 0;
    runs_enter(a);
    runs_unkeep(a);
    uint32_t head = runs_out(a, units_for(least));
    if (head != NONE) {
        uint32_t units = length_of(a->ent[head]), stop = head + units;
        zero_part zero = a->zero[head];
        if (zero.from < head || zero.to > stop || zero.from > zero.to) /* damaged */
            zero = (zero_part){head, head};
        run->head = head;
        run->units = units;
        run->from = address_of(a, zero.from == head ? zero.to : head);
        run->to = address_of(a, zero.to == stop ? zero.from : stop);
    }
    runs_leave(a);
    return head != NONE;
}

void stead_arena_split(stead_arena *a, uint32_t head, uint32_t units)
{
    runs_enter(a);
    uint64_t e = a->ent[head], flags = (uint32_t)e;
    ent_store(a, head + units, flags | (uint64_t)(length_of(e) - units) << 32);
    ent_store(a, head, flags | (uint64_t)units << 32); /* the commit */
    runs_leave(a);
}

void stead_arena_checkin(stead_arena *a, const stead_run *run, int zero)
{
    runs_enter(a);
    runs_add(a, run->head, run->units, (zero_part){run->head, zero ? run->head + run->units : run->head});
    runs_leave(a);
}
