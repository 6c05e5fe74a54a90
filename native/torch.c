/* torch.c - the functions that PyTorch's CUDAPluggableAllocator loads (torch/csrc/cuda/CUDAPluggableAllocator.h), over
 * arenas.
 *
 * Two sorts. stead_torch_allocate is PyTorch's allocator for all of a process: it asks which arena is its device's, and
 * may call Python to make it grow. stead_torch_allocate_00 to _77 (octal) are those of one arena each, for a MemPool:
 * PyTorch's caching allocator calls them for its segments with its lock held (c10/cuda/CUDACachingAllocator.cpp), which
 * a thread that has the GIL may wait for, so that they must never wait for the GIL.
 *
 * A free names the stream that the memory was allocated on, and PyTorch has waited for all others by then.
 */
#include "behind.h"
#include "hooks.h"

#define EXPORTED __attribute__((visibility("default")))

/* Entries are never removed: memory that was handed out is freed through the arena that it came from. */
#define PLACES 64
static struct {
    Arena *arena;
    int device; /* whose tensors all live here; -1: nobody's */
} places[PLACES];

/* The arena's place, given to it if need be; -1 and an exception where there is none left. */
static int place_of(PyObject *arena)
{
    for (int i = 0; i < PLACES; i++) {
        if ((PyObject *)places[i].arena == arena)
            return i;
        if (!places[i].arena) {
            places[i].device = -1;
            __atomic_store_n(&places[i].arena, (Arena *)Py_NewRef(arena), __ATOMIC_RELEASE);
            return i;
        }
    }
    PyErr_Format(PyExc_RuntimeError, "%d arenas have been given to torch, and none can be taken away", PLACES);
    return -1;
}

PyObject *torch_place(PyObject *module, PyObject *arena)
{
    (void)module;
    int place = place_of(arena);
    return place < 0 ? NULL : PyLong_FromLong(place);
}

PyObject *torch_use(PyObject *module, PyObject *args)
{
    (void)module;
    int device, place = -1;
    PyObject *arena;
    if (!PyArg_ParseTuple(args, "iO:torch_use", &device, &arena))
        return NULL;
    if (arena != Py_None && (place = place_of(arena)) < 0)
        return NULL;
    for (int i = 0; i < PLACES && places[i].arena; i++)
        if (places[i].device == device)
            __atomic_store_n(&places[i].device, -1, __ATOMIC_RELEASE);
    if (place >= 0)
        __atomic_store_n(&places[place].device, device, __ATOMIC_RELEASE);
    Py_RETURN_NONE;
}

/* PyTorch's own allocator gives multiples of 512 bytes, too: kernels count on that. */
enum { ALIGNMENT = 512 };

static int take(Arena *self, uint64_t size, stead_block *block)
{
    return self->arena ? stead_arena_take(self->arena, size, ALIGNMENT, STEAD_HOLD, block) : STEAD_FOREIGN;
}

/* What waits for streams is used before the arena grows, and waited for before there is none: cudaFree waits, too. */
static void *allocate(Arena *self, Py_ssize_t size, int may_call_python)
{
    stead_block block;
    if (size < 0)
        return NULL;
    uint64_t wanted = size ? (uint64_t)size : 1;
    int got = self->careful ? STEAD_NO_SPACE : take(self, wanted, &block);
    if (got == STEAD_NO_SPACE && behind_settle(self, 0))
        got = take(self, wanted, &block);
    if (got == STEAD_NO_SPACE && may_call_python)
        got = hooks_obtain(self, wanted, ALIGNMENT, &block);
    if (got == STEAD_NO_SPACE && !self->careful)
        got = behind_take_last(self, wanted, ALIGNMENT, &block);
    return got == STEAD_DONE ? (void *)(uintptr_t)block.address : NULL;
}

EXPORTED void *stead_torch_allocate(Py_ssize_t size, int device, void *stream)
{
    (void)stream;
    for (int i = 0; i < PLACES; i++) {
        Arena *arena = __atomic_load_n(&places[i].arena, __ATOMIC_ACQUIRE);
        if (!arena)
            break;
        if (__atomic_load_n(&places[i].device, __ATOMIC_ACQUIRE) == device)
            return allocate(arena, size, 1);
    }
    return NULL;
}

static void *allocate_at(int place, Py_ssize_t size, int device)
{
    Arena *arena = __atomic_load_n(&places[place].arena, __ATOMIC_ACQUIRE);
    return arena && arena->device == device ? allocate(arena, size, 0) : NULL;
}

EXPORTED void stead_torch_free(void *data, Py_ssize_t size, int device, void *stream)
{
    (void)size, (void)device;
    uint64_t address = (uintptr_t)data;
    for (int i = 0; data && i < PLACES; i++) {
        Arena *arena = __atomic_load_n(&places[i].arena, __ATOMIC_ACQUIRE);
        if (!arena)
            break;
        uint64_t base = arena->arena ? stead_arena_base(arena->arena) : 0;
        if (base && address - base < (uint64_t)stead_arena_max_units(arena->arena) * STEAD_UNIT) {
            stead_block block;
            if (arena->behind && stead_arena_find(arena->arena, address, &block) == STEAD_HELD)
                behind_free(arena, address, stream);
            else
                hooks_release(arena, address);
            return;
        }
    }
}

#define ONE(TENS, UNITS)                                                                               \
    EXPORTED void *stead_torch_allocate_##TENS##UNITS(Py_ssize_t size, int device, void *stream)       \
    {                                                                                                  \
        (void)stream;                                                                                  \
        return allocate_at(8 * TENS + UNITS, size, device);                                            \
    }
#define EIGHT(TENS) ONE(TENS, 0) ONE(TENS, 1) ONE(TENS, 2) ONE(TENS, 3) ONE(TENS, 4) ONE(TENS, 5) ONE(TENS, 6) ONE(TENS, 7)
EIGHT(0) EIGHT(1) EIGHT(2) EIGHT(3) EIGHT(4) EIGHT(5) EIGHT(6) EIGHT(7)
