/* dlpack.c - bytes of a device's memory as a DLPack capsule, and the address of a buffer's bytes. */
#include "binding.h"

/* The structures of dlpack.h 0.x (https://dmlc.github.io/dlpack/latest/c_api.html), an ABI that consumers rely on. */
typedef struct {
    void *data;
    struct { int32_t kind, number; } device;
    int32_t dimensions;
    struct { uint8_t code, bits; uint16_t lanes; } type;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} Tensor;

typedef struct Managed {
    Tensor tensor;
    void *context;
    void (*deleter)(struct Managed *);
    int64_t shape;
} Managed;

/* By whoever took the capsule, on any thread, or by us when nobody did. */
static void let_go(Managed *managed)
{
    if (!Py_IsInitialized())
        return; /* the process is ending */
    PyGILState_STATE state = PyGILState_Ensure();
    Py_XDECREF((PyObject *)managed->context);
    PyMem_Free(managed);
    PyGILState_Release(state);
}

static void not_taken(PyObject *capsule)
{
    if (!PyCapsule_IsValid(capsule, "dltensor"))
        return; /* a consumer has renamed it, and calls the deleter itself */
    Managed *managed = PyCapsule_GetPointer(capsule, "dltensor");
    managed->deleter(managed);
}

PyObject *dlpack_capsule(uint64_t address, Py_ssize_t size, int kind, int number, PyObject *owner)
{
    Managed *managed = PyMem_Calloc(1, sizeof *managed);
    if (!managed)
        return PyErr_NoMemory();
    managed->shape = size;
    managed->tensor.data = (void *)(uintptr_t)address;
    managed->tensor.device.kind = kind;
    managed->tensor.device.number = number;
    managed->tensor.dimensions = 1;
    managed->tensor.type.code = 1; /* kDLUInt */
    managed->tensor.type.bits = 8;
    managed->tensor.type.lanes = 1;
    managed->tensor.shape = &managed->shape;
    managed->context = Py_NewRef(owner);
    managed->deleter = let_go;
    PyObject *capsule = PyCapsule_New(managed, "dltensor", not_taken);
    if (!capsule)
        let_go(managed);
    return capsule;
}

PyObject *dlpack_make(PyObject *module, PyObject *args)
{
    (void)module;
    uint64_t address;
    Py_ssize_t size;
    int kind, number;
    PyObject *owner;
    if (!PyArg_ParseTuple(args, "O&niiO:dlpack", address_arg, &address, &size, &kind, &number, &owner))
        return NULL;
    return dlpack_capsule(address, size, kind, number, owner);
}

PyObject *buffer_address(PyObject *module, PyObject *object)
{
    (void)module;
    Py_buffer view;
    if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE))
        return NULL;
    PyObject *address = PyLong_FromVoidPtr(view.buf);
    PyBuffer_Release(&view);
    return address;
}
