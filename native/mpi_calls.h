/* mpi_calls.h - the calls of MPI that move data, of whichever MPI the process has loaded. Knows no Python, and no mpi.h: MPI's
 * handles are ints in some (MPICH), pointers in others (Open MPI, the ABI of MPI-5), and which it is, is asked of mpi4py.
 */
#ifndef STEAD_MPI_CALLS_H
#define STEAD_MPI_CALLS_H

#include <stdint.h>

#include "atomics.h"

#define STEAD_MPI_CALLS(X) \
    X(put, "MPI_Put")      \
    X(get, "MPI_Get")      \
    X(accumulate, "MPI_Accumulate") \
    X(fetch_and_op, "MPI_Fetch_and_op") \
    X(compare_and_swap, "MPI_Compare_and_swap") \
    X(flush, "MPI_Win_flush") \
    X(flush_all, "MPI_Win_flush_all")

typedef struct {
    int small; /* handles are ints */
    uint64_t win, byte, types[STEAD_TYPES], ops[STEAD_OPS];
#define FIELD(NAME, SYMBOL) void *NAME;
    STEAD_MPI_CALLS(FIELD)
#undef FIELD
} stead_mpi;

/* Find the calls as `library` (a path, already loaded) has them: NULL, or the name of one that is not there. */
const char *stead_mpi_find(stead_mpi *mpi, const char *library);

/* Each: what MPI answers, 0 is success. `at`: bytes into the window. Nothing is complete at the target before a flush. */
int stead_mpi_put(const stead_mpi *mpi, const void *from, uint64_t size, int rank, uint64_t at);
int stead_mpi_get(const stead_mpi *mpi, void *into, uint64_t size, int rank, uint64_t at);
int stead_mpi_accumulate(const stead_mpi *mpi, const void *from, uint64_t count, int rank, uint64_t at, stead_type type,
                         stead_op op);
int stead_mpi_fetch_add(const stead_mpi *mpi, const void *value, void *before, int rank, uint64_t at, stead_type type);
int stead_mpi_compare_and_swap(const stead_mpi *mpi, const void *expected, const void *desired, void *before, int rank,
                               uint64_t at, stead_type type);
int stead_mpi_flush(const stead_mpi *mpi, int rank);
int stead_mpi_flush_all(const stead_mpi *mpi);

#endif
