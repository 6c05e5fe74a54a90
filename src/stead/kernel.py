"""The kernel as everything above sees it: a handful of system calls and what can be read of it.

`space.live` is the real one, `space.simulated` stands in for kernels that we do not run on. Calls answer
with a value that is zero or positive, or with a negated errno, as `native/mapping.h` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stead.errors import Obstacle
    from stead.ranges import Range, RangeSet


class Manner(StrEnum):
    """What a kernel does with MAP_FIXED_NOREPLACE where something is in the way."""

    EXACT = "exact"  # refuses: Linux 4.19 and later (commit 7aa867dd8952)
    START_ONLY = "start-only"  # looks at the first page and replaces the rest: Linux 4.17 and 4.18
    IGNORED = "ignored"  # takes the address as a hint: before 4.17, gVisor until 2026


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds this space, for saying why the kernel refused. Bytes, and None where nothing is set."""

    mappings: int
    max_mappings: int | None
    address_space: int
    max_address_space: int | None
    data: int
    max_data: int | None
    overcommit: str  # the policy: "heuristic", "always", "never"


class Kernel(Protocol):
    page_size: int
    min_address: int
    sanitizer: str | None

    def claim(self, address: int, size: int, /) -> int: ...
    def hint(self, address: int, size: int, /) -> int: ...
    def place(self, address: int, size: int, protection: int, flags: int, fd: int, offset: int, /) -> int: ...
    def unmap(self, address: int, size: int, /) -> int: ...
    def protect(self, address: int, size: int, protection: int, /) -> int: ...
    def advise(self, address: int, size: int, advice: int, /) -> int: ...
    def name(self, address: int, size: int, name: str, /) -> int: ...

    def mapped(self, window: Range, /) -> RangeSet:
        """What is mapped in the window, clipped to it: a hint, old by the time it is read."""
        ...

    def lost(self, window: Range, /, *, committed: bool) -> Iterator[Range]:
        """What of a range that was ours is so no more: not mapped or, unless it is ``committed``, accessible.
        Must get by with little memory: it is asked for at the limits."""
        ...

    def kept_clear(self) -> RangeSet:
        """Where nothing is mapped, and nothing may be: the stack and the heap grow there."""
        ...

    def obstacle(self, where: Range, /) -> Obstacle | None:
        """What is mapped at ``where``, for saying so; None if nothing is (any more)."""
        ...

    def limits(self) -> Limits: ...
