/* behind.c - see behind.h. */
#include "behind.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

/* CUresult f(...) of the CUDA driver API, in the order of stead.integrations.torch's CALLS. */
typedef struct {
    int (*push)(void *context);
    int (*pop)(void **context);
    int (*wait_context)(void);
    int (*create)(void **event, unsigned flags);
    int (*record)(void *event, void *stream);
    int (*query)(void *event);
    int (*wait)(void *event);
    int (*destroy)(void *event);
} calls;

enum { CALLS = sizeof(calls) / sizeof(void *), DISABLE_TIMING = 2 };
_Static_assert(sizeof(void *) == sizeof(void (*)(void)), "functions have addresses");

typedef struct waiting {
    struct waiting *next;
    uint64_t address;
    void *event;  /* NULL: none could be made */
    int recorded; /* the event is behind the work */
} waiting;

struct behind {
    calls driver;
    void *context; /* the device's primary one: threads that free have any, or none */
    pid_t process; /* no driver survives a fork: in a child nothing is freed, and no lock is taken */
    pthread_mutex_t lock;
    waiting *first, **last;
    waiting *spare; /* with their events */
};

PyObject *behind_order_by(PyObject *object, PyObject *args)
{
    Arena *self = (Arena *)object;
    uint64_t context, given[CALLS];
    if (!PyArg_ParseTuple(args, "O&(O&O&O&O&O&O&O&O&):_order_by", address_arg, &context, address_arg, &given[0], address_arg,
                          &given[1], address_arg, &given[2], address_arg, &given[3], address_arg, &given[4], address_arg,
                          &given[5], address_arg, &given[6], address_arg, &given[7]))
        return NULL;
    if (self->behind)
        Py_RETURN_NONE;
    behind *made = calloc(1, sizeof *made);
    if (!made)
        return PyErr_NoMemory();
    void **each = (void **)&made->driver;
    for (int i = 0; i < CALLS; i++)
        each[i] = (void *)(uintptr_t)given[i];
    made->context = (void *)(uintptr_t)context;
    made->process = getpid();
    pthread_mutex_init(&made->lock, NULL);
    made->last = &made->first;
    __atomic_store_n(&self->behind, made, __ATOMIC_RELEASE);
    Py_RETURN_NONE;
}

static int waits(const behind *it, uint64_t address)
{
    const waiting *one = it->first;
    while (one && one->address != address)
        one = one->next;
    return one != NULL;
}

static waiting *new_waiting(behind *it)
{
    waiting *made = it->spare;
    if (made)
        it->spare = made->next;
    else if (!(made = calloc(1, sizeof *made)))
        return NULL;
    if (!made->event && it->driver.create(&made->event, DISABLE_TIMING))
        made->event = NULL;
    return made;
}

void behind_free(Arena *self, uint64_t address, void *stream)
{
    behind *it = self->behind;
    void *ours;
    if (it->process != getpid())
        return;
    pthread_mutex_lock(&it->lock);
    int pushed = !it->driver.push(it->context);
    waiting *made = waits(it, address) ? NULL : new_waiting(it);
    if (made) { /* else it stays live */
        made->next = NULL;
        made->address = address;
        made->recorded = pushed && made->event && !it->driver.record(made->event, stream);
        *it->last = made;
        it->last = &made->next;
    }
    if (pushed)
        it->driver.pop(&ours);
    pthread_mutex_unlock(&it->lock);
}

/* idle: all of the device's work was waited for. */
static int passed(behind *it, const waiting *one, int all, int idle)
{
    if (!one->recorded)
        return idle;
    return !(all ? it->driver.wait(one->event) : it->driver.query(one->event));
}

/* Under the lock. */
static unsigned settle(Arena *self, behind *it, int all)
{
    unsigned freed = 0;
    void *ours;
    if (it->first && !it->driver.push(it->context)) {
        int idle = 0;
        for (waiting *one = it->first; all && one && !idle; one = one->next)
            if (!one->recorded)
                idle = !it->driver.wait_context();
        waiting **at = &it->first, *one;
        while ((one = *at)) {
            if (!passed(it, one, all, idle)) {
                at = &one->next;
                continue;
            }
            *at = one->next;
            one->next = it->spare;
            it->spare = one;
            if (self->arena)
                (void)stead_arena_free_held(self->arena, one->address);
            freed++;
        }
        it->last = at;
        it->driver.pop(&ours);
    }
    return freed;
}

unsigned behind_settle(Arena *self, int all)
{
    behind *it = __atomic_load_n(&self->behind, __ATOMIC_ACQUIRE);
    if (!it || it->process != getpid())
        return 0;
    pthread_mutex_lock(&it->lock);
    unsigned freed = settle(self, it, all);
    pthread_mutex_unlock(&it->lock);
    return freed;
}

int behind_take_last(Arena *self, uint64_t size, uint64_t alignment, stead_block *block)
{
    behind *it = __atomic_load_n(&self->behind, __ATOMIC_ACQUIRE);
    int wait = it && it->process == getpid();
    if (wait) {
        pthread_mutex_lock(&it->lock);
        (void)settle(self, it, 1);
    }
    int got = self->arena ? stead_arena_take(self->arena, size, alignment, STEAD_HOLD | STEAD_LAST, block) : STEAD_FOREIGN;
    if (wait)
        pthread_mutex_unlock(&it->lock);
    return got;
}

PyObject *behind_settle_method(PyObject *object, PyObject *all)
{
    int wait = PyObject_IsTrue(all);
    unsigned freed;
    if (wait < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    freed = behind_settle((Arena *)object, wait);
    Py_END_ALLOW_THREADS
    return PyLong_FromUnsignedLong(freed);
}

static void drop(behind *it, waiting **list, int alive)
{
    for (waiting *gone = *list; gone; gone = *list) {
        *list = gone->next;
        if (alive && gone->event)
            it->driver.destroy(gone->event);
        free(gone);
    }
}

/* The rest stays: a thread that asks an arena that is closed finds it closed. */
void behind_end(Arena *self)
{
    behind *it = self->behind;
    void *ours;
    if (!it || it->process != getpid())
        return;
    pthread_mutex_lock(&it->lock);
    int alive = !it->driver.push(it->context);
    drop(it, &it->first, alive);
    drop(it, &it->spare, alive);
    it->last = &it->first;
    if (alive)
        it->driver.pop(&ours);
    pthread_mutex_unlock(&it->lock);
}

void behind_forget(Arena *self)
{
    behind_end(self);
    free(self->behind);
    self->behind = NULL;
}
