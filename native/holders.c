/* holders.c - who holds a block: one word, and a set beside it where there are more than four. */
#include <string.h>

#include "shared.h"

#define ID(w, slot) ((unsigned)((w) >> (10 * (slot)) & 1023))

void word_begin(uint64_t *word, unsigned place)
{
    uint64_t next = GENERATION(__atomic_load_n(word, __ATOMIC_RELAXED)) + UINT64_C(1);
    IN_ORDER();
    __atomic_store_n(word, next << GENERATION_SHIFT | place, __ATOMIC_RELEASE);
    IN_ORDER();
}

static int swap(uint64_t *word, uint64_t *seen, uint64_t next)
{
    return __atomic_compare_exchange_n(word, seen, next, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* The slot of a word without OVERFLOW that has this number, or 4. */
static unsigned slot_of(uint64_t w, unsigned number)
{
    unsigned slot = 0;
    while (slot < 4 && ID(w, slot) != number)
        slot++;
    return slot;
}

/* ---- sets: under the heap's lock ---- */

static uint64_t number_of(const stead_heap *h, const uint64_t *word) { return (uint64_t)(word - (uint64_t *)h->shared) + 1; }

/* The set that a word names; NULL for one that no heap would have written. */
static holder_set *set_of(const stead_heap *h, uint64_t w)
{
    return SET_OF(w) < h->shared->sets_used && SET_OF(w) < HOLDER_SETS ? &h->sets[SET_OF(w)] : NULL;
}

static uint32_t take_set(stead_heap *h)
{
    uint32_t n = h->shared->free_set;
    if (n < HOLDER_SETS) {
        h->shared->free_set = (uint32_t)h->sets[n].places[0];
        return n;
    }
    return h->shared->sets_used < HOLDER_SETS ? h->shared->sets_used++ : NONE;
}

static void give_set(stead_heap *h, uint32_t n)
{
    h->sets[n].word = 0;
    IN_ORDER();
    h->sets[n].places[0] = h->shared->free_set;
    h->shared->free_set = n;
}

static int empty(const holder_set *set)
{
    uint64_t any = 0;
    for (unsigned i = 0; i < PLACES / 64; i++)
        any |= set->places[i];
    return !any;
}

void sets_rebuild(stead_heap *h)
{
    h->shared->free_set = NONE;
    for (uint32_t n = 0; n < h->shared->sets_used && n < HOLDER_SETS; n++) {
        uint64_t number = h->sets[n].word;
        uint64_t w = number && number <= h->control_size / 8 ? word_load((uint64_t *)h->shared + number - 1) : 0;
        int named = w & OVERFLOW && SET_OF(w) == n;
        if (named && empty(&h->sets[n])) /* who was the last of it was killed; its reaper tells the owner of the span */
            __atomic_store_n((uint64_t *)h->shared + number - 1, w & ~(IDS | OVERFLOW), __ATOMIC_SEQ_CST);
        if (!named || empty(&h->sets[n]))
            give_set(h, n);
    }
}

/* ---- adding ---- */

/* A fifth holder: the word is made to name a set, by one compare-and-swap. */
static int overflow(stead_heap *h, uint64_t *word, uint64_t w, unsigned place, uint32_t n)
{
    holder_set *set = &h->sets[n];
    memset(set->places, 0, sizeof set->places);
    for (unsigned slot = 0; slot < 4; slot++)
        set->places[ID(w, slot) / 64] |= UINT64_C(1) << ID(w, slot) % 64;
    set->places[place / 64] |= UINT64_C(1) << place % 64;
    set->word = number_of(h, word);
    IN_ORDER();
    return swap(word, &w, (w & ~IDS) | OVERFLOW | n); /* the commit */
}

int word_add(stead_heap *h, uint64_t *word, unsigned place, int generation)
{
    int got = WORD_DEAD;
    uint32_t spare = NONE;
    for (;;) { /* others remove holders meanwhile */
        uint64_t w = word_load(word);
        if (!(w & PAYLOAD) || (generation >= 0 && GENERATION(w) != (unsigned)generation))
            break;
        if (w & OVERFLOW) {
            holder_set *set = set_of(h, w);
            if (set)
                __atomic_fetch_or(&set->places[place / 64], UINT64_C(1) << place % 64, __ATOMIC_SEQ_CST);
            got = set ? WORD_ADDED : WORD_NO_SET;
            break;
        }
        if (slot_of(w, place) < 4) {
            got = WORD_ADDED;
            break;
        }
        unsigned slot = slot_of(w, 0);
        if (slot == 4 && spare == NONE && (spare = take_set(h)) == NONE) {
            got = WORD_NO_SET;
            break;
        }
        if (slot < 4 ? swap(word, &w, w | (uint64_t)place << (10 * slot)) : overflow(h, word, w, place, spare)) {
            spare = slot < 4 ? spare : NONE;
            got = WORD_ADDED;
            break;
        }
    }
    if (spare != NONE)
        give_set(h, spare);
    return got;
}

/* ---- removing ---- */

/* 1: the payload is zero now; 0: not; -1: it has no set any more. */
static int remove_slowly(stead_heap *h, uint64_t *word, unsigned place)
{
    int got = -1;
    heap_enter(h);
    uint64_t w = word_load(word);
    holder_set *set = w & OVERFLOW ? set_of(h, w) : NULL;
    if (set) {
        __atomic_fetch_and(&set->places[place / 64], ~(UINT64_C(1) << place % 64), __ATOMIC_SEQ_CST);
        got = 0;
        if (empty(set)) { /* perhaps since before: who emptied it was killed */
            __atomic_store_n(word, w & ~(IDS | OVERFLOW), __ATOMIC_SEQ_CST); /* the commit */
            give_set(h, SET_OF(w));
            got = !(w & CUSTODY);
        }
    } else if (w & OVERFLOW) {
        got = 0;
    }
    heap_leave(h);
    return got;
}

int word_remove(stead_heap *h, uint64_t *word, unsigned place)
{
    uint64_t w = word_load(word);
    for (;;) {
        if (w & OVERFLOW) {
            int got = remove_slowly(h, word, place);
            if (got >= 0)
                return got;
            w = word_load(word);
            continue;
        }
        unsigned slot = slot_of(w, place);
        if (slot == 4)
            return 0;
        uint64_t next = w & ~(UINT64_C(1023) << (10 * slot));
        if (swap(word, &w, next))
            return !(next & PAYLOAD);
    }
}

/* ---- asking ---- */

unsigned word_holders(stead_heap *h, const uint64_t *word, uint64_t places[PLACES / 64])
{
    unsigned count = 0;
    memset(places, 0, PLACES / 8);
    uint64_t w = word_load(word);
    if (w & OVERFLOW) {
        heap_enter(h);
        w = word_load(word);
        const holder_set *set = w & OVERFLOW ? set_of(h, w) : NULL;
        if (set)
            memcpy(places, set->places, PLACES / 8);
        heap_leave(h);
    }
    for (unsigned slot = 0; !(w & OVERFLOW) && slot < 4; slot++)
        if (ID(w, slot))
            places[ID(w, slot) / 64] |= UINT64_C(1) << ID(w, slot) % 64;
    for (unsigned i = 0; i < PLACES / 64; i++)
        count += (unsigned)__builtin_popcountll(places[i]);
    return count;
}
