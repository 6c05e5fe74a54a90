/* A heap among many: more holders than a word has room for, all places taken, processes that are stopped, unburied, or
 * not who they were; and what happens between threads.
 *   test_heap [SEED] */
#define _GNU_SOURCE
#include "shared.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_UNITS 32768u

static unsigned long checks; /* any thread counts */
static void *control;
static struct shared_page {
    uint32_t ready, go, stop, failed;
    uint64_t address[64], operations;
} * page;

static void give_up(void)
{
    fflush(stdout);
    if (page)
        page->failed = 1;
    _exit(1);
}

#define MUST(condition)                                                              \
    do {                                                                             \
        __atomic_fetch_add(&checks, 1, __ATOMIC_RELAXED);                            \
        if (!(condition)) {                                                          \
            printf("%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);           \
            give_up();                                                               \
        }                                                                            \
    } while (0)

static void *map(uint64_t size, int flags)
{
    void *got = mmap(NULL, size, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    MUST(got != MAP_FAILED);
    return got;
}

static uint64_t random_state;

static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

/* ---- a heap, and processes ---- */

static stead_heap *join_as(uint64_t identity, int expected)
{
    stead_heap *h = NULL;
    MUST(stead_heap_attach(control, map(stead_heap_private_size(MAX_UNITS), MAP_PRIVATE), identity, &h) == expected);
    return h;
}

static stead_heap *join(void) { return join_as(roster_myself(), STEAD_DONE); }

static stead_heap *begin(uint32_t units)
{
    control = map(stead_heap_control_size(MAX_UNITS), MAP_SHARED);
    page = map(sizeof *page, MAP_SHARED);
    stead_heap_format(control, UINT64_C(1) << 44, MAX_UNITS, (const uint8_t *)"0123456789abcdef", UINT64_C(1) << 60);
    stead_heap *h = join();
    stead_heap_extend(h, units, 1);
    return h;
}

static void look(stead_heap *h)
{
    uint32_t unit = 0;
    const char *wrong = stead_heap_check(h, &unit);
    if (wrong)
        printf("unit %u: %s\n", unit, wrong);
    MUST(!wrong);
}

/* Nobody holds anything. */
static void end(stead_heap *h)
{
    stead_statistics s;
    stead_heap_reclaim(h);
    look(h);
    stead_heap_statistics(h, &s);
    MUST(s.blocks == 0 && s.runs == 1 && h->shared->runs.free_units == h->shared->runs.units);
    stead_heap_detach(h);
    munmap(control, stead_heap_control_size(MAX_UNITS));
    munmap(h, stead_heap_private_size(MAX_UNITS));
}

static uint64_t take(stead_heap *h, uint64_t size)
{
    stead_shared_block block;
    MUST(stead_heap_take(h, size, 16, STEAD_LAST, &block) == STEAD_DONE);
    return block.address;
}

static int lease(stead_heap *h, uint64_t address, int generation)
{
    stead_shared_block block;
    return stead_heap_lease(h, address, generation, &block);
}

static unsigned holders(stead_heap *h, uint64_t address)
{
    uint64_t places[16];
    return stead_heap_holders(h, address, places);
}

static pid_t start(void (*work)(unsigned number), unsigned number)
{
    fflush(stdout);
    pid_t child = fork();
    MUST(child >= 0);
    if (child)
        return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    work(number);
    _exit(0);
}

static void let_others(void)
{
    if (__atomic_load_n(&page->failed, __ATOMIC_SEQ_CST))
        _exit(1);
    sched_yield();
}

static void wait_until(uint32_t *word, uint32_t value)
{
    static const struct timespec slice = {0, 100000000}; /* then to look whether another one has failed */
    for (uint32_t seen; (seen = __atomic_load_n(word, __ATOMIC_SEQ_CST)) < value;) {
        (void)syscall(SYS_futex, word, FUTEX_WAIT, seen, &slice, NULL, 0);
        let_others();
    }
}

static void say(uint32_t *word)
{
    __atomic_fetch_add(word, 1, __ATOMIC_SEQ_CST);
    (void)syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static void kill_unburied(pid_t child)
{
    siginfo_t info;
    kill(child, SIGKILL);
    MUST(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT) == 0);
}

static void bury(pid_t child) { MUST(waitpid(child, NULL, 0) == child); }

/* ---- places ---- */

static void test_all_places(void)
{
    static stead_heap *all[STEAD_PLACES];
    all[0] = begin(MAX_UNITS);
    uint64_t common = take(all[0], 100);
    for (unsigned i = 1; i < STEAD_PLACES; i++) {
        all[i] = join();
        MUST(lease(all[i], common, -1) == STEAD_DONE && take(all[i], 20000) && take(all[i], 64));
    }
    look(all[0]);
    MUST(holders(all[0], common) == STEAD_PLACES);
    join_as(roster_myself(), STEAD_FULL);
    join_as(0, STEAD_BROKEN);
    for (unsigned i = 1; i < STEAD_PLACES; i++) {
        MUST(holders(all[0], common) == STEAD_PLACES - i + 1);
        stead_heap_detach(all[i]);
        munmap(all[i], stead_heap_private_size(MAX_UNITS));
    }
    look(all[0]);
    MUST(stead_heap_release(all[0], common) == STEAD_DONE && stead_heap_release(all[0], common) == STEAD_NOT_LIVE);
    end(all[0]);
}

/* A start time that is not this process's: its pid has been used again since. */
static uint64_t somebody_before(void) { return roster_myself() - (UINT64_C(1) << 24); }

static void test_all_dead(void)
{
    stead_heap *h = begin(2048), *before = NULL;
    (void)take(h, 30000);
    stead_heap *other = join_as(somebody_before(), STEAD_DONE);
    uint64_t left = take(other, 64);
    MUST(lease(h, left, -1) == STEAD_DONE);
    for (unsigned i = 2; i < STEAD_PLACES; i++)
        before = join_as(somebody_before(), STEAD_DONE);
    MUST(stead_heap_place(before) == STEAD_PLACES);
    (void)robust_acquire(&other->shared->roster, other->place, &other->shared->lock, -1); /* died inside */
    other = join(); /* where another one was */
    MUST(stead_heap_place(other) == 2);
    (void)take(other, 64);
    look(other);
    MUST(holders(h, left) == 1);
    MUST(stead_heap_reap(h) == STEAD_PLACES - 2);
    look(h);
    stead_heap_detach(other);
    stead_heap_detach(h);
    h = join();
    end(h);
}

/* ---- holders ---- */

static void test_all_sets(void)
{
    stead_heap *all[6];
    all[0] = begin(2048);
    static uint64_t blocks[HOLDER_SETS + 1];
    for (unsigned i = 1; i < 6; i++)
        all[i] = join();
    for (unsigned n = 0; n <= HOLDER_SETS; n++) {
        blocks[n] = take(all[0], 16);
        for (unsigned i = 1; i < 5; i++)
            MUST(lease(all[i], blocks[n], -1) == (n < HOLDER_SETS || i < 4 ? STEAD_DONE : STEAD_FULL));
    }
    look(all[0]);
    MUST(lease(all[5], blocks[7], -1) == STEAD_DONE); /* who has a set already has room */
    stead_heap_release(all[5], blocks[7]);
    for (unsigned i = 0; i < 5; i++)
        MUST(stead_heap_release(all[i], blocks[7]) == STEAD_DONE);
    MUST(lease(all[4], blocks[HOLDER_SETS], -1) == STEAD_DONE);
    look(all[0]);
    for (unsigned n = 0; n <= HOLDER_SETS; n++)
        for (unsigned i = 0; n != 7 && i < 5; i++)
            MUST(stead_heap_release(all[i], blocks[n]) == STEAD_DONE);
    for (unsigned i = 1; i < 6; i++)
        stead_heap_detach(all[i]);
    end(all[0]);
}

static void hold_and_let_go(unsigned number)
{
    stead_heap *h = join();
    random_state = number * 2654435761u + 1;
    unsigned long mine = 0;
    for (;;) {
        unsigned n = (unsigned)(next_random() % 16);
        if (mine >> n & 1)
            MUST(stead_heap_release(h, page->address[n]) == STEAD_DONE);
        else
            MUST(lease(h, page->address[n], -1) == STEAD_DONE);
        mine ^= 1ul << n;
        __atomic_fetch_add(&page->operations, 1, __ATOMIC_RELAXED);
    }
}

static int has_place(stead_heap *h, pid_t pid)
{
    for (unsigned place = 1; place <= STEAD_PLACES; place++)
        if ((__atomic_load_n(&h->shared->roster.identity[place], __ATOMIC_SEQ_CST) & 0xffffff) == (uint64_t)pid)
            return 1;
    return 0;
}

/* Who is killed may not have joined yet, and another one of the crowd may have cleared up after it already. */
static void test_crowd(void)
{
    enum { CROWD = 7, KILLS = 40 };
    stead_heap *h = begin(2048);
    pid_t crowd[CROWD];
    for (unsigned n = 0; n < 16; n++)
        page->address[n] = take(h, n % 2 ? 20000 : 200);
    for (unsigned i = 0; i < CROWD; i++)
        crowd[i] = start(hold_and_let_go, (unsigned)next_random());
    for (unsigned n = 0; n < KILLS; n++) {
        uint64_t seen = __atomic_load_n(&page->operations, __ATOMIC_RELAXED), more = next_random() % 2000;
        while (__atomic_load_n(&page->operations, __ATOMIC_RELAXED) - seen < more)
            let_others();
        pid_t *victim = &crowd[next_random() % CROWD];
        kill_unburied(*victim);
        look(h);
        if (n % 2) {
            stead_heap_reap(h);
            MUST(!has_place(h, *victim));
        }
        bury(*victim);
        *victim = start(hold_and_let_go, (unsigned)next_random());
    }
    for (unsigned i = 0; i < CROWD; i++)
        kill_unburied(crowd[i]);
    stead_heap_reap(h);
    look(h);
    for (unsigned n = 0; n < 16; n++)
        MUST(holders(h, page->address[n]) == 1 && stead_heap_release(h, page->address[n]) == STEAD_DONE);
    for (unsigned i = 0; i < CROWD; i++)
        bury(crowd[i]);
    end(h);
}

/* ---- many processes at once ---- */

static void allocate_beside_others(unsigned number)
{
    stead_heap *h = join();
    static const uint64_t sizes[] = {100, 1000, 3000, 20000};
    random_state = number + 1;
    uint64_t kept = take(h, 5000);
    say(&page->ready);
    wait_until(&page->go, 1);
    for (unsigned n = 0; n < 200; n++) {
        uint64_t address = take(h, sizes[next_random() % 4]);
        MUST(stead_heap_release(h, address) == STEAD_DONE);
    }
    say(&page->stop);
    if (number % 2)
        wait_until(&page->go, 2);
    MUST(stead_heap_release(h, kept) == STEAD_DONE);
    stead_heap_detach(h);
}

static void test_many_processes(void)
{
    enum { MANY = 300 };
    stead_heap *h = begin(MAX_UNITS);
    pid_t many[MANY];
    for (unsigned i = 0; i < MANY; i++)
        many[i] = start(allocate_beside_others, i);
    wait_until(&page->ready, MANY);
    MUST(h->shared->roster.highest == MANY + 1);
    look(h);
    say(&page->go);
    wait_until(&page->stop, MANY);
    for (unsigned i = 0; i < MANY; i++)
        if (i % 2)
            kill_unburied(many[i]);
    for (unsigned i = 0; i < MANY; i += 2)
        bury(many[i]);
    MUST(stead_heap_reap(h) == MANY / 2);
    for (unsigned i = 1; i < MANY; i += 2)
        bury(many[i]);
    end(h);
}

/* ---- who is dead ---- */

static void hold_the_lock(unsigned number)
{
    stead_heap *h = join();
    page->address[0] = take(h, 100 + number);
    heap_enter(h);
    say(&page->ready);
    for (;;)
        pause();
}

static void test_stopped(void)
{
    stead_heap *h = begin(2048);
    stead_roster *roster = &h->shared->roster;
    pid_t child = start(hold_the_lock, 0);
    siginfo_t info;
    wait_until(&page->ready, 1);
    kill(child, SIGSTOP);
    MUST(waitid(P_PID, (id_t)child, &info, WSTOPPED) == 0);
    MUST(robust_acquire(roster, h->place, &h->shared->lock, 12000000) == ROBUST_TIMEOUT);
    MUST(stead_heap_reap(h) == 0);
    kill_unburied(child);
    MUST(robust_acquire(roster, h->place, &h->shared->lock, -1) == ROBUST_OWNER_DIED);
    robust_release(&h->shared->lock);
    MUST(stead_heap_reap(h) == 1);
    MUST(lease(h, page->address[0], -1) == STEAD_NOT_LIVE);
    bury(child);
    end(h);
}

static unsigned interruptions;

static void interrupted(int signal)
{
    (void)signal;
    if (++interruptions > 200) {
        static const char text[] = "a dead owner's lock is never taken over while signals come\n";
        if (write(1, text, sizeof text - 1))
            _exit(1);
    }
}

/* A signal each millisecond, as a profiler sends them. */
static void test_interrupted(void)
{
    stead_heap *h = begin(2048);
    pid_t child = start(hold_the_lock, 0);
    wait_until(&page->ready, 1);
    kill_unburied(child);
    struct sigaction action = {.sa_handler = interrupted}, before;
    struct itimerval often = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
    sigaction(SIGALRM, &action, &before);
    setitimer(ITIMER_REAL, &often, NULL);
    MUST(robust_acquire(&h->shared->roster, h->place, &h->shared->lock, -1) == ROBUST_OWNER_DIED);
    setitimer(ITIMER_REAL, &never, NULL);
    sigaction(SIGALRM, &before, NULL);
    robust_release(&h->shared->lock);
    MUST(stead_heap_reap(h) == 1);
    bury(child);
    end(h);
}

static void *work_on_alone(void *heap)
{
    stead_heap *h = heap;
    say(&page->ready);
    for (;;)
        MUST(stead_heap_release(h, take(h, 64)) == STEAD_DONE);
    return NULL;
}

static void leave_a_thread(unsigned number)
{
    (void)number;
    pthread_t thread;
    stead_heap *h = join();
    page->address[0] = take(h, 100);
    MUST(pthread_create(&thread, NULL, work_on_alone, h) == 0);
    pthread_exit(NULL);
}

static char state_of(pid_t pid)
{
    char path[40], line[200] = "";
    (void)snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    MUST(file && fgets(line, sizeof line, file));
    fclose(file);
    return strrchr(line, ')')[2];
}

/* The first thread has ended, and is a zombie; the process goes on. */
static void test_living_zombie(void)
{
    stead_heap *h = begin(2048);
    pid_t child = start(leave_a_thread, 0);
    wait_until(&page->ready, 1);
    while (state_of(child) != 'Z')
        let_others();
    MUST(stead_heap_reap(h) == 0 && holders(h, page->address[0]) == 1);
    kill_unburied(child);
    MUST(stead_heap_reap(h) == 1);
    bury(child);
    end(h);
}

static char empty[] = "/tmp/stead-empty-XXXXXX";

static void look_without_proc(unsigned number)
{
    uint64_t parent = ((heap_shared *)control)->roster.identity[1];
    if (chroot(empty) && (unshare(CLONE_NEWUSER) || chroot(empty))) {
        printf("skipped: no chroot\n");
        fflush(stdout);
    } else {
        MUST(roster_alive(parent) && !roster_alive(UINT64_C(1) << 24) && !roster_myself());
        MUST(!roster_alive(number));
    }
}

static void test_no_proc(void)
{
    stead_heap *h = begin(2048);
    MUST(mkdtemp(empty));
    pid_t gone = start(look_without_proc, 0); /* a pid that nobody has when it is looked for */
    int status;
    MUST(waitpid(gone, &status, 0) == gone && status == 0);
    pid_t child = start(look_without_proc, (unsigned)gone);
    MUST(waitpid(child, &status, 0) == child && status == 0);
    MUST(rmdir(empty) == 0);
    end(h);
}

/* ---- giving back ---- */

static void test_reclaim(void)
{
    stead_heap *h = begin(2048), *other = join();
    uint64_t blocks[400];
    for (unsigned i = 0; i < 400; i++) {
        blocks[i] = take(h, 512);
        MUST(lease(other, blocks[i], -1) == STEAD_DONE && stead_heap_release(h, blocks[i]) == STEAD_DONE);
    }
    for (unsigned i = 0; i < 400; i++)
        MUST(stead_heap_release(other, blocks[i]) == STEAD_DONE);
    stead_heap_detach(other);
    end(h);
}

/* Somebody was killed between clearing a summary and looking whether he should have. */
static void test_lost_summary(void)
{
    static uint64_t memory[300];
    unit_set set = unit_set_at(memory, 8192);
    unit_set_add(set, 5000);
    set.summary[5000 / 4096] = 0;
    unit_set_add(set, 5000);
    MUST(unit_set_next(set, 0, 0) == 5000);
}

/* ---- between threads and processes ---- */

static uint64_t published; /* address << 15 | generation; what was just given back */

static void *take_and_give_back(void *heap)
{
    stead_heap *h = heap;
    stead_shared_block block;
    for (unsigned n = 0; n < 400000; n++) {
        MUST(stead_heap_take(h, 3000, 16, 0, &block) == STEAD_DONE);
        MUST(stead_heap_release(h, block.address) == STEAD_DONE);
        __atomic_store_n(&published, (block.address - h->side.base) << 15 | block.generation, __ATOMIC_SEQ_CST);
    }
    __atomic_store_n(&published, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

/* An old handle is good for nothing, also at the moment in which its block is handed out again. */
static void test_old_handles(void)
{
    stead_heap *h = begin(2048);
    pthread_t thread;
    uint64_t seen;
    published = 0;
    MUST(pthread_create(&thread, NULL, take_and_give_back, h) == 0);
    while ((seen = __atomic_load_n(&published, __ATOMIC_SEQ_CST)) != 1)
        if (seen)
            MUST(lease(h, h->side.base + (seen >> 15), (int)(seen & 0x7fff)) == STEAD_NOT_LIVE);
    pthread_join(thread, NULL);
    end(h);
}

static void come_and_go(unsigned number)
{
    void *memory = map(stead_heap_private_size(MAX_UNITS), MAP_PRIVATE);
    while (!__atomic_load_n(&page->stop, __ATOMIC_SEQ_CST)) {
        stead_heap *h = NULL;
        madvise(memory, stead_heap_private_size(MAX_UNITS), MADV_DONTNEED);
        MUST(stead_heap_attach(control, memory, roster_myself(), &h) == STEAD_DONE);
        for (unsigned i = 0; i < 64; i++)
            MUST(lease(h, page->address[i], -1) == STEAD_DONE);
        (void)take(h, 200 + number);
        say(&page->ready);
        stead_heap_detach(h);
    }
}

/* Nothing is wrong while others leave. */
static void test_looking_while_others_leave(void)
{
    stead_heap *h = begin(2048);
    pid_t others[2];
    for (unsigned i = 0; i < 64; i++)
        page->address[i] = take(h, i % 2 ? 100 : 9000);
    for (unsigned i = 0; i < 2; i++)
        others[i] = start(come_and_go, i);
    while (__atomic_load_n(&page->ready, __ATOMIC_SEQ_CST) < 3000 && !page->failed)
        look(h);
    page->stop = 1;
    for (unsigned i = 0; i < 2; i++)
        bury(others[i]);
    for (unsigned i = 0; i < 64; i++)
        MUST(stead_heap_release(h, page->address[i]) == STEAD_DONE);
    end(h);
}

int main(int count, char **arguments)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } tests[] = {
        {"all places", test_all_places},
        {"all places of the dead", test_all_dead},
        {"all sets of holders", test_all_sets},
        {"a crowd", test_crowd},
        {"many processes", test_many_processes},
        {"stopped", test_stopped},
        {"interrupted", test_interrupted},
        {"a living zombie", test_living_zombie},
        {"no /proc", test_no_proc},
        {"reclaim", test_reclaim},
        {"a lost summary", test_lost_summary},
        {"old handles", test_old_handles},
        {"looking while others leave", test_looking_while_others_leave},
    };
    uint64_t seed = count > 1 ? strtoull(arguments[1], NULL, 0) : (uint64_t)getpid() * 2654435761u + (uint64_t)time(NULL);
    random_state = seed | 1;
    printf("seed %" PRIu64 "\n", seed);
    for (unsigned i = 0; i < sizeof tests / sizeof *tests; i++) {
        if (count > 2 && strcmp(arguments[2], tests[i].name))
            continue;
        tests[i].run();
        if (count > 2)
            printf("%s: good\n", tests[i].name);
    }
    printf("%lu checks of a heap among many: good\n", checks);
    return 0;
}
