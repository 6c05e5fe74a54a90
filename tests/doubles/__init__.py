"""Doubles of devices' drivers: libraries with a driver's name and calls that do all of it on this host's memory.

Built from the C files beside this one, and loaded under the driver's own SONAME before anybody asks the dynamic
linker for it: whoever opens "libcuda.so.1" afterwards, in this process, gets the double, unchanged. Outside of the
tests that ask for it, it is a driver without a device. Where the real driver was loaded before, there is no double
to be had in this process; tests on real devices run in a process of their own.
"""

from __future__ import annotations

import contextlib
import ctypes
import subprocess
from ctypes import POINTER, c_char_p, c_int, c_int64, c_uint64
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stead.devices.driver import Location
from stead.ranges import Range
from stead.sizes import parse_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HERE = Path(__file__).parent
CORE = ("plan.c", "memory.c", "addresses.c", "host.c", "work.c")
FACTS = (
    "unified", "manages_addresses", "shares_by_descriptor", "reaches_pageable", "registered_at_host_address",
    "manages_memory", "host_located",
)  # fmt: skip
KINDS = ("device", "host", "host node")
SIZE = "1 GiB"
GRANULARITY = "2 MiB"
DEVICE = Location("device", 0)
ANYWHERE = Range(0, (1 << 64) - 1)


class Face(NamedTuple):
    """A driver: what its library is called, and its pieces."""

    soname: str
    pieces: tuple[str, ...]


CUDA = Face("libcuda.so.1", ("cuda.c", "cuda_memory.c", "cuda_order.c", "cuda_kernel.c"))


def build(face: Face, folder: Path) -> Path:
    """The library, in ``folder``. Symbolic: several doubles in one process have a core each."""
    library = folder / face.soname
    sources = [HERE / each for each in (*CORE, *face.pieces)]
    subprocess.run(
        ["cc", "-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-pthread",
         "-Wl,-Bsymbolic", f"-Wl,-soname,{face.soname}", "-o", library, *sources, "-ldl"],
        check=True,
    )  # fmt: skip
    return library


class _Location(ctypes.Structure):
    _fields_ = (("kind", c_int), ("id", c_int))


class Gate:
    """Where calls of one function wait, until it is opened."""

    def __init__(self, double: Double, function: str) -> None:
        self._double, self._function = double, function.encode()

    def wait(self, calls: int = 1) -> None:
        """Until so many calls wait here."""
        self._double.library.double_await(self._function, calls)

    def open(self) -> None:
        self._double.library.double_open_gate(self._function)


class Double:
    """One driver's double in this process: what it is to do, and what it holds. Sizes in bytes, or as text."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.library = library = ctypes.CDLL(str(path))
        for name, result, *arguments in (
            ("reset", None, c_int, c_uint64, c_uint64),
            ("set_fact", None, c_int, c_int, c_int),
            ("set_budget", None, c_int, c_int, c_uint64),
            ("refuse", None, c_char_p, c_int, c_int),
            ("move", None, c_int, c_uint64, c_uint64),
            ("set_parcels", None, c_uint64),
            ("own", c_int, c_uint64, c_uint64),
            ("close_gate", None, c_char_p),
            ("await", None, c_char_p, c_int),
            ("open_gate", None, c_char_p),
            ("run", c_int, c_uint64, c_int),
            ("count", c_int64, c_char_p),
            ("calls", c_int64, c_char_p),
            ("bytes", c_uint64, c_int, c_int),
            ("allowed", c_int, POINTER(c_int), _Location, c_uint64),
            ("fill", c_int, c_uint64, c_int, c_uint64, c_uint64, c_int),
            ("copy", c_int, c_uint64, c_int, c_uint64, c_uint64, c_uint64),
        ):
            function = getattr(library, f"double_{name}")
            function.restype, function.argtypes = result, arguments

    def reset(self, devices: int = 2, memory: int | str = SIZE, granularity: int | str = GRANULARITY) -> None:
        """As new. 0 devices: a driver that finds none."""
        self.library.double_reset(devices, parse_size(memory, "memory"), parse_size(granularity, "granularity"))

    # ---- what it is to do ----

    def set(self, device: int = 0, **facts: bool) -> None:
        """What a device can, by the names of DeviceFacts."""
        for name, value in facts.items():
            self.library.double_set_fact(device, FACTS.index(name), value)

    def limit(self, size: int | str, where: Location = DEVICE) -> None:
        """Memory that may be created at ``where``; what there is already counts, too."""
        self.library.double_set_budget(KINDS.index(where.kind), where.id, parse_size(size, "size"))

    def refuse(self, function: str, code: int, nth: int = 1) -> None:
        """The n-th next call of ``function``, without a version in its name, answers ``code``."""
        self.library.double_refuse(function.encode(), nth, code)

    def move(self, times: int = -1, within: Range = ANYWHERE) -> None:
        """The next ``times`` reservations (-1: all) with a hint in ``within`` go elsewhere."""
        self.library.double_move(times, *within)

    def set_parcels(self, size: int | str) -> None:
        """Reservations are in parcels: multiples of it, a power of two, at multiples of it."""
        self.library.double_set_parcels(parse_size(size, "size"))

    def own(self, size: int | str, used: int | str) -> None:
        """A parcel of the driver's, of which it uses the beginning: until it is reset."""
        assert self.library.double_own(parse_size(size, "size"), parse_size(used, "used"))

    @contextlib.contextmanager
    def slow(self, function: str) -> Iterator[Gate]:
        """Calls of ``function`` wait, until the gate is opened or the block left."""
        gate = Gate(self, function)
        self.library.double_close_gate(function.encode())
        try:
            yield gate
        finally:
            gate.open()

    # ---- streams: any number above 2 is one; they keep their work until they are waited for, or run ----

    def fill(self, stream: int, address: int, size: int, byte: int, device: int = 0) -> None:
        """Work that writes there when its turn comes, as a kernel would."""
        assert self.library.double_fill(stream, device, address, size, byte) == 0

    def copy(self, stream: int, to: int, source: int, size: int, device: int = 0) -> None:
        assert self.library.double_copy(stream, device, to, source, size) == 0

    def run(self, stream: int, works: int = -1) -> int:
        """Do the next works of a stream (-1: all); how many there were."""
        return int(self.library.double_run(stream, works))

    # ---- what it holds ----

    def count(self, what: str) -> int:
        """Reservations, handles, memories, mappings, registered, managed, events, works that are held, faults."""
        found = int(self.library.double_count(what.encode()))
        if found < 0:
            raise ValueError(f"what is {what!r}, which a double does not count")
        return found

    def calls(self, function: str) -> int:
        """Since the reset."""
        return int(self.library.double_calls(function.encode()))

    def bytes(self, where: Location = DEVICE) -> int:
        """Memory created at ``where`` that is not gone."""
        return int(self.library.double_bytes(KINDS.index(where.kind), where.id))

    def allowed(self, who: Location, address: int) -> str:
        """ "none", "r" or "rw"; raises LookupError where nothing is mapped."""
        access = c_int()
        if self.library.double_allowed(access, _Location(KINDS.index(who.kind), who.id), address):
            raise LookupError(f"nothing is mapped at {address:#x}")
        return {0: "none", 1: "r", 3: "rw"}[access.value]

    def holds(self, *kinds: str) -> dict[str, int]:
        """All that can be leaked, of which there is any."""
        every: Sequence[str] = kinds or (
            "reservations", "handles", "memories", "mappings", "registered", "managed", "events"
        )  # fmt: skip
        return {each: count for each in every if (count := self.count(each))}


class CudaDouble(Double):
    """libcuda.so.1, for cuda.bindings, which must not have been used in this process before."""

    def set_version(self, number: int) -> None:
        """What cuDriverGetVersion says: 12080 is CUDA 12.8."""
        self.library.double_set_version(number)

    def set_kernels(self, known: bool) -> None:
        """Whether a device runs the one kernel of stead.devices.adding; none, as long as nobody says so."""
        self.library.double_set_kernels(known)

    def set_first_device(self, number: int) -> None:
        """Which of the host's devices is this process's first one, as CUDA_VISIBLE_DEVICES may have it."""
        self.library.double_set_first_device(number)

    def contexts(self, device: int = 0) -> int:
        """How often the primary context of the device is retained."""
        return int(self.library.double_contexts(device))

    def depth(self) -> int:
        """How many contexts the calling thread has on its stack."""
        return int(self.library.double_depth())
