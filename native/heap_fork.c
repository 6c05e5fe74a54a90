/* heap_fork.c - a forked child is a process of its own: it gets a place on the roster, and holds all that its parent held.
 *
 * Both before it exists, since afterwards the parent may give up what the child still sees. The place names the parent
 * until the child has put itself there; a place that was promised to a child that never came (fork failed, or it was
 * killed at once) is taken back after a while.
 */
#include "shared.h"

#include <string.h>

#define PROMISED_FOR INT64_C(10000000000) /* ns; a child needs microseconds, unless it is stopped */

static uint64_t *identity_of(const stead_heap *h, unsigned place) { return &h->shared->roster.identity[place]; }

static void lock_all(stead_heap *h)
{
    for (unsigned i = 0; i < STRIPES; i++)
        stead_acquire(&h->stripes[i]);
    for (unsigned l = 0; l < LANES; l++)
        stead_acquire(&h->side.lanes[l].lock);
}

/* Under the reap lock. */
static void take_back_promises(stead_heap *h)
{
    unsigned left = 0;
    for (unsigned i = 0; i < h->promises; i++) {
        promise p = h->promised[i];
        uint64_t mine = h->identity;
        if (__atomic_load_n(identity_of(h, p.place), __ATOMIC_SEQ_CST) != mine)
            continue; /* the child has it */
        if (stead_now() - p.since < PROMISED_FOR) {
            h->promised[left++] = p;
        } else if (__atomic_compare_exchange_n(identity_of(h, p.place), &mine, UINT64_MAX, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
            heap_reap_place(h, p.place); /* nobody is UINT64_MAX: whoever comes next goes on with it */
            roster_leave(&h->shared->roster, p.place, UINT64_MAX);
        }
    }
    h->promises = left;
}

/* What this process holds in a run is held by the child, too. FULL: too many blocks have many holders. */
static int share_run(stead_heap *h, uint32_t head, unsigned child)
{
    uint64_t e = h->side.ent[head];
    unsigned c = kind_of(e) == SPAN ? class_of(e) : STEAD_CLASSES;
    uint32_t count = kind_of(e) == SPAN ? blocks_in(e) : 1;
    if ((kind_of(e) != SPAN || back_of(e)) && kind_of(e) != LARGE)
        return STEAD_DONE;
    for (uint32_t i = 0; i < count; i++) {
        if (!__atomic_load_n(held_of_block(h, head, c, i), __ATOMIC_RELAXED))
            continue;
        unit_set_add(ever_of(h, child), head);
        if (word_add(h, word_of_block(h, head, c, i), child, -1) == WORD_NO_SET)
            return STEAD_FULL;
    }
    return STEAD_DONE;
}

static void disown_child(stead_heap *h)
{
    heap_reap_place(h, h->child);
    roster_leave(&h->shared->roster, h->child, h->identity);
    h->child = 0;
}

int stead_heap_before_fork(stead_heap *h)
{
    int got = STEAD_DONE;
    (void)robust_acquire(&h->shared->roster, h->place, &h->shared->reap_lock, -1);
    take_back_promises(h);
    h->child = h->promises < PROMISES ? roster_join(&h->shared->roster, h->identity) : 0;
    lock_all(h);
    if (h->child) {
        unit_set mine = ever_of(h, h->place);
        for (uint32_t head = unit_set_next(mine, 0, 0); head != NO_UNIT && !got; head = unit_set_next(mine, head + 1, 0)) {
            heap_enter(h);
            if (head < stead_heap_units(h))
                got = share_run(h, head, h->child);
            heap_leave(h);
        }
        if (got)
            disown_child(h);
    }
    if (h->child)
        h->promised[h->promises++] = (promise){h->child, stead_now()};
    robust_release(&h->shared->reap_lock);
    return h->child ? STEAD_DONE : STEAD_FULL;
}

void stead_heap_after_fork_in_parent(stead_heap *h)
{
    for (unsigned l = LANES; l--;)
        stead_unlock(&h->side.lanes[l].lock);
    for (unsigned i = STRIPES; i--;)
        stead_unlock(&h->stripes[i]);
}

int stead_heap_after_fork_in_child(stead_heap *h)
{
    uint64_t parent = h->identity, myself = roster_myself();
    memset(h->stripes, 0, sizeof h->stripes);
    memset(h->side.lanes, 0, sizeof h->side.lanes); /* the spans are the parent's */
    arena_begin(&h->side, h->side.base, h->side.max_units);
    h->filled_count = h->promises = 0;
    unsigned place = h->child;
    h->child = 0;
    h->place = h->side.place = 0;
    if (!place || !myself ||
        !__atomic_compare_exchange_n(identity_of(h, place), &parent, myself, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        return STEAD_DISOWNED;
    h->identity = myself;
    h->place = h->side.place = place;
    return STEAD_DONE;
}
