"""A trial of one OpenCL device, in a process of its own: whether a kernel uses the addresses of its process.

First a buffer in the host's memory, by the standard: a kernel says where it sees it. Only a device that sees it at
the host's own address, and so computes in this address space, is then given raw pointers to ordinary memory, as an
argument and inside it. Prints SHARES, or why not.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyopencl

SHARES = "shares the addresses of its process"

_SOURCE = """
__kernel void stead_where(__global ulong *buffer, __global ulong *said) { *said = (ulong)buffer; }
__kernel void stead_follow(__global ulong *memory) {
    __global ulong *other = (__global ulong *)memory[0];
    memory[1] = (ulong)memory;
    other[1] = other[0] + 1;
}
"""


def trial(device: pyopencl.Device) -> str:
    """SHARES, or why not."""
    import pyopencl as cl

    memory, other, said = (mmap.mmap(-1, mmap.PAGESIZE) for _ in range(3))
    here, there, heard = (memoryview(each).cast("Q") for each in (memory, other, said))
    start, start_of_other = (ctypes.addressof(ctypes.c_char.from_buffer(each)) for each in (memory, other))
    try:
        context = cl.Context([device])
        queue = cl.CommandQueue(context)
        program = cl.Program(context, _SOURCE).build(cache_dir=False)
        flags = cl.mem_flags.READ_WRITE | cl.mem_flags.USE_HOST_PTR
        buffer, answer = (cl.Buffer(context, flags, hostbuf=each) for each in (memory, said))
        program.stead_where(queue, (1,), (1,), buffer, answer)
        cl.enqueue_copy(queue, said, answer)
        queue.finish()
        del buffer, answer
        if heard[0] != start:
            return f"a buffer at {start:#x} is at {heard[0]:#x} for it"
        here[0], there[0] = start_of_other, 41
        program.stead_follow(queue, (1,), (1,), cl.SVM(memory))
        queue.finish()
    except cl.Error as error:
        return f"a trial was refused: {error}"
    if (here[1], there[1]) != (start, 42):
        return "what a kernel wrote by a raw pointer did not arrive"
    return SHARES


if __name__ == "__main__":
    from stead.devices.opencl import devices

    print(trial(devices()[int(sys.argv[1])]))
