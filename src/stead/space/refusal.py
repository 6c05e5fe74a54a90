"""From an errno to an exception that says what is in the way: the one place where numbers become classes."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from stead.errors import AddressSpaceError, LimitReached, Occupied, Unsupported
from stead.sizes import format_size

if TYPE_CHECKING:
    from stead.kernel import Limits
    from stead.ranges import Range


def refusal(
    number: int, doing: str, where: Range, usable: Range, limits: Limits, *, accessible: bool = False
) -> Exception:
    """Why the kernel answered ``number`` when we were ``doing`` something ("claim", "commit" …) at ``where``.

    mmap(2), mprotect(2) and munmap(2) list what each number can mean; ENOMEM alone has six causes, told
    apart by what ``limits`` says now. ``accessible``: the memory was to be readable or writable.
    """
    place = f"cannot {doing} {where}"
    if number == errno.EEXIST:
        return Occupied(where)
    if where.stop > usable.stop and number in (errno.ENOMEM, errno.EINVAL):
        text = f"{place}: addresses end at {usable.stop:#x} here"
        return LimitReached(text, "VA width", number)
    if number == errno.ENOMEM:
        return _out_of_memory(place, where, limits, doing == "claim", accessible)
    if number == errno.EPERM and where.start < usable.start:
        text = f"{place}: below {usable.start:#x} only a privileged process may map (vm.mmap_min_addr)"
        return LimitReached(text, "mmap_min_addr", number)
    if number == errno.EAGAIN:
        return LimitReached(f"{place}: more memory would be locked than allowed", "RLIMIT_MEMLOCK", number)
    if number == errno.EACCES:
        return Unsupported(f"{doing} {where}", "a backing that was opened for it", os.strerror(number))
    if number == errno.EINVAL:
        return ValueError(f"{place}: the kernel takes whole pages only, and at least one")
    return AddressSpaceError(f"{place}: {os.strerror(number)}", errno=number)


def _out_of_memory(place: str, where: Range, limits: Limits, new: bool, accessible: bool) -> LimitReached:
    # What happens inside addresses that are held takes no more of them.
    most = limits.max_address_space
    if new and most is not None and limits.address_space + where.size > most:
        return LimitReached(
            f"{place}: this process has {format_size(limits.address_space)} of addresses, and RLIMIT_AS "
            f"(ulimit -v) is {format_size(most)}",
            "RLIMIT_AS",
        )
    # The kernel lets the count pass the limit by one, or refuses two below it, by what it would split.
    if limits.max_mappings is not None and limits.mappings >= limits.max_mappings - 2:
        return LimitReached(
            f"{place}: this process has {limits.mappings} mappings, and vm.max_map_count is {limits.max_mappings}",
            "max_map_count",
        )
    if accessible and limits.max_data is not None and limits.data + where.size > limits.max_data:
        return LimitReached(
            f"{place}: this process has {format_size(limits.data)} of private memory, and RLIMIT_DATA "
            f"(ulimit -d) is {format_size(limits.max_data)}",
            "RLIMIT_DATA",
        )
    if accessible and limits.overcommit != "always":
        return LimitReached(
            f"{place}: more memory than the kernel will promise (vm.overcommit_memory: {limits.overcommit})",
            "overcommit",
        )
    return LimitReached(f"{place}: the kernel has no memory or no room for it", "memory")
