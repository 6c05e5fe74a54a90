/* block_type.c - a block as a Python object: it holds its node, so that giving it back needs no look-up. */
#include "arena_type.h"

#include <stddef.h>
#include <structmember.h>

typedef struct {
    PyObject_HEAD
    PyObject *arena;  /* NULL: given back */
    uint64_t address, node;
    Py_ssize_t size;
    Py_ssize_t views; /* buffers that are held */
    int pinned;       /* its address was given to somebody who holds no buffer */
    PyObject *streams; /* of a device: what these have to do comes before it is given back; NULL: nothing */
    PyObject *weakrefs;
} Block;

/* One place for the memory of a Block: who puts something in takes what is there. */
static void *swap(PyObject *arena, void *memory)
{
    void **place = &((Arena *)arena)->block_memory;
#ifdef Py_GIL_DISABLED
    return __atomic_exchange_n(place, memory, __ATOMIC_ACQ_REL);
#else
    void *there = *place;
    *place = memory;
    return there;
#endif
}

static Block *block_make(PyObject *arena, uint64_t address, uint64_t node, uint64_t size)
{
    PyTypeObject *type = (PyTypeObject *)((Arena *)arena)->block_type;
    void *memory = swap(arena, NULL);
    Block *self = memory ? (Block *)PyObject_Init(memory, type) : PyObject_New(Block, type);
    if (self) {
        self->arena = Py_NewRef(arena);
        self->address = address;
        self->node = node;
        self->size = (Py_ssize_t)size;
        self->views = 0;
        self->pinned = 0;
        self->streams = NULL;
        self->weakrefs = NULL;
    }
    return self;
}

/* A hardened or guarded arena finds its blocks by address, and one of mere addresses refuses. */
static PyObject *carefully(PyObject *object, uint64_t size, uint64_t alignment)
{
    PyObject *address = PyObject_CallMethod(object, "_block", "KK", (unsigned long long)size, (unsigned long long)alignment);
    PyObject *made = NULL;
    if (address) {
        uint64_t at = PyLong_AsSize_t(address);
        made = (PyObject *)block_make(object, at, 0, size);
        if (!made)
            arena_call_quietly(object, "_free_block", at);
    }
    Py_XDECREF(address);
    return made;
}

PyObject *arena_block(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    Arena *arena = (Arena *)object;
    uint64_t size, alignment;
    stead_block found;
    if (__builtin_expect(arena_request(object, args, n, names, &size, &alignment), 0))
        return NULL;
    if (__builtin_expect(arena->careful | (arena->untouchable == 1), 0))
        return carefully(object, size, alignment);
    int got = arena_obtain(arena, size, alignment, ARENA_HAS_GIL | STEAD_HOLD, &found);
    if (__builtin_expect(got, 0))
        return arena_refused(object, got, size, alignment);
    if (arena->zero)
        arena_clear(arena, &found, found.usable);
    Block *self = block_make(object, found.address, found.node, size);
    if (!self)
        (void)stead_arena_give(arena->arena, found.node);
    return (PyObject *)self;
}

static void free_after(Block *self, PyObject *arena)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyObject *done = PyObject_CallMethod(arena, "_free_block_after", "KO", (unsigned long long)self->address, self->streams);
    if (!done)
        PyErr_WriteUnraisable(arena);
    Py_XDECREF(done);
    Py_CLEAR(self->streams);
    PyErr_Restore(type, value, trace);
}

/* From here on the addresses may be anyone's. The reference to the arena is the caller's. */
static PyObject *give(Block *self)
{
    PyObject *object = self->arena;
    Arena *arena = (Arena *)object;
    self->arena = NULL;
    if (__builtin_expect(self->streams != NULL, 0))
        free_after(self, object);
    else if (__builtin_expect(arena->careful, 0))
        arena_call_quietly(object, "_free_block", self->address);
    else
        (void)stead_arena_give(arena->arena, self->node);
    if (arena_wants_trim(arena))
        arena_call_quietly(object, "_trim", 0);
    return object;
}

static void block_dealloc(PyObject *object)
{
    Block *self = (Block *)object;
    PyTypeObject *type = Py_TYPE(object);
    if (self->weakrefs)
        PyObject_ClearWeakRefs(object);
    PyObject *arena = self->arena ? give(self) : NULL;
    void *memory = object;
    if (arena)
        memory = swap(arena, memory);
    if (memory)
        PyObject_Free(memory);
    Py_XDECREF(arena);
    Py_DECREF(type);
}

static int given_back(const Block *self)
{
    if (self->arena)
        return 0;
    PyErr_Format(PyExc_ValueError, "the block at %p was given back", (void *)(uintptr_t)self->address);
    return 1;
}

static PyObject *block_free(PyObject *object, PyObject *none)
{
    (void)none;
    Block *self = (Block *)object;
    if (self->arena && (self->views || self->pinned)) {
        if (self->views)
            PyErr_Format(PyExc_BufferError, "cannot free the block at %p: %zd live view%s of it; delete or release the "
                         "memoryviews, and the arrays made from them", (void *)(uintptr_t)self->address, self->views,
                         self->views > 1 ? "s" : "");
        else
            PyErr_Format(PyExc_BufferError, "cannot free the block at %p: its __array_interface__ was given away; it is "
                         "given back when the last reference to it goes", (void *)(uintptr_t)self->address);
        return NULL;
    }
    if (self->arena)
        Py_DECREF(give(self));
    Py_RETURN_NONE;
}

static PyObject *block_enter(PyObject *object, PyObject *none)
{
    (void)none;
    return given_back((Block *)object) ? NULL : Py_NewRef(object);
}

/* Where an error is on its way, its traceback keeps the views of its frames alive: it is not hidden behind them. */
static PyObject *block_exit(PyObject *object, PyObject *args)
{
    PyObject *kind = PyTuple_Size(args) ? PyTuple_GetItem(args, 0) : Py_None;
    PyObject *done = block_free(object, NULL);
    if (!done && kind != Py_None && PyErr_ExceptionMatches(PyExc_BufferError)) {
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    return done;
}

static int block_getbuffer(PyObject *object, Py_buffer *view, int flags)
{
    Block *self = (Block *)object;
    if (given_back(self)) {
        view->obj = NULL;
        return -1;
    }
    if (PyBuffer_FillInfo(view, object, (void *)(uintptr_t)self->address, self->size, 0, flags))
        return -1;
    self->views++;
    return 0;
}

static void block_releasebuffer(PyObject *object, Py_buffer *view)
{
    (void)view;
    ((Block *)object)->views--;
}

static Py_ssize_t block_length(PyObject *object)
{
    return ((Block *)object)->size;
}

static PyObject *block_repr(PyObject *object)
{
    Block *self = (Block *)object;
    return PyUnicode_FromFormat("<Block of %zd bytes at %p%s>", self->size, (void *)(uintptr_t)self->address,
                                self->arena ? "" : ", given back");
}

static PyObject *block_address(PyObject *object, void *none)
{
    (void)none;
    return PyLong_FromUnsignedLongLong(((Block *)object)->address);
}

static PyObject *block_size(PyObject *object, void *none)
{
    (void)none;
    return PyLong_FromSsize_t(((Block *)object)->size);
}

static PyObject *block_freed(PyObject *object, void *none)
{
    (void)none;
    return PyBool_FromLong(!((Block *)object)->arena);
}

static PyObject *block_arena_of(PyObject *object, void *none)
{
    (void)none;
    PyObject *arena = ((Block *)object)->arena;
    return Py_NewRef(arena ? arena : Py_None);
}

/* https://numpy.org/doc/stable/reference/arrays.interface.html, version 3. Who takes it holds no buffer, only us. */
static PyObject *block_array_interface(PyObject *object, void *none)
{
    (void)none;
    Block *self = (Block *)object;
    if (given_back(self))
        return NULL;
    self->pinned = 1;
    return Py_BuildValue("{s(n)sss(KO)si}", "shape", self->size, "typestr", "|u1", "data",
                         (unsigned long long)self->address, Py_False, "version", 3);
}

static PyMethodDef block_methods[] = {
    {"free", block_free, METH_NOARGS,
     "free($self)\n--\n\nGive the block back now. Idempotent. Raises BufferError where a view of it is live."},
    {"__enter__", block_enter, METH_NOARGS, NULL},
    {"__exit__", block_exit, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef block_getset[] = {
    {"address", block_address, NULL, "The first address.", NULL},
    {"size", block_size, NULL, "Bytes, as asked for.", NULL},
    {"freed", block_freed, NULL, "Whether it was given back.", NULL},
    {"arena", block_arena_of, NULL, "The arena that it is of; None once it was given back.", NULL},
    {"__array_interface__", block_array_interface, NULL, "The bytes for NumPy and others who take an address.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef block_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Block, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot block_slots[] = {
    {Py_tp_doc, "A block of an arena: a writable buffer that gives itself back when it and every view of it are gone, or at the\n"
                "end of a ``with`` block. Made by :meth:`stead.Arena.block`; keeps its arena alive."},
    {Py_tp_dealloc, block_dealloc},
    {Py_tp_repr, block_repr},
    {Py_sq_length, block_length},
    {Py_tp_methods, block_methods},
    {Py_tp_getset, block_getset},
    {Py_tp_members, block_members},
    {Py_bf_getbuffer, block_getbuffer},
    {Py_bf_releasebuffer, block_releasebuffer},
    {0, NULL},
};

PyType_Spec stead_block_spec = {
    .name = "stead.Block",
    .basicsize = sizeof(Block),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = block_slots,
};

/* ---- of a device's memory: no buffer, but what others on the device take ---- */

static PyObject *device_block_repr(PyObject *object)
{
    Block *self = (Block *)object;
    return PyUnicode_FromFormat("<DeviceBlock of %zd bytes at %p%s>", self->size, (void *)(uintptr_t)self->address,
                                self->arena ? "" : ", given back");
}

/* https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html, version 3: no stream is waited for. */
static PyObject *device_block_interface(PyObject *object, void *none)
{
    (void)none;
    Block *self = (Block *)object;
    if (given_back(self))
        return NULL;
    self->pinned = 1;
    return Py_BuildValue("{s(n)sss(KO)sisOsO}", "shape", self->size, "typestr", "|u1", "data",
                         (unsigned long long)self->address, Py_False, "version", 3, "strides", Py_None, "stream", Py_None);
}

static PyObject *device_block_dlpack_device(PyObject *object, PyObject *none)
{
    (void)none;
    Arena *arena = (Arena *)((Block *)object)->arena;
    return given_back((Block *)object) ? NULL : Py_BuildValue("ii", arena->device_kind, arena->device);
}

/* The stream that the taker names is its own business: nothing of ours is under way in the memory. */
static PyObject *device_block_dlpack(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    (void)args, (void)n, (void)names;
    Block *self = (Block *)object;
    if (given_back(self))
        return NULL;
    Arena *arena = (Arena *)self->arena;
    PyObject *made = dlpack_capsule(self->address, self->size, arena->device_kind, arena->device, object);
    if (made)
        self->pinned = 1;
    return made;
}

static PyObject *device_block_record_stream(PyObject *object, PyObject *stream)
{
    Block *self = (Block *)object;
    if (given_back(self))
        return NULL;
    if (!PyLong_Check(stream)) {
        PyErr_Format(PyExc_TypeError, "stream is %R, must be an int: the driver's handle, 0 for the default stream", stream);
        return NULL;
    }
    if (!self->streams && !(self->streams = PySet_New(NULL)))
        return NULL;
    if (PySet_Add(self->streams, stream))
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef device_block_methods[] = {
    {"free", block_free, METH_NOARGS,
     "free($self)\n--\n\nGive the block back now, behind what its streams have to do. Idempotent. Raises BufferError where it\n"
     "was given away; it is given back when the last reference to it goes."},
    {"record_stream", device_block_record_stream, METH_O,
     "record_stream($self, stream)\n--\n\nIt is used on ``stream`` (an int, the driver's handle), too: its addresses are nobody\n"
     "else's before what that stream has to do when it is given back is done."},
    {"__dlpack__", CALL(device_block_dlpack), METH_FASTCALL | METH_KEYWORDS, NULL},
    {"__dlpack_device__", device_block_dlpack_device, METH_NOARGS, NULL},
    {"__enter__", block_enter, METH_NOARGS, NULL},
    {"__exit__", block_exit, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef device_block_getset[] = {
    {"address", block_address, NULL, "The first address.", NULL},
    {"size", block_size, NULL, "Bytes, as asked for.", NULL},
    {"freed", block_freed, NULL, "Whether it was given back.", NULL},
    {"arena", block_arena_of, NULL, "The arena that it is of; None once it was given back.", NULL},
    {"__cuda_array_interface__", device_block_interface, NULL, "The bytes for CuPy, Numba, PyTorch and others.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot device_block_slots[] = {
    {Py_tp_doc, "A block of an arena in a device's memory: it cannot be touched from here, and gives itself back when it and\n"
                "every array made of it are gone, or at the end of a ``with`` block. Made by :meth:`stead.Arena.block`."},
    {Py_tp_dealloc, block_dealloc},
    {Py_tp_repr, device_block_repr},
    {Py_sq_length, block_length},
    {Py_tp_methods, device_block_methods},
    {Py_tp_getset, device_block_getset},
    {Py_tp_members, block_members},
    {0, NULL},
};

PyType_Spec stead_device_block_spec = {
    .name = "stead.DeviceBlock",
    .basicsize = sizeof(Block),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = device_block_slots,
};
