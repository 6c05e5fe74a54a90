/* live.c - ranges in order, in leaves of a few hundred under one list of leaves: a search is two bisections, and a change moves
 * no more than one leaf, and the list when a leaf is split or empty. A million blocks are a list of some ten thousand.
 */
#include "live.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lock.h"

#define LEAF 256u

typedef struct {
    uint64_t start, stop;
} range;

typedef struct {
    uint32_t count;
    range at[LEAF];
} leaf;

struct stead_live {
    stead_lock lock;
    leaf **leaves;
    size_t count, room;
    uint64_t blocks;
    range last; /* that was found: most calls ask for it again */
};

stead_live *stead_live_make(void) { return calloc(1, sizeof(stead_live)); }

void stead_live_end(stead_live *live)
{
    if (!live)
        return;
    for (size_t i = 0; i < live->count; i++)
        free(live->leaves[i]);
    free(live->leaves);
    free(live);
}

/* The last leaf that begins at or below the address, or the first. */
static size_t leaf_of(const stead_live *live, uint64_t address)
{
    size_t low = 0, high = live->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (live->leaves[middle]->at[0].start <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low ? low - 1 : 0;
}

/* How many ranges of a leaf begin at or below the address. */
static uint32_t place_in(const leaf *l, uint64_t address)
{
    uint32_t low = 0, high = l->count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (l->at[middle].start <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* A new leaf as number `at`: NULL, and nothing has changed. */
static leaf *insert_leaf(stead_live *live, size_t at)
{
    if (live->count == live->room) {
        size_t room = live->room ? 2 * live->room : 16;
        leaf **leaves = realloc(live->leaves, room * sizeof *leaves);
        if (!leaves)
            return NULL;
        live->leaves = leaves;
        live->room = room;
    }
    leaf *made = malloc(sizeof *made);
    if (!made)
        return NULL;
    made->count = 0;
    memmove(live->leaves + at + 1, live->leaves + at, (live->count - at) * sizeof *live->leaves);
    live->leaves[at] = made;
    live->count++;
    return made;
}

static int add(stead_live *live, range r)
{
    if (!live->count && !insert_leaf(live, 0))
        return -ENOMEM;
    size_t number = leaf_of(live, r.start);
    leaf *l = live->leaves[number];
    if (l->count == LEAF) {
        leaf *upper = insert_leaf(live, number + 1);
        if (!upper)
            return -ENOMEM;
        /* Blocks mostly come in rising order: then full leaves stay full. */
        uint32_t keep = number + 2 == live->count && r.start > l->at[LEAF - 1].start ? LEAF - 1 : LEAF / 2;
        upper->count = LEAF - keep;
        memcpy(upper->at, l->at + keep, upper->count * sizeof *upper->at);
        l->count = keep;
        if (r.start > upper->at[0].start)
            l = upper;
    }
    uint32_t at = place_in(l, r.start);
    memmove(l->at + at + 1, l->at + at, (l->count - at) * sizeof *l->at);
    l->at[at] = r;
    l->count++;
    live->blocks++;
    return 0;
}

static int drop(stead_live *live, uint64_t start)
{
    size_t number = leaf_of(live, start);
    leaf *l = live->count ? live->leaves[number] : NULL;
    uint32_t at = l ? place_in(l, start) : 0;
    if (!at || l->at[at - 1].start != start)
        return -ENOENT;
    memmove(l->at + at - 1, l->at + at, (l->count - at) * sizeof *l->at);
    l->count--;
    live->blocks--;
    live->last = (range){0, 0};
    if (!l->count) {
        free(l);
        live->count--;
        memmove(live->leaves + number, live->leaves + number + 1, (live->count - number) * sizeof *live->leaves);
    }
    return 0;
}

int stead_live_add(stead_live *live, uint64_t start, uint64_t stop)
{
    stead_acquire(&live->lock);
    int got = add(live, (range){start, stop});
    stead_unlock(&live->lock);
    return got;
}

int stead_live_drop(stead_live *live, uint64_t start)
{
    stead_acquire(&live->lock);
    int got = drop(live, start);
    stead_unlock(&live->lock);
    return got;
}

int stead_live_find(stead_live *live, uint64_t address, uint64_t *start, uint64_t *stop)
{
    stead_acquire(&live->lock);
    if (address - live->last.start >= live->last.stop - live->last.start && live->count) {
        const leaf *l = live->leaves[leaf_of(live, address)];
        uint32_t at = place_in(l, address);
        if (at && address < l->at[at - 1].stop)
            live->last = l->at[at - 1];
    }
    *start = live->last.start;
    *stop = live->last.stop;
    stead_unlock(&live->lock);
    return address - *start < *stop - *start;
}

uint64_t stead_live_count(stead_live *live)
{
    stead_acquire(&live->lock);
    uint64_t blocks = live->blocks;
    stead_unlock(&live->lock);
    return blocks;
}
