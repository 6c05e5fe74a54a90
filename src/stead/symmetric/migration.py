"""Blocks from rank to rank, all or none: what is said, in which order, and what is undone where it fails.

1. All say what they send and to whom, and what they have to tell owners (notes). Whoever cannot says so, and
   nothing has happened.
2. The lists, from one to another; receivers make room. A vote.
3. The bytes, in rounds, after each of which all say how far they are: a rank that is gone is found out by all.
4. A vote; then the blocks live where they went to.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple

from stead.errors import PeerFailed
from stead.symmetric.flows import Flow
from stead.symmetric.group import said_of
from stead.symmetric.residents import Cargo, Notes, pieces

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from stead.symmetric.group import Group
    from stead.symmetric.pages import Pages
    from stead.symmetric.residents import Residents

# Bytes of each flow between two exchanges of all.
ROUND = 128 << 20


class Wish(NamedTuple):
    """What one rank wants to send. ``to``: None where there is nothing."""

    cargo: Cargo
    to: int | None
    copy: bool


class Arrival(NamedTuple):
    """Blocks that came to this rank with one call: from which rank, how many, how many bytes."""

    source: int
    blocks: int
    size: int
    strips: bytes

    def addresses(self) -> list[int]:
        """Of the blocks, in order."""
        numbers = memoryview(self.strips).cast("Q")
        found: list[int] = []
        for start, size, count in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True):
            found.extend(range(start, start + size * count, size))
        return found


class Migration:
    """One call at one rank."""

    def __init__(self, group: Group, residents: Residents, pages: Pages) -> None:
        self._group, self._residents, self._pages = group, residents, pages
        self._came: list[Cargo] = []  # noted as living here, though not all there yet
        self._flows: list[Flow] = []

    def run(
        self,
        wish: Wish | None,
        refusal: BaseException | None,
        progress: Callable[[int, int], object] | None = None,
    ) -> list[Arrival]:
        """``refusal``: why there is no wish. Raises it, or what kept others from going on as PeerFailed."""
        notes = self._residents.notes()
        said = self._announce(wish, notes, refusal)
        told, arrivals = self._exchange_lists(wish, notes, said)
        try:
            self._group.vote(self._make_room(told, arrivals), "take the blocks")
            self._move(wish, arrivals, sum(each["size"] for each in said), progress)
        except BaseException:
            self._undo()
            raise
        if wish and wish.to is not None:
            self._let_go(wish)
        return [
            Arrival(source, cargo.blocks, cargo.size, cargo.strips) for source, cargo in sorted(arrivals.items())
        ]

    # ---- what is said ----

    def _announce(self, wish: Wish | None, notes: dict[int, Notes], refusal: BaseException | None) -> list[Any]:
        self._group.begin()
        said = self._group.gather(
            {
                "to": wish.to if wish else None,
                "list": len(wish.cargo.strips) if wish else 0,
                "size": wish.cargo.size if wish else 0,
                "notes": {str(owner): [len(each.freed), len(each.copied)] for owner, each in notes.items()},
                "refusal": None if refusal is None else said_of(refusal),
            }
        )
        if refusal is not None:
            raise refusal
        for rank, each in enumerate(said):
            if each["refusal"] is not None:
                raise PeerFailed(f"rank {rank}", f"could not begin: {each['refusal']}")
        return said

    def _exchange_lists(
        self, wish: Wish | None, notes: dict[int, Notes], said: list[Any]
    ) -> tuple[list[Notes], dict[int, Cargo]]:
        """Notes reach their owners, lists of blocks their receivers: what comes here, blocks by sender."""
        me = self._group.rank
        outgoing = {owner: each.freed + each.copied for owner, each in notes.items()}
        if wish and wish.to is not None:
            outgoing[wish.to] = outgoing.get(wish.to, b"") + wish.cargo.strips
        lengths: dict[int, tuple[int, int, int]] = {}
        for rank, each in enumerate(said):
            freed, copied = each["notes"].get(str(me), (0, 0))
            lengths[rank] = freed, copied, each["list"] if each["to"] == me else 0
        came = self._group.swap(outgoing, {rank: sum(each) for rank, each in lengths.items()})
        self._residents.forget_notes()
        told, arrivals = [], {}
        for source, data in came.items():
            freed, copied, _ = lengths[source]
            told.append(Notes(bytes(data[:freed]), bytes(data[freed : freed + copied])))
            if strips := bytes(data[freed + copied :]):
                arrivals[source] = Cargo.of(strips)
        return told, arrivals

    # ---- making room, and undoing it ----

    def _make_room(self, told: list[Notes], arrivals: dict[int, Cargo]) -> BaseException | None:
        """Owners heed what they are told, receivers get ready: None, or why not."""
        try:
            self._residents.heed_notes(told)
            for cargo in arrivals.values():
                self._residents.check_room(cargo.strips)
                self._commit(cargo)
                self._residents.came(cargo.strips)
                self._came.append(cargo)
        except BaseException as error:
            return error
        return None

    def _commit(self, cargo: Cargo) -> None:
        done = []
        try:
            for owner, part in self._residents.by_owner(cargo.strips):
                if owner != self._residents.rank:
                    self._pages.commit(owner, pieces(Cargo.of(part).runs))
                    done.append(part)
        except BaseException:
            for part in done:
                self._clear(part)
            raise

    def _undo(self) -> None:
        in_doubt = [each for each in self._flows if each.abandon()]
        self._group.keep(in_doubt)
        for cargo in self._came:
            self._residents.went(cargo.strips)
            # What MPI may still write to stays committed: with this group nothing will move any more.
            if all(each.sends for each in in_doubt):
                self._clear(cargo.strips)

    def _clear(self, strips: bytes) -> None:
        for owner, left in self._residents.pages_left(strips):
            self._pages.clear(owner, left)

    # ---- the bytes ----

    def _move(
        self,
        wish: Wish | None,
        arrivals: dict[int, Cargo],
        total: int,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        if not total:
            return
        fromaddress = importlib.import_module("mpi4py.MPI").buffer.fromaddress
        sends = [(wish.to, wish.cargo, True)] if wish and wish.to is not None else []
        receives = [(source, cargo, False) for source, cargo in arrivals.items()]
        self._flows = [
            Flow(self._group, peer, cargo, fromaddress, sends=sends) for peer, cargo, sends in receives + sends
        ]
        wrong: BaseException | None = None
        done = 0
        while done < total:
            self._one_round()
            # Also after a failure here: the others are in the middle of it.
            said = self._group.gather(
                [sum(each.done for each in self._flows if each.sends), None if wrong is None else said_of(wrong)]
            )
            if wrong is not None:
                raise wrong
            for rank, (_, reason) in enumerate(said):
                if reason is not None:
                    raise PeerFailed(f"rank {rank}", f"gave up in the middle: {reason}")
            done = sum(moved for moved, _ in said)
            if progress is not None:
                try:
                    progress(done, total)
                except BaseException as error:
                    wrong = error
        self._group.vote(wrong, "go on to the end")

    def _one_round(self) -> None:
        for each in self._flows:
            each.allow(ROUND)
        self._group.until(
            lambda: all(each.finished for each in self._flows),
            lambda: sum(each.look() for each in self._flows) > 0,  # all of them, each time
            lambda: next(each.peer for each in self._flows if not each.finished),
        )

    # ---- the end ----

    def _let_go(self, wish: Wish) -> None:
        if wish.copy:
            self._residents.were_copied(wish.cargo.strips)
        else:
            self._residents.went(wish.cargo.strips)
            self._clear(wish.cargo.strips)
