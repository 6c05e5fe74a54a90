/* arena_threads.h - test_arena.c's checks, for arena_threads.c, which has the tests with threads and forks. */
#ifndef ARENA_THREADS_H
#define ARENA_THREADS_H

#include <stdint.h>

void check_equal(const char *file, int line, const char *what, int64_t got, int64_t wanted);
void test_threads(void);

#define EQUAL(call, wanted) check_equal(__FILE__, __LINE__, #call, (int64_t)(call), (int64_t)(wanted))
#define SAME(call, wanted) EQUAL((intptr_t)(call), (intptr_t)(wanted))

static inline uint64_t next_random(uint64_t *state) /* xorshift64* */
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(0x2545f4914f6cdd1d);
}

#endif
