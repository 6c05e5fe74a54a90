/* hooks.h - what module.c offers of hooks.c. */
#ifndef STEAD_HOOKS_H
#define STEAD_HOOKS_H

#include "binding.h"

PyObject *hooks_data_handler(PyObject *module, PyObject *arena);
PyObject *hooks_set_data_handler(PyObject *module, PyObject *args);
PyObject *hooks_torch_use(PyObject *module, PyObject *args);

#endif
