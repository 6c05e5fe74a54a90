/* onesided_type.c - the core of a symmetric heap as a Python object: where each rank's memory is, which blocks are live, and the
 * arguments of its calls. Whatever is wrong with those is said by symmetric/onesided.py.
 */
#include "onesided.h"

#include <errno.h>
#include <stddef.h>
#include <structmember.h>

/* ---- arguments ---- */

int onesided_arguments(const char *call, PyObject *const *args, Py_ssize_t n, PyObject *names, const char *const *all,
                     Py_ssize_t least, Py_ssize_t count, PyObject **given)
{
    Py_ssize_t named = names ? PyTuple_Size(names) : 0;
    if (n > count) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %zd arguments (%zd given)", call, count, n + named);
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++)
        given[i] = args[i];
    for (Py_ssize_t i = 0; i < named; i++) {
        PyObject *name = PyTuple_GetItem(names, i);
        Py_ssize_t at = 0;
        while (at < count && PyUnicode_CompareWithASCIIString(name, all[at]))
            at++;
        if (at == count || given[at]) {
            PyErr_Format(PyExc_TypeError, at == count ? "%s() has no argument %R" : "%s() got %R twice", call, name);
            return -1;
        }
        given[at] = args[n + i];
    }
    for (Py_ssize_t i = 0; i < least; i++)
        if (!given[i]) {
            PyErr_Format(PyExc_TypeError, "%s() needs %s", call, all[i]);
            return -1;
        }
    return 0;
}

PyObject *onesided_refused(OneSided *self, PyObject *pointer, uint64_t size, unsigned element)
{
    PyErr_Clear();
    PyObject *none = PyObject_CallMethod((PyObject *)self, "_refuse", "OKI", pointer, (unsigned long long)size, element);
    if (none)
        PyErr_SetString(PyExc_RuntimeError, "refused without a reason");
    Py_XDECREF(none);
    return NULL;
}

/* An int, or what has an index, as NumPy's have: -1, where it is none. */
static size_t whole(PyObject *given)
{
    if (PyLong_Check(given))
        return PyLong_AsSize_t(given);
    PyObject *index = PyNumber_Index(given);
    size_t number = index ? PyLong_AsSize_t(index) : (size_t)-1;
    Py_XDECREF(index);
    return number;
}

int onesided_find(OneSided *self, PyObject *pointer, uint64_t size, unsigned element, target *t)
{
    uint64_t start, stop;
    if (!self->live || !PyTuple_Check(pointer) || PyTuple_Size(pointer) != 2)
        return -1;
    size_t number = whole(PyTuple_GetItem(pointer, 0));
    t->address = number == (size_t)-1 ? number : whole(PyTuple_GetItem(pointer, 1));
    if (number >= (size_t)self->ranks || !stead_live_find(self->live, t->address, &start, &stop))
        return -1;
    if (size > stop - t->address || t->address % element)
        return -1;
    t->rank = (int)number;
    t->at = self->bases[number] ? self->bases[number] + (t->address - self->start) : 0;
    return 0;
}

int onesided_buffer(OneSided *self, const char *argument, PyObject *given, int flags, Py_buffer *view)
{
    if (PyObject_GetBuffer(given, view, flags) == 0)
        return 0;
    PyErr_Clear();
    PyObject *none = PyObject_CallMethod((PyObject *)self, "_refuse_buffer", "sOi", argument, given, !!(flags & PyBUF_WRITABLE));
    if (none)
        PyErr_Format(PyExc_TypeError, "%s is %R, must be a buffer", argument, given);
    Py_XDECREF(none);
    return -1;
}

PyObject *onesided_mpi_failed(OneSided *self, int code)
{
    PyObject *none = PyObject_CallMethod((PyObject *)self, "_mpi_failed", "i", code);
    if (none)
        PyErr_Format(PyExc_RuntimeError, "MPI answered %d", code);
    Py_XDECREF(none);
    return NULL;
}

int onesided_named(OneSided *self, PyObject *given, const char *const *all, int count, const char *method)
{
    if (PyUnicode_Check(given))
        for (int i = 0; i < count; i++)
            if (!PyUnicode_CompareWithASCIIString(given, all[i]))
                return i;
    PyObject *got = PyObject_CallMethod((PyObject *)self, method, "(O)", given);
    long code = got ? PyLong_AsLong(got) : -1;
    Py_XDECREF(got);
    if (code >= count)
        PyErr_Format(PyExc_RuntimeError, "%s answered %ld", method, code);
    return code < count ? (int)code : -1;
}

/* ---- its life ---- */

/* (start, size, rank, bases) */
static PyObject *onesided_open(PyObject *object, PyObject *args)
{
    OneSided *self = (OneSided *)object;
    uint64_t start, size;
    int rank;
    PyObject *bases;
    if (!PyArg_ParseTuple(args, "O&O&iO!:_open", address_arg, &start, address_arg, &size, &rank, &PyTuple_Type, &bases))
        return NULL;
    if (self->live) {
        PyErr_SetString(PyExc_RuntimeError, "opened twice");
        return NULL;
    }
    Py_ssize_t ranks = PyTuple_Size(bases);
    uint64_t *all = PyMem_Malloc((size_t)(ranks ? ranks : 1) * sizeof *all);
    stead_live *live = all ? stead_live_make() : NULL;
    if (!live) {
        PyMem_Free(all);
        return PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; i < ranks; i++)
        if (!address_arg(PyTuple_GetItem(bases, i), &all[i])) {
            PyMem_Free(all);
            stead_live_end(live);
            return NULL;
        }
    PyMem_Free(self->bases);
    self->bases = all;
    self->start = start;
    self->size = size;
    self->ranks = (int)ranks;
    self->rank = rank;
    self->live = live;
    Py_RETURN_NONE;
}

static int handles(PyObject *given, uint64_t *out, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        out[i] = PyLong_AsUnsignedLongLongMask(PyTuple_GetItem(given, i));
        if (out[i] == (uint64_t)-1 && PyErr_Occurred())
            return -1;
    }
    return 0;
}

/* (library, bytes of a handle, win, byte, types, ops): None, or the name of a call that this MPI does not have */
static PyObject *onesided_use_window(PyObject *object, PyObject *args)
{
    OneSided *self = (OneSided *)object;
    const char *library;
    int handle_size;
    PyObject *two, *types, *ops;
    stead_mpi mpi = {0};
    if (!PyArg_ParseTuple(args, "siO!O!O!:_use_window", &library, &handle_size, &PyTuple_Type, &two, &PyTuple_Type, &types,
                          &PyTuple_Type, &ops))
        return NULL;
    uint64_t window[2];
    if (PyTuple_Size(two) != 2 || PyTuple_Size(types) != STEAD_TYPES || PyTuple_Size(ops) != STEAD_OPS ||
        (handle_size != (int)sizeof(int) && handle_size != (int)sizeof(void *))) {
        PyErr_SetString(PyExc_ValueError, "not the handles that are needed");
        return NULL;
    }
    if (handles(two, window, 2) || handles(types, mpi.types, STEAD_TYPES) || handles(ops, mpi.ops, STEAD_OPS))
        return NULL;
    mpi.win = window[0];
    mpi.byte = window[1];
    mpi.small = handle_size == (int)sizeof(int);
    const char *missing = stead_mpi_find(&mpi, library);
    if (missing)
        return PyUnicode_FromString(missing);
    self->mpi = mpi;
    self->windowed = 1;
    Py_RETURN_NONE;
}

static PyObject *onesided_add(PyObject *object, PyObject *const *args, Py_ssize_t n)
{
    OneSided *self = (OneSided *)object;
    uint64_t a[2];
    if (unsigned_args("_add", args, n, 2, a))
        return NULL;
    return self->live && stead_live_add(self->live, a[0], a[1]) ? PyErr_NoMemory() : Py_NewRef(Py_None);
}

static PyObject *onesided_drop(PyObject *object, PyObject *const *args, Py_ssize_t n)
{
    OneSided *self = (OneSided *)object;
    uint64_t start;
    if (unsigned_args("_drop", args, n, 1, &start))
        return NULL;
    return PyBool_FromLong(self->live && !stead_live_drop(self->live, start));
}

static PyObject *onesided_locate(PyObject *object, PyObject *const *args, Py_ssize_t n)
{
    OneSided *self = (OneSided *)object;
    uint64_t address, start, stop;
    if (unsigned_args("_locate", args, n, 1, &address))
        return NULL;
    if (!self->live || !stead_live_find(self->live, address, &start, &stop))
        Py_RETURN_NONE;
    return Py_BuildValue("KK", (unsigned long long)start, (unsigned long long)stop);
}

/* Refuse every call from now on, unless one is in progress in another thread: whether it does. */
static PyObject *onesided_shut(PyObject *object, PyObject *none)
{
    (void)none;
    OneSided *self = (OneSided *)object;
    if (__atomic_load_n(&self->inside, __ATOMIC_SEQ_CST))
        Py_RETURN_FALSE;
    stead_live *live = self->live;
    self->live = NULL;
    self->windowed = 0;
    stead_live_end(live); /* what is pending stays: MPI may not be done with it */
    Py_RETURN_TRUE;
}

static void onesided_dealloc(PyObject *object)
{
    OneSided *self = (OneSided *)object;
    PyTypeObject *type = Py_TYPE(object);
    if (self->weakrefs)
        PyObject_ClearWeakRefs(object);
    onesided_let_go(self);
    PyMem_Free(self->pending);
    PyMem_Free(self->bases);
    stead_live_end(self->live);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

#define DATA_CALL(NAME, SIGNATURE, TEXT) \
    {#NAME, CALL(onesided_##NAME), METH_FASTCALL | METH_KEYWORDS, #NAME "($self, " SIGNATURE ")\n--\n\n" TEXT}

static PyMethodDef onesided_methods[] = {
    DATA_CALL(put, "pointer, data, wait=True",
              "Copy ``data`` (a contiguous buffer: bytes, an array) to where ``pointer`` (rank, address) points, all of it inside one\n"
              "block. When it returns the data is there, to be seen at that rank; with ``wait=False`` it may be on its way until\n"
              "``flush``, and ``data`` must not be changed meanwhile.\n\n"
              "Raises NotLive where no block is, ValueError, TypeError; Released; what MPI raises."),
    DATA_CALL(get, "pointer, into, wait=True",
              "Copy from where ``pointer`` points into ``into``, a contiguous writable buffer that says how much; or return so many\n"
              "bytes, where ``into`` is an int. With ``wait=False`` the buffer has its contents after ``flush``.\n\n"
              "Raises what ``put`` does."),
    DATA_CALL(accumulate, "pointer, data, op=\"sum\", wait=True",
              "Combine elements of ``data`` (ints or floats of 1 to 8 bytes) with those of their type from ``pointer`` on: ``sum``,\n"
              "``prod``, ``min``, ``max``, ``band``, ``bor``, ``bxor`` or ``replace``, or the same of mpi4py. Each element is changed\n"
              "atomically with respect to the atomic calls of all ranks.\n\n"
              "Raises what ``put`` does; ValueError where the address is not aligned to an element."),
    DATA_CALL(fetch_add, "pointer, value, dtype=\"int64\"",
              "Add ``value`` to the element at ``pointer``, atomically: what was there before.\n\nRaises what ``accumulate`` does."),
    DATA_CALL(compare_and_swap, "pointer, expected, desired, dtype=\"int64\"",
              "Put ``desired`` into the element at ``pointer``, an int, if ``expected`` is there, atomically: what was there before, so\n"
              "it was done where that is ``expected``.\n\nRaises what ``accumulate`` does."),
    {"flush", onesided_flush, METH_NOARGS,
     "flush($self)\n--\n\nWait until all calls with ``wait=False`` are complete, here and at the other ranks. Raises Released."},
    {"_open", onesided_open, METH_VARARGS, NULL},
    {"_use_window", onesided_use_window, METH_VARARGS, NULL},
    {"_add", CALL(onesided_add), METH_FASTCALL, NULL},
    {"_drop", CALL(onesided_drop), METH_FASTCALL, NULL},
    {"_locate", CALL(onesided_locate), METH_FASTCALL, NULL},
    {"_shut", onesided_shut, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef onesided_members[] = {
    {"_windowed", T_INT, offsetof(OneSided, windowed), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(OneSided, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot onesided_slots[] = {
    {Py_tp_doc, "The core of a symmetric heap."},
    {Py_tp_dealloc, onesided_dealloc},
    {Py_tp_methods, onesided_methods},
    {Py_tp_members, onesided_members},
    {0, NULL},
};

PyType_Spec stead_onesided_spec = {
    .name = "stead._native.OneSided",
    .basicsize = sizeof(OneSided),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = onesided_slots,
};
