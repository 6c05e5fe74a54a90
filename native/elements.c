/* elements.c - see elements.h. */
#include "elements.h"

#include <string.h>

const char *const stead_type_names[STEAD_TYPES] = {"int8",  "int16",  "int32",  "int64",   "uint8",
                                                    "uint16", "uint32", "uint64", "float32", "float64"};
const char *const stead_op_names[STEAD_OPS] = {"sum", "prod", "min", "max", "band", "bor", "bxor", "replace"};

int stead_number_of(const char *argument, PyObject *given, stead_type type, number *out)
{
    if (stead_is_float(type)) {
        double value = PyFloat_AsDouble(given);
        if (value == -1.0 && PyErr_Occurred()) {
            PyErr_Clear();
            PyErr_Format(PyExc_TypeError, "%s is %R, must be a number", argument, given);
            return -1;
        }
        if (type == STEAD_FLOAT32)
            out->single = (float)value;
        else
            out->real = value;
        return 0;
    }
    PyObject *whole = PyNumber_Index(given);
    if (!whole) {
        PyErr_Clear();
        PyErr_Format(PyExc_TypeError, "%s is %R, must be an int for %s", argument, given, stead_type_names[type]);
        return -1;
    }
    unsigned bits = 8 * stead_type_size(type);
    int fits;
    if (type >= STEAD_UINT8) {
        out->natural = PyLong_AsUnsignedLongLong(whole);
        fits = !PyErr_Occurred() && (bits == 64 || out->natural >> bits == 0);
    } else {
        out->whole = PyLong_AsLongLong(whole);
        fits = !PyErr_Occurred() && (bits == 64 || out->whole >> (bits - 1) == 0 || out->whole >> (bits - 1) == -1);
    }
    Py_DECREF(whole);
    if (!fits) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "%s is %R, which does not fit into %s", argument, given, stead_type_names[type]);
        return -1;
    }
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    memmove(out->raw, out->raw + 8 - bits / 8, bits / 8);
#endif
    return 0;
}

#define SIGNED(T)                          \
    {                                      \
        T value;                           \
        memcpy(&value, n, sizeof value);   \
        return PyLong_FromLongLong(value); \
    }
#define UNSIGNED(T)                                \
    {                                              \
        T value;                                   \
        memcpy(&value, n, sizeof value);           \
        return PyLong_FromUnsignedLongLong(value); \
    }

PyObject *stead_object_of(const number *n, stead_type type)
{
    switch (type) {
    case STEAD_INT8: SIGNED(int8_t)
    case STEAD_INT16: SIGNED(int16_t)
    case STEAD_INT32: SIGNED(int32_t)
    case STEAD_INT64: SIGNED(int64_t)
    case STEAD_UINT8: UNSIGNED(uint8_t)
    case STEAD_UINT16: UNSIGNED(uint16_t)
    case STEAD_UINT32: UNSIGNED(uint32_t)
    case STEAD_UINT64: UNSIGNED(uint64_t)
    case STEAD_FLOAT32: return PyFloat_FromDouble(n->single);
    default: return PyFloat_FromDouble(n->real);
    }
}

int stead_type_of(const Py_buffer *view)
{
    const char *format = view->format ? view->format : "B";
    if (strchr("@=", *format) && *format)
        format++;
    else if (*format == (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? '>' : '<') ||
             (view->itemsize == 1 && strchr("<>!", *format) && *format))
        format++;
    if (!*format || format[1])
        return -1;
    int wide = view->itemsize == 1 ? 0 : view->itemsize == 2 ? 1 : view->itemsize == 4 ? 2 : view->itemsize == 8 ? 3 : -1;
    if (wide < 0)
        return -1;
    if (strchr("bhilqn", *format))
        return STEAD_INT8 + wide;
    if (strchr("BHILQN", *format))
        return STEAD_UINT8 + wide;
    return *format == 'f' && wide == 2 ? STEAD_FLOAT32 : *format == 'd' && wide == 3 ? STEAD_FLOAT64 : -1;
}
