/* hooks.c - an arena under other libraries: what all of their hooks do, and NumPy's data handler (NEP 49). They may be
 * called from any thread, with the GIL or without it.
 */
#include <stdlib.h>
#include <string.h>

#include "arena_type.h"
#include "hooks.h"

int hooks_obtain(Arena *self, uint64_t size, uint64_t alignment, stead_block *block)
{
    if (__builtin_expect(!self->careful, 1))
        return arena_obtain(self, size, alignment, STEAD_HOLD, block);
    *block = (stead_block){0};
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *address =
        PyObject_CallMethod((PyObject *)self, "_block", "KK", (unsigned long long)size, (unsigned long long)alignment);
    block->address = address ? PyLong_AsSize_t(address) : 0;
    block->usable = size;
    Py_XDECREF(address);
    PyErr_Clear(); /* whoever asked tells of it: a null pointer is MemoryError */
    PyGILState_Release(state);
    return block->address ? STEAD_DONE : STEAD_NO_SPACE;
}

void hooks_release(Arena *self, uint64_t address)
{
    int freed = !self->careful && self->arena && stead_arena_free_held(self->arena, address) == STEAD_DONE;
    if (__builtin_expect(freed && !arena_wants_trim(self), 1))
        return;
    PyGILState_STATE state = PyGILState_Ensure();
    if (!freed)
        arena_call_quietly((PyObject *)self, "_free_block", address);
    if (arena_wants_trim(self))
        arena_call_quietly((PyObject *)self, "_trim", 0);
    PyGILState_Release(state);
}

/* ---- NumPy: https://numpy.org/neps/nep-0049.html, and numpy/_core/include/numpy/ndarraytypes.h ---- */

typedef struct {
    char name[127];
    uint8_t version;
    struct {
        void *context;
        void *(*allocate)(void *, size_t);
        void *(*zeroed)(void *, size_t, size_t);
        void *(*resize)(void *, void *, size_t);
        void (*free)(void *, void *, size_t);
    } allocator;
} Handler;

/* NumPy holds the GIL, which guards these. */
static uint64_t take_kept(Arena *self, size_t size)
{
#ifndef Py_GIL_DISABLED
    if (size - 1 < KEPT_MOST) {
        unsigned c = stead_class_of((uint32_t)size);
        Kept *kept = &self->kept[c];
        if (kept->count && (c < STEAD_CLASSES || size <= kept->size))
            return kept->addresses[--kept->count];
    }
#endif
    return 0;
}

static int keep(Arena *self, uint64_t address, size_t size)
{
#ifndef Py_GIL_DISABLED
    if (size - 1 < KEPT_MOST && self->keeps && !self->careful) {
        unsigned c = stead_class_of((uint32_t)size);
        Kept *kept = &self->kept[c];
        if (kept->count < (c < STEAD_CLASSES ? KEPT : 1)) {
            kept->addresses[kept->count++] = address;
            kept->size = (uint32_t)size;
            return 1;
        }
    }
#endif
    return 0;
}

/* Apart, so that the way to what is kept has no block on its stack. */
static __attribute__((noinline)) void *allocate_anew(Arena *self, size_t size, int zeroed)
{
    stead_block block;
    if (hooks_obtain(self, size ? size : 1, 16, &block))
        return NULL;
    if (zeroed)
        arena_clear(self, &block, size);
    return (void *)(uintptr_t)block.address;
}

static inline void *allocate(Arena *self, size_t size, int zeroed)
{
    void *kept = (void *)(uintptr_t)take_kept(self, size);
    if (__builtin_expect(!kept, 0))
        return allocate_anew(self, size, zeroed);
    return zeroed ? memset(kept, 0, size) : kept;
}

static void *data_allocate(void *arena, size_t size)
{
    Arena *self = arena;
    return allocate(self, size, self->zero);
}

static void *data_zeroed(void *arena, size_t count, size_t each)
{
    size_t size;
    return __builtin_mul_overflow(count, each, &size) ? NULL : allocate(arena, size, 1);
}

static void data_free(void *arena, void *data, size_t size)
{
    if (data && !keep(arena, (uintptr_t)data, size))
        hooks_release(arena, (uintptr_t)data);
}

/* In a careful arena it moves always: what was known of the block goes with it. */
static void *data_resize(void *arena, void *data, size_t size)
{
    Arena *self = arena;
    uint64_t address = (uintptr_t)data, usable;
    stead_block had = {0};
    if (!data)
        return data_allocate(arena, size);
    if (!self->arena || stead_arena_find(self->arena, address, &had) == STEAD_FOREIGN)
        return NULL;
    for (int tries = self->careful ? 0 : 2; tries--;) {
        if (arena_stretch(self, address, size ? size : 1, STEAD_HOLD, &usable) == STEAD_DONE)
            return data;
        arena_unkeep(self); /* what is kept may lie in the way */
    }
    void *moved = data_allocate(arena, size);
    if (moved) {
        memcpy(moved, data, had.usable < size ? had.usable : size);
        hooks_release(self, address);
    }
    return moved;
}

static void handler_free(PyObject *capsule)
{
    Handler *handler = PyCapsule_GetPointer(capsule, "mem_handler");
    Py_XDECREF((PyObject *)handler->allocator.context);
    free(handler);
}

/* NumPy keeps the capsule with every array made through it, and so the arena lives as long as they do. */
PyObject *hooks_data_handler(PyObject *module, PyObject *arena)
{
    (void)module;
    Handler *handler = calloc(1, sizeof *handler);
    if (!handler)
        return PyErr_NoMemory();
    strcpy(handler->name, "stead");
    handler->version = 1;
    handler->allocator.context = arena;
    handler->allocator.allocate = data_allocate;
    handler->allocator.zeroed = data_zeroed;
    handler->allocator.resize = data_resize;
    handler->allocator.free = data_free;
    PyObject *capsule = PyCapsule_New(handler, "mem_handler", handler_free);
    if (!capsule)
        free(handler);
    else
        Py_INCREF(arena);
    return capsule;
}

/* From NumPy's table of C functions, whose order is its ABI: 304 is PyDataMem_SetHandler (1.22 and later). */
PyObject *hooks_set_data_handler(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *api, *handler;
    if (!PyArg_ParseTuple(args, "OO:set_data_handler", &api, &handler))
        return NULL;
    void **table = PyCapsule_GetPointer(api, NULL);
    return table ? ((PyObject * (*)(PyObject *)) table[304])(handler == Py_None ? NULL : handler) : NULL;
}
