/* hooks.h - an arena under other libraries: hooks.c (what they share, NumPy), torch.c. */
#ifndef STEAD_HOOKS_H
#define STEAD_HOOKS_H

#include "arena_type.h"

/* A code of arena.h. Held: no address that somebody frees by mistake is that of an array or a tensor. */
int hooks_obtain(Arena *self, uint64_t size, uint64_t alignment, stead_block *block);

/* Whoever frees is told of nothing: what is wrong is printed, like an exception in a deallocator. */
void hooks_release(Arena *self, uint64_t address);

PyObject *hooks_data_handler(PyObject *module, PyObject *arena);
PyObject *hooks_set_data_handler(PyObject *module, PyObject *args);

/* torch.c */
PyObject *torch_use(PyObject *module, PyObject *args);
PyObject *torch_place(PyObject *module, PyObject *args);

#endif
