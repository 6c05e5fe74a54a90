/* arena_type.c - an arena as a Python object: the fast way in C, and the way to Python where something has to be
 * decided: arguments that are no plain numbers, growth, trimming, refusals.
 */
#include "arena_type.h"
#include "behind.h"

#include <stddef.h>
#include <string.h>
#include <structmember.h>
#include <sys/mman.h>

/* From here on pages are dropped instead of cleared, like glibc's largest threshold for calloc by mmap: who touches
 * all of them pays about the same, and who does not pays nothing. */
#define DROP_FROM (UINT64_C(32) << 20)

/* ---- arguments ---- */

static int plain_request(PyObject *const *args, Py_ssize_t n, PyObject *names, uint64_t *size, uint64_t *alignment)
{
    Py_ssize_t named = names ? PyTuple_Size(names) : 0;
    if (n < 1 || n + named > 2 || !PyLong_CheckExact(args[0]))
        return 0;
    *size = PyLong_AsSize_t(args[0]);
    *alignment = 16;
    if (n + named == 2) {
        if (named && PyUnicode_CompareWithASCIIString(PyTuple_GetItem(names, 0), "alignment"))
            return 0;
        if (!PyLong_CheckExact(args[1]))
            return 0;
        *alignment = PyLong_AsSize_t(args[1]);
    }
    if (__builtin_expect(*size - 1 < (uint64_t)1 << 62 && *alignment && !(*alignment & (*alignment - 1)), 1))
        return 1;
    PyErr_Clear(); /* one that did not fit is -1 */
    return 0;
}

PyObject *call_method(PyObject *self, const char *name, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    Py_ssize_t named = names ? PyTuple_Size(names) : 0;
    PyObject *result = NULL, *call = PyObject_GetAttrString(self, name);
    PyObject *positional = PyTuple_New(n), *keywords = named ? PyDict_New() : NULL;
    if (!call || !positional || (named && !keywords))
        goto done;
    for (Py_ssize_t i = 0; i < n; i++)
        PyTuple_SetItem(positional, i, Py_NewRef(args[i]));
    for (Py_ssize_t i = 0; i < named; i++)
        if (PyDict_SetItem(keywords, PyTuple_GetItem(names, i), args[n + i]))
            goto done;
    result = PyObject_Call(call, positional, keywords);
done:
    Py_XDECREF(call);
    Py_XDECREF(positional);
    Py_XDECREF(keywords);
    return result;
}

/* Text, other integers, and all that is wrong: Python knows what to say. */
int arena_request_slowly(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names, uint64_t *size,
                         uint64_t *alignment)
{
    if (__builtin_expect(plain_request(args, n, names, size, alignment), 1))
        return 0;
    PyObject *numbers = call_method(self, "_request", args, n, names);
    int failed = !numbers || !PyArg_ParseTuple(numbers, "O&O&", address_arg, size, address_arg, alignment);
    Py_XDECREF(numbers);
    return failed ? -1 : 0;
}

void arena_call_quietly(PyObject *self, const char *name, uint64_t number)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyObject *result = PyObject_CallMethod(self, name, "K", (unsigned long long)number);
    if (!result)
        PyErr_WriteUnraisable(self);
    Py_XDECREF(result);
    PyErr_Restore(type, value, trace);
}

/* ---- blocks in and out ---- */

void arena_clear(const Arena *self, const stead_block *block, uint64_t size)
{
    char *start = (char *)(uintptr_t)block->address;
    uint64_t from = block->zero_from < size ? block->zero_from : size, to = block->zero_to < size ? block->zero_to : size;
    if (size - (to - from) >= DROP_FROM && self->discardable) {
        uint64_t first = (block->address + STEAD_UNIT - 1) & ~(uint64_t)(STEAD_UNIT - 1);
        uint64_t last = (block->address + size) & ~(uint64_t)(STEAD_UNIT - 1);
        if (!madvise((void *)(uintptr_t)first, last - first, MADV_DONTNEED)) {
            from = first - block->address;
            to = last - block->address;
        }
    }
    memset(start, 0, from);
    memset(start + to, 0, size - to);
}

/* 1: something was added, or could have been by another thread; 0: nothing will be; -1: an exception says why. */
static int grow(Arena *self, uint64_t size, uint64_t alignment)
{
    PyObject *more =
        PyObject_CallMethod((PyObject *)self, "_grow", "KK", (unsigned long long)size, (unsigned long long)alignment);
    int grown = more ? PyObject_IsTrue(more) : -1;
    Py_XDECREF(more);
    return grown;
}

/* With the GIL. That there is no memory stands only if there is no other way. */
static int obtain_slowly(Arena *self, uint64_t size, uint64_t alignment, int flags, stead_block *block)
{
    int grown;
    while ((grown = grow(self, size, alignment)) > 0) {
        int got = self->arena ? stead_arena_take(self->arena, size, alignment, flags, block) : STEAD_FOREIGN;
        if (got != STEAD_NO_SPACE)
            return got;
    }
    if (grown < 0 && !PyErr_ExceptionMatches(PyExc_MemoryError))
        return ARENA_RAISED;
    int got = self->arena ? stead_arena_take(self->arena, size, alignment, flags | STEAD_LAST, block) : STEAD_FOREIGN;
    if (grown < 0 && got == STEAD_NO_SPACE)
        return ARENA_RAISED;
    PyErr_Clear();
    return got;
}

/* For callers who cannot raise. A Ctrl-C is not lost: it comes again. */
static void drop_exception(void)
{
    if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_KeyboardInterrupt))
        PyErr_SetInterrupt();
    PyErr_Clear();
}

int arena_obtain(Arena *self, uint64_t size, uint64_t alignment, int flags, stead_block *block)
{
    if (__builtin_expect(!self->arena, 0))
        return STEAD_FOREIGN;
    int got = stead_arena_take(self->arena, size, alignment, flags & STEAD_HOLD, block);
    if (__builtin_expect(got != STEAD_NO_SPACE, 1))
        return got;
    if (flags & ARENA_HAS_GIL)
        return obtain_slowly(self, size, alignment, flags & STEAD_HOLD, block);
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    got = obtain_slowly(self, size, alignment, flags & STEAD_HOLD, block);
    drop_exception();
    PyErr_Restore(type, value, trace);
    PyGILState_Release(state);
    return got == ARENA_RAISED ? STEAD_NO_SPACE : got;
}

void arena_unkeep(Arena *self)
{
    for (unsigned c = 0; c < KEPT_CLASSES; c++)
        while (self->kept[c].count)
            (void)stead_arena_free_held(self->arena, self->kept[c].addresses[--self->kept[c].count]);
}

int arena_stretch(Arena *self, uint64_t address, uint64_t size, int flags, uint64_t *usable)
{
    uint64_t missing;
    int (*resize)(stead_arena *, uint64_t, uint64_t, uint64_t *, uint64_t *) =
        flags & STEAD_HOLD ? stead_arena_resize_held : stead_arena_resize;
    int got = resize(self->arena, address, size, usable, &missing);
    if (got != STEAD_NO_SPACE || !missing)
        return got;
    PyGILState_STATE state = PyGILState_UNLOCKED;
    if (!(flags & ARENA_HAS_GIL))
        state = PyGILState_Ensure();
    PyObject *more = PyObject_CallMethod((PyObject *)self, "_lengthen", "K", (unsigned long long)missing);
    drop_exception(); /* no memory for it: it does not fit where it is */
    Py_XDECREF(more);
    if (!(flags & ARENA_HAS_GIL))
        PyGILState_Release(state);
    return resize(self->arena, address, size, usable, &missing);
}

/* ---- allocate and free ---- */

PyObject *arena_refused(PyObject *self, int code, uint64_t size, uint64_t alignment)
{
    if (code != ARENA_RAISED) /* it raises */
        Py_XDECREF(PyObject_CallMethod(self, "_refuse", "iKK", code, (unsigned long long)size, (unsigned long long)alignment));
    return NULL;
}

static PyObject *arena_allocate(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    Arena *self = (Arena *)object;
    uint64_t size, alignment;
    stead_block block;
    if (__builtin_expect(arena_request(object, args, n, names, &size, &alignment), 0))
        return NULL;
    if (__builtin_expect(self->careful, 0))
        return PyObject_CallMethod(object, "_allocate", "KK", (unsigned long long)size, (unsigned long long)alignment);
    int got = arena_obtain(self, size, alignment, ARENA_HAS_GIL, &block);
    if (__builtin_expect(got, 0))
        return arena_refused(object, got, size, alignment);
    if (self->zero)
        arena_clear(self, &block, block.usable);
    return PyLong_FromUnsignedLongLong(block.address);
}

static PyObject *arena_free(PyObject *object, PyObject *address)
{
    Arena *self = (Arena *)object;
    if (__builtin_expect(!self->careful && self->arena && PyLong_CheckExact(address), 1)) {
        if (__builtin_expect(stead_arena_free(self->arena, PyLong_AsSize_t(address)) == STEAD_DONE, 1)) {
            if (arena_wants_trim(self))
                arena_call_quietly(object, "_trim", 0);
            Py_RETURN_NONE;
        }
        PyErr_Clear(); /* one that did not fit is -1, which is no address */
    }
    return PyObject_CallMethod(object, "_free", "O", address);
}

/* ---- for arena/: the core, call by call ---- */

static int alive(Arena *self)
{
    if (self->arena) {
        arena_unkeep(self);
        return 1;
    }
    PyErr_SetString(PyExc_RuntimeError, "the arena has no core");
    return 0;
}

static PyObject *arena_make(PyObject *object, PyObject *args)
{
    Arena *self = (Arena *)object;
    uint64_t memory, base, guard;
    unsigned units;
    int private_memory;
    PyObject *block_type;
    if (!PyArg_ParseTuple(args, "O&O&IO&pO:_make", address_arg, &memory, address_arg, &base, &units, address_arg, &guard,
                          &private_memory, &block_type))
        return NULL;
    self->block_type = Py_NewRef(block_type);
    self->arena = stead_arena_make((void *)(uintptr_t)memory, base, units, guard);
    stead_arena_enlist(self->arena, private_memory);
    self->keeps = private_memory;
    Py_RETURN_NONE;
}

static PyObject *arena_end(PyObject *object, PyObject *none)
{
    (void)none;
    Arena *self = (Arena *)object;
    if (alive(self))
        stead_arena_delist(self->arena);
    PyErr_Clear();
    self->arena = NULL;
    behind_end(self);
    Py_RETURN_NONE;
}

static PyObject *arena_extend(PyObject *object, PyObject *args)
{
    unsigned units;
    int zero;
    if (!alive((Arena *)object) || !PyArg_ParseTuple(args, "Ip:_extend", &units, &zero))
        return NULL;
    stead_arena_extend(((Arena *)object)->arena, units, zero);
    Py_RETURN_NONE;
}

static PyObject *arena_take(PyObject *object, PyObject *args)
{
    uint64_t size, alignment;
    stead_block block;
    if (!PyArg_ParseTuple(args, "O&O&:_take", address_arg, &size, address_arg, &alignment))
        return NULL;
    int got = arena_obtain((Arena *)object, size, alignment, ARENA_HAS_GIL, &block);
    if (got)
        return arena_refused(object, got, size, alignment);
    if (((Arena *)object)->zero)
        arena_clear((Arena *)object, &block, block.usable);
    return Py_BuildValue("KK", (unsigned long long)block.address, (unsigned long long)block.usable);
}

static PyObject *arena_give(PyObject *object, PyObject *address)
{
    uint64_t at;
    if (!alive((Arena *)object) || !address_arg(address, &at))
        return NULL;
    return PyLong_FromLong(stead_arena_free(((Arena *)object)->arena, at));
}

static PyObject *arena_hold(PyObject *object, PyObject *address)
{
    uint64_t at;
    if (!alive((Arena *)object) || !address_arg(address, &at))
        return NULL;
    return PyLong_FromLong(stead_arena_hold(((Arena *)object)->arena, at));
}

static PyObject *arena_give_held(PyObject *object, PyObject *address)
{
    uint64_t at;
    if (!alive((Arena *)object) || !address_arg(address, &at))
        return NULL;
    return PyLong_FromLong(stead_arena_free_held(((Arena *)object)->arena, at));
}

static PyObject *arena_find(PyObject *object, PyObject *address)
{
    uint64_t at;
    stead_block block = {0};
    if (!alive((Arena *)object) || !address_arg(address, &at))
        return NULL;
    int got = stead_arena_find(((Arena *)object)->arena, at, &block);
    return Py_BuildValue("iKK", got, (unsigned long long)block.address, (unsigned long long)block.usable);
}

static PyObject *arena_resize(PyObject *object, PyObject *args)
{
    uint64_t address, size, usable = 0;
    if (!alive((Arena *)object) || !PyArg_ParseTuple(args, "O&O&:_resize", address_arg, &address, address_arg, &size))
        return NULL;
    stead_block before = {0};
    (void)stead_arena_find(((Arena *)object)->arena, address, &before);
    int got = arena_stretch((Arena *)object, address, size, ARENA_HAS_GIL, &usable);
    if (got == STEAD_DONE && ((Arena *)object)->zero && usable > before.usable)
        memset((char *)(uintptr_t)address + before.usable, 0, usable - before.usable);
    return Py_BuildValue("iK", got, (unsigned long long)usable);
}

static PyObject *arena_shortfall(PyObject *object, PyObject *args)
{
    uint64_t size, alignment;
    if (!alive((Arena *)object) || !PyArg_ParseTuple(args, "O&O&:_shortfall", address_arg, &size, address_arg, &alignment))
        return NULL;
    return PyLong_FromUnsignedLongLong(stead_arena_shortfall(((Arena *)object)->arena, size, alignment));
}

static PyObject *arena_purge(PyObject *object, PyObject *none)
{
    (void)none;
    if (!alive((Arena *)object))
        return NULL;
    stead_arena_purge(((Arena *)object)->arena);
    Py_RETURN_NONE;
}

static PyObject *arena_checkout(PyObject *object, PyObject *least)
{
    uint64_t bytes;
    stead_run run;
    if (!alive((Arena *)object) || !address_arg(least, &bytes))
        return NULL;
    if (!stead_arena_checkout(((Arena *)object)->arena, bytes, &run))
        Py_RETURN_NONE;
    return Py_BuildValue("IIKK", run.head, run.units, (unsigned long long)run.from, (unsigned long long)run.to);
}

static PyObject *arena_checkin(PyObject *object, PyObject *args)
{
    stead_run run = {0};
    int zero;
    if (!alive((Arena *)object) || !PyArg_ParseTuple(args, "IIp:_checkin", &run.head, &run.units, &zero))
        return NULL;
    stead_arena_checkin(((Arena *)object)->arena, &run, zero);
    Py_RETURN_NONE;
}

static PyObject *arena_split(PyObject *object, PyObject *args)
{
    unsigned head, units;
    if (!alive((Arena *)object) || !PyArg_ParseTuple(args, "II:_split", &head, &units))
        return NULL;
    stead_arena_split(((Arena *)object)->arena, head, units);
    Py_RETURN_NONE;
}

static PyObject *class_statistics(const stead_class_statistics *s, uint64_t size)
{
    return Py_BuildValue("KKKKK", (unsigned long long)size, (unsigned long long)s->blocks,
                         (unsigned long long)s->capacity, (unsigned long long)s->spans, (unsigned long long)s->bytes);
}

PyObject *statistics_tuple(const stead_statistics *s)
{
    PyObject *classes = PyTuple_New(STEAD_CLASSES + 1);
    for (uint32_t c = 0; classes && c <= STEAD_CLASSES; c++) {
        PyObject *one = c < STEAD_CLASSES ? class_statistics(&s->small[c], stead_class_size(c)) : class_statistics(&s->large, 0);
        if (!one || PyTuple_SetItem(classes, c, one))
            Py_CLEAR(classes);
    }
    if (!classes)
        return NULL;
    return Py_BuildValue("KKKKKKKKN", (unsigned long long)s->size, (unsigned long long)s->committed, (unsigned long long)s->used,
                         (unsigned long long)s->blocks, (unsigned long long)s->largest_run, (unsigned long long)s->runs,
                         (unsigned long long)s->high_water, (unsigned long long)s->dirty, classes);
}

static PyObject *arena_statistics(PyObject *object, PyObject *none)
{
    (void)none;
    stead_statistics s;
    if (!alive((Arena *)object))
        return NULL;
    stead_arena_statistics(((Arena *)object)->arena, &s);
    return statistics_tuple(&s);
}

static PyObject *arena_check(PyObject *object, PyObject *none)
{
    (void)none;
    uint32_t unit = 0;
    if (!alive((Arena *)object))
        return NULL;
    const char *wrong = stead_arena_check(((Arena *)object)->arena, &unit);
    return wrong ? Py_BuildValue("sI", wrong, unit) : Py_NewRef(Py_None);
}

static PyObject *arena_header(PyObject *object, PyObject *none)
{
    (void)none;
    if (!alive((Arena *)object))
        return NULL;
    return PyBytes_FromStringAndSize((const char *)((Arena *)object)->arena, (Py_ssize_t)stead_arena_header());
}

static PyObject *arena_adopt(PyObject *object, PyObject *saved)
{
    char *header;
    Py_ssize_t size;
    if (!alive((Arena *)object) || PyBytes_AsStringAndSize(saved, &header, &size))
        return NULL;
    if (size != (Py_ssize_t)stead_arena_header())
        return PyLong_FromLong(STEAD_FOREIGN);
    stead_arena *copy = PyMem_Malloc((size_t)size + 127); /* it has parts that must be aligned */
    if (!copy)
        return PyErr_NoMemory();
    stead_arena *aligned = (stead_arena *)(((uintptr_t)copy + 127) & ~(uintptr_t)127);
    memcpy(aligned, header, (size_t)size);
    int got = stead_arena_adopt(((Arena *)object)->arena, aligned);
    PyMem_Free(copy);
    return PyLong_FromLong(got);
}

static PyObject *arena_get_units(PyObject *object, void *which)
{
    stead_arena *a = ((Arena *)object)->arena;
    return PyLong_FromUnsignedLong(!a ? 0 : which ? stead_arena_max_units(a) : stead_arena_units(a));
}

static PyObject *arena_get_dirty(PyObject *object, void *none)
{
    (void)none;
    stead_arena *a = ((Arena *)object)->arena;
    return PyLong_FromUnsignedLongLong(a ? stead_arena_dirty(a) : 0);
}

/* ---- the type ---- */

static PyObject *arena_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)args, (void)kwargs;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Arena *self = (Arena *)allocate(type, 0);
    if (self) {
        self->trim_at = UINT64_MAX;
        for (size_t i = 0; i < sizeof self->members / sizeof *self->members; i++)
            self->members[i] = Py_NewRef(Py_None);
    }
    return (PyObject *)self;
}

static void arena_dealloc(PyObject *object)
{
    Arena *self = (Arena *)object;
    PyTypeObject *type = Py_TYPE(object);
    if (self->weakrefs)
        PyObject_ClearWeakRefs(object);
    if (self->arena)
        stead_arena_delist(self->arena);
    behind_forget(self);
    Py_XDECREF(self->block_type);
    PyObject_Free(self->block_memory);
    for (size_t i = 0; i < sizeof self->members / sizeof *self->members; i++)
        Py_XDECREF(self->members[i]);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

static PyObject *arena_tables(PyObject *type, PyObject *units)
{
    (void)type;
    uint64_t max_units, at[STEAD_TABLES + 1];
    if (!address_arg(units, &max_units))
        return NULL;
    stead_arena_tables((uint32_t)max_units, at);
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i <= STEAD_TABLES; i++) {
        PyObject *one = PyLong_FromUnsignedLongLong(at[i]);
        if (!one || PyList_Append(list, one))
            Py_CLEAR(list);
        Py_XDECREF(one);
    }
    return list;
}

static PyObject *arena_tables_used(PyObject *type, PyObject *units)
{
    (void)type;
    uint64_t wanted;
    if (!address_arg(units, &wanted))
        return NULL;
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i < STEAD_TABLES; i++) {
        PyObject *one = PyLong_FromUnsignedLongLong(stead_arena_table_used(i, (uint32_t)wanted));
        if (!one || PyList_Append(list, one))
            Py_CLEAR(list);
        Py_XDECREF(one);
    }
    return list;
}

static PyMethodDef arena_methods[] = {
    {"allocate", CALL(arena_allocate), METH_FASTCALL | METH_KEYWORDS,
     "allocate($self, size, alignment=16)\n--\n\n"
     "The address of ``size`` bytes that are nobody else's, at a multiple of ``alignment``.\n\n"
     "``size``: bytes, or text such as \"64 KiB\"; ``alignment``: a power of two up to the arena's size. The contents\n"
     "are undefined, but zeros where the arena was made with ``zero=True``. Live until ``free``.\n\n"
     "Raises OutOfSpace, which says the largest free run, and nothing has changed; ValueError, TypeError, Released."},
    {"free", arena_free, METH_O,
     "free($self, address)\n--\n\n"
     "Give back what ``allocate`` returned. Raises NotLive for any other address: freed already, of another arena,\n"
     "inside a block, of a Block; nothing has changed then."},
    {"block", CALL(arena_block), METH_FASTCALL | METH_KEYWORDS,
     "block($self, size, alignment=16)\n--\n\n"
     "``size`` bytes as a Block: a buffer that gives itself back when it and every view of it are gone.\n\n"
     "Raises what ``allocate`` raises, and Unsupported where the arena's memory must not be touched."},
    {"_table_offsets", arena_tables, METH_O | METH_STATIC, "_table_offsets(max_units): where each begins, and the size of all"},
    {"_table_sizes", arena_tables_used, METH_O | METH_STATIC, "_table_sizes(units): bytes of each that are needed"},
    {"_make", arena_make, METH_VARARGS, "_make(memory, base, max_units, guard, private, block_type)"},
    {"_end", arena_end, METH_NOARGS, "_end()"},
    {"_extend", arena_extend, METH_VARARGS, "_extend(units, zero)"},
    {"_take", arena_take, METH_VARARGS, "_take(size, alignment): (address, usable)"},
    {"_give", arena_give, METH_O, "_give(address): a code"},
    {"_hold", arena_hold, METH_O, "_hold(address): a code; by address it is held from now on"},
    {"_give_held", arena_give_held, METH_O, "_give_held(address): a code"},
    {"_order_by", behind_order_by, METH_VARARGS, "_order_by(context, calls): frees of hooks come behind their streams"},
    {"_settle_behind", behind_settle_method, METH_O, "_settle_behind(all): how many of those were freed"},
    {"_find", arena_find, METH_O, "_find(address): (code, start, usable)"},
    {"_resize", arena_resize, METH_VARARGS, "_resize(address, size): (code, usable)"},
    {"_shortfall", arena_shortfall, METH_VARARGS, "_shortfall(size, alignment): units"},
    {"_purge", arena_purge, METH_NOARGS, "_purge()"},
    {"_checkout", arena_checkout, METH_O, "_checkout(least): (head, units, from, to), or None"},
    {"_checkin", arena_checkin, METH_VARARGS, "_checkin(head, units, zero)"},
    {"_split", arena_split, METH_VARARGS, "_split(head, units): what is out from head on is two runs, the first of so many"},
    {"_statistics", arena_statistics, METH_NOARGS, "_statistics(): numbers as in stead_statistics"},
    {"_header", arena_header, METH_NOARGS, "_header(): the start of the tables, as bytes"},
    {"_adopt", arena_adopt, METH_O, "_adopt(header): a code; the tables are another arena's now"},
    {"_check", arena_check, METH_NOARGS, "_check(): None, or (what is wrong, unit)"},
    {NULL, NULL, 0, NULL},
};

#define MEMBER(I, NAME) {NAME, T_OBJECT_EX, offsetof(Arena, members) + (I) * sizeof(PyObject *), 0, NULL}

static PyMemberDef arena_members[] = {
    MEMBER(0, "name"), MEMBER(1, "_source"), MEMBER(2, "_tables"), MEMBER(3, "_care"), MEMBER(4, "_policy"),
    MEMBER(5, "_closed"), MEMBER(6, "_streams"),
    {"_trim_at", T_ULONGLONG, offsetof(Arena, trim_at), 0, NULL},
    {"_careful", T_INT, offsetof(Arena, careful), 0, NULL},
    {"_untouchable", T_INT, offsetof(Arena, untouchable), 0, NULL},
    {"_device_kind", T_INT, offsetof(Arena, device_kind), 0, NULL},
    {"_device", T_INT, offsetof(Arena, device), 0, NULL},
    {"_zero", T_INT, offsetof(Arena, zero), 0, NULL},
    {"_discardable", T_INT, offsetof(Arena, discardable), 0, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Arena, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef arena_getset[] = {
    {"_units", arena_get_units, NULL, NULL, NULL},
    {"_max_units", arena_get_units, NULL, NULL, (void *)1},
    {"_dirty", arena_get_dirty, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot arena_slots[] = {
    {Py_tp_doc, "The core of an arena, and what its blocks live in."},
    {Py_tp_new, arena_new},
    {Py_tp_dealloc, arena_dealloc},
    {Py_tp_methods, arena_methods},
    {Py_tp_members, arena_members},
    {Py_tp_getset, arena_getset},
    {0, NULL},
};

PyType_Spec stead_arena_spec = {
    .name = "stead._native.Arena",
    .basicsize = sizeof(Arena),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = arena_slots,
};
