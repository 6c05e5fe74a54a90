"""Numba's device arrays in an arena, by Numba's own External Memory Management, on the driver's double. In
processes of their own: a manager stays for the life of a process."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import stead
from conftest import need

need("numba_cuda")
need("cuda.bindings")

from stead.integrations import numba as plugin  # noqa: E402

if TYPE_CHECKING:
    from doubles import CudaDouble

BEGIN = """
import gc, pickle, subprocess, sys
import doubles
double = doubles.CudaDouble(sys.argv[1])
double.reset()
import numpy
import stead
import numba.cuda as cuda
from stead.integrations.numba import memory_manager
"""

ARRAYS = f"""{BEGIN}
arena = stead.Arena("8 MiB", backing=stead.DeviceMemory(0, shareable=True))
cuda.set_memory_manager(memory_manager(arena))
array = cuda.to_device(numpy.arange(1000.0))
address = array.device_ctypes_pointer.value
assert arena.owns(address) and address % 512 == 0
assert (array.copy_to_host() == numpy.arange(1000.0)).all()
assert cuda.current_context().get_memory_info().total == arena.range.size
again = pickle.loads(pickle.dumps(array.get_ipc_handle())).open()
assert again.device_ctypes_pointer.value == address and (again.copy_to_host() == numpy.arange(1000.0)).all()
del again
part = array[10:20]
del array
gc.collect()
assert arena.owns(address) and part.copy_to_host()[0] == 10
with cuda.defer_cleanup():
    del part
    gc.collect()
    assert arena.statistics().blocks == 1
assert arena.statistics().blocks == 0
try:
    cuda.device_array(9 << 20, "u1")
except stead.OutOfSpace as error:
    assert "the largest free run" in str(error)
else:
    raise AssertionError
kept = cuda.device_array(1000, "u1")
cuda.current_context().reset()
assert arena.statistics().blocks == 0
other = cuda.device_array(1000, "u1")
assert other.device_ctypes_pointer.value == kept.device_ctypes_pointer.value
del kept  # of a context that is no more: the other stays
gc.collect()
assert arena.statistics().blocks == 1
with cuda.gpus[1]:
    try:
        cuda.device_array(10, "u1")
    except stead.Unsupported as error:
        assert "Numba's arrays on device 1" in str(error)
    else:
        raise AssertionError
del other
gc.collect()
arena.close()
"""

SENDER = f"""{BEGIN}
arena = stead.Arena("8 MiB", backing=stead.DeviceMemory(0, shareable=True))
cuda.set_memory_manager(memory_manager(arena))
array = cuda.to_device(numpy.arange(1000.0))
sent = pickle.dumps((array.get_ipc_handle(), array.device_ctypes_pointer.value))
subprocess.run([sys.executable, "-W", "error:::stead", "-c", sys.argv[2], sys.argv[1]], input=sent, check=True)
assert array.copy_to_host()[0] == 42
"""

RECEIVER = f"""{BEGIN}
handle, address = pickle.load(sys.stdin.buffer)
with handle as array:
    assert array.device_ctypes_pointer.value == address
    assert (array.copy_to_host()[1:] == numpy.arange(1.0, 1000.0)).all()
    array[:1].copy_to_device(numpy.array([42.0]))
"""


def run(double: CudaDouble, program: str, *arguments: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", program, str(double.path), *arguments], capture_output=True, text=True,
        env={
            **os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CUDA_PYTHON_DISABLE_MAJOR_VERSION_WARNING": "1"
        },
        timeout=240, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr


def test_arrays_are_in_the_arena(cuda_double: CudaDouble) -> None:
    run(cuda_double, ARRAYS)


def test_an_array_goes_to_another_process_at_the_same_address(cuda_double: CudaDouble) -> None:
    run(cuda_double, SENDER, RECEIVER)


def test_what_is_no_arena_of_a_device_is_named(cuda_double: CudaDouble) -> None:
    wrong: Any = "8 MiB"
    with pytest.raises(ValueError, match="arenas is empty"):
        plugin.memory_manager()
    with pytest.raises(TypeError, match="arena is '8 MiB'"):
        plugin.memory_manager(wrong)
    with stead.Arena("8 MiB") as host, pytest.raises(stead.Unsupported, match="a CUDA device's memory"):
        plugin.memory_manager(host)
    with stead.Arena("8 MiB", backing=stead.DeviceMemory(0)) as one:
        with stead.Arena("8 MiB", backing=stead.DeviceMemory(0)) as other:
            with pytest.raises(ValueError, match="arenas has two on device 0"):
                plugin.memory_manager(one, other)
    with pytest.raises(stead.Released):
        plugin.memory_manager(one)
