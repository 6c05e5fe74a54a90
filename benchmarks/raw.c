/* raw.c - what benchmarks/claims.py compares with: the system calls alone, looped and timed in C.
 *
 * Every timed function makes n rounds and returns nanoseconds for all of them, or a negated errno (EPROTO
 * where the kernel answered something else than the benchmark is about).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <time.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

#define NO_MEMORY (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static void *at(uint64_t address)
{
    return (void *)(uintptr_t)address;
}

static int64_t refused(void *got)
{
    return got == MAP_FAILED ? -(int64_t)errno : -EPROTO;
}

/* The cost of a loop with nothing in it but a clock: none to speak of, shown so that nobody has to believe it. */
int64_t raw_nothing(int64_t n)
{
    int64_t began = now();
    for (volatile int64_t i = 0; i < n; i++)
        ;
    return now() - began;
}

int64_t raw_lost_claim(uint64_t address, size_t size, int64_t n)
{
    int64_t began = now();
    for (int64_t i = 0; i < n; i++) {
        void *got = mmap(at(address), size, PROT_NONE, NO_MEMORY | MAP_FIXED_NOREPLACE, -1, 0);
        if (got != MAP_FAILED || errno != EEXIST)
            return refused(got);
    }
    return now() - began;
}

int64_t raw_lost_hint(uint64_t address, size_t size, int64_t n)
{
    int64_t began = now();
    for (int64_t i = 0; i < n; i++) {
        void *got = mmap(at(address), size, PROT_NONE, NO_MEMORY, -1, 0);
        if (got == MAP_FAILED || got == at(address))
            return refused(got);
        if (munmap(got, size))
            return -(int64_t)errno;
    }
    return now() - began;
}

static int pair(void *address, size_t size, int dontdump)
{
    void *got = mmap(address, size, PROT_NONE, NO_MEMORY | MAP_FIXED_NOREPLACE, -1, 0);
    if (got != address) {
        errno = got == MAP_FAILED ? errno : EPROTO;
        return -1;
    }
    if (dontdump && madvise(got, size, MADV_DONTDUMP))
        return -1;
    return munmap(got, size);
}

int64_t raw_pair(uint64_t address, size_t size, int dontdump, int64_t n)
{
    int64_t began = now();
    for (int64_t i = 0; i < n; i++)
        if (pair(at(address), size, dontdump))
            return -(int64_t)errno;
    return now() - began;
}

/* SplitMix64, as in src/stead/placement.py. */
static uint64_t scatter(uint64_t attempt)
{
    uint64_t z = (attempt + 1) * UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

int64_t raw_scattered_pair(uint64_t low, uint64_t high, uint64_t step, size_t size, uint64_t draw, int dontdump,
                           int64_t n)
{
    uint64_t places = (high - low - size) / step + 1;
    int64_t began = now();
    for (int64_t i = 0; i < n; i++)
        if (pair(at(low + scatter(draw + (uint64_t)i) % places * step), size, dontdump))
            return -(int64_t)errno;
    return now() - began;
}

/* Inside a reservation of the caller's. */
int64_t raw_commit_pair(uint64_t address, size_t size, int dontdump, int64_t n)
{
    int64_t began = now();
    for (int64_t i = 0; i < n; i++) {
        void *got =
            mmap(at(address), size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        if (got == MAP_FAILED)
            return -(int64_t)errno;
        if (mmap(got, size, PROT_NONE, NO_MEMORY | MAP_FIXED, -1, 0) == MAP_FAILED)
            return -(int64_t)errno;
        if (dontdump && madvise(got, size, MADV_DONTDUMP))
            return -(int64_t)errno;
    }
    return now() - began;
}

/* ---- not timed --------------------------------------------------------------------------------- */

int64_t raw_hold(uint64_t address, size_t size)
{
    void *got = mmap(at(address), size, PROT_NONE, NO_MEMORY | MAP_FIXED_NOREPLACE, -1, 0);
    return got == at(address) ? 0 : refused(got);
}

int64_t raw_drop(uint64_t address, size_t size)
{
    return munmap(at(address), size) ? -(int64_t)errno : 0;
}

/* n mappings of one page side by side, wherever the kernel likes: readable and not by turns, so that they do not
 * merge. The first address. */
int64_t raw_crowd(size_t n, size_t page)
{
    char *first = mmap(NULL, n * page, PROT_NONE, NO_MEMORY, -1, 0);
    if (first == MAP_FAILED)
        return -(int64_t)errno;
    for (size_t i = 1; i < n; i += 2)
        if (mprotect(first + i * page, page, PROT_READ)) {
            int64_t error = -(int64_t)errno;
            munmap(first, n * page);
            return error;
        }
    return (int64_t)(uintptr_t)first;
}
