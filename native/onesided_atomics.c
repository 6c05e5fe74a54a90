/* onesided_atomics.c - accumulate, fetch_add and compare_and_swap of a symmetric heap: by the processor where all ranks share the
 * memory of one host, else by MPI; never by both, since MPI's need not be atomic with respect to the processor's.
 */
#include "onesided.h"

static int by_mpi(const OneSided *self, const target *t) { return self->windowed || !t->at; }

static int accumulate(OneSided *self, const target *t, const Py_buffer *view, stead_type type, stead_op op, int wait)
{
    uint64_t count = (uint64_t)view->len / stead_type_size(type);
    if (!by_mpi(self, t))
        return stead_accumulate((void *)(uintptr_t)t->at, view->buf, count, type, op);
    int got = stead_mpi_accumulate(&self->mpi, view->buf, count, t->rank, t->address - self->start, type, op);
    return got || !wait ? got : stead_mpi_flush(&self->mpi, t->rank);
}

PyObject *onesided_accumulate(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    static const char *const all[] = {"pointer", "data", "op", "wait"};
    OneSided *self = (OneSided *)object;
    PyObject *given[4] = {NULL, NULL, NULL, NULL};
    Py_buffer view;
    target t;
    if (onesided_arguments("accumulate", args, n, names, all, 2, 4, given))
        return NULL;
    int op = given[2] ? onesided_named(self, given[2], stead_op_names, STEAD_OPS, "_op_code") : STEAD_SUM;
    int wait = truth(given[3], 1);
    if (op < 0 || wait < 0 || onesided_buffer(self, "data", given[1], PyBUF_FORMAT | PyBUF_ND, &view))
        return NULL;
    int type = stead_type_of(&view), got = 0;
    uint64_t size = (uint64_t)view.len;
    if (type < 0 || (stead_is_float(type) && op >= STEAD_BAND && op <= STEAD_BXOR)) {
        PyErr_Format(type < 0 ? PyExc_TypeError : PyExc_ValueError,
                     type < 0 ? "data has elements of format '%s', must be ints or floats of 1 to 8 bytes, in this machine's order"
                              : "op is one on bits, and data has elements of format '%s', which have none",
                     view.format ? view.format : "B");
        PyBuffer_Release(&view);
        return NULL;
    }
    if (onesided_find(self, given[0], size, stead_type_size(type), &t)) {
        PyBuffer_Release(&view);
        return onesided_refused(self, given[0], size, stead_type_size(type));
    }
    if (size)
        CALL_INSIDE(self, got, accumulate(self, &t, &view, type, op, wait));
    return onesided_finished(self, got, &view, wait || !by_mpi(self, &t));
}

/* The names of what both calls below take, and where they go. */
static int element_call(OneSided *self, PyObject *pointer, PyObject *dtype, stead_type *type, target *t, int whole)
{
    int code = dtype ? onesided_named(self, dtype, stead_type_names, STEAD_TYPES, "_type_code") : STEAD_INT64;
    if (code < 0)
        return -1;
    *type = (stead_type)code;
    if (whole && stead_is_float(*type)) {
        PyErr_Format(PyExc_ValueError, "dtype is %R, must be that of ints: a float may equal another that differs", dtype);
        return -1;
    }
    if (!onesided_find(self, pointer, stead_type_size(*type), stead_type_size(*type), t))
        return 0;
    onesided_refused(self, pointer, stead_type_size(*type), stead_type_size(*type));
    return -1;
}

static int fetch_add(const OneSided *self, const target *t, const number *value, number *before, stead_type type)
{
    if (!by_mpi(self, t)) {
        stead_fetch_add((void *)(uintptr_t)t->at, value, before, type);
        return 0;
    }
    int got = stead_mpi_fetch_add(&self->mpi, value, before, t->rank, t->address - self->start, type);
    return got ? got : stead_mpi_flush(&self->mpi, t->rank);
}

PyObject *onesided_fetch_add(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    static const char *const all[] = {"pointer", "value", "dtype"};
    OneSided *self = (OneSided *)object;
    PyObject *given[3] = {NULL, NULL, NULL};
    number value = {0}, before = {0};
    stead_type type;
    target t;
    int got;
    if (onesided_arguments("fetch_add", args, n, names, all, 2, 3, given) || element_call(self, given[0], given[2], &type, &t, 0) ||
        stead_number_of("value", given[1], type, &value))
        return NULL;
    CALL_INSIDE(self, got, fetch_add(self, &t, &value, &before, type));
    return got ? onesided_mpi_failed(self, got) : stead_object_of(&before, type);
}

static int compare_and_swap(const OneSided *self, const target *t, const number *expected, const number *desired,
                            number *before, stead_type type)
{
    if (!by_mpi(self, t)) {
        stead_compare_and_swap((void *)(uintptr_t)t->at, expected, desired, before, type);
        return 0;
    }
    int got = stead_mpi_compare_and_swap(&self->mpi, expected, desired, before, t->rank, t->address - self->start, type);
    return got ? got : stead_mpi_flush(&self->mpi, t->rank);
}

PyObject *onesided_compare_and_swap(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    static const char *const all[] = {"pointer", "expected", "desired", "dtype"};
    OneSided *self = (OneSided *)object;
    PyObject *given[4] = {NULL, NULL, NULL, NULL};
    number expected = {0}, desired = {0}, before = {0};
    stead_type type;
    target t;
    int got;
    if (onesided_arguments("compare_and_swap", args, n, names, all, 3, 4, given) ||
        element_call(self, given[0], given[3], &type, &t, 1) || stead_number_of("expected", given[1], type, &expected) ||
        stead_number_of("desired", given[2], type, &desired))
        return NULL;
    CALL_INSIDE(self, got, compare_and_swap(self, &t, &expected, &desired, &before, type));
    return got ? onesided_mpi_failed(self, got) : stead_object_of(&before, type);
}
