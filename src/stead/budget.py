"""What a process may still map: each limit, and how much of it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from stead.proc import cgroup_memory, read_number, soft_limits, status, status_size


class Bound(NamedTuple):
    """A limit: the ``most`` there may be, None where there is none, and what is ``used``, None where that is not
    told."""

    most: int | None
    used: int | None

    @property
    def left(self) -> int | None:
        """None where there is no limit, or it is not known."""
        return None if self.most is None or self.used is None else max(self.most - self.used, 0)


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
    memory = min(cgroup_memory(process), key=lambda each: each[0], default=(None, None))
    return Limits(
        address_space=Bound(soft.get("Max address space"), status_size(now, "VmSize")),
        data=Bound(soft.get("Max data size"), status_size(now, "VmData")),
        mappings=Bound(read_number("/proc/sys/vm/max_map_count"), mappings),
        memory=Bound(*memory),
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
