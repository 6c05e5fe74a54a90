/* onesided.h - what the parts of a symmetric heap's core share: onesided_type.c, onesided_calls.c, onesided_atomics.c. */
#ifndef STEAD_ONESIDED_H
#define STEAD_ONESIDED_H

#include "binding.h"

#include "elements.h"
#include "live.h"
#include "mpi_calls.h"

typedef struct {
    PyObject_HEAD
    uint64_t start, size; /* the addresses, the same at every rank */
    int ranks, rank;
    uint64_t *bases;      /* where each rank's memory is mapped here; 0: it is not */
    int windowed;         /* there is a window of MPI, and atomics go through it: MPI's and the processor's do not mix */
    uint64_t inside;      /* calls in progress without the GIL */
    stead_live *live;
    stead_mpi mpi;
    Py_buffer *pending;
    size_t pending_count;
    PyObject *weakrefs;
} OneSided;

/* Where a call goes. */
typedef struct {
    int rank;
    uint64_t address, at; /* `at`: in this process, or 0 */
} target;

#define CALL_INSIDE(SELF, RESULT, EXPRESSION)                               \
    do {                                                                    \
        __atomic_add_fetch(&(SELF)->inside, 1, __ATOMIC_SEQ_CST);           \
        CALL_WITHOUT_GIL(RESULT, EXPRESSION)                                \
        __atomic_sub_fetch(&(SELF)->inside, 1, __ATOMIC_SEQ_CST);           \
    } while (0)

/* Positions, and names after them, into given[0..count), of which the first `least` are needed: -1 and TypeError. */
int onesided_arguments(const char *call, PyObject *const *args, Py_ssize_t n, PyObject *names, const char *const *all,
                       Py_ssize_t least, Py_ssize_t count, PyObject **given);

static inline int truth(PyObject *given, int otherwise) { return given ? PyObject_IsTrue(given) : otherwise; }

/* Where a pointer goes for `size` bytes in aligned elements: 0, or -1: onesided_refused() says why. */
int onesided_find(OneSided *self, PyObject *pointer, uint64_t size, unsigned element, target *t);

/* An exception that says what is wrong with (rank, address) for a call about `size` bytes in elements of `element`: NULL. */
PyObject *onesided_refused(OneSided *self, PyObject *pointer, uint64_t size, unsigned element);

/* The bytes of an argument: 0, or -1 and an exception. */
int onesided_buffer(OneSided *self, const char *argument, PyObject *given, int flags, Py_buffer *view);

/* One of the names, or what self.<method>(given) makes of it: -1 and an exception. */
int onesided_named(OneSided *self, PyObject *given, const char *const *all, int count, const char *method);

PyObject *onesided_mpi_failed(OneSided *self, int code);

/* Done with a buffer, or, where MPI may still use it, not before the next flush: None, or NULL and an exception. */
PyObject *onesided_finished(OneSided *self, int got, Py_buffer *view, int complete);

/* Let go of the buffers that are kept until a flush. */
void onesided_let_go(OneSided *self);

#define ONESIDED_CALLS(X) X(put) X(get) X(accumulate) X(fetch_add) X(compare_and_swap)
#define ONESIDED_CALL(NAME) \
    PyObject *onesided_##NAME(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names);
ONESIDED_CALLS(ONESIDED_CALL)
PyObject *onesided_flush(PyObject *object, PyObject *none);

#endif
