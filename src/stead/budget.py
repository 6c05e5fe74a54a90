"""What a process may still map: each limit, and how much of it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from stead.errors import LimitReached
from stead.proc import read_number, soft_limits, status, status_size, tightest_cgroup
from stead.sizes import format_size
from stead.space.headroom import MAPPINGS as HEADROOM

if TYPE_CHECKING:
    from stead.space.process import ProcessSpace


class Bound(NamedTuple):
    """A limit: the ``most`` there may be, None where there is none, and what is ``used``, None where that is not
    told."""

    most: int | None
    used: int | None


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one process. ``address_space``: RLIMIT_AS; ``data``: RLIMIT_DATA; ``mappings``: vm.max_map_count;
    ``memory``: the tightest cgroup. Bytes, but for mappings."""

    address_space: Bound
    data: Bound
    mappings: Bound
    memory: Bound


def limits(pid: int | None = None, mappings: int | None = None) -> Limits:
    """The limits of this process or of process ``pid``, of which it is known that it has so many ``mappings``."""
    process: int | Literal["self"] = "self" if pid is None else pid
    soft, now = soft_limits(process), status(process)
    return Limits(
        address_space=Bound(soft.get("Max address space"), status_size(now, "VmSize")),
        data=Bound(soft.get("Max data size"), status_size(now, "VmData")),
        mappings=Bound(read_number("/proc/sys/vm/max_map_count"), mappings),
        memory=Bound(*tightest_cgroup(process)),
    )


def overcommit() -> Literal["heuristic", "always", "never", "unknown"]:
    """What the kernel does where more memory is committed than there is (vm.overcommit_memory)."""
    match read_number("/proc/sys/vm/overcommit_memory"):
        case 0:
            return "heuristic"
        case 1:
            return "always"
        case 2:
            return "never"
        case _:
            return "unknown"


# ---- before a reservation is tried ----------------------------------------------------------------

# A part that is committed in the middle of a reservation makes three mappings of one.
_MAPPINGS = 3 + HEADROOM


def check_room(space: ProcessSpace, size: int) -> None:
    """That ``size`` bytes more of addresses, guards included, are within the limits of this process, and that
    something can be committed in them. Raises LimitReached, which names the limit."""
    now = space.limits()
    what = f"cannot reserve {format_size(size)}"
    most = now.max_address_space
    if most is not None and now.address_space + size > most:
        raise LimitReached(
            f"{what}: this process has {format_size(now.address_space)} of addresses, and RLIMIT_AS "
            f"(ulimit -v) is {format_size(most)}",
            "RLIMIT_AS",
        )
    if now.max_mappings is not None and now.mappings + _MAPPINGS > now.max_mappings:
        raise LimitReached(
            f"{what}: this process has {now.mappings} mappings, vm.max_map_count is {now.max_mappings}, and to "
            f"commit in a reservation takes up to {_MAPPINGS}",
            "max_map_count",
        )
    if size > space.usable.size:
        raise LimitReached(f"{what}: there are {format_size(space.usable.size)} of addresses here", "VA width")
