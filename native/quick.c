/* quick.c - what nearly every take and free is: a block of a span that the thread's lane has at hand, or a run that was
 * freed a moment ago. Whatever else there is to do, and whatever is wrong, is left to arena.c, which looks again at
 * everything. Only for an arena whose memory is all private.
 */
#include "fit.h"

#define ALWAYS static inline __attribute__((always_inline))

/* ---- locks ---- */

/* Like stead_try_lock, but without the word where nobody else is there to read it: who leaves within the same call needs
 * none then. A process with one thread does not get another one meanwhile. */
ALWAYS int try_enter(stead_lock *lock, int *locked)
{
    *locked = !stead_alone();
    return !*locked || (!__atomic_load_n(&lock->word, __ATOMIC_RELAXED) && !__atomic_exchange_n(&lock->word, 1, __ATOMIC_ACQUIRE));
}

ALWAYS void leave(stead_lock *lock, int locked)
{
    if (locked)
        stead_unlock(lock);
}

/* ---- spans ---- */

/* Full is who has as many live blocks as fit: the list of free ones need not be waited for. */
ALWAYS uint64_t pop(stead_arena *a, uint64_t size, unsigned word, stead_block *block)
{
    uint32_t l = my_lane;
    int locked;
    if (__builtin_expect(!l, 0))
        return 0;
    lane *mine = &a->lanes[l - 1];
    if (__builtin_expect(!try_enter(&mine->lock, &locked), 0))
        return 0;
    unsigned c = class_for(size);
    uint32_t head = mine->partial[c];
    if (__builtin_expect(head == NONE, 0)) {
        leave(&mine->lock, locked);
        return 0;
    }
    const class_fact *f = &class_facts[c];
    span *s = &a->spans[head];
    uint16_t *links = links_at(a, head, f);
    uint32_t i = s->free, live = s->live + 1u, count = s->count;
    uint64_t zero_to = 0;
    s->live = (uint16_t)live;
    if (__builtin_expect(i != END, 1)) {
        s->free = links[i];
    } else {
        i = s->fresh;
        s->fresh = (uint16_t)(i + 1);
        zero_to = count & ZERO ? f->size : 0;
    }
    links[i] = (uint16_t)word;
    if (__builtin_expect(live == (count & ~ZERO), 0)) {
        uint32_t next = s->next;
        mine->partial[c] = next;
        if (next != NONE)
            a->spans[next].prev = NONE;
    }
    leave(&mine->lock, locked);
    uint64_t address = address_of(a, head) + (uint64_t)i * f->size;
    if (block)
        *block = (stead_block){address, f->size, small_node(head, i), 0, zero_to};
    return address;
}

/* Under the lane's lock. 0: it is not that simple. */
ALWAYS int push(stead_arena *a, lane *mine, unsigned c, uint32_t head, uint32_t i, unsigned word)
{
    span *s = &a->spans[head];
    uint16_t *links = links_at(a, head, &class_facts[c]);
    uint32_t live = s->live;
    if (__builtin_expect(i >= s->fresh || links[i] != word, 0))
        return 0;
    if (__builtin_expect(live == 1 && (mine->partial[c] != head || s->next != NONE), 0))
        return 0; /* nothing in it lives on, and another one has room */
    links[i] = s->free;
    s->free = (uint16_t)i;
    s->live = (uint16_t)(live - 1);
    if (__builtin_expect(live == COUNT(s), 0)) {
        uint32_t first = mine->partial[c];
        s->next = first;
        s->prev = NONE;
        if (first != NONE)
            a->spans[first].prev = head;
        mine->partial[c] = head;
    }
    return 1;
}

/* ---- runs that were freed a moment ago: fit.h ---- */

ALWAYS void count_kept(run_state *state, uint64_t used, uint64_t touched)
{
    uint64_t now = state->used_units + used;
    state->used_units = now;
    if (now > state->peak_units)
        state->peak_units = now;
    __atomic_store_n(&state->dirty_units, state->dirty_units + touched, __ATOMIC_RELAXED);
}

ALWAYS uint64_t take_kept(stead_arena *a, uint64_t size, unsigned word, stead_block *block)
{
    uint64_t units = (size + STEAD_UNIT - 1) / STEAD_UNIT;
    uint32_t head = NONE;
    int locked;
    if (__builtin_expect(!try_enter(&a->runs_lock, &locked), 0))
        return 0;
    if (units <= KEPT_UNITS) {
        kept_runs *kept = &a->kept[units];
        if (__builtin_expect(kept->count, 1))
            head = kept->heads[--kept->count];
    } else if (units == a->last_units) {
        head = a->last;
        a->last_units = 0;
    }
    if (__builtin_expect(head != NONE, 1)) {
        count_kept(a->state, units, -units);
        ent_store(a, head, large_entry(units, 0, word == HELD));
    }
    leave(&a->runs_lock, locked);
    if (__builtin_expect(head == NONE, 0))
        return 0;
    uint64_t address = address_of(a, head);
    if (block)
        *block = (stead_block){address, units * STEAD_UNIT, large_node(head), 0, 0};
    return address;
}

STEAD_APART static int keep(stead_arena *a, uint32_t head, uint64_t e, unsigned word)
{
    uint32_t units = length_of(e);
    int locked;
    if (__builtin_expect(kind_of(e) != LARGE || held(e) != (word == HELD) || a->guard_units, 0) ||
        !try_enter(&a->runs_lock, &locked))
        return 0;
    int kept = ent_load(a, head) == e;
    if (__builtin_expect(kept, 1)) {
        if (units <= KEPT_UNITS) {
            kept_runs *list = &a->kept[units];
            if (__builtin_expect(list->count < list->most, 1))
                list->heads[list->count++] = head;
            else
                kept = 0;
        } else {
            if (__builtin_expect(a->last_units, 0))
                runs_unkeep_last(a);
            a->last = head;
            a->last_units = units;
        }
        if (__builtin_expect(kept, 1)) {
            count_kept(a->state, -(uint64_t)units, units);
            ent_store(a, head, entry(KEPT, units));
        }
    }
    leave(&a->runs_lock, locked);
    return kept;
}

/* ---- blocks ---- */

ALWAYS unsigned word_for(int held) { return held ? HELD : LIVE; }

ALWAYS int plain(const stead_arena *a, uint64_t alignment)
{
    return __builtin_expect(alignment <= 16 && !(a->disowned | a->guard_units), 1);
}

STEAD_APART static int take_run(stead_arena *a, uint64_t size, uint64_t alignment, int flags, stead_block *block)
{
    if (plain(a, alignment) && size > STEAD_SMALL && take_kept(a, size, word_for(flags & STEAD_HOLD), block))
        return STEAD_DONE;
    return arena_take(a, size, alignment, flags, block);
}

int stead_arena_take(stead_arena *a, uint64_t size, uint64_t alignment, int flags, stead_block *block)
{
    if (size - 1 < STEAD_SMALL && plain(a, alignment) && pop(a, size, word_for(flags & STEAD_HOLD), block))
        return STEAD_DONE;
    return take_run(a, size, alignment, flags, block);
}

STEAD_APART static uint64_t allocate_run(stead_arena *a, uint64_t size, uint64_t alignment)
{
    stead_block block;
    uint64_t address = plain(a, alignment) && size > STEAD_SMALL ? take_kept(a, size, LIVE, NULL) : 0;
    if (address)
        return address;
    return arena_take(a, size, alignment, STEAD_LAST, &block) ? 0 : block.address;
}

uint64_t stead_arena_allocate(stead_arena *a, uint64_t size, uint64_t alignment)
{
    uint64_t address = size - 1 < STEAD_SMALL && plain(a, alignment) ? pop(a, size, LIVE, NULL) : 0;
    return address ? address : allocate_run(a, size, alignment);
}

ALWAYS int give_small(stead_arena *a, uint32_t unit, uint64_t e, uint32_t head, uint32_t i, unsigned word)
{
    lane *mine = &a->lanes[lane_of(e)];
    int locked;
    if (__builtin_expect(!try_enter(&mine->lock, &locked), 0))
        return 0;
    int given = (!locked || ent_load(a, unit) == e) && push(a, mine, class_of(e), head, i, word);
    leave(&mine->lock, locked);
    return given;
}

ALWAYS int free_one(stead_arena *a, uint64_t address, unsigned word)
{
    uint64_t offset = address - a->base, unit = offset / STEAD_UNIT;
    if (__builtin_expect(unit >= stead_arena_units(a), 0)) /* also what lies before: it wraps around */
        return 0;
    uint64_t e = ent_load(a, (uint32_t)unit);
    if (kind_of(e) == SPAN) {
        const class_fact *f = &class_facts[class_of(e)];
        uint32_t head = (uint32_t)unit - back_of(e), from = (uint32_t)(offset - (uint64_t)head * STEAD_UNIT);
        uint32_t i = (uint32_t)((uint64_t)from * f->reciprocal >> 32);
        return __builtin_expect(i * f->size == from, 1) && give_small(a, (uint32_t)unit, e, head, i, word);
    }
    return !(offset % STEAD_UNIT) && keep(a, (uint32_t)unit, e, word);
}

int stead_arena_free(stead_arena *a, uint64_t address)
{
    return __builtin_expect(free_one(a, address, LIVE), 1) ? STEAD_DONE : arena_free(a, address, STEAD_DONE);
}

int stead_arena_free_held(stead_arena *a, uint64_t address)
{
    return __builtin_expect(free_one(a, address, HELD), 1) ? STEAD_DONE : arena_free(a, address, STEAD_HELD);
}

int stead_arena_give(stead_arena *a, uint64_t node)
{
    uint32_t head = (uint32_t)(node >> 16), i = (uint32_t)(node & 0xffff) >> 1;
    uint64_t e = ent_load(a, head);
    int given;
    if (node & 1)
        given = kind_of(e) == SPAN && !back_of(e) && give_small(a, head, e, head, i, HELD);
    else
        given = keep(a, head, e, HELD);
    return __builtin_expect(given, 1) ? STEAD_DONE : arena_give(a, node);
}
