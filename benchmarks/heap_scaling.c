/* Processes that allocate and free small blocks at once, from one shared heap, or each from an arena of its own.
 *   heap_scaling WAY PROCESSES pair|mixed N
 * WAY: heap, arena, or loop, which only counts: how far two processors are two. Each process keeps to a processor. Prints
 * the time from the moment at which all may begin until the last has ended, the processors' time that they took, and all
 * their operations. */
#define _GNU_SOURCE
#include "heap.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_UNITS 16384u
#define BASE (UINT64_C(1) << 44)
#define LIVE_BLOCKS 64u

typedef struct {
    uint32_t ready, go;
    int64_t began, ended[64], processor[64];
} meeting;

static void *map(uint64_t size, int flags)
{
    void *got = mmap(NULL, size, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (got == MAP_FAILED)
        exit(2);
    return got;
}

static int64_t now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

typedef struct {
    stead_heap *heap;
    stead_arena *arena;
} way;

static inline uint64_t take(const way *w, uint64_t size)
{
    stead_shared_block block;
    if (w->heap)
        return stead_heap_take(w->heap, size, 16, 0, &block) ? 0 : block.address;
    if (w->arena)
        return stead_arena_allocate(w->arena, size, 16);
    return BASE + size;
}

static inline void give(const way *w, uint64_t address)
{
    if (w->heap)
        (void)stead_heap_release(w->heap, address);
    else if (w->arena)
        (void)stead_arena_free(w->arena, address);
}

static uint64_t play(const way *w, int mixed, uint64_t n)
{
    uint64_t live[LIVE_BLOCKS], sum = 0, state = 88172645463325252u;
    for (unsigned i = 0; i < LIVE_BLOCKS; i++)
        if (!(live[i] = take(w, 64)))
            exit(3);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t *slot = &live[mixed ? i % LIVE_BLOCKS : 0], size = 64;
        if (mixed || (!w->heap && !w->arena)) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
        }
        if (mixed)
            size = 16 + state % 1009;
        give(w, *slot);
        if (!(*slot = take(w, size)))
            exit(3);
        sum += *slot ^ state;
    }
    return sum;
}

static void work(const char *name, void *control, meeting *met, unsigned number, int mixed, uint64_t n)
{
    cpu_set_t cpu;
    way w = {NULL, NULL};
    CPU_ZERO(&cpu);
    CPU_SET(number % (unsigned)sysconf(_SC_NPROCESSORS_ONLN), &cpu);
    (void)sched_setaffinity(0, sizeof cpu, &cpu);
    if (!strcmp(name, "heap")) {
        if (stead_heap_attach(control, map(stead_heap_private_size(MAX_UNITS), MAP_PRIVATE), roster_myself(), &w.heap))
            exit(3);
    } else if (!strcmp(name, "arena")) {
        uint64_t at[STEAD_TABLES + 1];
        stead_arena_tables(MAX_UNITS, at);
        w.arena = stead_arena_make(map(at[STEAD_TABLES], MAP_PRIVATE), BASE, MAX_UNITS, 0);
        stead_arena_extend(w.arena, MAX_UNITS, 1);
    }
    volatile uint64_t sum = play(&w, mixed, 1000);
    __atomic_fetch_add(&met->ready, 1, __ATOMIC_SEQ_CST);
    while (!__atomic_load_n(&met->go, __ATOMIC_SEQ_CST))
        sched_yield();
    int64_t before = now(CLOCK_PROCESS_CPUTIME_ID);
    sum += play(&w, mixed, n);
    met->ended[number] = now(CLOCK_MONOTONIC);
    met->processor[number] = now(CLOCK_PROCESS_CPUTIME_ID) - before;
    _exit(0);
}

int main(int count, char **arguments)
{
    if (count != 5)
        return 2;
    unsigned processes = (unsigned)atoi(arguments[2]);
    uint64_t n = strtoull(arguments[4], NULL, 10);
    meeting *met = map(sizeof *met, MAP_SHARED);
    void *control = map(stead_heap_control_size(MAX_UNITS), MAP_SHARED);
    stead_heap *h = NULL;
    stead_heap_format(control, BASE, MAX_UNITS, (const uint8_t *)"0123456789abcdef", UINT64_C(1) << 60);
    if (!processes || processes > 64 ||
        stead_heap_attach(control, map(stead_heap_private_size(MAX_UNITS), MAP_PRIVATE), roster_myself(), &h))
        return 2;
    stead_heap_extend(h, MAX_UNITS, 1);
    for (unsigned i = 0; i < processes; i++) {
        pid_t child = fork();
        if (child < 0)
            return 2;
        if (!child)
            work(arguments[1], control, met, i, !strcmp(arguments[3], "mixed"), n);
    }
    while (__atomic_load_n(&met->ready, __ATOMIC_SEQ_CST) < processes)
        sched_yield();
    met->began = now(CLOCK_MONOTONIC);
    __atomic_store_n(&met->go, 1, __ATOMIC_SEQ_CST);
    int64_t last = 0, processor = 0;
    for (unsigned i = 0; i < processes; i++) {
        int status;
        if (wait(&status) < 0 || status)
            return 3;
    }
    for (unsigned i = 0; i < processes; i++) {
        last = met->ended[i] > last ? met->ended[i] : last;
        processor += met->processor[i];
    }
    printf("{\"wall\": %lld, \"processor\": %lld, \"operations\": %llu}\n", (long long)(last - met->began),
           (long long)processor, (unsigned long long)(n * processes));
    return 0;
}
