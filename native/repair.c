/* repair.c - what a dead process has left: half done under a lock (rebuild), and held (reap). Both may be cut off at any
 * instruction, and are done again by whoever comes next.
 */
#include "shared.h"

/* ---- rebuild: under the heap's lock ---- */

/* What stands in a unit inside of a run. */
static uint64_t inner_entry(uint64_t e, uint32_t head, uint32_t unit)
{
    if (kind_of(e) == SPAN)
        return span_entry(class_of(e), 0, unit - head, length_of(e));
    return kind_of(e) == FREE && unit - head == length_of(e) - 1 ? entry(FOOT, length_of(e)) : 0;
}

/* Whatever was being done, it has changed entries near the edges that it noted: as far as those of a span. */
static void clean_edges(stead_arena *a, uint32_t head, uint64_t e)
{
    uint32_t stop = head + length_of(e);
    for (unsigned i = 0; i < EDGES; i++) {
        uint32_t edge = a->state->edges[i], from = edge ? edge - 1 : 0, to = edge + SPAN_UNITS;
        if (edge > a->state->units)
            continue;
        for (uint32_t unit = from > head ? from : head + 1; unit < stop && unit < to; unit++)
            if (a->ent[unit] != inner_entry(e, head, unit))
                ent_store(a, unit, inner_entry(e, head, unit));
    }
}

/* FREE, or a large block that nobody holds. */
static int is_free(stead_heap *h, uint32_t head, uint64_t e)
{
    return kind_of(e) == FREE ||
           (kind_of(e) == LARGE && !(word_load(word_of_block(h, head, STEAD_CLASSES, 0)) & PAYLOAD));
}

static uint32_t merge_behind(stead_heap *h, uint32_t head, uint32_t units)
{
    stead_arena *a = &h->side;
    for (uint32_t next = head + units; next < a->state->units && is_free(h, next, a->ent[next]); next = head + units) {
        uint32_t more = length_of(a->ent[next]);
        runs_note(a, head, next, next + more, next);
        ent_store(a, head, entry(FREE, (uint64_t)units + more)); /* the commit */
        ent_store(a, next, 0);
        if (units > 1)
            ent_store(a, next - 1, 0);
        units += more;
    }
    return units;
}

void heap_rebuild(stead_heap *h)
{
    stead_arena *a = &h->side;
    uint64_t e;
    redo_finish(h);
    uint32_t stop = a->state->units;
    for (uint32_t head = 0; head < stop; head += length_of(e)) {
        e = is_unit(a, head) ? a->ent[head] : 0;
        if (!is_run(a, head, e) || length_of(e) > stop - head)
            return; /* damaged, not cut off: check says where */
        clean_edges(a, head, e);
    }
    runs_forget(a);
    for (uint32_t head = 0, units; head < a->state->units; head += units) {
        e = a->ent[head];
        units = length_of(e);
        int kind = is_free(h, head, e) ? FREE : (int)kind_of(e);
        if (kind == FREE) {
            runs_note(a, head, head, head + units, head);
            ent_store(a, head, entry(FREE, units));
            units = merge_behind(h, head, units);
        }
        if (kind == SPAN && !owner_of(e)) /* whoever abandoned it, or gave it back, may not have got so far */
            unit_set_add(abandoned_of(h, class_of(e)), head);
        runs_relist(a, head, units, kind);
    }
    sets_rebuild(h);
}

void stead_heap_rebuild(stead_heap *h)
{
    heap_enter(h);
    heap_rebuild(h);
    heap_leave(h);
}

/* ---- reap: under the reap lock ---- */

static int nobody_uses(const stead_heap *h, uint32_t head, uint64_t e)
{
    for (uint32_t i = 0; i < blocks_in(e); i++)
        if (word_load(word_of_block(h, head, class_of(e), i)) & PAYLOAD)
            return 0;
    return 1;
}

/* A span without a living owner: free, or anybody's. */
static void abandon(stead_heap *h, uint32_t head, unsigned place)
{
    stead_arena *a = &h->side;
    heap_enter(h);
    uint64_t e = a->ent[head];
    if (is_span(a, head, e) && (owner_of(e) == place || !owner_of(e))) {
        if (nobody_uses(h, head, e)) {
            unit_set_drop(abandoned_of(h, class_of(e)), head);
            spans_clear(a, head, length_of(e));
            runs_give(a, head, length_of(e));
        } else {
            ent_store(a, head, span_entry(class_of(e), 0, 0, length_of(e))); /* the commit */
            unit_set_add(abandoned_of(h, class_of(e)), head);
        }
    }
    heap_leave(h);
}

static void reap_out(stead_heap *h, uint32_t head, unsigned place)
{
    heap_enter(h);
    uint64_t e = h->side.ent[head];
    if (kind_of(e) == OUT && is_run(&h->side, head, e) && owner_of(e) == place)
        runs_add(&h->side, head, length_of(e), (zero_part){head, head});
    heap_leave(h);
}

static void reap_unit(stead_heap *h, uint32_t head, unsigned place)
{
    uint64_t e = ent_load(&h->side, head);
    if (is_span(&h->side, head, e)) {
        int free = 0;
        for (uint32_t i = 0; i < blocks_in(e); i++) {
            uint64_t *word = word_of_block(h, head, class_of(e), i);
            (void)word_remove(h, word, place);
            free |= !(word_load(word) & PAYLOAD);
        }
        if (owner_of(e) == place || !owner_of(e))
            abandon(h, head, place);
        else if (free)
            heap_dropped(h, head); /* the dead may have made it so, and told nobody */
    } else if (kind_of(e) == LARGE) {
        uint64_t *word = word_of_block(h, head, STEAD_CLASSES, 0);
        (void)word_remove(h, word, place);
        if (!(word_load(word) & PAYLOAD))
            heap_free_large(h, head);
    } else if (kind_of(e) == OUT) {
        reap_out(h, head, place);
    }
}

void heap_reap_place(stead_heap *h, unsigned place)
{
    heap_enter(h); /* from here on nothing is half done */
    heap_leave(h);
    unit_set ever = ever_of(h, place), dropped = dropped_of(h, place);
    for (uint32_t unit = unit_set_next(ever, 0, 0); unit != NO_UNIT; unit = unit_set_next(ever, unit + 1, 0)) {
        reap_unit(h, unit, place);
        unit_set_drop(ever, unit);
    }
    (void)unit_set_next(ever, 0, 1); /* and nothing left of its summary */
    for (uint32_t unit = unit_set_next(dropped, 0, 1); unit != NO_UNIT; unit = unit_set_next(dropped, unit + 1, 1))
        unit_set_drop(dropped, unit);
    objects_forget(h, place);
}

void heap_reap_own(stead_heap *h)
{
    (void)robust_acquire(&h->shared->roster, h->place, &h->shared->reap_lock, -1);
    heap_reap_place(h, h->place);
    robust_release(&h->shared->reap_lock);
}

unsigned stead_heap_reap(stead_heap *h)
{
    heap_shared *shared = h->shared;
    unsigned count = 0;
    (void)robust_acquire(&shared->roster, h->place, &shared->reap_lock, -1); /* whatever was done is done again */
    for (unsigned place = 1; place <= shared->roster.highest && place < PLACES; place++) {
        uint64_t identity = __atomic_load_n(&shared->roster.identity[place], __ATOMIC_ACQUIRE);
        if (!identity || place == h->place || roster_alive(identity))
            continue;
        heap_reap_place(h, place);
        roster_leave(&shared->roster, place, identity);
        count++;
    }
    robust_release(&shared->reap_lock);
    return count;
}

void stead_heap_reclaim(stead_heap *h)
{
    heap_collect(h);
    stead_arena_purge(&h->side);
    for (unsigned c = 0; c < STEAD_CLASSES; c++) {
        unit_set left = abandoned_of(h, c);
        for (uint32_t unit = unit_set_next(left, 0, 0); unit != NO_UNIT; unit = unit_set_next(left, unit + 1, 0))
            abandon(h, unit, 0);
    }
}

/* No other call may be going on in this process: its lists of free blocks are forgotten. */
void stead_heap_detach(stead_heap *h)
{
    stead_roster *roster = &h->shared->roster;
    stead_arena_purge(&h->side);
    heap_reap_own(h);
    roster_leave(roster, h->place, __atomic_load_n(&roster->identity[h->place], __ATOMIC_RELAXED)); /* no lock names it */
    h->place = h->side.place = 0;
}
