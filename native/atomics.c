/* atomics.c - see atomics.h. One loop for all operations: load, compute, compare and exchange. Sums of integers, and
 * operations on bits, are what processors have an instruction for.
 */
#include "atomics.h"

#include <string.h>

unsigned stead_type_size(stead_type type)
{
    static const unsigned char sizes[STEAD_TYPES] = {1, 2, 4, 8, 1, 2, 4, 8, 4, 8};
    return sizes[type];
}

/* Integers of these types promote or wrap: they are computed unsigned, where overflow is defined, and as wide as an int. */
#define INTEGERS(X)                          \
    X(STEAD_INT8, int8_t, uint8_t, uint32_t) \
    X(STEAD_INT16, int16_t, uint16_t, uint32_t) \
    X(STEAD_INT32, int32_t, uint32_t, uint32_t) \
    X(STEAD_INT64, int64_t, uint64_t, uint64_t) \
    X(STEAD_UINT8, uint8_t, uint8_t, uint32_t) \
    X(STEAD_UINT16, uint16_t, uint16_t, uint32_t) \
    X(STEAD_UINT32, uint32_t, uint32_t, uint32_t) \
    X(STEAD_UINT64, uint64_t, uint64_t, uint64_t)

#define FLOATS(X)                        \
    X(STEAD_FLOAT32, float, uint32_t)    \
    X(STEAD_FLOAT64, double, uint64_t)

/* ---- one element, whose op has no instruction ---- */

#define INTEGER_LOOP(CODE, TYPE, BITS, WIDE)                                                                \
    static TYPE loop_##CODE(TYPE *target, TYPE value, stead_op op)                                          \
    {                                                                                                       \
        TYPE there = __atomic_load_n(target, __ATOMIC_RELAXED), made = there;                               \
        do {                                                                                                \
            if (op == STEAD_PROD)                                                                           \
                made = (TYPE)(BITS)((WIDE)(BITS)there * (WIDE)(BITS)value);                                 \
            else if (op == STEAD_MIN)                                                                       \
                made = value < there ? value : there;                                                       \
            else                                                                                            \
                made = value > there ? value : there;                                                       \
        } while (!__atomic_compare_exchange_n(target, &there, made, 1, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)); \
        return there;                                                                                       \
    }
INTEGERS(INTEGER_LOOP)

/* Compared by their bits: a NaN, and a zero of either sign, is what it is. */
#define FLOAT_LOOP(CODE, TYPE, BITS)                                                                        \
    static TYPE loop_##CODE(BITS *target, TYPE value, stead_op op)                                          \
    {                                                                                                       \
        BITS there = __atomic_load_n(target, __ATOMIC_RELAXED), next;                                       \
        TYPE now, made;                                                                                     \
        do {                                                                                                \
            memcpy(&now, &there, sizeof now);                                                               \
            switch (op) {                                                                                   \
            case STEAD_SUM: made = now + value; break;                                                      \
            case STEAD_PROD: made = now * value; break;                                                     \
            case STEAD_MIN: made = value < now ? value : now; break;                                        \
            case STEAD_MAX: made = value > now ? value : now; break;                                        \
            default: made = value;                                                                          \
            }                                                                                               \
            memcpy(&next, &made, sizeof next);                                                              \
        } while (!__atomic_compare_exchange_n(target, &there, next, 1, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)); \
        return now;                                                                                         \
    }
FLOATS(FLOAT_LOOP)

/* ---- many ---- */

#define EACH(TYPE, CHANGE)                       \
    for (uint64_t i = 0; i < count; i++) {       \
        TYPE value;                              \
        memcpy(&value, from + i * sizeof value, sizeof value); \
        CHANGE;                                  \
    }                                            \
    break;

#define INTEGER_CASE(CODE, TYPE, BITS, WIDE)                                            \
    case CODE: {                                                                        \
        TYPE *to = target;                                                              \
        switch (op) {                                                                   \
        case STEAD_SUM: EACH(TYPE, __atomic_fetch_add(to + i, value, __ATOMIC_SEQ_CST)) \
        case STEAD_BAND: EACH(TYPE, __atomic_fetch_and(to + i, value, __ATOMIC_SEQ_CST)) \
        case STEAD_BOR: EACH(TYPE, __atomic_fetch_or(to + i, value, __ATOMIC_SEQ_CST))  \
        case STEAD_BXOR: EACH(TYPE, __atomic_fetch_xor(to + i, value, __ATOMIC_SEQ_CST)) \
        case STEAD_REPLACE: EACH(TYPE, __atomic_store_n(to + i, value, __ATOMIC_SEQ_CST)) \
        default: EACH(TYPE, (void)loop_##CODE(to + i, value, op))                       \
        }                                                                               \
        break;                                                                          \
    }

#define FLOAT_CASE(CODE, TYPE, BITS)                     \
    case CODE: {                                         \
        BITS *to = target;                               \
        EACH(TYPE, (void)loop_##CODE(to + i, value, op)) \
    }

int stead_accumulate(void *target, const void *source, uint64_t count, stead_type type, stead_op op)
{
    const char *from = source;
    if (stead_is_float(type) && (op == STEAD_BAND || op == STEAD_BOR || op == STEAD_BXOR))
        return -1;
    switch (type) {
        INTEGERS(INTEGER_CASE)
        FLOATS(FLOAT_CASE)
    default: return -1;
    }
    return 0;
}

#define INTEGER_ADD(CODE, TYPE, BITS, WIDE)                                  \
    case CODE: {                                                             \
        TYPE more, was;                                                      \
        memcpy(&more, value, sizeof more);                                   \
        was = __atomic_fetch_add((TYPE *)target, more, __ATOMIC_SEQ_CST);    \
        memcpy(before, &was, sizeof was);                                    \
        break;                                                               \
    }

#define FLOAT_ADD(CODE, TYPE, BITS)                        \
    case CODE: {                                           \
        TYPE more, was;                                    \
        memcpy(&more, value, sizeof more);                 \
        was = loop_##CODE(target, more, STEAD_SUM);        \
        memcpy(before, &was, sizeof was);                  \
        break;                                             \
    }

void stead_fetch_add(void *target, const void *value, void *before, stead_type type)
{
    switch (type) {
        INTEGERS(INTEGER_ADD)
        FLOATS(FLOAT_ADD)
    default: break;
    }
}

#define SWAP(BITS)                                                                                              \
    {                                                                                                           \
        BITS was, next;                                                                                         \
        memcpy(&was, expected, sizeof was);                                                                     \
        memcpy(&next, desired, sizeof next);                                                                    \
        (void)__atomic_compare_exchange_n((BITS *)target, &was, next, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);   \
        memcpy(before, &was, sizeof was);                                                                       \
        break;                                                                                                  \
    }

void stead_compare_and_swap(void *target, const void *expected, const void *desired, void *before, stead_type type)
{
    switch (stead_type_size(type)) {
    case 1: SWAP(uint8_t)
    case 2: SWAP(uint16_t)
    case 4: SWAP(uint32_t)
    default: SWAP(uint64_t)
    }
}
