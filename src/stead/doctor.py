"""What this machine offers: the kernel, the limits, and each feature, found by trying it.

Data only: `view.report` prints it. Whatever is tried is tried on scratch memory of our own.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import resource
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from stead import _native
from stead.kernel import Manner
from stead.proc import meminfo, read_number, read_text, tightest_cgroup
from stead.securing import available_memory
from stead.sizes import format_size
from stead.space.live import LiveKernel, soft_limit
from stead.space.process import this_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PAGE = os.sysconf("SC_PAGESIZE")
_THP = "/sys/kernel/mm/transparent_hugepage/"


@dataclass(frozen=True, slots=True)
class Limit:
    """``value``: the limit, None where there is none or it is not told; ``used`` of it. ``text`` says both."""

    name: str
    value: int | None
    used: int | None
    text: str


@dataclass(frozen=True, slots=True)
class Feature:
    """``found``: what the probe saw. ``absence``: what it costs where the feature is not present."""

    name: str
    present: bool
    found: str
    absence: str


@dataclass(frozen=True, slots=True)
class Report:
    kernel: str
    machine: str
    python: str
    page_size: int
    address_bits: int
    limits: tuple[Limit, ...]
    features: tuple[Feature, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data for :func:`json.dumps`; sizes in bytes."""
        return asdict(self)


def examine() -> Report:
    """Look at this machine, from this process."""
    return Report(
        kernel=f"{platform.system()} {platform.release()}",
        machine=platform.machine(),
        python=platform.python_version(),
        page_size=_PAGE,
        address_bits=(this_process().usable.stop - 1).bit_length(),
        limits=tuple(_limits()),
        features=tuple(_features()),
    )


# ---- limits ---------------------------------------------------------------------------------------


def _limits() -> Iterator[Limit]:
    now = LiveKernel().limits()
    yield _size_limit("RLIMIT_AS", now.max_address_space, now.address_space)
    yield _size_limit("RLIMIT_DATA", now.max_data, now.data)
    yield _size_limit("RLIMIT_STACK", soft_limit(resource.RLIMIT_STACK), None)
    open_files = _open_files()
    files = soft_limit(resource.RLIMIT_NOFILE)
    yield Limit("RLIMIT_NOFILE", files, open_files, _count(files, open_files, "open"))
    yield Limit("vm.max_map_count", now.max_mappings, now.mappings, _count(now.max_mappings, now.mappings, "used"))
    yield Limit("vm.overcommit_memory", read_number("/proc/sys/vm/overcommit_memory"), None, now.overcommit)
    floor = read_number("/proc/sys/vm/mmap_min_addr")
    yield Limit("vm.mmap_min_addr", floor, None, "not told" if floor is None else f"{floor:#x}")
    top = this_process().usable.stop
    yield Limit("addresses", top, None, f"{(top - 1).bit_length()} bits: up to {top:#x}")
    aslr = read_number("/proc/sys/kernel/randomize_va_space")
    states = {0: "off", 1: "on, except for the heap", 2: "on"}
    yield Limit("address randomization", aslr, None, states.get(-1 if aslr is None else aslr, "not told"))
    bound, used = tightest_cgroup()
    yield _size_limit("cgroup memory", bound, used)
    free = available_memory()
    text = "not told" if free is None else format_size(free)
    yield Limit("memory available", free, None, text)


def _size_limit(name: str, value: int | None, used: int | None) -> Limit:
    text = "unlimited" if value is None else format_size(value)
    return Limit(name, value, used, text if used is None else f"{text}, {format_size(used)} used")


def _count(value: int | None, used: int | None, what: str) -> str:
    text = "not told" if value is None else f"{value:,}"
    return text if used is None else f"{text}, {used:,} {what}"


def _open_files() -> int | None:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return None


# ---- features -------------------------------------------------------------------------------------


def _features() -> Iterator[Feature]:
    manner = this_process().manner
    yield Feature(
        "MAP_FIXED_NOREPLACE",
        manner is Manner.EXACT,
        manner.value,
        "lost claims cost ten times more",
    )
    yield _feature("PROCMAP_QUERY", _procmap_query, "each look reads all of the maps")
    yield _feature("memfd_create", _memfd, "no meeting in shared memory")
    yield _feature("MFD_NOEXEC_SEAL", _noexec_seal, "shared memory can be executed")
    yield _feature("fallocate on a memfd", _fallocate, "out of memory is a fatal SIGBUS")
    yield _feature("named anonymous memory", _name, "maps list reservations unnamed")
    yield _feature("MADV_DONTDUMP", _dontdump, "core dumps hold reservations")
    yield _feature("MADV_POPULATE_WRITE", _populate, "memory fills fault by fault")
    yield _feature("MADV_GUARD_INSTALL", _guard, "an inner guard takes 2 mappings")
    yield _huge_switch("huge pages, anonymous", "enabled", "first touch is 5 times slower")
    yield _huge_switch("huge pages, shared", "shmem_enabled", "the same, of shared memory")
    yield _huge_pool()
    yield _feature(
        "/proc/<pid>/fd",
        _fd_of_another,
        "a process that runs already cannot be sent a reservation",
    )
    found = _native.sanitizer()
    yield Feature(
        "free of sanitizers",
        found is None,
        f"{found} sanitizer" if found else "no sanitizer",
        "fewer places to reserve in",
    )


def _feature(name: str, probe: Callable[[], int], absence: str) -> Feature:
    """``probe`` answers 0 or more, or a negated errno; it may also raise OSError."""
    try:
        got = probe()
    except OSError as error:
        got = -(error.errno or errno.EIO)
    return Feature(name, got >= 0, "works" if got >= 0 else os.strerror(-got), absence)


def _procmap_query() -> int:
    descriptor = os.open("/proc/self/maps", os.O_RDONLY | os.O_CLOEXEC)
    try:
        got = _native.query(descriptor, 0)
        return got if isinstance(got, int) else 0
    finally:
        os.close(descriptor)


@contextmanager
def _memfd_of(flags: int = 0) -> Iterator[int]:
    descriptor = os.memfd_create("stead:doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _memfd() -> int:
    with _memfd_of() as descriptor:
        return fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)


def _noexec_seal() -> int:
    with _memfd_of(_native.MFD_NOEXEC_SEAL):
        return 0


def _fallocate() -> int:
    with _memfd_of() as descriptor:
        return _native.fallocate(descriptor, 0, 0, _PAGE)


@contextmanager
def _scratch() -> Iterator[int]:
    """The address of a private, writable page of our own, where the kernel likes."""
    address = _native.hint(0, _PAGE)
    if address < 0:
        raise OSError(-address, os.strerror(-address))
    try:
        _native.protect(address, _PAGE, _native.PROT_READ | _native.PROT_WRITE)
        yield address
    finally:
        _native.unmap(address, _PAGE)


def _name() -> int:
    with _scratch() as address:
        return _native.name(address, _PAGE, "stead:doctor")


def _dontdump() -> int:
    with _scratch() as address:
        return _native.advise(address, _PAGE, _native.MADV_DONTDUMP)


def _populate() -> int:
    with _scratch() as address:
        return _native.advise(address, _PAGE, _native.MADV_POPULATE_WRITE)


def _guard() -> int:
    with _scratch() as address:
        return _native.advise(address, _PAGE, _native.MADV_GUARD_INSTALL)


def _huge_switch(name: str, switch: str, absence: str) -> Feature:
    """Transparent huge pages: the kernel takes the advice in any case, so its switch is what decides."""
    with _scratch() as address:
        taken = _native.advise(address, _PAGE, _native.MADV_HUGEPAGE) >= 0
    state = read_text(_THP + switch)
    chosen = state.partition("[")[2].partition("]")[0] or "not in this kernel"
    present = taken and bool(state) and chosen not in ("never", "deny")
    return Feature(name, present, chosen, absence)


def _huge_pool() -> Feature:
    found = meminfo()
    size = found.get("Hugepagesize", 0)
    free = max(found.get("HugePages_Free", 0) - found.get("HugePages_Rsvd", 0), 0)
    text = f"{free} of {format_size(size)} free" if size else "not in this kernel"
    return Feature("huge pages, explicit", bool(size and free), text, "huge='explicit' is refused")


_OPEN_OURS = """
import os, sys
try:
    os.open(sys.argv[1], os.O_RDWR)
except OSError as error:
    print(error.errno)
else:
    print(0)
"""


def _fd_of_another() -> int:
    """A child opens a descriptor of its parent, as a worker does with what it was sent."""
    with _memfd_of() as descriptor:
        path = f"/proc/{os.getpid()}/fd/{descriptor}"
        child = [sys.executable, "-I", "-S", "-c", _OPEN_OURS, path]
        done = subprocess.run(child, capture_output=True, text=True, timeout=30, check=False)
        return -int(done.stdout or errno.EIO)
