/* The control memory of a heap is damaged, a bit or a few words, and the heap is looked at and used on: it never crashes,
 * hangs, or reads where no table is; and check says that something is wrong, wherever it can be known.
 *   corrupt_heap [TIMES [SEED [NUMBER]]]   NUMBER: only that one, in this process, for a debugger
 * Each time in a child, which has its own copy of all the memory. Without guard pages around it, an access beyond would not
 * be noticed. */
#define _GNU_SOURCE
#include "shared.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BASE (UINT64_C(1) << 44)
#define MAX_UNITS 256u
#define USED_UNITS 200u
#define GUARD (UINT64_C(1) << 26)
#define KNOWN 160

enum { ME = 1, OTHERS = 2, DEAD = 8 };

uint64_t roster_myself(void) { return 0; }
int roster_alive(uint64_t identity) { return identity >= 1 && identity < DEAD; }

static uint64_t random_state;

static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

static void *map(uint64_t size)
{
    size = (size + 4095) & ~UINT64_C(4095);
    char *got = mmap(NULL, size + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (got == MAP_FAILED || mprotect(got + GUARD, size, PROT_READ | PROT_WRITE))
        exit(2);
    return got + GUARD;
}

/* ---- a heap with some of everything ---- */

static stead_heap *me, *others[6], *dead;
static struct {
    uint64_t address;
    stead_heap *holder;
} known[KNOWN];
static unsigned known_count;

static stead_heap *join(void *control, uint64_t identity)
{
    stead_heap *h = NULL;
    if (stead_heap_attach(control, map(stead_heap_private_size(MAX_UNITS)), identity, &h))
        exit(2);
    return h;
}

static uint64_t take(stead_heap *h, uint64_t size)
{
    stead_shared_block block;
    if (stead_heap_take(h, size, 16, 0, &block))
        exit(2);
    known[known_count].holder = h;
    return known[known_count++].address = block.address;
}

static void lease(stead_heap *h, uint64_t address)
{
    stead_shared_block block;
    if (stead_heap_lease(h, address, -1, &block))
        exit(2);
}

static void set_up(void)
{
    static const uint64_t sizes[] = {16, 200, 1000, 5000, 16384, 20000, 70000};
    uint64_t gaps[12], common;
    stead_run run;
    void *control = map(stead_heap_control_size(MAX_UNITS));
    stead_heap_format(control, BASE, MAX_UNITS, (const uint8_t *)"0123456789abcdef", UINT64_C(1) << 60);
    me = join(control, ME);
    stead_heap_extend(me, USED_UNITS, 1);
    for (unsigned i = 0; i < 6; i++)
        others[i] = join(control, OTHERS + i);
    dead = join(control, DEAD);
    for (unsigned i = 0; i < 12; i++)
        gaps[i] = take(i % 2 ? me : others[0], 17000);
    for (unsigned n = 0; n < 3; n++)
        for (unsigned i = 0; i < 7; i++)
            take(i % 3 ? me : n ? others[n] : dead, sizes[i]);
    for (unsigned i = 0; i < 12; i += 3)
        stead_heap_release(i % 2 ? me : others[0], gaps[i]);
    for (unsigned n = 0; n < 3; n++) {
        common = take(me, n == 1 ? 30000 : 300);
        for (unsigned i = 0; i < 6; i++)
            lease(others[i], common);
        if (n)
            lease(dead, common);
    }
    common = take(others[5], 640); /* in a span that its owner leaves */
    known[known_count - 1].holder = me;
    lease(me, common);
    take(others[4], 2500);
    lease(me, common = take(others[4], 2500));
    stead_heap_detach(others[5]);
    if (!stead_heap_checkout(dead, 4096, &run))
        exit(2);
}

/* ---- damage ---- */

enum { HEADER, ENT, WORDS, SETS, ROSTER, DERIVED, ANYTHING, REGIONS };
static const char *const names[REGIONS] = {"header", "entries of heads", "holder words in use", "sets in use", "roster in use", "derived", "anything"};
static struct counts {
    uint64_t damaged[REGIONS], found[REGIONS], unknowable[REGIONS];
    uint64_t number;
    int region, found_it, knowable;
    uint64_t offset, before, after;
} * counts;

static struct {
    uint32_t head;
    uint64_t e;
} runs[MAX_UNITS];
static unsigned run_count;

static void find_runs(void)
{
    for (uint32_t head = 0; head < USED_UNITS; head += length_of(me->side.ent[head])) {
        runs[run_count].head = head;
        runs[run_count++].e = me->side.ent[head];
    }
}

static uint64_t *some_word(void)
{
    for (;;) {
        unsigned n = (unsigned)(next_random() % run_count);
        uint32_t head = runs[n].head;
        uint64_t e = runs[n].e;
        unsigned c = kind_of(e) == SPAN ? class_of(e) : STEAD_CLASSES;
        if (kind_of(e) != SPAN && kind_of(e) != LARGE)
            continue;
        uint64_t *word = word_of_block(me, head, c, c < STEAD_CLASSES ? (uint32_t)(next_random() % blocks_in(e)) : 0);
        if (*word & PAYLOAD || next_random() % 64 == 0)
            return word;
    }
}

static uint64_t *some_place(int region)
{
    heap_shared *shared = me->shared;
    uint64_t *all = (uint64_t *)shared;
    switch (region) {
    case HEADER:
        return next_random() % 2 ? &all[next_random() % (offsetof(heap_shared, runs) / 8)] : &all[offsetof(heap_shared, runs) / 8];
    case ENT:
        return &me->side.ent[runs[next_random() % run_count].head];
    case WORDS:
        return some_word();
    case SETS:
        return (uint64_t *)&me->sets[next_random() % 3] + next_random() % 2;
    case ROSTER:
        return &shared->roster.identity[1 + next_random() % DEAD];
    case DERIVED:
        switch (next_random() % 5) {
        case 0:
            return (uint64_t *)&shared->runs + 1 + next_random() % (sizeof shared->runs / 8 - 1);
        case 1:
            return (uint64_t *)&me->side.links_of_runs[next_random() % USED_UNITS];
        case 2:
            return (uint64_t *)&me->side.zero[next_random() % USED_UNITS];
        case 3:
            return &me->side.ent[next_random() % USED_UNITS];
        default:
            return ever_of(me, (unsigned)(next_random() % 9)).summary + next_random() % (4 + 1);
        }
    default:
        return &all[next_random() % (me->control_size / 8)];
    }
}

static uint64_t other_value(uint64_t value)
{
    switch (next_random() % 8) {
    case 0:
        return 0;
    case 1:
        return ~UINT64_C(0);
    case 2:
        return next_random();
    case 3:
        return value + 1 - 2 * (next_random() & 1);
    case 4:
        return next_random() % 300 << (next_random() & 32);
    default:
        return value ^ UINT64_C(1) << next_random() % 64;
    }
}

/* A lock that names a process which lives is one that it holds: nobody can know better. */
static void free_locks(void)
{
    uint32_t *locks[] = {&me->shared->lock, &me->shared->reap_lock, &me->shared->growth_lock};
    for (unsigned i = 0; i < 3; i++) {
        unsigned place = *locks[i] & 1023;
        if (place && roster_alive(me->shared->roster.identity[place]) &&
            (*locks[i] >> 10 & 0x1fffff) == (me->shared->roster.generation[place] & 0x1fffff))
            *locks[i] = 0;
    }
}

static void damage(unsigned words)
{
    for (unsigned i = 0; i < words; i++) {
        counts->region = (int)(next_random() % REGIONS);
        uint64_t *place = some_place(counts->region), before = *place;
        *place = words == 1 ? before ^ UINT64_C(1) << next_random() % 64 : other_value(before);
        counts->offset = (uint64_t)(place - (uint64_t *)me->shared);
        counts->before = before;
        counts->after = *place;
    }
    free_locks();
}

/* As possible as what was there, for all that this process can know: another generation, or count of references; other
 * processes as holders, that know of the unit; other processes' own spans; another process on the roster, which is dead. A
 * lane is only where a span is listed when it has room. */
static int may_hold(unsigned place, uint32_t head)
{
    return place < PLACES && me->shared->roster.identity[place] && unit_set_has(ever_of(me, place), head);
}

static uint32_t head_of_word(uint64_t number)
{
    const uint64_t *word = (const uint64_t *)me->shared + number;
    uint32_t unit = word >= me->words[1] ? (uint32_t)((word - me->words[1]) / 256) : (uint32_t)((word - me->words[0]) / 16);
    while (kind_of(me->side.ent[unit]) == SPAN && back_of(me->side.ent[unit]))
        unit -= back_of(me->side.ent[unit]);
    for (unsigned n = 0; n < run_count; n++)
        if (runs[n].head <= unit && unit < runs[n].head + length_of(runs[n].e))
            return runs[n].head;
    return 0;
}

static int word_is_possible(void)
{
    uint64_t before = counts->before, after = counts->after, changed = before ^ after;
    uint32_t head = head_of_word(counts->offset), mine = 0, was_mine = 0;
    if (!(changed & PAYLOAD & ~CUSTODY))
        return 1;
    if ((before | after) & OVERFLOW)
        return 0;
    for (unsigned slot = 0; slot < 4; slot++) {
        unsigned place = (unsigned)(after >> (10 * slot) & 1023);
        if (place && !may_hold(place, head))
            return 0;
        mine |= place == ME;
        was_mine |= (before >> (10 * slot) & 1023) == ME;
        for (unsigned other = 0; place && other < slot; other++)
            if ((after >> (10 * other) & 1023) == place)
                return 0;
    }
    return mine >= was_mine;
}

static int set_is_possible(void)
{
    uint64_t changed = counts->before ^ counts->after, set = counts->offset - (uint64_t)((uint64_t *)me->sets - (uint64_t *)me->shared);
    if (set % (sizeof(holder_set) / 8) == 0 || changed >> ME & 1 || !counts->after)
        return 0;
    uint32_t head = head_of_word(me->sets[set / (sizeof(holder_set) / 8)].word - 1);
    for (unsigned place = 0; place < 64; place++)
        if (changed & counts->after & UINT64_C(1) << place && !may_hold(place, head))
            return 0;
    return 1;
}

static int knowable(void)
{
    uint64_t changed = counts->before ^ counts->after;
    switch (counts->region) {
    case WORDS:
        return !word_is_possible();
    case ROSTER:
        return counts->after == 0 || counts->before == ME;
    case SETS:
        return !set_is_possible();
    case HEADER: /* without the locks, and the size that is only for looking */
        return counts->offset < offsetof(heap_shared, lock) / 8 && counts->offset != offsetof(heap_shared, control_size) / 8;
    case ENT:
        return kind_of(counts->before) != SPAN || changed & ~((UINT64_C(1023) << 9) | (UINT64_C(15) << 24)) ||
               (changed >> 9 & 1023 && (owner_of(counts->before) == ME || owner_of(counts->after) == ME));
    default:
        return 0;
    }
}

/* ---- what is done with it ---- */

static void visit(void *context, const stead_shared_block *block)
{
    uint64_t *sum = context;
    *sum += block->address;
    if (block->address - BASE > MAX_UNITS * (uint64_t)STEAD_UNIT || block->address - BASE + block->usable > MAX_UNITS * (uint64_t)STEAD_UNIT)
        abort();
}

static const char *use(void)
{
    stead_statistics s;
    stead_shared_block block;
    uint64_t sum = 0, places[16];
    uint32_t unit;
    const char *first = stead_heap_check(me, &unit);
    stead_heap_each(me, visit, &sum);
    for (unsigned i = 0; i < known_count + 40; i++) {
        uint64_t address = i < known_count ? known[i].address : BASE + next_random() % (MAX_UNITS * UINT64_C(4200));
        (void)stead_heap_find(me, address, &block);
        (void)stead_heap_held(me, address);
        (void)stead_heap_holders(me, address, places);
        if (!stead_heap_lease(me, address, -1, &block) && i % 4)
            (void)stead_heap_release(me, address);
        if (i < known_count && i % 3 == 0)
            (void)stead_heap_release(known[i].holder, address);
    }
    (void)stead_heap_reap(me);
    stead_heap_statistics(me, &s);
    stead_heap_reclaim(me);
    for (unsigned i = 0; i < 12; i++)
        (void)stead_heap_take(i % 2 ? me : others[1], UINT64_C(16) << i, 16, i % 3 ? STEAD_LAST : 0, &block);
    (void)stead_heap_check(me, &unit);
    stead_heap_rebuild(me);
    (void)stead_heap_check(me, &unit);
    stead_heap_each(me, visit, &sum);
    stead_heap_detach(others[2]);
    (void)stead_heap_reap(others[0]);
    return first;
}

static void one(uint64_t seed, uint64_t number)
{
    random_state = (seed * UINT64_C(0x9e3779b97f4a7c15) ^ number * UINT64_C(0xbf58476d1ce4e5b9)) | 1;
    for (unsigned i = 0; i < 4; i++)
        (void)next_random();
    alarm(20);
    damage(number % 4 ? 1 : 1 + (unsigned)(next_random() % 8));
    counts->knowable = number % 4 && knowable();
    counts->found_it = use() != NULL;
}

int main(int count, char **arguments)
{
    uint64_t times = count > 1 ? strtoull(arguments[1], NULL, 0) : 4000, wrong = 0;
    uint64_t seed = count > 2 ? strtoull(arguments[2], NULL, 0) : (uint64_t)time(NULL);
    counts = mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    set_up();
    find_runs();
    uint32_t unit;
    const char *already = stead_heap_check(me, &unit);
    printf("seed %" PRIu64 "\n", seed);
    if (already) {
        printf("before: unit %u: %s\n", unit, already);
        return 1;
    }
    if (count > 3) {
        one(seed, strtoull(arguments[3], NULL, 0));
        printf("%s: word %" PRIu64 " was %#" PRIx64 ", is %#" PRIx64 ": %s\n", names[counts->region], counts->offset, counts->before, counts->after, counts->found_it ? "found" : "not found");
        return 0;
    }
    for (uint64_t number = 0; number < times && wrong < 10; number++) {
        int status;
        (void)fflush(stdout);
        pid_t child = fork();
        if (!child) {
            one(seed, number);
            _exit(0);
        }
        if (child < 0 || waitpid(child, &status, 0) != child || status) {
            wrong++;
            printf("%s: corrupt_heap 0 %" PRIu64 " %" PRIu64 " (%s, word %" PRIu64 ", %#" PRIx64 " to %#" PRIx64 ")\n",
                   WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "failed", seed, number, names[counts->region], counts->offset, counts->before, counts->after);
        } else if (number % 4) {
            counts->damaged[counts->region]++;
            counts->found[counts->region] += (uint64_t)counts->found_it;
            if (!counts->knowable && !counts->found_it)
                counts->unknowable[counts->region]++;
            if (counts->knowable && !counts->found_it && ++wrong)
                printf("not found: %" PRIu64 ": %s, word %" PRIu64 ", %#" PRIx64 " to %#" PRIx64 "\n", number, names[counts->region], counts->offset, counts->before, counts->after);
        }
    }
    for (int i = 0; i < REGIONS; i++)
        printf("%-20s %6" PRIu64 " flips of one bit, %6" PRIu64 " found, %6" PRIu64 " of the others say something as possible\n", names[i], counts->damaged[i], counts->found[i], counts->unknowable[i]);
    return wrong != 0;
}
