/* binding.h - what the two halves of the binding share: arguments in, calls without the GIL, the types. */
#ifndef STEAD_BINDING_H
#define STEAD_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>

static inline int expect(const char *call, Py_ssize_t given, Py_ssize_t wanted)
{
    if (given == wanted)
        return 0;
    PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments (%zd given)", call, wanted, given);
    return -1;
}

/* Addresses and sizes: refuses negative numbers and what does not fit, with OverflowError. */
static inline int unsigned_args(const char *call, PyObject *const *args, Py_ssize_t given, Py_ssize_t wanted, uint64_t *out)
{
    if (expect(call, given, wanted))
        return -1;
    for (Py_ssize_t i = 0; i < wanted; i++) {
        out[i] = PyLong_AsSize_t(args[i]); /* a tenth of a lost claim cheaper than AsUnsignedLongLong */
        if (out[i] == (uint64_t)-1 && PyErr_Occurred())
            return -1;
    }
    return 0;
}

/* For PyArg_ParseTuple's "O&": its own "K" takes negative and too large numbers without a word. */
static inline int address_arg(PyObject *arg, void *out)
{
    size_t value = PyLong_AsSize_t(arg);
    if (value == (size_t)-1 && PyErr_Occurred())
        return 0;
    *(uint64_t *)out = value;
    return 1;
}

/* A call that may wait: mmap for the process's mapping lock, which another thread may hold for as long as it
 * takes to unmap terabytes. In a process that never had a second thread there is nobody to let run, and
 * keeping the GIL makes a lost claim a fifth cheaper. glibc 2.32 knows (sys/single_threaded.h); elsewhere the
 * GIL is released always. */
extern char __libc_single_threaded __attribute__((weak));

#define CALL_WITHOUT_GIL(result, expression)                        \
    if (&__libc_single_threaded && __libc_single_threaded) {        \
        result = (expression);                                      \
    } else {                                                        \
        Py_BEGIN_ALLOW_THREADS                                      \
        result = (expression);                                      \
        Py_END_ALLOW_THREADS                                        \
    }

/* self.name(*args, **names), for a METH_FASTCALL | METH_KEYWORDS method that cannot do it by itself. */
PyObject *call_method(PyObject *self, const char *name, PyObject *const *args, Py_ssize_t n, PyObject *names);

/* strips_type.c */
extern PyType_Spec stead_book_spec;
PyObject *strips_facts(PyObject *self, PyObject *strips);
PyObject *runs_pages(PyObject *self, PyObject *args);
PyObject *runs_next(PyObject *self, PyObject *args);
PyObject *runs_gather(PyObject *self, PyObject *args);
PyObject *runs_scatter(PyObject *self, PyObject *args);
PyObject *pages_written(PyObject *self, PyObject *args);

#define CALL(F) ((PyCFunction)(void (*)(void))(F))

/* dlpack.c */
PyObject *dlpack_capsule(uint64_t address, Py_ssize_t size, int kind, int number, PyObject *owner);
PyObject *dlpack_make(PyObject *self, PyObject *args);
PyObject *buffer_address(PyObject *self, PyObject *buffer);

/* objects.c */
extern PyType_Spec stead_hold_spec, stead_exporter_spec, stead_finalizer_spec;

/* heap_type.c */
extern PyType_Spec stead_heap_spec;

/* channel_type.c */
extern PyType_Spec stead_channel_spec;

/* onesided_type.c */
extern PyType_Spec stead_onesided_spec;

#endif
