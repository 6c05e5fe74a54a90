/* runs.c - runs of units: segregated fit with immediate coalescing. Constant time, but for the search of
 * one list where nothing larger is left. */
#include <string.h>

#include "fit.h"

void runs_bin(uint32_t units, unsigned *first, unsigned *second)
{
    if (units < SECOND) {
        *first = 0;
        *second = units;
    } else {
        unsigned top = 31u - (unsigned)__builtin_clz(units);
        *first = top - 4;
        *second = units >> (top - 5) & (SECOND - 1);
    }
}

static uint32_t dirty(uint32_t units, zero_part zero)
{
    return units - (zero.to - zero.from);
}

static zero_part larger(zero_part one, zero_part other)
{
    if (one.to == other.from)
        return (zero_part){one.from, other.to};
    return one.to - one.from >= other.to - other.from ? one : other;
}

static zero_part within(zero_part zero, uint32_t from, uint32_t to)
{
    if (zero.from < from)
        zero.from = from;
    if (zero.to > to)
        zero.to = to;
    return zero.from < zero.to ? zero : (zero_part){from, from};
}

static void bin(stead_arena *a, uint32_t head, uint32_t units)
{
    unsigned f, s;
    runs_bin(units, &f, &s);
    uint32_t next = a->state->bins[f][s];
    a->links_of_runs[head] = (list_link){next, NONE};
    if (is_unit(a, next))
        a->links_of_runs[next].prev = head;
    a->state->bins[f][s] = head;
    a->state->second_map[f] |= 1u << s;
    a->state->first_map |= 1u << f;
}

static void unbin(stead_arena *a, uint32_t head, uint32_t units)
{
    unsigned f, s;
    runs_bin(units, &f, &s);
    list_link at = a->links_of_runs[head];
    if (is_unit(a, at.next))
        a->links_of_runs[at.next].prev = at.prev;
    if (is_unit(a, at.prev)) {
        a->links_of_runs[at.prev].next = at.next;
        return;
    }
    a->state->bins[f][s] = at.next;
    if (at.next == NONE) {
        a->state->second_map[f] &= ~(1u << s);
        if (!a->state->second_map[f])
            a->state->first_map &= ~(1u << f);
    }
}

static void count_free(stead_arena *a, uint64_t runs, uint64_t units, uint64_t touched)
{
    a->state->runs += runs;
    a->state->free_units += units;
    __atomic_store_n(&a->state->dirty_units, a->state->dirty_units + touched, __ATOMIC_RELAXED);
}

static void enter_free(stead_arena *a, uint32_t head, uint32_t units, zero_part zero)
{
    a->zero[head] = zero;
    if (units > 1)
        ent_store(a, head + units - 1, entry(FOOT, units));
    ent_store(a, head, entry(FREE, units)); /* the commit */
}

static void put(stead_arena *a, uint32_t head, uint32_t units, zero_part zero)
{
    if (head + units == a->state->units)
        a->state->top = head;
    else
        bin(a, head, units);
    count_free(a, 1, units, dirty(units, zero));
    enter_free(a, head, units, zero);
}

/* Its entries stay. */
static void pull(stead_arena *a, uint32_t head, uint32_t units)
{
    if (head == a->state->top)
        a->state->top = NONE;
    else
        unbin(a, head, units);
    count_free(a, -UINT64_C(1), -(uint64_t)units, -(uint64_t)dirty(units, a->zero[head]));
}

/* The FREE run at `from` is now [to, to + units): it stays where it is in its list, if its list stays the same. */
static void move(stead_arena *a, uint32_t from, uint32_t length, uint32_t to, uint32_t units, zero_part zero)
{
    unsigned f, s, nf, ns;
    if (from == a->state->top && to + units == a->state->units) {
        a->state->top = to;
    } else {
        runs_bin(length, &f, &s);
        runs_bin(units, &nf, &ns);
        if (f != nf || s != ns || from == a->state->top || to + units == a->state->units) {
            pull(a, from, length);
            put(a, to, units, zero);
            return;
        }
        list_link at = a->links_of_runs[from];
        a->links_of_runs[to] = at;
        if (is_unit(a, at.next))
            a->links_of_runs[at.next].prev = to;
        if (is_unit(a, at.prev))
            a->links_of_runs[at.prev].next = to;
        else
            a->state->bins[f][s] = to;
    }
    count_free(a, 0, (uint64_t)units - length, (uint64_t)dirty(units, zero) - dirty(length, a->zero[from]));
    enter_free(a, to, units, zero);
}

void runs_add(stead_arena *a, uint32_t head, uint32_t units, zero_part zero)
{
    uint32_t start = head, stop = head + units, end = stop;
    uint64_t before = head ? a->ent[head - 1] : 0, after = stop < a->state->units ? a->ent[stop] : 0;
    int merge_before = (kind_of(before) == FOOT || kind_of(before) == FREE) && length_of(before) <= head &&
                       a->ent[head - length_of(before)] == entry(FREE, length_of(before));
    if (merge_before) {
        start = head - length_of(before);
        zero = larger(a->zero[start], zero);
    }
    if (kind_of(after) == FREE && is_free_run(a, stop)) {
        end = stop + length_of(after);
        zero = larger(zero, a->zero[stop]);
    }
    runs_note(a, start, head, stop, end);
    if (merge_before && end > stop)
        pull(a, stop, end - stop);
    if (merge_before)
        move(a, start, head - start, start, end - start, zero);
    else if (end > stop)
        move(a, stop, end - stop, start, end - start, zero);
    else
        put(a, start, end - start, zero);
    if (merge_before) {
        if (head - 1 > start)
            ent_store(a, head - 1, 0);
        if (head != end - 1)
            ent_store(a, head, 0);
    }
    if (end > stop && stop != end - 1)
        ent_store(a, stop, 0);
}

/* ---- what is kept ---- */

static void unkeep(stead_arena *a, uint32_t head, uint32_t units)
{
    count_free(a, 0, 0, -(uint64_t)units);
    runs_add(a, head, units, (zero_part){head, head});
}

void runs_unkeep_last(stead_arena *a)
{
    if (a->last_units)
        unkeep(a, a->last, a->last_units);
    a->last_units = 0;
}

void runs_unkeep(stead_arena *a)
{
    runs_unkeep_last(a);
    for (uint32_t units = 1; units <= KEPT_UNITS; units++)
        for (kept_runs *kept = &a->kept[units]; kept->count; )
            unkeep(a, kept->heads[--kept->count], units);
}

static int keeps(const stead_arena *a)
{
    for (uint32_t units = 1; units <= KEPT_UNITS; units++)
        if (a->kept[units].count)
            return 1;
    return 0;
}

/* ---- used runs ---- */

static void use(stead_arena *a, uint64_t units)
{
    a->state->used_units += units;
    if (a->state->used_units > a->state->peak_units)
        a->state->peak_units = a->state->used_units;
}

void runs_give(stead_arena *a, uint32_t head, uint32_t units)
{
    a->state->used_units -= units;
    runs_add(a, head, units, (zero_part){head, head});
}

void runs_lengthen(stead_arena *a, uint32_t head, uint64_t e, uint32_t units)
{
    uint32_t at = head + length_of(e), length = length_of(a->ent[at]);
    zero_part zero = a->zero[at];
    pull(a, at, length);
    if (length > units)
        put(a, at + units, length - units, within(zero, at + units, at + length));
    ent_store(a, head, e + ((uint64_t)units << 32)); /* the commit */
    ent_store(a, at, 0);
    if (length == units)
        ent_store(a, at + length - 1, 0);
    use(a, units);
}

static uint32_t find_dirty(const stead_arena *a, uint64_t least)
{
    if (is_free_run(a, a->state->top) && dirty(length_of(a->ent[a->state->top]), a->zero[a->state->top]) >= least)
        return a->state->top;
    for (unsigned f = FIRST; f--;)
        for (unsigned s = SECOND; a->state->first_map >> f & 1 && s--;)
            for (uint32_t head = a->state->bins[f][s], left = a->max_units; left-- && is_free_run(a, head);
                 head = a->links_of_runs[head].next)
                if (dirty(length_of(a->ent[head]), a->zero[head]) >= least)
                    return head;
    return NONE;
}

/* The longest first: few system calls for much memory. */
uint32_t runs_out(stead_arena *a, uint64_t least)
{
    uint32_t head = find_dirty(a, least);
    if (head != NONE) {
        uint32_t units = length_of(a->ent[head]);
        if (a->place)
            heap_will_own(a, head);
        runs_note(a, head, head + units, head, head);
        pull(a, head, units);
        ent_store(a, head, entry(OUT, units) | (uint64_t)a->place << 9);
        if (units > 1)
            ent_store(a, head + units - 1, 0);
    }
    return head;
}

/* The first unit from `unit` on whose address is a multiple of `alignment`; past the end if there is none. */
uint64_t runs_aligned(const stead_arena *a, uint32_t unit, uint64_t alignment)
{
    if (alignment <= STEAD_UNIT)
        return unit;
    uint64_t rest = address_of(a, unit) & (alignment - 1);
    return rest ? unit + (alignment - rest) / STEAD_UNIT : unit;
}

/* The first run of a list that has room; after `patience` of them, NONE. */
static uint32_t first_fit(const stead_arena *a, uint32_t head, uint32_t units, uint64_t alignment, uint32_t patience)
{
    for (; patience-- && is_free_run(a, head); head = a->links_of_runs[head].next)
        if (runs_aligned(a, head, alignment) + units <= (uint64_t)head + length_of(a->ent[head]))
            return head;
    return NONE;
}

/* The first list at or above a bin that is not empty. */
static int next_bin(const stead_arena *a, unsigned *f, unsigned *s)
{
    if (*s >= SECOND) {
        *s = 0;
        ++*f;
    }
    if (*f >= FIRST)
        return 0;
    uint32_t map = a->state->second_map[*f] & ~0u << *s;
    if (!map) {
        uint32_t above = a->state->first_map & ((1u << FIRST) - 1) & ~1u << *f;
        if (!above)
            return 0;
        *f = (unsigned)__builtin_ctz(above);
        map = a->state->second_map[*f];
        if (!map)
            return 0;
    }
    *s = (unsigned)__builtin_ctz(map);
    return 1;
}

static uint32_t find(const stead_arena *a, uint32_t units, uint64_t alignment, int everywhere)
{
    unsigned f, s;
    if (!a->state->first_map) /* what is not fragmented is found at once */
        return first_fit(a, a->state->top, units, alignment, 1);
    runs_bin(units, &f, &s);
    /* Its own list holds what fits best, and what was just given back; not all of it may be long enough. */
    uint32_t head = first_fit(a, a->state->bins[f][s], units, alignment, 8);
    if (head != NONE)
        return head;
    uint64_t enough = units + (alignment > STEAD_UNIT ? alignment / STEAD_UNIT - 1 : 0);
    if (enough <= a->state->units) {
        unsigned ef, es;
        runs_bin((uint32_t)enough, &ef, &es);
        es++; /* in the lists above its own all are long enough */
        if (next_bin(a, &ef, &es))
            return first_fit(a, a->state->bins[ef][es], units, alignment, 1);
    }
    head = first_fit(a, a->state->top, units, alignment, 1);
    if (head != NONE)
        return head;
    uint32_t patience = everywhere ? a->max_units : 64;
    for (; next_bin(a, &f, &s); s++) {
        head = first_fit(a, a->state->bins[f][s], units, alignment, patience);
        if (head != NONE || !everywhere)
            return head;
    }
    return NONE;
}

uint32_t runs_take(stead_arena *a, uint32_t units, uint64_t alignment, int everywhere, zero_part *zero)
{
    if (a->last_units)
        runs_unkeep_last(a);
    uint32_t run = find(a, units, alignment, everywhere);
    if (run == NONE && keeps(a)) {
        runs_unkeep(a);
        run = find(a, units, alignment, everywhere);
    }
    if (run == NONE)
        return NONE;
    uint32_t length = length_of(a->ent[run]), head = (uint32_t)runs_aligned(a, run, alignment);
    zero_part known = a->zero[run];
    uint32_t stop = head + units, end = run + length;
    *zero = within(known, head, stop);
    runs_note(a, run, head, stop, end);
    if (head == run && end > stop) {
        move(a, run, length, stop, end - stop, within(known, stop, end));
    } else {
        pull(a, run, length);
        if (end > stop)
            put(a, stop, end - stop, within(known, stop, end));
        else if (length > 1)
            ent_store(a, end - 1, 0);
    }
    ent_store(a, head, entry(FREE, units)); /* a commit where head == run */
    if (head > run)
        put(a, run, head - run, within(known, run, head)); /* here it is in that */
    use(a, units);
    return head;
}

/* The head of the run that a unit is in: by stepping back, and along all runs from the first, in turns, since a
 * run may be long or runs many. */
uint32_t runs_head_of(const stead_arena *a, uint32_t unit)
{
    for (uint32_t back = unit, along = 0;; back--) {
        if (kind_of(a->ent[back]) && kind_of(a->ent[back]) != FOOT)
            return back;
        uint64_t stop = along + (uint64_t)length_of(a->ent[along]);
        if (unit < stop || !back)
            return along;
        along = (uint32_t)stop;
    }
}

/* ---- all anew ---- */

void runs_forget(stead_arena *a)
{
    run_state *state = a->state;
    state->top = NONE;
    state->used_units = state->free_units = state->dirty_units = state->runs = 0;
    state->first_map = 0;
    memset(state->second_map, 0, sizeof state->second_map);
    memset(state->bins, 0xff, sizeof state->bins);
}

void runs_relist(stead_arena *a, uint32_t head, uint32_t units, int kind)
{
    if (kind == FREE)
        put(a, head, units, (zero_part){head, head});
    else if (kind != OUT)
        use(a, units);
}

/* ---- looking ---- */

uint32_t runs_last_free(const stead_arena *a)
{
    return is_free_run(a, a->state->top) ? length_of(a->ent[a->state->top]) : 0;
}

uint32_t runs_longest(const stead_arena *a)
{
    uint32_t longest = runs_last_free(a), map = a->state->first_map & ((1u << FIRST) - 1);
    unsigned f = map ? 31u - (unsigned)__builtin_clz(map) : 0;
    if (!a->state->second_map[f])
        return longest;
    unsigned s = 31u - (unsigned)__builtin_clz(a->state->second_map[f]);
    for (uint32_t head = a->state->bins[f][s], left = a->max_units; left-- && is_free_run(a, head);
         head = a->links_of_runs[head].next)
        if (length_of(a->ent[head]) > longest)
            longest = length_of(a->ent[head]);
    return longest;
}
