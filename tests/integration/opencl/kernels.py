"""What the processes of these tests have: one platform, its kernels, and a loop that does what it is told."""

from __future__ import annotations

import gc
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import stead
from stead.devices import opencl

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

SOURCE = """
typedef struct Node { __global struct Node *next; long value; } Node;
typedef struct Tree { __global struct Tree *left, *right; long key, found; } Tree;
typedef struct Short { uint next; int value; } Short;

__kernel void fill(__global long *to, long first) { to[get_global_id(0)] = first + get_global_id(0); }

__kernel void where(__global void *memory, __global ulong *said) { *said = (ulong)memory; }

__kernel void walk(__global Node *node, __global long *sum) {
    for (*sum = 0; node; node = node->next) { *sum += node->value; node->value *= 2; }
}

/* Every work-item looks for its own number from the root. */
__kernel void look_up(__global Tree *root) {
    long key = get_global_id(0);
    while (root && root->key != key) root = key < root->key ? root->left : root->right;
    if (root) root->found = (long)(ulong)root;
}

/* Left is right and right is left, by the list of all nodes. */
__kernel void mirror(__global ulong *nodes) {
    __global Tree *node = (__global Tree *)nodes[get_global_id(0)];
    __global Tree *left = node->left;
    node->left = node->right;
    node->right = left;
}

/* A list of every second place of a pool, the last one first. */
__kernel void build(__global Node *pool, int n, __global ulong *head) {
    __global Node *last = 0;
    for (int i = 0; i < n; i++) {
        pool[2 * i].next = last;
        pool[2 * i].value = i;
        last = pool + 2 * i;
    }
    *head = (ulong)last;
}

__kernel void walk_short(__global Short *node, __global long *sum) {
    for (*sum = 0;; node = (__global Short *)(ulong)node->next) {
        *sum += node->value;
        if (!node->next) break;
    }
}

__kernel void add(volatile __global int *counter) { atomic_inc(counter); }

/* Says that it is there, waits for an answer of the host, and answers that. */
__kernel void answer(volatile __global int *word) {
    atomic_xchg(word, 1);
    for (ulong i = 0; i < (1ul << 40) && atomic_add(word, 0) != 2; i++);
    atomic_cmpxchg(word, 2, 3);
}
"""

_platform = ""


def serve(connection: Connection, platform: str) -> None:
    """Until the other end is closed."""
    global _platform
    _platform = platform
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = function(*arguments)
        except Exception as error:
            error.add_note(f"in the process that has {platform}")
            answer = error
        del function, arguments
        gc.collect()
        connection.send(answer)


def has_device() -> bool:
    try:
        return bool(devices())
    except stead.Unsupported:
        return False


def devices() -> list[Any]:
    return [each for each in opencl.devices() if each.platform.name.strip() == _platform]


@lru_cache
def _context() -> Any:
    import pyopencl

    return pyopencl.Context(devices()[:1])


@lru_cache
def sharing() -> opencl.Sharing:
    return opencl.Sharing(_context())


@lru_cache
def program() -> Any:
    import pyopencl

    return pyopencl.Program(_context(), SOURCE).build()


def kernel(name: str) -> Any:
    """A new one at each call: the arguments of a kernel are its own."""
    import pyopencl

    return sharing().announce(pyopencl.Kernel(program(), name))


def new_queue() -> Any:
    import pyopencl

    return pyopencl.CommandQueue(_context())


def run(name: str, items: int, *arguments: Any) -> None:
    """On the device, to its end. Numbers are given as signed ones of NumPy, the rest is memory."""
    import numpy

    queue = new_queue()
    given = [each if isinstance(each, numpy.signedinteger) else sharing().argument(each) for each in arguments]
    kernel(name)(queue, (items,), None, *given)
    queue.finish()
