/* fit.h - the tables of an arena, for the files that make it up: runs.c, spans.c, arena.c, check.c, fork.c.
 *
 * What is authoritative: `units`, and ent[] at the head of every run. All else is derived from it and can be
 * rebuilt: bins, list links, feet, what is known to be zero. A run is one of
 *   FREE   in a bin, or the top; its last unit is its FOOT
 *   LARGE  one block
 *   SPAN   blocks of one size class, owned by one lane; every unit has an entry that leads to the head
 *   OUT    taken out of the free ones while its memory is given back
 *   KEPT   freed a moment ago, and kept as it is for the next of its length; in a private arena only
 * Invariant: ent[] is 0 in every other unit, so that any address finds out what it is in.
 *
 * In a span, a block's word in links[] says all about it: LIVE, HELD, or the next free block. (For memory shared
 * between processes the words become private to the owner of the span, and holder words come beside them.)
 *
 * Locks: a lane's for its spans and their links; `runs_lock` for the rest; a lane's before runs_lock.
 */
#ifndef STEAD_FIT_H
#define STEAD_FIT_H

#include "arena.h"
#include "lock.h"

/* Whoever calls it seldom has no register to save for it on all other ways. */
#define STEAD_APART __attribute__((noinline))

#define NONE 0xffffffffu
#define LANES 16u
#define SPAN_UNITS 16u
#define EDGES 4u

enum { FREE = 1, LARGE, SPAN, FOOT, OUT, KEPT };
enum { LIVE = 0xffff, HELD = 0xfffe, END = 0xfffd }; /* words of links[] that are no block number */

/* TLSF: the first level is the power of two, the second 32 steps in between. Up to 32 units every length has
 * its own list. */
#define SECOND 32u
#define FIRST 28u

typedef struct {
    uint32_t next, prev; /* of FREE runs of one bin */
} list_link;

typedef struct {
    uint32_t from, to; /* units of a FREE run that surely read as zeros: [from, to), one piece of it at most */
} zero_part;

typedef struct {
    uint16_t free;  /* first free block, or END */
    uint16_t fresh; /* blocks from here on were never handed out, and have no word yet */
    uint16_t live;
    uint16_t count; /* blocks that fit; with ZERO: the fresh ones read as zeros */
    uint32_t next, prev;
} span;

#define ZERO 0x8000u
#define COUNT(s) ((s)->count & ~ZERO)

typedef struct {
    stead_lock lock;
    uint32_t partial[STEAD_CLASSES]; /* spans with a free block */
    uint32_t spare[STEAD_CLASSES];   /* one without a live block, kept for the next */
} __attribute__((aligned(128))) lane;

/* Runs that were freed a moment ago, of one length. */
#define KEPT_UNITS 16u
#define KEPT_RUNS 15u

typedef struct {
    uint16_t count, most;
    uint32_t heads[KEPT_RUNS];
} kept_runs;

/* All of the runs but their tables. */
typedef struct {
    uint32_t units;
    uint32_t top; /* the FREE run at the very end, in no bin: taken from last, so that it stays long; or NONE */
    uint64_t used_units, peak_units, free_units, dirty_units, runs;
    uint32_t first_map, second_map[FIRST], bins[FIRST][SECOND];
    /* Runs begin or end here, or did before what is being done now: whoever finds it half done cleans up there. */
    uint32_t edges[EDGES];
} run_state;

struct stead_arena {
    uint64_t base;
    uint32_t max_units;
    uint32_t guard_units;
    uint32_t disowned;
    uint32_t place; /* of this process, where the runs are shared (shared.h); 0: all of it is private */

    run_state *state;
    uint64_t *ent;
    list_link *links_of_runs;
    zero_part *zero;
    span *spans;
    uint16_t *links[2]; /* for classes from 256 bytes: 16 words for each unit; for smaller ones: 256 */

    stead_lock runs_lock;
    uint32_t last, last_units; /* the KEPT run that is longer than KEPT_UNITS: until another one is freed, or any is looked for; 0: none */
    stead_arena *next; /* of those that a fork waits for */
    int private_memory;
    lane lanes[LANES];
    kept_runs kept[KEPT_UNITS + 1] __attribute__((aligned(64)));
    run_state own;
};

/* ---- entries: kind 0-2 · length 32-63 · of a SPAN: class 3-8, lane 9-18, back 19-23 · of a LARGE: the offset of
 * the block in its first unit 3-18, held 19 · where the runs are shared, the place of the owner of a SPAN or OUT in
 * the lane's place, 0 for nobody's, and the owner's lane 24-27; both only in the entry of the head ---- */

static inline uint64_t entry(unsigned kind, uint64_t length)
{
    return kind | length << 32;
}

static inline uint64_t span_entry(unsigned size_class, unsigned lane, unsigned back, uint64_t length)
{
    return entry(SPAN, length) | (uint64_t)size_class << 3 | (uint64_t)lane << 9 | (uint64_t)back << 19;
}

static inline uint64_t large_entry(uint64_t length, unsigned offset, int held)
{
    return entry(LARGE, length) | (uint64_t)offset << 3 | (uint64_t)held << 19;
}

static inline unsigned kind_of(uint64_t e) { return e & 7; }
static inline unsigned class_of(uint64_t e) { return e >> 3 & 63; }
static inline unsigned lane_of(uint64_t e) { return e >> 9 & 1023; }
static inline unsigned back_of(uint64_t e) { return e >> 19 & 31; }
static inline unsigned owner_of(uint64_t e) { return e >> 9 & 1023; }
static inline unsigned inner_lane_of(uint64_t e) { return e >> 24 & 15; }
static inline unsigned offset_of(uint64_t e) { return e >> 3 & 0xffff; }
static inline int held(uint64_t e) { return e >> 19 & 1; }
static inline uint32_t length_of(uint64_t e) { return (uint32_t)(e >> 32); }

/* Read without a lock to find out which one to take, and again under it. */
static inline uint64_t ent_load(const stead_arena *a, uint32_t unit)
{
    return __atomic_load_n(&a->ent[unit], __ATOMIC_RELAXED);
}

/* Where a process may be killed between any two instructions, each store must happen where it is written; what the
 * processor does with them later is the same for all of them. */
#define IN_ORDER() __atomic_signal_fence(__ATOMIC_SEQ_CST)

static inline void ent_store(stead_arena *a, uint32_t unit, uint64_t e)
{
    IN_ORDER();
    __atomic_store_n(&a->ent[unit], e, __ATOMIC_RELAXED);
    IN_ORDER();
}

/* What stands in shared memory may have been damaged: a list, a foot or a count leads nowhere outside of the tables. As
 * NONE is no unit, this costs what comparing with it does. */
static inline int is_unit(const stead_arena *a, uint32_t unit) { return unit < a->max_units; }

static inline int is_free_run(const stead_arena *a, uint32_t head)
{
    return is_unit(a, head) && kind_of(a->ent[head]) == FREE && length_of(a->ent[head]) - 1u < a->max_units - head;
}

static inline unsigned arena_lane_of(const stead_arena *a, uint64_t e) { return a->place ? inner_lane_of(e) : lane_of(e); }

/* ---- size classes: 16 to 128 by 16, then four for each doubling ---- */

/* Without a branch: sizes come as they come, and a wrong guess costs more than all of this. */
static inline unsigned class_for(uint64_t size)
{
    uint32_t s = (uint32_t)size - 1;
    unsigned top = 31u - (unsigned)__builtin_clz(s | 64);
    return (top - 6) * 4 + (s >> (top - 2));
}

/* Which block of its class an offset in a span is in: a division by multiplying, exact as offset * size < 2^32
 * (Granlund, Montgomery: Division by Invariant Integers using Multiplication, PLDI 1994). */
typedef struct {
    uint32_t size, reciprocal;
    uint32_t dense, shift; /* which table its words are in, and how many there are for each unit */
} class_fact;

extern const class_fact class_facts[STEAD_CLASSES] __attribute__((visibility("hidden")));

static inline uint32_t class_size(unsigned c) { return class_facts[c].size; }

static inline uint32_t block_at(uint32_t offset, unsigned c)
{
    return (uint32_t)((uint64_t)offset * class_facts[c].reciprocal >> 32);
}

/* A span's words: one cache line or two where the blocks are large, and not one page of the table for each span. */
static inline uint16_t *links_at(const stead_arena *a, uint32_t head, const class_fact *f)
{
    return a->links[f->dense] + ((uint64_t)head << f->shift);
}

static inline uint16_t *links_of(const stead_arena *a, uint32_t head, unsigned c) { return links_at(a, head, &class_facts[c]); }

static inline uint64_t address_of(const stead_arena *a, uint32_t unit)
{
    return a->base + (uint64_t)unit * STEAD_UNIT;
}

/* ---- runs.c: all between runs_enter and runs_leave ---- */

void heap_enter_runs(stead_arena *a);
void heap_leave_runs(stead_arena *a);

static inline void runs_enter(stead_arena *a)
{
    if (__builtin_expect(a->place, 0))
        heap_enter_runs(a);
    else
        stead_acquire(&a->runs_lock);
}

static inline void runs_leave(stead_arena *a)
{
    if (__builtin_expect(a->place, 0))
        heap_leave_runs(a);
    else
        stead_unlock(&a->runs_lock);
}

static inline void runs_note(stead_arena *a, uint32_t one, uint32_t two, uint32_t three, uint32_t four)
{
    uint32_t *edges = a->state->edges;
    edges[0] = one;
    edges[1] = two;
    edges[2] = three;
    edges[3] = four;
    IN_ORDER();
}

/* A run of `units` units at an address that is a multiple of `alignment`, out of the free ones: its head, or NONE.
 * It has a FREE entry of its own, in no bin: the caller commits another by one store. `zero`: the part of it that
 * reads as zeros. Every store before leaves a list of runs that can be walked. */
uint32_t runs_take(stead_arena *a, uint32_t units, uint64_t alignment, int everywhere, zero_part *zero);
/* The used run [head, head + units) is free now. */
void runs_give(stead_arena *a, uint32_t head, uint32_t units);
/* The same for one that was not used; it is merged with its neighbours by one store. */
void runs_add(stead_arena *a, uint32_t head, uint32_t units, zero_part zero);
/* The run at `head`, with this entry, gets the first `units` of the FREE run behind it. */
void runs_lengthen(stead_arena *a, uint32_t head, uint64_t e, uint32_t units);
/* A FREE run with at least `dirty` units that may have been touched becomes an OUT one: its head, or NONE. */
uint32_t runs_out(stead_arena *a, uint64_t dirty);
/* What is KEPT is free like the rest: all of it, or the one that is longer than KEPT_UNITS. */
STEAD_APART void runs_unkeep(stead_arena *a);
STEAD_APART void runs_unkeep_last(stead_arena *a);
uint32_t runs_longest(const stead_arena *a);
uint32_t runs_head_of(const stead_arena *a, uint32_t unit);
void runs_forget(stead_arena *a); /* all lists and sums, */
void runs_relist(stead_arena *a, uint32_t head, uint32_t units, int kind); /* and one after the other anew */
uint32_t runs_last_free(const stead_arena *a); /* length of the FREE run at the very end, or 0 */
uint64_t runs_aligned(const stead_arena *a, uint32_t unit, uint64_t alignment);
void runs_bin(uint32_t units, unsigned *first, unsigned *second);

/* ---- spans.c ---- */

/* The thread's lane + 1; 0: it has none yet. A place in the thread's own block costs a tenth of a call to
 * __tls_get_addr; musl cannot give one to a library that is loaded late. */
#ifdef __GLIBC__
__attribute__((tls_model("initial-exec")))
#endif
extern _Thread_local uint32_t my_lane __attribute__((visibility("hidden")));

int spans_take(stead_arena *a, unsigned c, uint64_t alignment, int flags, stead_block *block);
uint32_t spans_length(const stead_arena *a, unsigned c, uint32_t units);
/* Under the lock of the lane l that owns the span at `head`. */
void spans_push(stead_arena *a, unsigned l, unsigned c, uint32_t head, uint32_t i);
void spans_list(stead_arena *a, unsigned l, unsigned c, uint32_t head); /* it has a free block */
/* Between runs_enter and runs_leave. */
void spans_clear(stead_arena *a, uint32_t head, uint32_t units); /* its entries, but for its head's */
uint64_t spans_own(stead_arena *a, unsigned l, unsigned c, uint32_t head, uint32_t units); /* the entry of its head */

static inline uint64_t small_node(uint32_t head, uint32_t i) { return (uint64_t)head << 16 | i << 1 | 1; }
static inline uint64_t large_node(uint32_t head) { return (uint64_t)head << 16; }

/* A block's word; END for one that was never handed out, or does not exist. */
static inline unsigned word_of(const stead_arena *a, uint32_t head, unsigned c, uint32_t i)
{
    const span *s = &a->spans[head];
    return i < s->fresh && i < COUNT(s) ? links_of(a, head, c)[i] : END;
}

/* ---- arena.c ---- */

/* For quick.c: all that can be. `wanted`: STEAD_DONE or STEAD_HELD, as stead_arena_find answers. */
STEAD_APART int arena_take(stead_arena *a, uint64_t size, uint64_t alignment, int flags, stead_block *block);
STEAD_APART int arena_free(stead_arena *a, uint64_t address, int wanted);
STEAD_APART int arena_give(stead_arena *a, uint64_t node);

unsigned class_of_request(const stead_arena *a, uint64_t size, uint64_t alignment);
void arena_begin(stead_arena *a, uint64_t base, uint32_t max_units);
uint64_t large_usable(const stead_arena *a, uint64_t e);
uint64_t large_address(const stead_arena *a, uint32_t head, uint64_t e);

/* ---- heap.c, where the runs are shared ---- */

void heap_hand_out(stead_arena *a, uint32_t head, unsigned c, uint32_t i); /* under the lane's lock */
int heap_refill(stead_arena *a, unsigned l, unsigned c);                   /* the same; whether it found any */
void heap_will_own(stead_arena *a, uint32_t head);                         /* before the commit */
int heap_owns(stead_arena *a, uint32_t head);                              /* a span: as this process knows it */
const char *heap_check_span(const stead_arena *a, uint32_t head, uint64_t e);
const char *heap_check_run(const stead_arena *a, uint32_t head, uint64_t e); /* LARGE or OUT */

/* ---- check.c ---- */

/* Between runs_enter and runs_leave: what the runs alone tell. */
void arena_count_runs(const stead_arena *a, stead_statistics *out);
const char *check_links(const stead_arena *a, uint32_t head, uint64_t e); /* of a span of this process */

/* ---- fork.c ---- */

void arena_lock_all(stead_arena *a);
void arena_unlock_all(stead_arena *a);

#endif
