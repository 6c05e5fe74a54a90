/* live.h - which blocks of a symmetric heap are live: a set of ranges that never overlap, asked on every one-sided call.
 * Knows no Python. Any thread may call.
 */
#ifndef STEAD_LIVE_H
#define STEAD_LIVE_H

#include <stdint.h>

typedef struct stead_live stead_live;

/* NULL: no memory. */
stead_live *stead_live_make(void);
void stead_live_end(stead_live *live);

/* Add [start, stop), which overlaps none that is there: 0, or -ENOMEM, and nothing has changed. */
int stead_live_add(stead_live *live, uint64_t start, uint64_t stop);

/* Take out the one that begins at start: 0, or -ENOENT. */
int stead_live_drop(stead_live *live, uint64_t start);

/* Whether a block holds the address, and which: 1, or 0. */
int stead_live_find(stead_live *live, uint64_t address, uint64_t *start, uint64_t *stop);

/* How many there are. */
uint64_t stead_live_count(stead_live *live);

#endif
