/* arena_stream.c - streams of bytes as operations on an arena and its model. The first bytes say what arena; then
 * a letter of `phases` is chosen by every next one, and what follows are its arguments. */
#include "arena_model.h"

#include <pthread.h>
#include <string.h>

typedef struct {
    model m;
    const uint8_t *next, *stop;
    int abroad; /* abroad: in a thread of its own, and so in another lane */
    unsigned phase;
} stream;

/* The next bytes as a number; zeros when they are over. */
static uint64_t number(stream *s, int bytes)
{
    uint64_t n = 0;
    while (bytes--)
        n = n << 8 | (s->next < s->stop ? *s->next++ : 0);
    return n;
}

static uint64_t any_size(stream *s)
{
    uint64_t whole = s->m.max_units * (uint64_t)STEAD_UNIT;
    const uint64_t special[] = {1, 16, 4095, 4096, 4097, STEAD_SMALL, STEAD_SMALL + 1, whole, whole + 1,
                                whole - 1, whole - STEAD_UNIT + 1, whole / 2, UINT64_MAX, UINT64_MAX - STEAD_UNIT,
                                UINT64_C(1) << 63, (UINT64_C(1) << 44) + 1};
    switch (number(s, 1) % 8) {
    case 4:
        return 1 + number(s, 2) % STEAD_SMALL;
    case 5:
        return (1 + number(s, 1) % 64) * STEAD_UNIT - number(s, 1) % 3;
    case 6:
        return 1 + whole / 256 * number(s, 1);
    case 7:
        return special[number(s, 1) % (sizeof special / sizeof *special)];
    default:
        return 1 + number(s, 1);
    }
}

static uint64_t any_alignment(stream *s)
{
    uint64_t n = number(s, 1);
    return n < 144 ? 1 : n < 224 ? UINT64_C(1) << n % 13 : UINT64_C(1) << (12 + n % 18);
}

/* ---- taking ---- */

static void take_any(stream *s, int times, int careful)
{
    model *m = &s->m;
    uint64_t size = any_size(s), alignment = any_alignment(s);
    int flags = (int)number(s, 1) & (STEAD_LAST | STEAD_HOLD);
    stead_statistics before = {0}, after;
    stead_block block;
    if (careful)
        before = model_statistics(m);
    while (times-- && model_take(m, size, alignment, flags, &block))
        careful = 0;
    if (careful) { /* what failed has changed nothing */
        after = model_statistics(m);
        MUST(!memcmp(&before, &after, sizeof before));
    }
}

static void take_after_extending(stream *s)
{
    model *m = &s->m;
    uint64_t size = any_size(s), alignment = any_alignment(s);
    uint64_t missing = stead_arena_shortfall(m->arena, size, alignment);
    TRACE("shortfall %" PRIu64 "\n", missing);
    if (missing > m->max_units - m->units)
        return;
    model_extend(m, (uint32_t)missing, (int)number(s, 1) & 1);
    stead_block block;
    MUST(model_take(m, size, alignment, 0, &block));
}

/* ---- freeing ---- */

static void free_many(stream *s)
{
    size_t every = 1 + number(s, 1) % 8, first = number(s, 1) % every;
    for (size_t i = s->m.count; i-- > 0;)
        if (i % every == first)
            model_free(&s->m, i, 1);
}

/* A node given back again does nothing, unless somebody got the same since. */
static void give_again(stream *s)
{
    model *m = &s->m;
    unsigned which = (unsigned)number(s, 1) % RECENT;
    size_t at = 0;
    if (!m->freed[which])
        return;
    while (at < m->count && (m->live[at].node != m->given[which] || !m->live[at].held))
        at++;
    TRACE("give again %#" PRIx64 "\n", m->given[which]);
    MUST(stead_arena_give(m->arena, m->given[which]) == (at < m->count ? STEAD_DONE : STEAD_NOT_LIVE));
    if (at < m->count)
        model_leave(m, at);
}

/* ---- resizing ---- */

static void resize(stream *s, size_t at)
{
    model *m = &s->m;
    uint64_t size = any_size(s), missing = 0, none;
    int zero = (int)number(s, 1) & 1;
    int got = model_resize(m, at, size, &missing);
    if (got == STEAD_DONE || !missing || missing > m->max_units - m->units)
        return;
    if (missing > 1) { /* just as many: one less does not do */
        model_extend(m, (uint32_t)missing - 1, zero);
        MUST(model_resize(m, at, size, &none) == STEAD_NO_SPACE && none == 1);
    }
    model_extend(m, 1, zero);
    MUST(model_resize(m, at, size, &none) == STEAD_DONE);
}

/* ---- addresses that are none, or of the wrong kind ---- */

static uint64_t any_address(stream *s)
{
    const model *m = &s->m;
    const live_block *block = m->count ? &m->live[number(s, 2) % m->count] : NULL;
    uint64_t end = model_address(m, m->units);
    const uint64_t outside[] = {0, 1, m->base - 1, end, end + STEAD_UNIT, model_address(m, m->max_units), UINT64_MAX};
    switch (number(s, 1) % 8) {
    case 0:
        return outside[number(s, 1) % (sizeof outside / sizeof *outside)];
    case 1:
        return m->units ? model_address(m, number(s, 2) % m->units) + number(s, 1) % 2 * number(s, 2) % STEAD_UNIT : 0;
    case 2:
        return m->freed[number(s, 1) % RECENT];
    case 3:
        return block ? block->address + block->usable + number(s, 1) % 3 - 1 : 0;
    case 4:
        return block ? block->address + number(s, 3) % block->usable : 0;
    default:
        return block ? block->address : 0;
    }
}

static void find(const model *m, uint64_t address, int expected, size_t at)
{
    stead_block found = {0};
    MUST(stead_arena_find(m->arena, address, &found) == expected);
    if (expected == STEAD_DONE || expected == STEAD_HELD || expected == STEAD_INTERIOR)
        MUST(found.address == m->live[at].address && found.usable == m->live[at].usable && found.node == m->live[at].node);
}

static void ask_anywhere(stream *s)
{
    model *m = &s->m;
    size_t at;
    uint64_t address = any_address(s), usable, missing;
    unsigned how = (unsigned)number(s, 1) % 5;
    int expected = model_expected(m, address, &at), got;
    TRACE("at %#" PRIx64 ": call %u must answer %d\n", address - m->base, how, expected);
    if (how == 4 || (expected == (how & 1 ? STEAD_HELD : STEAD_DONE))) {
        find(m, address, expected, at);
        return; /* what would work is tried elsewhere */
    }
    if (how < 2)
        got = (how ? stead_arena_free_held : stead_arena_free)(m->arena, address);
    else
        got = (how & 1 ? stead_arena_resize_held : stead_arena_resize)(m->arena, address, any_size(s), &usable, &missing);
    if (expected == STEAD_DONE) /* it is live, but not held */
        MUST(got == STEAD_NOT_LIVE);
    else
        MUST(got == expected);
    find(m, address, expected, at);
}

/* ---- runs that are out, and what is zero ---- */

/* When all that is free was given back, the next run is zero. */
static void clean(model *m, uint64_t size, uint64_t alignment)
{
    stead_block block;
    if (m->outs == OUTS)
        return;
    stead_arena_purge(m->arena);
    while (model_check_out(m, 1))
        model_check_in(m, m->outs - 1, 1);
    MUST(stead_arena_dirty(m->arena) == 0);
    if (model_take(m, size, alignment, STEAD_LAST, &block) && !(block.node & 1))
        MUST(block.zero_from == 0 && block.zero_to == block.usable);
}

/* The largest run that statistics promise is there, once everything is committed; and nothing larger. */
static void take_the_largest(stream *s)
{
    model *m = &s->m;
    stead_block block;
    model_extend(m, m->max_units - m->units, (int)number(s, 1) & 1);
    uint64_t largest = model_statistics(m).largest_run;
    if (m->guard_alignment > STEAD_UNIT) /* where runs must begin, the longest may not be long enough */
        return;
    if (largest > m->guard) {
        MUST(model_take(m, largest - m->guard, STEAD_UNIT, STEAD_LAST, &block));
        model_free(m, model_above(m, block.address), 0);
        MUST(model_statistics(m).largest_run == largest);
    }
    if (m->guard || largest >= STEAD_SMALL) /* a smaller one may be a free block of a span */
        MUST(!model_take(m, largest + STEAD_UNIT - m->guard, STEAD_UNIT, STEAD_LAST, &block));
}

/* ---- the stream ---- */

/* T take, V take carefully, U fill up, S extend as far as need be and take, f free, D free many, G give again,
 * R resize, W ask anywhere, E extend, O check out, I check in, C clean, P purge, L take the largest, Q statistics,
 * X the next in another thread, N next phase */
static const char *const phases[] = {
    "TTTTTTTTTTVUffffffGRRRWWWEOICPLQSXN",
    "TTTTTTTTTTTTTTTTVURREOIWSXNfff",
    "TTTffffffffffffffDDGRWOICPLXN",
};

static void step(stream *s);

static void *step_abroad(void *argument)
{
    step(argument);
    return NULL;
}

static void abroad(stream *s)
{
    const model *m = &s->m;
    pthread_t thread;
    if (s->abroad)
        return;
    s->abroad = 1;
    MUST(!pthread_create(&thread, NULL, step_abroad, s) && !pthread_join(thread, NULL));
    s->abroad = 0;
}

static void extend(stream *s)
{
    uint32_t left = s->m.max_units - s->m.units, how = (uint32_t)number(s, 1);
    uint32_t wanted = how % 4 == 0 ? left : how % 4 == 1 ? 1 : how % 4 == 2 ? left / 2 : 1 + (how >> 2);
    model_extend(&s->m, wanted < left ? wanted : left, (int)number(s, 1) & 1);
}

static void step(stream *s)
{
    model *m = &s->m;
    const char *letters = phases[s->phase];
    m->letter = letters[number(s, 1) % strlen(letters)];
    m->operation++;
    switch (m->letter) {
    case 'T': take_any(s, 1, 0); break;
    case 'V': take_any(s, 1, 1); break;
    case 'U': take_any(s, 1 + (int)number(s, 1), 0); break;
    case 'S': take_after_extending(s); break;
    case 'D': free_many(s); break;
    case 'G': give_again(s); break;
    case 'W': ask_anywhere(s); break;
    case 'E': extend(s); break;
    case 'C': clean(m, any_size(s), any_alignment(s)); break;
    case 'P': stead_arena_purge(m->arena); break;
    case 'L': take_the_largest(s); break;
    case 'Q': (void)model_statistics(m); break;
    case 'X': abroad(s); break;
    case 'N': s->phase = (s->phase + 1) % (sizeof phases / sizeof *phases); break;
    case 'f':
        if (m->count)
            model_free(m, number(s, 2) % m->count, (int)number(s, 1) & 1);
        break;
    case 'R':
        if (m->count)
            resize(s, number(s, 2) % m->count);
        break;
    case 'O':
        if (m->outs < OUTS)
            (void)model_check_out(m, 1 + number(s, 1) % 2 * STEAD_UNIT * number(s, 1));
        break;
    case 'I':
        if (m->outs)
            model_check_in(m, (unsigned)number(s, 1) % m->outs, (int)number(s, 1) & 1);
        break;
    }
    if (m->max_units <= 1024 || m->operation % 16 == 0)
        model_compare(m);
}

/* Everything comes back, and is one run again. */
static void end(model *m)
{
    uint64_t whole = m->max_units * (uint64_t)STEAD_UNIT, run = m->guard ? m->guard_alignment : STEAD_UNIT;
    m->letter = '.';
    while (m->outs)
        model_check_in(m, m->outs - 1, 0);
    while (m->count)
        model_free(m, m->count - 1, 1);
    model_compare(m);
    stead_statistics last = model_statistics(m);
    MUST(last.blocks == 0 && last.used == 0 && last.largest_run == whole && last.runs == (m->units > 0));
    model_extend(m, m->max_units - m->units, 0);
    if (whole > m->guard && m->base % run == 0 && whole % run == 0) {
        clean(m, whole - m->guard, run);
        MUST(m->count == 1 && m->live[0].address == m->base);
        model_free(m, 0, 0);
    }
    model_compare(m);
}

void arena_stream_run(const char *name, const uint8_t *bytes, size_t size, int trace)
{
    static const uint32_t units[] = {1, 2, 3, 16, 63, 64, 127, 200, 500, 1000, 1024, 1024, 4000, 16384, 65536};
    static const uint64_t guards[] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4096, 4096, 8192, 12288, 65536, 1 << 20};
    static const uint64_t bases[] = {UINT64_C(1) << 44, (UINT64_C(1) << 44) + 0x1000, 0x7000, UINT64_C(0xffff800000003000)};
    stream whole = {.next = bytes, .stop = bytes + size}, *s = &whole;
    uint64_t base = bases[number(s, 1) % (sizeof bases / sizeof *bases)];
    uint32_t max_units = units[number(s, 1) % (sizeof units / sizeof *units)];
    s->m = model_make(name, base, max_units, guards[number(s, 1) % (sizeof guards / sizeof *guards)]);
    s->m.trace = trace;
    extend(s);
    while (s->next < s->stop)
        step(s);
    end(&s->m);
    model_drop(&s->m);
}
