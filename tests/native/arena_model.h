/* arena_model.h - what an arena must do, said by a sorted list of blocks; and streams of bytes that are operations
 * on both, for random tests and for the fuzzer. No memory is behind the addresses, so an arena that touches what it
 * hands out crashes.
 */
#ifndef ARENA_MODEL_H
#define ARENA_MODEL_H

#include "arena.h"

#include <stddef.h>
#include <stdint.h>

/* An arena whose tables end where those of its units do: what lies behind cannot be read, to the byte under ASan. */
typedef struct {
    stead_arena *arena;
    unsigned char *memory;
    uint64_t offsets[STEAD_TABLES + 1];
} tabled_arena;

tabled_arena tabled_arena_make(uint64_t base, uint32_t max_units, uint64_t guard);
void tabled_arena_extend(const tabled_arena *tabled, uint32_t units, int zero);
void tabled_arena_drop(const tabled_arena *tabled);

/* Do what the bytes say, and compare. Where arena and model differ it says so, with this name, and aborts;
 * `trace`: it prints every operation. */
void arena_model_run(const char *name, const uint8_t *bytes, size_t size, int trace);

#endif
