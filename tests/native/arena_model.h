/* arena_model.h - what an arena must do, said by a sorted list of its live blocks; and streams of bytes that are
 * operations on both, for random tests and for the fuzzer. No memory is behind the addresses, so an arena that
 * touches what it hands out crashes.
 */
#ifndef ARENA_MODEL_H
#define ARENA_MODEL_H

#include "arena.h"

#include <stddef.h>
#include <inttypes.h>
#include <stdio.h>

/* ---- an arena whose tables end where those of its units do: nothing behind can be read, to the byte under ASan ---- */

typedef struct {
    stead_arena *arena;
    unsigned char *memory;
    uint64_t offsets[STEAD_TABLES + 1];
} tabled_arena;

tabled_arena tabled_arena_make(uint64_t base, uint32_t max_units, uint64_t guard);
void tabled_arena_extend(const tabled_arena *tabled, uint32_t units, int zero);
void tabled_arena_drop(const tabled_arena *tabled);

/* ---- the model ---- */

#define OUTS 4
#define RECENT 8

typedef struct {
    uint64_t address, usable, node;
    int held;
} live_block;

typedef struct {
    const char *name; /* for the message */
    int trace;
    unsigned operation;
    char letter;

    tabled_arena tabled;
    stead_arena *arena;
    uint64_t base, guard, guard_alignment;
    uint32_t max_units, units;

    live_block *live; /* in order of address */
    size_t count, room;
    stead_run out[OUTS];
    unsigned outs;
    uint64_t freed[RECENT], given[RECENT]; /* addresses; nodes */
    uint8_t *zero;                         /* a bit for 16 bytes that were not written since they were zero */
    uint64_t high_water;
} model;

model model_make(const char *name, uint64_t base, uint32_t max_units, uint64_t guard);
void model_drop(model *m);
void model_extend(model *m, uint32_t units, int zero);

/* The first block that ends above an address. */
size_t model_above(const model *m, uint64_t address);
/* [from, to), between the blocks at - 1 and at, is committed, and of nobody. */
void model_check_room(const model *m, size_t at, uint64_t from, uint64_t to);
void model_enter(model *m, const stead_block *block, int held);
void model_leave(model *m, size_t at);
/* What every call must answer about an address; and the block that it may be in. */
int model_expected(const model *m, uint64_t address, size_t *at);

void model_set_zero(model *m, uint64_t from, uint64_t to, int value);
int model_is_zero(const model *m, uint64_t from, uint64_t to);

/* Everything that can be asked, against the model; statistics give empty spans back. */
void model_compare(const model *m);
stead_statistics model_statistics(model *m);

static inline uint64_t model_address(const model *m, uint64_t unit)
{
    return m->base + unit * STEAD_UNIT;
}

/* Says where they differ, and aborts. */
_Noreturn void model_differs(const model *m, const char *file, int line, const char *what);

#define MUST(condition)                                         \
    do {                                                        \
        if (!(condition))                                       \
            model_differs(m, __FILE__, __LINE__, #condition);   \
    } while (0)

#define TRACE(...)                     \
    do {                               \
        if (m->trace)                  \
            (void)printf(__VA_ARGS__); \
    } while (0)

static inline uint64_t round_up(uint64_t value, uint64_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

/* ---- arena_calls.c: the calls, with all that they must answer; blocks by their place in the list ---- */

int model_take(model *m, uint64_t size, uint64_t alignment, int flags, stead_block *block); /* whether it could */
void model_free(model *m, size_t at, int by_node);
int model_resize(model *m, size_t at, uint64_t size, uint64_t *missing); /* the code */
int model_check_out(model *m, uint64_t least);
void model_check_in(model *m, unsigned which, int zero);

/* ---- arena_stream.c ---- */

/* Do what the bytes say; `trace`: print every operation. */
void arena_stream_run(const char *name, const uint8_t *bytes, size_t size, int trace);

#endif
