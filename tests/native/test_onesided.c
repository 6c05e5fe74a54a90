/* test_onesided.c - the parts of a symmetric heap's core that know neither Python nor MPI: which blocks are live, against a plain
 * list; and atomics, against the same without them and from many threads. With a pretended MPI, the calls that go through one.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "atomics.h"
#include "live.h"
#include "mpi_calls.h"

#define CHECK(CONDITION)                                                            \
    do {                                                                            \
        if (!(CONDITION)) {                                                         \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #CONDITION);         \
            abort();                                                                \
        }                                                                           \
    } while (0)

static uint64_t seed = 88172645463325252u;

static uint64_t draw(uint64_t below)
{
    seed ^= seed << 13; /* xorshift64: Marsaglia, 2003 */
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % below;
}

/* ---- live blocks ---- */

enum { SLOTS = 4096, SLOT = 64 };

/* Slot i of the model is [i * SLOT, i * SLOT + sizes[i]), or free. */
static uint64_t sizes[SLOTS];

static void ask(stead_live *live, uint64_t address)
{
    uint64_t start, stop, slot = address / SLOT;
    int is = slot < SLOTS && address % SLOT < sizes[slot];
    CHECK(stead_live_find(live, address, &start, &stop) == is);
    if (is)
        CHECK(start == slot * SLOT && stop == start + sizes[slot]);
}

static void live_blocks(void)
{
    stead_live *live = stead_live_make();
    uint64_t start, stop, count = 0;
    CHECK(live);
    CHECK(!stead_live_find(live, 0, &start, &stop));
    CHECK(stead_live_drop(live, 0) == -ENOENT);
    /* Fuller and emptier in turns, so that leaves are split and end. */
    for (int round = 0; round < 12; round++)
        for (int i = 0; i < 6000; i++) {
            uint64_t slot = draw(SLOTS), at = slot * SLOT;
            int adding = draw(10) < (round % 2 ? 2u : 8u);
            if (adding && !sizes[slot]) {
                sizes[slot] = 1 + draw(SLOT);
                CHECK(!stead_live_add(live, at, at + sizes[slot]));
                count++;
            } else if (!adding) {
                CHECK(stead_live_drop(live, at) == (sizes[slot] ? 0 : -ENOENT));
                count -= sizes[slot] != 0;
                sizes[slot] = 0;
            }
            CHECK(stead_live_count(live) == count);
            ask(live, at + draw(SLOT));
            ask(live, draw((SLOTS + 1) * SLOT));
        }
    for (uint64_t slot = 0; slot < SLOTS; slot++) {
        ask(live, slot * SLOT + SLOT - 1);
        CHECK(stead_live_drop(live, slot * SLOT + 1) == -ENOENT);
        CHECK(stead_live_drop(live, slot * SLOT) == (sizes[slot] ? 0 : -ENOENT));
        sizes[slot] = 0;
        ask(live, slot * SLOT);
    }
    CHECK(!stead_live_count(live));
    /* In order, as a heap fills, and from above. */
    for (uint64_t i = 0; i < SLOTS; i++) {
        uint64_t slot = i % 2 ? i : SLOTS - 2 - i;
        sizes[slot] = SLOT;
        CHECK(!stead_live_add(live, slot * SLOT, slot * SLOT + SLOT));
    }
    for (uint64_t i = 0; i < SLOTS; i++)
        ask(live, i * SLOT + draw(SLOT));
    stead_live_end(live);
    stead_live_end(NULL);
    memset(sizes, 0, sizeof sizes);
}

enum { LOOKERS = 3 };

static void *look(void *shared)
{
    uint64_t start, stop;
    for (int i = 0; i < 20000; i++)
        if (stead_live_find(shared, (uint64_t)(i % 64) * SLOT, &start, &stop))
            CHECK(stop - start == SLOT && start % SLOT == 0);
    return NULL;
}

static void live_blocks_while_others_look(void)
{
    stead_live *live = stead_live_make();
    pthread_t threads[LOOKERS];
    CHECK(live);
    for (int i = 0; i < LOOKERS; i++)
        CHECK(!pthread_create(&threads[i], NULL, look, live));
    for (uint64_t i = 0; i < 20000; i++) {
        uint64_t at = i % 64 * SLOT;
        if (stead_live_drop(live, at))
            CHECK(!stead_live_add(live, at, at + SLOT));
    }
    for (int i = 0; i < LOOKERS; i++)
        CHECK(!pthread_join(threads[i], NULL));
    stead_live_end(live);
}

/* ---- atomics ---- */

/* The same by plain arithmetic, in the type itself. */
#define PLAIN(NAME, T, U, BITS)                                             \
    static T plain_##NAME(T there, T given, stead_op op)                    \
    {                                                                       \
        switch (op) {                                                       \
        case STEAD_SUM: return (T)(U)((U)there + (U)given);                 \
        case STEAD_PROD: return (T)(U)((U)1 * (U)there * (U)given);         \
        case STEAD_MIN: return given < there ? given : there;               \
        case STEAD_MAX: return given > there ? given : there;               \
        case STEAD_BAND: return (T)((BITS)there & (BITS)given);             \
        case STEAD_BOR: return (T)((BITS)there | (BITS)given);              \
        case STEAD_BXOR: return (T)((BITS)there ^ (BITS)given);             \
        default: return given;                                              \
        }                                                                   \
    }                                                                       \
    static void try_##NAME(stead_type type)                                 \
    {                                                                       \
        char source[5 * sizeof(T) + 1];                                     \
        _Alignas(8) T target[5];                                            \
        T was[5], given[5], old;                                            \
        for (int op = 0; op < STEAD_OPS; op++) {                            \
            int none = stead_is_float(type) && op >= STEAD_BAND && op <= STEAD_BXOR; \
            for (int round = 0; round < 50; round++) {                      \
                for (int i = 0; i < 5; i++) {                               \
                    target[i] = was[i] = (T)(int64_t)(draw(2000) - 1000);   \
                    given[i] = (T)(int64_t)(draw(2000) - 1000);             \
                }                                                           \
                memcpy(source + 1, given, sizeof given); /* not aligned */  \
                CHECK(stead_accumulate(target, source + 1, 5, type, (stead_op)op) == (none ? -1 : 0)); \
                for (int i = 0; i < 5; i++)                                 \
                    CHECK(target[i] == (none ? was[i] : plain_##NAME(was[i], given[i], (stead_op)op))); \
            }                                                               \
        }                                                                   \
        CHECK(!stead_accumulate(target, source, 0, type, STEAD_SUM));       \
        target[1] = was[1] = (T)7;                                          \
        stead_fetch_add(&target[1], &given[0], &old, type);                 \
        CHECK(old == (T)7 && target[1] == plain_##NAME((T)7, given[0], STEAD_SUM)); \
        if (!stead_is_float(type)) {                                        \
            T expected = (T)5, desired = (T)6;                              \
            target[2] = (T)5;                                               \
            stead_compare_and_swap(&target[2], &expected, &desired, &old, type); \
            CHECK(old == (T)5 && target[2] == (T)6);                        \
            stead_compare_and_swap(&target[2], &expected, &desired, &old, type); \
            CHECK(old == (T)6 && target[2] == (T)6);                        \
        }                                                                   \
        CHECK(stead_type_size(type) == sizeof(T));                          \
    }
PLAIN(int8, int8_t, uint32_t, uint32_t)
PLAIN(int16, int16_t, uint32_t, uint32_t)
PLAIN(int32, int32_t, uint32_t, uint32_t)
PLAIN(int64, int64_t, uint64_t, uint64_t)
PLAIN(uint8, uint8_t, uint32_t, uint32_t)
PLAIN(uint16, uint16_t, uint32_t, uint32_t)
PLAIN(uint32, uint32_t, uint32_t, uint32_t)
PLAIN(uint64, uint64_t, uint64_t, uint64_t)
PLAIN(float32, float, float, int64_t)
PLAIN(float64, double, double, int64_t)

static void every_type_and_op(void)
{
    try_int8(STEAD_INT8), try_int16(STEAD_INT16), try_int32(STEAD_INT32), try_int64(STEAD_INT64);
    try_uint8(STEAD_UINT8), try_uint16(STEAD_UINT16), try_uint32(STEAD_UINT32), try_uint64(STEAD_UINT64);
    try_float32(STEAD_FLOAT32), try_float64(STEAD_FLOAT64);
}

enum { THREADS = 4, TIMES = 5000 };

static struct {
    int64_t sum, tickets, swapped;
    double real;
    uint8_t bytes[8]; /* neighbours that must not be disturbed */
    uint64_t bits;
    int32_t least, product;
} shared;

static void *contend(void *number)
{
    int64_t me = (int64_t)(intptr_t)number, last = -1, one = 1;
    double half = 0.5;
    uint8_t byte = 1;
    uint64_t bit = (uint64_t)1 << me;
    int32_t mine = (int32_t)-me, minus = -1;
    for (int i = 0; i < TIMES; i++) {
        int64_t ticket, seen = 0, next, before;
        stead_accumulate(&shared.sum, &one, 1, STEAD_INT64, STEAD_SUM);
        stead_fetch_add(&shared.tickets, &one, &ticket, STEAD_INT64);
        CHECK(ticket > last); /* each thread's rise, and no two threads get the same: see the sum */
        last = ticket;
        stead_accumulate(&shared.real, &half, 1, STEAD_FLOAT64, STEAD_SUM);
        stead_accumulate(&shared.bytes[me], &byte, 1, STEAD_UINT8, STEAD_SUM);
        stead_accumulate(&shared.bits, &bit, 1, STEAD_UINT64, STEAD_BXOR);
        stead_accumulate(&shared.least, &mine, 1, STEAD_INT32, STEAD_MIN);
        stead_accumulate(&shared.product, &minus, 1, STEAD_INT32, STEAD_PROD);
        for (;; seen = before) {
            next = seen + 1;
            stead_compare_and_swap(&shared.swapped, &seen, &next, &before, STEAD_INT64);
            if (before == seen)
                break;
        }
    }
    return NULL;
}

static void atomics_contended(void)
{
    pthread_t threads[THREADS];
    shared.product = 1;
    for (intptr_t i = 0; i < THREADS; i++)
        CHECK(!pthread_create(&threads[i], NULL, contend, (void *)i));
    for (int i = 0; i < THREADS; i++)
        CHECK(!pthread_join(threads[i], NULL));
    CHECK(shared.sum == THREADS * TIMES && shared.tickets == THREADS * TIMES && shared.swapped == THREADS * TIMES);
    CHECK(shared.real == THREADS * TIMES * 0.5);
    for (int i = 0; i < 8; i++)
        CHECK(shared.bytes[i] == (uint8_t)(i < THREADS ? TIMES : 0));
    CHECK(shared.bits == 0 && shared.least == 1 - THREADS && shared.product == 1);
}

/* ---- an MPI of one process, whose handles are of either size, and whose memory is `window` ---- */

static _Alignas(8) char window[4096];
static uint64_t flushes, exchanges;
static int fails_at = -1; /* which exchange does */

/* A function for handles that are ints, and the same for pointers. Handles: 7 is the window, 9 bytes, 100 + type, 200 + op. */
#define BOTH(X) X(small, int) X(large, void *)
#define IS(HANDLE, NUMBER) ((intptr_t)(HANDLE) == (NUMBER))
#define TYPE(HANDLE) ((stead_type)((intptr_t)(HANDLE)-100))

#define PRETENDED(SIZE, H)                                                                                              \
    static int put_##SIZE(const void *from, int n, H type, int rank, intptr_t at, int m, H there, H win)                \
    {                                                                                                                   \
        CHECK(IS(type, 9) && IS(there, 9) && IS(win, 7) && n == m && rank == 3);                                        \
        memcpy(window + at, from, (size_t)n);                                                                           \
        return 0;                                                                                                       \
    }                                                                                                                   \
    static int get_##SIZE(void *into, int n, H type, int rank, intptr_t at, int m, H there, H win)                      \
    {                                                                                                                   \
        CHECK(IS(type, 9) && IS(there, 9) && IS(win, 7) && n == m && rank == 3);                                        \
        memcpy(into, window + at, (size_t)n);                                                                           \
        return 0;                                                                                                       \
    }                                                                                                                   \
    static int accumulate_##SIZE(const void *from, int n, H type, int rank, intptr_t at, int m, H there, H op, H win)   \
    {                                                                                                                   \
        CHECK(type == there && IS(win, 7) && n == m && rank == 3);                                                      \
        return stead_accumulate(window + at, from, (uint64_t)n, TYPE(type), (stead_op)((intptr_t)op - 200));            \
    }                                                                                                                   \
    static int fetch_##SIZE(const void *value, void *before, H type, int rank, intptr_t at, H op, H win)                \
    {                                                                                                                   \
        CHECK(IS(op, 200 + STEAD_SUM) && IS(win, 7) && rank == 3);                                                      \
        stead_fetch_add(window + at, value, before, TYPE(type));                                                        \
        return 0;                                                                                                       \
    }                                                                                                                   \
    static int swap_##SIZE(const void *desired, const void *expected, void *before, H type, int rank, intptr_t at, H win) \
    {                                                                                                                   \
        CHECK(IS(win, 7) && rank == 3);                                                                                 \
        if ((int)exchanges++ == fails_at)                                                                               \
            return 17;                                                                                                  \
        stead_compare_and_swap(window + at, expected, desired, before, TYPE(type));                                     \
        return 0;                                                                                                       \
    }                                                                                                                   \
    static int flush_##SIZE(int rank, H win)                                                                            \
    {                                                                                                                   \
        CHECK(rank == 3 && IS(win, 7));                                                                                 \
        flushes++;                                                                                                      \
        return 0;                                                                                                       \
    }                                                                                                                   \
    static int flush_all_##SIZE(H win)                                                                                  \
    {                                                                                                                   \
        CHECK(IS(win, 7));                                                                                              \
        flushes += 1000;                                                                                                \
        return 0;                                                                                                       \
    }
BOTH(PRETENDED)

#define FILL(SIZE, H)                                  \
    static void fill_##SIZE(stead_mpi *m)              \
    {                                                  \
        m->put = __extension__(void *)put_##SIZE;      \
        m->get = __extension__(void *)get_##SIZE;      \
        m->accumulate = __extension__(void *)accumulate_##SIZE; \
        m->fetch_and_op = __extension__(void *)fetch_##SIZE;    \
        m->compare_and_swap = __extension__(void *)swap_##SIZE; \
        m->flush = __extension__(void *)flush_##SIZE;  \
        m->flush_all = __extension__(void *)flush_all_##SIZE;   \
    }
BOTH(FILL)

static void through_mpi(int small)
{
    stead_mpi m = {.small = small, .win = 7, .byte = 9};
    int64_t value = 5, before = 0, next = 8;
    char back[100];
    uint16_t bits[300];
    for (unsigned i = 0; i < STEAD_TYPES; i++)
        m.types[i] = 100 + i;
    for (unsigned i = 0; i < STEAD_OPS; i++)
        m.ops[i] = 200 + i;
    (small ? fill_small : fill_large)(&m);
    memset(window, 0, sizeof window);
    CHECK(!stead_mpi_put(&m, "0123456789", 10, 3, 100) && !stead_mpi_get(&m, back, 10, 3, 100));
    CHECK(!memcmp(back, "0123456789", 10));
    CHECK(!stead_mpi_accumulate(&m, &value, 1, 3, 8, STEAD_INT64, STEAD_SUM));
    CHECK(!stead_mpi_fetch_add(&m, &value, &before, 3, 8, STEAD_INT64) && before == 5);
    value = 10;
    CHECK(!stead_mpi_compare_and_swap(&m, &value, &next, &before, 3, 8, STEAD_INT64) && before == 10);
    CHECK(!stead_mpi_get(&m, &value, 8, 3, 8) && value == 8);
    /* Bits: by exchanges, of more elements than go at once. */
    for (stead_op op = STEAD_BAND; op <= STEAD_BXOR; op++) {
        uint16_t there[300];
        for (int i = 0; i < 300; i++) {
            bits[i] = (uint16_t)draw(1 << 16);
            there[i] = (uint16_t)(draw(3) ? draw(1 << 16) : 0);
        }
        memcpy(window + 1000, there, sizeof there);
        CHECK(!stead_mpi_accumulate(&m, bits, 300, 3, 1000, STEAD_UINT16, op));
        CHECK(!stead_accumulate(there, bits, 300, STEAD_UINT16, op));
        CHECK(!memcmp(window + 1000, there, sizeof there));
    }
    for (int failing = 0; failing < 2; failing++) { /* in the first block of elements, and in the last */
        exchanges = 0;
        fails_at = failing ? 520 : 3;
        memset(window + 1000, 1, 600);
        CHECK(stead_mpi_accumulate(&m, bits, 300, 3, 1000, STEAD_UINT16, STEAD_BOR) == 17);
    }
    fails_at = -1;
    flushes = 0;
    CHECK(!stead_mpi_flush(&m, 3) && !stead_mpi_flush_all(&m) && flushes == 1001);
}

int main(void)
{
    stead_mpi none;
    live_blocks();
    live_blocks_while_others_look();
    every_type_and_op();
    atomics_contended();
    through_mpi(1);
    through_mpi(0);
    CHECK(stead_mpi_find(&none, "/nowhere") != NULL); /* nobody has loaded an MPI here */
    puts("test_onesided: good");
    return 0;
}
