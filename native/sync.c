/* sync.c - locks, conditions, semaphores and barriers for processes of which any may be killed while it has them. */
#include "shared.h"

/* ---- locks ---- */

int stead_lock_acquire(stead_heap *h, uint32_t index, int64_t patience)
{
    heap_object *o = object_of(h, index, STEAD_LOCK);
    return o ? object_lock(h, o, deadline_after(patience)) : STEAD_NOT_LIVE;
}

unsigned stead_lock_owner(stead_heap *h, uint32_t index)
{
    heap_object *o = object_of(h, index, STEAD_LOCK);
    return o ? robust_owner(&o->lock) : 0;
}

int stead_lock_orphaned(stead_heap *h, uint32_t index)
{
    heap_object *o = object_of(h, index, STEAD_LOCK);
    return o && robust_orphaned(&h->shared->roster, &o->lock);
}

int stead_lock_release(stead_heap *h, uint32_t index)
{
    heap_object *o = object_of(h, index, STEAD_LOCK);
    if (!o)
        return STEAD_NOT_LIVE;
    if (!robust_mine(&h->shared->roster, h->place, &o->lock))
        return STEAD_NOT_OWNER;
    object_unlock(o);
    return STEAD_DONE;
}

/* ---- conditions: a number that goes up at each notification, and in `a` how many may go on because of one. Who began
 * to wait after it (his ticket is its number) may not. Of each process how many wait: a notification for nobody is lost,
 * as it should be. ---- */

/* Also read by who does not have the lock. */
static uint16_t count_of(const uint16_t *counts, unsigned place) { return __atomic_load_n(&counts[place], __ATOMIC_RELAXED); }

static uint32_t all_counts(const stead_heap *h, const heap_object *o)
{
    const uint16_t *counts = object_counts(h, o);
    uint32_t sum = 0;
    for (unsigned place = 1; place <= h->shared->roster.highest && place < PLACES; place++)
        sum += count_of(counts, place);
    return sum;
}

static void count_mine(stead_heap *h, const heap_object *o, int by)
{
    uint16_t *mine = object_counts(h, o) + h->place;
    __atomic_store_n(mine, (uint16_t)(*mine + by), __ATOMIC_SEQ_CST);
}

int stead_condition_enter(stead_heap *h, uint32_t index, uint32_t *ticket)
{
    heap_object *o = object_of(h, index, STEAD_CONDITION);
    if (!o)
        return STEAD_NOT_LIVE;
    (void)object_lock(h, o, INT64_MAX);
    int full = object_counts(h, o)[h->place] == UINT16_MAX;
    if (!full)
        count_mine(h, o, 1);
    *ticket = __atomic_load_n(&o->arrivals.sequence, __ATOMIC_SEQ_CST);
    object_unlock(o);
    return full ? STEAD_FULL : STEAD_DONE;
}

/* Whether this waiter may go on; otherwise he goes on waiting, or (the last time) not. */
static int go_on(stead_heap *h, heap_object *o, uint32_t ticket, int last)
{
    (void)object_lock(h, o, INT64_MAX);
    int may = __atomic_load_n(&o->arrivals.sequence, __ATOMIC_SEQ_CST) != ticket && o->a;
    if (may)
        __atomic_store_n(&o->a, o->a - 1, __ATOMIC_SEQ_CST);
    if (may || last)
        count_mine(h, o, -1);
    object_unlock(o);
    return may;
}

int stead_condition_wait(stead_heap *h, uint32_t index, uint32_t ticket, int64_t patience)
{
    heap_object *o = object_of(h, index, STEAD_CONDITION);
    if (!o)
        return STEAD_NOT_LIVE;
    for (int64_t deadline = deadline_after(patience);;) {
        uint32_t seen = room_enter(&o->arrivals);
        if (seen != ticket && go_on(h, o, ticket, 0))
            return STEAD_DONE;
        if (room_sleep(&o->arrivals, seen, deadline))
            return STEAD_TIMEOUT;
    }
}

int stead_condition_leave(stead_heap *h, uint32_t index, uint32_t ticket)
{
    heap_object *o = object_of(h, index, STEAD_CONDITION);
    return !o ? STEAD_NOT_LIVE : go_on(h, o, ticket, 1) ? STEAD_DONE : STEAD_TIMEOUT;
}

/* All wake up, and as many as may go on: who was killed in between has not taken the place of one who lives. */
int stead_condition_notify(stead_heap *h, uint32_t index, int32_t count)
{
    heap_object *o = object_of(h, index, STEAD_CONDITION);
    if (!o)
        return STEAD_NOT_LIVE;
    (void)object_lock(h, o, INT64_MAX);
    uint32_t there = all_counts(h, o), more = count < 0 || (uint32_t)count > there ? there : (uint32_t)count;
    uint32_t may = o->a + more > there ? there : o->a + more;
    __atomic_store_n(&o->a, may, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&o->arrivals.sequence, 1, __ATOMIC_SEQ_CST);
    object_unlock(o);
    room_ring(&o->arrivals);
    return STEAD_DONE;
}

/* ---- semaphores: `a` permits, less what each process has. What one has is the only thing that an acquisition changes,
 * by one store, so there is nothing to repair. From so many on as can be counted they are used up instead, and do not
 * come back by themselves. `b`: of a bounded one, the most that there may be. ---- */

static int64_t permits_left(const stead_heap *h, const heap_object *o)
{
    return (int64_t)__atomic_load_n(&o->a, __ATOMIC_SEQ_CST) - all_counts(h, o);
}

/* Give back what the dead have, if there are any. */
static void look_for_dead(stead_heap *h, const heap_object *o)
{
    const uint16_t *counts = object_counts(h, o);
    for (unsigned place = 1; place <= h->shared->roster.highest && place < PLACES; place++) {
        uint64_t identity = __atomic_load_n(&h->shared->roster.identity[place], __ATOMIC_ACQUIRE);
        if (count_of(counts, place) && identity && !roster_alive(identity)) {
            stead_heap_reap(h);
            return;
        }
    }
}

static int take_permit(stead_heap *h, heap_object *o)
{
    if (object_enter(h, o) == STEAD_TIMEOUT)
        return 0;
    int taken = permits_left(h, o) > 0;
    if (taken && object_counts(h, o)[h->place] < UINT16_MAX)
        count_mine(h, o, 1); /* the commit */
    else if (taken)
        __atomic_store_n(&o->a, o->a - 1, __ATOMIC_SEQ_CST); /* the commit */
    object_unlock(o);
    return taken;
}

int stead_semaphore_acquire(stead_heap *h, uint32_t index, int64_t patience)
{
    heap_object *o = object_of(h, index, STEAD_SEMAPHORE);
    if (!o)
        return STEAD_NOT_LIVE;
    int64_t deadline = deadline_after(patience);
    while (!take_permit(h, o)) {
        uint32_t ticket = room_enter(&o->arrivals);
        look_for_dead(h, o);
        if (take_permit(h, o))
            break;
        if (room_sleep(&o->arrivals, ticket, deadline))
            return STEAD_TIMEOUT;
    }
    return STEAD_DONE;
}

/* What this process does not have is added: a permit may be made by one and taken by another. */
int stead_semaphore_release(stead_heap *h, uint32_t index, uint32_t count)
{
    heap_object *o = object_of(h, index, STEAD_SEMAPHORE);
    if (!o)
        return STEAD_NOT_LIVE;
    (void)object_lock(h, o, INT64_MAX);
    uint16_t *mine = object_counts(h, o) + h->place;
    uint32_t back = count < *mine ? count : *mine, more = count - back;
    int full = o->a > INT32_MAX - more || (o->b && permits_left(h, o) + count > o->b);
    if (!full) {
        __atomic_store_n(mine, (uint16_t)(*mine - back), __ATOMIC_SEQ_CST);
        __atomic_store_n(&o->a, o->a + more, __ATOMIC_SEQ_CST);
    }
    object_unlock(o);
    if (!full)
        room_ring(&o->arrivals);
    return full ? STEAD_FULL : STEAD_DONE;
}

int64_t stead_semaphore_value(stead_heap *h, uint32_t index)
{
    heap_object *o = object_of(h, index, STEAD_SEMAPHORE);
    int64_t left = o ? permits_left(h, o) : STEAD_NOT_LIVE;
    return o && left < 0 ? 0 : left;
}

/* ---- barriers: the phase in `head`; of each process how many wait (8-15) in which phase (0-7). `tail`: the phases that
 * were completed, which goes up first: then those who wait go on, whatever happens to who was the last. ---- */

enum { BY_HAND = 1, BY_DEATH = 2 };

static unsigned waiting_in(uint16_t count, uint64_t phase)
{
    return (uint8_t)count == (uint8_t)phase ? count >> 8 : 0;
}

static uint32_t waiting(const stead_heap *h, const heap_object *o)
{
    const uint16_t *counts = object_counts(h, o);
    uint64_t head = __atomic_load_n(&o->head, __ATOMIC_SEQ_CST);
    uint32_t sum = 0;
    for (unsigned place = 1; place <= h->shared->roster.highest && place < PLACES; place++)
        sum += waiting_in(count_of(counts, place), head);
    return sum;
}

/* Under its lock. */
static void next_phase(stead_heap *h, heap_object *o, int completed)
{
    uint16_t *counts = object_counts(h, o);
    for (unsigned place = 1; place <= h->shared->roster.highest && place < PLACES; place++)
        if (waiting_in(count_of(counts, place), o->head + 1))
            __atomic_store_n(&counts[place], 0, __ATOMIC_SEQ_CST); /* of 256 phases ago */
    if (completed)
        __atomic_store_n(&o->tail, o->head + 1, __ATOMIC_SEQ_CST);
    __atomic_store_n(&o->head, o->head + 1, __ATOMIC_SEQ_CST);
}

static void lock_barrier(stead_heap *h, heap_object *o)
{
    if (object_lock(h, o, INT64_MAX) == STEAD_OWNER_DIED && o->tail > o->head)
        next_phase(h, o, 0); /* the last one was killed when all were there */
}

void barrier_lost(stead_heap *h, heap_object *o, uint16_t count)
{
    lock_barrier(h, o);
    if (waiting_in(count, o->head) && !o->broken)
        __atomic_store_n(&o->broken, BY_DEATH, __ATOMIC_SEQ_CST);
    object_unlock(o);
}

int stead_barrier_enter(stead_heap *h, uint32_t index, uint64_t *phase, uint32_t *arrival)
{
    heap_object *o = object_of(h, index, STEAD_BARRIER);
    if (!o)
        return STEAD_NOT_LIVE;
    if (waiting(h, o) + 1 >= o->a)
        look_for_dead(h, o); /* all are there: but one who was killed does not go on */
    lock_barrier(h, o);
    uint16_t *mine = object_counts(h, o) + h->place;
    unsigned of_mine = waiting_in(*mine, o->head);
    int got = o->broken ? STEAD_BARRIER_BROKEN : of_mine == 255 ? STEAD_FULL : STEAD_DONE;
    *phase = o->head;
    if (!got) {
        *arrival = waiting(h, o);
        int last = *arrival + 1 >= o->a;
        if (o->b && *arrival >= o->a) {
            got = STEAD_NO_SPACE;
        } else if (last && !o->b) {
            next_phase(h, o, 1);
        } else {
            /* With an action, the last one counts as waiting, too: if he is killed in it, the others will know. */
            __atomic_store_n(mine, (uint16_t)((of_mine + 1) << 8 | (uint8_t)o->head), __ATOMIC_SEQ_CST);
            got = last ? STEAD_DONE : 1 + (int)*arrival;
        }
    }
    object_unlock(o);
    if (!got)
        room_ring(&o->arrivals);
    return got;
}

/* Whether the phase is over, and how. */
static int outcome(const heap_object *o, uint64_t phase)
{
    uint32_t broken = __atomic_load_n(&o->broken, __ATOMIC_SEQ_CST);
    /* In this order: who completes a phase moves the tail first. */
    uint64_t head = __atomic_load_n(&o->head, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&o->tail, __ATOMIC_SEQ_CST) > phase)
        return STEAD_DONE;
    if (head > phase)
        return STEAD_BARRIER_BROKEN; /* it was reset */
    return broken == BY_DEATH ? STEAD_OWNER_DIED : broken ? STEAD_BARRIER_BROKEN : STEAD_TIMEOUT;
}

int stead_barrier_wait(stead_heap *h, uint32_t index, uint64_t phase, int64_t patience)
{
    heap_object *o = object_of(h, index, STEAD_BARRIER);
    if (!o)
        return STEAD_NOT_LIVE;
    for (int64_t deadline = deadline_after(patience);;) {
        uint32_t ticket = room_enter(&o->arrivals);
        int got = outcome(o, phase);
        if (got != STEAD_TIMEOUT)
            return got;
        if (room_sleep(&o->arrivals, ticket, deadline))
            return STEAD_TIMEOUT;
        look_for_dead(h, o);
    }
}

int stead_barrier_complete(stead_heap *h, uint32_t index, uint64_t phase)
{
    heap_object *o = object_of(h, index, STEAD_BARRIER);
    if (!o)
        return STEAD_NOT_LIVE;
    lock_barrier(h, o);
    int got = outcome(o, phase);
    if (got == STEAD_TIMEOUT) {
        next_phase(h, o, 1);
        got = STEAD_DONE;
    }
    object_unlock(o);
    room_ring(&o->arrivals);
    return got;
}

int stead_barrier_break(stead_heap *h, uint32_t index, uint64_t phase)
{
    heap_object *o = object_of(h, index, STEAD_BARRIER);
    if (!o)
        return STEAD_NOT_LIVE;
    lock_barrier(h, o);
    int got = phase == UINT64_MAX ? STEAD_TIMEOUT : outcome(o, phase);
    if (got == STEAD_TIMEOUT && !o->broken)
        __atomic_store_n(&o->broken, BY_HAND, __ATOMIC_SEQ_CST);
    object_unlock(o);
    room_ring(&o->arrivals);
    return got;
}

int stead_barrier_reset(stead_heap *h, uint32_t index)
{
    heap_object *o = object_of(h, index, STEAD_BARRIER);
    if (!o)
        return STEAD_NOT_LIVE;
    lock_barrier(h, o);
    if (o->broken || waiting(h, o))
        next_phase(h, o, 0);
    __atomic_store_n(&o->broken, 0, __ATOMIC_SEQ_CST);
    object_unlock(o);
    room_ring(&o->arrivals);
    return STEAD_DONE;
}

int stead_barrier_state(stead_heap *h, uint32_t index, uint32_t *parties, uint32_t *inside, int *broken)
{
    heap_object *o = object_of(h, index, STEAD_BARRIER);
    if (!o)
        return STEAD_NOT_LIVE;
    *parties = o->a;
    *broken = (int)__atomic_load_n(&o->broken, __ATOMIC_SEQ_CST);
    *inside = *broken ? 0 : waiting(h, o);
    return STEAD_DONE;
}
