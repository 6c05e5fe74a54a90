/* arena_image.c - an arena's tables as they were saved, in another process: all that points anywhere stays ours. */
#include <string.h>

#include "fit.h"

uint64_t stead_arena_header(void) { return sizeof(stead_arena); }

int stead_arena_adopt(stead_arena *a, const stead_arena *saved)
{
    if (saved->base != a->base || saved->max_units != a->max_units || saved->guard_units != a->guard_units ||
        saved->own.units > a->max_units || saved->place)
        return STEAD_FOREIGN;
    arena_lock_all(a);
    for (unsigned l = 0; l < LANES; l++) {
        memcpy(a->lanes[l].partial, saved->lanes[l].partial, sizeof a->lanes[l].partial);
        memcpy(a->lanes[l].spare, saved->lanes[l].spare, sizeof a->lanes[l].spare);
    }
    memcpy(a->kept, saved->kept, sizeof a->kept);
    a->last = saved->last;
    a->last_units = saved->last_units;
    a->own = saved->own;
    arena_unlock_all(a);
    return STEAD_DONE;
}
