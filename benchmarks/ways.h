/* ways.h - the ways to allocate that replay.c compares: the arena's core, mimalloc, glibc's malloc, and none.
 *
 * A block is a number, 0 is none. Each way is inlined into loops of its own, so that none pays for a call that
 * another one does not make.
 */
#ifndef WAYS_H
#define WAYS_H

#include <dlfcn.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "arena.h"

#define ARENA_UNITS (UINT32_C(8) << 18) /* 8 GiB of addresses */
#define INLINE static inline __attribute__((always_inline))

static __attribute__((noreturn, format(printf, 1, 2))) void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static void *pages(uint64_t size)
{
    void *got = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (got == MAP_FAILED)
        fail("mmap of %" PRIu64 " bytes: %m", size);
    return got;
}

typedef struct {
    uint64_t (*allocate)(uint64_t size, unsigned alignment);
    void (*release)(uint64_t block);
    uint64_t (*resize)(uint64_t block, uint64_t size);
} way;

static stead_arena *arena;

INLINE uint64_t arena_allocate(uint64_t size, unsigned alignment)
{
    return stead_arena_allocate(arena, size, UINT64_C(1) << alignment);
}

INLINE void arena_release(uint64_t block)
{
    if (__builtin_expect(stead_arena_free(arena, block), 0))
        fail("the arena does not free a live block");
}

/* In place, or else somewhere else: as realloc does, which copies too. */
INLINE uint64_t arena_resize(uint64_t block, uint64_t size)
{
    uint64_t usable = 0, missing;
    if (stead_arena_resize(arena, block, size, &usable, &missing) == STEAD_DONE)
        return block;
    uint64_t moved = arena_allocate(size, 4);
    if (moved) {
        memcpy((void *)moved, (void *)block, usable < size ? usable : size);
        arena_release(block);
    }
    return moved;
}

INLINE uint64_t nodes_allocate(uint64_t size, unsigned alignment)
{
    stead_block block;
    int failed = stead_arena_take(arena, size, UINT64_C(1) << alignment, STEAD_LAST | STEAD_HOLD, &block);
    return failed ? 0 : block.node + 2; /* a node may be 0 */
}

INLINE void nodes_release(uint64_t block)
{
    if (__builtin_expect(stead_arena_give(arena, block - 2), 0))
        fail("the arena does not take back a live block");
}

INLINE uint64_t nodes_resize(uint64_t block, uint64_t size)
{
    nodes_release(block);
    return nodes_allocate(size, 4);
}

static struct {
    void *(*malloc)(size_t);
    void *(*aligned)(size_t size, size_t alignment);
    void (*free)(void *);
    void *(*realloc)(void *, size_t);
    void (*collect)(_Bool);
} mi;

INLINE uint64_t mimalloc_allocate(uint64_t size, unsigned alignment)
{
    return (uint64_t)(alignment <= 4 ? mi.malloc(size) : mi.aligned(size, (size_t)1 << alignment));
}

INLINE void mimalloc_release(uint64_t block) { mi.free((void *)block); }
INLINE uint64_t mimalloc_resize(uint64_t block, uint64_t size) { return (uint64_t)mi.realloc((void *)block, size); }

INLINE uint64_t glibc_allocate(uint64_t size, unsigned alignment)
{
    return (uint64_t)(alignment <= 4 ? malloc(size) : memalign((size_t)1 << alignment, size));
}

INLINE void glibc_release(uint64_t block) { free((void *)block); }
INLINE uint64_t glibc_resize(uint64_t block, uint64_t size) { return (uint64_t)realloc((void *)block, size); }

INLINE uint64_t nothing_allocate(uint64_t size, unsigned alignment)
{
    __asm__ volatile("" : "+r"(size) : "r"(alignment));
    return size;
}

INLINE void nothing_release(uint64_t block) { __asm__ volatile("" : : "r"(block)); }
INLINE uint64_t nothing_resize(uint64_t block, uint64_t size) { return nothing_allocate(size, (unsigned)block); }

static void begin(const char *name)
{
    if (!strcmp(name, "arena") || !strcmp(name, "nodes")) {
        uint64_t tables[STEAD_TABLES + 1], base = (uint64_t)pages((uint64_t)ARENA_UNITS * STEAD_UNIT);
        stead_arena_tables(ARENA_UNITS, tables);
        arena = stead_arena_make(pages(tables[STEAD_TABLES]), base, ARENA_UNITS, 0);
        stead_arena_extend(arena, ARENA_UNITS, 1);
    } else if (!strcmp(name, "mimalloc")) {
        void *library = dlopen("libmimalloc.so.2", RTLD_NOW | RTLD_LOCAL);
        if (!library)
            fail("%s", dlerror());
        *(void **)&mi.malloc = dlsym(library, "mi_malloc");
        *(void **)&mi.aligned = dlsym(library, "mi_malloc_aligned");
        *(void **)&mi.free = dlsym(library, "mi_free");
        *(void **)&mi.realloc = dlsym(library, "mi_realloc");
        *(void **)&mi.collect = dlsym(library, "mi_collect");
    }
}

/* Give back to the system what can be. */
static void settle(void)
{
    stead_run run;
    if (arena) {
        stead_arena_purge(arena);
        while (stead_arena_checkout(arena, 1, &run)) {
            madvise((void *)run.from, run.to - run.from, MADV_DONTNEED);
            stead_arena_checkin(arena, &run, 1);
        }
    } else if (mi.collect) {
        mi.collect(1);
    } else {
        malloc_trim(0);
    }
}

#endif
