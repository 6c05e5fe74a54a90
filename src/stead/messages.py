"""What participants of an agreement tell each other, and how it merges.

``a | b`` is what both say together. It is associative and commutative for every kind of message, and never
longer than some 20 KiB: numbers are added, the smallest or largest is kept, bitmaps are OR-ed, and of names and
reasons the first few are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from stead.placement import scatter

if TYPE_CHECKING:
    from stead.grid import Grid, View
    from stead.placement import Placement
    from stead.ranges import Range

# Of all who have something in the way, or want something else, so many are named.
NAMED = 4
NOMINEES = 16
_LONGEST_REASON = 300


class Request(NamedTuple):
    """What all must ask for alike. ``alignment``: 1 where pages are aligned so anyway; in bytes, as ``size`` and
    ``guard`` (of both sides)."""

    size: int
    alignment: int
    guard: int
    prefer: str

    @classmethod
    def of(cls, placement: Placement, granularity: int) -> Request:
        alignment = placement.alignment if placement.alignment > granularity else 1
        return cls(placement.size, alignment, placement.guard, placement.prefer)


class Said(NamedTuple):
    """Something that one participant says of itself."""

    peer: str
    what: str

    @classmethod
    def by(cls, peer: str, what: object) -> Said:
        text = str(what)
        return cls(peer, text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 1] + "…")

    def __str__(self) -> str:
        return f"{self.peer}: {self.what}"


@dataclass(frozen=True, slots=True)
class Look:
    """What is blocked, on the grid and in the cells that ``key`` is a digest of (:func:`grid_key`).

    ``nominees``: slots that are free for one participant at least; only in a first look. ``lost``: somebody
    counts as blocked what a claim there just failed on.
    """

    key: bytes
    touched: int
    full: int
    nominees: tuple[int, ...] = ()
    lost: bool = False

    def __or__(self, other: Look) -> Look | None:
        """None where they are of different grids."""
        if self.key != other.key:
            return None
        both = sorted({*self.nominees, *other.nominees}, key=lambda slot: (scatter(slot, 0), slot))
        return Look(
            self.key,
            self.touched | other.touched,
            self.full | other.full,
            tuple(both[:NOMINEES]),
            self.lost or other.lost,
        )


@dataclass(frozen=True, slots=True)
class Proposal:
    """What participants want, and what is blocked for them.

    ``token``: 16 random bytes; the smallest of all draws the place, and becomes the identity of what is agreed.
    ``wanted``: of its owner, in order of preference. ``granularity``: the largest, in bytes. ``requests``: each
    that is made, and one who makes it. ``look``: None where they looked at different grids.
    """

    token: bytes
    wanted: tuple[Placement, ...]
    granularity: int
    requests: tuple[tuple[Request, str], ...]
    look: Look | None
    peers: int = 1

    def merge(self, other: Proposal) -> Proposal:
        first = min(self, other, key=lambda each: each.token)
        if self.token == other.token:  # random tokens are not; if they were, all must still keep the same
            first = min(self, other, key=lambda each: repr(each.wanted))
        requests: dict[Request, str] = {}
        for request, peer in sorted(self.requests + other.requests):
            requests.setdefault(request, peer)
        return Proposal(
            first.token,
            first.wanted,
            max(self.granularity, other.granularity),
            tuple(requests.items())[:NAMED],
            self.look | other.look if self.look and other.look else None,
            self.peers + other.peers,
        )


@dataclass(frozen=True, slots=True)
class Agreed:
    """The range (``where`` inside its guards, ``outer`` with them) that every participant now holds."""

    where: Range
    outer: Range
    token: bytes


@dataclass(frozen=True, slots=True)
class Vote:
    """Whether the claim of ``agreed`` succeeded, for all. ``lost``: for whom it was taken, and why;
    ``refused``: who can claim nothing, and why. ``alike``: all voted on the same."""

    agreed: Agreed
    lost: tuple[Said, ...] = ()
    refused: tuple[Said, ...] = ()
    alike: bool = True

    @property
    def claimed(self) -> bool:
        return self.alike and not self.lost and not self.refused

    def merge(self, other: Vote) -> Vote:
        return Vote(
            min(self.agreed, other.agreed, key=lambda each: (each.token, each.where, each.outer)),
            _first(self.lost, other.lost),
            _first(self.refused, other.refused),
            self.alike and other.alike and self.agreed == other.agreed,
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A range that not all have free: for how many it is blocked, and by what for the first few."""

    where: Range
    blocked: int = 0
    by: tuple[Said, ...] = ()


@dataclass(frozen=True, slots=True)
class Blame:
    """Why there is no range. ``occupied``: cells of the window in which something is mapped, as in a View."""

    candidates: tuple[Candidate, ...]
    occupied: int

    def merge(self, other: Blame) -> Blame | Discord:
        if [each.where for each in self.candidates] != [each.where for each in other.candidates]:
            return Discord("some looked for the reason in other places than others")
        both = zip(self.candidates, other.candidates, strict=True)
        return Blame(
            tuple(Candidate(a.where, a.blocked + b.blocked, _first(a.by, b.by)) for a, b in both),
            self.occupied | other.occupied,
        )


@dataclass(frozen=True, slots=True)
class Settled:
    """The answer to a proposal that comes after the others have agreed."""

    agreed: Agreed
    request: Request


class Step(NamedTuple):
    """What somebody is doing; how many are, and the first of them by name."""

    what: str
    peers: int
    first: str


@dataclass(frozen=True, slots=True)
class Ballot:
    """Where participants are in what they do together, step by step, and who could not do its part of a step.

    ``steps``: by what is done, the first few; one, where all are at the same.
    """

    steps: tuple[Step, ...]
    refused: tuple[Said, ...] = ()

    @classmethod
    def by(cls, peer: str, step: str, refusal: object = None) -> Ballot:
        refused = () if refusal is None else (Said.by(peer, refusal),)
        return cls((Step(Said.by(peer, step).what, 1, peer),), refused)

    def merge(self, other: Ballot) -> Ballot:
        steps: dict[str, Step] = {}
        for each in sorted(self.steps + other.steps):
            known = steps.get(each.what)
            if known is not None:
                each = Step(each.what, known.peers + each.peers, min(known.first, each.first))
            steps[each.what] = each
        return Ballot(tuple(steps.values())[:NAMED], _first(self.refused, other.refused))


@dataclass(frozen=True, slots=True)
class Discord:
    """Participants are at different points, or want different things: nothing can come of it."""

    what: str


Message = Proposal | Vote | Blame | Settled | Ballot | Discord


def merge(a: Message, b: Message) -> Message:
    """What both say together. Never raises: it runs where nobody could catch."""
    if isinstance(a, Discord) and isinstance(b, Discord):
        return min(a, b, key=lambda each: each.what)
    if isinstance(a, Discord) or isinstance(b, Discord):
        return a if isinstance(a, Discord) else b
    if isinstance(a, Proposal) and isinstance(b, Proposal):
        return a.merge(b)
    if isinstance(a, Vote) and isinstance(b, Vote):
        return a.merge(b)
    if isinstance(a, Blame) and isinstance(b, Blame):
        return a.merge(b)
    if isinstance(a, Ballot) and isinstance(b, Ballot):
        return a.merge(b)
    kinds = sorted({type(a).__name__.lower(), type(b).__name__.lower()})
    return Discord(f"some are at a {kinds[0]}, others at a {kinds[-1]}")


def grid_key(grid: Grid, view: View) -> bytes:
    """16 bytes that are equal where the same is looked at in the same cells."""
    placement = grid.placement
    what = (placement.within, placement.size, placement.guard, grid.granularity, grid.step, view.width, view.spans)
    return blake2b(repr(what).encode(), digest_size=16).digest()


def _first(a: tuple[Said, ...], b: tuple[Said, ...]) -> tuple[Said, ...]:
    return tuple(sorted({*a, *b})[:NAMED])
