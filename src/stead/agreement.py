"""Many spaces, one range: the protocol as a generator that does no I/O.

:func:`agree` yields a message, is sent the merged message of all participants (:func:`stead.messages.merge`), and
goes on; threads, pipes, sockets, MPI and the simulator are drivers of a few lines. Merging is associative and
commutative, so MPI reduces in any order, and nobody ever sees more than one message of bounded size. Everyone
computes the same decisions from the same merged message; nobody is told what to do.

A round: everyone says what is blocked for it, coarsely at first, and finer where that does not decide
(:mod:`stead.grid`); all choose the same range, claim it, and vote. A "no" makes everyone give back, look again,
and go round once more. No-clobber is atomic in each space; all-or-none is compensated: others may see a range
taken for a moment and given back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar
from weakref import WeakValueDictionary

from stead import events
from stead.errors import AddressSpaceError, Contended, NoGap, Occupied, PeerFailed, PeersDisagree, RollbackFailed
from stead.grid import CELLS, FREE, Bitmaps, Grid, Search, View, nominees
from stead.messages import (
    NAMED,
    NOMINEES,
    Agreed,
    Blame,
    Candidate,
    Discord,
    Look,
    Message,
    Proposal,
    Request,
    Said,
    Settled,
    Vote,
    grid_key,
)
from stead.placement import Footprint, scatter
from stead.ranges import NOTHING, Range, RangeSet

if TYPE_CHECKING:
    from collections.abc import Generator, Hashable, Sequence

    from stead.placement import Placement
    from stead.space.protocol import AddressSpace

_Result = TypeVar("_Result")
_Message = TypeVar("_Message", Proposal, Vote, Blame)


class Exchange(Protocol):
    """How participants exchange: each gives a message and gets the merged message of all.

    Raises PeerFailed when one of them is gone or too late.
    """

    @property
    def me(self) -> str:
        """Who this participant is, in what the others are told."""
        ...

    def allreduce(self, message: Message) -> Message: ...


def drive(conversation: Generator[Message, Message, _Result], exchange: Exchange) -> _Result:
    """Run a conversation over an exchange. What was taken is given back on every way out but success."""
    try:
        message = next(conversation)
        while True:
            try:
                answer = exchange.allreduce(message)
            except BaseException as error:
                message = conversation.throw(error)
            else:
                message = conversation.send(answer)
    except StopIteration as end:
        result: _Result = end.value
        return result
    finally:
        conversation.close()


def agree(
    space: AddressSpace, wanted: Sequence[Placement], token: bytes, me: str = "a peer", attempts: int = 32
) -> Generator[Message, Message, Agreed]:
    """Claim one range, the same for all participants, in ``space``: all of them hold it, or none.

    ``wanted``: placements in order of preference, equal for all but for seeds; where their windows differ
    (another width of addresses), those of the smallest token are taken. ``token``: 16 random bytes. ``me``: who
    this is, for the others' errors.

    A common range is found wherever there is one. Raises NoGap, which says who has what in the way where it would
    fit best; PeersDisagree; Contended (``attempts`` claims were lost); Occupied, where the others settled before
    and the range is taken here; what a kernel that can claim nothing says (LimitReached), and PeerFailed with its
    reason for the others; whatever else the driver throws in; RollbackFailed when a claim could not be given back.
    """
    return converse(Participant(space, tuple(wanted), token, me), attempts)


def converse(us: Participant, attempts: int = 32) -> Generator[Message, Message, Agreed]:
    """:func:`agree`, by a participant that exists already."""
    window = attempt = 0
    last: Vote | None = None
    while attempt < attempts:
        search = yield from us.search(window, attempt)
        if isinstance(search, Settled):
            return (yield from us.join(search))
        if search.found is None and us.anyone_lost:
            us.lost = NOTHING  # perhaps whoever was there has gone
        elif search.found is None:
            window += 1
            if window == len(us.wanted):
                raise (yield from us.no_gap(search.grid))
        else:
            where = search.grid.range(search.found)
            outer = search.grid.placement.with_guards(where, us.granularity)
            last = yield from us.vote(search.grid.placement, Agreed(where, outer, us.token))
            if events.listeners:
                facts = {"range": outer, "claimed": bool(last.claimed), "peers": us.peers}
                events.emit("agreement round", attempt=attempt, **facts)
            if last.claimed:
                return last.agreed
            attempt += 1
    why = f", the last by {_listed(last.lost, len(last.lost))}" if last else ""
    raise Contended(
        f"{attempts} ranges were chosen, and each was lost by one of the peers{why}", attempts=attempts
    )


# Who takes part in which agreement, of the spaces of this process: by identity, and the token of the agreement.
_taking_part: WeakValueDictionary[tuple[Hashable, bytes], Participant] = WeakValueDictionary()


class Participant:
    """One space's part in it: what it says, and what it does about what all say."""

    def __init__(self, space: AddressSpace, wanted: tuple[Placement, ...], token: bytes, me: str) -> None:
        self.space, self.me, self.own_token = space, me, token
        self.request = Request.of(wanted[0], space.granularity)
        # What is known of all: the smallest token, its owner's windows, the largest pages, how many there are.
        self.token, self.wanted, self.granularity, self.peers = token, wanted, space.granularity, 1
        # Lost claims are avoided even where a look does not show why: a kernel may refuse what it lists as free.
        self.lost: RangeSet = NOTHING
        self.anyone_lost = False
        self.nominated: tuple[int, ...] = ()

    # ---- looking ----

    def search(self, window: int, attempt: int) -> Generator[Message, Message, Search | Settled]:
        """To its end; or what was agreed on before we came."""
        search, free = self._look(window)
        unlike = 0
        while search.view:
            merged = yield self._proposal(search, free, attempt)
            if isinstance(merged, Settled):
                return merged
            proposal = _expect(Proposal, merged)
            _check_same(proposal)
            self.token, self.wanted, self.peers = proposal.token, proposal.wanted, proposal.peers
            self.granularity = max(self.granularity, proposal.granularity)
            if (look := proposal.look) is None:
                # Somebody has larger pages or other windows. Known to all now: once more, alike.
                unlike += 1
                if unlike > 1:
                    raise PeersDisagree("where to look: the windows and page sizes of the peers do not settle")
                search, free = self._look(window)
                continue
            self.anyone_lost = look.lost
            self.nominated = look.nominees or self.nominated
            draw = scatter(int.from_bytes(self.token[:8], "big"), attempt)
            search.feed(Bitmaps(look.touched, look.full), draw)
        return search

    def _look(self, window: int) -> tuple[Search, list[tuple[int, int]]]:
        grid = Grid.of(self.wanted[window], self.granularity)
        self.nominated, self.anyone_lost = (), False
        seen = self.space.footprint(grid.placement.within)
        return Search(grid), grid.free(Footprint(seen.occupied | self.lost, self.granularity))

    def _proposal(self, search: Search, free: list[tuple[int, int]], attempt: int) -> Proposal:
        assert search.view
        touched, full = self.bitmaps(search.view, free)
        names: tuple[int, ...] = ()
        if not self.nominated:
            seed = int.from_bytes(self.own_token[8:], "big")
            names = tuple(nominees(free, scatter(seed, attempt), NAMED))
        lost = any(self.lost.overlapping(search.grid.placement.within))
        look = Look(grid_key(search.grid, search.view), touched, full, names, lost)
        return Proposal(self.own_token, self.wanted, self.granularity, ((self.request, self.me),), look)

    def bitmaps(self, view: View, free: list[tuple[int, int]]) -> Bitmaps:
        """What is blocked here, of what is looked at."""
        return view.bitmaps(free)

    # ---- claiming ----

    def vote(self, placement: Placement, agreed: Agreed) -> Generator[Message, Message, Vote]:
        """Claim it, and hear how the others fared. Held afterwards where all have claimed it."""
        outer = agreed.outer
        mine, refusal = Vote(agreed), None
        try:
            self._check_alone()
            if any(self.space.outline(placement.within).occupied.overlapping(outer)):
                raise Occupied(outer, None)
            self.space.reserve_at(outer)
        except Occupied:
            by = self.space.obstacle(outer) or "must be kept clear, or was taken for a moment"
            mine = Vote(agreed, lost=(Said.by(self.me, f"{outer} is taken: {by}"),))
            self.lost |= RangeSet([outer])
        except AddressSpaceError as error:
            # Of any kind: the others must learn of it before it is raised.
            mine, refusal = Vote(agreed, refused=(Said.by(self.me, error),)), error
        try:
            votes = _expect(Vote, (yield mine))
            if not votes.alike:
                raise PeersDisagree("which range to claim: are there different versions of stead?")
            if votes.refused:
                raise refusal or PeerFailed(votes.refused[0].peer, f"could not claim: {votes.refused[0].what}")
        except BaseException as error:
            if mine.claimed:
                self._give_back(outer, error)
            raise
        if mine.claimed and not votes.claimed:
            self._give_back(outer, None)
        return votes

    def _check_alone(self) -> None:
        """Two with the same addresses would be in each other's way for ever: a process, and its devices'
        driver."""
        key = (self.space.identity, self.token)
        if _taking_part.setdefault(key, self) is not self:
            raise PeersDisagree(
                f"whose addresses: {self.me} has the same addresses as another participant of this process"
            )

    def join(self, settled: Settled) -> Generator[Message, Message, Agreed]:
        """Claim what the others hold already, exactly."""
        if settled.request != self.request:
            raise PeersDisagree(
                f"the others hold {_asked(settled.request)}; {self.me} asks for {_asked(self.request)}"
            )
        outer = settled.agreed.outer
        everywhere = self.wanted[-1] if self.wanted[-1].within.contains(outer) else self.wanted[0]
        votes = yield from self.vote(everywhere, settled.agreed)
        if not votes.claimed:
            raise Occupied(outer, self.space.obstacle(outer))
        return settled.agreed

    def _give_back(self, outer: Range, cause: BaseException | None) -> None:
        try:
            self.space.release(outer)
        except AddressSpaceError as error:
            raise RollbackFailed(f"{outer} could not be given back: {error}", [outer]) from cause

    # ---- why not ----

    def no_gap(self, grid: Grid) -> Generator[Message, Message, AddressSpaceError]:
        """One more exchange: who has what in the way, where it would fit for as many as possible."""
        placement, page = grid.placement, self.granularity
        window = placement.within
        seen = self.space.footprint(window)
        slots = self.nominated or range(0, grid.count, -(-grid.count // NOMINEES) or 1)
        first, stop = window.start // page, window.stop // page
        pages = View(((0, stop - first),), -(-(stop - first) // CELLS)) if stop > first else View((), 1)
        free = [(-(-gap.start // page) - first, gap.stop // page - first) for gap in seen.occupied.gaps(window)]
        candidates = tuple(self._candidate(seen, placement, grid.range(slot)) for slot in slots)
        blame = _expect(Blame, (yield Blame(candidates, pages.bitmaps(free).touched)))
        runs = pages.slots(FREE, blame.occupied)
        low, high = max(runs, key=lambda run: run[1] - run[0], default=(0, 0))
        largest = Range((first + low) * page, (first + high) * page) if low < high else None
        found = f"the largest gap that they share is {largest}" if largest else "they share no gap at all"
        best = sorted(blame.candidates, key=lambda each: each.blocked)[:2]
        return NoGap(
            f"no range of {placement} is free in all of the {self.peers} peers: {found}"
            + "".join(map(_blamed, best)),
            wanted=placement,
            largest=largest,
        )

    def _candidate(self, seen: Footprint, placement: Placement, where: Range) -> Candidate:
        outer = placement.with_guards(where, self.granularity)
        taken = next(seen.occupied.overlapping(outer), None)
        if taken is None:
            return Candidate(where)
        by = self.space.obstacle(taken) or f"{taken} is kept clear"
        return Candidate(where, 1, (Said.by(self.me, by),))


def _expect(kind: type[_Message], merged: Message) -> _Message:
    if isinstance(merged, Discord):
        raise PeersDisagree(merged.what)
    if not isinstance(merged, kind):
        raise PeersDisagree(f"a {type(merged).__name__.lower()} came where a {kind.__name__.lower()} was due")
    return merged


def _check_same(proposal: Proposal) -> None:
    """All must want the same, but for the window: that may depend on the machine."""
    if len(proposal.requests) > 1:
        (one, peer), (other, another) = proposal.requests[:2]
        for name, ours, theirs in zip(Request._fields, one, other, strict=True):
            if ours != theirs:
                raise PeersDisagree(f"{name} is {ours} for {peer}, and {theirs} for {another}")


def _asked(request: Request) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(Request._fields, request, strict=True))


def _blamed(candidate: Candidate) -> str:
    if not candidate.blocked:
        return f"; {candidate.where} has become free meanwhile"
    return f"; at {candidate.where}, {_listed(candidate.by, candidate.blocked)}"


def _listed(said: Sequence[Said], number: int) -> str:
    more = f", and {number - len(said)} more" if number > len(said) else ""
    return ", ".join(map(str, said)) + more
