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
    STEAD_CLOSED = -10,
    STEAD_NOT_OWNER = -11,
    STEAD_BARRIER_BROKEN = -12,
    STEAD_TOO_LONG = -13,
    STEAD_OWNER_DIED = 1, /* done; and a process that was killed may have left something half done */
};

/* ---- the memory ---- */

/* Bytes of the control memory, which all share and which begins as zeros; and of the private memory of each process.
 * Both mostly stay untouched. */
uint64_t stead_heap_control_size(uint32_t max_units);
uint64_t stead_heap_private_size(uint32_t max_units);

/* Make a heap of zero units over [base, base + max_units * STEAD_UNIT), once. id: of this heap alone. patience: ns that
 * a block which was sent is kept for its receiver. */
void stead_heap_format(void *control, uint64_t base, uint32_t max_units, const uint8_t id[16], uint64_t patience);
const uint8_t *stead_heap_id(const void *control);

/* Join: DONE, FULL or BROKEN. private_memory: page-aligned, zero. identity: roster_myself(). */
int stead_heap_attach(void *control, void *private_memory, uint64_t identity, stead_heap **heap);

/* Give back all that this process holds. No other call may be going on. */
void stead_heap_detach(stead_heap *heap);

/* `units` more are there, at the end; `zero`: they read as zeros. */
void stead_heap_extend(stead_heap *heap, uint32_t units, int zero);
uint32_t stead_heap_units(const stead_heap *heap);
uint64_t stead_heap_shortfall(stead_heap *heap, uint64_t size, uint64_t alignment);
unsigned stead_heap_place(const stead_heap *heap); /* of this process; 0: it is not attached */
uint64_t stead_heap_identity(const stead_heap *heap, unsigned place);
uint32_t stead_heap_max_units(const stead_heap *heap);
uint64_t stead_heap_base(const stead_heap *heap);
uint64_t stead_heap_dirty(const stead_heap *heap);
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

/* ---- on their way from process to process ---- */

/* The heap itself keeps a block of this process until it has arrived as often as it was sent, or its patience is over. */
int stead_heap_send_off(stead_heap *heap, uint64_t address); /* DONE, FULL, or why it is not this process's */
int stead_heap_arrive(stead_heap *heap, uint64_t address, int generation, stead_shared_block *block); /* as lease */
/* Give up those whose time is over, or all: how many there were. */
unsigned stead_heap_expire(stead_heap *heap, int all);
unsigned stead_heap_references(stead_heap *heap, uint64_t address); /* to a block, from inside the heap */

/* ---- fork: a child has a place, and all that its parent holds, before it exists ---- */

int stead_heap_before_fork(stead_heap *heap);       /* DONE; or FULL, and the child will have nothing */
void stead_heap_after_fork_in_parent(stead_heap *heap);
int stead_heap_after_fork_in_child(stead_heap *heap); /* DONE, or DISOWNED: it is attached to nothing */

/* ---- objects that live in the heap: bound to a block that this process holds, and ended when nobody holds it ---- */

enum { STEAD_LOCK = 1, STEAD_CONDITION, STEAD_SEMAPHORE, STEAD_BARRIER, STEAD_CHANNEL };

/* Its number, or FULL, NOT_LIVE, NO_SPACE (the block is too small for a channel's cells). a, b: permits of a semaphore, and the most
 * that it may ever have (0: as many as are released); parties of a barrier, and whether there is an
 * action; cells of a channel, and bytes of each message. */
int stead_object_make(stead_heap *heap, unsigned kind, uint64_t address, uint32_t a, uint32_t b);
uint64_t stead_channel_size(uint32_t cells, uint32_t bytes); /* of its block */
unsigned stead_objects_collect(stead_heap *heap); /* end those that nobody holds: how many */

/* All below: NOT_LIVE where there is no such object. patience: ns, negative: for ever; who waits wakes up by himself
 * after a slice at the latest and looks whether somebody has died. */
int stead_lock_acquire(stead_heap *heap, uint32_t lock, int64_t patience); /* DONE, OWNER_DIED: taken; TIMEOUT */
int stead_lock_release(stead_heap *heap, uint32_t lock);                   /* DONE, NOT_OWNER */
unsigned stead_lock_owner(stead_heap *heap, uint32_t lock);                /* a place, or 0 */
int stead_lock_orphaned(stead_heap *heap, uint32_t lock);                  /* whether its owner has died */

/* enter (the lock is held), release the lock, wait: DONE, or TIMEOUT, nothing yet; at last leave, unless it was DONE:
 * DONE where it is notified after all, or TIMEOUT. */
int stead_condition_enter(stead_heap *heap, uint32_t condition, uint32_t *ticket);
int stead_condition_wait(stead_heap *heap, uint32_t condition, uint32_t ticket, int64_t patience);
int stead_condition_leave(stead_heap *heap, uint32_t condition, uint32_t ticket);
int stead_condition_notify(stead_heap *heap, uint32_t condition, int32_t count); /* negative: all */

/* Permits that a process had when it was killed come back. */
int stead_semaphore_acquire(stead_heap *heap, uint32_t semaphore, int64_t patience); /* DONE, TIMEOUT */
int stead_semaphore_release(stead_heap *heap, uint32_t semaphore, uint32_t count);   /* DONE, FULL */
int64_t stead_semaphore_value(stead_heap *heap, uint32_t semaphore);

/* enter: DONE (the last one: all go on; or, with an action, when he has completed the phase), 1 + how many were there
 * before (wait for the phase), NO_SPACE (all are there, and the action is going on: wait for the phase, and enter again),
 * BARRIER_BROKEN, FULL. */
int stead_barrier_enter(stead_heap *heap, uint32_t barrier, uint64_t *phase, uint32_t *arrival);
/* DONE, BARRIER_BROKEN, OWNER_DIED (one who waited was killed), TIMEOUT: nothing has happened yet. */
int stead_barrier_wait(stead_heap *heap, uint32_t barrier, uint64_t phase, int64_t patience);
int stead_barrier_complete(stead_heap *heap, uint32_t barrier, uint64_t phase); /* as wait answers */
/* As wait answers; where nothing has happened yet (or phase is UINT64_MAX) it is broken, and that is TIMEOUT. */
int stead_barrier_break(stead_heap *heap, uint32_t barrier, uint64_t phase);
int stead_barrier_reset(stead_heap *heap, uint32_t barrier);
int stead_barrier_state(stead_heap *heap, uint32_t barrier, uint32_t *parties, uint32_t *waiting, int *broken);

/* A message: a number of the sender's choice, some bytes, and perhaps a block (address, or 0), which this process holds
 * and which the channel keeps until it is received: the receiver then holds it once. spin: ns to look again and again
 * before sleeping. */
typedef struct {
    uint64_t address, usable;
    uint32_t length;
    uint16_t generation;
    uint8_t kind;
} stead_message;
/* DONE, TIMEOUT, CLOSED, TOO_LONG, NOT_LIVE, FULL (too many messages have this block). */
int stead_channel_send(stead_heap *heap, uint32_t channel, const stead_message *message, const void *bytes, int64_t patience, int64_t spin);
/* DONE, TIMEOUT, CLOSED (and empty), NOT_LIVE. bytes: room for as many as a message of this channel may have. */
int stead_channel_receive(stead_heap *heap, uint32_t channel, stead_message *message, void *bytes, int64_t patience, int64_t spin);
int stead_channel_close(stead_heap *heap, uint32_t channel);
int stead_channel_state(stead_heap *heap, uint32_t channel, uint32_t *length, uint32_t *cells, uint32_t *bytes, int *closed);

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
