/* A process that sends blocks, uses channels, locks, semaphores, conditions and barriers is killed after every single
 * instruction: no message that was accepted is lost or there twice, what a message holds is live, nobody waits for the dead,
 * and when all are gone nothing is left.
 *   step_objects [EVERY]   step the repair of every EVERYth state, too; 0: of none */
#define _GNU_SOURCE
#include "stepper.h"

#define FIRST_UNITS 96u
#define CELLS 4u
#define BYTES 24u

enum { SURVIVOR = 1, VICTIM = 2, REPAIRER = 3 };

static unsigned instructions, repairs, repair_states, repair_instructions, every;
static stead_heap *survivor;
static char *data;

/* What the victim has told, in shared memory: each number after the call that it counts has returned. */
static struct {
    uint32_t sent, received, began; /* messages 1 to sent were accepted, 1 to received received */
} * told;

static uint32_t channel, lock, semaphore, condition, barrier;
static uint64_t homes[5]; /* their blocks, which the survivor holds */

static uint32_t make(stead_heap *h, unsigned kind, uint64_t address, uint32_t a, uint32_t b)
{
    int got = stead_object_make(h, kind, address, a, b);
    MUST(got >= 0);
    return (uint32_t)got;
}

/* A message says which one it is, in its kind and its bytes; every third has a block. */
static int send_one(stead_heap *h, uint32_t number)
{
    stead_message m = {.kind = (uint8_t)number, .length = number % BYTES, .address = number % 3 ? 0 : take(h, 500)};
    char bytes[BYTES];
    memset(bytes, (int)number, sizeof bytes);
    int got = stead_channel_send(h, channel, &m, bytes, 0, 0);
    if (m.address)
        release(h, m.address); /* the channel keeps it */
    return got;
}

static int receive_one(stead_heap *h, uint32_t *number)
{
    stead_message m;
    char bytes[BYTES];
    int got = stead_channel_receive(h, channel, &m, bytes, 0, 0);
    if (got)
        return got;
    *number = m.kind;
    MUST(m.length == m.kind % BYTES);
    for (unsigned i = 0; i < m.length; i++)
        MUST(bytes[i] == (char)m.kind);
    MUST(!m.address == (m.kind % 3 != 0));
    if (m.address) {
        MUST(m.usable >= 500 && stead_heap_held(h, m.address) == 1);
        release(h, m.address);
    }
    return STEAD_DONE;
}

/* ---- what the victim does ---- */

static void victim(void *control)
{
    stead_heap *h = join(control, VICTIM);
    uint64_t mine[4];
    stead_shared_block b;

    passed->doing = "sending a block off";
    for (unsigned i = 0; i < 4; i++)
        mine[i] = take(h, i % 2 ? 20000 : 300);
    for (unsigned i = 0; i < 3; i++)
        MUST(stead_heap_send_off(h, mine[i]) == STEAD_DONE);
    MUST(stead_heap_send_off(h, mine[0]) == STEAD_DONE); /* twice */
    release(h, mine[0]);
    release(h, mine[1]);
    passed->doing = "arriving";
    MUST(stead_heap_arrive(h, mine[0], -1, &b) == STEAD_DONE);
    MUST(stead_heap_arrive(h, mine[1], -1, &b) == STEAD_DONE);
    MUST(stead_heap_arrive(h, mine[0], -1, &b) == STEAD_DONE);
    release(h, mine[0]);
    release(h, mine[0]);
    release(h, mine[1]);
    passed->doing = "giving up what did not arrive";
    release(h, mine[2]);
    MUST(stead_heap_expire(h, 1) == 2); /* another one is the survivor's */
    release(h, mine[3]);

    passed->doing = "sending";
    for (unsigned i = 1; i <= CELLS; i++) {
        told->began = i;
        MUST(send_one(h, i) == STEAD_DONE);
        told->sent = i;
    }
    MUST(send_one(h, 6) == STEAD_TIMEOUT); /* full; and what it would have kept is free */
    passed->doing = "receiving";
    for (uint32_t i = 1, number; i <= CELLS; i++) {
        MUST(receive_one(h, &number) == STEAD_DONE && number == i);
        told->received = i;
    }
    passed->doing = "sending on";
    for (unsigned i = CELLS + 1; i <= CELLS + 2; i++) {
        told->began = i;
        MUST(send_one(h, i) == STEAD_DONE);
        told->sent = i;
    }

    passed->doing = "making objects";
    uint64_t own = take(h, 64);
    (void)make(h, STEAD_LOCK, own, 0, 0);
    release(h, own);
    uint64_t room = take(h, stead_channel_size(CELLS, BYTES));
    uint32_t mine_too = make(h, STEAD_CHANNEL, room, CELLS, BYTES), outer = channel;
    channel = mine_too;
    MUST(send_one(h, 1) == STEAD_DONE && send_one(h, 3) == STEAD_DONE);
    channel = outer;
    release(h, room); /* with a message, and the block of one */
    passed->doing = "collecting objects";
    MUST(stead_objects_collect(h) == 2);

    passed->doing = "locking";
    MUST(stead_lock_acquire(h, lock, 0) == STEAD_DONE);
    MUST(stead_lock_acquire(h, lock, 0) == STEAD_TIMEOUT);
    MUST(stead_lock_release(h, lock) == STEAD_DONE);
    passed->doing = "taking permits";
    MUST(stead_semaphore_acquire(h, semaphore, 0) == STEAD_DONE);
    MUST(stead_semaphore_acquire(h, semaphore, 0) == STEAD_DONE);
    MUST(stead_semaphore_acquire(h, semaphore, 0) == STEAD_TIMEOUT); /* the survivor has the third */
    MUST(stead_semaphore_release(h, semaphore, 1) == STEAD_DONE);
    MUST(stead_semaphore_release(h, semaphore, 1) == STEAD_DONE);
    passed->doing = "waiting for a condition";
    uint32_t ticket;
    MUST(stead_condition_enter(h, condition, &ticket) == STEAD_DONE);
    MUST(stead_condition_wait(h, condition, ticket, 0) == STEAD_TIMEOUT);
    MUST(stead_condition_notify(h, condition, 1) == STEAD_DONE);
    MUST(stead_condition_wait(h, condition, ticket, 0) == STEAD_DONE);
    MUST(stead_condition_enter(h, condition, &ticket) == STEAD_DONE);
    MUST(stead_condition_leave(h, condition, ticket) == STEAD_TIMEOUT);
    passed->doing = "meeting at a barrier";
    uint64_t phase;
    uint32_t arrival;
    MUST(stead_barrier_enter(h, barrier, &phase, &arrival) == 1);
    MUST(stead_barrier_wait(h, barrier, phase, 0) == STEAD_TIMEOUT);
    MUST(stead_barrier_enter(h, barrier, &phase, &arrival) == STEAD_DONE && arrival == 1);
    MUST(stead_barrier_enter(h, barrier, &phase, &arrival) == 1);
    MUST(stead_barrier_break(h, barrier, phase) == STEAD_TIMEOUT);
    MUST(stead_barrier_reset(h, barrier) == STEAD_DONE);

    passed->doing = "preparing a fork";
    uint64_t shared = take(h, 300);
    MUST(stead_heap_before_fork(h) == STEAD_DONE);
    stead_heap_after_fork_in_parent(h);
    release(h, shared);
    passed->doing = "leaving";
    stead_heap_detach(h);
}

/* ---- what is left of it ---- */

/* All messages that were accepted and not received are there, once each and in order; the one that was on its way may be. */
static void check_messages(stead_heap *h)
{
    uint32_t number, next = 0, first = 0;
    int got;
    while ((got = receive_one(h, &number)) == STEAD_DONE) {
        MUST(!first || number == next);
        if (!first)
            first = number;
        next = number + 1;
    }
    MUST(got == STEAD_TIMEOUT);
    uint32_t last = first ? next - 1 : 0;
    if (told->sent > told->received) { /* the first of them may be with the dead */
        MUST(first ? first <= told->received + 2 && first > told->received : told->sent == told->received + 1);
        MUST(!first || last >= told->sent);
    }
    MUST(last <= told->began);
    MUST(send_one(h, 99) == STEAD_DONE && receive_one(h, &number) == STEAD_DONE && number == 99);
}

static void check_objects(stead_heap *h)
{
    int got = stead_lock_acquire(h, lock, 0);
    MUST(got == STEAD_DONE || got == STEAD_OWNER_DIED);
    MUST(stead_lock_release(h, lock) == STEAD_DONE);
    MUST(stead_semaphore_value(h, semaphore) == 2);
    MUST(stead_semaphore_acquire(h, semaphore, 0) == STEAD_DONE && stead_semaphore_release(h, semaphore, 1) == STEAD_DONE);

    uint32_t ticket, arrival;
    uint64_t phase;
    MUST(stead_condition_enter(h, condition, &ticket) == STEAD_DONE);
    MUST(stead_condition_wait(h, condition, ticket, 0) == STEAD_TIMEOUT);
    MUST(stead_condition_notify(h, condition, 1) == STEAD_DONE);
    MUST(stead_condition_wait(h, condition, ticket, 0) == STEAD_DONE);
    const heap_object *o = object_of(h, condition, STEAD_CONDITION);
    MUST(o->a == 0 && object_counts(h, o)[h->place] == 0); /* nobody waits, and nothing is left over for who comes next */

    got = stead_barrier_enter(h, barrier, &phase, &arrival);
    if (got == STEAD_BARRIER_BROKEN || (got >= 0 && stead_barrier_break(h, barrier, UINT64_MAX) == STEAD_TIMEOUT))
        MUST(stead_barrier_reset(h, barrier) == STEAD_DONE);
    MUST(stead_barrier_enter(h, barrier, &phase, &arrival) == 1 && arrival == 0);
    MUST(stead_barrier_enter(h, barrier, &phase, &arrival) == STEAD_DONE && arrival == 1);
}

static void check_that_nothing_is_left(stead_heap *h)
{
    (void)stead_heap_expire(h, 1);
    for (unsigned i = 0; i < 5; i++)
        release(h, homes[i]);
    MUST(stead_objects_collect(h) >= 5);
    (void)stead_objects_collect(h);
    stead_heap_reclaim(h);
    look(h);
    stead_statistics s;
    stead_heap_statistics(h, &s);
    MUST(s.blocks == 0 && s.runs == 1 && h->shared->runs.free_units == h->shared->runs.units);
}

static void check_what_is_left(const char *control)
{
    static char *image, *private_memory, *before;
    if (!image) {
        image = map(control_size, 0);
        private_memory = map(private_size, 0);
        before = map(MAX_UNITS * STEAD_UNIT, 0);
    }
    copy(image, control);
    memcpy(private_memory, survivor, private_size);
    memcpy(before, data, FIRST_UNITS * STEAD_UNIT); /* messages are in it, and the victim may go on */
    stead_heap *h = (stead_heap *)(void *)private_memory;
    heap_place_tables(h, (heap_shared *)(void *)image, MAX_UNITS);

    look(h);
    stead_heap_reap(h);
    look(h);
    check_messages(h);
    check_objects(h);
    look(h);
    check_that_nothing_is_left(h);
    memcpy(data, before, FIRST_UNITS * STEAD_UNIT);
}

/* ---- what the repairer does ---- */

static void repair(void *control)
{
    stead_heap *h = join(control, REPAIRER);
    stead_heap_reap(h);
    (void)stead_heap_expire(h, 1);
    (void)stead_objects_collect(h);
}

static void meet_repair(const char *control)
{
    repair_states++;
    unsigned before = dead;
    dead |= 1u << REPAIRER;
    check_what_is_left(control);
    dead = before;
}

static void meet_victim(const char *control)
{
    states++;
    unsigned before = dead;
    dead |= 1u << VICTIM;
    check_what_is_left(control);
    if (every && states % every == 0) {
        static char *image;
        if (!image)
            image = map(control_size, 1);
        copy(image, control);
        step(image, repair, NULL, meet_repair, &repair_instructions);
        repairs++;
    }
    dead = before;
}

static void set_up(char *control)
{
    stead_heap_format(control, (uint64_t)(uintptr_t)data, MAX_UNITS, (const uint8_t *)"0123456789abcdef", UINT64_C(1) << 60);
    survivor = join(control, SURVIVOR);
    find_parts(survivor);
    stead_heap_extend(survivor, FIRST_UNITS, 1);
    homes[0] = take(survivor, stead_channel_size(CELLS, BYTES));
    for (unsigned i = 1; i < 5; i++)
        homes[i] = take(survivor, 64);
    channel = make(survivor, STEAD_CHANNEL, homes[0], CELLS, BYTES);
    lock = make(survivor, STEAD_LOCK, homes[1], 0, 0);
    semaphore = make(survivor, STEAD_SEMAPHORE, homes[2], 3, 0);
    condition = make(survivor, STEAD_CONDITION, homes[3], 0, 0);
    barrier = make(survivor, STEAD_BARRIER, homes[4], 2, 0);
    MUST(stead_semaphore_acquire(survivor, semaphore, 0) == STEAD_DONE);
    uint64_t away = take(survivor, 300);
    MUST(stead_heap_send_off(survivor, away) == STEAD_DONE);
    release(survivor, away);
}

int main(int count, char **arguments)
{
    every = count > 1 ? (unsigned)strtoul(arguments[1], NULL, 10) : 60;
    passed = map(4096, 1);
    told = map(4096, 1);
    passed->doing = "setting up";
    control_size = stead_heap_control_size(MAX_UNITS);
    private_size = stead_heap_private_size(MAX_UNITS);
    char *control = map(control_size, 1);
    data = map(MAX_UNITS * STEAD_UNIT, 1);
    set_up(control);
    look(survivor);
    step(control, victim, NULL, meet_victim, &instructions);
    dead |= 1u << VICTIM; /* with the child that it never had */
    check_what_is_left(control);
    printf("killed after each of %u instructions, in %u states of the heap and its objects; %u repairs in %u states of %u "
           "instructions: all repaired\n",
           instructions, states, repairs, repair_states, repair_instructions);
    return states < 300;
}
