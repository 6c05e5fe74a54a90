/* heap.h - a suballocator that processes share: each allocates and frees, at the same addresses, and one that is
 * killed at any instruction leaves a heap which the next one repairs. Knows no Python, and never touches the memory
 * that it hands out.
 *
 * Every process holds the blocks that it uses; a block is free when nobody holds it. Who holds it stands in one word
 * for each block, changed by one atomic operation, so that there is no moment at which a dead process can have left
 * it wrong. Spans belong to one process each, whose lists of free blocks are in private memory and die with it. What
 * is coarser is under a lock that names its owner, and commits by single stores (fit.h).
 *
 * Safe from any thread. One process has one heap of a control memory; a forked child makes its own (stead_heap_fork).
 */
#ifndef STEAD_HEAP_H
#define STEAD_HEAP_H

#include "arena.h"
#include "roster.h"

typedef struct stead_heap stead_heap;

enum {
    STEAD_TIMEOUT = -7,
    STEAD_FULL = -8,    /* no place is free on the roster, or too many blocks have many holders, or too many references */
    STEAD_BROKEN = -9,  /* the control memory cannot be a heap's, or was damaged */
};

/* ---- the memory ---- */

/* Bytes of the control memory, which all share and which begins as zeros; and of the private memory of each process.
 * Both mostly stay untouched. */
uint64_t stead_heap_control_size(uint32_t max_units);
uint64_t stead_heap_private_size(uint32_t max_units);

/* Make a heap of zero units over [base, base + max_units * STEAD_UNIT), once. */
void stead_heap_format(void *control, uint64_t base, uint32_t max_units);

/* Join: DONE, FULL or BROKEN. private_memory: page-aligned, zero. identity: roster_myself(). */
int stead_heap_attach(void *control, void *private_memory, uint64_t identity, stead_heap **heap);

/* Give back all that this process holds. No other call may be going on. */
void stead_heap_detach(stead_heap *heap);

/* `units` more are there, at the end; `zero`: they read as zeros. */
void stead_heap_extend(stead_heap *heap, uint32_t units, int zero);
uint32_t stead_heap_units(const stead_heap *heap);
uint64_t stead_heap_shortfall(stead_heap *heap, uint64_t size, uint64_t alignment);
unsigned stead_heap_place(const stead_heap *heap);
/* Only one process at a time may add memory: between the two. DONE or OWNER_DIED (taken), or TIMEOUT. */
int stead_heap_begin_growth(stead_heap *heap);
void stead_heap_end_growth(stead_heap *heap);

/* ---- blocks ---- */

typedef struct {
    uint64_t address, usable;
    uint64_t zero_from, zero_to;
    uint16_t generation; /* another one each time that these addresses are handed out; 15 bits */
} stead_shared_block;

/* A block that this process holds once. `alignment` up to the heap's size; flags: STEAD_LAST. DONE, NO_SPACE. */
int stead_heap_take(stead_heap *heap, uint64_t size, uint64_t alignment, int flags, stead_shared_block *block);
/* Hold it once more. generation: of the block that is meant; -1: whichever it is. DONE, NOT_LIVE, FULL, FOREIGN, INTERIOR. */
int stead_heap_lease(stead_heap *heap, uint64_t address, int generation, stead_shared_block *block);
/* Once less. NOT_LIVE where this process does not hold it. */
int stead_heap_release(stead_heap *heap, uint64_t address);
/* Without holding it: DONE, INTERIOR (block: the one that it is inside of), NOT_LIVE, FOREIGN. */
int stead_heap_find(stead_heap *heap, uint64_t address, stead_shared_block *block);
/* How often this process holds the block; and which places do (a bit each, 1024): how many. */
uint32_t stead_heap_held(stead_heap *heap, uint64_t address);
unsigned stead_heap_holders(stead_heap *heap, uint64_t address, uint64_t places[16]);

/* As of an arena. */
int stead_heap_checkout(stead_heap *heap, uint64_t least, stead_run *run);
void stead_heap_checkin(stead_heap *heap, const stead_run *run, int zero);

/* ---- repair ---- */

/* Give back what processes that are dead held: how many there were. */
unsigned stead_heap_reap(stead_heap *heap);
/* Give back spans that nobody uses. */
void stead_heap_reclaim(stead_heap *heap);
/* Take the lock, build anew all that is derived, release it. */
void stead_heap_rebuild(stead_heap *heap);

/* ---- looking ---- */

const char *stead_heap_check(stead_heap *heap, uint32_t *unit);
void stead_heap_statistics(stead_heap *heap, stead_statistics *out);
void stead_heap_each(stead_heap *heap, void (*visit)(void *context, const stead_shared_block *block), void *context);

#endif
