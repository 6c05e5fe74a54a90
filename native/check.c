/* check.c - looks at all of an arena: statistics, every live block, every invariant. */
#include "fit.h"

/* ---- walking ---- */

static void visit_span(stead_arena *a, uint32_t head, uint64_t e,
                       void (*visit)(void *, uint64_t, uint64_t), void *context)
{
    unsigned c = class_of(e);
    for (uint32_t i = 0; i < a->spans[head].fresh; i++) {
        unsigned word = word_of(a, head, c, i);
        if (word == LIVE || word == HELD)
            visit(context, address_of(a, head) + (uint64_t)i * class_size(c), class_size(c));
    }
}

void stead_arena_each(stead_arena *a, void (*visit)(void *, uint64_t, uint64_t), void *context)
{
    arena_lock_all(a);
    for (uint32_t head = 0; head < a->state->units; head += length_of(a->ent[head])) {
        uint64_t e = a->ent[head];
        if (kind_of(e) == SPAN)
            visit_span(a, head, e, visit, context);
        else if (kind_of(e) == LARGE)
            visit(context, large_address(a, head, e), large_usable(a, e));
    }
    arena_unlock_all(a);
}

static void count(stead_class_statistics *s, uint64_t blocks, uint64_t capacity, uint64_t bytes)
{
    s->blocks += blocks;
    s->capacity += capacity;
    s->spans++;
    s->bytes += bytes;
}

void arena_count_runs(const stead_arena *a, stead_statistics *out)
{
    /* What is not committed yet continues the run at the end. */
    uint64_t longest = runs_longest(a), last = (uint64_t)runs_last_free(a) + a->max_units - a->state->units;
    out->largest_run = (longest > last ? longest : last) * STEAD_UNIT;
    out->committed = (uint64_t)a->state->units * STEAD_UNIT;
    out->runs = a->state->runs;
    out->high_water = a->state->peak_units * STEAD_UNIT;
    out->dirty = a->state->dirty_units * STEAD_UNIT;
}

void stead_arena_statistics(stead_arena *a, stead_statistics *out)
{
    *out = (stead_statistics){.size = (uint64_t)a->max_units * STEAD_UNIT};
    stead_arena_purge(a); /* what lanes keep for their next block is free for everyone */
    arena_lock_all(a);
    for (uint32_t head = 0; head < a->state->units; head += length_of(a->ent[head])) {
        uint64_t e = a->ent[head];
        if (kind_of(e) == LARGE) {
            count(&out->large, 1, 1, large_usable(a, e));
        } else if (kind_of(e) == SPAN) {
            const span *s = &a->spans[head];
            unsigned c = class_of(e);
            count(&out->small[c], s->live, COUNT(s), (uint64_t)s->live * class_size(c));
        }
    }
    for (unsigned c = 0; c < STEAD_CLASSES; c++) {
        out->blocks += out->small[c].blocks;
        out->used += out->small[c].bytes;
    }
    out->blocks += out->large.blocks;
    out->used += out->large.bytes;
    arena_count_runs(a, out);
    arena_unlock_all(a);
}

/* ---- invariants ---- */

#define MUST(condition, message) \
    do {                         \
        if (!(condition))        \
            return message;      \
    } while (0)

typedef struct {
    uint64_t used, free, dirty, runs, spans, kept;
} sums;

static const char *check_free(const stead_arena *a, uint32_t head, uint32_t units, int after_free, sums *sum)
{
    zero_part zero = a->zero[head];
    MUST(a->ent[head] == entry(FREE, units), "a run's entry is wrong");
    MUST(!after_free, "two free runs are neighbours");
    MUST(units == 1 || a->ent[head + units - 1] == entry(FOOT, units), "a free run's foot is wrong");
    for (uint32_t i = 1; i + 1 < units; i++)
        MUST(!a->ent[head + i], "an entry inside a free run");
    MUST(zero.from <= zero.to && zero.from >= head && zero.to <= head + units, "what is known to be zero is outside its run");
    sum->runs++;
    sum->free += units;
    sum->dirty += units - (zero.to - zero.from);
    return NULL;
}

const char *check_links(const stead_arena *a, uint32_t head, uint64_t e)
{
    const span *s = &a->spans[head];
    const uint16_t *links = links_of(a, head, class_of(e));
    uint32_t live = 0, listed = 0;
    MUST(s->fresh <= COUNT(s), "more blocks handed out than there are");
    for (uint32_t i = 0; i < s->fresh; i++)
        live += links[i] == LIVE || links[i] == HELD;
    for (uint32_t i = s->free; i != END; i = links[i]) {
        MUST(i < s->fresh && links[i] != LIVE && links[i] != HELD, "a list of free blocks holds another");
        MUST(++listed <= s->fresh, "a list of free blocks has a loop");
    }
    MUST(live == s->live, "a span's count of live blocks is wrong");
    MUST(live + listed == s->fresh, "a free block is in no list");
    return NULL;
}

static const char *check_span(const stead_arena *a, uint32_t head, uint64_t e)
{
    uint32_t units = length_of(e);
    unsigned c = class_of(e);
    MUST(c < STEAD_CLASSES && lane_of(e) < LANES && !back_of(e) && units <= SPAN_UNITS, "a span's entry is wrong");
    for (uint32_t i = 1; i < units; i++)
        MUST(a->ent[head + i] == span_entry(c, lane_of(e), i, units), "a span's entry does not lead to its head");
    MUST(COUNT(&a->spans[head]) * (uint64_t)class_size(c) <= units * (uint64_t)STEAD_UNIT, "a span's blocks do not fit in it");
    return check_links(a, head, e);
}

static const char *check_runs(const stead_arena *a, uint32_t *unit, sums *sum)
{
    const char *wrong = NULL;
    for (uint32_t head = 0, after_free = 0; head < a->state->units;) {
        uint64_t e = a->ent[head];
        uint32_t units = length_of(e);
        *unit = head;
        MUST(units && units <= a->state->units - head, "a run's length is wrong");
        switch (kind_of(e)) {
        case FREE:
            wrong = check_free(a, head, units, (int)after_free, sum);
            break;
        case SPAN:
            wrong = a->place ? heap_check_span(a, head, e) : check_span(a, head, e);
            sum->used += units;
            sum->spans++;
            break;
        case KEPT:
            MUST(!a->place && e == entry(KEPT, units), "a kept run's entry is wrong");
            for (uint32_t i = 1; i < units && !wrong; i++)
                if (a->ent[head + i])
                    wrong = "an entry inside a kept run";
            sum->dirty += units;
            sum->kept++;
            break;
        case LARGE:
        case OUT:
            MUST(kind_of(e) == OUT || (units > a->guard_units && offset_of(e) < (units - a->guard_units) * STEAD_UNIT),
                 "a block is outside its run");
            for (uint32_t i = 1; i < units && !wrong; i++)
                if (a->ent[head + i])
                    wrong = "an entry inside a run";
            if (a->place && !wrong)
                wrong = heap_check_run(a, head, e);
            sum->used += kind_of(e) == LARGE ? units : 0;
            break;
        default:
            wrong = "no run begins here";
        }
        if (wrong)
            return wrong;
        after_free = kind_of(e) == FREE;
        head += units;
    }
    return NULL;
}

static const char *check_bins(const stead_arena *a, uint32_t *unit, sums *sum)
{
    uint64_t listed = 0;
    for (unsigned f = 0; f < FIRST; f++) {
        MUST(!a->state->second_map[f] == !(a->state->first_map >> f & 1), "the map of bins is wrong");
        for (unsigned s = 0; s < SECOND; s++) {
            MUST((a->state->bins[f][s] != NONE) == (a->state->second_map[f] >> s & 1), "the map of a bin is wrong");
            uint32_t prev = NONE;
            for (uint32_t head = a->state->bins[f][s]; head != NONE; head = a->links_of_runs[head].next) {
                unsigned wf, ws;
                *unit = head;
                MUST(head < a->state->units && kind_of(a->ent[head]) == FREE, "a bin holds what is not free");
                MUST(head != a->state->top && ++listed <= sum->runs, "a bin has a loop, or holds the top");
                runs_bin(length_of(a->ent[head]), &wf, &ws);
                MUST(wf == f && ws == s, "a free run is in another's bin");
                MUST(a->links_of_runs[head].prev == prev, "a bin's links do not meet");
                prev = head;
            }
        }
    }
    if (a->state->top != NONE) {
        *unit = a->state->top;
        MUST(is_free_run(a, a->state->top) && a->state->top + length_of(a->ent[a->state->top]) == a->state->units, "the top is not at the end");
    }
    MUST(listed + (a->state->top != NONE) == sum->runs, "a free run is in no bin");
    return NULL;
}

/* Spans with a free block are in the list of their lane and class; and nothing else is. */
static const char *check_lanes(const stead_arena *a, uint32_t *unit, sums *sum)
{
    uint64_t listed = 0, with_room = 0;
    for (uint32_t head = 0; head < a->state->units; head += length_of(a->ent[head]))
        if (kind_of(a->ent[head]) == SPAN && (!a->place || owner_of(a->ent[head]) == a->place))
            with_room += a->spans[head].free != END || a->spans[head].fresh < COUNT(&a->spans[head]);
    for (unsigned l = 0; l < LANES; l++) {
        for (unsigned c = 0; c < STEAD_CLASSES; c++) {
            uint32_t spare = a->lanes[l].spare[c], prev = NONE;
            if (spare != NONE) {
                *unit = spare;
                listed++;
                MUST(spare < a->state->units && kind_of(a->ent[spare]) == SPAN && !a->spans[spare].live, "a lane's spare is none");
            }
            for (uint32_t head = a->lanes[l].partial[c]; head != NONE; head = a->spans[head].next) {
                *unit = head;
                MUST(head < a->state->units && kind_of(a->ent[head]) == SPAN, "a lane holds what is no span");
                MUST(arena_lane_of(a, a->ent[head]) == l && class_of(a->ent[head]) == c, "a span is in another's lane");
                MUST(a->spans[head].prev == prev, "a lane's links do not meet");
                MUST(++listed <= sum->spans, "a lane has a loop");
                prev = head;
            }
        }
    }
    MUST(listed == with_room, "a span with room is in no lane, or a full one is");
    return NULL;
}

static const char *check_kept(const stead_arena *a, uint32_t *unit, const sums *sum)
{
    uint64_t listed = a->last_units != 0;
    *unit = a->last;
    MUST(!listed || (a->last < a->state->units && a->ent[a->last] == entry(KEPT, a->last_units)), "what was kept last is none");
    for (uint32_t units = 1; units <= KEPT_UNITS; units++) {
        MUST(a->kept[units].count <= a->kept[units].most, "more is kept than may be");
        for (uint32_t i = 0; i < a->kept[units].count; i++, listed++) {
            *unit = a->kept[units].heads[i];
            MUST(*unit < a->state->units && a->ent[*unit] == entry(KEPT, units), "a list of what is kept holds another");
        }
    }
    MUST(listed == sum->kept, "a kept run is in no list");
    return NULL;
}

static const char *check_sums(const stead_arena *a, const sums *sum)
{
    MUST(a->state->units <= a->max_units, "more units than the arena can have");
    MUST(sum->used == a->state->used_units && sum->free == a->state->free_units, "the count of units is wrong");
    MUST(sum->dirty == a->state->dirty_units, "the count of touched units is wrong");
    MUST(a->state->peak_units >= a->state->used_units, "the high-water mark is below the water");
    return NULL;
}

const char *stead_arena_check(stead_arena *a, uint32_t *unit)
{
    sums sum = {0};
    arena_lock_all(a);
    const char *wrong = check_runs(a, unit, &sum);
    if (!wrong)
        wrong = check_bins(a, unit, &sum);
    if (!wrong)
        wrong = check_lanes(a, unit, &sum);
    if (!wrong)
        wrong = check_kept(a, unit, &sum);
    if (!wrong)
        wrong = check_sums(a, &sum);
    arena_unlock_all(a);
    return wrong;
}
