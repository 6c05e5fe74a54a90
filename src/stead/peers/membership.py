"""What a hub knows of its members, and what it answers them. No I/O, no clock: it is told what came, and when.

An agreement has so many places. Who asks first has a place, and keeps it until it leaves or its connection is
lost; an agreement begins when all places have spoken, and goes on in rounds. Whose connection is lost before
that is waited for, or somebody in its place; whose connection is lost in an agreement ends it for all. What was
agreed on stays, by number: who has had fewer agreements than there are (it was started again, or comes late, or
was in doubt about the last one) is answered with those, one after the other, and so is whoever has no place;
nobody else notices.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from functools import reduce
from math import inf
from typing import TYPE_CHECKING

from stead.messages import Agreed, Discord, Message, Proposal, Request, Settled, Vote, merge
from stead.peers.letters import SESSION

if TYPE_CHECKING:
    Failure = tuple[str, str]
    Answered = Message | Failure

MOST_REMEMBERED = 1 << 16  # agreements
MOST_SESSIONS = 4096  # with those whose connection was lost, the oldest of which are forgotten
_HUB = "the hub"


class Refused(ValueError):
    """Why somebody may not join."""


@dataclass(frozen=True, slots=True)
class _Said:
    number: int
    message: Message
    since: float


@dataclass(eq=False, slots=True)
class Session:
    """One member, from its joining until it leaves, over more than one connection where one is lost."""

    id: bytes
    name: str
    patience: float
    connected: bool = True
    placed: bool = False
    # Of the agreement that it takes part in: what it proposed it by (None: in none), the rounds it has had.
    token: bytes | None = None
    rounds: int = 0
    # Why that has ended without its knowing; it hears of it when it speaks.
    failed: Failure | None = None
    said: _Said | None = None
    # The last answer, for who asks again over a new connection.
    number: int = -1
    answer: Answered | None = None


class Membership:
    """``places``: how many take part in an agreement. ``timeout``: seconds for each round."""

    def __init__(self, places: int, timeout: float) -> None:
        self.places, self.timeout = places, timeout
        self.outbox: list[tuple[Session, int, Answered]] = []
        self._sessions: dict[bytes, Session] = {}
        self._settled: deque[Settled] = deque(maxlen=MOST_REMEMBERED)
        self._agreements = 0
        self._request: Request | None = None
        self._vacated: list[Failure] = []

    # ---- coming and going ----

    def join(self, name: str, patience: float) -> Session:
        for each in list(self._sessions.values()):
            if each.name == name:
                if each.connected:
                    raise Refused(f"somebody called {name!r} is here already")
                del self._sessions[each.id]  # it was started again
        self._make_room()
        session = Session(os.urandom(SESSION), name, patience)
        self._sessions[session.id] = session
        return session

    def resume(self, id: bytes) -> Session:
        """The session of one who comes back over a new connection. What it had not heard is told when it asks
        again."""
        session = self._sessions.get(id)
        if session is None:
            raise Refused("this session is not known: the hub was started again, or it was forgotten")
        session.connected = True
        return session

    def lost(self, session: Session, reason: str) -> None:
        """Its connection has ended."""
        session.connected = False
        self._vacate(session, reason)

    def leave(self, session: Session) -> None:
        session.connected = False
        self._vacate(session, "has left")
        self._sessions.pop(session.id, None)

    def members(self) -> list[str]:
        return [each.name for each in self._sessions.values() if each.connected]

    def _make_room(self) -> None:
        if len(self._sessions) >= MOST_SESSIONS:
            gone = next((each for each in self._sessions.values() if not each.connected), None)
            if gone is None:
                raise Refused(f"{MOST_SESSIONS} members are here already")
            del self._sessions[gone.id]

    def _vacate(self, session: Session, reason: str) -> None:
        if session.placed or not self._agreements:  # before the first, whoever joined was to have a place
            self._vacated.append((session.name, reason))
            del self._vacated[: -self.places]
        session.placed = False
        if session.rounds and session.failed is None:
            self._break((session.name, reason))
        elif not session.rounds:
            # Nothing has come of what it said: it may say it again, or another in its place.
            session.token = session.said = None

    # ---- speaking ----

    def say(self, session: Session, number: int, had: int, message: Message, now: float) -> None:
        """Raises ValueError where no member would say that."""
        if number == session.number and session.answer is not None:
            self.outbox.append((session, number, session.answer))
            return
        if session.said and number == session.said.number:
            return  # it is waited for
        if number <= session.number or (session.said and number < session.said.number):
            raise ValueError(f"spoke in exchange {number} after {session.number}")
        if session.said:
            # It waited for an answer until it had enough, and has given back what it held.
            self._vacate(session, "waited no longer")
        session.said = _Said(number, message, now)
        fresh = isinstance(message, Proposal) and message.token != session.token
        if session.failed and not fresh:
            self._end(session)
        elif had != self._agreements:
            self._repeat(session, had, message)
        elif fresh:
            assert isinstance(message, Proposal)
            self._begin(session, message.token)
            self._advance()
        elif session.token is None:
            self._tell(session, Discord(f"{session.name} votes on what nobody has proposed"))
        else:
            self._advance()

    def tick(self, now: float) -> None:
        """What is overdue at that time ends in a failure that names who is missing."""
        overdue = [each for each in self._speaking() if self._until(each) <= now]
        for each in overdue:
            if not each.placed:
                self._tell(each, (_HUB, "the others have not agreed in time"))
        placed = [each for each in overdue if each.placed]
        if placed:
            failure = self._missing(placed[0].rounds)
            for each in self._placed():
                if each.token is not None:
                    each.failed = each.failed or failure
                if each.said:
                    self._end(each)

    def deadline(self) -> float:
        """When to tick; infinity where nothing is waited for."""
        return min(map(self._until, self._speaking()), default=inf)

    def close(self, reason: str) -> None:
        for each in self._speaking():
            self._tell(each, (_HUB, reason))

    # ---- inside ----

    def _placed(self) -> list[Session]:
        return [each for each in self._sessions.values() if each.placed]

    def _speaking(self) -> list[Session]:
        return [each for each in self._sessions.values() if each.said]

    def _until(self, session: Session) -> float:
        assert session.said
        return session.said.since + min(self.timeout, session.patience)

    def _tell(self, session: Session, answer: Answered) -> None:
        assert session.said
        session.number, session.answer, session.said = session.said.number, answer, None
        self.outbox.append((session, session.number, answer))

    def _end(self, session: Session) -> None:
        """Of an agreement that has failed: the one who speaks is told so, and takes part no more."""
        assert session.failed
        failure, session.token, session.failed, session.rounds = session.failed, None, None, 0
        self._tell(session, failure)

    def _break(self, failure: Failure) -> None:
        """End the agreement that goes on, for all who take part. (Those who have begun the next one do not.)"""
        for each in self._sessions.values():
            if each.rounds and each.failed is None:
                each.failed = failure
                if each.said:
                    self._end(each)

    def _begin(self, session: Session, token: bytes) -> None:
        if session.rounds and session.failed is None:
            # Its agreement has failed at its side, or at all sides: those who begin anew, too, will not mind.
            said, session.said = session.said, None
            self._break((session.name, "gave up before all had agreed"))
            session.said = said
        session.token = token if session.placed else None
        session.rounds, session.failed = 0, None

    def _advance(self) -> None:
        placed = self._placed()
        for each in self._sessions.values():
            if len(placed) < self.places and each.said and not each.placed:
                assert isinstance(each.said.message, Proposal)
                each.placed, each.token = True, each.said.message.token
                placed.append(each)
        if len(placed) < self.places or not all(each.said for each in placed):
            return
        merged = reduce(merge, (each.said.message for each in placed if each.said))
        if isinstance(merged, Proposal) and len(merged.requests) == 1:
            self._request = merged.requests[0][0]
        for each in placed:
            each.rounds += 1
            self._tell(each, merged)
            if _is_last(merged):
                each.token, each.rounds = None, 0
        if isinstance(merged, Vote) and merged.claimed:
            self._settle(merged.agreed)

    def _settle(self, agreed: Agreed) -> None:
        assert self._request
        self._vacated.clear()
        self._settled.append(Settled(agreed, self._request))
        self._agreements += 1
        for each in self._speaking():
            self._tell(each, self._settled[-1])

    def _repeat(self, session: Session, had: int, message: Message) -> None:
        if session.rounds and session.failed is None:
            self._vacate(session, "began anew")
            return
        session.token, session.failed, session.rounds = None, None, 0
        forgotten = self._agreements - len(self._settled)
        if had > self._agreements:
            self._tell(session, (_HUB, f"knows of {self._agreements} agreements, {session.name} of {had}"))
        elif had < forgotten:
            self._tell(session, (_HUB, f"has forgotten what was agreed before the last {MOST_REMEMBERED} times"))
        elif isinstance(message, Proposal):
            self._tell(session, self._settled[had - forgotten])
        elif isinstance(message, Vote) and message.agreed == self._settled[had - forgotten].agreed:
            self._tell(session, message)
        else:
            self._tell(session, Discord(f"{session.name} does not vote on what was agreed before"))

    def _missing(self, rounds: int) -> Failure:
        """Who did not come in time."""
        late = "did not answer in time" if rounds else "did not come in time"
        missing = [(each.name, late) for each in self._placed() if not each.said]
        free = self.places - len(self._placed())
        missing += [
            (each.name, "has joined, but asked for nothing in time")
            for each in self._sessions.values()
            if each.connected and not each.placed and not each.said
        ][:free]
        here = self.members()
        missing += [each for each in reversed(self._vacated) if each[0] not in here]
        missing.append((f"a member of {self.places}", late))
        peer, reason = missing[0]
        more = len([each for each in self._placed() if not each.said]) + free - 1
        return peer, reason + (f", nor did {more} more" if more > 0 else "")


def _is_last(merged: Message) -> bool:
    """No round follows, whatever its members do. (Some give up after a lost vote: that shows when they begin
    anew.)"""
    match merged:
        case Vote():
            return merged.claimed or bool(merged.refused) or not merged.alike
        case Proposal():
            return len(merged.requests) > 1
    return True
