/* arena_type.h - the Python object around an arena, for blocks.c and hooks.c. */
#ifndef STEAD_ARENA_TYPE_H
#define STEAD_ARENA_TYPE_H

#include "binding.h"

#include "arena.h"

/* Held blocks that a NumPy array left, for the next of its class: NumPy's own allocator has that, too. Of the
 * classes that are runs one each, which has `size` bytes. */
#define KEPT 7
#define KEPT_CLASSES 60
#define KEPT_MOST (1u << 20)

typedef struct {
    uint32_t count, size;
    uint64_t addresses[KEPT];
} Kept;

typedef struct behind behind; /* behind.c */

typedef struct {
    PyObject_HEAD
    stead_arena *arena;   /* NULL: not made yet, or closed */
    uint64_t trim_at;     /* bytes of touched free memory from which _trim is called */
    int careful;          /* hardened, or with guards: every call takes the way through Python */
    int untouchable;      /* 1: addresses only, no block may read or write them; 2: a device's memory, in DeviceBlocks */
    int zero;             /* every block reads as zeros */
    int discardable;      /* MADV_DONTNEED makes zeros: anonymous memory of this process alone */
    int device_kind, device; /* of a device's memory, as DLPack counts them */
    int keeps;            /* for NumPy; not where a forked child shares the memory, and so what is kept in it */
    behind *behind;       /* blocks that hooks freed and streams still use; NULL: frees are not ordered */
    PyObject *weakrefs;
    Kept kept[KEPT_CLASSES];
    PyObject *block_type;
    void *block_memory;   /* of the Block that went last, for the next: malloc is half of what a Block costs */
    PyObject *members[7]; /* what the memory and the tables live in is let go after the arena */
} Arena;

enum { ARENA_RAISED = -100 }; /* besides the codes of arena.h: a Python exception is set */

/* The fast way, and where that finds no space the slow one: growing, which is decided in Python. With
 * ARENA_HAS_GIL in flags the caller holds the GIL, and an exception may be left; without it any thread may call,
 * and no exception is left. */
enum { ARENA_HAS_GIL = 16 };
int arena_obtain(Arena *self, uint64_t size, uint64_t alignment, int flags, stead_block *block);

/* Make the first `size` bytes of a block read as zeros. */
void arena_clear(const Arena *self, const stead_block *block, uint64_t size);

/* Free what is kept for NumPy, so that whoever looks sees what is used. With the GIL. */
void arena_unkeep(Arena *self);

/* Resize in place, growing the arena where that helps: the code of arena.h. STEAD_HOLD in flags: a held block. */
int arena_stretch(Arena *self, uint64_t address, uint64_t size, int flags, uint64_t *usable);

/* The arguments (size, alignment=16), checked: 0, or -1 and an exception. */
int arena_request_slowly(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names, uint64_t *size,
                         uint64_t *alignment);

static inline int arena_request(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names, uint64_t *size,
                                uint64_t *alignment)
{
    if (__builtin_expect(n == 1 && !names && PyLong_CheckExact(args[0]), 1)) {
        *alignment = 16;
        *size = PyLong_AsSize_t(args[0]);
        if (__builtin_expect(*size - 1 < (uint64_t)1 << 62, 1))
            return 0;
        PyErr_Clear(); /* one that did not fit is -1 */
    }
    uint64_t asked = 0, multiple = 0; /* the caller's stay in registers */
    int failed = arena_request_slowly(self, args, n, names, &asked, &multiple);
    *size = asked;
    *alignment = multiple;
    return failed;
}

/* Raises what a code means: NULL. */
PyObject *arena_refused(PyObject *self, int code, uint64_t size, uint64_t alignment);

/* After a free: memory goes back to the system only here, and seldom. */
static inline int arena_wants_trim(const Arena *self)
{
    return __builtin_expect(self->arena && stead_arena_dirty(self->arena) >= self->trim_at, 0);
}

/* self.name(number), for deallocators: an exception that is on its way stays, and one that the call raises is
 * printed. */
void arena_call_quietly(PyObject *self, const char *name, uint64_t number);

extern PyType_Spec stead_arena_spec, stead_block_spec, stead_device_block_spec;
PyObject *arena_block(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names);

#endif
