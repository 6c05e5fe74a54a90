/* objects.c - the Python types of stead._native: a held range, memory at an address as a buffer, a call at the
 * very end. They own and convert; what is held, and when, is decided above.
 */
#include "binding.h"

#include <errno.h>
#include <stddef.h>
#include <structmember.h> /* no public names in newer headers for what 3.11 needs */
#include <unistd.h>

#include "mapping.h"

/* ---- Hold: a range that is given back at the end -------------------------------------------------- */

/* Of a device's driver, as the CUDA driver API declares them (CUresult is an int, 0 for success). */
typedef int take_addresses(uint64_t *address, size_t size, size_t alignment, uint64_t hint, unsigned long long flags);
typedef int give_back(uint64_t address, size_t size);

/* The base of Reservation: what every reservation pays for is done here. Its members are None until they are
 * needed; T_OBJECT_EX, since CPython has a fast path for these alone. Not tracked by the garbage collector,
 * unlike an object with __del__: that one may be finalized while others of its cycle, views among them, are
 * still used. */
typedef struct {
    PyObject_HEAD
    uint64_t address, size;
    long long serial, generation;
    int held;
    give_back *give; /* to a device's driver; NULL: to the kernel */
    uint64_t given;  /* bytes that the driver reserved: whole parcels of its own */
    pid_t process;   /* that claimed it: no driver survives a fork */
    PyObject *weakrefs;
    PyObject *members[10];
} Hold;

static PyObject *hold_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static long long serial; /* of the process */
    (void)args, (void)kwargs;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Hold *self = (Hold *)allocate(type, 0);
    if (self) {
        self->serial = __atomic_add_fetch(&serial, 1, __ATOMIC_RELAXED);
        for (size_t i = 0; i < sizeof self->members / sizeof *self->members; i++)
            self->members[i] = Py_NewRef(Py_None);
    }
    return (PyObject *)self;
}

static void hold_take(Hold *self, uint64_t address, uint64_t size)
{
    self->address = address;
    self->size = size;
    self->held = 1;
}

static PyObject *hold_take_over(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    uint64_t a[2];
    if (unsigned_args("_take_over", args, n, 2, a))
        return NULL;
    hold_take((Hold *)self, a[0], a[1]);
    Py_RETURN_NONE;
}

/* Members as MEMBER numbers them below. */
enum { SPACE = 3, PARTS = 4 };

static void hold_set(Hold *self, int member, PyObject *value)
{
    Py_DECREF(self->members[member]);
    self->members[member] = Py_NewRef(value);
}

/* 0, or what the kernel or the driver answered instead; a child asks no driver. */
static int64_t hold_give(const Hold *self)
{
    if (!self->give)
        return stead_unmap(self->address, self->size);
    return self->process == getpid() ? self->give(self->address, self->given) : -EPERM;
}

/* A reservation of what was claimed; parts, ledger, forget and space are the first of args. */
static PyObject *hold_make(PyObject *type, PyObject *const *args, uint64_t address, uint64_t size, give_back *give,
                           uint64_t given)
{
    PyObject *ledger = args[1], *forget = args[2];
    PyObject *self = hold_new((PyTypeObject *)type, NULL, NULL);
    if (!self) {
        (void)(give ? give(address, given) : stead_unmap(address, size));
        return NULL;
    }
    hold_take((Hold *)self, address, size);
    if (give) {
        ((Hold *)self)->give = give;
        ((Hold *)self)->given = given;
        ((Hold *)self)->process = getpid();
    }
    hold_set((Hold *)self, PARTS, args[0]);
    hold_set((Hold *)self, SPACE, args[3]);
    PyObject *entry = PyWeakref_NewRef(self, forget);
    if (!entry || PySet_Add(ledger, entry)) {
        Py_XDECREF(entry);
        Py_DECREF(self); /* which gives it back */
        return NULL;
    }
    Py_DECREF(entry);
    return self;
}

/* Everything that makes a reservation, in one call: parts, ledger and forget are the same for all. */
static PyObject *hold_claim(PyObject *type, PyObject *const *args, Py_ssize_t n)
{
    uint64_t a[2];
    int64_t got;
    if (expect("_claim", n, 6) || unsigned_args("_claim", args + 4, 2, 2, a))
        return NULL;
    CALL_WITHOUT_GIL(got, stead_claim(a[0], a[1]))
    if (got == (int64_t)a[0])
        return hold_make(type, args, a[0], a[1], NULL, 0);
    if (got >= 0) /* a kernel that takes the address as a hint went elsewhere */
        (void)stead_unmap((uint64_t)got, a[1]);
    Py_RETURN_NONE;
}

/* The same through a driver. */
static PyObject *hold_claim_driven(PyObject *type, PyObject *const *args, Py_ssize_t n)
{
    uint64_t a[5], got = 0;
    int refused;
    if (expect("_claim_driven", n, 9) || unsigned_args("_claim_driven", args + 4, 5, 5, a))
        return NULL;
    take_addresses *take = (take_addresses *)(uintptr_t)a[0];
    uint64_t parcel = a[2], whole = (a[4] + parcel - 1) & ~(parcel - 1);
    CALL_WITHOUT_GIL(refused, take(&got, whole, parcel, a[3], 0))
    if (refused)
        Py_RETURN_NONE;
    if (got != a[3])
        return PyLong_FromUnsignedLongLong(got);
    return hold_make(type, args, got, a[4], (give_back *)(uintptr_t)a[1], whole);
}

static PyObject *hold_unmap(PyObject *object, PyObject *none)
{
    (void)none;
    Hold *self = (Hold *)object;
    int64_t got = 0;
    if (self->held) {
        CALL_WITHOUT_GIL(got, hold_give(self))
        self->held = got != 0;
    }
    return PyLong_FromLongLong(got);
}

static PyObject *hold_forget(PyObject *self, PyObject *none)
{
    (void)none;
    ((Hold *)self)->held = 0;
    Py_RETURN_NONE;
}

/* A driver's refusal at the very end: there is nobody to raise it to. */
static void hold_warn(const Hold *self, long long answer)
{
    PyObject *type, *value, *trace; /* an exception on its way stays what it is */
    PyErr_Fetch(&type, &value, &trace);
    if (PyErr_WarnFormat(PyExc_ResourceWarning, 1, "%zu bytes of addresses at %p are still held: the driver answered %lld",
                         (size_t)self->size, (void *)(uintptr_t)self->address, answer))
        PyErr_WriteUnraisable(NULL);
    PyErr_Restore(type, value, trace);
}

static void hold_dealloc(PyObject *object)
{
    Hold *self = (Hold *)object;
    PyTypeObject *type = Py_TYPE(object);
    if (self->weakrefs)
        PyObject_ClearWeakRefs(object);
    if (self->held) {
        int64_t answer = hold_give(self);
        if (answer > 0)
            hold_warn(self, answer);
    }
    for (size_t i = 0; i < sizeof self->members / sizeof *self->members; i++)
        Py_XDECREF(self->members[i]);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

static PyMethodDef hold_methods[] = {
    {"_claim", (PyCFunction)(void (*)(void))hold_claim, METH_FASTCALL | METH_CLASS,
     "_claim(parts, ledger, forget, space, address, size)\n--\n\n"
     "Claim, and a new object that holds what was claimed and is in the ledger; None where that is refused."},
    {"_claim_driven", (PyCFunction)(void (*)(void))hold_claim_driven, METH_FASTCALL | METH_CLASS,
     "_claim_driven(parts, ledger, forget, space, reserve, free, parcel, address, size)\n--\n\n"
     "The same through a driver's functions at these addresses, which reserve whole parcels (a power of two); an int:\n"
     "it reserved there instead, and that is held."},
    {"_take_over", (PyCFunction)(void (*)(void))hold_take_over, METH_FASTCALL,
     "_take_over(address, size)\n--\n\nHold a range that was claimed: unmapped when the last reference goes."},
    {"_unmap", hold_unmap, METH_NOARGS, "_unmap()\n--\n\nGive the range back now: 0, or what was answered instead, and it is still held."},
    {"_forget", hold_forget, METH_NOARGS, "_forget()\n--\n\nHold it no more, without giving it back."},
    {NULL, NULL, 0, NULL},
};

#define MEMBER(I, NAME) {NAME, T_OBJECT_EX, offsetof(Hold, members) + (I) * sizeof(PyObject *), 0, NULL}

static PyMemberDef hold_members[] = {
    MEMBER(0, "name"), MEMBER(1, "_range"), MEMBER(2, "_outer"), MEMBER(SPACE, "_space"), MEMBER(PARTS, "_parts"),
    MEMBER(5, "_leases"), MEMBER(6, "_lingering"), MEMBER(7, "_identity"), MEMBER(8, "_end"), MEMBER(9, "_released"),
    {"generation", T_LONGLONG, offsetof(Hold, generation), 0, NULL},
    {"_address", T_ULONGLONG, offsetof(Hold, address), READONLY, NULL},
    {"_size", T_ULONGLONG, offsetof(Hold, size), READONLY, NULL},
    {"_serial", T_LONGLONG, offsetof(Hold, serial), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Hold, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot hold_slots[] = {
    {Py_tp_doc, "A held range: given back when the last reference goes."},
    {Py_tp_new, hold_new},
    {Py_tp_dealloc, hold_dealloc},
    {Py_tp_methods, hold_methods},
    {Py_tp_members, hold_members},
    {0, NULL},
};

PyType_Spec stead_hold_spec = {
    .name = "stead._native.Hold",
    .basicsize = sizeof(Hold),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = hold_slots,
};

/* ---- Exporter: memory at an address, as a buffer ------------------------------------------------ */

/* Lives as long as any memoryview or array made from it, and keeps its owner alive: so a weak
 * reference to it tells whether anyone can still touch the memory. */
typedef struct {
    PyObject_HEAD
    void *address;
    Py_ssize_t size, views; /* buffers that are held: fewer than refer to it, where an array only does that */
    int readonly;
    PyObject *owner; /* NULL: ended */
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
    if (!e->owner) {
        view->obj = NULL;
        PyErr_Format(PyExc_ValueError, "the memory at %p was given back", e->address);
        return -1;
    }
    if (PyBuffer_FillInfo(view, self, e->address, e->size, e->readonly, flags))
        return -1;
    e->views++;
    return 0;
}

static void exporter_releasebuffer(PyObject *self, Py_buffer *view)
{
    (void)view;
    ((Exporter *)self)->views--;
}

static PyObject *exporter_end(PyObject *self, PyObject *none)
{
    (void)none;
    Exporter *e = (Exporter *)self;
    if (!e->views)
        Py_CLEAR(e->owner);
    return PyLong_FromSsize_t(e->views);
}

static PyObject *exporter_ended(PyObject *self, void *none)
{
    (void)none;
    return PyBool_FromLong(!((Exporter *)self)->owner);
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

static PyMethodDef exporter_methods[] = {
    {"_end", exporter_end, METH_NOARGS,
     "_end()\n--\n\nLet go of the owner and export no more, unless buffers are held: how many are."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef exporter_getset[] = {
    {"_ended", exporter_ended, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef exporter_members[] = {
    {"_address", T_ULONGLONG, offsetof(Exporter, address), READONLY, NULL},
    {"_size", T_PYSSIZET, offsetof(Exporter, size), READONLY, NULL},
    {"_readonly", T_INT, offsetof(Exporter, readonly), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Exporter, weakrefs), READONLY, NULL},
    {"exports", T_PYSSIZET, offsetof(Exporter, views), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot exporter_slots[] = {
    {Py_tp_doc, "Exporter(address, size, readonly, owner)\n--\n\nsize bytes at address as a buffer of format 'B'; keeps owner alive."},
    {Py_tp_new, exporter_new},
    {Py_tp_dealloc, exporter_dealloc},
    {Py_tp_traverse, exporter_traverse},
    {Py_tp_methods, exporter_methods},
    {Py_tp_getset, exporter_getset},
    {Py_tp_members, exporter_members},
    {Py_bf_getbuffer, exporter_getbuffer},
    {Py_bf_releasebuffer, exporter_releasebuffer},
    {0, NULL},
};

PyType_Spec stead_exporter_spec = {
    .name = "stead._native.Exporter",
    .basicsize = sizeof(Exporter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_BASETYPE,
    .slots = exporter_slots,
};

/* ---- Finalizer: a call at the very end ----------------------------------------------------------- */

/* Calls when its last reference goes. Not tracked by the garbage collector, like Hold. */
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

PyType_Spec stead_finalizer_spec = {
    .name = "stead._native.Finalizer",
    .basicsize = sizeof(Finalizer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = finalizer_slots,
};
