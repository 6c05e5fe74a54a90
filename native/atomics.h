/* atomics.h - elements in shared memory, changed by many at once. Knows no Python. Every operation is sequentially consistent,
 * and atomic for each element, not for all of them together.
 */
#ifndef STEAD_ATOMICS_H
#define STEAD_ATOMICS_H

#include <stdint.h>

/* The order is that of the tables in symmetric/onesided.py. */
typedef enum {
    STEAD_INT8,
    STEAD_INT16,
    STEAD_INT32,
    STEAD_INT64,
    STEAD_UINT8,
    STEAD_UINT16,
    STEAD_UINT32,
    STEAD_UINT64,
    STEAD_FLOAT32,
    STEAD_FLOAT64,
    STEAD_TYPES
} stead_type;

typedef enum {
    STEAD_SUM,
    STEAD_PROD,
    STEAD_MIN,
    STEAD_MAX,
    STEAD_BAND,
    STEAD_BOR,
    STEAD_BXOR,
    STEAD_REPLACE,
    STEAD_OPS
} stead_op;

static inline int stead_is_float(stead_type type) { return type >= STEAD_FLOAT32; }

unsigned stead_type_size(stead_type type);

/* target[i] = target[i] op source[i]. The target is aligned to the element; the source need not be. Sums and products of
 * integers wrap around; an op on bits of a float is -1, and nothing has changed. */
int stead_accumulate(void *target, const void *source, uint64_t count, stead_type type, stead_op op);

/* One element: what was there before into `before`. */
void stead_fetch_add(void *target, const void *value, void *before, stead_type type);

/* One element, an integer: put `desired` where `expected` is; what was there before into `before`. */
void stead_compare_and_swap(void *target, const void *expected, const void *desired, void *before, stead_type type);

#endif
