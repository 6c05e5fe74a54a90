/* lock.h - a lock of one word that costs one atomic exchange, and nothing in a process that never had a second
 * thread. Its holder makes no system call and never waits for Python, so nobody waits long.
 */
#ifndef STEAD_LOCK_H
#define STEAD_LOCK_H

#include <stdint.h>
#include <time.h>

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef struct {
    uint32_t word, waiters;
} stead_lock;

/* glibc 2.32 knows (sys/single_threaded.h). A second thread cannot appear while the only one is inside. */
extern char __libc_single_threaded __attribute__((weak));

static inline int stead_alone(void)
{
    return &__libc_single_threaded && __libc_single_threaded;
}

static inline int stead_try_lock(stead_lock *lock)
{
    if (stead_alone()) {
        if (lock->word)
            return 0;
        lock->word = 1;
        return 1;
    }
    return !__atomic_load_n(&lock->word, __ATOMIC_RELAXED) && !__atomic_exchange_n(&lock->word, 1, __ATOMIC_ACQUIRE);
}

/* The wake-up is not ordered with the look for waiters (a full barrier would cost as much as the lock): one that
 * gets lost costs the waiter one timeout. */
#define STEAD_SELDOM __attribute__((noinline, cold, unused))

STEAD_SELDOM static void stead_lock_slowly(stead_lock *lock)
{
    for (;;) {
        for (int spin = 0; spin < 100; spin++) {
            if (stead_try_lock(lock))
                return;
#if defined(__x86_64__) || defined(__i386__)
            __builtin_ia32_pause();
#endif
        }
        static const struct timespec patience = {0, 1000000};
        __atomic_fetch_add(&lock->waiters, 1, __ATOMIC_SEQ_CST);
        syscall(SYS_futex, &lock->word, FUTEX_WAIT_PRIVATE, 1, &patience, NULL, 0);
        __atomic_fetch_sub(&lock->waiters, 1, __ATOMIC_RELAXED);
    }
}

STEAD_SELDOM static void stead_wake(stead_lock *lock)
{
    syscall(SYS_futex, &lock->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static inline void stead_acquire(stead_lock *lock)
{
    if (__builtin_expect(!stead_try_lock(lock), 0))
        stead_lock_slowly(lock);
}

static inline void stead_unlock(stead_lock *lock)
{
    __atomic_store_n(&lock->word, 0, __ATOMIC_RELEASE);
    if (__builtin_expect(__atomic_load_n(&lock->waiters, __ATOMIC_RELAXED), 0))
        stead_wake(lock);
}

#endif
