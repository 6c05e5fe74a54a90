"""What is asked of a CUDA driver, and what it answers: one function for each question, which says what was done.

Each runs in a process of its own (:mod:`stead.devices.probe`): some are about what the driver has done by then,
and one may end with a fault of the device, after which nothing more can be asked. Each gives back what it takes.
None takes more memory of a device than a few granules; addresses, up to all that there are, for a moment.
"""

from __future__ import annotations

import ctypes
import os
import random
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from stead.backing import ANONYMOUS
from stead.devices.adding import NO_KERNELS, add_on_device
from stead.devices.driver import DriverError, Location
from stead.devices.hints import followed_at
from stead.errors import AddressSpaceError, Occupied
from stead.ranges import Range
from stead.sizes import format_size
from stead.space.process import this_process

if TYPE_CHECKING:
    from collections.abc import Callable

    from stead.devices.cuda import CudaDriver

_MIB, _GIB, _TIB = 1 << 20, 1 << 30, 1 << 40
_TRIES = 200
_HOST = Location("host node", 0)

Answer = dict[str, Any]


def host_first(driver: CudaDriver, device: int) -> Answer:
    """Does a range held by mmap(PROT_NONE) block cuMemAddressReserve at it?"""
    unit = _unit(driver, device)
    place = _free_place(32 * unit, followed_at(driver, unit, this_process().windows[0]))
    this_process().reserve_at(place)
    try:
        got = driver.reserve(32 * unit, 0, place.start)
        driver.free(got, 32 * unit)
    finally:
        this_process().release(place)
    return {
        "done": f"claimed {place} without access, and reserved as much with its start as the hint",
        "answer": "no: the driver gave the same addresses" if got == place.start else "yes",
        "the driver went to": hex(got),
    }


def driver_first(driver: CudaDriver, device: int) -> Answer:
    """Is the driver's reservation visible in /proc/self/maps, and does MAP_FIXED_NOREPLACE respect it?"""
    unit = _unit(driver, device)
    wanted = _free_place(32 * unit, unit)
    got = Range.sized(driver.reserve(32 * unit, 0, wanted.start), 32 * unit)
    try:
        lines = [line for line in _maps() if _range_of(line).overlaps(got)]
        try:
            this_process().reserve_at(got)
        except Occupied:
            respected = True
        else:
            respected = False
            this_process().release(got)
    finally:
        driver.free(got.start, got.size)
    return {
        "done": f"reserved {got} through the driver, read the maps, and claimed the same",
        "answer": f"{'visible' if lines else 'not visible'}, {'respected' if respected else 'replaced'}",
        "lines of the maps": lines[:4],
        "lines after it was given back": [line for line in _maps() if _range_of(line).overlaps(got)][:4],
    }


def hints(driver: CudaDriver, device: int) -> Answer:
    """Can a reservation be claimed by hint in our windows, and how often exactly there?"""
    unit = _unit(driver, device)
    alignment = followed_at(driver, unit, this_process().windows[0])
    found: Answer = {
        "done": f"for each window and size, up to {_TRIES} reservations at places drawn at random, each freed",
        "hints are followed at multiples of": alignment,
    }
    said = []
    for apart in dict.fromkeys((alignment, unit)):
        exact = tried = 0
        for window in this_process().windows:
            for size in (unit, 64 * _MIB, _GIB, 64 * _GIB):
                there, elsewhere = _hinted(driver, window, size, apart)
                exact, tried = exact + there, tried + there + len(elsewhere)
                found[f"{format_size(size)} in {window}, at multiples of {format_size(apart)}"] = {
                    "exactly there": there,
                    "elsewhere": len(elsewhere),
                    "such as": elsewhere[:3],
                }
        said.append(f"{exact} of {tried} at multiples of {format_size(apart)}")
    return found | {"answer": "exactly there: " + ", ".join(said)}


def _hinted(driver: CudaDriver, window: Range, size: int, unit: int) -> tuple[int, list[str]]:
    """How often exactly there, and where else; for a second at most, as nobody has said what a driver takes."""
    there, stop = 0, time.monotonic() + 1
    elsewhere: list[str] = []
    while there + len(elsewhere) < _TRIES and (time.monotonic() < stop or not there + len(elsewhere)):
        place = _draw(window, size, unit)
        got = driver.reserve(size, 0, place)
        driver.free(got, size)
        if got == place:
            there += 1
        else:
            elsewhere.append(f"{place:#x} became {got:#x}")
    return there, elsewhere


def holes(driver: CudaDriver, device: int) -> Answer:
    """Once there is a context: are hints followed, or do holes in what the driver has already go first?"""
    unit, window = _unit(driver, device), this_process().windows[0]
    driver.free_memory(device)  # which makes the context
    alignment = followed_at(driver, unit, window)
    found: Answer = {
        "done": f"for each size up to {_TRIES} reservations at multiples of {format_size(alignment)}, each freed"
    }
    said = []
    for size in dict.fromkeys((unit, alignment, 2 * alignment, 16 * alignment)):
        there, elsewhere = _hinted(driver, window, size, alignment)
        found[format_size(size)] = {
            "exactly there": there,
            "elsewhere": len(elsewhere),
            "such as": elsewhere[:3],
        }
        said.append(f"{format_size(size)}: {there} of {there + len(elsewhere)}")
    return found | {"answer": "exactly there, of " + ", of ".join(said)}


def largest(driver: CudaDriver, device: int) -> Answer:
    """How large is the largest reservation?"""
    unit = _unit(driver, device)
    fits, fails = 0, 128 * _TIB
    refusal = ""
    while fails - fits > max(_TIB // 4, unit):
        size = (fits + fails) // 2 // unit * unit
        try:
            driver.free(driver.reserve(size, 0, 0), size)
        except DriverError as error:
            fails, refusal = size, str(error)
        else:
            fits = size
    return {
        "done": "reserved without a hint, and halved what is between what fits and what is refused",
        "answer": f"{format_size(fits)}; {format_size(fails)} is refused",
        "refusal": refusal,
        "bytes": fits,
    }


def granularity(driver: CudaDriver, device: int) -> Answer:
    """What must sizes and places be multiples of?"""
    places = {
        "the device": Location("device", device),
        "NUMA node 0 of the host": _HOST,
        "the host": Location("host"),
    }
    found: Answer = {"done": "cuMemGetAllocationGranularity for each place, the least and the recommended"}
    for name, place in places.items():
        found[name] = _or_refusal(partial(_granularities, driver, place))
    return found | {"answer": found["the device"]}


def contexts(driver: CudaDriver, device: int) -> Answer:
    """Do calls on addresses and memory take a context?"""
    unit, where = _unit(driver, device), Location("device", device)
    address = driver.reserve(unit, 0, 0)
    try:
        handle = driver.create(unit, where, shareable=False)
        try:
            driver.map(address, unit, handle)
            try:
                driver.allow(address, unit, [where], "rw")
            finally:
                driver.unmap(address, unit)
        finally:
            driver.release(handle)
    finally:
        driver.free(address, unit)
    _, active = driver.call("cuDevicePrimaryCtxGetState", device)
    return {
        "done": "reserved, created, mapped, allowed and gave all back, with no context",
        "answer": "no",
        "the primary context was made by it": bool(active),
    }


def pools(driver: CudaDriver, device: int) -> Answer:
    """Do default and graph pools take addresses first?"""
    stream: Any = None
    seen, taken, refused = _mapped(), {}, []

    def context() -> None:
        nonlocal stream
        stream = driver.call_within(device, "cuStreamCreate", 1)

    def default_pool() -> None:
        address = driver.call_within(device, "cuMemAllocAsync", 2 * _MIB, stream)
        driver.call_within(device, "cuMemFreeAsync", address, stream)
        driver.call_within(device, "cuStreamSynchronize", stream)

    def graph_pool() -> None:
        mode = driver.api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        driver.call_within(device, "cuStreamBeginCapture", stream, mode)
        address = driver.call_within(device, "cuMemAllocAsync", 2 * _MIB, stream)
        driver.call_within(device, "cuMemFreeAsync", address, stream)
        graph = driver.call_within(device, "cuStreamEndCapture", stream)
        made = driver.call_within(device, "cuGraphInstantiate", graph, 0)
        driver.call_within(device, "cuGraphLaunch", made, stream)
        driver.call_within(device, "cuStreamSynchronize", stream)

    for step, name in (
        (context, "the context"), (default_pool, "2 MiB of the default pool"), (graph_pool, "2 MiB of a graph's")
    ):  # fmt: skip
        try:
            step()
        except AddressSpaceError as error:
            refused.append(str(error))
            continue
        now = _mapped()
        taken[name] = {where: now[where] - seen[where] for where in now}
        seen = now
    said = [f"{name} took {format_size(max(0, sizes['anywhere']))}" for name, sizes in taken.items()]
    return {
        "done": "added up what is mapped in this process, reserved or not, before and after each step",
        "answer": "; ".join(said),
        "bytes": taken,
        "refused": refused,
    }


def registered(driver: CudaDriver, device: int) -> Answer:
    """Does cuMemHostRegister of memory in our window keep its address on the device?"""
    size = 2 * _MIB
    place, memory = _arena(size)
    try:
        driver.free_memory(device)  # for the context of this device to be there, and no other
        there = driver.register(place.start, size)
        try:
            ctypes.c_uint32.from_address(place.start).value = 40
            reached = _or_refusal(lambda: add_on_device(driver, device, there, 2))
            seen = ctypes.c_uint32.from_address(place.start).value
        finally:
            driver.unregister(place.start)
    finally:
        memory()
    return {
        "done": f"registered {place}, and had a kernel add 2 to the 40 there",
        "answer": "yes" if there == place.start else f"no: {there:#x}",
        "the kernel": reached,
        "the host sees": seen,
        "the driver says": driver.devices()[device].registered_at_host_address,
    }


def pageable(driver: CudaDriver, device: int) -> Answer:
    """Does the device reach ordinary mmap memory by itself?"""
    place, memory = _arena(2 * _MIB)
    try:
        ctypes.c_uint32.from_address(place.start).value = 40
        reached = _or_refusal(lambda: add_on_device(driver, device, place.start, 2))
        seen = ctypes.c_uint32.from_address(place.start).value
    finally:
        memory()
    if reached == NO_KERNELS:
        answer = NO_KERNELS
    else:
        answer = "yes" if seen == 42 else "no"
    return {
        "done": f"had a kernel add 2 to the 40 at {place.start:#x}",
        "answer": answer,
        "the kernel": reached,
        "the host sees": seen,
        "the driver says": driver.devices()[device].reaches_pageable,
    }


def host_located(driver: CudaDriver, device: int) -> Answer:
    """Does host-located cuMemCreate memory appear at one address for both?"""
    unit = max(driver.granularity(_HOST), _unit(driver, device))
    wanted = _free_place(unit, unit)
    address = driver.reserve(unit, 0, wanted.start)
    try:
        handle = driver.create(unit, _HOST, shareable=False)
        try:
            driver.map(address, unit, handle)
            try:
                driver.allow(address, unit, [_HOST, Location("device", device)], "rw")
                ctypes.c_uint32.from_address(address).value = 40
                reached = _or_refusal(lambda: add_on_device(driver, device, address, 2))
                seen = ctypes.c_uint32.from_address(address).value
                driver.fill(address + 4, 4, 7)
                filled = ctypes.c_uint32.from_address(address + 4).value
            finally:
                driver.unmap(address, unit)
        finally:
            driver.release(handle)
    finally:
        driver.free(address, unit)
    both = filled == 0x07070707 and seen == (40 if reached == NO_KERNELS else 42)
    return {
        "done": f"created it on NUMA node 0, mapped it at {address:#x} for both, wrote 40 there on the host, "
        " had a kernel add 2, and filled the next word through the driver",
        "answer": "yes" if both else "no",
        "the kernel": reached,
        "the host sees": [seen, hex(filled)],
    }


def exported(driver: CudaDriver, device: int) -> Answer:
    """Is an exported file descriptor close-on-exec, and what does it stand for?"""
    unit, where = _unit(driver, device), Location("device", device)
    handle = driver.create(unit, where, shareable=True)
    try:
        kind = driver.api.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
        fd = int(driver.call("cuMemExportToShareableHandle", handle, kind, 0))
        try:
            inherited, what = os.get_inheritable(fd), os.readlink(f"/proc/self/fd/{fd}")
            other = driver.adopt(fd, unit, where)
            driver.release(other)
        finally:
            os.close(fd)
    finally:
        driver.release(handle)
    return {
        "done": "exported a handle, looked at the descriptor, and imported it again",
        "answer": f"{'not ' * inherited}close-on-exec; {what}",
    }


QUESTIONS: dict[str, Callable[[CudaDriver, int], Answer]] = {
    each.__name__.replace("_", "-"): each
    for each in (
        host_first, driver_first, hints, holes, largest, granularity, contexts, pools, registered, pageable,
        host_located, exported,
    )
}  # fmt: skip


# ---- what they share ----


def _unit(driver: CudaDriver, device: int) -> int:
    return driver.granularity(Location("device", device))


def _granularities(driver: CudaDriver, place: Location) -> list[int]:
    return [driver.granularity(place), driver.granularity(place, recommended=True)]


def _draw(window: Range, size: int, unit: int) -> int:
    return random.randrange(-(-window.start // unit), (window.stop - size) // unit) * unit


def _free_place(size: int, unit: int) -> Range:
    """In the default window, where nothing is just now."""
    space = this_process()
    for _ in range(100):
        place = Range.sized(_draw(space.windows[0], size, unit), size)
        try:
            space.reserve_at(place)
        except Occupied:
            continue
        space.release(place)
        return place
    raise AddressSpaceError(f"nothing of {format_size(size)} is free in {space.windows[0]}")


def _arena(size: int) -> tuple[Range, Callable[[], None]]:
    """Ordinary memory in the default window, written to, as an arena's is; and what gives it back."""
    space, place = this_process(), _free_place(size, 2 * _MIB)
    space.reserve_at(place)
    space.commit(place, space.secure(ANONYMOUS, size, True), "rw")
    ctypes.memset(place.start, 1, size)
    return place, lambda: space.release(place)


def _maps() -> list[str]:
    with open("/proc/self/maps") as file:
        return file.read().splitlines()


def _range_of(line: str) -> Range:
    start, _, stop = line.split(maxsplit=1)[0].partition("-")
    return Range(int(start, 16), int(stop, 16))


def _mapped() -> dict[str, int]:
    """Bytes, anywhere and in the quiet windows."""
    found, quiet = [_range_of(line) for line in _maps()], this_process().windows[:-1]
    return {
        "anywhere": sum(each.size for each in found),
        "in our windows": sum(each.size for each in found if any(map(each.overlaps, quiet))),
    }


def _or_refusal(attempt: Callable[[], Any]) -> Any:
    try:
        return attempt()
    except AddressSpaceError as error:
        return str(error)
