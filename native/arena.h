/* arena.h - a suballocator: blocks of any size out of one range of addresses. Knows no Python, makes no system
 * call but to wait for a lock, and never touches the memory that it hands out (device memory and PROT_NONE
 * included) unless a call says so: all its state is in tables that the caller supplies.
 *
 * Small blocks, up to 16 KiB, come from spans of one size class; larger ones are runs of whole 4 KiB units from
 * a segregated fit with immediate coalescing (Masmano, Ripoll, Crespo, Real: TLSF, ECRTS 2004). Safe from any
 * thread; a forked child has a working copy if stead_arena_enlist() was called.
 */
#ifndef STEAD_ARENA_H
#define STEAD_ARENA_H

#include <stddef.h>
#include <stdint.h>

#define STEAD_UNIT 4096u
#define STEAD_CLASSES 36
#define STEAD_SMALL 16384u            /* bytes; larger blocks are runs of units */
#define STEAD_MAX_UNITS 0xfffffff0u   /* 16 TiB */

typedef struct stead_arena stead_arena;

/* What a call answers: 0, or why not. */
enum {
    STEAD_DONE = 0,
    STEAD_NO_SPACE = -1, /* no free run is large enough in what is committed */
    STEAD_FOREIGN = -2,  /* not an address of this arena */
    STEAD_INTERIOR = -3, /* inside a live block, not at its start */
    STEAD_NOT_LIVE = -4, /* of no live block: freed, or never handed out */
    STEAD_HELD = -5,     /* a live block that its holder alone may give back, by its node */
    STEAD_DISOWNED = -6, /* the memory is shared with the parent that owns it, after a fork */
};

/* ---- the tables ---- */

#define STEAD_TABLES 6

/* Where each table begins, bytes from the start of the memory; [STEAD_TABLES] is the whole size. Every table has
 * an entry for each unit (the first begins with the header), so an arena of `units` units needs only the first
 * part of each to be there. */
void stead_arena_tables(uint32_t max_units, uint64_t offsets[STEAD_TABLES + 1]);
uint64_t stead_arena_table_used(int table, uint32_t units); /* bytes of it that `units` units need */

/* Make an empty arena of zero units over [base, base + max_units * STEAD_UNIT). `memory`: page-aligned, zero.
 * guard: bytes, a multiple of the page size: every block gets pages of its own, ends where they end as far as its
 * alignment lets it, and is followed by so many bytes that are handed out to nobody; 0: none. */
stead_arena *stead_arena_make(void *memory, uint64_t base, uint32_t max_units, uint64_t guard);

/* `units` more are there, at the end; `zero`: they read as zeros. Only one thread at a time. */
void stead_arena_extend(stead_arena *arena, uint32_t units, int zero);
uint32_t stead_arena_units(const stead_arena *arena);
uint32_t stead_arena_max_units(const stead_arena *arena);
uint64_t stead_arena_base(const stead_arena *arena);

/* Units that must be added at the end so that a block of this size and alignment fits there; UINT64_MAX where it
 * never does. */
uint64_t stead_arena_shortfall(stead_arena *arena, uint64_t size, uint64_t alignment);

/* ---- blocks ---- */

/* A block with its node: what finds it again without a look-up. */
typedef struct {
    uint64_t address;
    uint64_t usable;             /* bytes, at least what was asked for */
    uint64_t node;
    uint64_t zero_from, zero_to; /* bytes from address that surely read as zeros: [from, to) */
} stead_block;

enum {
    STEAD_LAST = 1, /* the arena cannot grow: look everywhere */
    STEAD_HOLD = 2, /* only its node gives it back; by address it is STEAD_HELD */
};

/* size ≥ 1; alignment a power of two; beyond the arena's size there is no space. */
int stead_arena_take(stead_arena *arena, uint64_t size, uint64_t alignment, int flags, stead_block *block);
int stead_arena_give(stead_arena *arena, uint64_t node); /* of a block taken with STEAD_HOLD */

/* The same by address. allocate answers 0 where there is no space. */
uint64_t stead_arena_allocate(stead_arena *arena, uint64_t size, uint64_t alignment);
int stead_arena_free(stead_arena *arena, uint64_t address);
int stead_arena_free_held(stead_arena *arena, uint64_t address); /* for the holder who has lost the node */

/* A live block of nobody's gets a holder: from now on it is STEAD_HELD by address. */
int stead_arena_hold(stead_arena *arena, uint64_t address);

/* The live block that begins at an address (DONE, HELD) or holds it (INTERIOR): its node, and its usable size. */
int stead_arena_find(stead_arena *arena, uint64_t address, stead_block *block);

/* The same for a block that is live and nobody's to hold; `row`: so many such blocks of its size lie side by side from
 * it on, as far as one lock shows. */
int stead_arena_find_row(stead_arena *arena, uint64_t address, stead_block *block, uint32_t *row);

/* Grow or shrink where it is: DONE, NO_SPACE (in `missing`: units that, added at the arena's end, would do; 0
 * where none would), or why the address is not a live block. */
int stead_arena_resize(stead_arena *arena, uint64_t address, uint64_t size, uint64_t *usable, uint64_t *missing);
int stead_arena_resize_held(stead_arena *arena, uint64_t address, uint64_t size, uint64_t *usable, uint64_t *missing);

/* ---- giving memory back ---- */

/* Free memory that may have been touched, in bytes. */
uint64_t stead_arena_dirty(const stead_arena *arena);

/* A free run with at least `least` bytes that may have been touched, taken out so that nobody uses it meanwhile:
 * 1 and its bytes (from, to are the touched part), or 0. To be put back by stead_arena_checkin. */
typedef struct {
    uint32_t head, units;
    uint64_t from, to; /* addresses: what to discard */
} stead_run;
int stead_arena_checkout(stead_arena *arena, uint64_t least, stead_run *run);
void stead_arena_checkin(stead_arena *arena, const stead_run *run, int zero);
/* What is out from the unit `head` on is two runs now, the first of `units` units, to be put back one by one. */
void stead_arena_split(stead_arena *arena, uint32_t head, uint32_t units);

/* Give spans without a live block back to the runs. */
void stead_arena_purge(stead_arena *arena);

/* ---- looking ---- */

typedef struct {
    uint64_t blocks, capacity, spans, bytes; /* live blocks, blocks that fit, spans, bytes in live blocks */
} stead_class_statistics;

typedef struct {
    uint64_t size, committed; /* bytes */
    uint64_t used;            /* usable bytes of live blocks */
    uint64_t blocks;
    uint64_t largest_run;     /* the largest block that fits now, what is not committed yet included */
    uint64_t runs;            /* free runs */
    uint64_t high_water;      /* bytes: most that was in blocks and spans at once */
    uint64_t dirty;
    stead_class_statistics small[STEAD_CLASSES], large;
} stead_statistics;

unsigned stead_class_of(uint32_t size); /* up to STEAD_SMALL; from there on the classes continue, without spans */
uint32_t stead_class_size(unsigned size_class);
void stead_arena_statistics(stead_arena *arena, stead_statistics *out);

/* Calls visit for every live block, in order of address, with everything locked: visit must not come back. */
void stead_arena_each(stead_arena *arena, void (*visit)(void *context, uint64_t address, uint64_t usable), void *context);

/* Walks every invariant: NULL, or the first that does not hold, and the unit where. */
const char *stead_arena_check(stead_arena *arena, uint32_t *unit);

/* ---- saved tables ---- */

/* Bytes at the start of the tables that are no table. */
uint64_t stead_arena_header(void);

/* `a` was made empty, and its tables, but for the header, read what those of another arena did that was just purged;
 * `saved`: that one's header. DONE, or FOREIGN where it had other addresses or guards. To be checked then. */
int stead_arena_adopt(stead_arena *a, const stead_arena *saved);

/* ---- fork ---- */

/* From now on a fork waits until nobody is inside this arena. private_memory: a child has its own copy of the
 * memory; otherwise the child's copy of the arena answers STEAD_DISOWNED to a take. delist before the memory goes. */
void stead_arena_enlist(stead_arena *arena, int private_memory);
void stead_arena_delist(stead_arena *arena);

#endif
