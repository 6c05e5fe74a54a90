/* strips_type.c - the book of who has which block, as a Python object; strips and runs are bytes. Checks what could
 * lead outside of them; whoever calls it holds a lock (slices.py). */
#include "arena_type.h"

#include <stdlib.h>
#include <string.h>
#include <structmember.h>

#include "strips.h"

typedef struct {
    PyObject_HEAD
    stead_book book;
    PyObject *arena; /* of our own slice */
} Book;

/* ---- bytes as lists ---- */

/* What a buffer holds, `width` bytes each: 0, or -1 and an exception. To be released. */
static int items_of(PyObject *from, size_t width, Py_buffer *view, size_t *n)
{
    if (PyObject_GetBuffer(from, view, PyBUF_C_CONTIGUOUS))
        return -1;
    *n = (size_t)view->len / width;
    if ((size_t)view->len % width || (view->len && (uintptr_t)view->buf % sizeof(uint64_t))) {
        PyBuffer_Release(view);
        PyErr_Format(PyExc_ValueError, "%zd bytes, must be a multiple of %zu, at an address that is one of 8", view->len, width);
        return -1;
    }
    return 0;
}

static PyObject *bytes_of(const void *items, size_t n, size_t width)
{
    return PyBytes_FromStringAndSize(items, (Py_ssize_t)(n * width));
}

static PyObject *number(uint64_t value) { return PyLong_FromUnsignedLongLong(value); }

/* ---- the book ---- */

/* Where the book can be read: NULL and an exception where its arena is closed. */
static stead_book *open_book(PyObject *object)
{
    Book *self = (Book *)object;
    self->book.arena = ((Arena *)self->arena)->arena;
    if (!self->book.arena) {
        PyErr_SetString(PyExc_RuntimeError, "the arena has no core");
        return NULL;
    }
    return &self->book;
}

static PyObject *book_new(PyTypeObject *type, PyObject *args, PyObject *names)
{
    (void)names;
    uint64_t base, slice;
    unsigned ranks, rank;
    PyObject *arena;
    if (!PyArg_ParseTuple(args, "O&O&IIO:Book", address_arg, &base, address_arg, &slice, &ranks, &rank, &arena))
        return NULL;
    if (!slice || rank >= ranks || !PyObject_HasAttrString(arena, "_adopt")) {
        PyErr_SetString(PyExc_ValueError, "slices must have bytes, the rank be one of the ranks, and the arena an arena");
        return NULL;
    }
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Book *self = (Book *)allocate(type, 0);
    if (!self)
        return NULL;
    self->book = (stead_book){.base = base, .slice = slice, .ranks = ranks, .rank = rank};
    self->arena = Py_NewRef(arena);
    self->book.sets = PyMem_Calloc(ranks, sizeof *self->book.sets);
    if (!self->book.sets) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void book_dealloc(PyObject *object)
{
    Book *self = (Book *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyMem_Free(self->book.sets);
    Py_XDECREF(self->arena);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

static PyObject *book_needs(PyObject *type, PyObject *args)
{
    (void)type;
    uint64_t slice;
    if (!PyArg_ParseTuple(args, "O&:_needs", address_arg, &slice))
        return NULL;
    return Py_BuildValue("KK", (unsigned long long)stead_blocks_bytes(slice), (unsigned long long)stead_copies_bytes(slice));
}

static int owner_arg(const stead_book *book, unsigned owner)
{
    if (owner < book->ranks)
        return 0;
    PyErr_Format(PyExc_ValueError, "owner is %u, must be one of %u ranks", owner, book->ranks);
    return -1;
}

static PyObject *book_lay(PyObject *object, PyObject *args)
{
    stead_book *book = open_book(object);
    unsigned owner;
    uint64_t memory;
    if (!book || !PyArg_ParseTuple(args, "IO&:_lay", &owner, address_arg, &memory) || owner_arg(book, owner))
        return NULL;
    book->sets[owner] = stead_blocks_in((void *)(uintptr_t)memory, book->slice);
    Py_RETURN_NONE;
}

static PyObject *book_lay_copies(PyObject *object, PyObject *memory)
{
    stead_book *book = open_book(object);
    uint64_t at;
    if (!book || !address_arg(memory, &at))
        return NULL;
    book->copies = (uint16_t *)(uintptr_t)at;
    Py_RETURN_NONE;
}

static PyObject *book_find(PyObject *object, PyObject *address)
{
    stead_book *book = open_book(object);
    uint64_t at, size = 0;
    if (!book || !address_arg(address, &at))
        return NULL;
    int code = stead_book_find(book, at, &size);
    return Py_BuildValue("iK", code, (unsigned long long)size);
}

static PyObject *book_free(PyObject *object, PyObject *address)
{
    stead_book *book = open_book(object);
    uint64_t at, size = 0;
    if (!book || !address_arg(address, &at))
        return NULL;
    int code = stead_book_free(book, at, &size);
    return Py_BuildValue("iK", code, (unsigned long long)size);
}

static PyObject *book_strips(PyObject *object, PyObject *addresses)
{
    stead_book *book = open_book(object);
    Py_buffer view;
    size_t n, found;
    stead_strip *strips;
    uint64_t refused = 0;
    if (!book || items_of(addresses, sizeof(uint64_t), &view, &n))
        return NULL;
    int code = stead_book_strips(book, view.buf, n, &strips, &found, &refused);
    PyBuffer_Release(&view);
    if (code == STEAD_NO_MEMORY)
        return PyErr_NoMemory();
    if (code)
        return Py_BuildValue("iK", code, (unsigned long long)refused);
    PyObject *bytes = bytes_of(strips, found, sizeof *strips);
    free(strips);
    return bytes;
}

/* The arguments of those below: strips that lie in the slice of an owner whose set has memory. */
static stead_book *strips_args(PyObject *object, PyObject *args, unsigned *owner, Py_buffer *view, size_t *n)
{
    stead_book *book = open_book(object);
    PyObject *strips;
    if (!book || !PyArg_ParseTuple(args, "IO", owner, &strips) || owner_arg(book, *owner) ||
        items_of(strips, sizeof(stead_strip), view, n))
        return NULL;
    if (stead_book_sound(book, *owner, view->buf, *n) && (!*n || book->sets[*owner].begins))
        return book;
    PyBuffer_Release(view);
    PyErr_Format(PyExc_ValueError, "strips that do not lie in the slice of %u in order, or whose set has no memory", *owner);
    return NULL;
}

#define ON_STRIPS(NAME, CALL)                                                 \
    static PyObject *book_##NAME(PyObject *object, PyObject *args)            \
    {                                                                         \
        Py_buffer view;                                                       \
        unsigned owner;                                                       \
        size_t n;                                                             \
        stead_book *book = strips_args(object, args, &owner, &view, &n);      \
        if (!book)                                                            \
            return NULL;                                                      \
        PyObject *answer = CALL;                                              \
        PyBuffer_Release(&view);                                              \
        return answer;                                                        \
    }

ON_STRIPS(add, (stead_book_add(book, owner, view.buf, n), Py_NewRef(Py_None)))
ON_STRIPS(drop, (stead_book_drop(book, owner, view.buf, n), Py_NewRef(Py_None)))
ON_STRIPS(first_in, number(stead_book_first(book, owner, view.buf, n, 1)))
ON_STRIPS(first_out, number(stead_book_first(book, owner, view.buf, n, 0)))

static PyObject *book_copied(PyObject *object, PyObject *strips)
{
    stead_book *book = open_book(object);
    Py_buffer view;
    size_t n;
    uint64_t refused = 0;
    if (!book || items_of(strips, sizeof(stead_strip), &view, &n))
        return NULL;
    int sound = book->copies != NULL;
    for (size_t i = 0; i < n && sound; i++) /* of several calls, and so not in order */
        sound = stead_book_sound(book, book->rank, (const stead_strip *)view.buf + i, 1);
    int code = sound ? stead_book_copied(book, view.buf, n, &refused) : STEAD_FOREIGN;
    PyBuffer_Release(&view);
    return Py_BuildValue("iK", code, (unsigned long long)refused);
}

static PyObject *book_freed(PyObject *object, PyObject *addresses)
{
    stead_book *book = open_book(object);
    Py_buffer view;
    size_t n, wrong;
    if (!book || items_of(addresses, sizeof(uint64_t), &view, &n))
        return NULL;
    size_t freed = stead_book_freed(book, view.buf, n, &wrong);
    PyBuffer_Release(&view);
    return Py_BuildValue("nn", (Py_ssize_t)freed, (Py_ssize_t)wrong);
}

static PyObject *book_vacant(PyObject *object, PyObject *args)
{
    stead_book *book = open_book(object);
    unsigned owner;
    uint64_t from, to, page;
    if (!book || !PyArg_ParseTuple(args, "IO&O&O&:vacant", &owner, address_arg, &from, address_arg, &to, address_arg, &page) ||
        owner_arg(book, owner))
        return NULL;
    uint64_t start = book->base + owner * book->slice;
    if (from < start || to > start + book->slice || from > to || !page || page % STEAD_GRANULE || (from - start) % page) {
        PyErr_SetString(PyExc_ValueError, "pages that do not lie in the slice");
        return NULL;
    }
    size_t most = (size_t)((to - from) / page / 2 + 1), found;
    stead_piece *pieces = PyMem_Malloc(most * sizeof *pieces);
    if (!pieces)
        return PyErr_NoMemory();
    found = stead_book_vacant(book, owner, from, to, page, pieces, most);
    PyObject *bytes = bytes_of(pieces, found < most ? found : most, sizeof *pieces);
    PyMem_Free(pieces);
    return bytes;
}

/* ---- strips and runs ---- */

PyObject *strips_facts(PyObject *self, PyObject *strips)
{
    (void)self;
    Py_buffer view;
    size_t n;
    if (items_of(strips, sizeof(stead_strip), &view, &n))
        return NULL;
    stead_piece *runs = PyMem_Malloc((n ? n : 1) * sizeof *runs);
    if (!runs) {
        PyBuffer_Release(&view);
        return PyErr_NoMemory();
    }
    size_t count = stead_strips_runs(view.buf, n, runs);
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++)
        bytes += runs[i].size;
    PyObject *answer = Py_BuildValue("KKN", (unsigned long long)stead_strips_blocks(view.buf, n), (unsigned long long)bytes,
                                     bytes_of(runs, count, sizeof *runs));
    PyMem_Free(runs);
    PyBuffer_Release(&view);
    return answer;
}

PyObject *runs_pages(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *runs;
    uint64_t page;
    int outer;
    Py_buffer view;
    size_t n;
    if (!PyArg_ParseTuple(args, "OO&p:runs_pages", &runs, address_arg, &page, &outer) ||
        items_of(runs, sizeof(stead_piece), &view, &n))
        return NULL;
    stead_piece *pages = PyMem_Malloc((n ? n : 1) * sizeof *pages);
    PyObject *bytes = NULL;
    if (pages && page)
        bytes = bytes_of(pages, stead_runs_pages(view.buf, n, page, outer, pages), sizeof *pages);
    else if (!pages)
        PyErr_NoMemory();
    else
        PyErr_SetString(PyExc_ValueError, "pages of 0 bytes");
    PyMem_Free(pages);
    PyBuffer_Release(&view);
    return bytes;
}

/* Runs from number `first` on, of which so much has been sent. */
static int runs_from(PyObject *runs, Py_ssize_t first, uint64_t offset, Py_buffer *view, const stead_piece **list, size_t *n)
{
    if (items_of(runs, sizeof(stead_piece), view, n))
        return -1;
    *list = (const stead_piece *)view->buf + first;
    if (first >= 0 && (size_t)first < *n && offset < (*list)->size) {
        *n -= (size_t)first;
        return 0;
    }
    PyBuffer_Release(view);
    PyErr_SetString(PyExc_ValueError, "beyond the last run");
    return -1;
}

PyObject *runs_next(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *runs;
    Py_ssize_t first;
    uint64_t offset, direct, most;
    Py_buffer view;
    const stead_piece *list;
    size_t n, count;
    if (!PyArg_ParseTuple(args, "OnO&O&O&:runs_next", &runs, &first, address_arg, &offset, address_arg, &direct, address_arg,
                          &most) ||
        runs_from(runs, first, offset, &view, &list, &n))
        return NULL;
    uint64_t bytes = stead_runs_next(list, n, offset, direct, most, &count);
    PyBuffer_Release(&view);
    return Py_BuildValue("nK", (Py_ssize_t)count, (unsigned long long)bytes);
}

static PyObject *move_runs(PyObject *args, int gather)
{
    PyObject *runs, *other;
    Py_ssize_t first, count;
    uint64_t offset, bytes = 0;
    Py_buffer view, buffer;
    const stead_piece *list;
    size_t n;
    if (!PyArg_ParseTuple(args, "OnO&nO", &runs, &first, address_arg, &offset, &count, &other) ||
        PyObject_GetBuffer(other, &buffer, gather ? PyBUF_WRITABLE : PyBUF_SIMPLE))
        return NULL;
    if (runs_from(runs, first, offset, &view, &list, &n)) {
        PyBuffer_Release(&buffer);
        return NULL;
    }
    for (size_t i = 0; i < n && (Py_ssize_t)i < count; i++)
        bytes += list[i].size - (i ? 0 : offset);
    int fits = count >= 0 && (size_t)count <= n && bytes <= (uint64_t)buffer.len;
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        if (gather)
            stead_runs_gather(list, (size_t)count, offset, buffer.buf);
        else
            stead_runs_scatter(list, (size_t)count, offset, buffer.buf);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&view);
    PyBuffer_Release(&buffer);
    if (fits)
        return PyLong_FromUnsignedLongLong(bytes);
    PyErr_SetString(PyExc_ValueError, "beyond the last run, or the end of the buffer");
    return NULL;
}

PyObject *runs_gather(PyObject *self, PyObject *args) { return (void)self, move_runs(args, 1); }
PyObject *runs_scatter(PyObject *self, PyObject *args) { return (void)self, move_runs(args, 0); }

#define PIECES 4096

PyObject *pages_written(PyObject *self, PyObject *args)
{
    (void)self;
    uint64_t start, stop, page;
    if (!PyArg_ParseTuple(args, "O&O&O&:pages_written", address_arg, &start, address_arg, &stop, address_arg, &page))
        return NULL;
    if (!page || page % 64 || start % page || stop % page)
        return PyErr_Format(PyExc_ValueError, "not whole pages");
    stead_piece *pieces = PyMem_Malloc(PIECES * sizeof *pieces);
    PyObject *list = pieces ? PyList_New(0) : PyErr_NoMemory();
    while (list && start < stop) {
        size_t n;
        Py_BEGIN_ALLOW_THREADS
        n = stead_pages_written(start, stop, page, pieces, PIECES, &start);
        Py_END_ALLOW_THREADS
        PyObject *some = bytes_of(pieces, n, sizeof *pieces);
        if (!some || PyList_Append(list, some))
            Py_CLEAR(list);
        Py_XDECREF(some);
    }
    PyMem_Free(pieces);
    if (!list)
        return NULL;
    PyObject *empty = PyBytes_FromStringAndSize(NULL, 0), *all = empty ? PyObject_CallMethod(empty, "join", "O", list) : NULL;
    Py_XDECREF(empty);
    Py_DECREF(list);
    return all;
}

/* ---- the type ---- */

static PyMethodDef book_methods[] = {
    {"_needs", book_needs, METH_VARARGS | METH_STATIC, "_needs(slice): bytes of zeros for a set, and for the copies"},
    {"_lay", book_lay, METH_VARARGS, "_lay(owner, memory): where the set of an owner is"},
    {"_lay_copies", book_lay_copies, METH_O, "_lay_copies(memory): where the copies of ours are counted"},
    {"find", book_find, METH_O, "find(address): (code, size)"},
    {"free", book_free, METH_O, "free(address): (code, size)"},
    {"strips", book_strips, METH_O, "strips(addresses): strips as bytes, or (code, address)"},
    {"add", book_add, METH_VARARGS, "add(owner, strips)"},
    {"drop", book_drop, METH_VARARGS, "drop(owner, strips)"},
    {"first_in", book_first_in, METH_VARARGS, "first_in(owner, strips): a block that is in the set, or 0"},
    {"first_out", book_first_out, METH_VARARGS, "first_out(owner, strips): a block that is not in the set, or 0"},
    {"copied", book_copied, METH_O, "copied(strips): (code, address)"},
    {"freed", book_freed, METH_O, "freed(addresses): how many can be handed out again, how many were none of ours"},
    {"vacant", book_vacant, METH_VARARGS, "vacant(owner, start, stop, page): pages without a block, as pieces"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot book_slots[] = {
    {Py_tp_doc, "Book(base, slice, ranks, rank, arena): which blocks of all slices live here."},
    {Py_tp_new, book_new},
    {Py_tp_dealloc, book_dealloc},
    {Py_tp_methods, book_methods},
    {0, NULL},
};

PyType_Spec stead_book_spec = {
    .name = "stead._native.Book",
    .basicsize = sizeof(Book),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = book_slots,
};
