"""A hub's membership, its members and the network between them, simulated: every delivery, loss, death and tick of
the clock is a step that the caller chooses, so that a seed repeats a whole story."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stead.agreement import agree
from stead.errors import AddressSpaceError, PeerFailed
from stead.messages import Agreed, Vote
from stead.peers import letters
from stead.peers.letters import Answer, Say
from stead.peers.membership import Membership, Refused
from stead.placement import Placement
from stead.ranges import Range, RangeSet
from stead.space.simulated import SimulatedSpace

if TYPE_CHECKING:
    from collections.abc import Generator
    from random import Random

    from stead.messages import Message
    from stead.peers.membership import Session

PAGE = 4096
WINDOW = Range(0x4000_0000_0000, 0x4000_0000_0000 + 64 * PAGE)
TIMEOUT = 10.0


@dataclass(eq=False)
class Link:
    """A connection: what is on its way, in order. An end that has gone is known at the other when all that was
    sent before has arrived."""

    session: Session
    up: deque[bytes] = field(default_factory=deque)
    down: deque[bytes] = field(default_factory=deque)
    member_gone: bool = False
    hub_gone: bool = False


class Process:
    """One member's process, until it dies."""

    def __init__(self, name: str, wants: int, number: int, pages: int = 2, occupied: list[Range] | None = None):
        self.name, self.wants, self.pages = name, wants, pages
        self.space = SimulatedSpace(occupied=occupied or [])
        self.link: Link | None = None
        self.alive = True
        self.session = b""
        self.exchanges = self.had = 0
        self.says: bytes | None = None  # what it waits for the answer to
        self.outcomes: list[Agreed | AddressSpaceError] = []
        self.voted: set[Agreed] = set()
        self._conversation: Generator[Message, Message, Agreed] | None = None
        self._tokens = (bytes([number]) + k.to_bytes(15, "big") for k in range(1 << 20))

    @property
    def agreed(self) -> list[Agreed]:
        return [each for each in self.outcomes if isinstance(each, Agreed)]

    @property
    def satisfied(self) -> bool:
        return len(self.agreed) >= self.wants

    def ask(self) -> None:
        """Call stead.reserve(…, together=…), as it were."""
        wanted = Placement(self.pages * PAGE, WINDOW, PAGE)
        self._conversation = agree(self.space, [wanted], next(self._tokens), self.name)
        self._say(next(self._conversation))

    def _say(self, message: Message) -> None:
        self.exchanges += 1
        if isinstance(message, Vote) and message.claimed:
            self.voted.add(message.agreed)
        self.says = letters.write(Say(self.exchanges, self.had, message))
        if self.link is not None:
            self.link.up.append(self.says)

    def hear(self, answer: Answer) -> None:
        if answer.number != self.exchanges or self.says is None:
            return  # it was sent twice
        assert self._conversation
        self.says = None
        what = answer.what
        if isinstance(what, Vote) and what.claimed:
            self.had += 1
        try:
            if isinstance(what, tuple):
                self._conversation.throw(PeerFailed(*what))
                raise AssertionError("it went on after a failure")
            self._say(self._conversation.send(what))
        except StopIteration as end:
            self.outcomes.append(end.value)
        except AddressSpaceError as error:
            self.outcomes.append(error)

    def check(self) -> None:
        """It holds what was agreed on, and, while it waits, at most what it votes on; nobody was trodden on."""
        assert self.space.kernel.clobbered == []
        held = RangeSet(each.outer for each in self.agreed)
        if self.says is None:
            assert self.space.kernel.ours == held
        else:
            assert self.space.kernel.ours | held == self.space.kernel.ours


class Meeting:
    """``places`` members of the first hour, and whoever is added."""

    def __init__(self, places: int, random: Random) -> None:
        self.random, self.now = random, 0.0
        self.hub = Membership(places, TIMEOUT)
        self.processes: list[Process] = []
        self.dead: list[Process] = []
        self.links: list[Link] = []
        self.settled: list[Agreed] = []
        self.story: list[str] = []

    def add(self, process: Process) -> Process:
        self.processes.append(process)
        return process

    # ---- what can happen next ----

    def steps(self) -> list[tuple[str, Any]]:
        """What goes on by itself."""
        found: list[tuple[str, Any]] = []
        for each in self.links:
            if not each.hub_gone and (each.up or each.member_gone):
                found.append(("up", each))
        for process in self.processes:
            link = process.link
            if link is None:
                if process.says is not None or not process.satisfied:
                    found.append(("connect", process))
            elif link.down or link.hub_gone:
                found.append(("down", process))
            elif process.says is None and not process.satisfied:
                found.append(("ask", process))
        return found

    def faults(self) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = [("kill", each) for each in self.processes]
        found += [("cut", each) for each in self.processes if each.link]
        found += [("restart", each) for each in self.dead]
        return found

    def do(self, what: str, to: Any) -> None:
        self.story.append(f"{what} {getattr(to, 'name', None) or to.session.name}")
        getattr(self, f"_{what}")(to)
        self._post()
        for each in self.processes:
            each.check()

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.story.append(f"at {self.now}")
        self.hub.tick(self.now)
        self._post()

    def run(self, wants_time: bool = True) -> None:
        """Until nothing more happens by itself."""
        for _ in range(5_000):
            if steps := self.steps():
                self.do(*self.random.choice(steps))
            elif wants_time and self.hub.deadline() < float("inf"):
                self.pass_time(max(self.hub.deadline() - self.now, 0))
            else:
                return
        raise AssertionError("it does not end")

    # ---- steps ----

    def _connect(self, process: Process) -> None:
        try:
            if process.session:
                session = self.hub.resume(process.session)
                for each in self.links:
                    if each.session is session:  # the hub closes the connection that was given up
                        each.hub_gone = True
                        each.up.clear()
            else:
                session = self.hub.join(process.name, TIMEOUT)
        except Refused:
            # Somebody of this name is here: one who died, of which the hub has not heard.
            assert any(each.session.name == process.name and not each.hub_gone for each in self.links)
            return
        process.session = session.id
        process.link = Link(session)
        self.links.append(process.link)
        if process.says is not None:
            process.link.up.append(process.says)

    def _ask(self, process: Process) -> None:
        process.ask()

    def _up(self, link: Link) -> None:
        if link.up:
            say = letters.read(link.up.popleft())
            assert isinstance(say, Say)
            self.hub.say(link.session, say.number, say.had, say.message, self.now)
        else:
            link.hub_gone = True
            self.links.remove(link)
            self.hub.lost(link.session, "is gone")

    def _down(self, process: Process) -> None:
        assert process.link
        if process.link.down:
            answer = letters.read(process.link.down.popleft())
            assert isinstance(answer, Answer)
            process.hear(answer)
        else:
            process.link.member_gone = True
            process.link = None

    def _kill(self, process: Process) -> None:
        self.processes.remove(process)
        self.dead.append(process)
        process.alive = False
        if process.link:
            process.link.member_gone = True

    def _restart(self, process: Process) -> None:
        self.dead.remove(process)
        self.add(Process(process.name, process.wants, self.random.randrange(256), process.pages))

    def _cut(self, process: Process) -> None:
        """The network loses the connection, with any of what is on its way at its end."""
        link = process.link
        assert link
        for line in (link.up, link.down):
            for _ in range(self.random.randint(0, len(line))):
                line.pop()
        link.member_gone = True
        process.link = None

    def _post(self) -> None:
        while self.hub.outbox:
            session, number, what = self.hub.outbox.pop(0)
            if isinstance(what, Vote) and what.claimed and what.agreed not in self.settled:
                self.settled.append(what.agreed)
            for link in self.links:
                if link.session is session and not link.hub_gone:
                    link.down.append(letters.write(Answer(number, what)))

    # ---- at the end ----

    def check(self) -> None:
        """Everybody has had the agreements in their order, as far as it asked for; and whoever is alive and has
        voted for one that came about, holds it."""
        for each in [*self.processes, *self.dead]:
            assert each.agreed == self.settled[: len(each.agreed)], each.name
        for each in self.processes:
            each.check()
            assert {agreed for agreed in each.voted if agreed in self.settled} == set(each.agreed), each.name
