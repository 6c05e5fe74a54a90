/* heap_check.c - looks at all of a heap: statistics, every live block, every invariant. Whatever the shared memory holds,
 * looking at it does no harm: nothing read from it is believed before it was compared with what can be.
 */
#include "shared.h"

#include <string.h>

#define MUST(condition, message) \
    do {                         \
        if (!(condition))        \
            return message;      \
    } while (0)

static int is_somebody(const stead_heap *h, unsigned place)
{
    return place < PLACES && __atomic_load_n(&h->shared->roster.identity[place], __ATOMIC_SEQ_CST) != 0;
}

static const char *check_set(const stead_heap *h, uint32_t head, const uint64_t *word, uint64_t w)
{
    uint64_t any = 0;
    MUST(!(w & IDS >> 32 << 32), "a holder word has bits that mean nothing");
    MUST(SET_OF(w) < h->shared->sets_used && SET_OF(w) < HOLDER_SETS, "a word names a set of holders that there is not");
    const holder_set *set = &h->sets[SET_OF(w)];
    MUST(set->word == (uint64_t)(word - (uint64_t *)h->shared) + 1, "a set of holders is another block's");
    for (unsigned place = 0; place < PLACES; place++) {
        if (!(set->places[place / 64] >> place % 64 & 1))
            continue;
        any = 1;
        MUST(place && is_somebody(h, place), "a set of holders names nobody");
        MUST(unit_set_has(ever_of(h, place), head), "a block's holder does not know of it");
    }
    MUST(any, "a set of holders is empty");
    return NULL;
}

static const char *check_word_as(const stead_heap *h, uint32_t head, const uint64_t *word, uint64_t w, const uint32_t *counted)
{
    int mine = 0;
    uint32_t held = __atomic_load_n(counted, __ATOMIC_SEQ_CST);
    if (w & OVERFLOW) {
        const char *wrong = check_set(h, head, word, w);
        if (wrong)
            return wrong;
        const uint64_t *places = h->sets[SET_OF(w)].places;
        mine = places[h->place / 64] >> h->place % 64 & 1;
    }
    for (unsigned slot = 0; !(w & OVERFLOW) && slot < 4; slot++) {
        unsigned place = (unsigned)(w >> (10 * slot) & 1023);
        mine |= place == h->place;
        for (unsigned other = 0; place && other < slot; other++)
            MUST((w >> (10 * other) & 1023) != place, "a block has a holder twice");
        MUST(!place || is_somebody(h, place), "a block's holder is nobody");
        MUST(!place || unit_set_has(ever_of(h, place), head), "a block's holder does not know of it");
    }
    MUST(!(w & PAYLOAD & ~(IDS | OVERFLOW | CUSTODY)), "a holder word has bits that mean nothing");
    MUST(!held || mine, "this process holds a block, and its word does not say so");
    return NULL;
}

/* A holder needs no lock to let go, and then leaves: what is wrong must still be so in the same word. */
static const char *check_word(const stead_heap *h, uint32_t head, const uint64_t *word, const uint32_t *counted)
{
    const char *wrong;
    uint64_t w;
    do {
        w = word_load(word);
        wrong = check_word_as(h, head, word, w, counted);
    } while (wrong && word_load(word) != w);
    return wrong;
}

const char *heap_check_span(const stead_arena *a, uint32_t head, uint64_t e)
{
    const stead_heap *h = (const stead_heap *)(const void *)a;
    unsigned c = class_of(e);
    uint32_t units = length_of(e);
    MUST(is_span(a, head, e) && blocks_in(e) && e == (span_entry(c, owner_of(e), 0, units) | (uint64_t)inner_lane_of(e) << 24),
         "a span's entry is wrong");
    MUST(!owner_of(e) || is_somebody(h, owner_of(e)), "a span's owner is nobody");
    MUST(!owner_of(e) || unit_set_has(ever_of(h, owner_of(e)), head), "a span's owner does not know of it");
    MUST(owner_of(e) || unit_set_has(abandoned_of(h, c), head), "a span without owner is not among those");
    for (uint32_t i = 1; i < units; i++)
        MUST(a->ent[head + i] == span_entry(c, 0, i, units), "a span's entry does not lead to its head");
    for (uint32_t i = 0; i < blocks_in(e); i++) {
        const char *wrong = check_word(h, head, word_of_block(h, head, c, i), held_of_block(h, head, c, i));
        if (wrong)
            return wrong;
    }
    if (owner_of(e) != h->place)
        return NULL;
    MUST(COUNT(&a->spans[head]) == blocks_in(e), "a span has another number of blocks");
    for (uint32_t i = a->spans[head].free, seen = 0; i != END; i = links_of(a, head, c)[i]) {
        MUST(i < a->spans[head].fresh && ++seen <= a->spans[head].fresh, "a list of free blocks holds another");
        MUST(!(word_load(word_of_block(h, head, c, i)) & PAYLOAD), "a free block has a holder");
    }
    return check_links(a, head, e);
}

const char *heap_check_run(const stead_arena *a, uint32_t head, uint64_t e)
{
    const stead_heap *h = (const stead_heap *)(const void *)a;
    MUST(e == (kind_of(e) == LARGE ? large_entry(length_of(e), 0, 0) : entry(OUT, length_of(e)) | (uint64_t)owner_of(e) << 9),
         "a run's entry is wrong");
    if (kind_of(e) == LARGE)
        return check_word(h, head, word_of_block(h, head, STEAD_CLASSES, 0), held_of_block(h, head, STEAD_CLASSES, 0));
    MUST(is_somebody(h, owner_of(e)), "what was taken out is nobody's");
    return NULL;
}

/* Every set that was ever used is named by a word, or in the list of those that are free. */
static const char *check_sets(const stead_heap *h)
{
    const heap_shared *shared = h->shared;
    uint32_t seen = 0;
    MUST(shared->sets_used <= HOLDER_SETS, "more sets of holders than there can be");
    for (uint32_t n = 0; n < shared->sets_used; n++) {
        uint64_t number = h->sets[n].word;
        if (!number)
            continue;
        MUST(number <= h->control_size / 8, "a set of holders is of no word");
        uint64_t w = word_load((const uint64_t *)shared + number - 1);
        MUST(w & OVERFLOW && SET_OF(w) == n, "a set of holders is nobody's");
        seen++;
    }
    for (uint32_t n = shared->free_set; n != NONE; n = (uint32_t)h->sets[n].places[0]) {
        MUST(n < shared->sets_used && !h->sets[n].word, "a set of holders that is used is free, too");
        MUST(++seen <= shared->sets_used, "the list of free sets has a loop");
    }
    MUST(seen == shared->sets_used, "a set of holders is lost");
    return NULL;
}

/* ---- walking ---- */

static void visit_run(stead_heap *h, uint32_t head, uint64_t e, void (*visit)(void *, const stead_shared_block *), void *context)
{
    int small = kind_of(e) == SPAN;
    unsigned c = small ? class_of(e) : STEAD_CLASSES;
    uint64_t size = small ? class_size(c) : length_of(e) * (uint64_t)STEAD_UNIT;
    for (uint32_t i = 0, count = small ? blocks_in(e) : 1; i < count; i++) {
        uint64_t w = word_load(word_of_block(h, head, c, i));
        stead_shared_block block = {address_of(&h->side, head) + i * size, size, 0, 0, (uint16_t)GENERATION(w)};
        if (w & PAYLOAD)
            visit(context, &block);
    }
}

/* Under the heap's lock. */
static void walk(stead_heap *h, void (*visit)(void *, const stead_shared_block *), void *context)
{
    const stead_arena *a = &h->side;
    uint64_t e;
    for (uint32_t head = 0, stop = committed(a); head < stop && is_run(a, head, e = a->ent[head]); head += length_of(e))
        if (kind_of(e) == SPAN || kind_of(e) == LARGE)
            visit_run(h, head, e, visit, context);
}

void stead_heap_each(stead_heap *h, void (*visit)(void *, const stead_shared_block *), void *context)
{
    heap_enter(h);
    walk(h, visit, context);
    heap_leave(h);
}

/* ---- references from inside: each is one of a block's, and each of a block's is one ---- */

const char *heap_check_reference(stead_heap *h, uint64_t address, unsigned generation)
{
    heap_spot s;
    uint64_t w = heap_locate_locked(h, address, &s) ? 0 : word_load(word_of_block(h, s.head, s.c, s.i));
    MUST(CUSTODY_OF(w), "a block that is referred to from inside does not know of it");
    MUST(GENERATION(w) == generation, "a block that is referred to from inside is another one");
    return NULL;
}

static const char *check_object(stead_heap *h, const heap_object *o, uint64_t *references)
{
    const char *wrong = NULL;
    MUST(o->kind >= STEAD_LOCK && o->kind <= STEAD_CHANNEL, "an object is of no kind");
    if (o->kind != STEAD_CHANNEL)
        return NULL;
    MUST(channel_fits(h, o), "a channel does not fit into its block");
    MUST(channel_length(o) <= o->a, "a channel has more messages than cells");
    uint64_t head = __atomic_load_n(&o->head, __ATOMIC_SEQ_CST), tail = __atomic_load_n(&o->tail, __ATOMIC_SEQ_CST);
    for (uint64_t i = head; i != tail && !wrong; i++)
        wrong = channel_check(h, o, i, references);
    ++*references;
    return wrong ? wrong : heap_check_reference(h, o->address, o->generation);
}

struct sum {
    stead_heap *heap;
    uint64_t custody;
};

static void count_references(void *context, const stead_shared_block *block)
{
    heap_spot s;
    struct sum *sum = context;
    if (!heap_locate_locked(sum->heap, block->address, &s))
        sum->custody += CUSTODY_OF(word_load(word_of_block(sum->heap, s.head, s.c, s.i)));
}

static const char *check_inside(stead_heap *h)
{
    uint64_t references = 0;
    struct sum sum = {h, 0};
    for (uint32_t i = 0; i < h->shared->objects_used && i < OBJECTS; i++) {
        const char *wrong = h->objects[i].address ? check_object(h, &h->objects[i], &references) : NULL;
        if (wrong)
            return wrong;
    }
    unit_set used = transit_numbers(h);
    for (uint32_t i = unit_set_next(used, 0, 0); i < TRANSITS; i = unit_set_next(used, i + 1, 0))
        references += h->transits[i].word != 0;
    walk(h, count_references, &sum);
    MUST(references == sum.custody, "references from inside are not as many as the blocks know of");
    return NULL;
}

const char *stead_heap_check(stead_heap *h, uint32_t *unit)
{
    *unit = 0;
    MUST(h->shared->max_units == h->side.max_units && h->shared->base == h->side.base, "the heap's header was changed");
    MUST(heap_is_one(h->shared), "this is no heap any more");
    MUST(h->shared->patience == h->patience && !memcmp(h->shared->id, h->id, sizeof h->id), "the heap's header was changed");
    MUST(stead_heap_units(h) <= h->side.max_units, "more units than the heap can have");
    MUST(h->shared->roster.identity[h->place] == h->identity, "this process is not on the roster");
    heap_enter(h);
    const char *wrong = check_sets(h);
    if (!wrong)
        wrong = check_inside(h);
    heap_leave(h);
    return wrong ? wrong : stead_arena_check(&h->side, unit);
}

static void count(void *context, const stead_shared_block *block)
{
    stead_statistics *out = context;
    stead_class_statistics *s = block->usable <= STEAD_SMALL ? &out->small[class_for(block->usable)] : &out->large;
    s->blocks++;
    s->bytes += block->usable;
    out->blocks++;
    out->used += block->usable;
}

/* Under the heap's lock. */
static void count_capacity(const stead_arena *a, stead_statistics *out)
{
    uint64_t e;
    for (uint32_t head = 0, stop = committed(a); head < stop && is_run(a, head, e = a->ent[head]); head += length_of(e))
        if (kind_of(e) == SPAN) {
            out->small[class_of(e)].spans++;
            out->small[class_of(e)].capacity += blocks_in(e);
        } else if (kind_of(e) == LARGE) {
            out->large.spans++;
            out->large.capacity++;
        }
}

void stead_heap_statistics(stead_heap *h, stead_statistics *out)
{
    stead_arena *a = &h->side;
    *out = (stead_statistics){.size = (uint64_t)a->max_units * STEAD_UNIT};
    stead_arena_purge(a);
    heap_enter(h);
    walk(h, count, out);
    count_capacity(a, out);
    arena_count_runs(a, out);
    heap_leave(h);
}
