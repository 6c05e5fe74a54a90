/* heap_type.c - a heap as a Python object: conversions, the GIL, codes. What is decided is decided in heap/heap.py.
 *
 * A call may wait for another process, which may be stopped: no call into the core keeps the GIL.
 */
#include "heap_type.h"

#include <stddef.h>
#include <structmember.h>

stead_heap *heap_core(PyObject *object)
{
    Heap *self = (Heap *)object;
    if (self->heap && stead_heap_place(self->heap))
        return self->heap;
    Py_XDECREF(PyObject_CallMethod(object, "_refuse_released", NULL)); /* it raises */
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_RuntimeError, "the heap is not attached");
    return NULL;
}

static PyObject *code(int got) { return PyLong_FromLong(got); }

/* (address, usable, generation), or the code. */
static PyObject *block_or_code(int got, const stead_shared_block *b)
{
    if (got)
        return code(got);
    return Py_BuildValue("KKI", (unsigned long long)b->address, (unsigned long long)b->usable, (unsigned)b->generation);
}

static int address_of(PyObject *arg, uint64_t *address) { return address_arg(arg, address) ? 0 : -1; }

/* ---- the memory ---- */

static PyObject *heap_sizes(PyObject *type, PyObject *units)
{
    (void)type;
    uint64_t max_units;
    if (address_of(units, &max_units))
        return NULL;
    if (!max_units || max_units > STEAD_MAX_UNITS) {
        PyErr_Format(PyExc_ValueError, "max_units is %llu", (unsigned long long)max_units);
        return NULL;
    }
    return Py_BuildValue("KK", (unsigned long long)stead_heap_control_size((uint32_t)max_units),
                         (unsigned long long)stead_heap_private_size((uint32_t)max_units));
}

static PyObject *heap_format(PyObject *type, PyObject *args)
{
    (void)type;
    uint64_t control, base, patience;
    unsigned units;
    const char *id;
    Py_ssize_t length;
    if (!PyArg_ParseTuple(args, "O&O&IO&y#:_format", address_arg, &control, address_arg, &base, &units, address_arg, &patience,
                          &id, &length))
        return NULL;
    if (length != 16) {
        PyErr_Format(PyExc_ValueError, "id has %zd bytes, must have 16", length);
        return NULL;
    }
    stead_heap_format((void *)(uintptr_t)control, base, units, (const uint8_t *)id, patience);
    Py_RETURN_NONE;
}

static PyObject *heap_id(PyObject *type, PyObject *control)
{
    (void)type;
    uint64_t at;
    if (address_of(control, &at))
        return NULL;
    return PyBytes_FromStringAndSize((const char *)stead_heap_id((const void *)(uintptr_t)at), 16);
}

static PyObject *heap_attach(PyObject *object, PyObject *args)
{
    Heap *self = (Heap *)object;
    uint64_t control, memory, identity = roster_myself();
    stead_heap *heap;
    if (!PyArg_ParseTuple(args, "O&O&:_attach", address_arg, &control, address_arg, &memory))
        return NULL;
    if (!identity)
        return code(STEAD_NOT_OWNER); /* without /proc nobody could tell whether this process lives */
    int got = stead_heap_attach((void *)(uintptr_t)control, (void *)(uintptr_t)memory, identity, &heap);
    if (!got)
        self->heap = heap;
    return code(got);
}

static PyObject *heap_detach(PyObject *object, PyObject *none)
{
    (void)none;
    Heap *self = (Heap *)object;
    stead_heap *heap = self->heap;
    int inside = __atomic_load_n(&self->inside, __ATOMIC_SEQ_CST);
    if (inside) {
        PyErr_Format(PyExc_BufferError, "cannot let go of the heap: %d call%s of it going on in other threads", inside,
                     inside > 1 ? "s are" : " is");
        return NULL;
    }
    self->heap = NULL;
    if (heap && stead_heap_place(heap)) {
        Py_BEGIN_ALLOW_THREADS
        stead_heap_detach(heap);
        Py_END_ALLOW_THREADS
    }
    Py_RETURN_NONE;
}

/* ---- blocks ---- */

static PyObject *heap_allocate(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    Heap *self = (Heap *)object;
    if (__builtin_expect(n == 1 && !names && self->heap && !self->read_only && PyLong_CheckExact(args[0]), 1)) {
        stead_shared_block block;
        uint64_t size = PyLong_AsSize_t(args[0]);
        int got = STEAD_NO_SPACE;
        if (__builtin_expect(size - 1 < (uint64_t)1 << 62 && stead_heap_place(self->heap), 1))
            HEAP_CALL(object, got, stead_heap_take(self->heap, size, 16, 0, &block))
        if (__builtin_expect(!got, 1))
            return PyLong_FromUnsignedLongLong(block.address);
        PyErr_Clear();
    }
    return call_method(object, "_allocate_slowly", args, n, names);
}

static PyObject *heap_free(PyObject *object, PyObject *address)
{
    Heap *self = (Heap *)object;
    int got = STEAD_FOREIGN;
    if (__builtin_expect(self->heap && stead_heap_place(self->heap) && PyLong_CheckExact(address), 1)) {
        uint64_t at = PyLong_AsSize_t(address);
        PyErr_Clear(); /* one that did not fit is -1, which is no address */
        HEAP_CALL(object, got, stead_heap_release(self->heap, at))
        if (__builtin_expect(!got, 1))
            Py_RETURN_NONE;
    }
    return PyObject_CallMethod(object, "_free_refused", "Oi", address, got);
}

static PyObject *heap_take(PyObject *object, PyObject *args)
{
    stead_heap *heap = heap_core(object);
    uint64_t size, alignment;
    int last, got;
    stead_shared_block b;
    if (!heap || !PyArg_ParseTuple(args, "O&O&p:_take", address_arg, &size, address_arg, &alignment, &last))
        return NULL;
    HEAP_CALL(object, got, stead_heap_take(heap, size, alignment, last ? STEAD_LAST : 0, &b))
    if (got)
        return code(got);
    return Py_BuildValue("KKIKK", (unsigned long long)b.address, (unsigned long long)b.usable, (unsigned)b.generation,
                         (unsigned long long)b.zero_from, (unsigned long long)b.zero_to);
}

static PyObject *heap_lease(PyObject *object, PyObject *args)
{
    stead_heap *heap = heap_core(object);
    uint64_t address;
    int generation, got;
    stead_shared_block b;
    if (!heap || !PyArg_ParseTuple(args, "O&i:_lease", address_arg, &address, &generation))
        return NULL;
    HEAP_CALL(object, got, stead_heap_lease(heap, address, generation, &b))
    return block_or_code(got, &b);
}

static PyObject *heap_arrive(PyObject *object, PyObject *args)
{
    stead_heap *heap = heap_core(object);
    uint64_t address;
    int generation, got;
    stead_shared_block b;
    if (!heap || !PyArg_ParseTuple(args, "O&i:_arrive", address_arg, &address, &generation))
        return NULL;
    HEAP_CALL(object, got, stead_heap_arrive(heap, address, generation, &b))
    return block_or_code(got, &b);
}

#define BY_ADDRESS(NAME, CALLED)                                       \
    static PyObject *heap_##NAME(PyObject *object, PyObject *argument) \
    {                                                                  \
        stead_heap *heap = heap_core(object);                          \
        uint64_t address;                                              \
        int got;                                                       \
        if (!heap || address_of(argument, &address))                   \
            return NULL;                                               \
        HEAP_CALL(object, got, CALLED(heap, address))                   \
        return code(got);                                              \
    }

BY_ADDRESS(release, stead_heap_release)
BY_ADDRESS(send_off, stead_heap_send_off)
BY_ADDRESS(held, (int)stead_heap_held)

static PyObject *heap_find(PyObject *object, PyObject *argument)
{
    stead_heap *heap = heap_core(object);
    uint64_t address;
    stead_shared_block b = {0};
    int got;
    if (!heap || address_of(argument, &address))
        return NULL;
    HEAP_CALL(object, got, stead_heap_find(heap, address, &b))
    return Py_BuildValue("iKKI", got, (unsigned long long)b.address, (unsigned long long)b.usable, (unsigned)b.generation);
}

/* ---- who holds what ---- */

static PyObject *places_tuple(const uint64_t places[16], unsigned count)
{
    PyObject *tuple = PyTuple_New(count);
    Py_ssize_t at = 0;
    for (unsigned place = 0; tuple && place < 1024 && at < (Py_ssize_t)count; place++) {
        if (!(places[place / 64] >> place % 64 & 1))
            continue;
        PyObject *number = PyLong_FromUnsignedLong(place);
        if (!number || PyTuple_SetItem(tuple, at++, number))
            Py_CLEAR(tuple);
    }
    return tuple;
}

static PyObject *heap_holders(PyObject *object, PyObject *argument)
{
    stead_heap *heap = heap_core(object);
    uint64_t address, places[16];
    unsigned count;
    if (!heap || address_of(argument, &address))
        return NULL;
    HEAP_CALL(object, count, stead_heap_holders(heap, address, places))
    return places_tuple(places, count);
}

static PyObject *heap_people(PyObject *object, PyObject *none)
{
    (void)none;
    stead_heap *heap = heap_core(object);
    PyObject *list = heap ? PyList_New(0) : NULL;
    for (unsigned place = 1; list && place <= STEAD_PLACES; place++) {
        uint64_t identity = stead_heap_identity(heap, place);
        if (!identity)
            continue;
        PyObject *one = Py_BuildValue("IKK", place, (unsigned long long)(identity & 0xffffff), (unsigned long long)(identity >> 24));
        if (!one || PyList_Append(list, one))
            Py_CLEAR(list);
        Py_XDECREF(one);
    }
    return list;
}

typedef struct {
    stead_shared_block *blocks;
    size_t count, room;
} Found;

static void add_block(void *context, const stead_shared_block *block)
{
    Found *found = context;
    if (found->count < found->room)
        found->blocks[found->count] = *block;
    found->count++;
}

/* The core locks everything while it walks: so what it finds is stored as it is, in as much memory as it takes. */
static int all_blocks(PyObject *object, stead_heap *heap, Found *found)
{
    *found = (Found){0};
    do {
        found->room = found->count + found->count / 4 + 64;
        found->count = 0;
        PyMem_Free(found->blocks);
        found->blocks = PyMem_Malloc(found->room * sizeof *found->blocks);
        if (!found->blocks) {
            PyErr_NoMemory();
            return -1;
        }
        HEAP_VOID_CALL(object, stead_heap_each(heap, add_block, found))
    } while (found->count > found->room);
    return 0;
}

static PyObject *heap_blocks(PyObject *object, PyObject *none)
{
    (void)none;
    stead_heap *heap = heap_core(object);
    Found found;
    if (!heap || all_blocks(object, heap, &found))
        return NULL;
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list && i < found.count; i++) {
        const stead_shared_block *b = &found.blocks[i];
        uint64_t places[16];
        unsigned count = stead_heap_holders(heap, b->address, places);
        PyObject *one = Py_BuildValue("KKINI", (unsigned long long)b->address, (unsigned long long)b->usable,
                                      (unsigned)b->generation, places_tuple(places, count),
                                      stead_heap_references(heap, b->address));
        if (!one || PyList_Append(list, one))
            Py_CLEAR(list);
        Py_XDECREF(one);
    }
    PyMem_Free(found.blocks);
    return list;
}

/* ---- growing, giving back, repairing, looking ---- */

static PyObject *heap_shortfall(PyObject *object, PyObject *args)
{
    stead_heap *heap = heap_core(object);
    uint64_t size, alignment, missing;
    if (!heap || !PyArg_ParseTuple(args, "O&O&:_shortfall", address_arg, &size, address_arg, &alignment))
        return NULL;
    HEAP_CALL(object, missing, stead_heap_shortfall(heap, size, alignment))
    return PyLong_FromUnsignedLongLong(missing);
}

static PyObject *heap_extend(PyObject *object, PyObject *args)
{
    stead_heap *heap = heap_core(object);
    unsigned units;
    int zero;
    if (!heap || !PyArg_ParseTuple(args, "Ip:_extend", &units, &zero))
        return NULL;
    HEAP_VOID_CALL(object, stead_heap_extend(heap, units, zero))
    Py_RETURN_NONE;
}

#define PLAIN_CALL(NAME, CALLED)                                   \
    static PyObject *heap_##NAME(PyObject *object, PyObject *none) \
    {                                                              \
        (void)none;                                                \
        stead_heap *heap = heap_core(object);                      \
        int got;                                                   \
        if (!heap)                                                 \
            return NULL;                                           \
        HEAP_CALL(object, got, (int)(CALLED(heap)))                 \
        return code(got);                                          \
    }
#define VOID_CALL(NAME, CALLED)                                    \
    static PyObject *heap_##NAME(PyObject *object, PyObject *none) \
    {                                                              \
        (void)none;                                                \
        stead_heap *heap = heap_core(object);                      \
        if (!heap)                                                 \
            return NULL;                                           \
        HEAP_VOID_CALL(object, CALLED(heap))                       \
        Py_RETURN_NONE;                                            \
    }

PLAIN_CALL(begin_growth, stead_heap_begin_growth)
VOID_CALL(end_growth, stead_heap_end_growth)
PLAIN_CALL(reap, stead_heap_reap)
VOID_CALL(reclaim, stead_heap_reclaim)
VOID_CALL(rebuild, stead_heap_rebuild)
PLAIN_CALL(collect_objects, stead_objects_collect)
PLAIN_CALL(before_fork, stead_heap_before_fork)
VOID_CALL(after_fork_in_parent, stead_heap_after_fork_in_parent)

static PyObject *heap_after_fork_in_child(PyObject *object, PyObject *none)
{
    (void)none;
    Heap *self = (Heap *)object; /* its place is still its parent's */
    self->inside = 0;            /* as other threads were */
    return code(self->heap ? stead_heap_after_fork_in_child(self->heap) : STEAD_DISOWNED);
}

static PyObject *heap_expire(PyObject *object, PyObject *all)
{
    stead_heap *heap = heap_core(object);
    int everything = PyObject_IsTrue(all), got;
    if (!heap || everything < 0)
        return NULL;
    HEAP_CALL(object, got, (int)stead_heap_expire(heap, everything))
    return code(got);
}

static PyObject *heap_checkout(PyObject *object, PyObject *least)
{
    stead_heap *heap = heap_core(object);
    uint64_t bytes;
    stead_run run;
    int got;
    if (!heap || address_of(least, &bytes))
        return NULL;
    HEAP_CALL(object, got, stead_heap_checkout(heap, bytes, &run))
    if (!got)
        Py_RETURN_NONE;
    return Py_BuildValue("IIKK", run.head, run.units, (unsigned long long)run.from, (unsigned long long)run.to);
}

static PyObject *heap_checkin(PyObject *object, PyObject *args)
{
    stead_heap *heap = heap_core(object);
    stead_run run = {0};
    int zero;
    if (!heap || !PyArg_ParseTuple(args, "IIp:_checkin", &run.head, &run.units, &zero))
        return NULL;
    HEAP_VOID_CALL(object, stead_heap_checkin(heap, &run, zero))
    Py_RETURN_NONE;
}

static PyObject *heap_statistics(PyObject *object, PyObject *none)
{
    (void)none;
    stead_heap *heap = heap_core(object);
    stead_statistics s;
    if (!heap)
        return NULL;
    HEAP_VOID_CALL(object, stead_heap_statistics(heap, &s))
    return statistics_tuple(&s);
}

static PyObject *heap_check(PyObject *object, PyObject *none)
{
    (void)none;
    stead_heap *heap = heap_core(object);
    uint32_t unit = 0;
    const char *wrong;
    if (!heap)
        return NULL;
    HEAP_CALL(object, wrong, stead_heap_check(heap, &unit))
    return wrong ? Py_BuildValue("sI", wrong, unit) : Py_NewRef(Py_None);
}

enum { PLACE, UNITS, MAX_UNITS, BASE, DIRTY };

static PyObject *heap_number(PyObject *object, void *which)
{
    const stead_heap *h = ((Heap *)object)->heap;
    uint64_t number = 0;
    if (h)
        switch ((intptr_t)which) {
        case PLACE: number = stead_heap_place(h); break;
        case UNITS: number = stead_heap_units(h); break;
        case MAX_UNITS: number = stead_heap_max_units(h); break;
        case BASE: number = stead_heap_base(h); break;
        case DIRTY: number = stead_heap_dirty(h); break;
        }
    return PyLong_FromUnsignedLongLong(number);
}

/* ---- the type ---- */

static PyObject *heap_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)args, (void)kwargs;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Heap *self = (Heap *)allocate(type, 0);
    for (size_t i = 0; self && i < sizeof self->members / sizeof *self->members; i++)
        self->members[i] = Py_NewRef(Py_None);
    return (PyObject *)self;
}

/* Detached before by Python, since the tables are in what it owns; if not, whoever reaps does it. */
static void heap_dealloc(PyObject *object)
{
    Heap *self = (Heap *)object;
    PyTypeObject *type = Py_TYPE(object);
    if (self->weakrefs)
        PyObject_ClearWeakRefs(object);
    for (size_t i = 0; i < sizeof self->members / sizeof *self->members; i++)
        Py_XDECREF(self->members[i]);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

#define HEAP_OBJECT_METHOD(NAME, SIGNATURE) {"_" #NAME, CALL(heap_##NAME), METH_FASTCALL, "_" #NAME SIGNATURE},

static PyMethodDef heap_methods[] = {
    {"allocate", CALL(heap_allocate), METH_FASTCALL | METH_KEYWORDS,
     "allocate($self, size, alignment=16)\n--\n\n"
     "The address of ``size`` bytes, the same in every process, which this process holds once: until ``free``.\n\n"
     "``size``: bytes, or text such as \"64 KiB\"; ``alignment``: a power of two up to the heap's size. The contents are\n"
     "undefined.\n\n"
     "Raises OutOfSpace, which says the largest free run; LimitReached where the system has no memory; Unsupported\n"
     "where this attachment is read-only; ValueError, TypeError, Released."},
    {"free", heap_free, METH_O,
     "free($self, address)\n--\n\n"
     "Hold the block at ``address`` once less; it is free when no process holds it, and nothing in the heap refers to it.\n\n"
     "Raises NotLive, which says who does hold it, where this process does not; nothing has changed then."},
    {"_sizes", heap_sizes, METH_O | METH_STATIC, "_sizes(max_units): bytes of control memory, and of private memory"},
    {"_format", heap_format, METH_VARARGS | METH_STATIC, "_format(control, base, max_units, patience, id)"},
    {"_id", heap_id, METH_O | METH_STATIC, "_id(control): 16 bytes"},
    {"_attach", heap_attach, METH_VARARGS, "_attach(control, private): a code"},
    {"_detach", heap_detach, METH_NOARGS, "_detach()"},
    {"_take", heap_take, METH_VARARGS, "_take(size, alignment, last): (address, usable, generation, zero_from, zero_to), or a code"},
    {"_lease", heap_lease, METH_VARARGS, "_lease(address, generation): (address, usable, generation), or a code"},
    {"_arrive", heap_arrive, METH_VARARGS, "_arrive(address, generation): (address, usable, generation), or a code"},
    {"_release", heap_release, METH_O, "_release(address): a code"},
    {"_send_off", heap_send_off, METH_O, "_send_off(address): a code"},
    {"_find", heap_find, METH_O, "_find(address): (code, start, usable, generation)"},
    {"_held", heap_held, METH_O, "_held(address): how often"},
    {"_holders", heap_holders, METH_O, "_holders(address): places"},
    {"_people", heap_people, METH_NOARGS, "_people(): [(place, pid, start)]"},
    {"_blocks", heap_blocks, METH_NOARGS, "_blocks(): [(address, usable, generation, places, references)]"},
    {"_shortfall", heap_shortfall, METH_VARARGS, "_shortfall(size, alignment): units"},
    {"_begin_growth", heap_begin_growth, METH_NOARGS, "_begin_growth(): a code"},
    {"_end_growth", heap_end_growth, METH_NOARGS, "_end_growth()"},
    {"_extend", heap_extend, METH_VARARGS, "_extend(units, zero)"},
    {"_checkout", heap_checkout, METH_O, "_checkout(least): (head, units, from, to), or None"},
    {"_checkin", heap_checkin, METH_VARARGS, "_checkin(head, units, zero)"},
    {"_reap", heap_reap, METH_NOARGS, "_reap(): how many were dead"},
    {"_reclaim", heap_reclaim, METH_NOARGS, "_reclaim()"},
    {"_rebuild", heap_rebuild, METH_NOARGS, "_rebuild()"},
    {"_expire", heap_expire, METH_O, "_expire(all): how many"},
    {"_collect_objects", heap_collect_objects, METH_NOARGS, "_collect_objects(): how many"},
    {"_before_fork", heap_before_fork, METH_NOARGS, "_before_fork(): a code"},
    {"_after_fork_in_parent", heap_after_fork_in_parent, METH_NOARGS, "_after_fork_in_parent()"},
    {"_after_fork_in_child", heap_after_fork_in_child, METH_NOARGS, "_after_fork_in_child(): a code"},
    HEAP_OBJECT_CALLS(HEAP_OBJECT_METHOD)
    {"_statistics", heap_statistics, METH_NOARGS, "_statistics(): numbers as in stead_statistics"},
    {"_check", heap_check, METH_NOARGS, "_check(): None, or (what is wrong, unit)"},
    {NULL, NULL, 0, NULL},
};

#define MEMBER(I, NAME) {NAME, T_OBJECT_EX, offsetof(Heap, members) + (I) * sizeof(PyObject *), 0, NULL}

static PyMemberDef heap_members[] = {
    MEMBER(0, "name"), MEMBER(1, "_files"), MEMBER(2, "_tables"), MEMBER(3, "_policy"), MEMBER(4, "_closed"),
    MEMBER(5, "_handle"), MEMBER(6, "_extra"),
    {"_read_only", T_INT, offsetof(Heap, read_only), 0, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Heap, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef heap_getset[] = {
    {"_place", heap_number, NULL, NULL, (void *)PLACE},
    {"_units", heap_number, NULL, NULL, (void *)UNITS},
    {"_max_units", heap_number, NULL, NULL, (void *)MAX_UNITS},
    {"_base", heap_number, NULL, NULL, (void *)BASE},
    {"_dirty", heap_number, NULL, NULL, (void *)DIRTY},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot heap_slots[] = {
    {Py_tp_doc, "The core of a heap that processes share."},
    {Py_tp_new, heap_new},
    {Py_tp_dealloc, heap_dealloc},
    {Py_tp_methods, heap_methods},
    {Py_tp_members, heap_members},
    {Py_tp_getset, heap_getset},
    {0, NULL},
};

PyType_Spec stead_heap_spec = {
    .name = "stead._native.Heap",
    .basicsize = sizeof(Heap),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = heap_slots,
};
