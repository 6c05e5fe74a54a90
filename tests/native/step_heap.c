/* A process works with a heap and is killed after every single instruction: what it leaves is repaired by another one,
 * looked through, and used on. Then the repair is killed in the same way, and repaired again.
 *   step_heap [EVERY [locked | between]]   step the repair of every EVERYth state; 0: of none; "locked": of those with the
 *      lock taken; "between": of those without it, while what is between free runs is freed */
#define _GNU_SOURCE
#include "stepper.h"

#define BASE (UINT64_C(1) << 44)
#define FIRST_UNITS 96u
#define KEPT 64

enum { SURVIVOR = 1, VICTIM = 2, REPAIRER = 3, OTHERS = 4 }; /* identities, and mostly places */

static unsigned instructions, repairs, repair_states, repair_instructions;

/* ---- what the survivor has ---- */

typedef struct {
    stead_heap *heap;
    uint64_t blocks[KEPT];
    unsigned count;
} process;

static process survivor, others[4];

static uint64_t keep(process *p, uint64_t size) { return p->blocks[p->count++] = take(p->heap, size); }

static void give_up(process *p, uint64_t address)
{
    release(p->heap, address);
    for (unsigned i = 0; i < p->count; i++)
        if (p->blocks[i] == address)
            p->blocks[i] = p->blocks[--p->count];
}

/* ---- after the death of some: everything as it should be, in a copy ---- */

static void work_on(stead_heap *h)
{
    static const uint64_t sizes[] = {16, 100, 3000, 16384, 20000, 70000};
    uint64_t got[6];
    for (unsigned i = 0; i < 6; i++)
        got[i] = take(h, sizes[i]);
    look(h);
    for (unsigned i = 0; i < 6; i++)
        release(h, got[i]);
    look(h);
}

static void check_what_is_left(const char *control)
{
    static char *image, *private_memory;
    if (!image) {
        image = map(control_size, 0);
        private_memory = map(private_size, 0);
    }
    copy(image, control);
    memcpy(private_memory, survivor.heap, private_size);
    stead_heap *h = (stead_heap *)(void *)private_memory;
    heap_place_tables(h, (heap_shared *)(void *)image, MAX_UNITS);

    look(h); /* who looks before it is repaired finds nothing wrong, either */
    stead_heap_reap(h);
    for (unsigned place = 1; place < PLACES; place++) {
        uint64_t identity = h->shared->roster.identity[place];
        MUST(!identity || roster_alive(identity));
    }
    look(h);
    stead_shared_block block;
    for (unsigned i = 0; i < survivor.count; i++)
        MUST(stead_heap_find(h, survivor.blocks[i], &block) == STEAD_DONE && stead_heap_held(h, survivor.blocks[i]) == 1);
    work_on(h);

    /* Everyone else dies, and the survivor has no use for anything: nothing must be left. */
    unsigned before = dead;
    dead = ~(1u << SURVIVOR);
    stead_heap_reap(h);
    dead = before;
    for (unsigned i = 0; i < survivor.count; i++)
        release(h, survivor.blocks[i]);
    stead_heap_reclaim(h);
    look(h);
    stead_statistics s;
    stead_heap_statistics(h, &s);
    if (s.blocks || s.runs != 1)
        printf("%" PRIu64 " blocks, %" PRIu64 " runs\n", s.blocks, s.runs);
    MUST(s.blocks == 0 && s.runs == 1);
    MUST(h->shared->runs.free_units == h->shared->runs.units);
    for (uint32_t i = 0; i < MAX_UNITS * 256; i++)
        MUST(!(h->words[1][i] & PAYLOAD) && (i >= MAX_UNITS * 16 || !(h->words[0][i] & PAYLOAD)));
}

/* ---- what the victim does ---- */

enum { SMALL, LARGE_ONE, FOUR_HOLDERS, FIVE_HOLDERS };
static uint64_t handed_over[4];
static void victim(void *control)
{
    stead_heap *h = join(control, VICTIM);
    uint64_t mine[24], big[4];
    stead_run run;
    passed->doing = "allocating";
    for (unsigned i = 0; i < 6; i++)
        mine[i] = take(h, 1000); /* a new span, or one that another left */
    mine[6] = take(h, 64);
    big[0] = take(h, 20000);
    big[1] = take(h, 40000);
    passed->address = mine[6];
    passed->more = big[1];
    pause_here(); /* 1: the survivor leases them */
    passed->doing = "growing";
    (void)stead_heap_begin_growth(h);
    stead_heap_extend(h, 24, 1);
    stead_heap_end_growth(h);
    passed->doing = "aligning";
    stead_shared_block block;
    MUST(stead_heap_take(h, 20000, 65536, STEAD_LAST, &block) == STEAD_DONE);
    big[2] = block.address;
    passed->doing = "leasing";
    for (unsigned i = 0; i < 4; i++)
        lease(h, handed_over[i]);
    lease(h, handed_over[0]); /* again: only counted */
    pause_here(); /* 2: all others give up 0 (small), 1 (large) and 2 (which had five holders) */
    passed->doing = "dropping what is another's";
    release(h, handed_over[0]);
    for (unsigned i = 0; i < 4; i++)
        release(h, handed_over[i]);
    passed->doing = "freeing";
    for (unsigned i = 0; i < 7; i++)
        release(h, mine[i]);
    for (unsigned i = 0; i < 3; i++)
        release(h, big[i]);
    passed->doing = "freeing between what is free";
    uint64_t row[5], away = 0;
    for (unsigned i = 0; i < 5; i++)
        row[i] = take(h, i == 1 ? 70000 : 17000); /* longer than what is cleaned around an edge */
    static const unsigned order[] = {0, 2, 1, 4, 3};
    for (unsigned i = 0; i < 5; i++) {
        away = take(h, 50000); /* so that what is noted is elsewhere */
        release(h, row[order[i]]);
        release(h, away);
    }
    passed->doing = "giving memory back";
    stead_arena_purge(&h->side);
    MUST(stead_heap_checkout(h, 4096, &run));
    stead_heap_checkin(h, &run, 1);
    passed->doing = "taking what others freed";
    uint64_t many[40];
    unsigned count = 0;
    for (; count < 17; count++)
        many[count] = take(h, 4096); /* the 16th fills the span */
    passed->address = many[3];
    pause_here(); /* 3: the survivor leases it, */
    release(h, many[3]);
    pause_here(); /* 4: and gives it up */
    for (; count < 34; count++)
        many[count] = take(h, 4096);
    passed->doing = "rebuilding";
    stead_heap_rebuild(h);
    passed->doing = "reaping";
    stead_heap_reap(h);
    passed->doing = "reclaiming";
    stead_heap_reclaim(h);
    passed->doing = "leaving";
    stead_heap_detach(h);
}

static void between(unsigned pause)
{
    switch (pause) {
    case 1:
        lease(survivor.heap, survivor.blocks[survivor.count++] = passed->address);
        lease(survivor.heap, survivor.blocks[survivor.count++] = passed->more);
        break;
    case 2:
        for (unsigned i = SMALL; i <= FOUR_HOLDERS; i++)
            give_up(&survivor, handed_over[i]);
        for (unsigned i = 0; i < 3; i++)
            release(others[i].heap, handed_over[FOUR_HOLDERS]);
        break;
    case 3:
        lease(survivor.heap, survivor.blocks[survivor.count++] = passed->address);
        break;
    case 4:
        give_up(&survivor, passed->address);
        break;
    default:
        MUST(0);
    }
}

/* ---- what the repairer does ---- */

static void repair(void *control)
{
    stead_heap *h = join(control, REPAIRER);
    stead_heap_reap(h);
}

static void meet_repair(const char *control)
{
    repair_states++;
    unsigned before = dead;
    dead |= 1u << REPAIRER;
    check_what_is_left(control);
    dead = before;
}

static unsigned every, locked_states;
static int only_locked, only_between;

static int is_next(const char *control)
{
    const heap_shared *shared = (const heap_shared *)(const void *)control;
    if (!every || (only_locked && !shared->lock) ||
        (only_between && (shared->lock || strcmp(passed->doing, "freeing between what is free"))))
        return 0;
    if (only_between)
        return ++locked_states % every == 0;
    return (only_locked ? ++locked_states : states) % every == 0;
}

static void meet_victim(const char *control)
{
    states++;
    unsigned before = dead;
    dead |= 1u << VICTIM;
    check_what_is_left(control);
    if (is_next(control)) {
        static char *image;
        if (!image)
            image = map(control_size, 1);
        copy(image, control);
        step(image, repair, NULL, meet_repair, &repair_instructions);
        repairs++;
    }
    dead = before;
}

/* ---- what was there before ---- */

static void set_up(char *control)
{
    stead_heap_format(control, BASE, MAX_UNITS, (const uint8_t *)"0123456789abcdef", UINT64_C(1) << 60);
    survivor.heap = join(control, SURVIVOR);
    find_parts(survivor.heap);
    stead_heap_extend(survivor.heap, FIRST_UNITS, 1);
    for (unsigned i = 0; i < 4; i++)
        others[i].heap = join(control, OTHERS + i);

    /* A span that its owner has left, in which the survivor holds one block; and one of a process that is dead. */
    stead_heap *left = join(control, OTHERS + 4);
    for (unsigned i = 0; i < 3; i++)
        survivor.blocks[survivor.count] = take(left, 1000);
    lease(survivor.heap, survivor.blocks[survivor.count++]);
    stead_heap_detach(left);
    /* And one in which there is nothing any more, since the survivor gave it up after its owner had left. */
    left = join(control, OTHERS + 4);
    uint64_t only = take(left, 2500);
    lease(survivor.heap, only);
    stead_heap_detach(left);
    release(survivor.heap, only);
    survivor.blocks[survivor.count] = take(others[3].heap, 5000);
    lease(survivor.heap, survivor.blocks[survivor.count++]);
    (void)take(others[3].heap, 30000);
    dead = 1u << (OTHERS + 3);

    keep(&survivor, 100);
    keep(&survivor, 17000);
    handed_over[SMALL] = keep(&survivor, 300);
    handed_over[LARGE_ONE] = keep(&survivor, 60000);
    handed_over[FOUR_HOLDERS] = keep(&survivor, 300);
    handed_over[FIVE_HOLDERS] = keep(&survivor, 17000);
    for (unsigned i = 0; i < 4; i++)
        lease(others[i].heap, handed_over[FIVE_HOLDERS]);
    for (unsigned i = 0; i < 3; i++)
        lease(others[i].heap, handed_over[FOUR_HOLDERS]);
}

int main(int count, char **arguments)
{
    every = count > 1 ? (unsigned)strtoul(arguments[1], NULL, 10) : 60;
    only_locked = count > 2 && !strcmp(arguments[2], "locked");
    only_between = count > 2 && !strcmp(arguments[2], "between");
    passed = map(4096, 1);
    passed->doing = "setting up";
    control_size = stead_heap_control_size(MAX_UNITS);
    private_size = stead_heap_private_size(MAX_UNITS);
    char *control = map(control_size, 1);
    set_up(control);
    look(survivor.heap);
    step(control, victim, between, meet_victim, &instructions);
    look(survivor.heap);
    check_what_is_left(control);
    printf("killed after each of %u instructions, in %u states of the heap; %u repairs in %u states of %u instructions: "
           "all repaired\n",
           instructions, states, repairs, repair_states, repair_instructions);
    return states < 300;
}
