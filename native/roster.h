/* roster.h - who is attached to a heap, and locks that survive their owner. All in memory that processes share.
 *
 * A process has a place on the roster, claimed by one compare-and-swap that says all about it. It is dead when its
 * pid is gone, or another process has it (a later start time), or nothing but its shell is left (a zombie, all of
 * whose threads have ended): then it will never execute another instruction.
 */
#ifndef STEAD_ROSTER_H
#define STEAD_ROSTER_H

#include <stdint.h>

#define STEAD_PLACES 1023u /* 1 .. 1023; 0 is nobody */

typedef struct {
    uint64_t identity[STEAD_PLACES + 1];   /* 0, or who: start time 24-63, pid 0-23 */
    uint32_t generation[STEAD_PLACES + 1]; /* goes up before a place is cleared */
    uint32_t highest;                      /* no place above it was ever taken */
} stead_roster;

uint64_t roster_myself(void);            /* this process's identity; 0 without /proc */
int roster_alive(uint64_t identity);     /* 0 only if it is surely dead */
unsigned roster_join(stead_roster *roster, uint64_t identity); /* a place, or 0: none is free */
/* Where none is free: that of somebody dead, and all that he held, which must be given back under the reap lock first. */
unsigned roster_inherit(stead_roster *roster, uint64_t identity);
/* The place of that one, if it still is: nothing may name it any more. */
void roster_leave(stead_roster *roster, unsigned place, uint64_t identity);

/* ---- locks: waiters 31 · the place's generation 10-30 · place 0-9 ---- */

int64_t stead_now(void); /* CLOCK_MONOTONIC, ns */

enum {
    ROBUST_DONE = 0,
    ROBUST_OWNER_DIED = 1, /* taken; what it guards may be half done */
    ROBUST_TIMEOUT = -1,
};

#define ROBUST_WAITERS 0x80000000u

static inline uint32_t robust_name(const stead_roster *roster, unsigned place)
{
    return (__atomic_load_n(&roster->generation[place], __ATOMIC_RELAXED) << 10 & 0x7ffffc00u) | place;
}

/* Whether it was free, and is the caller's now. */
static inline int robust_try(const stead_roster *roster, unsigned me, uint32_t *word)
{
    uint32_t free = 0;
    return __atomic_compare_exchange_n(word, &free, robust_name(roster, me), 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

/* patience: nanoseconds; negative: for ever. */
int robust_acquire(stead_roster *roster, unsigned me, uint32_t *word, int64_t patience);
void robust_release(uint32_t *word);
int robust_mine(const stead_roster *roster, unsigned me, const uint32_t *word);
int robust_orphaned(const stead_roster *roster, const uint32_t *word); /* its owner has died */
unsigned robust_owner(const uint32_t *word); /* a place, or 0 */

#endif
