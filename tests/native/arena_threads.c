/* arena_threads.c - many threads in one arena, and forks meanwhile. */
#define _GNU_SOURCE
#include "arena_threads.h"
#include "arena_model.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 4, OWN = 32, BOXES = 32, MEMORY = 16 << 20 };
#if defined(UNDER_TSAN) || defined(UNDER)
enum { ROUNDS = 30000, FORKS = 10 };
#else
enum { ROUNDS = 200000, FORKS = 60 };
#endif

static stead_arena *arena;
static int stop; /* atomic, like all that threads share without the arena */
static int trouble;

static void report(const char *what)
{
    if (!__atomic_exchange_n(&trouble, 1, __ATOMIC_RELAXED))
        (void)printf("arena_threads.c: %s\n", what);
}

static const char *wrong(stead_arena *a)
{
    uint32_t unit;
    return stead_arena_check(a, &unit);
}

/* ---- blocks that say whose they are ---- */

/* At the start of every block; and its address again at the very end: who writes into another's block is found,
 * and so is, by ThreadSanitizer, who gets one without the lock. */
typedef struct {
    uint64_t address, usable, node;
    int held;
} note;

static uint64_t *seal(note *n)
{
    return (uint64_t *)(uintptr_t)((n->address + n->usable - sizeof(uint64_t)) & ~UINT64_C(7));
}

static note *take(uint64_t *random)
{
    uint64_t r = next_random(random), size = sizeof(note) + 16 + (r >> 8) % (UINT64_C(1) << (4 + (r >> 32) % 17));
    stead_block b;
    int flags = (int)r & (STEAD_LAST | STEAD_HOLD);
    if (stead_arena_take(arena, size, (r & 63) == 63 ? 65536 : 8, flags, &b))
        return NULL;
    const unsigned char *bytes = (const unsigned char *)(uintptr_t)b.address;
    for (uint64_t i = b.zero_from; i < b.zero_to; i += i % 256 ? 1 : 64)
        if (bytes[i]) {
            report("what should be zero is not");
            break;
        }
    note *n = (note *)(uintptr_t)b.address;
    *n = (note){b.address, b.usable, b.node, flags & STEAD_HOLD};
    *seal(n) = ~b.address;
    return n;
}

static void check(note *n)
{
    if (n->address != (uintptr_t)n || *seal(n) != ~n->address)
        report("somebody wrote into another's block");
}

static void free_block(note *n, uint64_t r)
{
    check(n);
    if (n->held ? (r & 1 ? stead_arena_give(arena, n->node) : stead_arena_free_held(arena, n->address))
                : stead_arena_free(arena, n->address))
        report("a live block could not be freed");
}

static void resize(note *n, uint64_t r)
{
    uint64_t usable, missing, size = sizeof(note) + 16 + r % (2 * n->usable);
    check(n);
    if ((n->held ? stead_arena_resize_held : stead_arena_resize)(arena, n->address, size, &usable, &missing) == STEAD_DONE) {
        n->usable = usable;
        *seal(n) = ~n->address;
    }
}

/* Any address, while what is there comes and goes. */
static void look_up(uint64_t r)
{
    uint64_t address = stead_arena_base(arena) + r % MEMORY;
    stead_block b;
    int got = stead_arena_find(arena, address, &b);
    if (got == STEAD_DONE || got == STEAD_HELD || got == STEAD_INTERIOR) {
        if (address < b.address || address - b.address >= b.usable || (address == b.address) != (got != STEAD_INTERIOR))
            report("a block was found where it is not");
    } else if (got != STEAD_NOT_LIVE && got != STEAD_FOREIGN) {
        report("an address got a strange answer");
    }
}

/* ---- stress ---- */

static note *boxes[BOXES]; /* a block in a box is whose takes it out */

static void *work(void *argument)
{
    uint64_t random = (uintptr_t)argument + 1;
    note *own[OWN] = {0};
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t r = next_random(&random);
        note **mine = &own[r % OWN];
        if (r >> 60 == 0)
            look_up(r);
        else if (!*mine)
            *mine = take(&random);
        else if (r >> 8 & 3)
            *mine = __atomic_exchange_n(&boxes[(r >> 16) % BOXES], *mine, __ATOMIC_ACQ_REL);
        else if (r >> 10 & 3)
            free_block(*mine, r >> 16), *mine = NULL;
        else
            resize(*mine, r >> 16);
    }
    for (int i = 0; i < OWN; i++)
        if (own[i])
            free_block(own[i], 0);
    (void)__atomic_add_fetch(&stop, 1, __ATOMIC_ACQ_REL);
    return NULL;
}

static void add(void *context, uint64_t address, uint64_t usable)
{
    (void)address;
    *(uint64_t *)context += usable;
}

/* Meanwhile the arena grows, gives memory back, and always is in order. */
static void look(const tabled_arena *t)
{
    stead_statistics s;
    stead_run run;
    uint64_t sum = 0;
    if (wrong(arena))
        report(wrong(arena));
    if (stead_arena_units(arena) < MEMORY / STEAD_UNIT)
        tabled_arena_extend(t, 64, 1);
    stead_arena_statistics(arena, &s);
    stead_arena_each(arena, add, &sum);
    if (s.used > s.committed || sum > MEMORY)
        report("more is used than there is");
    if (stead_arena_checkout(arena, 1 << 16, &run)) {
        memset((void *)(uintptr_t)run.from, 0, run.to - run.from);
        stead_arena_checkin(arena, &run, 1);
    }
    (void)usleep(200);
}

static void test_threads_pass_blocks_to_each_other(void)
{
    void *memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    tabled_arena t = tabled_arena_make((uintptr_t)memory, MEMORY / STEAD_UNIT, 0);
    pthread_t threads[THREADS];
    stead_statistics s;
    arena = t.arena;
    stop = 0;
    for (int i = 0; i < THREADS; i++)
        EQUAL(pthread_create(&threads[i], NULL, work, (void *)(intptr_t)i), 0);
    while (__atomic_load_n(&stop, __ATOMIC_ACQUIRE) < THREADS)
        look(&t);
    for (int i = 0; i < THREADS; i++)
        EQUAL(pthread_join(threads[i], NULL), 0);
    for (int i = 0; i < BOXES; i++)
        if (boxes[i])
            free_block(boxes[i], 0);
    SAME(wrong(arena), NULL);
    stead_arena_statistics(arena, &s);
    EQUAL(s.blocks, 0);
    EQUAL(s.used, 0);
    EQUAL(s.runs, 1);
    EQUAL(s.largest_run, MEMORY);
    EQUAL(trouble, 0);
    tabled_arena_drop(&t);
    munmap(memory, MEMORY);
}

/* ---- lanes ---- */

static uint64_t last;

static void *fill(void *argument)
{
    for (uint64_t got; (got = stead_arena_allocate(argument, 1000, 1));)
        last = got;
    return NULL;
}

static void test_the_free_blocks_of_another_thread_are_found(void)
{
    tabled_arena t = tabled_arena_make(UINT64_C(1) << 44, 256, 0);
    pthread_t thread;
    tabled_arena_extend(&t, 256, 0);
    EQUAL(pthread_create(&thread, NULL, fill, t.arena), 0);
    EQUAL(pthread_join(thread, NULL), 0);
    EQUAL(stead_arena_allocate(t.arena, 1000, 1), 0);
    EQUAL(stead_arena_free(t.arena, last), STEAD_DONE);
    EQUAL(stead_arena_allocate(t.arena, 1, 1), last); /* of a larger class, and of another lane */
    EQUAL(stead_arena_allocate(t.arena, 1, 1), 0);
    SAME(wrong(t.arena), NULL);
    tabled_arena_drop(&t);
}

/* ---- fork ---- */

static stead_arena *in_fork[2]; /* with memory of its own in a child, and with the parent's */

static void *churn(void *argument)
{
    uint64_t random = (uintptr_t)argument + 100, own[2][OWN] = {{0}};
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
        uint64_t r = next_random(&random), *mine = &own[r & 1][(r >> 1) % OWN];
        if (!*mine)
            *mine = stead_arena_allocate(in_fork[r & 1], 1 + (r >> 8) % (UINT64_C(1) << (4 + (r >> 32) % 14)), 1);
        else if (stead_arena_free(in_fork[r & 1], *mine))
            report("a live block could not be freed");
        else
            *mine = 0;
    }
    for (int which = 0; which < 2; which++)
        for (int i = 0; i < OWN; i++)
            if (own[which][i] && stead_arena_free(in_fork[which], own[which][i]))
                report("a live block could not be freed");
    return NULL;
}

/* What the first that is not so is. */
static int in_child(int disowned)
{
    uint64_t blocks[100], random = 1;
    stead_block b;
    stead_run run;
    if (wrong(in_fork[0]) || wrong(in_fork[1]))
        return 1;
    for (int i = 0; i < 100; i++)
        if (!(blocks[i] = stead_arena_allocate(in_fork[0], 1 + next_random(&random) % 50000, 1)))
            return 2;
    for (int i = 0; i < 100; i++)
        if (stead_arena_free(in_fork[0], blocks[i]))
            return 3;
    if (wrong(in_fork[0]))
        return 4;
    if (stead_arena_take(in_fork[1], 1, 1, STEAD_LAST, &b) != (disowned ? STEAD_DISOWNED : STEAD_DONE))
        return 5;
    if (stead_arena_take(in_fork[1], 1 << 20, 1, STEAD_LAST, &b) != (disowned ? STEAD_DISOWNED : STEAD_DONE))
        return 6;
    if (disowned && (stead_arena_allocate(in_fork[1], 1, 1) || stead_arena_checkout(in_fork[1], 1, &run)))
        return 7;
    return 0;
}

static int64_t fork_once(int disowned)
{
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        (void)alarm(30); /* one that waits for ever for a lock */
        _exit(in_child(disowned));
    }
    while (waitpid(child, &status, 0) == -1 && errno == EINTR)
        ;
    return status;
}

static void test_a_child_can_go_on_whatever_the_threads_of_its_parent_did(void)
{
    tabled_arena t[2];
    pthread_t threads[THREADS];
    stop = 0;
    for (int i = 1; i >= 0; i--) {
        t[i] = tabled_arena_make(UINT64_C(1) << 44, 8192, 0);
        tabled_arena_extend(&t[i], 8192, 1);
        in_fork[i] = t[i].arena;
        stead_arena_enlist(in_fork[i], !i);
    }
    for (int i = 0; i < THREADS; i++)
        EQUAL(pthread_create(&threads[i], NULL, churn, (void *)(intptr_t)i), 0);
    for (int i = 0; i < FORKS; i++)
        EQUAL(fork_once(1), 0);
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < THREADS; i++)
        EQUAL(pthread_join(threads[i], NULL), 0);
    stead_arena_delist(in_fork[1]);
    EQUAL(fork_once(0), 0);
    stead_arena_delist(in_fork[0]);
    for (int i = 0; i < 2; i++) {
        stead_statistics s;
        SAME(wrong(in_fork[i]), NULL); /* and in the parent nothing has changed */
        stead_arena_statistics(in_fork[i], &s);
        EQUAL(s.blocks, 0);
        EQUAL(s.largest_run, 8192 * STEAD_UNIT);
        tabled_arena_drop(&t[i]);
    }
    EQUAL(trouble, 0);
}

void test_threads(void)
{
    test_the_free_blocks_of_another_thread_are_found();
    test_threads_pass_blocks_to_each_other();
    test_a_child_can_go_on_whatever_the_threads_of_its_parent_did();
}
