"""CudaDriver, through the real cuda.bindings, on the driver's double: what is CUDA's alone. What every driver must
do is in test_drivers.py."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from drivers import FIRST, GRANULE, HOST, SECOND, contents
from stead.devices.cuda import CudaDriver
from stead.devices.driver import DriverError, Location, Meaning
from stead.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterator

    from doubles import CudaDouble

NODE = Location("host node", 0)
NOWHERE = 0x480000000000  # where nothing is


@pytest.fixture
def driver(cuda_double: CudaDouble) -> Iterator[CudaDriver]:
    driver = CudaDriver()
    yield driver
    driver.close()


@pytest.fixture
def mapped(driver: CudaDriver) -> Iterator[int]:
    """Two granules of the first device, which may read and write them."""
    address, handle = driver.reserve(4 * GRANULE, 0, 0), driver.create(2 * GRANULE, FIRST, shareable=True)
    driver.map(address, 2 * GRANULE, handle)
    driver.allow(address, 2 * GRANULE, [FIRST], "rw")
    yield address
    driver.unmap(address, 2 * GRANULE)
    driver.release(handle)
    driver.free(address, 4 * GRANULE)


def refused(meaning: Meaning, call: str, code: int) -> pytest.RaisesExc[DriverError]:
    def alike(error: DriverError) -> bool:
        return (error.meaning, error.call, error.code) == (meaning, call, code)

    return pytest.RaisesExc(DriverError, check=alike)


# ---- the driver and its devices ----


def test_an_attribute_that_the_driver_does_not_know_is_a_no(cuda_double: CudaDouble) -> None:
    cuda_double.refuse("cuDeviceGetAttribute", 1, nth=7)
    assert [each.host_located for each in CudaDriver().devices()] == [False, True]


def test_another_refusal_of_an_attribute_is_told(cuda_double: CudaDouble) -> None:
    cuda_double.refuse("cuDeviceGetAttribute", 999)
    with refused(Meaning.OTHER, "cuDeviceGetAttribute", 999):
        CudaDriver()


def test_no_context_is_made_for_what_takes_none(cuda_double: CudaDouble, driver: CudaDriver, mapped: int) -> None:
    driver.granularity(FIRST)
    driver.synchronize(0)
    assert [cuda_double.contexts(0), cuda_double.contexts(1)] == [0, 0]


def test_a_driver_that_is_too_old(cuda_double: CudaDouble) -> None:
    cuda_double.set_version(11040)
    with pytest.raises(Unsupported, match=r"12\.0 or newer; found: one for CUDA 11\.4"):
        CudaDriver()


def test_devices_that_do_not_share_the_addresses(cuda_double: CudaDouble) -> None:
    cuda_double.set(0, unified=False)
    cuda_double.set(1, manages_addresses=False)
    with pytest.raises(Unsupported, match=r"shares its process's addresses.*found: Double 0, Double 1"):
        CudaDriver()
    cuda_double.set(0, unified=True)
    assert [each.manages_addresses for each in CudaDriver().devices()] == [True, False]


@pytest.mark.parametrize("code", [46, 803, 999])
def test_a_driver_that_does_not_start(cuda_double: CudaDouble, code: int) -> None:
    cuda_double.refuse("cuInit", code)
    with pytest.raises(Unsupported, match=rf"cuInit answered \w+ \({code}\)"):
        CudaDriver()


def run_alone(program: str, *arguments: str) -> str:
    """In a Python of its own, with the tests beside it; what it prints."""
    found = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_without_the_package_it_says_how_to_install_it() -> None:
    program = """
import sys
sys.modules["cuda"] = None  # as if it was not there
from stead.devices.cuda import CudaDriver
from stead.errors import Unsupported
try:
    CudaDriver()
except Unsupported as error:
    print(error)
"""
    assert "pip install 'stead[cuda]'; found: no cuda.bindings" in run_alone(program)


def test_an_old_package_is_told_to_be_old(monkeypatch: pytest.MonkeyPatch, cuda_double: CudaDouble) -> None:
    from cuda.bindings import driver as api

    class OfBefore:
        """CUdevice_attribute of 12.8."""

    monkeypatch.setattr(api, "CUdevice_attribute", OfBefore)
    with pytest.raises(
        Unsupported, match=r"pip install 'stead\[cuda\]'; found: a cuda\.bindings from before 12\.9"
    ):
        CudaDriver()


def test_without_a_driver_it_says_so() -> None:
    program = """
import ctypes
from stead.devices.cuda import CudaDriver
from stead.errors import Unsupported
try:
    ctypes.CDLL("libcuda.so.1")
except OSError:
    try:
        CudaDriver()
    except Unsupported as error:
        print(error)
else:
    print("there is one")
"""
    found = run_alone(program)
    if "there is one" in found:
        pytest.skip("NVIDIA's driver is installed here")
    assert "CUDA needs NVIDIA's driver (libcuda.so.1); found: none that can be loaded" in found


# ---- contexts ----


def test_a_context_is_made_where_a_call_needs_one_and_only_of_its_device(
    cuda_double: CudaDouble, driver: CudaDriver
) -> None:
    assert driver.free_memory(1) == 1 << 30
    assert [cuda_double.contexts(0), cuda_double.contexts(1)] == [0, 1]
    driver.free_memory(1)
    assert cuda_double.contexts(1) == 1


def test_memory_is_filled_and_copied_in_a_context_of_its_device(
    cuda_double: CudaDouble, driver: CudaDriver
) -> None:
    address, handle = driver.reserve(GRANULE, 0, 0), driver.create(GRANULE, SECOND, shareable=False)
    driver.map(address, GRANULE, handle)
    driver.allow(address, GRANULE, [SECOND], "rw")
    driver.fill(address, GRANULE, 0xA5)
    assert contents(driver, address + GRANULE - 2, 2) == b"\xa5\xa5"
    assert [cuda_double.contexts(0), cuda_double.contexts(1)] == [0, 1]


def test_the_callers_context_is_as_it_was(cuda_double: CudaDouble, driver: CudaDriver, mapped: int) -> None:
    from cuda.bindings import driver as api

    _, own = api.cuDevicePrimaryCtxRetain(1)
    api.cuCtxPushCurrent(own)
    try:
        event = driver.record(0, 0)
        driver.wait(event)
        driver.forget(event)
        driver.fill(mapped, 16, 1)
        driver.free_managed(driver.managed(4096))
        with pytest.raises(DriverError):
            driver.fill(NOWHERE, 16, 1)
        with pytest.raises(DriverError):
            driver.unregister(NOWHERE)
        driver.synchronize(0)
        assert cuda_double.depth() == 1
        _, now = api.cuCtxGetDevice()
        assert int(now) == 1
    finally:
        api.cuCtxPopCurrent()
        api.cuDevicePrimaryCtxRelease(1)


def test_contexts_go_with_the_driver(cuda_double: CudaDouble) -> None:
    driver = CudaDriver()
    driver.free_memory(0)
    driver.close()
    driver.close()
    assert cuda_double.contexts(0) == 0
    driver.free_memory(0)
    assert cuda_double.contexts(0) == 1
    del driver
    assert cuda_double.contexts(0) == 0


def test_a_context_that_cannot_be_made_is_told_and_tried_again(
    cuda_double: CudaDouble, driver: CudaDriver
) -> None:
    cuda_double.refuse("cuDevicePrimaryCtxRetain", 2)
    with refused(Meaning.OUT_OF_MEMORY, "cuDevicePrimaryCtxRetain", 2):
        driver.free_memory(0)
    assert driver.free_memory(0) == 1 << 30


def test_two_drivers_are_one(cuda_double: CudaDouble, driver: CudaDriver, mapped: int) -> None:
    other = CudaDriver()
    other.fill(mapped, 8, 7)
    other.close()
    assert contents(driver, mapped, 8) == b"\7" * 8


# ---- errors ----


@pytest.mark.parametrize(
    ("code", "name", "meaning"),
    [
        (1, "CUDA_ERROR_INVALID_VALUE", Meaning.INVALID),
        (2, "CUDA_ERROR_OUT_OF_MEMORY", Meaning.OUT_OF_MEMORY),
        (3, "CUDA_ERROR_NOT_INITIALIZED", Meaning.GONE),
        (4, "CUDA_ERROR_DEINITIALIZED", Meaning.GONE),
        (101, "CUDA_ERROR_INVALID_DEVICE", Meaning.INVALID),
        (700, "CUDA_ERROR_ILLEGAL_ADDRESS", Meaning.GONE),
        (719, "CUDA_ERROR_LAUNCH_FAILED", Meaning.GONE),
        (800, "CUDA_ERROR_NOT_PERMITTED", Meaning.UNSUPPORTED),
        (801, "CUDA_ERROR_NOT_SUPPORTED", Meaning.UNSUPPORTED),
        (999, "CUDA_ERROR_UNKNOWN", Meaning.OTHER),
        (54321, "an error that cuda.bindings does not know", Meaning.OTHER),
    ],
)
def test_an_error_says_which_call_was_answered_what(
    cuda_double: CudaDouble, driver: CudaDriver, code: int, name: str, meaning: Meaning
) -> None:
    cuda_double.refuse("cuMemAddressReserve", code)
    with refused(meaning, "cuMemAddressReserve", code) as found:
        driver.reserve(GRANULE, 0, 0)
    assert found.value.name == name
    assert f"cuMemAddressReserve answered {name} ({code})" in str(found.value)
    assert not cuda_double.holds()


def test_what_is_half_done_is_undone(cuda_double: CudaDouble, driver: CudaDriver) -> None:
    memory = ctypes.create_string_buffer(8192)
    cuda_double.refuse("cuMemHostGetDevicePointer", 801)
    with refused(Meaning.UNSUPPORTED, "cuMemHostGetDevicePointer", 801):
        driver.register(ctypes.addressof(memory), 8192)
    cuda_double.refuse("cuEventRecord", 400)
    with refused(Meaning.INVALID, "cuEventRecord", 400):
        driver.record(0, 0)
    assert not cuda_double.holds()


# ---- places ----


def test_the_host_is_named_as_the_memory_was(driver: CudaDriver) -> None:
    """CUDA: "Users cannot specify HOST_NUMA accessibility for allocations created on with other
    location types"."""
    address = driver.reserve(2 * GRANULE, 0, 0)
    for place, where, other in ((address, NODE, HOST), (address + GRANULE, HOST, NODE)):
        handle = driver.create(GRANULE, where, shareable=False)
        driver.map(place, GRANULE, handle)
        driver.allow(place, GRANULE, [where], "rw")
        with refused(Meaning.INVALID, "cuMemSetAccess", 1):
            driver.allow(place, GRANULE, [other], "rw")


def test_memory_of_no_node_in_particular_is_not_shared(driver: CudaDriver) -> None:
    with refused(Meaning.INVALID, "cuMemCreate", 1):
        driver.create(GRANULE, HOST, shareable=True)


def test_without_descriptors_nothing_is_shared(cuda_double: CudaDouble, driver: CudaDriver) -> None:
    cuda_double.set(0, shares_by_descriptor=False)
    with refused(Meaning.UNSUPPORTED, "cuMemCreate", 801):
        driver.create(GRANULE, FIRST, shareable=True)
    handle = driver.create(GRANULE, FIRST, shareable=False)
    with refused(Meaning.INVALID, "cuMemExportToShareableHandle", 1):
        driver.export(handle)


def test_what_is_registered_may_be_elsewhere_on_devices(cuda_double: CudaDouble, driver: CudaDriver) -> None:
    cuda_double.set(1, registered_at_host_address=False)
    memory = ctypes.create_string_buffer(8192)
    here = ctypes.addressof(memory)
    there = driver.register(here, 8192)
    assert there != here
    driver.fill(there, 8192, 0x42)
    assert memory.raw == b"\x42" * 8192
    driver.unregister(here)


def test_registered_twice(driver: CudaDriver) -> None:
    memory = ctypes.create_string_buffer(8192)
    here = ctypes.addressof(memory)
    assert driver.register(here, 8192) == here
    with refused(Meaning.INVALID, "cuMemHostRegister", 712):
        driver.register(here + 4096, 16)
    driver.unregister(here)
    with refused(Meaning.INVALID, "cuMemHostUnregister", 713):
        driver.unregister(here)


# ---- order ----


def test_the_default_stream_is_done_when_fill_and_copy_return(
    cuda_double: CudaDouble, driver: CudaDriver, mapped: int
) -> None:
    """cuMemcpy between devices, and cuMemset, return before: so they are waited for."""
    before = cuda_double.calls("cuStreamSynchronize")
    driver.fill(mapped, 32, 1)
    driver.copy(mapped + 16, mapped, 16)
    assert cuda_double.calls("cuStreamSynchronize") == before + 2


def test_work_that_meets_no_memory_is_a_fault_of_the_device(cuda_double: CudaDouble, driver: CudaDriver) -> None:
    address, handle = driver.reserve(GRANULE, 0, 0), driver.create(GRANULE, FIRST, shareable=False)
    driver.map(address, GRANULE, handle)
    driver.allow(address, GRANULE, [FIRST], "rw")
    cuda_double.fill(7, address, GRANULE, 9)
    driver.free_memory(0)
    driver.unmap(address, GRANULE)  # which does not wait
    with refused(Meaning.GONE, "cuCtxSynchronize", 700):
        driver.synchronize(0)
    assert cuda_double.count("faults") == 1


# ---- threads and forks ----


def test_threads_have_contexts_of_their_own(cuda_double: CudaDouble, driver: CudaDriver, mapped: int) -> None:
    start, wrong = threading.Barrier(4), []

    def work(number: int) -> None:
        start.wait()
        for _ in range(50):
            driver.fill(mapped + 4096 * number, 64, number)
            driver.free_memory(number % 2)
            if contents(driver, mapped + 4096 * number, 64) != bytes([number]) * 64 or cuda_double.depth():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong
    assert [cuda_double.contexts(0), cuda_double.contexts(1)] == [1, 1]


def test_a_forked_child_is_told_instead_of_hanging(cuda_library: CudaDouble) -> None:
    """In a process of its own: pytest's has threads."""
    program = """
import os, sys
from doubles import CudaDouble
double = CudaDouble(sys.argv[1])
double.reset()
from stead.devices.cuda import CudaDriver
from stead.devices.driver import Location
from stead.errors import Unsupported
driver = CudaDriver()
driver.free_memory(0)
address = driver.reserve(2 << 20, 0, 0)
child = os.fork()
if not child:
    told = 0
    for attempt in (CudaDriver, lambda: driver.free(address, 2 << 20), lambda: driver.free_memory(0)):
        try:
            attempt()
        except Unsupported as error:
            told += "CUDA does not survive fork" in str(error)
    driver.close()
    os._exit(told)
_, status = os.waitpid(child, 0)
driver.free(address, 2 << 20)
driver.close()
print(os.waitstatus_to_exitcode(status), double.holds(), double.contexts(0))
"""
    assert run_alone(program, str(cuda_library.path)) == "3 {} 0\n"
