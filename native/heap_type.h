/* heap_type.h - the Python object around a heap, for heap_type.c and heap_objects.c. */
#ifndef STEAD_HEAP_TYPE_H
#define STEAD_HEAP_TYPE_H

#include "binding.h"

#include "heap.h"

typedef struct {
    PyObject_HEAD
    stead_heap *heap; /* NULL: not attached */
    int inside;       /* calls that are going on: until they are back, the memory must stay */
    int read_only;
    PyObject *weakrefs;
    PyObject *members[7];
} Heap;

/* The heap, or NULL and an exception: not attached yet, not any more, or not in this child of a fork. */
stead_heap *heap_core(PyObject *object);

/* arena_type.c: the numbers, as a tuple. */
PyObject *statistics_tuple(const stead_statistics *s);

#define HEAP_CALL(OBJECT, RESULT, EXPRESSION)                                            \
    do {                                                                                 \
        __atomic_add_fetch(&((Heap *)(OBJECT))->inside, 1, __ATOMIC_SEQ_CST);            \
        CALL_WITHOUT_GIL(RESULT, EXPRESSION)                                             \
        __atomic_sub_fetch(&((Heap *)(OBJECT))->inside, 1, __ATOMIC_SEQ_CST);            \
    } while (0);
#define HEAP_VOID_CALL(OBJECT, EXPRESSION)                 \
    do {                                                   \
        int none_;                                         \
        HEAP_CALL(OBJECT, none_, ((void)(EXPRESSION), 0))  \
        (void)none_;                                       \
    } while (0);

/* heap_objects.c: locks, conditions, semaphores, barriers, channels. */
#define HEAP_OBJECT_CALLS(X)                                                                                       \
    X(object_make, "(kind, address, a, b): its number, or a code")                                                 \
    X(lock_acquire, "(lock, timeout): a code")                                                                     \
    X(lock_release, "(lock): a code")                                                                              \
    X(lock_owner, "(lock): a place, or 0")                                                                         \
    X(condition_wait, "(condition, lock, timeout): a code")                                                        \
    X(condition_notify, "(condition, count): a code")                                                              \
    X(semaphore_acquire, "(semaphore, timeout): a code")                                                           \
    X(semaphore_release, "(semaphore, count): a code")                                                             \
    X(semaphore_value, "(semaphore): permits, or a code")                                                          \
    X(barrier_wait, "(barrier, timeout): (code, arrival, phase)")                                                  \
    X(barrier_complete, "(barrier, phase): a code")                                                                \
    X(barrier_abort, "(barrier): a code")                                                                          \
    X(barrier_reset, "(barrier): a code")                                                                          \
    X(barrier_state, "(barrier): (parties, waiting, broken), or a code")                                           \
    X(channel_close, "(channel): a code")                                                                          \
    X(channel_state, "(channel): (length, cells, bytes, closed), or a code")

#define HEAP_OBJECT_CALL(NAME, SIGNATURE) PyObject *heap_##NAME(PyObject *object, PyObject *const *args, Py_ssize_t n);
HEAP_OBJECT_CALLS(HEAP_OBJECT_CALL)

#endif
