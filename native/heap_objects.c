/* heap_objects.c - locks, conditions, semaphores, barriers and channels of a heap, called from Python.
 *
 * Whoever waits does so without the GIL and in slices, and looks in between whether a signal has come (Ctrl-C).
 */
#include "heap_type.h"

#define SLICE INT64_C(50000000) /* ns */

static int64_t deadline_after(int64_t patience)
{
    int64_t now = stead_now();
    return patience < 0 || patience > INT64_MAX - now ? INT64_MAX : now + patience;
}

/* ns until the deadline, but a slice at most. */
static int64_t next_slice(int64_t deadline)
{
    int64_t left = deadline == INT64_MAX ? SLICE : deadline - stead_now();
    return left < 0 ? 0 : left < SLICE ? left : SLICE;
}

/* Go on waiting? 0: the deadline has passed; -1: a signal's handler has raised. */
static int patient(int64_t deadline)
{
    if (PyErr_CheckSignals())
        return -1;
    return deadline == INT64_MAX || stead_now() < deadline;
}

/* Wait for `expression`, slice by slice; it uses `slice`. */
#define WAIT_FOR(object, got, deadline, expression)                          \
    for (int64_t slice = next_slice(deadline);; slice = next_slice(deadline)) { \
        HEAP_CALL(object, got, expression)                                   \
        if (got != STEAD_TIMEOUT)                                            \
            break;                                                           \
        int more = patient(deadline);                                        \
        if (more < 0)                                                        \
            return NULL;                                                     \
        if (!more)                                                           \
            break;                                                           \
    }

static PyObject *code(int got) { return PyLong_FromLong(got); }

static int numbers(const char *name, PyObject *const *args, Py_ssize_t n, Py_ssize_t wanted, int64_t *out)
{
    if (expect(name, n, wanted))
        return -1;
    for (Py_ssize_t i = 0; i < wanted; i++) {
        out[i] = PyLong_AsLongLong(args[i]);
        if (out[i] == -1 && PyErr_Occurred())
            return -1;
    }
    return 0;
}

#define ARGUMENTS(NAME, COUNT)                                                       \
    int64_t a[COUNT];                                                                \
    stead_heap *heap = heap_core(object);                                            \
    if (!heap || numbers(#NAME, args, n, COUNT, a))                                  \
        return NULL;                                                                 \
    uint32_t index = a[0] >= 0 && a[0] <= UINT32_MAX ? (uint32_t)a[0] : UINT32_MAX;

PyObject *heap_object_make(PyObject *object, PyObject *const *args, Py_ssize_t n)
{
    int64_t a[4];
    int got;
    stead_heap *heap = heap_core(object);
    if (!heap || numbers("_object_make", args, n, 4, a))
        return NULL;
    if (a[2] < 0 || a[2] > INT32_MAX || a[3] < 0 || a[3] > INT32_MAX) {
        PyErr_Format(PyExc_OverflowError, "%lld or %lld is not between 0 and 2**31 - 1", (long long)a[2], (long long)a[3]);
        return NULL;
    }
    HEAP_CALL(object, got, stead_object_make(heap, (unsigned)a[0], (uint64_t)a[1], (uint32_t)a[2], (uint32_t)a[3]))
    return code(got);
}

/* ---- locks ---- */

PyObject *heap_lock_acquire(PyObject *object, PyObject *const *args, Py_ssize_t n)
{
    ARGUMENTS(_lock_acquire, 2)
    int got;
    int64_t deadline = deadline_after(a[1]);
    WAIT_FOR(object, got, deadline, stead_lock_acquire(heap, index, slice))
    return code(got);
}

#define SHORT_CALL(NAME, CALLED)                                               \
    PyObject *heap_##NAME(PyObject *object, PyObject *const *args, Py_ssize_t n) \
    {                                                                          \
        ARGUMENTS(_##NAME, 1)                                                  \
        int64_t got;                                                           \
        HEAP_CALL(object, got, CALLED)                                         \
        return PyLong_FromLongLong(got);                                       \
    }

SHORT_CALL(lock_release, stead_lock_release(heap, index))
SHORT_CALL(lock_owner, stead_lock_owner(heap, index))
SHORT_CALL(semaphore_value, stead_semaphore_value(heap, index))
SHORT_CALL(barrier_abort, stead_barrier_break(heap, index, UINT64_MAX))
SHORT_CALL(barrier_reset, stead_barrier_reset(heap, index))
SHORT_CALL(channel_close, stead_channel_close(heap, index))

#define COUNT_CALL(NAME, CALLED, TYPE)                                         \
    PyObject *heap_##NAME(PyObject *object, PyObject *const *args, Py_ssize_t n) \
    {                                                                          \
        ARGUMENTS(_##NAME, 2)                                                  \
        int got;                                                               \
        HEAP_CALL(object, got, CALLED(heap, index, (TYPE)a[1]))                \
        return code(got);                                                      \
    }

COUNT_CALL(condition_notify, stead_condition_notify, int32_t)
COUNT_CALL(semaphore_release, stead_semaphore_release, uint32_t)

/* ---- conditions ---- */

/* As threading.Condition does: the lock is taken again whatever happens, and a signal is told after that. */
static int take_again(PyObject *object, stead_heap *heap, uint32_t lock)
{
    int got;
    do
        HEAP_CALL(object, got, stead_lock_acquire(heap, lock, -1))
    while (got == STEAD_TIMEOUT);
    return got;
}

/* Who should have notified was perhaps killed in the lock, and then nobody would ever: one of those who wait is told. */
static int took_over(PyObject *object, stead_heap *heap, uint32_t lock)
{
    int got;
    if (!stead_lock_orphaned(heap, lock))
        return 0;
    HEAP_CALL(object, got, stead_lock_acquire(heap, lock, 0))
    if (got == STEAD_DONE)
        (void)stead_lock_release(heap, lock); /* another one was told, and has repaired it */
    return got == STEAD_OWNER_DIED;
}

PyObject *heap_condition_wait(PyObject *object, PyObject *const *args, Py_ssize_t n)
{
    ARGUMENTS(_condition_wait, 3)
    uint32_t lock = a[1] >= 0 && a[1] <= UINT32_MAX ? (uint32_t)a[1] : UINT32_MAX, ticket;
    int64_t deadline = deadline_after(a[2]);
    int got, more = 1, mine = 0;
    if (stead_lock_owner(heap, lock) != stead_heap_place(heap))
        return code(STEAD_NOT_OWNER);
    HEAP_CALL(object, got, stead_condition_enter(heap, index, &ticket))
    if (got)
        return code(got);
    got = stead_lock_release(heap, lock);
    if (got) {
        (void)stead_condition_leave(heap, index, ticket);
        return code(got);
    }
    do {
        int64_t slice = next_slice(deadline);
        HEAP_CALL(object, got, stead_condition_wait(heap, index, ticket, slice))
    } while (got == STEAD_TIMEOUT && (more = patient(deadline)) > 0 && !(mine = took_over(object, heap, lock)));
    if (got == STEAD_TIMEOUT)
        HEAP_CALL(object, got, stead_condition_leave(heap, index, ticket))
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    int locked = mine ? STEAD_OWNER_DIED : take_again(object, heap, lock);
    if (type) {
        PyErr_Restore(type, value, trace);
        return NULL;
    }
    return code(locked ? locked : got);
}

/* ---- semaphores ---- */

PyObject *heap_semaphore_acquire(PyObject *object, PyObject *const *args, Py_ssize_t n)
{
    ARGUMENTS(_semaphore_acquire, 2)
    int got;
    int64_t deadline = deadline_after(a[1]);
    WAIT_FOR(object, got, deadline, stead_semaphore_acquire(heap, index, slice))
    return code(got);
}

/* ---- barriers ---- */

/* Wait for the end of a phase. Who gives up breaks it, as with threading.Barrier: the others would wait for ever. -1: a
 * signal's handler has raised. */
static int wait_for_phase(PyObject *object, stead_heap *heap, uint32_t index, uint64_t phase, int64_t deadline, int *got)
{
    int more = 1;
    do {
        int64_t slice = next_slice(deadline);
        HEAP_CALL(object, *got, stead_barrier_wait(heap, index, phase, slice))
    } while (*got == STEAD_TIMEOUT && (more = patient(deadline)) > 0);
    if (*got == STEAD_TIMEOUT)
        HEAP_CALL(object, *got, stead_barrier_break(heap, index, phase))
    return more;
}

PyObject *heap_barrier_wait(PyObject *object, PyObject *const *args, Py_ssize_t n)
{
    ARGUMENTS(_barrier_wait, 2)
    int got;
    uint64_t phase = 0;
    uint32_t arrival = 0;
    int64_t deadline = deadline_after(a[1]);
    for (;;) {
        HEAP_CALL(object, got, stead_barrier_enter(heap, index, &phase, &arrival))
        if (got != STEAD_NO_SPACE)
            break;
        if (wait_for_phase(object, heap, index, phase, deadline, &got) < 0)
            return NULL;
        if (got == STEAD_TIMEOUT)
            break;
    }
    if (got == STEAD_BARRIER_BROKEN) { /* by whom? */
        HEAP_CALL(object, got, stead_barrier_wait(heap, index, phase, 0))
        got = got == STEAD_OWNER_DIED ? got : STEAD_BARRIER_BROKEN;
    } else if (got > 0 && wait_for_phase(object, heap, index, phase, deadline, &got) < 0) {
        return NULL;
    }
    return Py_BuildValue("iIK", got, arrival, (unsigned long long)phase);
}

PyObject *heap_barrier_complete(PyObject *object, PyObject *const *args, Py_ssize_t n)
{
    ARGUMENTS(_barrier_complete, 2)
    int got;
    HEAP_CALL(object, got, stead_barrier_complete(heap, index, (uint64_t)a[1]))
    return code(got);
}

PyObject *heap_barrier_state(PyObject *object, PyObject *const *args, Py_ssize_t n)
{
    ARGUMENTS(_barrier_state, 1)
    uint32_t parties, waiting;
    int broken, got;
    HEAP_CALL(object, got, stead_barrier_state(heap, index, &parties, &waiting, &broken))
    return got ? code(got) : Py_BuildValue("IIi", parties, waiting, broken);
}

/* ---- channels ---- */

PyObject *heap_channel_state(PyObject *object, PyObject *const *args, Py_ssize_t n)
{
    ARGUMENTS(_channel_state, 1)
    uint32_t length, cells, bytes;
    int closed, got;
    HEAP_CALL(object, got, stead_channel_state(heap, index, &length, &cells, &bytes, &closed))
    return got ? code(got) : Py_BuildValue("IIIN", length, cells, bytes, PyBool_FromLong(closed));
}
