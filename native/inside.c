/* inside.c - references from inside the heap: several words that change at once, and blocks on their way. */
#include "shared.h"

/* ---- redo: absolute values, written down before any of them is put where it belongs, so that doing it again does no
 * harm. Other bits of the same words may change meanwhile. ---- */

static uint64_t number_of(const stead_heap *h, const uint64_t *word) { return (uint64_t)(word - (uint64_t *)h->shared); }

void redo_add(stead_heap *h, uint64_t *word, uint64_t mask, uint64_t value)
{
    h->filled[h->filled_count++] = (redo_entry){number_of(h, word), mask, value};
}

static void apply(stead_heap *h, const redo_entry *r)
{
    if (r->number >= h->control_size / 8)
        return; /* no heap has written that */
    uint64_t *word = (uint64_t *)h->shared + r->number, w = __atomic_load_n(word, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(word, &w, (w & ~r->mask) | r->value, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
    }
}

void redo_finish(stead_heap *h)
{
    heap_shared *shared = h->shared;
    for (uint64_t i = 0; i < shared->redo_count && i < REDO; i++)
        apply(h, &shared->redo[i]);
    IN_ORDER();
    __atomic_store_n(&shared->redo_count, 0, __ATOMIC_RELEASE);
}

void redo_commit(stead_heap *h)
{
    heap_shared *shared = h->shared;
    for (unsigned i = 0; i < h->filled_count; i++)
        shared->redo[i] = h->filled[i];
    IN_ORDER();
    __atomic_store_n(&shared->redo_count, h->filled_count, __ATOMIC_RELEASE); /* the commit */
    IN_ORDER();
    h->filled_count = 0;
    redo_finish(h);
}

/* ---- custody ---- */

int custody_add(stead_heap *h, uint64_t *word, int more)
{
    unsigned there = CUSTODY_OF(word_load(word));
    if (more > 0 ? there >= MOST_CUSTODY : !there)
        return 0;
    redo_add(h, word, CUSTODY, (uint64_t)(there + (unsigned)more) << CUSTODY_SHIFT);
    return 1;
}

void custody_dropped(stead_heap *h, uint32_t head, const uint64_t *word)
{
    if (!(word_load(word) & PAYLOAD))
        heap_freed(h, head);
}

/* The head of the run that a word belongs to, or NO_UNIT. */
static uint32_t head_of_word(const stead_heap *h, const uint64_t *word)
{
    uint64_t width = 16, unit = h->side.max_units;
    for (int i = 0; i < 2; i++, width = 256)
        if (word >= h->words[i] && word < h->words[i] + h->side.max_units * width)
            unit = (uint64_t)(word - h->words[i]) / width;
    return unit < stead_heap_units(h) ? (uint32_t)unit : NO_UNIT;
}

/* ---- transits: a table that is searched from where the word's number leads to ---- */

#define WINDOW 128u

static transit *transit_at(const stead_heap *h, uint64_t number, unsigned i)
{
    uint64_t first = number * UINT64_C(0x9e3779b97f4a7c15) >> 48; /* a multiple of the golden ratio: Knuth 6.4 */
    return &h->transits[(first + i) % TRANSITS];
}

static unsigned generation_in(const transit *t) { return (unsigned)(t->stamp >> 32); }
static uint64_t often(const transit *t) { return t->stamp & 0xffffffff; }

/* Under the heap's lock. */
static void end_transit(stead_heap *h, transit *t)
{
    uint64_t *word = (uint64_t *)h->shared + (t->word - 1);
    uint32_t head = t->word <= h->control_size / 8 ? head_of_word(h, word) : NO_UNIT;
    if (head != NO_UNIT) {
        /* Whoever is killed after the commit has left word that somebody should look there. */
        unit_set_add(ever_of(h, h->place), head);
        (void)custody_add(h, word, -1);
    }
    redo_add(h, &t->word, ~UINT64_C(0), 0);
    redo_commit(h);
    unit_set_drop(transit_numbers(h), (uint32_t)(t - h->transits));
    if (head != NO_UNIT)
        custody_dropped(h, head, word);
}

/* Under the heap's lock: the one of this word; if there is none, `free` is where one may be. */
static transit *find_transit(stead_heap *h, uint64_t number, transit **free)
{
    int64_t now = stead_now();
    transit *old = NULL;
    for (unsigned i = 0; i < WINDOW; i++) {
        transit *t = transit_at(h, number, i);
        if (t->word == number + 1)
            return t;
        if (!t->word && free && !*free)
            *free = t;
        if (t->word && (int64_t)t->deadline < now && !old)
            old = t;
    }
    if (free && !*free && old) {
        end_transit(h, old);
        *free = old;
    }
    return NULL;
}

static int send_off(stead_heap *h, uint64_t *word)
{
    uint64_t number = number_of(h, word), deadline = (uint64_t)stead_now() + h->shared->patience;
    transit *free = NULL, *t = find_transit(h, number, &free);
    if (t) {
        if (often(t) == 0xffffffff)
            return STEAD_FULL;
        redo_add(h, &t->stamp, ~UINT64_C(0), t->stamp + 1);
        redo_add(h, &t->deadline, ~UINT64_C(0), deadline);
    } else {
        if (!free || !custody_add(h, word, 1))
            return STEAD_FULL;
        unit_set_add(transit_numbers(h), (uint32_t)(free - h->transits));
        redo_add(h, &free->stamp, ~UINT64_C(0), (uint64_t)GENERATION(word_load(word)) << 32 | 1);
        redo_add(h, &free->deadline, ~UINT64_C(0), deadline);
        redo_add(h, &free->word, ~UINT64_C(0), number + 1);
    }
    redo_commit(h);
    return STEAD_DONE;
}

int stead_heap_send_off(stead_heap *h, uint64_t address)
{
    heap_spot s;
    int got = heap_hold(h, address, &s);
    if (got)
        return got;
    heap_enter(h);
    got = send_off(h, word_of_block(h, s.head, s.c, s.i));
    heap_leave(h);
    heap_let(h, &s);
    return got;
}

int stead_heap_arrive(stead_heap *h, uint64_t address, int generation, stead_shared_block *block)
{
    int got = stead_heap_lease(h, address, generation, block);
    heap_spot s;
    if (got || heap_hold(h, address, &s))
        return got;
    uint64_t *word = word_of_block(h, s.head, s.c, s.i);
    heap_enter(h);
    transit *t = find_transit(h, number_of(h, word), NULL);
    if (t && generation_in(t) == block->generation) {
        if (often(t) > 1) {
            redo_add(h, &t->stamp, ~UINT64_C(0), t->stamp - 1);
            redo_commit(h);
        } else {
            end_transit(h, t);
        }
    }
    heap_leave(h);
    heap_let(h, &s);
    return STEAD_DONE;
}

unsigned stead_heap_references(stead_heap *h, uint64_t address)
{
    heap_spot s;
    return heap_locate(h, address, &s) ? 0 : CUSTODY_OF(word_load(word_of_block(h, s.head, s.c, s.i)));
}

unsigned stead_heap_expire(stead_heap *h, int all)
{
    unit_set used = transit_numbers(h);
    unsigned count = 0;
    for (uint32_t i = unit_set_next(used, 0, 0); i < TRANSITS; i = unit_set_next(used, i + 1, 0)) {
        transit *t = &h->transits[i];
        heap_enter(h);
        if (!t->word) {
            unit_set_drop(used, i); /* who began it was killed */
        } else if (all || (int64_t)t->deadline < stead_now()) {
            end_transit(h, t);
            count++;
        }
        heap_leave(h);
    }
    return count;
}
