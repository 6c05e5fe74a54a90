/* channel.c - a queue of messages from many to many. Its cells are in a block; what a process may be killed in the middle
 * of is in the table of objects: a message is there when `tail` says so, and gone when `head` does.
 *
 * A message with a block is one of the block's references, and changes hands together with them (redo). Who receives it
 * holds it first: killed in between, he gives it back, and the message is still there.
 */
#include "shared.h"

#include <sched.h>
#include <string.h>

typedef struct {
    uint64_t address; /* 0: no block */
    uint32_t length;
    uint16_t generation;
    uint8_t kind, unused;
    unsigned char bytes[];
} cell;

static uint64_t cell_size(uint32_t bytes) { return sizeof(cell) + (((uint64_t)bytes + 7) & ~UINT64_C(7)); }

uint64_t stead_channel_size(uint32_t cells, uint32_t bytes) { return cells * cell_size(bytes); }

static cell *cell_at(const heap_object *o, uint64_t number)
{
    return (cell *)(uintptr_t)(o->address + number % o->a * cell_size(o->b));
}

static uint64_t head_of(const heap_object *o) { return __atomic_load_n(&o->head, __ATOMIC_SEQ_CST); }
static uint64_t tail_of(const heap_object *o) { return __atomic_load_n(&o->tail, __ATOMIC_SEQ_CST); }

/* What is in the table is believed only where it can be. */
static heap_object *channel_of(stead_heap *h, uint32_t index)
{
    heap_object *o = object_of(h, index, STEAD_CHANNEL);
    return o && channel_fits(h, o) ? o : NULL;
}

int channel_fits(const stead_heap *h, const heap_object *o)
{
    uint64_t size = (uint64_t)stead_heap_units(h) * STEAD_UNIT;
    return o->a && o->address >= h->side.base && o->address - h->side.base < size &&
           stead_channel_size(o->a, o->b) <= size - (o->address - h->side.base);
}

/* How many there were at one moment: others send and receive meanwhile, and both numbers only go up. */
uint64_t channel_length(const heap_object *o)
{
    uint64_t head, tail;
    do {
        head = head_of(o);
        tail = tail_of(o);
    } while (head_of(o) != head);
    return tail - head;
}

/* ---- looking again and again, and sleeping ---- */

static int has_room(const heap_object *o)
{
    return channel_length(o) < o->a || __atomic_load_n(&o->broken, __ATOMIC_ACQUIRE);
}

static int has_message(const heap_object *o)
{
    return tail_of(o) != head_of(o) || __atomic_load_n(&o->broken, __ATOMIC_ACQUIRE);
}

/* Whether something is to be had now: DONE, or TIMEOUT. */
static int await(heap_object *o, int (*ready)(const heap_object *), waiting_room *room, int64_t deadline, int64_t *spin)
{
    if (ready(o))
        return STEAD_DONE;
    if (!deadline)
        return STEAD_TIMEOUT;
    if (*spin > 0) {
        int64_t begun = stead_now(), until = *spin < deadline - begun ? begun + *spin : deadline;
        *spin = 0; /* once */
        for (unsigned i = 1; i % 64 || stead_now() < until; i++) {
            /* Whoever is waited for may be waiting for this very processor: the scheduler leaves them there. */
            if (!(i % 256))
                sched_yield();
#if defined(__x86_64__) || defined(__i386__)
            __builtin_ia32_pause();
#endif
            if (ready(o))
                return STEAD_DONE;
        }
    }
    for (;;) {
        uint32_t ticket = room_enter(room);
        if (ready(o))
            return STEAD_DONE;
        if (room_sleep(room, ticket, deadline))
            return STEAD_TIMEOUT;
    }
}

/* ---- sending ---- */

/* Under the channel's lock, where there is room. */
static int put(stead_heap *h, heap_object *o, const stead_message *m, const void *bytes)
{
    uint64_t tail = o->tail;
    cell *c = cell_at(o, tail);
    heap_spot s;
    if (m->address) {
        int got = heap_hold(h, m->address, &s);
        if (got)
            return got;
        c->generation = (uint16_t)GENERATION(word_load(word_of_block(h, s.head, s.c, s.i)));
    }
    c->address = m->address;
    c->length = m->length;
    c->kind = m->kind;
    memcpy(c->bytes, bytes, m->length);
    IN_ORDER();
    if (!m->address) {
        __atomic_store_n(&o->tail, tail + 1, __ATOMIC_RELEASE); /* the commit */
        return STEAD_DONE;
    }
    heap_enter(h);
    int fits = custody_add(h, word_of_block(h, s.head, s.c, s.i), 1);
    if (fits) {
        redo_add(h, &o->tail, ~UINT64_C(0), tail + 1);
        redo_commit(h);
    }
    heap_leave(h);
    heap_let(h, &s);
    return fits ? STEAD_DONE : STEAD_FULL;
}

int stead_channel_send(stead_heap *h, uint32_t index, const stead_message *m, const void *bytes, int64_t patience, int64_t spin)
{
    heap_object *o = channel_of(h, index);
    if (!o)
        return STEAD_NOT_LIVE;
    if (m->length > o->b)
        return STEAD_TOO_LONG;
    for (int64_t deadline = deadline_after(patience);;) {
        if (await(o, has_room, &o->departures, deadline, &spin) || object_enter(h, o) == STEAD_TIMEOUT)
            return STEAD_TIMEOUT;
        int got = o->broken ? STEAD_CLOSED : has_room(o) ? put(h, o, m, bytes) : STEAD_TIMEOUT;
        object_unlock(o);
        if (got == STEAD_DONE)
            room_ring(&o->arrivals);
        if (got != STEAD_TIMEOUT)
            return got;
    }
}

/* ---- receiving ---- */

/* Under the heap's lock: the message at the head is gone, with its reference to a block. */
static void drop(stead_heap *h, heap_object *o, const cell *c)
{
    heap_spot s;
    uint64_t *word = NULL;
    if (c->address && !heap_locate_locked(h, c->address, &s)) {
        word = word_of_block(h, s.head, s.c, s.i);
        if (GENERATION(word_load(word)) == c->generation) {
            unit_set_add(ever_of(h, h->place), s.head); /* killed after the commit, somebody looks there */
            (void)custody_add(h, word, -1);
        } else {
            word = NULL;
        }
    }
    redo_add(h, &o->head, ~UINT64_C(0), o->head + 1);
    redo_commit(h);
    if (word)
        custody_dropped(h, s.head, word);
}

void channel_drain(stead_heap *h, heap_object *o)
{
    while (channel_fits(h, o) && channel_length(o) - 1 < o->a)
        drop(h, o, cell_at(o, o->head));
}

const char *channel_check(stead_heap *h, const heap_object *o, uint64_t number, uint64_t *references)
{
    const volatile cell *c = cell_at(o, number);
    uint64_t address = c->address;
    unsigned generation = c->generation;
    if (head_of(o) > number)
        return NULL; /* received meanwhile, which one with a block cannot be, and perhaps written over */
    *references += address != 0;
    return address ? heap_check_reference(h, address, generation) : NULL;
}

/* Under the channel's lock, where there is a message. */
static int get(stead_heap *h, heap_object *o, stead_message *m, void *bytes)
{
    const cell *c = cell_at(o, o->head);
    stead_shared_block block = {0};
    *m = (stead_message){.address = c->address, .length = c->length < o->b ? c->length : o->b, .kind = c->kind};
    memcpy(bytes, c->bytes, m->length);
    if (!c->address) {
        IN_ORDER();
        __atomic_store_n(&o->head, o->head + 1, __ATOMIC_RELEASE); /* the commit */
        return STEAD_DONE;
    }
    int got = stead_heap_lease(h, c->address, c->generation, &block);
    m->usable = block.usable;
    m->generation = block.generation;
    if (got == STEAD_FULL)
        return got; /* the message stays: others may have room for a holder some day */
    heap_enter(h);
    drop(h, o, c);
    heap_leave(h);
    return got ? STEAD_NOT_LIVE : STEAD_DONE;
}

int stead_channel_receive(stead_heap *h, uint32_t index, stead_message *m, void *bytes, int64_t patience, int64_t spin)
{
    heap_object *o = channel_of(h, index);
    if (!o)
        return STEAD_NOT_LIVE;
    for (int64_t deadline = deadline_after(patience);;) {
        if (await(o, has_message, &o->arrivals, deadline, &spin) || object_enter(h, o) == STEAD_TIMEOUT)
            return STEAD_TIMEOUT;
        int got = o->tail != o->head ? get(h, o, m, bytes) : o->broken ? STEAD_CLOSED : STEAD_TIMEOUT;
        object_unlock(o);
        if (got == STEAD_DONE || got == STEAD_NOT_LIVE)
            room_ring(&o->departures);
        if (got != STEAD_TIMEOUT)
            return got;
    }
}

/* ---- the end, and looking ---- */

int stead_channel_close(stead_heap *h, uint32_t index)
{
    heap_object *o = channel_of(h, index);
    if (!o)
        return STEAD_NOT_LIVE;
    (void)object_lock(h, o, INT64_MAX);
    __atomic_store_n(&o->broken, 1, __ATOMIC_SEQ_CST);
    object_unlock(o);
    room_ring(&o->arrivals);
    room_ring(&o->departures);
    return STEAD_DONE;
}

int stead_channel_state(stead_heap *h, uint32_t index, uint32_t *length, uint32_t *cells, uint32_t *bytes, int *closed)
{
    heap_object *o = channel_of(h, index);
    if (!o)
        return STEAD_NOT_LIVE;
    *length = (uint32_t)channel_length(o);
    *cells = o->a;
    *bytes = o->b;
    *closed = __atomic_load_n(&o->broken, __ATOMIC_SEQ_CST) != 0;
    return STEAD_DONE;
}
