"""What this process holds through stead. The kernel merges equal neighbours and forgets who asked;
this table does not, and so tells own occupation from foreign.

Reservations write themselves in and out; snapshots and refusals read. Holds no reservation alive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from weakref import ref

    from stead.ranges import Range


class Held(Protocol):
    """What the ledger says of a reservation."""

    @property
    def name(self) -> str | None: ...
    @property
    def outer(self) -> Range:
        """The range with its guards."""


_held: dict[int, ref[Held]] = {}


def enter(start: int, held: ref[Held]) -> None:
    _held[start] = held


def leave(start: int) -> None:
    _held.pop(start, None)


def at(start: int) -> Held | None:
    """What begins at ``start``, its guard included."""
    found = _held.get(start)
    return found() if found else None


def within(where: Range) -> Iterator[Held]:
    """What overlaps ``where``, in no order."""
    for each in list(_held.values()):
        held = each()
        if held is not None and held.outer.overlaps(where):
            yield held
