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


# By the first address, the guard's included. Reservations write here themselves: this is on the path of each.
held: dict[int, ref[Held]] = {}


def at(start: int) -> Held | None:
    """What begins at ``start``, its guard included."""
    found = held.get(start)
    return found() if found else None


def within(where: Range) -> Iterator[Held]:
    """What overlaps ``where``, in no order."""
    for each in list(held.values()):
        found = each()
        if found is not None and found.outer.overlaps(where):
            yield found
