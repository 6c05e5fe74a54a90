/* roster.c - places on the roster, and locks whose word names their owner.
 *
 * The word is the whole lock: there is no moment at which it is taken and nobody is named. Who waits looks every few
 * milliseconds whether the owner still lives; the generation keeps the next process at the same place from passing for
 * it. A wake-up that is lost because somebody dies in between costs one such slice.
 */
#include "roster.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

unsigned roster_join(stead_roster *roster, uint64_t identity)
{
    for (unsigned place = 1; place <= STEAD_PLACES; place++) {
        uint64_t nobody = 0;
        uint32_t highest = __atomic_load_n(&roster->highest, __ATOMIC_RELAXED);
        while (highest < place &&
               !__atomic_compare_exchange_n(&roster->highest, &highest, place, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
        }
        if (__atomic_load_n(&roster->identity[place], __ATOMIC_RELAXED) == 0 &&
            __atomic_compare_exchange_n(&roster->identity[place], &nobody, identity, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
            return place;
    }
    return 0;
}

#define LEAVING (UINT64_C(1) << 24) /* nobody's, and dead: no process has the pid 0 */

static int change(stead_roster *roster, unsigned place, uint64_t from, uint64_t to)
{
    return __atomic_compare_exchange_n(&roster->identity[place], &from, to, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* Who reaps the place at the same time finds another's when he wants to clear it. */
unsigned roster_inherit(stead_roster *roster, uint64_t identity)
{
    for (unsigned place = 1; place <= STEAD_PLACES; place++) {
        uint64_t who = __atomic_load_n(&roster->identity[place], __ATOMIC_ACQUIRE);
        if (who && !roster_alive(who) && change(roster, place, who, identity)) {
            __atomic_add_fetch(&roster->generation[place], 1, __ATOMIC_SEQ_CST);
            return place;
        }
    }
    return 0;
}

void roster_leave(stead_roster *roster, unsigned place, uint64_t identity)
{
    if (!change(roster, place, identity, LEAVING))
        return;
    __atomic_add_fetch(&roster->generation[place], 1, __ATOMIC_SEQ_CST);
    __atomic_store_n(&roster->identity[place], 0, __ATOMIC_SEQ_CST);
}

/* ---- locks ---- */

#ifndef ROBUST_SLICE /* tests that kill a thousand owners cannot wait so long for each */
#define ROBUST_SLICE 5000000
#endif

unsigned robust_owner(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_RELAXED) & 1023;
}

int robust_mine(const stead_roster *roster, unsigned me, const uint32_t *word)
{
    return (__atomic_load_n(word, __ATOMIC_RELAXED) & ~ROBUST_WAITERS) == robust_name(roster, me);
}

static int dead(const stead_roster *roster, uint32_t word)
{
    unsigned place = word & 1023;
    uint64_t identity = __atomic_load_n(&roster->identity[place], __ATOMIC_ACQUIRE);
    return (word & ~ROBUST_WAITERS) != robust_name(roster, place) || !identity || !roster_alive(identity);
}

int robust_orphaned(const stead_roster *roster, const uint32_t *word)
{
    uint32_t seen = __atomic_load_n(word, __ATOMIC_ACQUIRE);
    return (seen & ~ROBUST_WAITERS) && dead(roster, seen);
}

int64_t stead_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static int acquire_slowly(stead_roster *roster, uint32_t mine, uint32_t *word, int64_t patience)
{
    int64_t deadline = patience < 0 ? INT64_MAX : stead_now() + patience;
    for (int spins = 0;;) {
        uint32_t seen = 0;
        /* With waiters: others may still sleep, and nobody would wake them. */
        if (__atomic_compare_exchange_n(word, &seen, mine | (spins > 100 ? ROBUST_WAITERS : 0), 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            return ROBUST_DONE;
        if (spins++ < 100) {
#if defined(__x86_64__) || defined(__i386__)
            __builtin_ia32_pause();
#endif
            continue;
        }
        if (!(seen & ROBUST_WAITERS) &&
            !__atomic_compare_exchange_n(word, &seen, seen | ROBUST_WAITERS, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            continue;
        seen |= ROBUST_WAITERS;
        int64_t left = deadline - stead_now();
        struct timespec slice = {0, left < ROBUST_SLICE ? (long)left : ROBUST_SLICE};
        /* Not only after a timeout: where signals come more often, there is none. */
        if ((left <= 0 || (syscall(SYS_futex, word, FUTEX_WAIT, seen, &slice, NULL, 0) && errno != EAGAIN)) &&
            dead(roster, seen) &&
            __atomic_compare_exchange_n(word, &seen, mine | ROBUST_WAITERS, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            return ROBUST_OWNER_DIED;
        if (left <= 0)
            return ROBUST_TIMEOUT;
    }
}

int robust_acquire(stead_roster *roster, unsigned me, uint32_t *word, int64_t patience)
{
    return robust_try(roster, me, word) ? ROBUST_DONE : acquire_slowly(roster, robust_name(roster, me), word, patience);
}

void robust_release(uint32_t *word)
{
    if (__builtin_expect(__atomic_exchange_n(word, 0, __ATOMIC_RELEASE) & ROBUST_WAITERS, 0))
        syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}
