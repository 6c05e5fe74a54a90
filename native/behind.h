/* behind.h - blocks that are freed behind what a stream of the CUDA driver has to do, by any thread, without Python.
 *
 * An event behind that work says when it is done; nobody waits for it. What stead.arena.streams does in Python for
 * those who call from there, for hooks that must not take the GIL.
 */
#ifndef STEAD_BEHIND_H
#define STEAD_BEHIND_H

#include "arena_type.h"

/* arena._order_by(context, calls): frees are ordered from now on. */
PyObject *behind_order_by(PyObject *arena, PyObject *args);
/* arena._settle_behind(all): how many were freed. */
PyObject *behind_settle_method(PyObject *arena, PyObject *all);

/* A held block is freed once all is done that stream has to do now. Where the driver refuses to say when, it waits
 * until all of the device's work is waited for: too early is worse. One that waits already waits on. */
void behind_free(Arena *self, uint64_t address, void *stream);

/* Free the blocks that no stream uses any more; all: wait for them. How many there were. */
unsigned behind_settle(Arena *self, int all);

/* A held block of what is left once all streams have been waited for: a code of arena.h. No block begins to wait
 * between, so that where it finds no space there is none. */
int behind_take_last(Arena *self, uint64_t size, uint64_t alignment, stead_block *block);

/* The arena ends: blocks that still wait are forgotten. */
void behind_end(Arena *self);
/* So does its object. */
void behind_forget(Arena *self);

#endif
