/* spans.c - small blocks: spans of one size class, which lanes own.
 *
 * A thread keeps to one lane, so that threads seldom meet; who frees a block takes the lock of the lane that owns
 * its span. A lane keeps one empty span of each class: memory goes back to the runs in spans, not in blocks.
 */
#include <stdatomic.h>

#include "fit.h"

#define R(SIZE) {SIZE, (uint32_t)((UINT64_C(1) << 32) / (SIZE) + 1), (SIZE) < 256, (SIZE) < 256 ? 8 : 4}

const class_fact class_facts[STEAD_CLASSES] = {
    R(16), R(32), R(48), R(64), R(80), R(96), R(112), R(128), R(160),
    R(192), R(224), R(256), R(320), R(384), R(448), R(512), R(640), R(768),
    R(896), R(1024), R(1280), R(1536), R(1792), R(2048), R(2560), R(3072), R(3584),
    R(4096), R(5120), R(6144), R(7168), R(8192), R(10240), R(12288), R(14336), R(16384),
};

/* ---- lanes ---- */

_Thread_local uint32_t my_lane;

STEAD_SELDOM static uint32_t next_lane(void)
{
    static atomic_uint threads;
    return my_lane = atomic_fetch_add_explicit(&threads, 1, memory_order_relaxed) % LANES + 1;
}

/* The thread's lane, locked; another one from now on if somebody is inside. */
static inline unsigned enter_lane(stead_arena *a)
{
    uint32_t i = my_lane;
    if (__builtin_expect(!i || !stead_try_lock(&a->lanes[i - 1].lock), 0)) {
        i = next_lane();
        stead_acquire(&a->lanes[i - 1].lock);
    }
    return i - 1;
}

/* ---- lists of spans; under the lane's lock, like all that follows ---- */

static void push(stead_arena *a, uint32_t *list, uint32_t head)
{
    a->spans[head].next = *list;
    a->spans[head].prev = NONE;
    if (*list != NONE)
        a->spans[*list].prev = head;
    *list = head;
}

static void drop(stead_arena *a, uint32_t *list, uint32_t head)
{
    const span *s = &a->spans[head];
    if (s->next != NONE)
        a->spans[s->next].prev = s->prev;
    if (s->prev != NONE)
        a->spans[s->prev].next = s->next;
    else
        *list = s->next;
}

/* Units of a span: without those at the end that no block reaches. Smaller in a small arena, where one span would
 * be all of it. */
uint32_t spans_length(const stead_arena *a, unsigned c, uint32_t units)
{
    if (units > a->max_units / 64)
        units = a->max_units / 64;
    uint32_t blocks = units * STEAD_UNIT / class_size(c);
    return ((blocks ? blocks : 1) * class_size(c) + STEAD_UNIT - 1) / STEAD_UNIT;
}

void spans_clear(stead_arena *a, uint32_t head, uint32_t units)
{
    runs_note(a, head, head, head, head);
    for (uint32_t i = 1; i < units; i++)
        ent_store(a, head + i, 0);
}

uint64_t spans_own(stead_arena *a, unsigned l, unsigned c, uint32_t head, uint32_t units)
{
    if (!a->place)
        return span_entry(c, l, 0, units);
    heap_will_own(a, head);
    return span_entry(c, a->place, 0, units) | (uint64_t)l << 24;
}

void spans_list(stead_arena *a, unsigned l, unsigned c, uint32_t head) { push(a, &a->lanes[l].partial[c], head); }

STEAD_SELDOM static int new_span(stead_arena *a, unsigned l, unsigned c, uint32_t units, int everywhere)
{
    zero_part zero;
    runs_enter(a);
    uint32_t head = runs_take(a, units, STEAD_UNIT, everywhere, &zero);
    if (head != NONE) {
        uint32_t count = units * STEAD_UNIT / class_size(c);
        int clean = zero.to - zero.from == units;
        a->spans[head] =
            (span){.free = END, .count = (uint16_t)(count | (clean ? ZERO : 0)), .next = NONE, .prev = NONE};
        uint64_t e = spans_own(a, l, c, head, units);
        for (uint32_t i = 1; i < units; i++)
            ent_store(a, head + i, span_entry(c, a->place ? 0 : l, i, units));
        ent_store(a, head, e); /* the commit */
    }
    runs_leave(a);
    if (head == NONE)
        return 0;
    push(a, &a->lanes[l].partial[c], head);
    return 1;
}

STEAD_SELDOM static void give_span(stead_arena *a, uint32_t head)
{
    runs_enter(a);
    uint32_t units = length_of(a->ent[head]);
    if (!a->place || heap_owns(a, head)) {
        spans_clear(a, head, units);
        runs_give(a, head, units);
    }
    runs_leave(a);
}

/* ---- blocks ---- */

/* Written so that what was just stored is not loaded again: 16-bit words may be aliases of each other. */
static inline int pop(stead_arena *a, unsigned l, unsigned c, int flags, stead_block *block)
{
    lane *mine = &a->lanes[l];
    uint32_t head = mine->partial[c];
    if (__builtin_expect(head == NONE, 0)) {
        head = mine->spare[c];
        if (head == NONE)
            return 0;
        mine->spare[c] = NONE;
        push(a, &mine->partial[c], head);
    }
    span *s = &a->spans[head];
    uint16_t *links = links_of(a, head, c);
    uint32_t size = class_size(c), i = s->free, fresh = s->fresh, count = COUNT(s), next = END;
    block->zero_from = block->zero_to = 0;
    s->live++;
    if (i != END) {
        next = links[i];
        s->free = (uint16_t)next;
    } else {
        block->zero_to = s->count & ZERO ? size : 0;
        i = fresh++;
        s->fresh = (uint16_t)fresh;
    }
    links[i] = flags & STEAD_HOLD ? HELD : LIVE;
    if (__builtin_expect(a->place, 0))
        heap_hand_out(a, head, c, i);
    block->address = address_of(a, head) + (uint64_t)i * size;
    block->usable = size;
    block->node = small_node(head, i);
    if (__builtin_expect(next == END && fresh == count, 0))
        drop(a, &mine->partial[c], head);
    return 1;
}

void spans_push(stead_arena *a, unsigned l, unsigned c, uint32_t head, uint32_t i)
{
    lane *mine = &a->lanes[l];
    span *s = &a->spans[head];
    uint32_t next = s->free, live = s->live - 1u;
    int was_full = next == END && s->fresh == COUNT(s);
    s->free = (uint16_t)i;
    s->live = (uint16_t)live;
    links_of(a, head, c)[i] = (uint16_t)next;
    if (__builtin_expect(was_full, 0))
        push(a, &mine->partial[c], head);
    if (live || (mine->partial[c] == head && s->next == NONE))
        return;
    drop(a, &mine->partial[c], head);
    if (mine->spare[c] == NONE)
        mine->spare[c] = head;
    else
        give_span(a, head);
}

void stead_arena_purge(stead_arena *a)
{
    for (unsigned l = 0; l < LANES; l++) {
        lane *each = &a->lanes[l];
        stead_acquire(&each->lock);
        for (unsigned c = 0; c < STEAD_CLASSES; c++) {
            if (each->spare[c] != NONE)
                give_span(a, each->spare[c]);
            each->spare[c] = NONE;
            for (uint32_t head = each->partial[c], next; head != NONE; head = next) {
                next = a->spans[head].next;
                if (!a->spans[head].live) {
                    drop(a, &each->partial[c], head);
                    give_span(a, head);
                }
            }
        }
        stead_unlock(&each->lock);
    }
    runs_enter(a);
    runs_unkeep(a);
    runs_leave(a);
}

/* Nothing can be added: a span as short as need be, or a free block of any lane, of this class or a larger one. */
STEAD_SELDOM static int pop_anywhere(stead_arena *a, unsigned c, uint64_t alignment, int flags, stead_block *block)
{
    for (uint32_t units = SPAN_UNITS; units; units /= 2) {
        unsigned l = enter_lane(a);
        int found = new_span(a, l, c, spans_length(a, c, units), 1) && pop(a, l, c, flags, block);
        stead_unlock(&a->lanes[l].lock);
        if (found)
            return 1;
    }
    for (; c < STEAD_CLASSES; c++) {
        if (class_size(c) & (alignment - 1))
            continue;
        for (unsigned l = 0; l < LANES; l++) {
            stead_acquire(&a->lanes[l].lock);
            int found = pop(a, l, c, flags, block);
            stead_unlock(&a->lanes[l].lock);
            if (found)
                return 1;
        }
    }
    return 0;
}

STEAD_SELDOM static int take_slowly(stead_arena *a, unsigned l, unsigned c, uint64_t alignment, int flags, stead_block *block)
{
    int found = a->place && heap_refill(a, l, c) && pop(a, l, c, flags, block);
    if (!found)
        found = new_span(a, l, c, spans_length(a, c, SPAN_UNITS), 0) && pop(a, l, c, flags, block);
    stead_unlock(&a->lanes[l].lock);
    if (found)
        return STEAD_DONE;
    if (!(flags & STEAD_LAST))
        return STEAD_NO_SPACE;
    stead_arena_purge(a);
    return pop_anywhere(a, c, alignment, flags, block) ? STEAD_DONE : STEAD_NO_SPACE;
}

int spans_take(stead_arena *a, unsigned c, uint64_t alignment, int flags, stead_block *block)
{
    unsigned l = enter_lane(a);
    if (__builtin_expect(!pop(a, l, c, flags, block), 0))
        return take_slowly(a, l, c, alignment, flags, block);
    stead_unlock(&a->lanes[l].lock);
    return STEAD_DONE;
}
