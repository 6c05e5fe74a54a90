"""A meeting of participants, driven here, and counted: exchanges, claims, bytes.

The messages are what would go over a wire (they are encoded and decoded), and merge as they would there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING

from stead.agreement import converse
from stead.errors import AddressSpaceError, Obstacle, Occupied
from stead.messages import Agreed, Message, Vote, merge
from stead.peers import wire
from stead.placement import Footprint
from stead.ranges import Range, RangeSet

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Hashable, Iterable, Sequence

    from stead.agreement import Participant


USABLE = Range(1 << 16, (1 << 47) - 4096)


class ListedSpace:
    """A space that is a list of what is mapped. ``thief``: takes a range in the last moment, where it says so."""

    def __init__(
        self,
        occupied: Iterable[tuple[int, int]],
        windows: tuple[Range, ...],
        granularity: int = 4096,
        thief: Callable[[Range], bool] = lambda _: False,
        usable: Range = USABLE,
    ) -> None:
        self.occupied = RangeSet(occupied)
        self.granularity = self.alignment = granularity
        self.windows, self.usable, self._thief = windows, usable, thief
        self.held: Range | None = None

    @property
    def identity(self) -> Hashable:
        return "a list", id(self)

    def outline(self, within: Range) -> Footprint:
        outside = RangeSet([(0, self.usable.start), (self.usable.stop, 1 << 64)])
        return Footprint(RangeSet(outside.overlapping(within)), self.granularity)

    def footprint(self, within: Range) -> Footprint:
        return Footprint(
            self.outline(within).occupied | RangeSet(self.occupied.overlapping(within)), self.granularity
        )

    def obstacle(self, where: Range) -> Obstacle | None:
        found = next(self.occupied.overlapping(where), None)
        return Obstacle(found, "a mapping", "this peer") if found else None

    def reserve_at(self, where: Range, keep: list[Range] | None = None) -> None:
        if self.obstacle(where) or self._thief(where):
            raise Occupied(where, None)
        self.held = where

    def release(self, where: Range) -> None:
        assert self.held == where
        self.held = None


@dataclass
class Meeting:
    """What came of it. ``exchanges``: messages that each sent; ``claims``: of these, votes about a claim.
    ``sent``: the longest message of an exchange and participant, in bytes; ``received``: each merged one."""

    outcome: Agreed | AddressSpaceError
    exchanges: int = 0
    claims: int = 0
    sent: list[int] = field(default_factory=list)
    received: list[int] = field(default_factory=list)

    @property
    def found(self) -> bool:
        return isinstance(self.outcome, Agreed)


def meet(participants: Sequence[Participant], attempts: int = 32) -> Meeting:
    """Drive them to the end, which must be the same for all: AssertionError where it is not."""
    talks: list[Generator[Message, Message, Agreed]] = [converse(each, attempts) for each in participants]
    meeting = Meeting(AddressSpaceError("never begun"))
    messages = [next(each) for each in talks]
    while True:
        encoded = [wire.encode(each) for each in messages]
        merged = reduce(merge, (wire.decode(each) for each in encoded))
        answer = wire.encode(merged)
        meeting.exchanges += 1
        meeting.claims += isinstance(merged, Vote)
        meeting.sent.append(max(map(len, encoded)))
        meeting.received.append(len(answer))
        messages, ends = [], []
        for each in talks:
            try:
                messages.append(each.send(wire.decode(answer)))
            except StopIteration as end:
                ends.append(end.value)
            except AddressSpaceError as error:
                ends.append(error)
        if ends:
            assert not messages, f"{len(ends)} of {len(talks)} came to an end: {ends[0]!r}"
            assert len({repr(each) for each in ends}) == 1, ends
            meeting.outcome = ends[0]
            return meeting
