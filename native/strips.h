/* strips.h - which blocks of many slices live in this process, and their bytes in bulk. Knows no Python and makes no
 * system call; all its state is in memory that the caller supplies.
 *
 * Slices of one size lie side by side; each has an owner, whose arena hands its addresses out. A block lives in any
 * process, at its address. A strip is `count` blocks of `size` bytes side by side: a structure that was built densely
 * is few of them. A run is bytes side by side, of whatever blocks. Not safe from several threads at once.
 */
#ifndef STEAD_STRIPS_H
#define STEAD_STRIPS_H

#include "arena.h"

#define STEAD_GRANULE 16u /* every block begins and ends at a multiple of it */

enum {
    STEAD_AWAY = -20,    /* ours, and live, but its contents are elsewhere */
    STEAD_TWICE = -21,   /* the same block a second time */
    STEAD_NO_MEMORY = -22,
    STEAD_MANY = -23,    /* more copies than can be counted */
};

typedef struct {
    uint64_t start, size, count;
} stead_strip;

typedef struct {
    uint64_t start, size;
} stead_piece;

/* Two bits for each granule of a slice: a block begins in it, a block ends in it. */
typedef struct {
    uint64_t *begins, *ends; /* NULL: the set is empty, and has no memory yet */
} stead_blocks;

typedef struct {
    uint64_t base, slice; /* bytes; the slice is a multiple of the page size */
    uint32_t ranks, rank;
    stead_arena *arena;   /* of our own slice */
    stead_blocks *sets;   /* by owner: which of theirs live here; [rank]: which of ours do not */
    uint16_t *copies;     /* by granule of our slice: how many more processes than one have it; NULL: none */
} stead_book;

uint64_t stead_blocks_bytes(uint64_t slice); /* of zeros, that a set needs */
uint64_t stead_copies_bytes(uint64_t slice); /* of zeros, for `copies` */
stead_blocks stead_blocks_in(void *memory, uint64_t slice);

/* DONE and the size in bytes of the block that lives here and begins at an address; AWAY (and the size), what
 * stead_arena_find answers for ours, NOT_LIVE for others', or FOREIGN where it is in no slice. */
int stead_book_find(const stead_book *book, uint64_t address, uint64_t *size);

/* The blocks that live here at these addresses as strips in order of address, to be freed by free(): DONE; or NO_MEMORY,
 * TWICE, or what find answers, and the lowest address that is refused. */
int stead_book_strips(const stead_book *book, const uint64_t *addresses, size_t n, stead_strip **strips, size_t *found,
                      uint64_t *refused);

/* Whether all strips lie in the slice of `owner`, whole granules, in order and apart. */
int stead_book_sound(const stead_book *book, uint32_t owner, const stead_strip *strips, size_t n);

/* The first block of the strips that is in the set of `owner` (wanted: 1), or is not (0); 0: there is none. */
uint64_t stead_book_first(const stead_book *book, uint32_t owner, const stead_strip *strips, size_t n, int wanted);

void stead_book_add(stead_book *book, uint32_t owner, const stead_strip *strips, size_t n);
void stead_book_drop(stead_book *book, uint32_t owner, const stead_strip *strips, size_t n);

/* Of ours: one process more has each block. MANY and the first that can have no more, and nothing has changed. */
int stead_book_copied(stead_book *book, const stead_strip *strips, size_t n, uint64_t *refused);

/* The contents of a block here end. Ours: its address can be handed out again where nobody has contents of it. Of
 * another slice: the owner has to be told. DONE and the size, or why not. */
int stead_book_free(stead_book *book, uint64_t address, uint64_t *size);

/* The same for blocks of ours whose contents ended elsewhere: how many addresses can be handed out again; `wrong`: how
 * many were no such blocks. */
size_t stead_book_freed(stead_book *book, const uint64_t *addresses, size_t n, size_t *wrong);

/* Pages of [from, to), which has no more than parts of blocks at its edges, in which none begins or ends: as pieces, at
 * most `most`; how many there are in all. */
size_t stead_book_vacant(const stead_book *book, uint32_t owner, uint64_t from, uint64_t to, uint64_t page,
                         stead_piece *out, size_t most);

/* ---- strips and runs ---- */

uint64_t stead_strips_blocks(const stead_strip *strips, size_t n);
size_t stead_strips_runs(const stead_strip *strips, size_t n, stead_piece *runs); /* at most n */

/* The whole pages that runs in order touch (outer), or that they fill (not outer): pieces, apart; at most n. */
size_t stead_runs_pages(const stead_piece *runs, size_t n, uint64_t page, int outer, stead_piece *out);

/* What is sent next of runs, of which run[0] has been sent as far as `offset`: where at least `direct` bytes of that
 * are left, at most `most` of them by themselves (*count is 0); otherwise *count short ones together, of at most `most`
 * bytes. The number of bytes. */
uint64_t stead_runs_next(const stead_piece *runs, size_t n, uint64_t offset, uint64_t direct, uint64_t most, size_t *count);
void stead_runs_gather(const stead_piece *runs, size_t n, uint64_t offset, char *to);
void stead_runs_scatter(const stead_piece *runs, size_t n, uint64_t offset, const char *from);

/* Pages of [from, to) that are not all zeros, as pieces: as many as there are, or `most`; where to go on. */
size_t stead_pages_written(uint64_t from, uint64_t to, uint64_t page, stead_piece *out, size_t most, uint64_t *next);

#endif
