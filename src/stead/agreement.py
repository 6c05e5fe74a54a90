"""Many spaces, one range: the protocol as a generator that does no I/O.

:func:`agree` yields a message, is sent the messages of all participants in an order that is the same for
all, and goes on; threads, pipes, MPI and the simulator are drivers of a few lines. Every participant
computes the same decisions from the same messages, so nobody is told what to do.

Rounds: everyone says what it wants and what it sees (nothing, at first: claiming costs less than looking);
all choose the same range from the merged footprints, claim it, and vote. A "no" makes everyone give back,
look, and go round again. No-clobber is atomic in each space; all-or-none is compensated: others may see a
range taken for a moment and given back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Protocol, TypeVar

from stead.errors import AddressSpaceError, Contended, NoGap, Occupied, PeersDisagree, RollbackFailed
from stead.placement import Footprint, Placement
from stead.ranges import NOTHING, Range

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from stead.space.protocol import AddressSpace


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a participant wants, in order of preference, and what it sees there.

    ``token``: 16 random bytes; the smallest of all becomes the seed and the identity of what is agreed.
    """

    token: bytes
    wanted: tuple[Placement, ...]
    seen: Footprint


@dataclass(frozen=True, slots=True)
class Vote:
    """Whether my claim succeeded, and if not, why."""

    claimed: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Agreed:
    """The range (``where`` inside its guards, ``outer`` with them) that every participant now holds."""

    where: Range
    outer: Range
    token: bytes


Message = Proposal | Vote

# Ranges in a footprint that is sent: some 30 KiB, however many mappings there are.
MOST_RANGES = 1024
_Result = TypeVar("_Result")


class Exchange(Protocol):
    """How participants exchange: each gives a message and gets those of all, in one order for all.

    Raises PeerFailed when one of them is gone or too late.
    """

    def allgather(self, message: Message) -> Sequence[Message]: ...


def drive(conversation: Generator[Message, Sequence[Message], _Result], exchange: Exchange) -> _Result:
    """Run a conversation over an exchange. What was taken is given back on every way out but success."""
    try:
        message = next(conversation)
        while True:
            try:
                answers = exchange.allgather(message)
            except BaseException as error:
                message = conversation.throw(error)
            else:
                message = conversation.send(answers)
    except StopIteration as end:
        result: _Result = end.value
        return result
    finally:
        conversation.close()


def agree(
    space: AddressSpace, wanted: Sequence[Placement], token: bytes, attempts: int = 32
) -> Generator[Message, Sequence[Message], Agreed]:
    """Claim one range, the same for all participants, in ``space``: all of them hold it, or none.

    ``wanted``: placements in order of preference, equal for all but for seeds; where their windows differ
    (another width of addresses), those of the smallest token are taken.

    Raises PeersDisagree, NoGap (no common range in any window), Contended, and what the driver throws in
    (PeerFailed); RollbackFailed when a claim could not be given back.
    """
    seen = Footprint(NOTHING, space.granularity)
    window = 0  # which of the wanted placements we are at
    for attempt in range(attempts):
        proposals = yield Proposal(token, tuple(wanted), seen)
        first = _first(proposals)
        _check_same(first, proposals)
        common = reduce(or_, (each.seen for each in proposals if isinstance(each, Proposal)))
        placement = _seeded(first.wanted[window], first.token)
        where = placement.choose(common, attempt)
        if where is None:
            window += 1
            if window == len(first.wanted):
                raise _no_gap(placement, common, len(proposals))
            seen = Footprint(NOTHING, space.granularity)
            continue
        outer = placement.with_guards(where, common.granularity)
        vote = _claim(space, placement, outer)
        try:
            votes = yield vote
        except BaseException as error:
            if vote.claimed:
                _give_back(space, outer, error)
            raise
        if all(isinstance(each, Vote) and each.claimed for each in votes):
            return Agreed(where, outer, first.token)
        if vote.claimed:
            _give_back(space, outer, None)
        seen = space.footprint(placement.within).coarsened(MOST_RANGES)
    raise Contended(f"{attempts} ranges were chosen, and each was lost by one of the peers", attempts=attempts)


def _claim(space: AddressSpace, placement: Placement, outer: Range) -> Vote:
    """Never raises: a refusal of any kind is a vote, so that the others learn of it."""
    try:
        if any(space.outline(placement.within).occupied.overlapping(outer)):
            return Vote(False, f"{outer} must be kept clear here")
        space.reserve_at(outer)
    except (Occupied, AddressSpaceError) as error:
        return Vote(False, str(error))
    return Vote(True)


def _first(proposals: Sequence[Message]) -> Proposal:
    found = [each for each in proposals if isinstance(each, Proposal)]
    if len(found) != len(proposals):
        raise PeersDisagree("some are at a vote, others at a proposal")
    return min(found, key=lambda each: each.token)


def _check_same(first: Proposal, proposals: Sequence[Message]) -> None:
    """All must want the same, but for the window: that may depend on the machine."""
    for number, each in enumerate(proposals):
        assert isinstance(each, Proposal)
        for what in ("size", "alignment", "guard", "prefer"):
            ours, theirs = getattr(first.wanted[0], what), getattr(each.wanted[0], what)
            if ours != theirs:
                raise PeersDisagree(f"{what} is {ours} for one, and {theirs} for peer {number}")


def _seeded(placement: Placement, token: bytes) -> Placement:
    return replace(placement, seed=int.from_bytes(token[:8], "big"))


def _no_gap(placement: Placement, common: Footprint, peers: int) -> NoGap:
    largest = common.occupied.largest_gap(placement.within)
    return NoGap(
        f"no range of {placement} is free in all of the {peers} peers; the largest common gap is {largest}",
        wanted=placement,
        largest=largest,
    )


def _give_back(space: AddressSpace, outer: Range, cause: BaseException | None) -> None:
    try:
        space.release(outer)
    except AddressSpaceError as error:
        raise RollbackFailed(f"{outer} could not be given back: {error}", [outer]) from cause
