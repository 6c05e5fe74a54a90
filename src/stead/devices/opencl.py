"""OpenCL: kernels that use the memory of this process at its own addresses, and what their device asks of a place.

Needs pyopencl (``pip install 'stead[opencl]'``), which is imported when something here is called. An OpenCL
device that shares *system* memory (CL_DEVICE_SVM_FINE_GRAIN_SYSTEM) reads and writes whatever the process can: an
arena, a heap, a reservation, and what the raw pointers in them point to. Queues, programs and kernels are
pyopencl's own.

Some devices do it and do not say so, among them the processors of PoCL 3.0. A device of type CPU that works in
the host's memory is therefore tried: see :func:`_try`.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from functools import lru_cache, reduce
from importlib import import_module
from operator import and_
from typing import TYPE_CHECKING, SupportsIndex

from stead import _native, ledger
from stead.devices.constraints import EVERYWHERE, DeviceConstraints, bits
from stead.devices.opencl_trial import SHARES
from stead.errors import Unsupported
from stead.ranges import Range
from stead.sizes import parse_address

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType
    from typing import Any, Literal

    import pyopencl
    from typing_extensions import Buffer

_KERNEL_EXEC_INFO_SVM_FINE_GRAIN_SYSTEM = 0x11B7  # CL/cl.h

_CAPABILITIES = {
    "COARSE_GRAIN_BUFFER": "coarse-grained buffers",
    "FINE_GRAIN_BUFFER": "fine-grained buffers",
    "FINE_GRAIN_SYSTEM": "system memory",
    "ATOMICS": "atomics",
}
_NEEDED = "a device that shares system memory (CL_DEVICE_SVM_FINE_GRAIN_SYSTEM)"


class Sharing:
    """The memory of this process, for kernels of ``target``: a pyopencl Device, or a Context, for all its
    devices; by default the first device that shares it.

    ``evidence``: "declared" where the devices say that they share system memory; "tried" where one does not say
    so and was seen to. With ``declared=True`` only what is said counts. ``constraints``: what they ask of a place.

    Raises Unsupported that says what the device has instead, or that pyopencl or a driver is missing; TypeError.
    """

    devices: tuple[pyopencl.Device, ...]
    evidence: Literal["declared", "tried"]
    constraints: DeviceConstraints

    def __init__(
        self, target: pyopencl.Device | pyopencl.Context | None = None, *, declared: bool = False
    ) -> None:
        cl = _pyopencl()
        if target is None:
            self.devices = (_first(declared),)
        elif isinstance(target, cl.Device):
            self.devices = (target,)
        elif isinstance(target, cl.Context):
            self.devices = tuple(target.devices)
        else:
            raise TypeError(f"target is {target!r}, must be a pyopencl Device or Context")
        for each in self.devices:
            if why_not := _why_not(each, declared):
                raise Unsupported(f"sharing the addresses of this process with {_name(each)}", _NEEDED, why_not)
        said = all("FINE_GRAIN_SYSTEM" in capabilities(each) for each in self.devices)
        self.evidence = "declared" if said else "tried"
        self.constraints = reduce(and_, map(constraints_of, self.devices))

    def argument(self, memory: Buffer | SupportsIndex) -> pyopencl.SVM[Any]:
        """``memory`` as the argument of a kernel, which gets its address: a Block of an arena or a heap, an
        array, a view of a reservation, any other contiguous buffer; or an address in committed memory of a
        reservation, such as ``Arena.allocate`` gives.

        It keeps the memory from being freed as a memoryview does, but pyopencl lets go of it when the kernel is
        given to a queue: like any buffer of the host, memory must be there until the kernel has run.

        Raises Unsupported where the device does not reach the address, ValueError, TypeError.
        """
        import numpy

        # An array of one number can be taken for that number.
        address = isinstance(memory, SupportsIndex) and not isinstance(memory, numpy.ndarray)
        found = _pyopencl().SVM(_at(memory) if address else _checked(memory))
        where = Range.sized(found.svm_ptr, max(found.size or 0, 1))
        if not self.constraints.window.contains(where):
            raise Unsupported(
                f"an argument at {where}",
                f"addresses that {self.constraints.name!r} reaches",
                self.constraints.reach,
            )
        return found

    def announce(self, kernel: pyopencl.Kernel) -> pyopencl.Kernel:
        """Say that ``kernel`` follows pointers to memory that is not among its arguments, and return it. Where a
        device does not say that it shares system memory, there is nobody to say it to.

        Raises Unsupported where the driver refuses."""
        if self.evidence == "declared":
            _announce(kernel)
        return kernel

    def __repr__(self) -> str:
        return f"<Sharing with {', '.join(map(_name, self.devices))}, {self.evidence}>"


def devices() -> tuple[pyopencl.Device, ...]:
    """Every device of every platform, in the order of "opencl:N". Raises Unsupported where there is none."""
    cl = _pyopencl()
    try:
        platforms = cl.get_platforms()
    except cl.Error as error:
        raise _none(str(error)) from None
    there = tuple(each for platform in platforms for each in _devices(cl, platform))
    if not there:
        raise _none("drivers without a device")
    return there


def device(number: int) -> pyopencl.Device:
    """Number ``number`` of :func:`devices`. Raises ValueError where there are not so many, Unsupported."""
    there = devices()
    if not 0 <= number < len(there):
        names = ", ".join(f"opencl:{i} ({_name(each)})" for i, each in enumerate(there))
        raise ValueError(f"device is 'opencl:{number}', must be one of {names}")
    return there[number]


def capabilities(device: pyopencl.Device) -> frozenset[str]:
    """How it says that it shares memory, by the names of CL_DEVICE_SVM_…"""
    cl = _pyopencl()
    try:
        has = int(device.svm_capabilities)
    except cl.Error:  # OpenCL 1
        return frozenset()
    return frozenset(name for name in _CAPABILITIES if has & getattr(cl.device_svm_capabilities, name))


def constraints_of(device: pyopencl.Device) -> DeviceConstraints:
    """What ``device`` asks of a place: within its address width (CL_DEVICE_ADDRESS_BITS), aligned so that a
    buffer can begin there (CL_DEVICE_MEM_BASE_ADDR_ALIGN)."""
    wide = int(device.address_bits)
    return DeviceConstraints(
        _name(device),
        "OpenCL",
        bits(wide) if wide < 64 else EVERYWHERE,
        alignment=_power_of_two(int(device.mem_base_addr_align) // 8),
        source=f"the OpenCL driver of {device.platform.name.strip()}",
    )


def _devices(cl: ModuleType, platform: pyopencl.Platform) -> Sequence[pyopencl.Device]:
    try:
        found: Sequence[pyopencl.Device] = platform.get_devices()
    except cl.Error:  # CL_DEVICE_NOT_FOUND: a driver without its hardware
        return ()
    return found


def _checked(memory: Any) -> Any:
    try:
        with memoryview(memory) as view:
            wrong = "is read-only" if view.readonly else "" if view.contiguous else "is not contiguous"
    except TypeError:
        wrong = "is neither"
    if wrong:
        raise TypeError(f"memory is {memory!r}, must be a writable, contiguous buffer or an address: it {wrong}")
    return memory


def _at(address: Any) -> _native.Exporter:
    """One byte at an address of ours; holds the reservation."""
    if isinstance(address, bool):
        raise TypeError(f"memory is {address!r}, must be a buffer or an address")
    at = parse_address(address)
    for held in ledger.within(Range.sized(at, 1)):
        if at in held.committed:
            return _native.Exporter(at, 1, False, held)
    raise ValueError(f"memory is {at:#x}, where no reservation of this process has memory committed")


def _power_of_two(size: int) -> int:
    """The smallest that is not less."""
    return 1 << max(size - 1, 0).bit_length()


def _name(device: pyopencl.Device) -> str:
    return device.name.strip() or "a device without a name"


def _first(declared: bool) -> pyopencl.Device:
    """The first device that shares the memory of this process."""
    found = []
    for each in devices():
        if not (why_not := _why_not(each, declared)):
            return each
        found.append(f"{_name(each)} has {why_not}")
    raise Unsupported("sharing the addresses of this process", _NEEDED, "; ".join(found))


def _why_not(device: pyopencl.Device, declared: bool) -> str:
    """What it has instead of system memory that it shares; "" if it shares it."""
    has = capabilities(device)
    if "FINE_GRAIN_SYSTEM" in has:
        return ""
    why_not = "only what it says was to count" if declared else _try(device)
    listed = ", ".join(text for name, text in _CAPABILITIES.items() if name in has) or "no shared memory at all"
    return f"{listed} ({why_not})" if why_not else ""


def _none(found: str) -> Unsupported:
    return Unsupported("OpenCL", "a driver, such as that of `pip install 'pyopencl[pocl]'`", found)


def _pyopencl() -> ModuleType:
    try:
        pyopencl = import_module("pyopencl")
    except ImportError as error:
        needs = "pyopencl (pip install 'stead[opencl]')"
        raise Unsupported("OpenCL", needs, str(error)) from None
    return pyopencl


def _announce(kernel: pyopencl.Kernel) -> None:
    """clSetKernelExecInfo, which pyopencl has no method for: looked up in the library that it has loaded."""
    cl = _pyopencl()
    call = ctypes.CDLL(cl._cl.__file__).clSetKernelExecInfo
    call.argtypes = (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_size_t, ctypes.c_void_p)
    call.restype = ctypes.c_int32
    yes = ctypes.c_uint32(1)
    code = call(kernel.int_ptr, _KERNEL_EXEC_INFO_SVM_FINE_GRAIN_SYSTEM, 4, ctypes.byref(yes))
    if code:
        raise Unsupported(
            "pointers to system memory in a kernel", "a driver that lets them be announced", str(code)
        )


# ---- does it, without saying so? ------------------------------------------------------------------

_TRIAL_SECONDS = 120


@lru_cache
def _try(device: pyopencl.Device) -> str:
    """Whether ``device`` uses the process's addresses though it does not say so: "" if it does, or why not.

    Tried in a process of its own (:mod:`stead.devices.opencl_trial`): a driver that cannot do something may end
    its process, as PoCL does where there is no linker.
    """
    cl = _pyopencl()
    if not device.type & cl.device_type.CPU:
        return "it is not tried, being no CPU"
    if not device.host_unified_memory or "FINE_GRAIN_BUFFER" not in capabilities(device):
        return "it is not tried, having memory of its own"
    if device not in (there := devices()):
        return "it is not tried, being a part of a device"
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "stead.devices.opencl_trial", str(there.index(device))],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TRIAL_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it could not be tried: {error}"
    said = done.stdout.strip()
    if done.returncode == 0:
        return "" if said == SHARES else said or "a trial said nothing"
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    last = next(reversed(done.stderr.strip().splitlines()), "without a word")
    return f"a trial ended with {how}: {last}"
