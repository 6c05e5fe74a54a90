/* channel_type.c - a channel as a Python object. What most messages are (bytes, text, numbers, None) goes straight in and
 * out; everything else is made into bytes, or a block, by heap/channel.py.
 *
 * Whoever waits does so without the GIL and in slices, and looks in between whether a signal has come (Ctrl-C).
 */
#include "heap_type.h"

#include <math.h>
#include <stddef.h>
#include <string.h>
#include <structmember.h>

#define SLICE INT64_C(50000000) /* ns */
#define MOST 4096u              /* bytes of a message, so that it can be taken out on the stack */

/* Kinds of messages; heap/channel.py has those from FIRST_OPENED on. */
enum { BYTES, NONE, FALSE, TRUE, INTEGER, TEXT, REAL, FIRST_OPENED = 16 };

#define RAISED (-1000) /* beside the codes of heap.h: an exception is set */

typedef struct {
    PyObject_HEAD
    PyObject *heap, *lease; /* the lease keeps the channel's block, and so the channel */
    unsigned long long address;
    long long spin; /* ns, where a call does not say */
    unsigned generation, index;
    unsigned misses, pass; /* how often in a row spinning was in vain; how many waits go without it now */
    PyObject *weakrefs;
} Channel;

/* ---- waiting ---- */

typedef struct {
    int64_t patience, spin; /* ns; -1: for ever */
    int adapts;             /* the spin is the channel's, not the caller's */
} Waiting;

#define MOST_MISSES 7u

/* Where there are more processes than processors, who spins keeps the one from running that he waits for: after each spin
 * in vain, twice as many waits as before go without. Threads do this without a lock, and it only costs them time. */
static int64_t adapted(Channel *self)
{
    if (!self->pass)
        return self->spin;
    self->pass--;
    return 0;
}

static void adapt(Channel *self, int64_t spun, int64_t took)
{
    if (!spun)
        return;
    self->misses = took <= spun ? 0 : self->misses < MOST_MISSES ? self->misses + 1 : MOST_MISSES;
    self->pass = (1u << self->misses) - 1;
}

static int seconds(PyObject *given, const char *argument, int64_t *ns)
{
    if (!given || given == Py_None)
        return 0;
    double value = PyFloat_AsDouble(given);
    if (value == -1.0 && PyErr_Occurred())
        return -1;
    if (!(value >= 0)) {
        PyErr_Format(PyExc_ValueError, "%s is %R, must be a number of seconds, at least 0", argument, given);
        return -1;
    }
    *ns = value < 9e9 ? (int64_t)ceil(value * 1e9) : -1;
    return 0;
}

static int waiting(const Channel *self, PyObject *timeout, PyObject *spin, Waiting *w)
{
    *w = (Waiting){-1, self->spin, !spin || spin == Py_None};
    if (seconds(timeout, "timeout", &w->patience) || seconds(spin, "spin", &w->spin))
        return -1;
    if (w->spin < 0)
        w->spin = INT64_MAX;
    return 0;
}

/* Most often nothing is waited for, and then nobody looks at the clock. */
#define WAIT(SELF, W, GOT, EXPRESSION)                                                                        \
    do {                                                                                                      \
        int64_t patience_ = 0, spin_ = 0, begun_ = 0, now_ = 0;                                               \
        for (;;) {                                                                                            \
            HEAP_CALL((SELF)->heap, GOT, EXPRESSION)                                                          \
            if ((GOT) != STEAD_TIMEOUT) {                                                                     \
                if (begun_ && (W).adapts)                                                                     \
                    adapt(SELF, (W).spin, stead_now() - begun_);                                              \
                break;                                                                                        \
            }                                                                                                 \
            if (begun_ && PyErr_CheckSignals()) {                                                             \
                GOT = RAISED;                                                                                 \
                break;                                                                                        \
            }                                                                                                 \
            now_ = stead_now();                                                                               \
            if (!begun_ && (W).adapts)                                                                        \
                (W).spin = adapted(SELF);                                                                     \
            begun_ = begun_ ? begun_ : now_;                                                                  \
            if ((W).patience >= 0 && now_ - begun_ >= (W).patience)                                           \
                break;                                                                                        \
            patience_ = (W).patience < 0 || (W).patience - (now_ - begun_) > SLICE ? SLICE                     \
                                                                                  : (W).patience - (now_ - begun_); \
            spin_ = (W).spin > now_ - begun_ ? (W).spin - (now_ - begun_) : 0;                                \
        }                                                                                                     \
    } while (0)

static PyObject *refused(Channel *self, int code, const char *call)
{
    if (code == RAISED)
        return NULL;
    PyObject *none = PyObject_CallMethod((PyObject *)self, "_refused", "is", code, call);
    if (none && !PyErr_Occurred())
        PyErr_Format(PyExc_RuntimeError, "%s was refused: %d", call, code);
    Py_XDECREF(none);
    return NULL;
}

/* (obj, timeout=None, spin=None), or without obj; given: what was found. -1: TypeError. */
static int arguments(const char *call, PyObject *const *args, Py_ssize_t n, PyObject *names, PyObject **given, int first)
{
    static const char *const all[] = {"obj", "timeout", "spin"};
    Py_ssize_t named = names ? PyTuple_Size(names) : 0;
    if (n + first > 3) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %d arguments (%zd given)", call, 3 - first, n + named);
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++)
        given[i + first] = args[i];
    for (Py_ssize_t i = 0; i < named; i++) {
        PyObject *name = PyTuple_GetItem(names, i);
        int at = first;
        while (at < 3 && PyUnicode_CompareWithASCIIString(name, all[at]))
            at++;
        if (at == 3 || given[at]) {
            PyErr_Format(PyExc_TypeError, at == 3 ? "%s() has no argument %R" : "%s() got %R twice", call, name);
            return -1;
        }
        given[at] = args[n + i];
    }
    if (!first && !given[0]) {
        PyErr_Format(PyExc_TypeError, "%s() needs an obj", call);
        return -1;
    }
    return 0;
}

/* ---- sending ---- */

typedef struct {
    const char *bytes;
    Py_ssize_t length;
    int kind;
    union {
        int64_t integer;
        double real;
        char raw[8];
    } number;
} Plain;

/* Whether it is one of those that go straight in; -1: an exception. */
static int plain(PyObject *obj, Plain *p)
{
    p->bytes = "";
    p->length = 0;
    if (PyBytes_CheckExact(obj)) {
        p->kind = BYTES;
        return PyBytes_AsStringAndSize(obj, (char **)&p->bytes, &p->length) ? -1 : 1;
    }
    if (obj == Py_None || obj == Py_True || obj == Py_False) {
        p->kind = obj == Py_None ? NONE : obj == Py_True ? TRUE : FALSE;
        return 1;
    }
    if (PyUnicode_CheckExact(obj)) {
        p->kind = TEXT;
        p->bytes = PyUnicode_AsUTF8AndSize(obj, &p->length);
        if (!p->bytes)
            PyErr_Clear(); /* a lone surrogate: pickle can */
        return p->bytes != NULL;
    }
    p->bytes = p->number.raw;
    p->length = 8;
    if (PyLong_CheckExact(obj)) {
        int large;
        p->kind = INTEGER;
        p->number.integer = PyLong_AsLongLongAndOverflow(obj, &large);
        return !large;
    }
    p->kind = REAL;
    if (PyFloat_CheckExact(obj)) {
        p->number.real = PyFloat_AsDouble(obj);
        return 1;
    }
    return 0;
}

static int send_message(Channel *self, int kind, const char *bytes, Py_ssize_t length, uint64_t address, Waiting *w)
{
    stead_heap *heap = heap_core(self->heap);
    int got = RAISED;
    if (!heap)
        return got;
    if (length > (Py_ssize_t)MOST)
        return STEAD_TOO_LONG;
    stead_message m = {.address = address, .length = (uint32_t)length, .kind = (uint8_t)kind};
    WAIT(self, *w, got, stead_channel_send(heap, self->index, &m, bytes, patience_, spin_));
    return got;
}

static PyObject *channel_send(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    Channel *self = (Channel *)object;
    PyObject *given[3] = {NULL, NULL, NULL};
    Plain p;
    Waiting w;
    if (arguments("send", args, n, names, given, 0))
        return NULL;
    int is = ((Heap *)self->heap)->read_only ? 0 : plain(given[0], &p), got = STEAD_TOO_LONG;
    if (is < 0)
        return NULL;
    if (is) {
        if (waiting(self, given[1], given[2], &w))
            return NULL;
        got = send_message(self, p.kind, p.bytes, p.length, 0, &w);
    }
    if (__builtin_expect(!got, 1))
        Py_RETURN_NONE;
    if (got != STEAD_TOO_LONG)
        return refused(self, got, "send");
    return call_method(object, "_send_object", args, n, names);
}

static PyObject *channel_send_as(PyObject *object, PyObject *const *args, Py_ssize_t n)
{
    Channel *self = (Channel *)object;
    char *bytes;
    Py_ssize_t length;
    Waiting w;
    if (expect("_send", n, 5) || PyBytes_AsStringAndSize(args[1], &bytes, &length))
        return NULL;
    long kind = PyLong_AsLong(args[0]);
    uint64_t address;
    if ((kind == -1 && PyErr_Occurred()) || !address_arg(args[2], &address) || waiting(self, args[3], args[4], &w))
        return NULL;
    int got = send_message(self, (int)kind, bytes, length, address, &w);
    return got == RAISED ? NULL : PyLong_FromLong(got);
}

/* ---- receiving ---- */

static PyObject *opened(Channel *self, const stead_message *m, const char *bytes)
{
    PyObject *data = PyBytes_FromStringAndSize(bytes, m->length);
    if (!data) {
        if (m->address)
            (void)stead_heap_release(((Heap *)self->heap)->heap, m->address);
        return NULL;
    }
    PyObject *result =
        PyObject_CallMethod((PyObject *)self, "_open", "iOKKI", m->kind, data, (unsigned long long)m->address,
                            (unsigned long long)m->usable, (unsigned)m->generation);
    Py_DECREF(data);
    return result;
}

static PyObject *object_in(Channel *self, const stead_message *m, const char *bytes)
{
    int64_t integer;
    double real;
    if (m->address)
        return opened(self, m, bytes);
    switch (m->kind) {
    case BYTES: return PyBytes_FromStringAndSize(bytes, m->length);
    case NONE: return Py_NewRef(Py_None);
    case FALSE: return Py_NewRef(Py_False);
    case TRUE: return Py_NewRef(Py_True);
    case TEXT: return PyUnicode_FromStringAndSize(bytes, m->length);
    case INTEGER: memcpy(&integer, bytes, 8); return PyLong_FromLongLong(integer);
    case REAL: memcpy(&real, bytes, 8); return PyFloat_FromDouble(real);
    default: return opened(self, m, bytes);
    }
}

static int receive_message(Channel *self, stead_message *m, char *bytes, Waiting *w)
{
    stead_heap *heap = heap_core(self->heap);
    int got = RAISED;
    if (heap)
        WAIT(self, *w, got, stead_channel_receive(heap, self->index, m, bytes, patience_, spin_));
    return got;
}

static PyObject *channel_receive(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    Channel *self = (Channel *)object;
    PyObject *given[3] = {NULL, NULL, NULL};
    char bytes[MOST];
    stead_message m;
    Waiting w;
    if (arguments("receive", args, n, names, given, 1) || waiting(self, given[1], given[2], &w))
        return NULL;
    int got = receive_message(self, &m, bytes, &w);
    return __builtin_expect(!got, 1) ? object_in(self, &m, bytes) : refused(self, got, "receive");
}

/* Until it is closed and empty. */
static PyObject *channel_next(PyObject *object)
{
    Channel *self = (Channel *)object;
    char bytes[MOST];
    stead_message m;
    Waiting w = {-1, self->spin, 1};
    int got = receive_message(self, &m, bytes, &w);
    if (got == STEAD_CLOSED)
        return NULL;
    return got ? refused(self, got, "receive") : object_in(self, &m, bytes);
}

/* ---- the type ---- */

static PyObject *channel_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)kwargs;
    PyObject *heap, *lease;
    uint64_t address;
    unsigned generation, index;
    long long spin;
    if (!PyArg_ParseTuple(args, "OOO&IIL:Channel", &heap, &lease, address_arg, &address, &generation, &index, &spin))
        return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Channel *self = (Channel *)allocate(type, 0);
    if (self) {
        self->heap = Py_NewRef(heap);
        self->lease = Py_NewRef(lease);
        self->address = address;
        self->generation = generation;
        self->index = index;
        self->spin = spin;
    }
    return (PyObject *)self;
}

static void channel_dealloc(PyObject *object)
{
    Channel *self = (Channel *)object;
    PyTypeObject *type = Py_TYPE(object);
    if (self->weakrefs)
        PyObject_ClearWeakRefs(object);
    Py_XDECREF(self->lease); /* before the heap that it is of */
    Py_XDECREF(self->heap);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

static PyMethodDef channel_methods[] = {
    {"send", CALL(channel_send), METH_FASTCALL | METH_KEYWORDS,
     "send($self, obj, timeout=None, spin=None)\n--\n\n"
     "Put ``obj`` at the end: bytes, text, numbers and None as they are; arrays, blocks and Refs of the heap by reference,\n"
     "without a copy; anything else by pickle, and what is large in a block of its own. Whatever it refers to, the sender\n"
     "need not keep.\n\n"
     "Waits while the channel is full: ``timeout`` seconds, None: for ever, 0: not at all; for the first ``spin`` seconds\n"
     "(the channel's, where it is None) it looks again and again instead of sleeping. A signal's handler may raise\n"
     "meanwhile (Ctrl-C): then nothing was sent.\n\n"
     "Raises ChannelFull after the timeout, ChannelClosed, Unsupported where the heap is read-only, what pickle raises,\n"
     "and what SharedHeap.block does."},
    {"receive", CALL(channel_receive), METH_FASTCALL | METH_KEYWORDS,
     "receive($self, timeout=None, spin=None)\n--\n\n"
     "Take what is at the front. Waits as ``send`` does, while the channel is empty.\n\n"
     "Raises ChannelEmpty after the timeout, ChannelClosed when it was closed and everything has been received."},
    {"_send", CALL(channel_send_as), METH_FASTCALL, "_send(kind, data, address, timeout, spin): a code"},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef channel_members[] = {
    {"heap", T_OBJECT_EX, offsetof(Channel, heap), READONLY, "The heap that it is in."},
    {"_lease", T_OBJECT_EX, offsetof(Channel, lease), READONLY, NULL},
    {"_address", T_ULONGLONG, offsetof(Channel, address), READONLY, NULL},
    {"_generation", T_UINT, offsetof(Channel, generation), READONLY, NULL},
    {"_index", T_UINT, offsetof(Channel, index), READONLY, NULL},
    {"_spin", T_LONGLONG, offsetof(Channel, spin), 0, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Channel, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot channel_slots[] = {
    {Py_tp_doc, "The core of a channel."},
    {Py_tp_new, channel_new},
    {Py_tp_dealloc, channel_dealloc},
    {Py_tp_methods, channel_methods},
    {Py_tp_members, channel_members},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, channel_next},
    {0, NULL},
};

PyType_Spec stead_channel_spec = {
    .name = "stead._native.Channel",
    .basicsize = sizeof(Channel),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = channel_slots,
};
