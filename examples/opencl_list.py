"""A kernel follows a list that the host has built, and the host one that the kernel has: the same pointers.

pip install 'stead[opencl]' 'pyopencl[pocl]'; python examples/opencl_list.py
"""

import ctypes

import pyopencl as cl

import stead
from stead.devices import opencl

SOURCE = """
typedef struct Node { __global struct Node *next; long value; } Node;

__kernel void square(__global Node *node) {
    for (; node; node = node->next) node->value *= node->value;
}

__kernel void reverse(__global Node *node, __global ulong *head) {
    __global Node *last = 0;
    while (node) {
        __global Node *next = node->next;
        node->next = last;
        last = node;
        node = next;
    }
    *head = (ulong)last;
}
"""


class Node(ctypes.Structure):
    _fields_ = (("next", ctypes.c_uint64), ("value", ctypes.c_int64))


def values(address: int) -> list[int]:
    found = []
    while address:
        node = Node.from_address(address)
        found.append(node.value)
        address = node.next
    return found


sharing = opencl.Sharing()  # the first device that shares the memory of this process
context = cl.Context(sharing.devices)
queue = cl.CommandQueue(context)
program = cl.Program(context, SOURCE).build()
square, reverse = sharing.announce(program.square), sharing.announce(program.reverse)

with stead.Arena("64 MiB", name="nodes") as arena:
    head, nodes = 0, []
    for value in range(10, 0, -1):
        nodes.append(arena.allocate(ctypes.sizeof(Node)))
        Node.from_address(nodes[-1]).next, Node.from_address(nodes[-1]).value = head, value
        head = nodes[-1]

    square(queue, (1,), None, sharing.argument(head))
    queue.finish()
    print(f"{sharing.constraints.name} squared what begins at {head:#x}: {values(head)}")

    with arena.block(8) as block:
        reverse(queue, (1,), None, sharing.argument(head), sharing.argument(block))
        queue.finish()
        with memoryview(block).cast("Q") as word:
            print(f"and reversed it, from {word[0]:#x}: {values(word[0])}")
    for address in nodes:
        arena.free(address)
