/* arena_calls.c - calls to an arena that must do what its model says. */
#include "arena_model.h"

#include <string.h>

/* ---- take ---- */

/* Bytes of the smallest block that can be had; small ones are in spans, all others in runs of their own. */
static uint64_t smallest(const model *m, uint64_t size, uint64_t alignment, int *small)
{
    *small = !m->guard && size <= STEAD_SMALL && alignment <= STEAD_UNIT;
    if (!*small)
        return m->guard ? size : round_up(size, STEAD_UNIT);
    unsigned c = stead_class_of(size);
    while (stead_class_size(c) & (alignment - 1))
        c++;
    return stead_class_size(c);
}

/* Whether a run for such a block is free, where no span and no run that is out hides what is free. */
static int surely_fits(const model *m, uint64_t size, uint64_t alignment)
{
    int small;
    uint64_t run = m->guard_alignment ? m->guard_alignment : STEAD_UNIT, free = m->base;
    if (m->outs || size > m->max_units * (uint64_t)STEAD_UNIT || alignment > m->max_units * (uint64_t)STEAD_UNIT)
        return 0;
    uint64_t needed = round_up(smallest(m, size, alignment, &small), run) + m->guard;
    if (alignment < run || small)
        alignment = run;
    for (size_t i = 0; i <= m->count; i++) {
        int last = i == m->count;
        if (!last && m->live[i].node & 1)
            return 0;
        uint64_t stop = last ? model_address(m, m->units) : m->live[i].address / run * run;
        uint64_t start = round_up(free, alignment);
        if (start <= stop && stop - start >= needed)
            return 1;
        if (!last)
            free = m->live[i].address + m->live[i].usable + m->guard;
    }
    return 0;
}

static void check_block(const model *m, const stead_block *block, uint64_t size, uint64_t alignment, int flags)
{
    int small;
    uint64_t least = smallest(m, size, alignment, &small), end = block->address + block->usable;
    stead_block found = {0};
    MUST(block->address % alignment == 0);
    MUST((block->node & 1) == (uint64_t)small);
    if (m->guard) /* ends where its guard begins, as far as its alignment lets it */
        MUST(end % m->guard_alignment == 0 && block->usable >= size && block->usable - size < m->guard_alignment &&
             block->usable - size < alignment);
    else if (small && flags & STEAD_LAST)
        MUST(block->usable >= least);
    else
        MUST(block->usable == least);
    MUST(block->zero_from <= block->zero_to && block->zero_to <= block->usable);
    MUST(model_is_zero(m, block->address + block->zero_from, block->address + block->zero_to));
    MUST(stead_arena_find(m->arena, block->address, &found) == (flags & STEAD_HOLD ? STEAD_HELD : STEAD_DONE));
    MUST(found.address == block->address && found.usable == block->usable && found.node == block->node);
}

int model_take(model *m, uint64_t size, uint64_t alignment, int flags, stead_block *block)
{
    memset(block, 0xa5, sizeof *block);
    int got = stead_arena_take(m->arena, size, alignment, flags, block);
    TRACE("take %" PRIu64 " alignment %" PRIu64 " flags %d: %d at %#" PRIx64 "\n", size, alignment, flags, got,
          got ? 0 : block->address - m->base);
    if (got) {
        MUST(got == STEAD_NO_SPACE);
        MUST(!(flags & STEAD_LAST) || !surely_fits(m, size, alignment));
        return 0;
    }
    model_enter(m, block, flags & STEAD_HOLD);
    check_block(m, block, size, alignment, flags);
    model_set_zero(m, block->address, block->address + block->usable, 0); /* its owner writes all of it */
    return 1;
}

/* ---- free and resize ---- */

void model_free(model *m, size_t at, int by_node)
{
    live_block block = m->live[at];
    int got;
    by_node = by_node && block.held;
    if (by_node)
        got = stead_arena_give(m->arena, block.node);
    else
        got = (block.held ? stead_arena_free_held : stead_arena_free)(m->arena, block.address);
    TRACE("free %#" PRIx64 "%s\n", block.address - m->base, by_node ? " by its node" : "");
    MUST(got == STEAD_DONE);
    model_leave(m, at);
}

int model_resize(model *m, size_t at, uint64_t size, uint64_t *missing)
{
    live_block *block = &m->live[at];
    int large = !(block->node & 1) && !m->guard; /* all others stay as they are */
    uint64_t before = block->usable, usable = 0;
    int got = (block->held ? stead_arena_resize_held : stead_arena_resize)(m->arena, block->address, size, &usable, missing);
    TRACE("resize %#" PRIx64 " from %" PRIu64 " to %" PRIu64 ": %d, missing %" PRIu64 "\n", block->address - m->base, before,
          size, got, *missing);
    MUST(got == STEAD_DONE || (got == STEAD_NO_SPACE && size > before));
    MUST(usable == (large && !got ? round_up(size, STEAD_UNIT) : before));
    MUST(got || usable >= size);
    MUST(!*missing || (got && large));
    if (usable > before) {
        model_check_room(m, at + 1, block->address + before, block->address + usable);
        model_set_zero(m, block->address + before, block->address + usable, 0);
    }
    block->usable = usable;
    return got;
}

/* ---- runs that are out ---- */

int model_check_out(model *m, uint64_t least)
{
    stead_run *run = &m->out[m->outs];
    MUST(!stead_arena_checkout(m->arena, UINT64_MAX, run)); /* but what is kept is merged, and of two zero parts one forgotten */
    uint64_t dirty = stead_arena_dirty(m->arena);
    if (!stead_arena_checkout(m->arena, least, run)) {
        MUST(least > STEAD_UNIT || !dirty);
        return 0;
    }
    uint64_t start = model_address(m, run->head), end = start + run->units * (uint64_t)STEAD_UNIT;
    TRACE("out: units %u to %u, dirty from %#" PRIx64 " to %#" PRIx64 "\n", run->head, run->head + run->units,
          run->from - m->base, run->to - m->base);
    model_check_room(m, model_above(m, start), start, end);
    MUST(start <= run->from && run->from < run->to && run->to <= end && run->to - run->from >= least);
    MUST((run->from - m->base) % STEAD_UNIT == 0 && (run->to - m->base) % STEAD_UNIT == 0);
    MUST(model_is_zero(m, start, run->from) && model_is_zero(m, run->to, end));
    MUST(stead_arena_dirty(m->arena) < dirty);
    m->outs++;
    return 1;
}

void model_check_in(model *m, unsigned which, int zero)
{
    stead_run run = m->out[which];
    m->out[which] = m->out[--m->outs];
    TRACE("in: units %u to %u, zero %d\n", run.head, run.head + run.units, zero);
    stead_arena_checkin(m->arena, &run, zero);
    if (zero)
        model_set_zero(m, run.from, run.to, 1);
}
