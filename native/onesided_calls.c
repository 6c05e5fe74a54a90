/* onesided_calls.c - put, get and flush of a symmetric heap. Where the memory of the other rank is mapped here they are loads and
 * stores, else calls of MPI; either way nothing of Python is on the path but reading the arguments.
 */
#include "onesided.h"

#include <string.h>

/* From so many bytes on, other threads may run meanwhile: a few microseconds. */
#define LONG (1 << 16)
/* Buffers of calls that did not wait, kept until a flush: when there are so many, one comes by itself. */
#define MOST_PENDING 4096

/* ---- what is pending ---- */

void onesided_let_go(OneSided *self)
{
    size_t count = self->pending_count;
    self->pending_count = 0; /* releasing may call Python */
    for (size_t i = 0; i < count; i++)
        PyBuffer_Release(&self->pending[i]);
}

static int flush(OneSided *self)
{
    int got = 0;
    if (self->windowed)
        CALL_INSIDE(self, got, stead_mpi_flush_all(&self->mpi));
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    onesided_let_go(self);
    return got;
}

/* Keep the buffer of a call that MPI has not completed: what MPI answered to a flush that this takes. */
static int keep(OneSided *self, Py_buffer *view)
{
    if (!self->pending)
        self->pending = PyMem_Malloc(MOST_PENDING * sizeof *self->pending);
    int got = !self->pending || self->pending_count == MOST_PENDING ? flush(self) : 0;
    if (self->pending)
        self->pending[self->pending_count++] = *view; /* a buffer may be moved: who exports it looks at its contents */
    else
        PyBuffer_Release(view);
    return got;
}

/* ---- put and get ---- */

/* One word is stored, and loaded, as one: somebody may look at it. */
static int move(void *to, const void *from, uint64_t size)
{
    if (size == 8 && (((uintptr_t)to | (uintptr_t)from) & 7) == 0)
        __atomic_store_n((uint64_t *)to, __atomic_load_n((const uint64_t *)from, __ATOMIC_RELAXED), __ATOMIC_RELAXED);
    else if (size == 4 && (((uintptr_t)to | (uintptr_t)from) & 3) == 0)
        __atomic_store_n((uint32_t *)to, __atomic_load_n((const uint32_t *)from, __ATOMIC_RELAXED), __ATOMIC_RELAXED);
    else
        memmove(to, from, size);
    return 0;
}

static int move_by_mpi(const OneSided *self, int putting, const target *t, void *mine, uint64_t size, int wait)
{
    const stead_mpi *mpi = &self->mpi;
    uint64_t at = t->address - self->start;
    int got = putting ? stead_mpi_put(mpi, mine, size, t->rank, at) : stead_mpi_get(mpi, mine, size, t->rank, at);
    return got || !wait ? got : stead_mpi_flush(mpi, t->rank);
}

static int transfer(OneSided *self, int putting, const target *t, void *mine, uint64_t size, int wait)
{
    int got = 0;
    void *there = (void *)(uintptr_t)t->at;
    if (!t->at) {
        if (size)
            CALL_INSIDE(self, got, move_by_mpi(self, putting, t, mine, size, wait));
        return got;
    }
    if (size < LONG)
        move(putting ? there : mine, putting ? mine : there, size);
    else
        CALL_INSIDE(self, got, move(putting ? there : mine, putting ? mine : there, size));
    __atomic_thread_fence(__ATOMIC_ACQ_REL); /* before what is done next, here as there */
    return got;
}

PyObject *onesided_finished(OneSided *self, int got, Py_buffer *view, int complete)
{
    if (got || complete)
        PyBuffer_Release(view);
    else
        got = keep(self, view);
    if (got)
        return onesided_mpi_failed(self, got);
    Py_RETURN_NONE;
}

PyObject *onesided_put(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    static const char *const all[] = {"pointer", "data", "wait"};
    OneSided *self = (OneSided *)object;
    PyObject *given[3] = {NULL, NULL, NULL};
    Py_buffer view;
    target t;
    if (onesided_arguments("put", args, n, names, all, 2, 3, given))
        return NULL;
    int wait = truth(given[2], 1);
    if (wait < 0 || onesided_buffer(self, "data", given[1], PyBUF_SIMPLE, &view))
        return NULL;
    if (onesided_find(self, given[0], (uint64_t)view.len, 1, &t)) {
        uint64_t size = (uint64_t)view.len;
        PyBuffer_Release(&view);
        return onesided_refused(self, given[0], size, 1);
    }
    return onesided_finished(self, transfer(self, 1, &t, view.buf, (uint64_t)view.len, wait), &view, wait || t.at);
}

/* As many bytes as a number says. */
static PyObject *get_bytes(OneSided *self, PyObject *pointer, PyObject *wanted)
{
    target t;
    Py_ssize_t size = PyLong_AsSsize_t(wanted);
    if (size < 0) {
        PyErr_Clear();
        return PyErr_Format(PyExc_ValueError, "into is %R, must be a buffer, or a number of bytes, at least 0", wanted);
    }
    if (onesided_find(self, pointer, (uint64_t)size, 1, &t))
        return onesided_refused(self, pointer, (uint64_t)size, 1);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, size);
    int got = bytes ? transfer(self, 0, &t, PyBytes_AsString(bytes), (uint64_t)size, 1) : 0;
    if (got) {
        Py_DECREF(bytes);
        return onesided_mpi_failed(self, got);
    }
    return bytes;
}

PyObject *onesided_get(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    static const char *const all[] = {"pointer", "into", "wait"};
    OneSided *self = (OneSided *)object;
    PyObject *given[3] = {NULL, NULL, NULL};
    Py_buffer view;
    target t;
    if (onesided_arguments("get", args, n, names, all, 2, 3, given))
        return NULL;
    if (PyLong_Check(given[1]))
        return get_bytes(self, given[0], given[1]);
    int wait = truth(given[2], 1);
    if (wait < 0 || onesided_buffer(self, "into", given[1], PyBUF_WRITABLE, &view))
        return NULL;
    if (onesided_find(self, given[0], (uint64_t)view.len, 1, &t)) {
        uint64_t size = (uint64_t)view.len;
        PyBuffer_Release(&view);
        return onesided_refused(self, given[0], size, 1);
    }
    return onesided_finished(self, transfer(self, 0, &t, view.buf, (uint64_t)view.len, wait), &view, wait || t.at);
}

PyObject *onesided_flush(PyObject *object, PyObject *none)
{
    (void)none;
    OneSided *self = (OneSided *)object;
    if (!self->live)
        return onesided_refused(self, Py_None, 0, 1);
    int got = flush(self);
    if (got)
        return onesided_mpi_failed(self, got);
    Py_RETURN_NONE;
}
