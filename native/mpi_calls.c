/* mpi_calls.c - see mpi_calls.h. Called directly and not through mpi4py, whose reading of the arguments costs as much as a small
 * transfer does.
 */
#define _GNU_SOURCE /* RTLD_DEFAULT */
#include "mpi_calls.h"


#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

/* Of one call: counts are ints. A multiple of every element's size. */
#define PIECE (UINT64_C(1) << 30)

typedef intptr_t aint; /* MPI_Aint holds an address */

const char *stead_mpi_find(stead_mpi *mpi, const char *library)
{
    /* Of the library that mpi4py is: it looks through what that is linked to. Where it is linked to nothing and MPI was
     * loaded for everyone, through everything. */
    void *handle = dlopen(library, RTLD_NOW | RTLD_NOLOAD);
    const char *missing = NULL;
#define FIND(NAME, SYMBOL)                                     \
    mpi->NAME = handle ? dlsym(handle, SYMBOL) : NULL;         \
    if (!mpi->NAME)                                            \
        mpi->NAME = dlsym(RTLD_DEFAULT, SYMBOL);               \
    if (!mpi->NAME)                                            \
        missing = SYMBOL;
    STEAD_MPI_CALLS(FIND)
    if (handle)
        dlclose(handle); /* it stays: Python never unloads a module */
    return missing;
}

/* One call, with handles of either size. C has no cast from an object pointer to a function pointer; POSIX has (dlsym). */
#define WITH_HANDLES(MPI, CALL_WITH) ((MPI)->small ? CALL_WITH(int) : CALL_WITH(handle))
typedef void *handle;
#define HANDLE(TYPE, VALUE) ((TYPE)(intptr_t)(VALUE))
#define FUNCTION(TYPE, POINTER) (__extension__(TYPE)(POINTER))

static int put(const stead_mpi *m, const void *from, int n, int rank, aint at)
{
#define PUT(H)                                                                                                \
    FUNCTION(int (*)(const void *, int, H, int, aint, int, H, H), m->put)(from, n, HANDLE(H, m->byte), rank, at, n, \
                                                                         HANDLE(H, m->byte), HANDLE(H, m->win))
    return WITH_HANDLES(m, PUT);
}

static int get(const stead_mpi *m, void *into, int n, int rank, aint at)
{
#define GET(H)                                                                                          \
    FUNCTION(int (*)(void *, int, H, int, aint, int, H, H), m->get)(into, n, HANDLE(H, m->byte), rank, at, n, \
                                                                   HANDLE(H, m->byte), HANDLE(H, m->win))
    return WITH_HANDLES(m, GET);
}

static int accumulate(const stead_mpi *m, const void *from, int n, int rank, aint at, stead_type type, stead_op op)
{
#define ACCUMULATE(H)                                                                \
    FUNCTION(int (*)(const void *, int, H, int, aint, int, H, H, H), m->accumulate)( \
        from, n, HANDLE(H, m->types[type]), rank, at, n, HANDLE(H, m->types[type]), HANDLE(H, m->ops[op]), HANDLE(H, m->win))
    return WITH_HANDLES(m, ACCUMULATE);
}

int stead_mpi_put(const stead_mpi *m, const void *from, uint64_t size, int rank, uint64_t at)
{
    const char *bytes = from;
    for (; size > PIECE; bytes += PIECE, at += PIECE, size -= PIECE) {
        int got = put(m, bytes, (int)PIECE, rank, (aint)at);
        if (got)
            return got;
    }
    return put(m, bytes, (int)size, rank, (aint)at);
}

int stead_mpi_get(const stead_mpi *m, void *into, uint64_t size, int rank, uint64_t at)
{
    char *bytes = into;
    for (; size > PIECE; bytes += PIECE, at += PIECE, size -= PIECE) {
        int got = get(m, bytes, (int)PIECE, rank, (aint)at);
        if (got)
            return got;
    }
    return get(m, bytes, (int)size, rank, (aint)at);
}

/* ---- on bits ---- */

#define TOGETHER 256u /* elements whose exchanges are on their way at once */

static void combine(const char *there, const char *given, char *made, unsigned size, stead_op op)
{
    for (unsigned i = 0; i < size; i++)
        made[i] = (char)(op == STEAD_BAND ? there[i] & given[i] : op == STEAD_BOR ? there[i] | given[i] : there[i] ^ given[i]);
}

/* By compare and swap: Open MPI 5.0.11 combines 64 bits of another process on the same host with themselves, and not with what is
 * given (osc/rdma over btl/sm; MPI_Accumulate and MPI_Fetch_and_op). What is there is not known at first: 0 is tried, and the
 * answer says. */
static int combine_bits(const stead_mpi *m, const char *from, unsigned count, int rank, uint64_t at, stead_type type, stead_op op)
{
    unsigned size = stead_type_size(type), left = count;
    char expected[TOGETHER][8] = {{0}}, desired[TOGETHER][8], before[TOGETHER][8];
    unsigned char done[TOGETHER] = {0};
    while (left) {
        for (unsigned i = 0; i < count; i++) {
            if (done[i])
                continue;
            combine(expected[i], from + i * size, desired[i], size, op);
            int got = stead_mpi_compare_and_swap(m, expected[i], desired[i], before[i], rank, at + i * size, type);
            if (got)
                return got;
        }
        int got = stead_mpi_flush(m, rank);
        if (got)
            return got;
        for (unsigned i = 0; i < count; i++) {
            if (done[i])
                continue;
            done[i] = !memcmp(before[i], expected[i], size);
            left -= done[i];
            memcpy(expected[i], before[i], size);
        }
    }
    return 0;
}

static int accumulate_bits(const stead_mpi *m, const char *from, uint64_t count, int rank, uint64_t at, stead_type type, stead_op op)
{
    uint64_t step = TOGETHER * stead_type_size(type);
    for (; count; from += step, at += step) {
        unsigned now = count < TOGETHER ? (unsigned)count : TOGETHER;
        int got = combine_bits(m, from, now, rank, at, type, op);
        if (got)
            return got;
        count -= now;
    }
    return 0;
}

int stead_mpi_accumulate(const stead_mpi *m, const void *from, uint64_t count, int rank, uint64_t at, stead_type type,
                         stead_op op)
{
    uint64_t size = stead_type_size(type), most = PIECE / size;
    const char *bytes = from;
    if (op == STEAD_BAND || op == STEAD_BOR || op == STEAD_BXOR)
        return accumulate_bits(m, bytes, count, rank, at, type, op);
    for (; count > most; bytes += PIECE, at += PIECE, count -= most) {
        int got = accumulate(m, bytes, (int)most, rank, (aint)at, type, op);
        if (got)
            return got;
    }
    return accumulate(m, bytes, (int)count, rank, (aint)at, type, op);
}

int stead_mpi_fetch_add(const stead_mpi *m, const void *value, void *before, int rank, uint64_t at, stead_type type)
{
#define FETCH_ADD(H)                                                                      \
    FUNCTION(int (*)(const void *, void *, H, int, aint, H, H), m->fetch_and_op)(         \
        value, before, HANDLE(H, m->types[type]), rank, (aint)at, HANDLE(H, m->ops[STEAD_SUM]), HANDLE(H, m->win))
    return WITH_HANDLES(m, FETCH_ADD);
}

int stead_mpi_compare_and_swap(const stead_mpi *m, const void *expected, const void *desired, void *before, int rank,
                               uint64_t at, stead_type type)
{
#define COMPARE_AND_SWAP(H)                                                                               \
    FUNCTION(int (*)(const void *, const void *, void *, H, int, aint, H), m->compare_and_swap)(          \
        desired, expected, before, HANDLE(H, m->types[type]), rank, (aint)at, HANDLE(H, m->win))
    return WITH_HANDLES(m, COMPARE_AND_SWAP);
}

int stead_mpi_flush(const stead_mpi *m, int rank)
{
#define FLUSH(H) FUNCTION(int (*)(int, H), m->flush)(rank, HANDLE(H, m->win))
    return WITH_HANDLES(m, FLUSH);
}

int stead_mpi_flush_all(const stead_mpi *m)
{
#define FLUSH_ALL(H) FUNCTION(int (*)(H), m->flush_all)(HANDLE(H, m->win))
    return WITH_HANDLES(m, FLUSH_ALL);
}
