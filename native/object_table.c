/* object_table.c - what lives in a heap besides blocks: a table of them, who may use which, and where processes wait.
 *
 * An object is bound to a block, so that it lives as long as anybody holds that, like everything else. Only a channel
 * keeps its block by a reference of its own: its messages have to be ended before.
 */
#include "shared.h"

#include <errno.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* ---- waiting ---- */

#define SLICE INT64_C(50000000) /* ns */
/* Who holds the lock of an object holds it for less than a microsecond, unless it is not running: even a call that is
 * not to wait waits so long. */
#define GRACE INT64_C(1000000000)

int64_t deadline_after(int64_t patience)
{
    if (patience <= 0)
        return patience ? INT64_MAX : 0; /* without a look at the clock, which costs more than the rest */
    int64_t now = stead_now();
    return patience > INT64_MAX - now ? INT64_MAX : now + patience;
}

uint32_t room_enter(waiting_room *room)
{
    uint32_t ticket = __atomic_load_n(&room->sequence, __ATOMIC_SEQ_CST);
    __atomic_store_n(&room->sleepers, 1, __ATOMIC_SEQ_CST);
    return ticket;
}

int room_sleep(waiting_room *room, uint32_t ticket, int64_t deadline)
{
    int64_t left = deadline == INT64_MAX ? SLICE : deadline - stead_now();
    if (left <= 0)
        return STEAD_TIMEOUT;
    struct timespec slice = {0, (long)(left < SLICE ? left : SLICE)};
    syscall(SYS_futex, &room->sequence, FUTEX_WAIT, ticket, &slice, NULL, 0);
    return STEAD_DONE;
}

/* All wake up, and those who sleep again say so again: whoever was killed in between has taken nobody's turn. */
void room_ring(waiting_room *room)
{
    /* Read by an exchange of nothing: after what was done before, for whoever says that he sleeps and looks again. The lock is
     * in the same line of the cache. (A fence would do, too, but ThreadSanitizer knows none.) */
    if (__builtin_expect(!__atomic_fetch_or(&room->sleepers, 0, __ATOMIC_SEQ_CST), 1))
        return;
    __atomic_store_n(&room->sleepers, 0, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&room->sequence, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &room->sequence, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

int object_lock(stead_heap *h, heap_object *o, int64_t deadline)
{
    if (robust_try(&h->shared->roster, h->place, &o->lock))
        return STEAD_DONE;
    int64_t left = deadline == INT64_MAX ? -1 : deadline - stead_now();
    int got = robust_acquire(&h->shared->roster, h->place, &o->lock, deadline == INT64_MAX || left > 0 ? left : 0);
    return got == ROBUST_TIMEOUT ? STEAD_TIMEOUT : got == ROBUST_OWNER_DIED ? STEAD_OWNER_DIED : STEAD_DONE;
}

int object_enter(stead_heap *h, heap_object *o)
{
    return robust_try(&h->shared->roster, h->place, &o->lock) ? STEAD_DONE : object_lock(h, o, stead_now() + GRACE);
}

void object_unlock(heap_object *o) { robust_release(&o->lock); }

/* ---- the table ---- */

static uint64_t *word_of_address(stead_heap *h, uint64_t address, uint32_t *head)
{
    heap_spot s;
    if (heap_locate_locked(h, address, &s))
        return NULL;
    *head = s.head;
    return word_of_block(h, s.head, s.c, s.i);
}

heap_object *object_of(stead_heap *h, uint32_t index, unsigned kind)
{
    heap_object *o = index < OBJECTS ? &h->objects[index] : NULL;
    return o && __atomic_load_n(&o->address, __ATOMIC_ACQUIRE) && o->kind == kind ? o : NULL;
}

uint16_t *object_counts(const stead_heap *h, const heap_object *o)
{
    return h->counts + (uint64_t)(o - h->objects) * PLACES;
}

/* Under the heap's lock: whether nobody but the object itself keeps its block. */
static int is_over(stead_heap *h, const heap_object *o)
{
    uint32_t head;
    uint64_t *word = word_of_address(h, o->address, &head), w = word ? word_load(word) : 0;
    if (!(w & PAYLOAD) || GENERATION(w) != o->generation)
        return 1;
    return o->kind == STEAD_CHANNEL && (w & PAYLOAD) == UINT64_C(1) << CUSTODY_SHIFT;
}

/* Under the heap's lock. Killed anywhere within, the next one goes on with it. */
static void end_object(stead_heap *h, heap_object *o)
{
    if (o->kind == STEAD_CHANNEL) {
        uint32_t head = 0;
        channel_drain(h, o);
        uint64_t *word = word_of_address(h, o->address, &head);
        if (word && GENERATION(word_load(word)) == o->generation) {
            unit_set_add(ever_of(h, h->place), head);
            (void)custody_add(h, word, -1);
        } else {
            word = NULL;
        }
        redo_add(h, &o->address, ~UINT64_C(0), 0);
        redo_commit(h);
        if (word)
            custody_dropped(h, head, word);
    } else {
        __atomic_store_n(&o->address, 0, __ATOMIC_RELEASE);
    }
}

unsigned stead_objects_collect(stead_heap *h)
{
    unsigned count = 0;
    for (uint32_t i = 0; i < h->shared->objects_used && i < OBJECTS; i++) {
        heap_object *o = &h->objects[i];
        if (!__atomic_load_n(&o->address, __ATOMIC_ACQUIRE))
            continue;
        heap_enter(h);
        if (o->address && is_over(h, o)) {
            end_object(h, o);
            count++;
        }
        heap_leave(h);
    }
    return count;
}

/* Under the heap's lock. */
static heap_object *free_object(stead_heap *h)
{
    for (uint32_t i = 0; i < h->shared->objects_used && i < OBJECTS; i++)
        if (!h->objects[i].address)
            return &h->objects[i];
    if (h->shared->objects_used >= OBJECTS)
        return NULL;
    heap_object *o = &h->objects[h->shared->objects_used];
    o->address = 0;
    IN_ORDER();
    h->shared->objects_used++;
    return o;
}

static int make(stead_heap *h, const heap_spot *s, const heap_object *wanted)
{
    uint64_t *word = word_of_block(h, s->head, s->c, s->i);
    heap_object *o = free_object(h);
    if (!o)
        return STEAD_FULL;
    memset(object_counts(h, o), 0, PLACES * 2);
    *o = *wanted;
    o->generation = GENERATION(word_load(word));
    IN_ORDER();
    if (wanted->kind == STEAD_CHANNEL && !custody_add(h, word, 1))
        return STEAD_FULL;
    redo_add(h, &o->address, ~UINT64_C(0), s->start);
    redo_commit(h);
    return (int)(o - h->objects);
}

int stead_object_make(stead_heap *h, unsigned kind, uint64_t address, uint32_t a, uint32_t b)
{
    heap_spot s;
    heap_object wanted = {.kind = kind, .a = a, .b = b};
    int got = heap_hold(h, address, &s);
    if (got)
        return got;
    if (kind == STEAD_CHANNEL && s.usable < stead_channel_size(a, b)) {
        heap_let(h, &s);
        return STEAD_NO_SPACE;
    }
    heap_enter(h);
    got = make(h, &s, &wanted);
    heap_leave(h);
    heap_let(h, &s);
    return got;
}

void objects_forget(stead_heap *h, unsigned place)
{
    for (uint32_t i = 0; i < h->shared->objects_used && i < OBJECTS; i++) {
        heap_object *o = &h->objects[i];
        uint16_t *count = object_counts(h, o) + place;
        if (!o->address || o->kind < STEAD_CONDITION || o->kind > STEAD_BARRIER || !*count)
            continue;
        if (o->kind == STEAD_BARRIER)
            barrier_lost(h, o, *count);
        __atomic_store_n(count, 0, __ATOMIC_SEQ_CST);
        room_ring(&o->arrivals);
    }
}
