"""What this process holds through stead. The kernel merges equal neighbours and forgets who asked;
this table does not, and so tells own occupation from foreign.

Reservations write themselves in and out; snapshots and refusals read. Holds no reservation alive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from weakref import ref

    from stead.ranges import Range, RangeSet
    from stead.space.protocol import AddressSpace


class Held(Protocol):
    """What the ledger says of a reservation."""

    @property
    def name(self) -> str | None: ...
    @property
    def outer(self) -> Range:
        """The range with its guards."""

    @property
    def space(self) -> AddressSpace: ...
    @property
    def committed(self) -> RangeSet:
        """What has memory behind it."""

    @property
    def released(self) -> bool: ...


# ``held.add(ref(reservation, forget))`` enters one, until it is released, or gone: a set forgets a dead
# reference by itself, at the price of a C call.
held: set[ref[Held]] = set()
forget = held.discard


def at(start: int) -> Held | None:
    """What begins at ``start``, its guard included."""
    return next((each for each in _live() if each.outer.start == start), None)


def within(where: Range) -> Iterator[Held]:
    """What overlaps ``where``, in no order."""
    return (each for each in _live() if each.outer.overlaps(where))


def _live() -> Iterator[Held]:
    for each in tuple(held):
        found = each()
        if found is not None and not found.released:
            yield found
