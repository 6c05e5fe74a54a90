/* strips.c - see strips.h. */
#include <stdlib.h>
#include <string.h>

#include "strips.h"

#define WORD 64u

/* ---- sets of blocks ---- */

static uint64_t words_of(uint64_t slice) { return (slice / STEAD_GRANULE + WORD - 1) / WORD; }

uint64_t stead_blocks_bytes(uint64_t slice) { return 2 * words_of(slice) * sizeof(uint64_t); }
uint64_t stead_copies_bytes(uint64_t slice) { return slice / STEAD_GRANULE * sizeof(uint16_t); }

stead_blocks stead_blocks_in(void *memory, uint64_t slice)
{
    return (stead_blocks){memory, (uint64_t *)memory + words_of(slice)};
}

static inline int is_set(const uint64_t *bits, uint64_t i) { return bits[i / WORD] >> i % WORD & 1; }

static uint64_t start_of(const stead_book *b, uint32_t owner) { return b->base + owner * b->slice; }

static inline uint64_t granule_of(const stead_book *b, uint32_t owner, uint64_t address)
{
    return (address - start_of(b, owner)) / STEAD_GRANULE;
}

/* The first bit from `i` on, or `stop`. */
static uint64_t next_bit(const uint64_t *bits, uint64_t i, uint64_t stop)
{
    while (i < stop) {
        uint64_t word = bits[i / WORD] >> i % WORD;
        if (word) {
            i += (unsigned)__builtin_ctzll(word);
            return i < stop ? i : stop;
        }
        i = (i / WORD + 1) * WORD;
    }
    return stop;
}

static int owner_of_address(const stead_book *b, uint64_t address, uint32_t *owner)
{
    uint64_t offset = address - b->base;
    if (address < b->base || offset / b->slice >= b->ranks)
        return 0;
    *owner = (uint32_t)(offset / b->slice);
    return 1;
}

static int in_set(const stead_book *b, uint32_t owner, uint64_t address)
{
    const stead_blocks *set = &b->sets[owner];
    return set->begins && !(address % STEAD_GRANULE) && is_set(set->begins, granule_of(b, owner, address));
}

static int find_ours(const stead_book *b, uint64_t address, uint64_t *size)
{
    stead_block block = {0};
    int got = stead_arena_find(b->arena, address, &block);
    *size = block.usable;
    return got == STEAD_DONE && in_set(b, b->rank, address) ? STEAD_AWAY : got;
}

static int find_theirs(const stead_book *b, uint32_t owner, uint64_t address, uint64_t *size)
{
    const stead_blocks *set = &b->sets[owner];
    if (!in_set(b, owner, address))
        return STEAD_NOT_LIVE;
    uint64_t i = granule_of(b, owner, address);
    *size = (next_bit(set->ends, i, b->slice / STEAD_GRANULE) - i + 1) * STEAD_GRANULE;
    return STEAD_DONE;
}

int stead_book_find(const stead_book *b, uint64_t address, uint64_t *size)
{
    uint32_t owner;
    *size = 0;
    if (!owner_of_address(b, address, &owner))
        return STEAD_FOREIGN;
    return owner == b->rank ? find_ours(b, address, size) : find_theirs(b, owner, address, size);
}

/* Bits from `at` on, `step` apart, as many as are left (*count, counted down) or the word has. */
static inline uint64_t bits_of_word(unsigned at, uint64_t step, uint64_t *count)
{
    uint64_t mask = 0, all = (WORD - 1 - at) / step + 1;
    if (step < WORD && WORD % step == 0 && *count >= all) { /* step is a power of two: the pattern repeats */
        *count -= all;
        return (step == 1 ? UINT64_MAX : UINT64_MAX / ((UINT64_C(1) << step) - 1)) << at;
    }
    for (uint64_t bit = at; bit < WORD && *count; bit += step, --*count)
        mask |= UINT64_C(1) << bit;
    return mask;
}

enum { ADD, DROP };

static void mark_bits(uint64_t *bits, uint64_t at, uint64_t step, uint64_t count, int how)
{
    while (count) {
        uint64_t before = count, mask = bits_of_word((unsigned)(at % WORD), step, &count), *word = &bits[at / WORD];
        *word = how == ADD ? *word | mask : *word & ~mask;
        at += (before - count) * step;
    }
}

static void mark(stead_book *b, uint32_t owner, const stead_strip *strips, size_t n, int how)
{
    stead_blocks *set = &b->sets[owner];
    for (size_t i = 0; i < n; i++) {
        uint64_t granules = strips[i].size / STEAD_GRANULE, at = granule_of(b, owner, strips[i].start);
        mark_bits(set->begins, at, granules, strips[i].count, how);
        mark_bits(set->ends, at + granules - 1, granules, strips[i].count, how);
    }
}

void stead_book_add(stead_book *b, uint32_t owner, const stead_strip *strips, size_t n) { mark(b, owner, strips, n, ADD); }

void stead_book_drop(stead_book *b, uint32_t owner, const stead_strip *strips, size_t n) { mark(b, owner, strips, n, DROP); }

uint64_t stead_book_first(const stead_book *b, uint32_t owner, const stead_strip *strips, size_t n, int wanted)
{
    const uint64_t *bits = b->sets[owner].begins;
    if (!bits)
        return !wanted && n ? strips[0].start : 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t step = strips[i].size / STEAD_GRANULE, count = strips[i].count, at = granule_of(b, owner, strips[i].start);
        while (count) {
            uint64_t before = count, mask = bits_of_word((unsigned)(at % WORD), step, &count);
            uint64_t found = (wanted ? bits[at / WORD] : ~bits[at / WORD]) & mask;
            if (found)
                return start_of(b, owner) + (at / WORD * WORD + (unsigned)__builtin_ctzll(found)) * STEAD_GRANULE;
            at += (before - count) * step;
        }
    }
    return 0;
}

int stead_book_sound(const stead_book *b, uint32_t owner, const stead_strip *strips, size_t n)
{
    uint64_t at = start_of(b, owner), stop = at + b->slice;
    for (size_t i = 0; i < n; i++) {
        const stead_strip *s = &strips[i];
        if (s->start % STEAD_GRANULE || s->size % STEAD_GRANULE || !s->size || !s->count)
            return 0;
        if (s->start < at || s->start >= stop || s->count > (stop - s->start) / s->size)
            return 0;
        at = s->start + s->size * s->count;
    }
    return 1;
}

size_t stead_book_vacant(const stead_book *b, uint32_t owner, uint64_t from, uint64_t to, uint64_t page,
                         stead_piece *out, size_t most)
{
    const stead_blocks *set = &b->sets[owner];
    size_t found = 0;
    uint64_t end = 0; /* of the last piece */
    for (uint64_t at = from; at < to; at += page) {
        uint64_t i = granule_of(b, owner, at), stop = i + page / STEAD_GRANULE;
        if (stop > b->slice / STEAD_GRANULE)
            stop = b->slice / STEAD_GRANULE;
        if (set->begins && (next_bit(set->begins, i, stop) < stop || next_bit(set->ends, i, stop) < stop))
            continue;
        if (!found || end != at) {
            if (found < most)
                out[found] = (stead_piece){at, 0};
            found++;
        }
        end = at + page;
        if (found <= most)
            out[found - 1].size = end - out[found - 1].start;
    }
    return found;
}

/* ---- the end of contents ---- */

int stead_book_copied(stead_book *b, const stead_strip *strips, size_t n, uint64_t *refused)
{
    for (int test = 1; test >= 0; test--)
        for (size_t i = 0; i < n; i++)
            for (uint64_t k = 0, at = strips[i].start; k < strips[i].count; k++, at += strips[i].size) {
                uint16_t *copies = &b->copies[granule_of(b, b->rank, at)];
                if (!test) {
                    ++*copies;
                } else if (*copies == UINT16_MAX) {
                    *refused = at;
                    return STEAD_MANY;
                }
            }
    return STEAD_DONE;
}

/* One process less has it: whether nobody has it now. */
static int lose(stead_book *b, uint64_t address)
{
    uint16_t *copies = b->copies ? &b->copies[granule_of(b, b->rank, address)] : NULL;
    if (!copies || !*copies)
        return 1;
    --*copies;
    return 0;
}

int stead_book_free(stead_book *b, uint64_t address, uint64_t *size)
{
    int got = stead_book_find(b, address, size);
    uint32_t owner;
    if (got != STEAD_DONE || !owner_of_address(b, address, &owner))
        return got;
    stead_strip one = {address, *size, 1};
    if (owner != b->rank)
        stead_book_drop(b, owner, &one, 1);
    else if (lose(b, address))
        return stead_arena_free(b->arena, address);
    else
        stead_book_add(b, owner, &one, 1);
    return STEAD_DONE;
}

size_t stead_book_freed(stead_book *b, const uint64_t *addresses, size_t n, size_t *wrong)
{
    size_t freed = 0;
    *wrong = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t size;
        int got = stead_book_find(b, addresses[i], &size);
        if (got == STEAD_DONE && b->copies && b->copies[granule_of(b, b->rank, addresses[i])]) {
            (void)lose(b, addresses[i]);
        } else if (got == STEAD_AWAY) {
            if (!lose(b, addresses[i]))
                continue;
            stead_book_drop(b, b->rank, &(stead_strip){addresses[i], size, 1}, 1);
            freed += stead_arena_free(b->arena, addresses[i]) == STEAD_DONE;
        } else {
            ++*wrong;
        }
    }
    return freed;
}

/* ---- strips ---- */

#define DIGIT 11u

/* In order, by least significant digits first: addresses are few digits apart from each other. Needs as much memory
 * again. */
static int sort(uint64_t *addresses, size_t n)
{
    uint64_t low = UINT64_MAX, high = 0, *from = addresses, *to = malloc(n * sizeof *to), *room = to;
    size_t *counts = malloc(((size_t)1 << DIGIT) * sizeof *counts);
    if (!to || !counts) {
        free(room);
        free(counts);
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        low = addresses[i] < low ? addresses[i] : low;
        high = addresses[i] > high ? addresses[i] : high;
    }
    for (unsigned shift = 0; shift < WORD && (high - low) >> shift; shift += DIGIT) {
        size_t at = 0;
        memset(counts, 0, ((size_t)1 << DIGIT) * sizeof *counts);
        for (size_t i = 0; i < n; i++)
            counts[(from[i] - low) >> shift & ((1u << DIGIT) - 1)]++;
        for (size_t d = 0; d < (size_t)1 << DIGIT; d++) {
            size_t count = counts[d];
            counts[d] = at;
            at += count;
        }
        for (size_t i = 0; i < n; i++)
            to[counts[(from[i] - low) >> shift & ((1u << DIGIT) - 1)]++] = from[i];
        uint64_t *other = from;
        from = to;
        to = other;
    }
    if (from != addresses)
        memcpy(addresses, from, n * sizeof *addresses);
    free(room);
    free(counts);
    return 1;
}

/* Where the next address probably is. Divisions and locks are most of what a look-up costs. */
typedef struct {
    uint32_t owner;
    uint64_t from, to;           /* the owner's slice */
    uint64_t start, size, count; /* so many blocks of ours lie side by side from start on */
} guess;

static int find_next(const stead_book *b, uint64_t address, guess *g, uint64_t *size)
{
    if (address < g->from || address >= g->to) {
        if (!owner_of_address(b, address, &g->owner))
            return STEAD_FOREIGN;
        g->from = start_of(b, g->owner);
        g->to = g->from + b->slice;
        g->count = 0;
    }
    if (g->owner != b->rank)
        return find_theirs(b, g->owner, address, size);
    if (!g->count || address != g->start) {
        uint32_t row;
        stead_block block = {0};
        int got = stead_arena_find_row(b->arena, address, &block, &row);
        if (got != STEAD_DONE)
            return got;
        g->start = address;
        g->size = block.usable;
        g->count = row;
    }
    g->start += g->size;
    g->count--;
    *size = g->size;
    return in_set(b, b->rank, address) ? STEAD_AWAY : STEAD_DONE;
}

static int collect(const stead_book *b, const uint64_t *addresses, size_t n, stead_strip **strips, size_t *found,
                   uint64_t *refused)
{
    size_t room = 0, count = 0;
    uint64_t size = 0, end = 0; /* of the last strip */
    guess g = {0};
    for (size_t i = 0; i < n; i++) {
        int got = i && addresses[i] == addresses[i - 1] ? STEAD_TWICE : find_next(b, addresses[i], &g, &size);
        if (got) {
            *refused = addresses[i];
            return got;
        }
        if (count && addresses[i] == end && size == (*strips)[count - 1].size && end != g.from) {
            (*strips)[count - 1].count++;
        } else {
            if (count == room) {
                stead_strip *more = realloc(*strips, (room = room ? 2 * room : 64) * sizeof *more);
                if (!more)
                    return STEAD_NO_MEMORY;
                *strips = more;
            }
            (*strips)[count++] = (stead_strip){addresses[i], size, 1};
        }
        end = addresses[i] + size;
    }
    *found = count;
    return STEAD_DONE;
}

int stead_book_strips(const stead_book *b, const uint64_t *addresses, size_t n, stead_strip **strips, size_t *found,
                      uint64_t *refused)
{
    uint64_t *sorted = NULL;
    *strips = NULL;
    *found = 0;
    for (size_t i = 1; i < n && !sorted; i++) {
        if (addresses[i - 1] <= addresses[i])
            continue;
        sorted = malloc(n * sizeof *sorted);
        if (!sorted)
            return STEAD_NO_MEMORY;
        memcpy(sorted, addresses, n * sizeof *sorted);
        if (!sort(sorted, n)) {
            free(sorted);
            return STEAD_NO_MEMORY;
        }
    }
    int got = collect(b, sorted ? sorted : addresses, n, strips, found, refused);
    free(sorted);
    if (got) {
        free(*strips);
        *strips = NULL;
    }
    return got;
}

uint64_t stead_strips_blocks(const stead_strip *strips, size_t n)
{
    uint64_t blocks = 0;
    for (size_t i = 0; i < n; i++)
        blocks += strips[i].count;
    return blocks;
}

/* ---- runs ---- */

size_t stead_strips_runs(const stead_strip *strips, size_t n, stead_piece *runs)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t bytes = strips[i].size * strips[i].count;
        if (count && runs[count - 1].start + runs[count - 1].size == strips[i].start)
            runs[count - 1].size += bytes;
        else
            runs[count++] = (stead_piece){strips[i].start, bytes};
    }
    return count;
}

size_t stead_runs_pages(const stead_piece *runs, size_t n, uint64_t page, int outer, stead_piece *out)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t start = runs[i].start, stop = start + runs[i].size, below = outer ? 0 : page - 1;
        start = (start + below) / page * page;
        stop = (stop + (page - 1 - below)) / page * page;
        if (start >= stop)
            continue;
        if (count && start <= out[count - 1].start + out[count - 1].size)
            out[count - 1].size = stop - out[count - 1].start;
        else
            out[count++] = (stead_piece){start, stop - start};
    }
    return count;
}

uint64_t stead_runs_next(const stead_piece *runs, size_t n, uint64_t offset, uint64_t direct, uint64_t most, size_t *count)
{
    uint64_t bytes = 0;
    *count = 0;
    for (size_t i = 0; i < n; i++, offset = 0) {
        uint64_t left = runs[i].size - offset;
        if (left >= direct && !bytes)
            return left < most ? left : most;
        if (left >= direct || bytes + left > most)
            break;
        bytes += left;
        ++*count;
    }
    return bytes;
}

void stead_runs_gather(const stead_piece *runs, size_t n, uint64_t offset, char *to)
{
    for (size_t i = 0; i < n; i++, offset = 0) {
        uint64_t bytes = runs[i].size - offset;
        memcpy(to, (const char *)(uintptr_t)(runs[i].start + offset), bytes);
        to += bytes;
    }
}

void stead_runs_scatter(const stead_piece *runs, size_t n, uint64_t offset, const char *from)
{
    for (size_t i = 0; i < n; i++, offset = 0) {
        uint64_t bytes = runs[i].size - offset;
        memcpy((char *)(uintptr_t)(runs[i].start + offset), from, bytes);
        from += bytes;
    }
}

/* ---- pages ---- */

static int all_zeros(const uint64_t *words, uint64_t bytes)
{
    uint64_t any = 0;
    for (uint64_t i = 0; i < bytes / sizeof *words; i += 8) {
        for (unsigned k = 0; k < 8; k++)
            any |= words[i + k];
        if (any)
            return 0;
    }
    return 1;
}

size_t stead_pages_written(uint64_t from, uint64_t to, uint64_t page, stead_piece *out, size_t most, uint64_t *next)
{
    size_t count = 0;
    for (; from < to; from += page) {
        if (all_zeros((const uint64_t *)(uintptr_t)from, page))
            continue;
        if (count && out[count - 1].start + out[count - 1].size == from) {
            out[count - 1].size += page;
        } else if (count < most) {
            out[count++] = (stead_piece){from, page};
        } else {
            break;
        }
    }
    *next = from;
    return count;
}
