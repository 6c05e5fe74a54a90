/* Threads of one process at the channels, locks, conditions, semaphores and barriers of a heap: nothing is lost, nothing is
 * there twice, nobody is where another one is. For the sanitizers; what a kill leaves is step_objects.c's. */
#define _GNU_SOURCE
#include "shared.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MAX_UNITS 1024u
#define THREADS 3
#ifdef UNDER_TSAN
#define MESSAGES 3000u
#else
#define MESSAGES 20000u
#endif
#define CELLS 16u
#define BYTES 40u

static stead_heap *heap;
static uint32_t channel, lock, condition, semaphore, barrier;
static uint64_t guarded;                        /* by the lock */
static uint32_t inside;                         /* with a permit */
static uint64_t received[THREADS * MESSAGES];   /* how often each message was */
static uint32_t turns[THREADS];

#define MUST(condition)                                                            \
    do {                                                                           \
        if (!(condition)) {                                                        \
            printf("%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);         \
            fflush(stdout);                                                        \
            abort();                                                               \
        }                                                                          \
    } while (0)

static void *map(uint64_t size)
{
    void *got = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    MUST(got != MAP_FAILED);
    return got;
}

static uint64_t take(uint64_t size)
{
    stead_shared_block block;
    MUST(stead_heap_take(heap, size, 16, STEAD_LAST, &block) == STEAD_DONE);
    return block.address;
}

static void *produce(void *which)
{
    uint32_t first = (uint32_t)(uintptr_t)which * MESSAGES;
    for (uint32_t i = first; i < first + MESSAGES; i++) {
        stead_message m = {.length = sizeof i, .kind = (uint8_t)i, .address = i % 4 ? 0 : take(16 + i % 3000)};
        if (m.address)
            memcpy((void *)(uintptr_t)m.address, &i, sizeof i);
        MUST(stead_channel_send(heap, channel, &m, &i, -1, i % 3 ? 0 : 2000) == STEAD_DONE);
        if (m.address)
            MUST(stead_heap_release(heap, m.address) == STEAD_DONE);
    }
    return NULL;
}

static void *consume(void *none)
{
    (void)none;
    for (;;) {
        char bytes[BYTES];
        stead_message m;
        uint32_t i, there;
        int got = stead_channel_receive(heap, channel, &m, bytes, -1, 0);
        if (got == STEAD_CLOSED)
            return NULL;
        MUST(got == STEAD_DONE && m.length == sizeof i);
        memcpy(&i, bytes, sizeof i);
        MUST(i < THREADS * MESSAGES && m.kind == (uint8_t)i && !m.address == (i % 4 != 0));
        if (m.address) {
            memcpy(&there, (void *)(uintptr_t)m.address, sizeof there);
            MUST(there == i && stead_heap_release(heap, m.address) == STEAD_DONE);
        }
        __atomic_fetch_add(&received[i], 1, __ATOMIC_RELAXED);
    }
}

static void *exclude(void *which)
{
    unsigned mine = (unsigned)(uintptr_t)which;
    for (uint32_t i = 0; i < MESSAGES / 4; i++) {
        MUST(stead_lock_acquire(heap, lock, -1) == STEAD_DONE);
        guarded++; /* plainly: who is not alone here is seen by ThreadSanitizer, and in the sum */
        MUST(stead_lock_release(heap, lock) == STEAD_DONE);
        MUST(stead_semaphore_acquire(heap, semaphore, -1) == STEAD_DONE);
        MUST(__atomic_add_fetch(&inside, 1, __ATOMIC_SEQ_CST) <= 2);
        __atomic_sub_fetch(&inside, 1, __ATOMIC_SEQ_CST);
        MUST(stead_semaphore_release(heap, semaphore, 1) == STEAD_DONE);
        if (i % 64)
            continue;
        uint64_t phase;
        uint32_t arrival;
        turns[mine] = i;
        int got = stead_barrier_enter(heap, barrier, &phase, &arrival);
        MUST(got >= 0 && arrival < THREADS);
        if (!got)
            got = stead_barrier_complete(heap, barrier, phase);
        else
            got = stead_barrier_wait(heap, barrier, phase, -1);
        MUST(got == STEAD_DONE);
        for (unsigned other = 0; other < THREADS; other++)
            MUST(turns[other] == i);
        got = stead_barrier_enter(heap, barrier, &phase, &arrival);
        MUST(got >= 0);
        MUST((got ? stead_barrier_wait(heap, barrier, phase, -1) : stead_barrier_complete(heap, barrier, phase)) == STEAD_DONE);
    }
    return NULL;
}

/* Each waits for a turn of his, which the one before gives. */
static void *take_turns(void *which)
{
    uint64_t mine = (uint64_t)(uintptr_t)which;
    for (uint32_t i = 0; i < MESSAGES / 30; i++) {
        MUST(stead_lock_acquire(heap, lock, -1) == STEAD_DONE);
        while (guarded % THREADS != mine) {
            uint32_t ticket;
            MUST(stead_condition_enter(heap, condition, &ticket) == STEAD_DONE);
            MUST(stead_lock_release(heap, lock) == STEAD_DONE);
            MUST(stead_condition_wait(heap, condition, ticket, -1) == STEAD_DONE);
            MUST(stead_lock_acquire(heap, lock, -1) == STEAD_DONE);
        }
        guarded++;
        MUST(stead_condition_notify(heap, condition, -1) == STEAD_DONE);
        MUST(stead_lock_release(heap, lock) == STEAD_DONE);
    }
    return NULL;
}

static void run(void *(*work)(void *), pthread_t threads[THREADS])
{
    for (uintptr_t i = 0; i < THREADS; i++)
        MUST(!pthread_create(&threads[i], NULL, work, (void *)i));
}

static void join(pthread_t threads[THREADS])
{
    for (unsigned i = 0; i < THREADS; i++)
        MUST(!pthread_join(threads[i], NULL));
}

static void look(void)
{
    uint32_t unit;
    const char *wrong = stead_heap_check(heap, &unit);
    if (wrong)
        printf("unit %" PRIu32 ": %s\n", unit, wrong);
    MUST(!wrong);
}

static uint32_t make(unsigned kind, uint64_t size, uint32_t a, uint32_t b)
{
    int got = stead_object_make(heap, kind, take(size), a, b);
    MUST(got >= 0);
    return (uint32_t)got;
}

int main(void)
{
    void *control = map(stead_heap_control_size(MAX_UNITS)), *data = map(MAX_UNITS * (uint64_t)STEAD_UNIT);
    stead_heap_format(control, (uint64_t)(uintptr_t)data, MAX_UNITS, (const uint8_t *)"0123456789abcdef", UINT64_C(1) << 60);
    MUST(stead_heap_attach(control, map(stead_heap_private_size(MAX_UNITS)), roster_myself(), &heap) == STEAD_DONE);
    stead_heap_extend(heap, MAX_UNITS, 1);
    channel = make(STEAD_CHANNEL, stead_channel_size(CELLS, BYTES), CELLS, BYTES);
    lock = make(STEAD_LOCK, 64, 0, 0);
    condition = make(STEAD_CONDITION, 64, 0, 0);
    semaphore = make(STEAD_SEMAPHORE, 64, 2, 0);
    barrier = make(STEAD_BARRIER, 64, THREADS, 0);

    pthread_t threads[THREADS], others[THREADS];
    run(produce, threads);
    run(consume, others);
    join(threads);
    MUST(stead_channel_close(heap, channel) == STEAD_DONE);
    join(others);
    for (uint32_t i = 0; i < THREADS * MESSAGES; i++)
        MUST(received[i] == 1);
    look();

    run(exclude, threads);
    join(threads);
    MUST(guarded == THREADS * (uint64_t)(MESSAGES / 4) && stead_semaphore_value(heap, semaphore) == 2);
    guarded = 0;
    run(take_turns, threads);
    join(threads);
    MUST(guarded == THREADS * (uint64_t)(MESSAGES / 30));
    look();

    stead_statistics s;
    stead_heap_statistics(heap, &s);
    MUST(s.blocks == 5); /* of the objects */
    printf("%u messages, and the turns of %d threads: good\n", THREADS * MESSAGES, THREADS);
    return 0;
}
