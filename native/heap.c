/* heap.c - blocks of a heap: made, held, given back, by any process. */
#include "shared.h"

#include <string.h>

#define MAGIC UINT64_C(0x7065616864616574) /* "teadheap" */
#define VERSION 1u

/* ---- the memory ---- */

#define ALIGNED(bytes) (((bytes) + UINT64_C(0xffff)) & ~UINT64_C(0xffff)) /* no page is larger */

enum { ENT, LINKS, ZEROS, WORDS, SMALL_WORDS, SETS, UNITS_SETS, TRANSIT_SET, TRANSIT, OBJECT, COUNTS, CONTROL_TABLES };

static void control_tables(uint32_t max_units, uint64_t at[CONTROL_TABLES + 1])
{
    const uint64_t sizes[CONTROL_TABLES] = {
        [ENT] = max_units * UINT64_C(8),
        [LINKS] = max_units * (uint64_t)sizeof(list_link),
        [ZEROS] = max_units * (uint64_t)sizeof(zero_part),
        [WORDS] = max_units * (UINT64_C(16) * 8),
        [SMALL_WORDS] = max_units * (UINT64_C(256) * 8),
        [SETS] = HOLDER_SETS * (uint64_t)sizeof(holder_set),
        [UNITS_SETS] = UNIT_SETS * unit_set_words(max_units) * 8,
        [TRANSIT_SET] = unit_set_words(TRANSITS) * 8,
        [TRANSIT] = TRANSITS * (uint64_t)sizeof(transit),
        [OBJECT] = OBJECTS * (uint64_t)sizeof(heap_object),
        [COUNTS] = OBJECTS * (uint64_t)PLACES * 2,
    };
    at[0] = ALIGNED(sizeof(heap_shared));
    for (int i = 0; i < CONTROL_TABLES; i++)
        at[i + 1] = at[i] + ALIGNED(sizes[i]);
}

enum { SPANS, FREE_LINKS, SMALL_FREE_LINKS, HELD_COUNTS, SMALL_HELD_COUNTS, PRIVATE_TABLES };

static void private_tables(uint32_t max_units, uint64_t at[PRIVATE_TABLES + 1])
{
    static const uint64_t widths[PRIVATE_TABLES] = {sizeof(span), 16 * 2, 256 * 2, 16 * 4, 256 * 4};
    at[0] = ALIGNED(sizeof(stead_heap));
    for (int i = 0; i < PRIVATE_TABLES; i++)
        at[i + 1] = at[i] + ALIGNED(max_units * widths[i]);
}

uint64_t stead_heap_control_size(uint32_t max_units)
{
    uint64_t at[CONTROL_TABLES + 1];
    control_tables(max_units, at);
    return at[CONTROL_TABLES];
}

uint64_t stead_heap_private_size(uint32_t max_units)
{
    uint64_t at[PRIVATE_TABLES + 1];
    private_tables(max_units, at);
    return at[PRIVATE_TABLES];
}

/* Where the tables are, from two numbers that are in the shared memory; no pointer is. */
void heap_place_tables(stead_heap *h, heap_shared *shared, uint32_t max_units)
{
    uint64_t at[CONTROL_TABLES + 1], mine[PRIVATE_TABLES + 1];
    char *control = (char *)shared, *memory = (char *)h;
    control_tables(max_units, at);
    private_tables(max_units, mine);
    h->shared = shared;
    h->control_size = at[CONTROL_TABLES];
    h->words[0] = (void *)(control + at[WORDS]);
    h->words[1] = (void *)(control + at[SMALL_WORDS]);
    h->sets = (void *)(control + at[SETS]);
    h->unit_sets = (void *)(control + at[UNITS_SETS]);
    h->transit_set = (void *)(control + at[TRANSIT_SET]);
    h->transits = (void *)(control + at[TRANSIT]);
    h->objects = (void *)(control + at[OBJECT]);
    h->counts = (void *)(control + at[COUNTS]);
    h->held[0] = (void *)(memory + mine[HELD_COUNTS]);
    h->held[1] = (void *)(memory + mine[SMALL_HELD_COUNTS]);
    stead_arena *a = &h->side;
    a->state = &shared->runs;
    a->ent = (void *)(control + at[ENT]);
    a->links_of_runs = (void *)(control + at[LINKS]);
    a->zero = (void *)(control + at[ZEROS]);
    a->spans = (void *)(memory + mine[SPANS]);
    a->links[0] = (void *)(memory + mine[FREE_LINKS]);
    a->links[1] = (void *)(memory + mine[SMALL_FREE_LINKS]);
}

void stead_heap_format(void *control, uint64_t base, uint32_t max_units, const uint8_t id[16], uint64_t patience)
{
    heap_shared *shared = control;
    stead_arena a = {.state = &shared->runs};
    runs_forget(&a);
    shared->base = base;
    shared->max_units = max_units;
    shared->version = VERSION;
    shared->free_set = NONE;
    shared->patience = patience;
    memcpy(shared->id, id, sizeof shared->id);
    __atomic_store_n(&shared->magic, MAGIC, __ATOMIC_RELEASE);
}

int heap_is_one(const heap_shared *shared)
{
    return __atomic_load_n(&shared->magic, __ATOMIC_ACQUIRE) == MAGIC && shared->version == VERSION;
}

int stead_heap_attach(void *control, void *private_memory, uint64_t identity, stead_heap **heap)
{
    heap_shared *shared = control;
    stead_heap *h = private_memory;
    uint32_t max_units = shared->max_units;
    if (!identity || !heap_is_one(shared) || !max_units || max_units > STEAD_MAX_UNITS || shared->runs.units > max_units)
        return STEAD_BROKEN;
    heap_place_tables(h, shared, max_units);
    arena_begin(&h->side, shared->base, max_units);
    h->place = roster_join(&shared->roster, identity);
    unsigned inherited = h->place ? 0 : roster_inherit(&shared->roster, identity);
    if (inherited)
        h->place = inherited;
    h->side.place = h->place;
    h->identity = identity;
    h->patience = shared->patience;
    memcpy(h->id, shared->id, sizeof h->id);
    if (inherited)
        heap_reap_own(h);
    *heap = h;
    return h->place ? STEAD_DONE : STEAD_FULL;
}

unsigned stead_heap_place(const stead_heap *h) { return h->place; }
const uint8_t *stead_heap_id(const void *control) { return ((const heap_shared *)control)->id; }
uint64_t stead_heap_identity(const stead_heap *h, unsigned place)
{
    return place < PLACES ? __atomic_load_n(&h->shared->roster.identity[place], __ATOMIC_ACQUIRE) : 0;
}
uint32_t stead_heap_max_units(const stead_heap *h) { return h->side.max_units; }
uint64_t stead_heap_base(const stead_heap *h) { return h->side.base; }
uint64_t stead_heap_dirty(const stead_heap *h) { return stead_arena_dirty(&h->side); }
uint32_t stead_heap_units(const stead_heap *h) { return stead_arena_units(&h->side); }
void stead_heap_extend(stead_heap *h, uint32_t units, int zero) { stead_arena_extend(&h->side, units, zero); }

uint64_t stead_heap_shortfall(stead_heap *h, uint64_t size, uint64_t alignment)
{
    return stead_arena_shortfall(&h->side, size, alignment);
}

int stead_heap_checkout(stead_heap *h, uint64_t least, stead_run *run) { return stead_arena_checkout(&h->side, least, run); }
void stead_heap_checkin(stead_heap *h, const stead_run *run, int zero) { stead_arena_checkin(&h->side, run, zero); }

/* ---- locks ---- */

stead_heap *heap_of(stead_arena *a) { return (stead_heap *)(void *)a; /* its first member */ }

void heap_enter(stead_heap *h)
{
    if (robust_acquire(&h->shared->roster, h->place, &h->shared->lock, -1) == ROBUST_OWNER_DIED)
        heap_rebuild(h);
}

void heap_leave(stead_heap *h) { robust_release(&h->shared->lock); }
void heap_enter_runs(stead_arena *a) { heap_enter(heap_of(a)); }
void heap_leave_runs(stead_arena *a) { heap_leave(heap_of(a)); }

int stead_heap_begin_growth(stead_heap *h)
{
    return robust_acquire(&h->shared->roster, h->place, &h->shared->growth_lock, -1);
}

void stead_heap_end_growth(stead_heap *h) { robust_release(&h->shared->growth_lock); }

static stead_lock *stripe_of(stead_heap *h, uint32_t head) { return &h->stripes[head % STRIPES]; }

/* ---- spans whose owner changes, and what others freed in them ---- */

void heap_will_own(stead_arena *a, uint32_t head) { unit_set_add(ever_of(heap_of(a), a->place), head); }

void heap_hand_out(stead_arena *a, uint32_t head, unsigned c, uint32_t i)
{
    /* Counted first: another thread may have an old handle that means this generation. */
    __atomic_fetch_add(held_of_block(heap_of(a), head, c, i), 1, __ATOMIC_RELAXED);
    word_begin(word_of_block(heap_of(a), head, c, i), a->place);
}

void heap_dropped(stead_heap *h, uint32_t head)
{
    uint64_t e = __atomic_load_n(&h->side.ent[head], __ATOMIC_SEQ_CST);
    if (kind_of(e) == SPAN && owner_of(e))
        unit_set_add(dropped_of(h, owner_of(e)), head);
}

/* A span of this process, and as long as it knows it. */
static int is_mine(const stead_heap *h, uint32_t head, uint64_t e)
{
    return is_span(&h->side, head, e) && owner_of(e) == h->place && COUNT(&h->side.spans[head]) == blocks_in(e);
}

int heap_owns(stead_arena *a, uint32_t head) { return is_mine(heap_of(a), head, a->ent[head]); }

/* Under the lane's lock: blocks of an own span that others gave back. */
static void look_through(stead_heap *h, uint32_t head, uint64_t e)
{
    stead_arena *a = &h->side;
    unsigned c = class_of(e);
    for (uint32_t i = 0; i < a->spans[head].fresh && a->ent[head] == e; i++)
        if (links_of(a, head, c)[i] == LIVE && !(word_load(word_of_block(h, head, c, i)) & PAYLOAD))
            spans_push(a, inner_lane_of(e), c, head, i);
}

/* Into the lists of the lane l, which is locked, and of all that nobody is in. */
static void collect(stead_heap *h, unsigned l)
{
    stead_arena *a = &h->side;
    unit_set dropped = dropped_of(h, h->place);
    for (uint32_t head = unit_set_next(dropped, 0, 1); head != NO_UNIT; head = unit_set_next(dropped, head + 1, 1)) {
        unit_set_drop(dropped, head); /* first: what is dropped there from now on is told again */
        uint64_t e = ent_load(a, head);
        unsigned other = inner_lane_of(e);
        if (!is_span(a, head, e) || owner_of(e) != h->place)
            continue;
        if (other != l && !stead_try_lock(&a->lanes[other].lock)) {
            unit_set_add(dropped, head); /* whoever is in there may be waiting for this lane */
            continue;
        }
        if (ent_load(a, head) == e && is_mine(h, head, e))
            look_through(h, head, e);
        if (other != l)
            stead_unlock(&a->lanes[other].lock);
    }
}

/* Under both locks: whether the span has a free block. */
static int adopt(stead_heap *h, unsigned l, unsigned c, uint32_t head, uint64_t e)
{
    stead_arena *a = &h->side;
    uint32_t count = blocks_in(e), live = 0, free = END;
    uint16_t *links = links_of(a, head, c);
    for (uint32_t i = count; i--;) {
        int used = (word_load(word_of_block(h, head, c, i)) & PAYLOAD) != 0;
        links[i] = (uint16_t)(used ? LIVE : free);
        live += (uint32_t)used;
        free = used ? free : i;
    }
    a->spans[head] = (span){.free = (uint16_t)free, .fresh = (uint16_t)count, .live = (uint16_t)live,
                            .count = (uint16_t)count, .next = NONE, .prev = NONE};
    __atomic_store_n(&a->ent[head], spans_own(a, l, c, head, length_of(e)), __ATOMIC_SEQ_CST); /* the commit */
    unit_set_drop(abandoned_of(h, c), head);
    unit_set_add(dropped_of(h, h->place), head); /* who freed one since may have seen no owner */
    if (free != END)
        spans_list(a, l, c, head);
    return free != END;
}

void heap_collect(stead_heap *h) { collect(h, LANES); }

int heap_refill(stead_arena *a, unsigned l, unsigned c)
{
    stead_heap *h = heap_of(a);
    unit_set left = abandoned_of(h, c);
    collect(h, l);
    if (a->lanes[l].partial[c] != NONE || a->lanes[l].spare[c] != NONE)
        return 1;
    if (unit_set_next(left, 0, 0) == NO_UNIT)
        return 0;
    int found = 0;
    heap_enter(h);
    for (uint32_t head = unit_set_next(left, 0, 0); head != NO_UNIT && !found; head = unit_set_next(left, head + 1, 0)) {
        uint64_t e = a->ent[head];
        if (is_span(a, head, e) && !owner_of(e) && class_of(e) == c)
            found = adopt(h, l, c, head, e);
        else
            unit_set_drop(left, head);
    }
    heap_leave(h);
    return found;
}

/* ---- large blocks ---- */

void heap_freed(stead_heap *h, uint32_t head)
{
    uint64_t e = h->side.ent[head];
    if (kind_of(e) != LARGE)
        heap_dropped(h, head);
    else if (is_run(&h->side, head, e) && !(word_load(word_of_block(h, head, STEAD_CLASSES, 0)) & PAYLOAD))
        runs_give(&h->side, head, length_of(e));
}

void heap_free_large(stead_heap *h, uint32_t head)
{
    heap_enter(h);
    if (kind_of(h->side.ent[head]) == LARGE)
        heap_freed(h, head);
    heap_leave(h);
}

static int take_large(stead_heap *h, uint64_t size, uint64_t alignment, int flags, stead_shared_block *block)
{
    stead_arena *a = &h->side;
    zero_part zero;
    uint64_t units = size / STEAD_UNIT + (size % STEAD_UNIT != 0), whole = a->max_units * (uint64_t)STEAD_UNIT;
    if (units > a->max_units || alignment > whole)
        return STEAD_NO_SPACE;
    heap_enter(h);
    uint32_t head = runs_take(a, (uint32_t)units, alignment, flags & STEAD_LAST, &zero);
    if (head != NONE) {
        uint64_t *word = word_of_block(h, head, STEAD_CLASSES, 0);
        heap_will_own(a, head);
        ent_store(a, head, large_entry(units, 0, 0)); /* the commit; while the payload is zero, it may be given back */
        __atomic_fetch_add(held_of_block(h, head, STEAD_CLASSES, 0), 1, __ATOMIC_RELAXED);
        word_begin(word, h->place);
        block->generation = (uint16_t)GENERATION(word_load(word));
    }
    heap_leave(h);
    if (head == NONE)
        return STEAD_NO_SPACE;
    block->address = address_of(a, head);
    block->usable = units * STEAD_UNIT;
    block->zero_from = (uint64_t)(zero.from - head) * STEAD_UNIT;
    block->zero_to = (uint64_t)(zero.to - head) * STEAD_UNIT;
    return STEAD_DONE;
}

/* ---- from an address to its block ---- */

typedef heap_spot spot;

static int inside_large(stead_heap *h, uint32_t unit, spot *s, int locked)
{
    if (!locked)
        heap_enter(h);
    s->head = runs_head_of(&h->side, unit);
    s->e = h->side.ent[s->head];
    if (!locked)
        heap_leave(h);
    return kind_of(s->e) == LARGE && unit - s->head < length_of(s->e) ? STEAD_INTERIOR : STEAD_NOT_LIVE;
}

static int locate(stead_heap *h, uint64_t address, spot *s, int locked)
{
    const stead_arena *a = &h->side;
    uint64_t offset = address - a->base;
    uint32_t unit = (uint32_t)(offset / STEAD_UNIT);
    if (address < a->base || offset / STEAD_UNIT >= committed(a))
        return STEAD_FOREIGN;
    *s = (spot){.e = ent_load(a, unit), .head = unit, .c = STEAD_CLASSES};
    int got = STEAD_DONE;
    if (kind_of(s->e) == SPAN) {
        s->head = unit - back_of(s->e);
        s->e = back_of(s->e) <= unit ? ent_load(a, s->head) : 0;
        if (kind_of(s->e) != SPAN || back_of(s->e) || unit - s->head >= length_of(s->e) || class_of(s->e) >= STEAD_CLASSES)
            return STEAD_NOT_LIVE;
        s->c = class_of(s->e);
        uint32_t within = (uint32_t)(address - address_of(a, s->head));
        s->i = block_at(within, s->c);
        s->usable = class_size(s->c);
        s->start = address_of(a, s->head) + s->i * s->usable;
        if (s->i >= blocks_in(s->e))
            return STEAD_NOT_LIVE;
    } else {
        if (kind_of(s->e) != LARGE)
            got = kind_of(s->e) ? STEAD_NOT_LIVE : inside_large(h, unit, s, locked);
        s->start = address_of(a, s->head);
        s->usable = length_of(s->e) * (uint64_t)STEAD_UNIT;
    }
    return got == STEAD_DONE && address != s->start ? STEAD_INTERIOR : got;
}

int heap_locate(stead_heap *h, uint64_t address, spot *s) { return locate(h, address, s, 0); }
int heap_locate_locked(stead_heap *h, uint64_t address, spot *s) { return locate(h, address, s, 1); }

static void describe(const spot *s, uint64_t w, stead_shared_block *block)
{
    *block = (stead_shared_block){.address = s->start, .usable = s->usable, .generation = (uint16_t)GENERATION(w)};
}

int stead_heap_find(stead_heap *h, uint64_t address, stead_shared_block *block)
{
    spot s;
    int got = heap_locate(h, address, &s);
    if (got != STEAD_DONE && got != STEAD_INTERIOR)
        return got;
    uint64_t w = word_load(word_of_block(h, s.head, s.c, s.i));
    describe(&s, w, block);
    return w & PAYLOAD ? got : STEAD_NOT_LIVE;
}

uint32_t stead_heap_held(stead_heap *h, uint64_t address)
{
    spot s;
    return heap_locate(h, address, &s) == STEAD_DONE ? __atomic_load_n(held_of_block(h, s.head, s.c, s.i), __ATOMIC_RELAXED) : 0;
}

unsigned stead_heap_holders(stead_heap *h, uint64_t address, uint64_t places[16])
{
    spot s;
    if (heap_locate(h, address, &s) == STEAD_DONE)
        return word_holders(h, word_of_block(h, s.head, s.c, s.i), places);
    memset(places, 0, PLACES / 8);
    return 0;
}

/* ---- take, lease, release ---- */

int stead_heap_take(stead_heap *h, uint64_t size, uint64_t alignment, int flags, stead_shared_block *block)
{
    unsigned c = class_of_request(&h->side, size, alignment);
    if (c >= STEAD_CLASSES) {
        int got = take_large(h, size, alignment, flags, block);
        if (got == STEAD_NO_SPACE && flags & STEAD_LAST) {
            stead_arena_purge(&h->side);
            got = take_large(h, size, alignment, flags, block);
        }
        return got;
    }
    stead_block taken;
    int got = spans_take(&h->side, c, alignment, flags, &taken);
    if (got)
        return got;
    uint32_t head = (uint32_t)(taken.node >> 16), i = (uint32_t)(taken.node & 0xffff) >> 1;
    c = class_for(taken.usable);
    *block = (stead_shared_block){taken.address, taken.usable, taken.zero_from, taken.zero_to,
                                  (uint16_t)GENERATION(word_load(word_of_block(h, head, c, i)))};
    return STEAD_DONE;
}

/* The owner of a span may change while it is the same one. */
static int same_run(uint64_t one, uint64_t other)
{
    const uint64_t owner = (UINT64_C(1023) << 9) | (UINT64_C(15) << 24);
    return (one & ~owner) == (other & ~owner);
}

int stead_heap_lease(stead_heap *h, uint64_t address, int generation, stead_shared_block *block)
{
    spot s;
    int got = heap_locate(h, address, &s);
    if (got)
        return got;
    uint64_t *word = word_of_block(h, s.head, s.c, s.i);
    uint32_t *held = held_of_block(h, s.head, s.c, s.i);
    stead_lock *stripe = stripe_of(h, s.head);
    stead_acquire(stripe);
    if (__atomic_load_n(held, __ATOMIC_RELAXED)) {
        uint64_t w = word_load(word); /* without payload: a thread is being handed the next block there */
        got = w & PAYLOAD && same_run(ent_load(&h->side, s.head), s.e) &&
                      (generation < 0 || GENERATION(w) == (unsigned)generation)
                  ? STEAD_DONE
                  : STEAD_NOT_LIVE;
    } else {
        heap_enter(h); /* what is a run stays one */
        int added = WORD_DEAD;
        if (same_run(h->side.ent[s.head], s.e)) {
            unit_set_add(ever_of(h, h->place), s.head);
            added = word_add(h, word, h->place, generation);
        }
        heap_leave(h);
        got = added == WORD_ADDED ? STEAD_DONE : added == WORD_NO_SET ? STEAD_FULL : STEAD_NOT_LIVE;
    }
    if (!got) {
        __atomic_fetch_add(held, 1, __ATOMIC_RELAXED);
        describe(&s, word_load(word), block);
    }
    stead_unlock(stripe);
    return got;
}

int heap_hold(stead_heap *h, uint64_t address, spot *s)
{
    int got = heap_locate(h, address, s);
    if (got)
        return got;
    stead_acquire(stripe_of(h, s->head));
    if (__atomic_load_n(held_of_block(h, s->head, s->c, s->i), __ATOMIC_RELAXED))
        return STEAD_DONE;
    heap_let(h, s);
    return STEAD_NOT_LIVE;
}

void heap_let(stead_heap *h, const spot *s) { stead_unlock(stripe_of(h, s->head)); }

/* This process's last hold. */
static void let_go(stead_heap *h, const spot *s)
{
    stead_arena *a = &h->side;
    uint64_t *word = word_of_block(h, s->head, s->c, s->i), e = ent_load(a, s->head);
    if (s->c == STEAD_CLASSES) {
        if (word_remove(h, word, h->place))
            heap_free_large(h, s->head);
        return;
    }
    if (owner_of(e) == h->place) {
        unsigned l = inner_lane_of(e);
        stead_acquire(&a->lanes[l].lock);
        if (word_remove(h, word, h->place) && links_of(a, s->head, s->c)[s->i] == LIVE)
            spans_push(a, l, s->c, s->head, s->i);
        stead_unlock(&a->lanes[l].lock);
    } else if (word_remove(h, word, h->place)) {
        heap_dropped(h, s->head);
    }
}

int stead_heap_release(stead_heap *h, uint64_t address)
{
    spot s;
    int got = heap_locate(h, address, &s);
    if (got)
        return got;
    uint32_t *held = held_of_block(h, s.head, s.c, s.i);
    stead_lock *stripe = stripe_of(h, s.head);
    stead_acquire(stripe);
    if (!__atomic_load_n(held, __ATOMIC_RELAXED))
        got = STEAD_NOT_LIVE;
    else if (!__atomic_sub_fetch(held, 1, __ATOMIC_RELAXED))
        let_go(h, &s);
    stead_unlock(stripe);
    return got;
}
