/* module.c - stead._native: converts, drops the GIL, raises. No decisions are made here.
 *
 * The calls answer like the C functions of mapping.h: a value that is zero or positive, or a negated
 * errno. A lost claim is an everyday event, and building an OSError costs more than the system call
 * that lost; errors.py turns numbers into exceptions where one is wanted.
 */
#include <errno.h>
#include <limits.h>
#include <sys/mman.h>

#include "arena_type.h"
#include "binding.h"
#include "heap_type.h"
#include "hooks.h"
#include "mapping.h"
#include "strips.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

/* ---- system calls ----------------------------------------------------------------------------- */

static int int_arg(PyObject *arg, int *out)
{
    long value = PyLong_AsLong(arg);
    if (value == -1 && PyErr_Occurred())
        return -1;
    if (value < INT_MIN || value > INT_MAX) {
        PyErr_Format(PyExc_OverflowError, "%ld does not fit into an int", value);
        return -1;
    }
    *out = (int)value;
    return 0;
}

#define ADDRESS_AND_SIZE(NAME)                                                          \
    static PyObject *native_##NAME(PyObject *self, PyObject *const *args, Py_ssize_t n) \
    {                                                                                   \
        (void)self;                                                                     \
        uint64_t a[2];                                                                  \
        int64_t got;                                                                    \
        if (unsigned_args(#NAME, args, n, 2, a))                                        \
            return NULL;                                                                \
        CALL_WITHOUT_GIL(got, stead_##NAME(a[0], a[1]))                                 \
        return PyLong_FromLongLong(got);                                                \
    }

/* The answer to a lost claim, made once: a tenth of what losing costs. */
typedef struct {
    PyObject *lost;
} State;

static PyObject *native_claim(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    uint64_t a[2];
    int64_t got;
    if (unsigned_args("claim", args, n, 2, a))
        return NULL;
    CALL_WITHOUT_GIL(got, stead_claim(a[0], a[1]))
    if (got == -EEXIST)
        return Py_NewRef(((State *)PyModule_GetState(self))->lost);
    return PyLong_FromLongLong(got);
}

ADDRESS_AND_SIZE(hint)
ADDRESS_AND_SIZE(unmap)

#define ADDRESS_SIZE_AND_INT(NAME)                                                      \
    static PyObject *native_##NAME(PyObject *self, PyObject *const *args, Py_ssize_t n) \
    {                                                                                   \
        (void)self;                                                                     \
        uint64_t a[2];                                                                  \
        int third;                                                                      \
        int64_t got;                                                                    \
        if (expect(#NAME, n, 3) || unsigned_args(#NAME, args, 2, 2, a) || int_arg(args[2], &third)) \
            return NULL;                                                                \
        CALL_WITHOUT_GIL(got, stead_##NAME(a[0], a[1], third))                          \
        return PyLong_FromLongLong(got);                                                \
    }

ADDRESS_SIZE_AND_INT(protect)
ADDRESS_SIZE_AND_INT(advise)

static PyObject *native_place(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    (void)self;
    uint64_t a[2];
    int protection, flags, fd;
    int64_t got;
    if (expect("place", n, 6) || unsigned_args("place", args, 2, 2, a) || int_arg(args[2], &protection) ||
        int_arg(args[3], &flags) || int_arg(args[4], &fd))
        return NULL;
    long long offset = PyLong_AsLongLong(args[5]);
    if (offset == -1 && PyErr_Occurred())
        return NULL;
    CALL_WITHOUT_GIL(got, stead_place(a[0], a[1], protection, flags, fd, offset))
    return PyLong_FromLongLong(got);
}

static PyObject *native_name(PyObject *self, PyObject *args)
{
    (void)self;
    uint64_t address, size;
    const char *name;
    if (!PyArg_ParseTuple(args, "O&O&s:name", address_arg, &address, address_arg, &size, &name))
        return NULL;
    return PyLong_FromLongLong(stead_name(address, size, name));
}

static PyObject *native_fallocate(PyObject *self, PyObject *args)
{
    (void)self;
    int fd, mode;
    long long offset, size;
    int64_t got;
    if (!PyArg_ParseTuple(args, "iiLL:fallocate", &fd, &mode, &offset, &size))
        return NULL;
    CALL_WITHOUT_GIL(got, stead_fallocate(fd, mode, offset, size))
    return PyLong_FromLongLong(got);
}

static PyObject *native_query(PyObject *self, PyObject *args)
{
    (void)self;
    int fd;
    uint64_t address;
    stead_mapping found;
    char name[4096 + 64]; /* PATH_MAX, and room for " (deleted)" */
    int64_t got;
    if (!PyArg_ParseTuple(args, "iO&:query", &fd, address_arg, &address))
        return NULL;
    CALL_WITHOUT_GIL(got, stead_query(fd, address, &found, name, sizeof name))
    if (got < 0)
        return PyLong_FromLongLong(got);
    return Py_BuildValue("KKKKKIIy#", (unsigned long long)found.start, (unsigned long long)found.stop,
                         (unsigned long long)found.flags, (unsigned long long)found.offset,
                         (unsigned long long)found.inode, (unsigned int)found.device_major,
                         (unsigned int)found.device_minor, name,
                         (Py_ssize_t)(found.name_size ? found.name_size - 1 : 0));
}

static PyObject *native_program_break(PyObject *self, PyObject *none)
{
    (void)self, (void)none;
    return PyLong_FromUnsignedLongLong(stead_program_break());
}

static PyObject *native_sanitizer(PyObject *self, PyObject *none)
{
    (void)self, (void)none;
    const char *found = stead_sanitizer();
    if (!found)
        Py_RETURN_NONE;
    return PyUnicode_FromString(found);
}

static PyObject *native_dumpable(PyObject *self, PyObject *none)
{
    (void)self, (void)none;
    return PyBool_FromLong(stead_dumpable());
}

/* ---- the module --------------------------------------------------------------------------------- */

#define FAST(NAME, SIGNATURE, TEXT) \
    {#NAME, (PyCFunction)(void (*)(void))native_##NAME, METH_FASTCALL, #NAME SIGNATURE "\n--\n\n" TEXT}
#define PLAIN(NAME, SIGNATURE, TEXT) {#NAME, native_##NAME, METH_VARARGS, #NAME SIGNATURE "\n--\n\n" TEXT}
#define BARE(NAME, TEXT) {#NAME, native_##NAME, METH_NOARGS, #NAME "()\n--\n\n" TEXT}

static PyMethodDef methods[] = {
    FAST(claim, "(address, size)", "mmap(PROT_NONE, MAP_FIXED_NOREPLACE): the address, or -errno."),
    FAST(hint, "(address, size)", "mmap(PROT_NONE) with a hint: the address that it got, or -errno."),
    FAST(place, "(address, size, protection, flags, fd, offset)",
         "mmap(MAP_FIXED), for a range that the caller owns: the address, or -errno."),
    FAST(unmap, "(address, size)", "munmap: 0, or -errno."),
    FAST(protect, "(address, size, protection)", "mprotect: 0, or -errno."),
    FAST(advise, "(address, size, advice)", "madvise: 0, or -errno."),
    PLAIN(name, "(address, size, name)", "prctl(PR_SET_VMA_ANON_NAME): 0, or -errno."),
    PLAIN(fallocate, "(fd, mode, offset, size)", "fallocate: 0, or -errno."),
    PLAIN(query, "(maps_fd, address)",
          "PROCMAP_QUERY for the mapping at address or the next above: (start, stop, flags, offset, inode, "
          "device_major, device_minor, name), or -errno."),
    BARE(program_break, "sbrk(0): the end of the heap."),
    BARE(sanitizer, "'thread', 'address', 'memory', or None: the sanitizer of this process."),
    BARE(dumpable, "prctl(PR_GET_DUMPABLE): whether others of the same user may look into this process."),
    {"data_handler", hooks_data_handler, METH_O, "data_handler(arena)\n--\n\nA capsule for NumPy; keeps the arena alive."},
    {"set_data_handler", hooks_set_data_handler, METH_VARARGS,
     "set_data_handler(api, handler)\n--\n\nPyDataMem_SetHandler of NumPy's table `api`: the handler before."},
    {"torch_use", torch_use, METH_VARARGS,
     "torch_use(device, arena)\n--\n\nWhat stead_torch_allocate gives out for a device."},
    {"torch_place", torch_place, METH_O,
     "torch_place(arena)\n--\n\nThe number, in octal, of the stead_torch_allocate_ that is this arena's."},
    {"dlpack", dlpack_make, METH_VARARGS,
     "dlpack(address, size, kind, number, owner)\n--\n\nA DLPack capsule of bytes on a device; keeps the owner alive."},
    {"address_of", buffer_address, METH_O, "address_of(buffer)\n--\n\nWhere its bytes are."},
    {"strips_facts", strips_facts, METH_O, "strips_facts(strips)\n--\n\n(blocks, bytes, runs)."},
    {"runs_pages", runs_pages, METH_VARARGS,
     "runs_pages(runs, page, outer)\n--\n\nThe pages that runs touch (outer) or fill, as pieces."},
    {"runs_next", runs_next, METH_VARARGS,
     "runs_next(runs, first, offset, direct, most)\n--\n\nWhat is sent next: (how many together, or 0; bytes)."},
    {"runs_gather", runs_gather, METH_VARARGS, "runs_gather(runs, first, offset, count, buffer)\n--\n\nHow many bytes."},
    {"runs_scatter", runs_scatter, METH_VARARGS, "runs_scatter(runs, first, offset, count, buffer)\n--\n\nHow many bytes."},
    {"pages_written", pages_written, METH_VARARGS,
     "pages_written(start, stop, page)\n--\n\nThe pages that are not all zeros, as pieces."},
    {NULL, NULL, 0, NULL},
};

static int module_exec(PyObject *module)
{
    State *state = PyModule_GetState(module);
    state->lost = PyLong_FromLong(-EEXIST);
    if (!state->lost)
        return -1;
    PyType_Spec *types[] = {&stead_hold_spec, &stead_exporter_spec, &stead_finalizer_spec, &stead_arena_spec, &stead_block_spec,
                           &stead_device_block_spec,
                           &stead_heap_spec, &stead_channel_spec, &stead_onesided_spec, &stead_book_spec};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        PyObject *type = PyType_FromModuleAndSpec(module, types[i], NULL);
        int failed = !type || PyModule_AddType(module, (PyTypeObject *)type);
        Py_XDECREF(type);
        if (failed)
            return -1;
    }
    /* From the headers of the machine that compiles: MAP_NORESERVE alone has five values. */
    static const struct { const char *name; long value; } constants[] = {
        {"PROT_NONE", PROT_NONE}, {"PROT_READ", PROT_READ}, {"PROT_WRITE", PROT_WRITE}, {"PROT_EXEC", PROT_EXEC},
        {"MAP_SHARED", MAP_SHARED}, {"MAP_PRIVATE", MAP_PRIVATE}, {"MAP_ANONYMOUS", MAP_ANONYMOUS},
        {"MAP_NORESERVE", MAP_NORESERVE}, {"MAP_HUGETLB", MAP_HUGETLB},
        {"MADV_DONTNEED", MADV_DONTNEED}, {"MADV_DONTDUMP", MADV_DONTDUMP},
        {"MADV_HUGEPAGE", MADV_HUGEPAGE},
        {"MADV_POPULATE_WRITE", MADV_POPULATE_WRITE},
        {"MADV_COLLAPSE", MADV_COLLAPSE},
        {"MADV_GUARD_INSTALL", MADV_GUARD_INSTALL}, {"MADV_GUARD_REMOVE", MADV_GUARD_INSTALL + 1},
        {"MFD_NOEXEC_SEAL", MFD_NOEXEC_SEAL},
        {"QUERY_READABLE", STEAD_QUERY_READABLE}, {"QUERY_WRITABLE", STEAD_QUERY_WRITABLE},
        {"QUERY_EXECUTABLE", STEAD_QUERY_EXECUTABLE}, {"QUERY_SHARED", STEAD_QUERY_SHARED},
        {"ARENA_DONE", STEAD_DONE}, {"ARENA_NO_SPACE", STEAD_NO_SPACE}, {"ARENA_FOREIGN", STEAD_FOREIGN},
        {"ARENA_INTERIOR", STEAD_INTERIOR}, {"ARENA_NOT_LIVE", STEAD_NOT_LIVE}, {"ARENA_HELD", STEAD_HELD},
        {"HEAP_DONE", STEAD_DONE}, {"HEAP_NO_SPACE", STEAD_NO_SPACE}, {"HEAP_FOREIGN", STEAD_FOREIGN},
        {"HEAP_INTERIOR", STEAD_INTERIOR}, {"HEAP_NOT_LIVE", STEAD_NOT_LIVE}, {"HEAP_TIMEOUT", STEAD_TIMEOUT},
        {"HEAP_FULL", STEAD_FULL}, {"HEAP_BROKEN", STEAD_BROKEN}, {"HEAP_CLOSED", STEAD_CLOSED},
        {"HEAP_NOT_OWNER", STEAD_NOT_OWNER}, {"HEAP_BARRIER_BROKEN", STEAD_BARRIER_BROKEN},
        {"HEAP_TOO_LONG", STEAD_TOO_LONG}, {"HEAP_OWNER_DIED", STEAD_OWNER_DIED},
        {"BOOK_AWAY", STEAD_AWAY}, {"BOOK_TWICE", STEAD_TWICE}, {"BOOK_MANY", STEAD_MANY}, {"BOOK_GRANULE", STEAD_GRANULE},
        {"ARENA_DISOWNED", STEAD_DISOWNED}, {"ARENA_UNIT", STEAD_UNIT}, {"ARENA_MAX_UNITS", STEAD_MAX_UNITS},
    };
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++)
        if (PyModule_AddIntConstant(module, constants[i].name, constants[i].value))
            return -1;
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
/* Both slots are newer than the Limited API's floor; a build for a free-threaded CPython has them. */
#if !defined(Py_LIMITED_API) && defined(Py_mod_multiple_interpreters)
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if !defined(Py_LIMITED_API) && defined(Py_mod_gil)
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static int module_clear(PyObject *module)
{
    Py_CLEAR(((State *)PyModule_GetState(module))->lost);
    return 0;
}

static void module_free(void *module)
{
    module_clear(module);
}

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "stead._native",
    .m_doc = "System calls for stead: addresses in, addresses or negated errnos out.",
    .m_size = sizeof(State),
    .m_clear = module_clear,
    .m_free = module_free,
    .m_methods = methods,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
