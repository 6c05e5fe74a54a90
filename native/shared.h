/* shared.h - the tables of a heap, for the files that make it up: heap.c, holders.c, repair.c, check.c.
 *
 * Shared, in the control memory: ent, the runs and their lists (fit.h), holder words, sets of units, the roster. Of
 * these `units`, ent at the heads of runs, the holder words and `ever` are authoritative, the rest can be rebuilt.
 * Private: the spans' lists of free blocks, and how often this process holds each block.
 *
 * A holder word: places of up to four holders 0-39 · OVERFLOW 40 (bits 0-31: the number of a holder set) · references
 * from inside the heap 41-48 · generation 49-63. Bits 0-48 are its payload; where that is zero the block is free.
 *
 * Invariants. A: only the owner of a span makes a payload of it non-zero where it was zero, and only under the heap's
 * lock that of a large block. B: a place is in a word only if the unit of its head is in the place's `ever`. C: a
 * place is cleared only when it is in no word, and no span and no lock names it. D: a word that has OVERFLOW changes
 * only under the heap's lock.
 *
 * A block may be referred to from inside the heap, too: by a message in a channel, and by one that is on its way between
 * processes (a transit). Each such reference is one in the word's count, and there is no moment at which only one of the
 * two stands: what changes several words at once, under the heap's lock, is written down first (redo).
 *
 * Locks, in this order: reap, growth, object, stripe, lane, heap.
 */
#ifndef STEAD_SHARED_H
#define STEAD_SHARED_H

#include "bits.h"
#include "fit.h"
#include "heap.h"

#define PLACES (STEAD_PLACES + 1)
#define STRIPES 64u
#define HOLDER_SETS 0x10000u

#define IDS ((UINT64_C(1) << 40) - 1)
#define OVERFLOW (UINT64_C(1) << 40)
#define CUSTODY (UINT64_C(0xff) << 41)
#define CUSTODY_SHIFT 41
#define MOST_CUSTODY 255u
#define GENERATION_SHIFT 49
#define PAYLOAD ((UINT64_C(1) << GENERATION_SHIFT) - 1)
#define GENERATION(w) ((unsigned)((w) >> GENERATION_SHIFT))
#define SET_OF(w) ((uint32_t)(w))
#define CUSTODY_OF(w) ((unsigned)((w) >> CUSTODY_SHIFT & MOST_CUSTODY))

/* Of a block with more than four holders. */
typedef struct {
    uint64_t word; /* which one names this set, counted from the first; + 1; 0: the set is free */
    uint64_t places[PLACES / 64];
} holder_set;

/* Where processes sleep until something has changed. */
typedef struct {
    uint32_t sequence, sleepers;
} waiting_room;

/* A block that was sent by pickle and has not arrived as often as that. */
typedef struct {
    uint64_t word;     /* its word, counted from the first; + 1; 0: none */
    uint64_t stamp;    /* generation 32-63, how often 0-31 */
    uint64_t deadline; /* CLOCK_MONOTONIC, ns: then it is given up */
    uint64_t unused;
} transit;

#ifndef TRANSITS /* tests that look at all of it after each instruction have less */
#define TRANSITS 0x10000u
#endif

typedef struct {
    uint64_t number; /* of the word, counted from the first of the control memory */
    uint64_t mask, value;
} redo_entry;

#define REDO 6u

typedef struct {
    uint64_t magic, base, control_size;
    uint8_t id[16]; /* whoever has a handle compares it */
    uint32_t max_units, version;
    uint64_t patience; /* ns that a transit lasts */
    uint32_t lock, reap_lock, growth_lock;
    uint32_t sets_used, free_set; /* sets from the first to sets_used were ever used; a list of those that are free */
    uint32_t objects_used;
    uint64_t redo_count; /* so many are to be done; 0: none */
    redo_entry redo[REDO];
    run_state runs;
    stead_roster roster;
} heap_shared;

/* What lives in the heap besides blocks: bound to a block, and ended when nobody holds that. */
typedef struct {
    uint64_t address;  /* of the block; 0: free */
    uint32_t kind, generation;
    uint32_t lock;     /* robust: guards the rest; of a LOCK it is all there is */
    uint32_t broken;   /* a barrier: why; a channel: closed */
    uint32_t a, b;     /* permits · parties · cells, bytes of a message */
    waiting_room arrivals, departures;
    uint64_t head __attribute__((aligned(64))); /* of a channel, the next to be received; of a barrier, the phase */
    uint64_t tail __attribute__((aligned(64))); /* the next to be sent; phases that were completed */
} __attribute__((aligned(128))) heap_object;

#ifndef OBJECTS
#define OBJECTS 4096u
#endif

typedef struct {
    unsigned place;
    int64_t since;
} promise;

#define PROMISES 64u

struct stead_heap {
    stead_arena side; /* this process's: its lanes, its spans; the runs are everybody's */
    heap_shared *shared;
    unsigned place;
    uint64_t identity, patience;
    uint8_t id[16];
    uint64_t *words[2]; /* like links: 16 for each unit, and 256 */
    uint32_t *held[2];  /* private: how often this process holds the block */
    holder_set *sets;
    uint64_t *unit_sets, *transit_set;
    transit *transits;
    heap_object *objects;
    uint16_t *counts; /* of each object that counts by process: one for each place */
    uint64_t control_size;
    stead_lock stripes[STRIPES];
    redo_entry filled[REDO];
    unsigned filled_count;
    unsigned child; /* the place of the child of a fork that is under way */
    promise promised[PROMISES]; /* places of children that have perhaps not taken them over yet */
    unsigned promises;
};

/* ---- sets of units: of each place, where it ever held a block, and its spans in which others freed one; of each class,
 * spans that nobody owns ---- */

static inline unit_set set_number(const stead_heap *h, unsigned number)
{
    return unit_set_at(h->unit_sets + number * unit_set_words(h->side.max_units), h->side.max_units);
}

static inline unit_set ever_of(const stead_heap *h, unsigned place) { return set_number(h, place); }
static inline unit_set dropped_of(const stead_heap *h, unsigned place) { return set_number(h, PLACES + place); }
static inline unit_set abandoned_of(const stead_heap *h, unsigned c) { return set_number(h, 2 * PLACES + c); }
#define UNIT_SETS (2 * PLACES + STEAD_CLASSES)

/* ---- words ---- */

/* Where a block's word is: c is STEAD_CLASSES for a large block. */
static inline uint64_t word_place(uint32_t head, unsigned c, uint32_t i)
{
    return c >= 11 ? (uint64_t)head * 16 + i : (uint64_t)head * 256 + i;
}

static inline uint64_t *word_of_block(const stead_heap *h, uint32_t head, unsigned c, uint32_t i)
{
    return h->words[c < 11] + word_place(head, c, i);
}

static inline uint32_t *held_of_block(const stead_heap *h, uint32_t head, unsigned c, uint32_t i)
{
    return h->held[c < 11] + word_place(head, c, i);
}

static inline uint64_t word_load(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_SEQ_CST); }

static inline unit_set transit_numbers(const stead_heap *h) { return unit_set_at(h->transit_set, TRANSITS); }

static inline uint32_t blocks_in(uint64_t e) { return length_of(e) * STEAD_UNIT / class_size(class_of(e)); }

/* What can begin at a unit. Nothing that is read from shared memory is believed before. */
static inline int is_span(const stead_arena *a, uint32_t head, uint64_t e)
{
    return kind_of(e) == SPAN && !back_of(e) && class_of(e) < STEAD_CLASSES && length_of(e) &&
           length_of(e) <= SPAN_UNITS && length_of(e) <= a->max_units - head;
}

static inline int is_run(const stead_arena *a, uint32_t head, uint64_t e)
{
    return is_span(a, head, e) || ((kind_of(e) == FREE || kind_of(e) == LARGE || kind_of(e) == OUT) && length_of(e) &&
                                   length_of(e) <= a->max_units - head);
}

static inline uint32_t committed(const stead_arena *a)
{
    uint32_t units = stead_arena_units(a);
    return units < a->max_units ? units : a->max_units;
}

/* Where a block is, from its address. */
typedef struct {
    uint64_t e;
    uint32_t head, i;
    unsigned c; /* STEAD_CLASSES: large */
    uint64_t start, usable;
} heap_spot;

/* ---- holders.c ---- */

/* By the owner of the span, or under the heap's lock for a large block: the payload is zero, and then it is not. */
void word_begin(uint64_t *word, unsigned place);
enum { WORD_DEAD = 0, WORD_ADDED = 1, WORD_NO_SET = -1 };
/* Under the heap's lock. generation: of the block that is meant, or -1. */
int word_add(stead_heap *h, uint64_t *word, unsigned place, int generation);
/* Without the heap's lock. Whether the payload is zero now, and perhaps nobody knows that yet. */
int word_remove(stead_heap *h, uint64_t *word, unsigned place);
unsigned word_holders(stead_heap *h, const uint64_t *word, uint64_t places[PLACES / 64]);
void sets_rebuild(stead_heap *h); /* under the heap's lock */

/* ---- heap.c ---- */

int heap_is_one(const heap_shared *shared);
void heap_place_tables(stead_heap *h, heap_shared *shared, uint32_t max_units);
void heap_enter(stead_heap *h);
void heap_leave(stead_heap *h);
stead_heap *heap_of(stead_arena *a);
/* In the span at `head`, a block's payload has become zero, and it is not this process's span. */
void heap_dropped(stead_heap *h, uint32_t head);
void heap_free_large(stead_heap *h, uint32_t head);
void heap_collect(stead_heap *h); /* blocks that others freed in spans of this process */

/* Under the heap's lock: a block's payload has become zero. */
void heap_freed(stead_heap *h, uint32_t head);
int heap_locate(stead_heap *h, uint64_t address, heap_spot *s); /* DONE: a block may begin there */
int heap_locate_locked(stead_heap *h, uint64_t address, heap_spot *s); /* under the heap's lock */
int heap_hold(stead_heap *h, uint64_t address, heap_spot *s); /* DONE: this process holds it, and its stripe is locked */
void heap_let(stead_heap *h, const heap_spot *s);             /* unlocks the stripe */

/* ---- inside.c ---- */

/* Under the heap's lock: several words at once. */
void redo_add(stead_heap *h, uint64_t *word, uint64_t mask, uint64_t value);
void redo_commit(stead_heap *h);
void redo_finish(stead_heap *h); /* what a dead process had begun */
/* Adds the change of a block's references by one to what redo_commit does. 0: there are too many, or none. */
int custody_add(stead_heap *h, uint64_t *word, int more);
/* After the commit that took one away. */
void custody_dropped(stead_heap *h, uint32_t head, const uint64_t *word);

/* ---- object_table.c, sync.c, channel.c ---- */

/* The object, or NULL: it is of another kind, or its block is not the one that it was made for. */
heap_object *object_of(stead_heap *h, uint32_t index, unsigned kind);
uint16_t *object_counts(const stead_heap *h, const heap_object *o);
int object_lock(stead_heap *h, heap_object *o, int64_t deadline); /* DONE, OWNER_DIED: taken; TIMEOUT */
int object_enter(stead_heap *h, heap_object *o); /* to do something short, whatever the caller's patience */
void object_unlock(heap_object *o);
int64_t deadline_after(int64_t patience);
/* Who has seen that there is nothing to be had says so (room_enter), looks again, and sleeps: until somebody rings, for at
 * most so long, and never longer than a slice, since who should ring may be dead. TIMEOUT: the deadline has passed. */
uint32_t room_enter(waiting_room *room);
int room_sleep(waiting_room *room, uint32_t ticket, int64_t deadline);
void room_ring(waiting_room *room);
void barrier_lost(stead_heap *h, heap_object *o, uint16_t count); /* one who waited was killed */
int channel_fits(const stead_heap *h, const heap_object *o);
uint64_t channel_length(const heap_object *o);
const char *channel_check(stead_heap *h, const heap_object *o, uint64_t number, uint64_t *references);
void channel_drain(stead_heap *h, heap_object *o); /* under the heap's lock: nobody receives any more */
void objects_forget(stead_heap *h, unsigned place); /* what a dead process counted in objects; under the reap lock */

/* ---- heap_check.c ---- */

const char *heap_check_reference(stead_heap *h, uint64_t address, unsigned generation);

/* ---- repair.c ---- */

void heap_rebuild(stead_heap *h); /* under the heap's lock */
void heap_reap_place(stead_heap *h, unsigned place); /* under the reap lock; only its own process or a dead one's */
void heap_reap_own(stead_heap *h);

#endif
