/* module.c - stead._native: converts, drops the GIL, raises. No decisions are made here.
 *
 * The calls answer like the C functions of mapping.h: a value that is zero or positive, or a negated
 * errno. A lost claim is an everyday event, and building an OSError costs more than the system call
 * that lost; errors.py turns numbers into exceptions where one is wanted.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>

#include <errno.h>
#include <limits.h>
#include <sys/mman.h>

#include "mapping.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

/* ---- arguments -------------------------------------------------------------------------------- */

static int expect(const char *call, Py_ssize_t given, Py_ssize_t wanted)
{
    if (given == wanted)
        return 0;
    PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments (%zd given)", call, wanted, given);
    return -1;
}

/* Addresses and sizes: refuses negative numbers and what does not fit, with OverflowError. */
static int unsigned_args(const char *call, PyObject *const *args, Py_ssize_t given, Py_ssize_t wanted, uint64_t *out)
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

static int int_arg(PyObject *arg, int *out)
{
    long value = PyLong_AsLong(arg);
    if (value == -1 && PyErr_Occurred())
        return -1;
    if (value < INT_MIN || value > INT_MAX) {
        PyErr_Format(PyExc_OverflowError, "%ld does not fit into an int", value);
        return -1;
    }
    *out = (int)value;
    return 0;
}

/* For PyArg_ParseTuple's "O&": its own "K" takes negative and too large numbers without a word. */
static int address_arg(PyObject *arg, void *out)
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

/* ---- system calls ----------------------------------------------------------------------------- */

#define ADDRESS_AND_SIZE(NAME)                                                          \
    static PyObject *native_##NAME(PyObject *self, PyObject *const *args, Py_ssize_t n) \
    {                                                                                   \
        (void)self;                                                                     \
        uint64_t a[2];                                                                  \
        int64_t got;                                                                    \
        if (unsigned_args(#NAME, args, n, 2, a))                                        \
            return NULL;                                                                \
        CALL_WITHOUT_GIL(got, stead_##NAME(a[0], a[1]))                                 \
        return PyLong_FromLongLong(got);                                                \
    }

/* The answer to a lost claim, made once: a tenth of what losing costs. */
typedef struct {
    PyObject *lost;
    PyTypeObject *hold_type;
} State;

static PyObject *native_claim(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    uint64_t a[2];
    int64_t got;
    if (unsigned_args("claim", args, n, 2, a))
        return NULL;
    CALL_WITHOUT_GIL(got, stead_claim(a[0], a[1]))
    if (got == -EEXIST)
        return Py_NewRef(((State *)PyModule_GetState(self))->lost);
    return PyLong_FromLongLong(got);
}

ADDRESS_AND_SIZE(hint)
ADDRESS_AND_SIZE(unmap)

#define ADDRESS_SIZE_AND_INT(NAME)                                                      \
    static PyObject *native_##NAME(PyObject *self, PyObject *const *args, Py_ssize_t n) \
    {                                                                                   \
        (void)self;                                                                     \
        uint64_t a[2];                                                                  \
        int third;                                                                      \
        int64_t got;                                                                    \
        if (expect(#NAME, n, 3) || unsigned_args(#NAME, args, 2, 2, a) || int_arg(args[2], &third)) \
            return NULL;                                                                \
        CALL_WITHOUT_GIL(got, stead_##NAME(a[0], a[1], third))                          \
        return PyLong_FromLongLong(got);                                                \
    }

ADDRESS_SIZE_AND_INT(protect)
ADDRESS_SIZE_AND_INT(advise)

static PyObject *native_place(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    (void)self;
    uint64_t a[2];
    int protection, flags, fd;
    int64_t got;
    if (expect("place", n, 6) || unsigned_args("place", args, 2, 2, a) || int_arg(args[2], &protection) ||
        int_arg(args[3], &flags) || int_arg(args[4], &fd))
        return NULL;
    long long offset = PyLong_AsLongLong(args[5]);
    if (offset == -1 && PyErr_Occurred())
        return NULL;
    CALL_WITHOUT_GIL(got, stead_place(a[0], a[1], protection, flags, fd, offset))
    return PyLong_FromLongLong(got);
}

static PyObject *native_name(PyObject *self, PyObject *args)
{
    (void)self;
    uint64_t address, size;
    const char *name;
    if (!PyArg_ParseTuple(args, "O&O&s:name", address_arg, &address, address_arg, &size, &name))
        return NULL;
    return PyLong_FromLongLong(stead_name(address, size, name));
}

static PyObject *native_fallocate(PyObject *self, PyObject *args)
{
    (void)self;
    int fd, mode;
    long long offset, size;
    int64_t got;
    if (!PyArg_ParseTuple(args, "iiLL:fallocate", &fd, &mode, &offset, &size))
        return NULL;
    CALL_WITHOUT_GIL(got, stead_fallocate(fd, mode, offset, size))
    return PyLong_FromLongLong(got);
}

static PyObject *native_query(PyObject *self, PyObject *args)
{
    (void)self;
    int fd;
    uint64_t address;
    stead_mapping found;
    char name[4096 + 64]; /* PATH_MAX, and room for " (deleted)" */
    int64_t got;
    if (!PyArg_ParseTuple(args, "iO&:query", &fd, address_arg, &address))
        return NULL;
    CALL_WITHOUT_GIL(got, stead_query(fd, address, &found, name, sizeof name))
    if (got < 0)
        return PyLong_FromLongLong(got);
    return Py_BuildValue("KKKKKIIy#", (unsigned long long)found.start, (unsigned long long)found.stop,
                         (unsigned long long)found.flags, (unsigned long long)found.offset,
                         (unsigned long long)found.inode, (unsigned int)found.device_major,
                         (unsigned int)found.device_minor, name,
                         (Py_ssize_t)(found.name_size ? found.name_size - 1 : 0));
}

static PyObject *native_program_break(PyObject *self, PyObject *none)
{
    (void)self, (void)none;
    return PyLong_FromUnsignedLongLong(stead_program_break());
}

static PyObject *native_sanitizer(PyObject *self, PyObject *none)
{
    (void)self, (void)none;
    const char *found = stead_sanitizer();
    if (!found)
        Py_RETURN_NONE;
    return PyUnicode_FromString(found);
}

/* ---- Hold: a range that is given back at the end -------------------------------------------------- */

/* Like Finalizer below, and not tracked by the garbage collector for the same reason; but claims and unmaps
 * by itself, for the ranges of this process: this is the price of every reservation. */
typedef struct {
    PyObject_HEAD
    uint64_t address, size;
    int held;
} Hold;

static PyObject *hold_made(PyTypeObject *type, uint64_t address, uint64_t size)
{
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Hold *self = (Hold *)allocate(type, 0);
    if (self) {
        self->address = address;
        self->size = size;
        self->held = 1;
    }
    return (PyObject *)self;
}

static PyObject *hold_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    uint64_t address, size;
    static char *names[] = {"address", "size", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&O&:Hold", names, address_arg, &address, address_arg, &size))
        return NULL;
    return hold_made(type, address, size);
}

static PyObject *hold_release(PyObject *object, PyObject *none)
{
    (void)none;
    Hold *self = (Hold *)object;
    int64_t got = 0;
    if (self->held) {
        CALL_WITHOUT_GIL(got, stead_unmap(self->address, self->size))
        self->held = got != 0;
    }
    return PyLong_FromLongLong(got);
}

static PyObject *hold_cancel(PyObject *self, PyObject *none)
{
    (void)none;
    ((Hold *)self)->held = 0;
    Py_RETURN_NONE;
}

static void hold_dealloc(PyObject *object)
{
    Hold *self = (Hold *)object;
    PyTypeObject *type = Py_TYPE(object);
    if (self->held)
        (void)stead_unmap(self->address, self->size);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

static PyMethodDef hold_methods[] = {
    {"release", hold_release, METH_NOARGS, "release()\n--\n\nGive the range back now: 0, or -errno and it is still held."},
    {"cancel", hold_cancel, METH_NOARGS, "cancel()\n--\n\nHold it no more, without giving it back."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot hold_slots[] = {
    {Py_tp_doc, "Hold(address, size)\n--\n\nTakes over a claimed range: unmapped when the last reference goes."},
    {Py_tp_new, hold_new},
    {Py_tp_dealloc, hold_dealloc},
    {Py_tp_methods, hold_methods},
    {0, NULL},
};

static PyType_Spec hold_spec = {
    .name = "stead._native.Hold",
    .basicsize = sizeof(Hold),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = hold_slots,
};

static PyObject *native_hold(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
    State *state = PyModule_GetState(module);
    uint64_t a[2];
    int64_t got;
    if (unsigned_args("hold", args, n, 2, a))
        return NULL;
    CALL_WITHOUT_GIL(got, stead_claim(a[0], a[1]))
    if (got == (int64_t)a[0]) {
        PyObject *held = hold_made(state->hold_type, a[0], a[1]);
        if (!held)
            (void)stead_unmap(a[0], a[1]);
        return held;
    }
    if (got >= 0) { /* a kernel that takes the address as a hint went elsewhere */
        (void)stead_unmap((uint64_t)got, a[1]);
        got = -EEXIST;
    }
    return got == -EEXIST ? Py_NewRef(state->lost) : PyLong_FromLongLong(got);
}

/* ---- Exporter: memory at an address, as a buffer ------------------------------------------------ */

/* Lives as long as any memoryview or array made from it, and keeps its owner alive: so a weak
 * reference to it tells whether anyone can still touch the memory. */
typedef struct {
    PyObject_HEAD
    void *address;
    Py_ssize_t size;
    int readonly;
    PyObject *owner;
    PyObject *weakrefs;
} Exporter;

static PyObject *exporter_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"address", "size", "readonly", "owner", NULL};
    uint64_t address;
    Py_ssize_t size;
    int readonly;
    PyObject *owner;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&npO:Exporter", names, address_arg, &address, &size, &readonly, &owner))
        return NULL;
    if (size < 0) {
        PyErr_Format(PyExc_ValueError, "size is %zd, must not be negative", size);
        return NULL;
    }
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Exporter *self = (Exporter *)allocate(type, 0);
    if (!self)
        return NULL;
    self->address = (void *)(uintptr_t)address;
    self->size = size;
    self->readonly = readonly;
    self->owner = Py_NewRef(owner);
    return (PyObject *)self;
}

static int exporter_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
    Exporter *e = (Exporter *)self;
    return PyBuffer_FillInfo(view, self, e->address, e->size, e->readonly, flags);
}

static int exporter_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Exporter *)self)->owner);
    return 0;
}

/* No tp_clear: the owner must outlive the last buffer, and a cycle through it is broken at the
 * other end, in the Python object that holds the view. */
static void exporter_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    PyObject_ClearWeakRefs(self);
    Py_XDECREF(((Exporter *)self)->owner);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

/* ---- Finalizer: a call at the very end ----------------------------------------------------------- */

/* Calls when its last reference goes. Not tracked by the garbage collector, unlike an object with
 * __del__: that one may be finalized while others of its cycle, views among them, are still used. */
typedef struct {
    PyObject_HEAD
    PyObject *call, *arguments[2];
} Finalizer;

static PyObject *finalizer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *call, *first, *second;
    if (kwargs && PyDict_Size(kwargs)) {
        PyErr_SetString(PyExc_TypeError, "Finalizer() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "OOO:Finalizer", &call, &first, &second))
        return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Finalizer *self = (Finalizer *)allocate(type, 0);
    if (self) {
        self->call = Py_NewRef(call);
        self->arguments[0] = Py_NewRef(first);
        self->arguments[1] = Py_NewRef(second);
    }
    return (PyObject *)self;
}

static PyObject *finalizer_cancel(PyObject *self, PyObject *none)
{
    (void)none;
    Py_CLEAR(((Finalizer *)self)->call);
    Py_RETURN_NONE;
}

/* The call, now. If it raises, it is still to be made. */
static PyObject *finalizer_release(PyObject *object, PyObject *none)
{
    (void)none;
    Finalizer *self = (Finalizer *)object;
    if (self->call) {
        PyObject *done = PyObject_CallFunctionObjArgs(self->call, self->arguments[0], self->arguments[1], NULL);
        if (!done)
            return NULL;
        Py_DECREF(done);
        Py_CLEAR(self->call);
    }
    return PyLong_FromLong(0);
}

static void finalizer_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject *call = ((Finalizer *)self)->call;
    if (call) {
        PyObject *type_, *value, *trace; /* an exception on its way stays what it is */
        PyErr_Fetch(&type_, &value, &trace);
        PyObject **arguments = ((Finalizer *)self)->arguments;
        PyObject *done = PyObject_CallFunctionObjArgs(call, arguments[0], arguments[1], NULL);
        if (!done)
            PyErr_WriteUnraisable(call);
        Py_XDECREF(done);
        PyErr_Restore(type_, value, trace);
        Py_DECREF(call);
    }
    Py_XDECREF(((Finalizer *)self)->arguments[0]);
    Py_XDECREF(((Finalizer *)self)->arguments[1]);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyMethodDef finalizer_methods[] = {
    {"release", finalizer_release, METH_NOARGS, "release()\n--\n\nMake the call now, and none at the end: 0."},
    {"cancel", finalizer_cancel, METH_NOARGS, "cancel()\n--\n\nMake no call."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot finalizer_slots[] = {
    {Py_tp_doc, "Finalizer(call, first, second)\n--\n\nCalls call(first, second) when its last reference goes."},
    {Py_tp_new, finalizer_new},
    {Py_tp_dealloc, finalizer_dealloc},
    {Py_tp_methods, finalizer_methods},
    {0, NULL},
};

static PyType_Spec finalizer_spec = {
    .name = "stead._native.Finalizer",
    .basicsize = sizeof(Finalizer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = finalizer_slots,
};

/* In the headers of CPython 3.12 as Py_T_PYSSIZET and Py_READONLY; stable by value since 2.x. */
#ifndef Py_T_PYSSIZET
#include <structmember.h>
#define Py_T_PYSSIZET T_PYSSIZET
#define Py_READONLY READONLY
#endif

static PyMemberDef exporter_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(Exporter, weakrefs), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot exporter_slots[] = {
    {Py_tp_doc, "Exporter(address, size, readonly, owner)\n--\n\nsize bytes at address as a buffer of format 'B'; keeps owner alive."},
    {Py_tp_new, exporter_new},
    {Py_tp_dealloc, exporter_dealloc},
    {Py_tp_traverse, exporter_traverse},
    {Py_tp_members, exporter_members},
    {Py_bf_getbuffer, exporter_getbuffer},
    {0, NULL},
};

static PyType_Spec exporter_spec = {
    .name = "stead._native.Exporter",
    .basicsize = sizeof(Exporter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = exporter_slots,
};

/* ---- the module --------------------------------------------------------------------------------- */

#define FAST(NAME, SIGNATURE, TEXT) \
    {#NAME, (PyCFunction)(void (*)(void))native_##NAME, METH_FASTCALL, #NAME SIGNATURE "\n--\n\n" TEXT}
#define PLAIN(NAME, SIGNATURE, TEXT) {#NAME, native_##NAME, METH_VARARGS, #NAME SIGNATURE "\n--\n\n" TEXT}
#define BARE(NAME, TEXT) {#NAME, native_##NAME, METH_NOARGS, #NAME "()\n--\n\n" TEXT}

static PyMethodDef methods[] = {
    FAST(claim, "(address, size)", "mmap(PROT_NONE, MAP_FIXED_NOREPLACE): the address, or -errno."),
    FAST(hold, "(address, size)", "claim, and a Hold of what was claimed; or -errno."),
    FAST(hint, "(address, size)", "mmap(PROT_NONE) with a hint: the address that it got, or -errno."),
    FAST(place, "(address, size, protection, flags, fd, offset)",
         "mmap(MAP_FIXED), for a range that the caller owns: the address, or -errno."),
    FAST(unmap, "(address, size)", "munmap: 0, or -errno."),
    FAST(protect, "(address, size, protection)", "mprotect: 0, or -errno."),
    FAST(advise, "(address, size, advice)", "madvise: 0, or -errno."),
    PLAIN(name, "(address, size, name)", "prctl(PR_SET_VMA_ANON_NAME): 0, or -errno."),
    PLAIN(fallocate, "(fd, mode, offset, size)", "fallocate: 0, or -errno."),
    PLAIN(query, "(maps_fd, address)",
          "PROCMAP_QUERY for the mapping at address or the next above: (start, stop, flags, offset, inode, "
          "device_major, device_minor, name), or -errno."),
    BARE(program_break, "sbrk(0): the end of the heap."),
    BARE(sanitizer, "'thread', 'address', 'memory', or None: the sanitizer of this process."),
    {NULL, NULL, 0, NULL},
};

static int module_exec(PyObject *module)
{
    State *state = PyModule_GetState(module);
    state->lost = PyLong_FromLong(-EEXIST);
    if (!state->lost)
        return -1;
    state->hold_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &hold_spec, NULL);
    if (!state->hold_type || PyModule_AddType(module, state->hold_type))
        return -1;
    PyType_Spec *types[] = {&exporter_spec, &finalizer_spec};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        PyObject *type = PyType_FromModuleAndSpec(module, types[i], NULL);
        int failed = !type || PyModule_AddType(module, (PyTypeObject *)type);
        Py_XDECREF(type);
        if (failed)
            return -1;
    }
    /* From the headers of the machine that compiles: MAP_NORESERVE alone has five values. */
    static const struct { const char *name; long value; } constants[] = {
        {"PROT_NONE", PROT_NONE}, {"PROT_READ", PROT_READ}, {"PROT_WRITE", PROT_WRITE}, {"PROT_EXEC", PROT_EXEC},
        {"MAP_SHARED", MAP_SHARED}, {"MAP_PRIVATE", MAP_PRIVATE}, {"MAP_ANONYMOUS", MAP_ANONYMOUS},
        {"MAP_NORESERVE", MAP_NORESERVE}, {"MAP_HUGETLB", MAP_HUGETLB},
        {"MADV_DONTNEED", MADV_DONTNEED}, {"MADV_DONTDUMP", MADV_DONTDUMP}, {"MADV_DODUMP", MADV_DODUMP},
        {"MADV_HUGEPAGE", MADV_HUGEPAGE}, {"MADV_REMOVE", MADV_REMOVE},
        {"MADV_POPULATE_WRITE", MADV_POPULATE_WRITE}, {"MADV_GUARD_INSTALL", MADV_GUARD_INSTALL},
        {"MFD_NOEXEC_SEAL", MFD_NOEXEC_SEAL},
        {"QUERY_READABLE", STEAD_QUERY_READABLE}, {"QUERY_WRITABLE", STEAD_QUERY_WRITABLE},
        {"QUERY_EXECUTABLE", STEAD_QUERY_EXECUTABLE}, {"QUERY_SHARED", STEAD_QUERY_SHARED},
    };
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++)
        if (PyModule_AddIntConstant(module, constants[i].name, constants[i].value))
            return -1;
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
/* Both slots are newer than the Limited API's floor; a build for a free-threaded CPython has them. */
#if !defined(Py_LIMITED_API) && defined(Py_mod_multiple_interpreters)
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if !defined(Py_LIMITED_API) && defined(Py_mod_gil)
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static int module_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
    Py_CLEAR(state->lost);
    Py_CLEAR(state->hold_type);
    return 0;
}

static void module_free(void *module)
{
    module_clear(module);
}

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "stead._native",
    .m_doc = "System calls for stead: addresses in, addresses or negated errnos out.",
    .m_size = sizeof(State),
    .m_clear = module_clear,
    .m_free = module_free,
    .m_methods = methods,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
