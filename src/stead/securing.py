"""Memory that is there: memfds allocated to the last page, huge pages that are really switched on.

Each function refuses with LimitReached or Unsupported where the kernel would go on and let a later touch
pay: with SIGBUS, with the out-of-memory killer, or with small pages in silence.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from functools import cache
from typing import TYPE_CHECKING

from stead import _native
from stead.errors import LimitReached, Unsupported
from stead.proc import cgroup_memory, meminfo, read_text
from stead.ranges import align_up
from stead.sizes import format_size

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = os.sysconf("SC_PAGESIZE")

# FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE (uapi/linux/falloc.h)
PUNCH_HOLE = 0x02 | 0x01


def shared_memory(name: str, wanted: int, explicit_huge_pages: bool) -> tuple[int, int]:
    """A memfd of at least ``wanted`` bytes, all allocated, sealed against shrinking: its descriptor and size."""
    page = needed_huge_page_size() if explicit_huge_pages else PAGE
    size = align_up(wanted, page)
    fd = new_memfd(name, os.MFD_HUGETLB if explicit_huge_pages else 0)
    try:
        secure(fd, size, explicit_huge_pages)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    except BaseException:
        os.close(fd)
        raise
    return fd, size


def sparse_memory(name: str, size: int) -> int:
    """A memfd of ``size`` bytes of which none is allocated, of a length that nobody can change, and that only this
    user may open: its descriptor."""
    fd = new_memfd(name)
    try:
        os.fchmod(fd, 0o600)
        try:
            os.ftruncate(fd, size)
        except OSError as error:
            raise _no_memory(error.errno or 0, size, False) from None
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(fd)
        raise
    return fd


def extend(fd: int, start: int, stop: int, mapping: int = 0) -> None:
    """Allocate the bytes from ``start`` to ``stop`` of a memfd, all or none; in huge pages where it can be, if
    the whole file is mapped at ``mapping``. Raises LimitReached."""
    for offset in range(start, stop, _PIECE):
        try:
            _check_available(stop - offset, stop - start)
            piece = min(_PIECE, stop - offset)
            if mapping:
                _collapse(fd, offset, offset + piece, mapping)
            allocate(fd, 0, offset, piece, lambda number: _no_memory(number, stop - start, False))
        except BaseException:
            end = min(offset + _PIECE, stop)
            allocate(fd, PUNCH_HOLE, start, end - start, lambda number: OSError(number, "no hole"))
            raise


def new_memfd(name: str, flags: int = 0) -> int:
    """An empty memfd that can be sealed; not inherited. Raises LimitReached when there is no descriptor left."""
    flags |= os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        try:
            return os.memfd_create(name, flags | _native.MFD_NOEXEC_SEAL)
        except OSError as error:
            if error.errno != errno.EINVAL:  # before Linux 6.3
                raise
            return os.memfd_create(name, flags)
    except OSError as error:
        limit = {errno.EMFILE: "RLIMIT_NOFILE", errno.ENFILE: "fs.file-max"}.get(error.errno or 0)
        if limit:
            raise LimitReached(f"no descriptor for shared memory: {error}", limit, error.errno or 0) from None
        raise


# Allocated in pieces, so that a signal (^C) is answered between two of them, and so that other
# processes' needs are seen meanwhile.
_PIECE = 1 << 28
# Below this much the kernel may be asked blindly: it takes less than this from its reserves.
_UNCHECKED = 1 << 24


def secure(fd: int, size: int, explicit: bool = False) -> None:
    """Make a memfd ``size`` bytes long and allocate all of them. Raises LimitReached."""
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        raise _no_memory(error.errno or 0, size, explicit) from None
    for offset in range(0, size, _PIECE):
        if not explicit:
            _check_available(size - offset, size)
        piece = min(_PIECE, size - offset)
        allocate(fd, 0, offset, piece, lambda number: _no_memory(number, size, explicit))


def allocate(fd: int, mode: int, offset: int, size: int, refusal: Callable[[int], Exception]) -> None:
    """fallocate(2), again after a signal (Python's handlers run in between)."""
    while (got := _native.fallocate(fd, mode, offset, size)) == -errno.EINTR:
        pass
    if got < 0:
        raise refusal(-got)


def _check_available(needed: int, size: int) -> None:
    """Refuse what cannot be had, because the kernel would not: fallocate on a memfd goes on until the
    out-of-memory killer picks a process, and it need not be ours."""
    if needed <= _UNCHECKED:
        return
    available = available_memory()
    if available is not None and needed > available:
        raise LimitReached(
            f"{format_size(size)} of shared memory is more than there is: {format_size(available)} available",
            "memory",
        )


def available_memory() -> int | None:
    """Bytes that can be allocated without driving anyone out: MemAvailable and free swap, and what the
    cgroup leaves (v2). None where /proc does not tell."""
    found = meminfo()
    if "MemAvailable" not in found:
        return None
    available = found["MemAvailable"] + found.get("SwapFree", 0)
    for limit, used in cgroup_memory():
        if used is not None:
            available = min(available, max(limit - used, 0))
    return available


def _no_memory(number: int, size: int, explicit: bool) -> Exception:
    if explicit and number in (errno.ENOMEM, errno.ENOSPC):
        message = f"{format_size(size)} of explicit huge pages are more than the pool has free (vm.nr_hugepages)"
        return LimitReached(message, "vm.nr_hugepages", number)
    limit = {
        errno.EFBIG: "RLIMIT_FSIZE",
        errno.ENOMEM: "memory",
        errno.ENOSPC: "memory",
        errno.EDQUOT: "quota",
        errno.EINVAL: "the largest file",
    }.get(number)
    message = f"{format_size(size)} of shared memory cannot be allocated: {os.strerror(number)}"
    return LimitReached(message, limit, number) if limit else OSError(number, message)


# ---- huge pages -----------------------------------------------------------------------------------


def transparent_huge_pages(switch: str) -> tuple[int, ...]:
    """The advice that asks for them. Raises Unsupported where the kernel would take it and do nothing."""
    path = f"/sys/kernel/mm/transparent_hugepage/{switch}"
    state = read_text(path)
    if not state:
        raise Unsupported("huge='transparent'", "a kernel with transparent huge pages", f"no {path}")
    if "[never]" in state or "[deny]" in state:
        raise Unsupported("huge='transparent'", f"'advise' or 'always' in {path}", state)
    return (_native.MADV_HUGEPAGE,)


# Of one call; and the most of this thread's time that a page may take, before the kernel is asked for no more.
_COLLAPSED = 1 << 25
_PATIENCE = 4_000_000


@cache
def _transparent_huge_page_size() -> int:
    return int(read_text("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size") or 0)


def _collapse(fd: int, start: int, stop: int, mapping: int) -> None:
    """Huge pages for what of a memfd lies between two offsets and is not allocated, as far as the kernel gives
    them: at once, where it is cheap. They take a fifth of the time to allocate, to touch, and to map in every
    process.

    For shared memory a setting of the whole machine usually forbids them (shmem_enabled); MADV_COLLAPSE does not
    mind, but wants something to collapse: the first page of each."""
    huge = _transparent_huge_page_size()
    if not huge or mapping % huge:
        return
    start, stop = align_up(start, huge), stop // huge * huge
    for at in range(start, stop, _COLLAPSED):
        end = min(at + _COLLAPSED, stop)
        for page in range(at, end, huge):
            if _native.fallocate(fd, 0, page, PAGE) < 0:
                return
        began = time.thread_time_ns()
        # Not there (before Linux 6.1), or none to be had: ordinary pages then.
        if _native.advise(mapping + at, end - at, _native.MADV_COLLAPSE) < 0:
            return
        if time.thread_time_ns() - began > _PATIENCE * ((end - at) // huge):
            return


def explicit_huge_page_size() -> int:
    """Bytes of the default explicit huge page; 0 where there are none."""
    return meminfo().get("Hugepagesize", 0)


def needed_huge_page_size() -> int:
    size = explicit_huge_page_size()
    if not size:
        raise Unsupported("huge='explicit'", "a kernel with hugetlb pages", "no Hugepagesize in /proc/meminfo")
    return size
