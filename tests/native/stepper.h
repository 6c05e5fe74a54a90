/* stepper.h - runs a piece of work in a child, one instruction after the other, and shows every state of the shared memory
 * that a kill between two of them would leave.
 *
 * The processor traps after every instruction (where it cannot, ptrace executes them one by one, ten times as slowly);
 * wherever one has changed the shared memory, a copy of it is what would be left. Which process is dead is said by a
 * roster_alive() of our own.
 */
#ifndef STEPPER_H
#define STEPPER_H

#include "shared.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#pragma GCC diagnostic ignored "-Wunused-function" /* neither program needs all */

#define MAX_UNITS 192u

static struct {
    const char *doing;
    uint64_t address, more; /* from the victim */
    unsigned executed;
} * passed; /* in shared memory */

#define MUST(condition)                                                                                    \
    do {                                                                                                   \
        if (!(condition)) {                                                                                \
            printf("%s:%d: while %s, state %u: not so: %s\n", __FILE__, __LINE__, passed ? passed->doing : "starting", states, #condition); \
            fflush(stdout);                                                                                \
            abort();                                                                                       \
        }                                                                                                  \
    } while (0)

static unsigned states;
static unsigned dead; /* identities, as bits */

uint64_t roster_myself(void) { return 0; }
int roster_alive(uint64_t identity) { return identity < 32 && !(dead >> identity & 1); }

/* ---- memory ---- */

static void *map(uint64_t size, int shared)
{
    void *got = mmap(NULL, size, PROT_READ | PROT_WRITE, (shared ? MAP_SHARED : MAP_PRIVATE) | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    MUST(got != MAP_FAILED);
    return got;
}

/* The parts of the control memory that such a small heap with few processes uses. */
typedef struct {
    uint64_t at, size;
} part;
static part parts[32];
static unsigned part_count, compared; /* the last is large: only where it is used */

static void use_part(const stead_heap *h, const void *from, uint64_t size)
{
    parts[part_count++] = (part){(uint64_t)((const char *)from - (const char *)h->shared), size};
}

static void find_parts(const stead_heap *h)
{
    const stead_arena *a = &h->side;
    uint64_t set = unit_set_words(MAX_UNITS) * 8;
    use_part(h, h->shared, sizeof(heap_shared));
    use_part(h, a->ent, MAX_UNITS * 8);
    use_part(h, a->links_of_runs, MAX_UNITS * sizeof(list_link));
    use_part(h, a->zero, MAX_UNITS * sizeof(zero_part));
    use_part(h, h->words[0], MAX_UNITS * UINT64_C(128));
    use_part(h, h->sets, 8 * sizeof(holder_set));
    use_part(h, ever_of(h, 0).summary, 16 * set);
    use_part(h, dropped_of(h, 0).summary, 16 * set);
    use_part(h, abandoned_of(h, 0).summary, STEAD_CLASSES * set);
    use_part(h, h->transit_set, unit_set_words(TRANSITS) * 8);
    use_part(h, h->transits, TRANSITS * sizeof(transit));
    use_part(h, h->objects, OBJECTS * sizeof(heap_object));
    for (unsigned i = 0; i < OBJECTS; i++)
        use_part(h, object_counts(h, &h->objects[i]), 16 * sizeof(uint16_t));
    compared = part_count;
    use_part(h, h->words[1], MAX_UNITS * UINT64_C(2048));
}

static int same(const char *one, const char *other)
{
    for (unsigned i = 0; i < compared; i++)
        if (memcmp(one + parts[i].at, other + parts[i].at, parts[i].size))
            return 0;
    const uint64_t *entries = (const uint64_t *)(const void *)(other + parts[1].at);
    for (uint32_t unit = 0; unit < MAX_UNITS; unit++) {
        uint64_t e = entries[unit], at = parts[compared].at + unit * UINT64_C(2048);
        if (kind_of(e) == SPAN && !back_of(e) && class_of(e) < 11 && memcmp(one + at, other + at, blocks_in(e) * UINT64_C(8)))
            return 0;
    }
    return 1;
}

static void copy(char *to, const char *from)
{
    for (unsigned i = 0; i < part_count; i++)
        memcpy(to + parts[i].at, from + parts[i].at, parts[i].size);
}

static uint64_t private_size, control_size;

/* ---- what processes do ---- */

static stead_heap *join(void *control, uint64_t identity)
{
    stead_heap *h = NULL;
    MUST(stead_heap_attach(control, map(private_size, 0), identity, &h) == STEAD_DONE);
    return h;
}

static uint64_t take(stead_heap *h, uint64_t size)
{
    stead_shared_block block;
    MUST(stead_heap_take(h, size, 16, 0, &block) == STEAD_DONE);
    return block.address;
}

static void lease(stead_heap *h, uint64_t address)
{
    stead_shared_block block;
    MUST(stead_heap_lease(h, address, -1, &block) == STEAD_DONE && block.address == address);
}

static void release(stead_heap *h, uint64_t address) { MUST(stead_heap_release(h, address) == STEAD_DONE); }

static void look(stead_heap *h)
{
    uint32_t unit = 0;
    const char *wrong = stead_heap_check(h, &unit);
    if (wrong)
        printf("unit %u: %s\n", unit, wrong);
    MUST(!wrong);
}

/* ---- stepping ---- */

#ifdef __x86_64__
#define TRAPS 1
#else
#define TRAPS 0
#endif

static int to_parent[2], from_parent[2]; /* of a child that traps by itself */
static char *last, *stepped;

static void tell_parent(char what)
{
    if (write(to_parent[1], &what, 1) != 1 || read(from_parent[0], &what, 1) != 1)
        _exit(4);
}

static void pause_here(void)
{
    if (TRAPS)
        tell_parent('p');
    else
        raise(SIGUSR1);
}

#if TRAPS
/* After every instruction of the child, in the child: the trap flag is off in here. */
static void trapped(int signal)
{
    (void)signal;
    passed->executed++;
    if (!same(last, stepped))
        tell_parent('c');
}

static void trap(int on)
{
    struct sigaction action = {.sa_handler = trapped};
    if (on)
        sigaction(SIGTRAP, &action, NULL);
    if (on)
        __asm__ volatile("pushfq; orq $0x100, (%%rsp); popfq" ::: "memory", "cc");
    else
        __asm__ volatile("pushfq; andq $~0x100, (%%rsp); popfq" ::: "memory", "cc");
}

static char next_event(pid_t child)
{
    char what = 0;
    if (read(to_parent[0], &what, 1) == 1)
        return what;
    int status;
    MUST(waitpid(child, &status, 0) == child);
    MUST(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return 0;
}

static void go_on(pid_t child)
{
    (void)child;
    MUST(write(from_parent[1], "", 1) == 1);
}
#else
static void trap(int on) { (void)on; }

static char next_event(pid_t child)
{
    for (;;) {
        int status;
        MUST(waitpid(child, &status, 0) == child);
        if (WIFEXITED(status)) {
            MUST(WEXITSTATUS(status) == 0);
            return 0;
        }
        MUST(WIFSTOPPED(status) && (WSTOPSIG(status) == SIGUSR1 || WSTOPSIG(status) == SIGTRAP));
        passed->executed++;
        if (WSTOPSIG(status) == SIGUSR1)
            return 'p';
        if (!same(last, stepped))
            return 'c';
        MUST(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) == 0);
    }
}

static void go_on(pid_t child) { MUST(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) == 0); }
#endif

/* Run `work` in a child, one instruction after the other; on each new state of the shared memory `meet`; where it
 * pauses, `between` with the number of the pause. Afterwards it has ended by itself. */
static void step(char *control, void (*work)(void *control), void (*between)(unsigned), void (*meet)(const char *), unsigned *count)
{
    static char *seen[2];
    static unsigned depth;
    int outer[4] = {to_parent[0], to_parent[1], from_parent[0], from_parent[1]};
    char *outer_last = last, *outer_stepped = stepped;
    unsigned outer_executed = passed->executed;
    if (!seen[depth])
        seen[depth] = map(control_size, 1);
    last = seen[depth];
    stepped = control;
    passed->executed = 0;
    copy(last, control);
    fflush(stdout);
    MUST(pipe(to_parent) == 0 && pipe(from_parent) == 0);
    pid_t child = fork();
    MUST(child >= 0);
    if (!child) {
        close(to_parent[0]);
        close(from_parent[1]);
        if (!TRAPS)
            ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        pause_here();
        trap(1);
        work(control);
        trap(0);
        _exit(0);
    }
    close(to_parent[1]);
    close(from_parent[0]);
    depth++;
    char what;
    for (unsigned pauses = 0; (what = next_event(child)); go_on(child)) {
        if (what == 'c') {
            copy(last, control);
            meet(control);
        } else if (pauses++ && between) {
            between(pauses - 1);
            copy(last, control);
        }
    }
    depth--;
    close(to_parent[0]);
    close(from_parent[1]);
    *count += passed->executed;
    passed->executed = outer_executed;
    last = outer_last;
    stepped = outer_stepped;
    to_parent[0] = outer[0], to_parent[1] = outer[1], from_parent[0] = outer[2], from_parent[1] = outer[3];
}

#endif
