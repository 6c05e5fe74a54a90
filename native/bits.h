/* bits.h - a set of units that is cheap to walk where it is sparse: a bit for each unit, and a bit for each 64 of
 * those words. In memory that processes share; nobody needs a lock.
 */
#ifndef STEAD_BITS_H
#define STEAD_BITS_H

#include <stdint.h>

typedef struct {
    uint64_t *bits, *summary;
    uint32_t words; /* of the summary */
    uint32_t units;
} unit_set;

/* Units rounded up to whole words of the summary; 64-bit words that a set of so many units takes. */
static inline uint64_t unit_set_words(uint32_t max_units)
{
    uint64_t summary = ((uint64_t)max_units + 4095) / 4096;
    return summary * 64 + summary;
}

static inline unit_set unit_set_at(uint64_t *memory, uint32_t max_units)
{
    uint32_t summary = (uint32_t)(((uint64_t)max_units + 4095) / 4096);
    return (unit_set){memory + summary, memory, summary, max_units};
}

static inline int unit_set_has(unit_set s, uint32_t unit)
{
    return __atomic_load_n(&s.bits[unit / 64], __ATOMIC_SEQ_CST) >> unit % 64 & 1;
}

/* Who is killed within has left a bit of the summary too many, which is harmless. */
static inline void unit_set_add(unit_set s, uint32_t unit)
{
    uint64_t bit = UINT64_C(1) << unit % 64, above = UINT64_C(1) << unit / 64 % 64;
    /* Whoever was killed while he tidied may have left a bit without its summary: then it is not there. */
    if (__atomic_load_n(&s.bits[unit / 64], __ATOMIC_SEQ_CST) & bit &&
        __atomic_load_n(&s.summary[unit / 4096], __ATOMIC_SEQ_CST) & above)
        return;
    __atomic_fetch_or(&s.summary[unit / 4096], above, __ATOMIC_SEQ_CST);
    __atomic_fetch_or(&s.bits[unit / 64], bit, __ATOMIC_SEQ_CST);
    /* Somebody may have found nothing in between, and cleared it. */
    __atomic_fetch_or(&s.summary[unit / 4096], above, __ATOMIC_SEQ_CST);
}

static inline void unit_set_drop(unit_set s, uint32_t unit)
{
    __atomic_fetch_and(&s.bits[unit / 64], ~(UINT64_C(1) << unit % 64), __ATOMIC_SEQ_CST);
}

#define NO_UNIT 0xffffffffu

/* The first unit of the set at or after `from`, or NO_UNIT. `tidy`: summaries of words that are empty are cleared. */
static inline uint32_t unit_set_next(unit_set s, uint64_t from, int tidy)
{
    for (uint64_t word = from / 64; word / 64 < s.words; word++) {
        uint64_t *summary = &s.summary[word / 64], above = __atomic_load_n(summary, __ATOMIC_SEQ_CST) >> word % 64;
        if (!above) {
            word |= 63;
            continue;
        }
        word += (unsigned)__builtin_ctzll(above);
        uint64_t found = __atomic_load_n(&s.bits[word], __ATOMIC_SEQ_CST);
        if (!found && tidy) {
            __atomic_fetch_and(summary, ~(UINT64_C(1) << word % 64), __ATOMIC_SEQ_CST);
            if (__atomic_load_n(&s.bits[word], __ATOMIC_SEQ_CST))
                __atomic_fetch_or(summary, UINT64_C(1) << word % 64, __ATOMIC_SEQ_CST);
        }
        if (word == from / 64)
            found &= ~UINT64_C(0) << from % 64;
        if (found) {
            uint64_t unit = word * 64 + (unsigned)__builtin_ctzll(found);
            return unit < s.units ? (uint32_t)unit : NO_UNIT; /* beyond: damaged */
        }
    }
    return NO_UNIT;
}

#endif
