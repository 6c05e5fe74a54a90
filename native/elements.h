/* elements.h - elements of arrays between Python and C: their types by name and by buffer format, their values. */
#ifndef STEAD_ELEMENTS_H
#define STEAD_ELEMENTS_H

#include "binding.h"

#include "atomics.h"

typedef union {
    int64_t whole;
    uint64_t natural;
    float single;
    double real;
    char raw[8];
} number;

extern const char *const stead_type_names[STEAD_TYPES], *const stead_op_names[STEAD_OPS];

/* An element as it lies in memory: 0, or -1 and an exception that names the argument. */
int stead_number_of(const char *argument, PyObject *given, stead_type type, number *out);
PyObject *stead_object_of(const number *n, stead_type type);

/* The type of a buffer's elements; -1: none that we have. */
int stead_type_of(const Py_buffer *view);

#endif
