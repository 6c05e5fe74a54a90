/* plan.c - what a test wants of the driver: refusals, moves, gates; and how often each function was called. */
#define _GNU_SOURCE
#include "inside.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

typedef struct refusal {
    struct refusal *next;
    int left, code; /* left: calls until then, this one included */
} refusal;

typedef struct function {
    struct function *next;
    char *name;
    int64_t calls;
    int closed, waiting;
    refusal *refusals;
} function;

typedef struct move {
    struct move *next;
    int times;
    uint64_t start, stop;
} move;

static pthread_mutex_t the_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static function *functions;
static move *moves;
static int forked;

static void in_child(void)
{
    /* Whoever held the lock or waited at a gate is not in the child. */
    pthread_mutex_init(&the_lock, NULL);
    pthread_cond_init(&changed, NULL);
    forked = 1;
}

__attribute__((constructor)) static void watch_forks(void)
{
    pthread_atfork(double_lock, double_unlock, in_child);
}

void double_lock(void)
{
    pthread_mutex_lock(&the_lock);
}

void double_unlock(void)
{
    pthread_mutex_unlock(&the_lock);
}

static function *named(const char *name)
{
    for (function *each = functions; each; each = each->next)
        if (!strcmp(each->name, name))
            return each;
    function *made = calloc(1, sizeof *made);
    if (!made || !(made->name = strdup(name)))
        abort();
    made->next = functions;
    return functions = made;
}

/* Every planned refusal of a function comes one call nearer; the first that is due is taken out. */
static int refused(function *of, int *code)
{
    int found = 0;
    for (refusal **link = &of->refusals; *link;) {
        refusal *each = *link;
        if (--each->left == 0 && !found) {
            *code = each->code;
            found = 1;
        }
        if (each->left <= 0) {
            *link = each->next;
            free(each);
        } else {
            link = &each->next;
        }
    }
    return found;
}

int double_enter(const char *name, int *code)
{
    double_lock();
    if (forked) {
        double_unlock();
        return DOUBLE_DEAD;
    }
    function *of = named(name);
    of->calls++;
    of->waiting++;
    pthread_cond_broadcast(&changed);
    while (of->closed)
        pthread_cond_wait(&changed, &the_lock);
    of->waiting--;
    int found = refused(of, code);
    double_unlock();
    return found ? DOUBLE_PLANNED : DOUBLE_GO;
}

void double_refuse(const char *name, int nth, int code)
{
    refusal *made = calloc(1, sizeof *made);
    if (!made)
        abort();
    made->left = nth;
    made->code = code;
    double_lock();
    function *of = named(name);
    made->next = of->refusals;
    of->refusals = made;
    double_unlock();
}

void double_move(int times, uint64_t start, uint64_t stop)
{
    move *made = calloc(1, sizeof *made);
    if (!made)
        abort();
    double_lock();
    *made = (move){moves, times, start, stop};
    moves = made;
    double_unlock();
}

int double_moves(uint64_t hint)
{
    for (move *each = moves; each; each = each->next) {
        if (!each->times || hint < each->start || hint >= each->stop)
            continue;
        if (each->times > 0)
            each->times--;
        return 1;
    }
    return 0;
}

static void set_gate(const char *name, int closed)
{
    double_lock();
    named(name)->closed = closed;
    pthread_cond_broadcast(&changed);
    double_unlock();
}

void double_close_gate(const char *name)
{
    set_gate(name, 1);
}

void double_open_gate(const char *name)
{
    set_gate(name, 0);
}

void double_await(const char *name, int waiting)
{
    double_lock();
    function *of = named(name);
    while (of->waiting < waiting)
        pthread_cond_wait(&changed, &the_lock);
    double_unlock();
}

int64_t double_calls(const char *name)
{
    double_lock();
    int64_t calls = named(name)->calls;
    double_unlock();
    return calls;
}

void double_reset_plan(void)
{
    /* Functions stay: a call that waits at a gate, and goes on now, still holds its own. */
    for (function *each = functions; each; each = each->next) {
        each->calls = each->closed = 0;
        while (each->refusals) {
            refusal *gone = each->refusals;
            each->refusals = gone->next;
            free(gone);
        }
    }
    while (moves) {
        move *gone = moves;
        moves = gone->next;
        free(gone);
    }
    pthread_cond_broadcast(&changed);
}
