"""A kernel of six instructions, to find out what a device reaches."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from stead.devices.driver import DriverError, Meaning

if TYPE_CHECKING:
    from stead.devices.cuda import CudaDriver

NO_KERNELS = "no kernels on this driver"

# Version of the PTX language, and what it is for: a driver compiles it for its own device, if it still knows the
# one, and its device has what the other has. Tried in this order.
_DIALECTS = (("6.4", "sm_70"), ("7.0", "sm_80"), ("7.8", "sm_90"), ("8.6", "sm_100"))

# Generic addresses (ld, st without a state space): where the memory is, is the question.
_PTX = """
.version {version}
.target {target}
.address_size 64
.visible .entry add_there(.param .u64 where, .param .u32 what)
{{
    .reg .u64 %place;
    .reg .u32 %left, %right;
    ld.param.u64 %place, [where];
    ld.param.u32 %right, [what];
    ld.volatile.u32 %left, [%place];
    add.u32 %left, %left, %right;
    st.volatile.u32 [%place], %left;
    ret;
}}
"""


def add_on_device(driver: CudaDriver, device: int, address: int, what: int) -> str:
    """Add to the 32-bit number at ``address`` by a kernel on the device, and wait for it: "done", or NO_KERNELS.
    Raises DriverError; after a fault, the process's device is gone."""
    module = _load(driver, device)
    if module is None:
        return NO_KERNELS
    function = driver.call_within(device, "cuModuleGetFunction", module, b"add_there")
    arguments = ((address, what), (ctypes.c_uint64, ctypes.c_uint32))
    driver.call_within(device, "cuLaunchKernel", function, 1, 1, 1, 1, 1, 1, 0, 0, arguments, 0)
    driver.call_within(device, "cuCtxSynchronize")
    driver.call_within(device, "cuModuleUnload", module)
    return "done"


def _load(driver: CudaDriver, device: int) -> object | None:
    for number, (version, target) in enumerate(_DIALECTS, start=1):
        source = _PTX.format(version=version, target=target).encode() + b"\0"
        try:
            module: object = driver.call_within(device, "cuModuleLoadData", source)
        except DriverError as error:
            if error.meaning is Meaning.UNSUPPORTED:
                return None
            if number == len(_DIALECTS):
                raise
        else:
            return module
    raise AssertionError("there are dialects")
