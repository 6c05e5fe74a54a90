"""What this kernel can do, found by trying it in scratch space of our own, never by version number:
distributions backport, emulators and sandboxes claim versions that they are not.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from stead.errors import LimitReached
from stead.kernel import Manner
from stead.ranges import Range

if TYPE_CHECKING:
    from stead.kernel import Kernel

_ATTEMPTS = 8
_WIDEST, _NARROWEST = 57, 31


def probe_manner(kernel: Kernel) -> Manner:
    """How the kernel takes MAP_FIXED_NOREPLACE. Replaces nothing but its own scratch pages, on any kernel.

    Raises LimitReached when there is no address space for three pages.
    """
    page = kernel.page_size
    for _ in range(_ATTEMPTS):
        start = kernel.hint(0, 3 * page)
        if start < 0:
            raise _no_room(kernel, "three pages", -start)
        owned = {start, start + page, start + 2 * page}
        try:
            got = kernel.claim(start, page)
            if got >= 0:
                owned.add(got)
                return Manner.IGNORED
            if got != -errno.EEXIST:
                return Manner.IGNORED  # it does not know the flag, and says so
            # The case that 4.17 gets wrong: a range that starts free and ends in a page of ours. The
            # first page is free for a moment, and a thread may take it: then we try again.
            if kernel.unmap(start, page) == 0:
                owned.discard(start)
            got = kernel.claim(start, 2 * page)
            if got == start:
                owned.add(start)
                return Manner.START_ONLY
            if got >= 0:
                owned.update((got, got + page))
                return Manner.IGNORED
            if kernel.claim(start, page) == start:
                owned.add(start)
                return Manner.EXACT
        finally:
            for address in sorted(owned):  # from an edge: at the limit of mappings none can be split
                kernel.unmap(address, page)
    return Manner.START_ONLY  # undecided: this answer is safe on every kernel


def probe_width(kernel: Kernel) -> int:
    """Bits of a user address, by claiming the top page of each width (as FEX-Emu does).

    57 and 48 on x86-64 with and without LA57 stand for 2^56 and 2^47 of user space: the answer counts
    what a process can map, so it is 56 or 47 there. Raises LimitReached where not even a page can be had.
    """
    page = kernel.page_size
    if kernel.sanitizer == "thread":
        # ThreadSanitizer answers a mapping in most places by aborting: only ask for one anywhere.
        return _width_of_a_page(kernel)
    for width in range(_WIDEST, _NARROWEST, -1):
        # Not the very last page: Linux keeps it free on x86-64 (TASK_SIZE_MAX).
        top = (1 << width) - 2 * page
        got = kernel.claim(top, page)
        if got >= 0:
            kernel.unmap(got, page)
        if got in (top, -errno.EEXIST):
            return width
        if got >= 0 and got.bit_length() >= width:
            return width  # taken as a hint, the top page being in use
    # No top page could be had: the space is narrower still, or a limit refuses all of them alike. A limit
    # must not be taken for a width, which is remembered after the limit is lifted.
    return max(_width_of_a_page(kernel), _NARROWEST)


def _width_of_a_page(kernel: Kernel) -> int:
    got = kernel.hint(0, kernel.page_size)
    if got < 0:
        raise _no_room(kernel, "page", -got)
    kernel.unmap(got, kernel.page_size)
    return got.bit_length()


def _no_room(kernel: Kernel, what: str, number: int) -> LimitReached:
    limit = "memory" if kernel.limits().max_address_space is None else "RLIMIT_AS"
    return LimitReached(f"no {what} of address space to probe in: {os.strerror(number)}", limit, number)


def probe_usable(kernel: Kernel) -> Range:
    """All addresses that can be mapped: from mmap_min_addr up to the page below the last one."""
    return Range(kernel.min_address, (1 << probe_width(kernel)) - kernel.page_size)
