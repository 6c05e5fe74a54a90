/* replay.c - the arena's C core, mimalloc and glibc's malloc do the same work; allocators.py runs it.
 *
 *   replay WAY MODE TEST NUMBER...
 *
 * WAY   arena (by address), nodes (the arena; a block is given back by its node), mimalloc, glibc; nothing: the
 *       loop alone
 * MODE  plain: blocks are not touched; touched: a byte of each of their pages is written; footprint: the same, and
 *       the memory that the process has is watched
 * TEST  pair SIZE ALIGNMENT N          allocate and free; the alignment's binary logarithm
 *       churn LIVE LEAST MOST N SEED   fill, then free a block at random and allocate another in its place
 *       fill LIVE LEAST MOST N SEED    the same, but all of it is timed, and all blocks are freed at the end
 *       trace FILE                     what recorder.c wrote
 *       threads COUNT LIVE LEAST MOST N SEED   churn in each of them
 *       handover LEAST MOST N SEED     one thread allocates, another one frees
 *
 * Prints one JSON object; the nanoseconds are those of all operations. Sizes are log-uniform. What the program
 * itself needs it maps, so that nothing of its own is in the heaps that it measures. mimalloc is loaded and not
 * linked: Debian's has a malloc of its own, which would take the place of glibc's.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "ways.h"

enum { FREE, ALLOCATE, RESIZE, REPLACE, PAIR };

typedef struct {
    uint32_t size;
    uint32_t slot : 24, alignment : 5 /* its binary logarithm */, kind : 3;
} operation;

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* ---- the loops ---- */

INLINE void touch_pages(uint64_t block, uint64_t size)
{
    volatile char *bytes = (volatile char *)block;
    for (uint64_t at = 0; at < size; at += 4096)
        bytes[at] = 1;
    bytes[size - 1] = 1;
}

INLINE uint64_t allocate(const way use, const operation *o)
{
    uint64_t block = use.allocate(o->size, o->alignment);
    if (__builtin_expect(!block, 0))
        fail("no memory for a block of %" PRIu32 " bytes", o->size);
    return block;
}

INLINE void play(const way use, const operation *at, const operation *end, uint64_t *blocks, int touch)
{
    for (; at < end; at++) {
        uint64_t *block = &blocks[at->slot];
        switch (at->kind) {
        case FREE:
            use.release(*block);
            continue;
        case PAIR: {
            uint64_t passing = allocate(use, at);
            if (touch)
                touch_pages(passing, at->size);
            use.release(passing);
            continue;
        }
        case RESIZE:
            *block = use.resize(*block, at->size);
            break;
        case REPLACE:
            use.release(*block);
            /* fall through */
        default:
            *block = allocate(use, at);
        }
        if (touch)
            touch_pages(*block, at->size);
    }
}

/* Blocks on their way from one thread to the other. Each looks at where the other is only where it must: once for
 * each half of the ring. */
enum { RING = 4096 };
static struct {
    uint64_t made __attribute__((aligned(128))), gone __attribute__((aligned(128)));
} passed;

/* Until *count has reached `least`. */
static void wait_for(const uint64_t *count, uint64_t least)
{
    for (unsigned looks = 1; __atomic_load_n(count, __ATOMIC_ACQUIRE) < least; looks++)
        if (looks % 1024 == 0)
            sched_yield();
}

INLINE void produce(const way use, const operation *at, const operation *end, uint64_t *blocks, int touch)
{
    (void)touch;
    for (uint64_t i = 0, n = (uint64_t)(end - at); i < n; i++) {
        if (i >= RING && i % (RING / 2) == 0)
            wait_for(&passed.gone, i - RING / 2);
        blocks[i % RING] = allocate(use, &at[i]);
        if ((i + 1) % (RING / 2) == 0 || i + 1 == n)
            __atomic_store_n(&passed.made, i + 1, __ATOMIC_RELEASE);
    }
}

INLINE void consume(const way use, const operation *at, const operation *end, uint64_t *blocks, int touch)
{
    (void)touch;
    for (uint64_t i = 0, n = (uint64_t)(end - at); i < n; i++) {
        if (i % (RING / 2) == 0)
            wait_for(&passed.made, i + RING / 2 < n ? i + RING / 2 : n);
        use.release(blocks[i % RING]);
        if ((i + 1) % (RING / 2) == 0)
            __atomic_store_n(&passed.gone, i + 1, __ATOMIC_RELEASE);
    }
}

enum { PLAY, PRODUCE, CONSUME, LOOPS };

/* callgrind counts what happens inside of play_*. */
#define LOOP(loop, name)                                                                                          \
    static __attribute__((noinline)) void loop##_##name(const operation *at, const operation *end,                \
                                                        uint64_t *blocks, int touch)                              \
    {                                                                                                             \
        loop((way){name##_allocate, name##_release, name##_resize}, at, end, blocks, touch);                      \
    }
#define ALL_LOOPS(name) LOOP(play, name) LOOP(produce, name) LOOP(consume, name)
ALL_LOOPS(arena)
ALL_LOOPS(nodes)
ALL_LOOPS(mimalloc)
ALL_LOOPS(glibc)
ALL_LOOPS(nothing)

#define ENTRY(name) {#name, {play_##name, produce_##name, consume_##name}}
static const struct {
    const char *name;
    void (*loops[LOOPS])(const operation *at, const operation *end, uint64_t *blocks, int touch);
} ways[] = {ENTRY(arena), ENTRY(nodes), ENTRY(mimalloc), ENTRY(glibc), ENTRY(nothing)}, *chosen;

/* ---- what is done ---- */

typedef struct {
    operation *operations;
    uint64_t slots, warm, count; /* the first `warm` are not timed */
    uint64_t kept;               /* of count: those before the last blocks are freed */
} work;

static uint64_t scatter(uint64_t *state) /* SplitMix64 */
{
    uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

static uint32_t any_size(uint64_t *state, double least, double most)
{
    return (uint32_t)(least * pow(most / least, (double)(scatter(state) >> 11) * 0x1p-53));
}

static work pairs(uint32_t size, unsigned alignment, uint64_t n)
{
    uint64_t warm = n / 4;
    work w = {pages((warm + n) * sizeof(operation)), 1, warm, warm + n, warm + n};
    for (uint64_t i = 0; i < warm + n; i++)
        w.operations[i] = (operation){size, 0, alignment, PAIR};
    return w;
}

/* `live` blocks, of which then one after the other is replaced. `whole`: all is timed, and at the end all freed. */
static work churn(uint64_t live, double least, double most, uint64_t n, uint64_t seed, int whole)
{
    uint64_t warm = whole ? 0 : n / 4, filled = live + warm + n, freed = whole ? live : 0;
    work w = {pages((filled + freed) * sizeof(operation)), live, whole ? 0 : live + warm, filled + freed, filled};
    for (uint64_t i = 0; i < filled; i++)
        w.operations[i] = (operation){any_size(&seed, least, most), (uint32_t)(i < live ? i : scatter(&seed) % live),
                                      4, i < live ? ALLOCATE : REPLACE};
    for (uint64_t i = 0; i < freed; i++)
        w.operations[filled + i] = (operation){1, (uint32_t)i, 4, FREE};
    return w;
}

static uint64_t number(const uint8_t **at, const uint8_t *end)
{
    uint64_t value = 0;
    for (unsigned shift = 0; *at < end && shift < 64; shift += 7) {
        uint8_t byte = *(*at)++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return value;
    }
    fail("the trace ends within an operation");
}

/* Its format is at the head of recorder.c. */
static work trace(const char *path)
{
    static const char first[] = "stead trace 1\n";
    int file = open(path, O_RDONLY);
    struct stat status;
    if (file < 0 || fstat(file, &status))
        fail("%s: %m", path);
    uint64_t size = (uint64_t)status.st_size, free_count = 0;
    const uint8_t *start = mmap(NULL, size, PROT_READ, MAP_PRIVATE, file, 0), *at = start, *end = start + size;
    if (start == MAP_FAILED || size < sizeof first || memcmp(start, first, sizeof first - 1))
        fail("%s is no trace", path);
    at += sizeof first - 1;
    work w = {.operations = pages(size * sizeof(operation))};
    uint32_t *free_slots = pages(size * sizeof *free_slots);
    while (at < end) {
        uint64_t head = number(&at, end), what = head >> 3, kind = head & 7;
        uint64_t second = kind >= 3 ? number(&at, end) : 0;
        int fresh = kind && kind < 4;
        uint64_t slot = !fresh ? what : free_count ? free_slots[--free_count] : w.slots++;
        uint64_t bytes = fresh ? what : second, alignment = kind == 3 && second > 4 ? second : 4;
        if (kind > 4 || slot >= w.slots || slot >> 24 || bytes >> 32 || alignment > 31)
            fail("%s: operation %" PRIu64 " cannot be", path, w.count);
        if (!kind)
            free_slots[free_count++] = (uint32_t)slot;
        w.operations[w.count++] = (operation){bytes ? (uint32_t)bytes : 1, (uint32_t)slot, (unsigned)alignment,
                                              fresh ? ALLOCATE : kind ? RESIZE : FREE};
    }
    w.kept = w.count;
    munmap((void *)start, size);
    munmap(free_slots, size * sizeof *free_slots);
    return w;
}

/* ---- how it is done ---- */

typedef struct {
    pthread_t thread;
    work work;
    uint64_t *blocks;
    int loop, touch;
    int64_t began, ended;
} worker;

static pthread_barrier_t line;

static void *run(void *argument)
{
    worker *w = argument;
    const operation *o = w->work.operations;
    chosen->loops[PLAY](o, o + w->work.warm, w->blocks, w->touch);
    pthread_barrier_wait(&line);
    w->began = now();
    chosen->loops[w->loop](o + w->work.warm, o + w->work.count, w->blocks, w->touch);
    w->ended = now();
    return NULL;
}

static void tell(uint64_t operations, int64_t nanoseconds)
{
    printf("{\"operations\": %" PRIu64 ", \"nanoseconds\": %" PRId64 "}\n", operations, nanoseconds);
}

/* From when the first begins until the last ends. */
static void together(uint64_t count, worker *workers)
{
    uint64_t operations = 0;
    pthread_barrier_init(&line, NULL, (unsigned)count);
    for (uint64_t i = 0; i < count; i++) {
        if (pthread_create(&workers[i].thread, NULL, run, &workers[i]))
            fail("no thread");
        if (workers[i].loop != CONSUME)
            operations += workers[i].work.count - workers[i].work.warm;
    }
    int64_t began = INT64_MAX, ended = 0;
    for (uint64_t i = 0; i < count; i++) {
        pthread_join(workers[i].thread, NULL);
        began = workers[i].began < began ? workers[i].began : began;
        ended = workers[i].ended > ended ? workers[i].ended : ended;
    }
    tell(operations, ended - began);
}

static uint64_t resident(void)
{
    static int file = -1;
    char text[128] = "";
    if (file < 0)
        file = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (pread(file, text, sizeof text - 1, 0) <= 0)
        fail("/proc/self/statm: %m");
    return strtoull(strchr(text, ' '), NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Resident memory beyond what was there before the first block, looked at every 256 operations. */
static void footprint(work w, uint64_t *blocks)
{
    uint32_t *sizes = pages((w.slots + 1) * sizeof *sizes), unit;
    memset(sizes, 0, w.slots * sizeof *sizes);
    uint64_t requested = 0, most_requested = 0, live = 0, most = 0, before = resident(), after = 0, tables = 0;
    for (uint64_t i = 0; i < w.kept; i++) {
        const operation *o = &w.operations[i];
        uint32_t size = o->kind == FREE ? 0 : o->size, *had = &sizes[o->slot];
        requested += (uint64_t)size - *had;
        live += (uint64_t)!!size - !!*had;
        *had = size;
        most_requested = requested > most_requested ? requested : most_requested;
        chosen->loops[PLAY](o, o + 1, blocks, 1);
        if (i % 256 == 0 || i + 1 == w.kept) {
            after = resident() - before;
            most = after > most ? after : most;
        }
    }
    stead_statistics known = {0};
    if (arena) {
        if (stead_arena_check(arena, &unit))
            fail("unit %" PRIu32 ": %s", unit, stead_arena_check(arena, &unit));
        stead_arena_statistics(arena, &known);
        for (int i = 0; i < STEAD_TABLES; i++)
            tables += stead_arena_table_used(i, (uint32_t)(known.high_water / STEAD_UNIT));
    }
    settle();
    printf("{\"requested\": %" PRIu64 ", \"most_requested\": %" PRIu64 ", \"live\": %" PRIu64 ", \"resident\": %" PRIu64
           ", \"most_resident\": %" PRIu64 ", \"settled\": %" PRIu64 ", \"high_water\": %" PRIu64 ", \"tables\": %" PRIu64
           "}\n",
           requested, most_requested, live, after, most, resident() - before, known.high_water, tables);
}

static void alone(work w, uint64_t *blocks, int touch)
{
    const operation *o = w.operations;
    chosen->loops[PLAY](o, o + w.warm, blocks, touch);
    int64_t began = now();
    chosen->loops[PLAY](o + w.warm, o + w.count, blocks, touch);
    tell(w.count - w.warm, now() - began);
}

int main(int count, char **arguments)
{
    enum { MOST = 64 };
    static worker workers[MOST];
    uint64_t x[8] = {0}, *blocks;
    if (count < 5)
        fail("replay WAY MODE TEST NUMBER...");
    const char *mode = arguments[2], *test = arguments[3];
    int touch = !strcmp(mode, "touched");
    for (int i = 4; i < count && i < 12; i++)
        x[i - 4] = strtoull(arguments[i], NULL, 0);
    for (unsigned i = 0; i < sizeof ways / sizeof *ways; i++)
        if (!strcmp(arguments[1], ways[i].name))
            chosen = &ways[i];
    if (!chosen)
        fail("no way: %s", arguments[1]);
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0); /* or it is the kernel's mood that is measured */
    begin(chosen->name);

    if (!strcmp(test, "threads")) {
        for (uint64_t i = 0; i < x[0] && i < MOST; i++) {
            work w = churn(x[1], (double)x[2], (double)x[3], x[4], x[5] + i, 0);
            workers[i] = (worker){.work = w, .blocks = pages(w.slots * sizeof *blocks), .touch = touch};
        }
        together(x[0] < MOST ? x[0] : MOST, workers);
        return 0;
    }
    if (!strcmp(test, "handover")) {
        work w = churn(x[2], (double)x[0], (double)x[1], 0, x[3], 0);
        w.warm = 0;
        blocks = pages(RING * sizeof *blocks);
        workers[0] = (worker){.work = w, .blocks = blocks, .loop = PRODUCE};
        workers[1] = (worker){.work = w, .blocks = blocks, .loop = CONSUME};
        together(2, workers);
        return 0;
    }
    work w = {0};
    if (!strcmp(test, "pair"))
        w = pairs((uint32_t)x[0], (unsigned)x[1], x[2]);
    else if (!strcmp(test, "churn") || !strcmp(test, "fill"))
        w = churn(x[0], (double)x[1], (double)x[2], x[3], x[4], *test == 'f');
    else if (!strcmp(test, "trace"))
        w = trace(arguments[4]);
    else
        fail("no test: %s", test);
    blocks = pages((w.slots + 1) * sizeof *blocks);
    memset(blocks, 0, w.slots * sizeof *blocks); /* its pages are there before the first round */
    if (!strcmp(mode, "footprint"))
        footprint(w, blocks);
    else
        alone(w, blocks, touch);
    return 0;
}
