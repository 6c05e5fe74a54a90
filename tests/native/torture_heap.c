/* Processes work with a heap, each with two threads, and are killed at random moments; others take their place. What is
 * held keeps its contents, what nobody living holds is free again, and the heap passes its check all the while.
 *   torture_heap [KILLS [SEED]]
 * Real processes, real signals; some are stopped for a while, some stay unburied. */
#define _GNU_SOURCE
#include "shared.h"

#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_UNITS 4096u
#define STEP 64u
#define WORKERS 5
#define THREADS 2
#define MINE 48
#define BOARD 64

typedef struct {
    uint64_t operations, lock_kills;
    uint64_t wrong; /* blocks whose contents were not as they should be */
    char what[200];
    struct {
        uint64_t address; /* 0: being changed */
        uint32_t generation;
    } board[BOARD]; /* blocks that anybody may try to hold */
} meeting;

static meeting *met;
static void *control;
static char *data;

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    return *state ^= *state << 17;
}

static void *map(uint64_t size, int flags)
{
    void *got = mmap(NULL, size, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (got == MAP_FAILED) {
        perror("mmap");
        exit(2);
    }
    return got;
}

static void report(const char *what, uint64_t address)
{
    if (!__atomic_fetch_add(&met->wrong, 1, __ATOMIC_SEQ_CST))
        (void)snprintf(met->what, sizeof met->what, "%s at %#" PRIx64, what, address);
}

/* ---- contents: at both ends of a block ---- */

static void stamp(const stead_shared_block *b)
{
    uint64_t *first = (uint64_t *)b->address, *last = (uint64_t *)(b->address + b->usable - 8);
    *first = b->address ^ (uint64_t)b->generation << 48;
    *last = *first;
}

static int has_its_stamp(const stead_shared_block *b)
{
    const uint64_t *first = (const uint64_t *)b->address, *last = (const uint64_t *)(b->address + b->usable - 8);
    return *first == (b->address ^ (uint64_t)b->generation << 48) && *last == *first;
}

static void report_block(const stead_shared_block *b)
{
    if (!__atomic_fetch_add(&met->wrong, 1, __ATOMIC_SEQ_CST))
        (void)snprintf(met->what, sizeof met->what, "%d: held block %#" PRIx64 " of %" PRIu64 " bytes, generation %#x, holds %#" PRIx64 " and %#" PRIx64 "; holds %u", getpid(), b->address, b->usable, b->generation, *(const uint64_t *)b->address, *(const uint64_t *)(b->address + b->usable - 8), 0);
}

static void look_at(const stead_shared_block *b)
{
    if (!has_its_stamp(b))
        report_block(b);
}

/* ---- a worker ---- */

typedef struct {
    stead_heap *heap;
    uint64_t random;
    stead_shared_block mine[MINE];
    unsigned count;
} worker;

static void drop(worker *w, unsigned at)
{
    look_at(&w->mine[at]);
    if (stead_heap_release(w->heap, w->mine[at].address))
        report("a held block is not live", w->mine[at].address);
    w->mine[at] = w->mine[--w->count];
}

static void make_room(worker *w)
{
    stead_heap *h = w->heap;
    if (next_random(&w->random) % 4 == 0)
        stead_heap_reap(h);
    if (stead_heap_begin_growth(h) >= 0 && stead_heap_units(h) + STEP <= MAX_UNITS)
        stead_heap_extend(h, STEP, 1);
    stead_heap_end_growth(h);
    while (w->count > MINE / 2)
        drop(w, (unsigned)(next_random(&w->random) % w->count));
}

static void allocate(worker *w)
{
    stead_shared_block *b = &w->mine[w->count];
    uint64_t size = UINT64_C(16) << next_random(&w->random) % 13;
    size += next_random(&w->random) % size;
    uint64_t alignment = next_random(&w->random) % 16 ? 16 : UINT64_C(64) << next_random(&w->random) % 9;
    if (stead_heap_take(w->heap, size, alignment, next_random(&w->random) % 8 == 0 ? STEAD_LAST : 0, b)) {
        make_room(w);
        return;
    }
    if (b->address % alignment || b->usable < size)
        report("not what was asked for", b->address);
    stamp(b);
    w->count++;
}

static void publish(worker *w)
{
    unsigned at = (unsigned)(next_random(&w->random) % BOARD);
    const stead_shared_block *b = &w->mine[next_random(&w->random) % w->count];
    __atomic_store_n(&met->board[at].address, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&met->board[at].generation, b->generation, __ATOMIC_SEQ_CST);
    __atomic_store_n(&met->board[at].address, b->address, __ATOMIC_SEQ_CST);
}

static void share(worker *w)
{
    unsigned at = (unsigned)(next_random(&w->random) % BOARD);
    uint64_t address = __atomic_load_n(&met->board[at].address, __ATOMIC_SEQ_CST);
    uint32_t generation = __atomic_load_n(&met->board[at].generation, __ATOMIC_SEQ_CST);
    stead_shared_block *b = &w->mine[w->count];
    if (!address || address != __atomic_load_n(&met->board[at].address, __ATOMIC_SEQ_CST))
        return;
    if (stead_heap_lease(w->heap, address, (int)generation, b))
        return; /* it has been freed since */
    if (has_its_stamp(b))
        w->count++;
    else /* generations come round: it is another's, who has not stamped it yet */
        (void)stead_heap_release(w->heap, b->address);
}

static void *work(void *argument)
{
    worker *w = argument;
    stead_run run;
    for (;;) {
        uint64_t dice = next_random(&w->random) % 64;
        if (w->count == MINE || (w->count && dice < 24))
            drop(w, (unsigned)(next_random(&w->random) % w->count));
        else if (dice < 48)
            allocate(w);
        else if (dice < 54 && w->count)
            publish(w);
        else if (dice < 62)
            share(w);
        else if (dice == 62 && next_random(&w->random) % 16 == 0 && stead_heap_checkout(w->heap, 4096, &run))
            stead_heap_checkin(w->heap, &run, 0);
        else if (dice == 63 && next_random(&w->random) % 64 == 0)
            stead_heap_reap(w->heap);
        else if (dice == 63 && next_random(&w->random) % 64 == 0)
            stead_heap_reclaim(w->heap);
        __atomic_fetch_add(&met->operations, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

static pid_t spawn(uint64_t seed)
{
    (void)fflush(stdout);
    pid_t child = fork();
    if (child)
        return child;
    static worker workers[THREADS];
    stead_heap *h = NULL;
    if (stead_heap_attach(control, map(stead_heap_private_size(MAX_UNITS), MAP_PRIVATE), roster_myself(), &h))
        _exit(3);
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_t thread;
        workers[i] = (worker){.heap = h, .random = seed * 977 + i * 31 + 1};
        if (i + 1 < THREADS)
            (void)pthread_create(&thread, NULL, work, &workers[i]);
        else
            work(&workers[i]);
    }
    _exit(0);
}

/* ---- the survivor ---- */

static int look(stead_heap *h, const char *when)
{
    uint32_t unit = 0;
    const char *wrong = stead_heap_check(h, &unit);
    if (!wrong && !met->wrong)
        return 1;
    printf("%s: unit %u: %s; %" PRIu64 " blocks are wrong: %s\n", when, unit, wrong ? wrong : "nothing wrong", met->wrong, met->what);
    return 0;
}

static void wait_a_little(uint64_t *random)
{
    struct timespec t = {0, (long)(next_random(random) % 1500000)};
    nanosleep(&t, NULL);
}

int main(int count, char **arguments)
{
    unsigned long kills = count > 1 ? strtoul(arguments[1], NULL, 10) : 2000;
    uint64_t seed = count > 2 ? strtoull(arguments[2], NULL, 0) : (uint64_t)time(NULL), random = seed | 1;
    control = map(stead_heap_control_size(MAX_UNITS), MAP_SHARED);
    data = map(MAX_UNITS * (uint64_t)STEAD_UNIT, MAP_SHARED);
    met = map(sizeof *met, MAP_SHARED);
    stead_heap_format(control, (uint64_t)data, MAX_UNITS, (const uint8_t *)"0123456789abcdef", UINT64_C(1) << 60);
    worker me = {.random = seed * 7 + 3};
    if (stead_heap_attach(control, map(stead_heap_private_size(MAX_UNITS), MAP_PRIVATE), roster_myself(), &me.heap))
        return 3;
    printf("seed %" PRIu64 "\n", seed);
    pid_t workers[WORKERS], unburied = 0;
    for (unsigned i = 0; i < WORKERS; i++)
        workers[i] = spawn(next_random(&random));
    int good = 1;
    for (unsigned long n = 0; n < kills && good; n++) {
        wait_a_little(&random);
        pid_t *victim = &workers[next_random(&random) % WORKERS];
        if (n % 16 == 0) { /* one that holds the lock must wait for nobody */
            kill(*victim, SIGSTOP);
            wait_a_little(&random);
            kill(*victim, SIGCONT);
        }
        kill(*victim, SIGKILL);
        if (unburied)
            waitpid(unburied, NULL, 0);
        unburied = *victim;
        if (n % 3)
            waitpid(unburied, NULL, 0), unburied = 0;
        *victim = spawn(next_random(&random));
        if (n % 256 == 255) { /* all at once */
            for (unsigned i = 0; i < WORKERS; i++)
                kill(workers[i], SIGKILL);
            for (unsigned i = 0; i < WORKERS; i++)
                waitpid(workers[i], NULL, 0);
            for (unsigned i = 0; i < WORKERS; i++)
                workers[i] = spawn(next_random(&random));
        }
        if (n % 4 == 0 && me.count < MINE)
            allocate(&me);
        else if (n % 4 == 1 && me.count < MINE)
            share(&me);
        else if (n % 4 == 2 && me.count > MINE / 2)
            drop(&me, (unsigned)(next_random(&random) % me.count));
        if (n % 8 == 0)
            stead_heap_reap(me.heap);
        if (n % 16 == 0)
            good = look(me.heap, "at work");
    }
    for (unsigned i = 0; i < WORKERS; i++) {
        kill(workers[i], SIGKILL);
        waitpid(workers[i], NULL, 0);
    }
    if (unburied)
        waitpid(unburied, NULL, 0);
    if (!good)
        return 1;
    stead_heap_reap(me.heap);
    good = look(me.heap, "all dead");
    while (me.count)
        drop(&me, 0);
    stead_heap_reclaim(me.heap);
    good &= look(me.heap, "nothing held");
    stead_statistics s;
    stead_heap_statistics(me.heap, &s);
    good &= s.blocks == 0 && s.runs == 1;
    printf("%lu kills, %" PRIu64 " operations, %" PRIu64 " blocks left in %" PRIu64 " free runs of %" PRIu64 " KiB: %s\n", kills,
           met->operations, s.blocks, s.runs, s.committed / 1024, good ? "good" : "WRONG");
    return !good;
}
