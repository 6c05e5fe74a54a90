"""Many simulated spaces, one range: all of them hold it, or none holds anything."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stead.agreement import agree, drive
from stead.errors import (
    AddressSpaceError,
    Contended,
    LimitReached,
    NoGap,
    Occupied,
    PeerFailed,
    PeersDisagree,
    RollbackFailed,
)
from stead.kernel import Manner
from stead.messages import Agreed, Message, Proposal, Request, Settled, Vote, merge
from stead.placement import Footprint, Placement, Preference
from stead.ranges import NOTHING, Range, RangeSet
from stead.space.simulated import SimulatedSpace

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

PAGE = 4096
BASE = 0x4000_0000_0000
WINDOW = Range(BASE, BASE + 16 * PAGE)
manners = st.sampled_from(list(Manner))


@dataclass
class Participant:
    space: SimulatedSpace
    conversation: Generator[Message, Message, Agreed]
    outcome: Agreed | Exception | None = None

    @property
    def held(self) -> RangeSet:
        return self.space.kernel.ours


def placement(size: int = 2 * PAGE, within: Range = WINDOW, guard: int = 0, alignment: int = PAGE) -> Placement:
    return Placement(size, within, alignment, guard)


def gather(
    spaces: Iterable[SimulatedSpace], wanted: Sequence[Placement] = (placement(),), attempts: int = 32
) -> list[Participant]:
    return [
        Participant(space, agree(space, wanted, bytes([7 * number % 251]) * 16, f"peer {number}", attempts))
        for number, space in enumerate(spaces)
    ]


def meet(everyone: list[Participant], fails: tuple[int, int] | None = None) -> None:
    """Step all of them together until all have ended. ``fails``: in which exchange the connection to which
    participant breaks; from then on everyone is told so, as a driver would."""
    messages = [next(each.conversation) for each in everyone]
    exchanges = 0
    while True:
        merged = reduce(merge, messages)
        broken = fails is not None and exchanges == fails[0]
        news: list[Message | None] = []
        for number, each in enumerate(everyone):
            news.append(None)
            try:
                if broken:
                    assert fails is not None
                    who = "its connection" if number == fails[1] else f"participant {fails[1]}"
                    each.conversation.throw(PeerFailed(who, "is gone"))
                else:
                    news[-1] = each.conversation.send(merged)
            except StopIteration as end:
                each.outcome = end.value
            except AddressSpaceError as error:
                each.outcome = error
        exchanges += 1
        ended = [each for each in everyone if each.outcome is not None]
        if len(ended) == len(everyone):
            return
        if ended:  # those who are left wait for one who is gone
            for each in everyone:
                if each.outcome is None:
                    with pytest.raises(PeerFailed) as refused:
                        each.conversation.throw(PeerFailed("a peer", "is gone"))
                    each.outcome = refused.value
            return
        messages = [message for message in news if message is not None]


def untouched(everyone: list[Participant]) -> bool:
    return all(each.space.kernel.clobbered == [] for each in everyone)


def all_or_none(everyone: list[Participant]) -> Range | None:
    """The range that all hold, or None where none holds anything; anything in between fails."""
    assert untouched(everyone)
    agreed = [each.outcome for each in everyone if isinstance(each.outcome, Agreed)]
    if not agreed:
        assert all(each.held == NOTHING for each in everyone)
        return None
    assert len(agreed) == len(everyone)
    assert len(set(agreed)) == 1
    assert all(each.held == RangeSet([agreed[0].outer]) for each in everyone)
    return agreed[0].where


spots = st.integers(0, 15).map(lambda page: Range.sized(BASE + page * PAGE, PAGE))


@st.composite
def groups(draw: st.DrawFn) -> list[Participant]:
    """Kernels of any manner, each with mappings of its own."""
    spaces = [
        SimulatedSpace(
            manner=draw(manners),
            width=draw(st.sampled_from([47, 48, 56])),
            occupied=set(draw(st.lists(spots, max_size=7))),
        )
        for _ in range(draw(st.integers(1, 5)))
    ]
    return gather(spaces)


def common_gaps(everyone: list[Participant], window: Range = WINDOW) -> list[Range]:
    taken = NOTHING
    for each in everyone:
        taken |= each.space.kernel.mapped(window)
    return list(taken.gaps(window))


@given(groups())
def test_all_agree_on_one_range_that_was_free_in_all_or_there_was_none(everyone: list[Participant]) -> None:
    gaps = common_gaps(everyone)
    meet(everyone)
    where = all_or_none(everyone)
    fits = [gap for gap in gaps if gap.size >= 2 * PAGE]
    if where is None:
        assert not fits
        assert all(isinstance(each.outcome, NoGap) for each in everyone)
    else:
        assert any(gap.contains(where) for gap in fits)
        assert where.size == 2 * PAGE


@given(st.data())
def test_pages_and_windows_of_all_sizes_come_to_one_range_or_to_a_proof(data: st.DataObject) -> None:
    big = 16 * PAGE
    spot = st.integers(0, 59).map(lambda n: Range.sized(BASE + n * big, big))
    spaces, everyone = [], []
    window = data.draw(st.integers(1, 60).map(lambda n: Range(BASE, BASE + n * big)))
    size = data.draw(st.integers(1, 4 * big))
    guard = data.draw(st.sampled_from([0, PAGE, big]))
    prefer = data.draw(st.sampled_from(get_args(Preference)))
    for number in range(data.draw(st.integers(1, 4))):
        spaces.append(
            SimulatedSpace(
                page_size=data.draw(st.sampled_from([PAGE, 4 * PAGE, big])),
                occupied=set(data.draw(st.lists(spot, max_size=12))),
            )
        )
        wanted = Placement(size, window, 1, guard, prefer)
        everyone.append(Participant(spaces[-1], agree(spaces[-1], [wanted], bytes([number]) * 16)))
    page = max(each.granularity for each in spaces)
    taken = reduce(or_, (each.kernel.mapped(window) for each in spaces))
    expected = Placement(size, window, 1, guard, prefer).slots(Footprint(taken, page))
    meet(everyone)
    where = all_or_none(everyone)
    assert (where is None) == (expected.total == 0)
    if where:
        assert any(first <= where.start < first + n * expected.step for first, n in expected.runs)
    if where and prefer != "scattered":
        assert where == expected.choose(prefer, 0, 0)


@st.composite
def intruded_groups(draw: st.DrawFn) -> list[Participant]:
    """The same, with others who map at any step of any of them."""
    spaces = []
    for _ in range(draw(st.integers(2, 4))):
        intrusions: dict[int, list[Range]] = {}
        for _ in range(draw(st.integers(0, 8))):
            intrusions.setdefault(draw(st.integers(0, 60)), []).append(draw(spots))
        spaces.append(
            SimulatedSpace(
                manner=draw(manners), occupied=set(draw(st.lists(spots, max_size=4))), intrusions=intrusions
            )
        )
    return gather(spaces)


@given(intruded_groups())
def test_with_others_who_map_at_any_step_still_all_hold_it_or_none(everyone: list[Participant]) -> None:
    meet(everyone)
    if all_or_none(everyone) is None:
        assert all(isinstance(each.outcome, NoGap | Contended) for each in everyone)


@given(intruded_groups(), st.integers(0, 12), st.integers(0, 4))
def test_a_peer_that_fails_in_any_round_leaves_nothing_held_by_anyone(
    everyone: list[Participant], exchange: int, who: int
) -> None:
    meet(everyone, fails=(exchange, who % len(everyone)))
    if all_or_none(everyone) is None:
        assert all(isinstance(each.outcome, NoGap | PeerFailed) for each in everyone)


@given(intruded_groups(), st.integers(0, 12))
def test_a_conversation_that_is_dropped_gives_back_what_it_took(
    everyone: list[Participant], exchanges: int
) -> None:
    messages = [next(each.conversation) for each in everyone]
    for _ in range(exchanges):
        try:
            merged = reduce(merge, messages)
            messages = [each.conversation.send(merged) for each in everyone]
        except (StopIteration, AddressSpaceError):
            return  # it ended before it was dropped
    for each in everyone:
        each.conversation.close()
        assert each.held == NOTHING
    assert untouched(everyone)


# ---- the same answer for all ----------------------------------------------------------------------


def test_the_smallest_token_is_what_all_agree_by() -> None:
    everyone = gather(SimulatedSpace() for _ in range(4))
    meet(everyone)
    agreed = everyone[0].outcome
    assert isinstance(agreed, Agreed)
    assert agreed.token == bytes(16)
    assert all_or_none(everyone) is not None


def test_undisturbed_it_takes_two_exchanges() -> None:
    everyone = gather(SimulatedSpace() for _ in range(3))
    proposals = [next(each.conversation) for each in everyone]
    votes = [each.conversation.send(reduce(merge, proposals)) for each in everyone]
    assert all(isinstance(vote, Vote) and vote.claimed for vote in votes)
    for each in everyone:
        with pytest.raises(StopIteration):
            each.conversation.send(reduce(merge, votes))


def test_guards_are_claimed_with_the_range() -> None:
    everyone = gather((SimulatedSpace() for _ in range(2)), [placement(guard=PAGE)])
    meet(everyone)
    where = all_or_none(everyone)
    assert where is not None
    assert everyone[0].held == RangeSet([Range(where.start - PAGE, where.stop + PAGE)])


def test_pages_of_different_sizes_meet_on_the_larger() -> None:
    big = Range(BASE, BASE + (1 << 24))
    everyone = gather((SimulatedSpace(page_size=size) for size in (4096, 65536, 16384)), [placement(5000, big)])
    meet(everyone)
    where = all_or_none(everyone)
    assert where is not None
    assert where.start % 65536 == where.size % 65536 == 0


def test_when_the_first_window_is_full_somewhere_all_go_to_the_next() -> None:
    second = Range(BASE + (1 << 30), BASE + (1 << 30) + 16 * PAGE)
    spaces = [SimulatedSpace(), SimulatedSpace(occupied=[WINDOW]), SimulatedSpace(manner="ignored")]
    everyone = gather(spaces, [placement(), placement(within=second)])
    meet(everyone)
    where = all_or_none(everyone)
    assert where is not None
    assert second.contains(where)


def test_windows_may_differ_from_machine_to_machine_and_one_of_them_is_taken() -> None:
    other = Range(BASE + (1 << 30), BASE + (1 << 30) + 16 * PAGE)
    spaces = [SimulatedSpace(), SimulatedSpace()]
    everyone = [
        Participant(spaces[0], agree(spaces[0], [placement()], b"b" * 16)),
        Participant(spaces[1], agree(spaces[1], [placement(within=other)], b"a" * 16)),
    ]
    meet(everyone)
    where = all_or_none(everyone)
    assert where is not None
    assert other.contains(where)


def test_a_narrow_space_is_not_asked_for_what_it_cannot_map() -> None:
    wide = Range(0x4000_0000, BASE)
    everyone = gather([SimulatedSpace(width=47), SimulatedSpace(width=32)], [placement(within=wide)])
    meet(everyone)
    where = all_or_none(everyone)
    assert where is not None
    assert where.stop < 1 << 32


def test_room_that_one_must_keep_clear_is_avoided_by_all() -> None:
    clear = (BASE, BASE + 13 * PAGE)
    everyone = gather([SimulatedSpace(), SimulatedSpace(kept_clear=[clear])])
    meet(everyone)
    where = all_or_none(everyone)
    assert where is not None
    assert where.start >= clear[1]


# ---- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (placement(4 * PAGE), "size"),
        (placement(alignment=2 * PAGE), "alignment"),
        (placement(guard=PAGE), "guard"),
        (Placement(2 * PAGE, WINDOW, PAGE, 0, "low"), "prefer"),
    ],
)
def test_peers_that_want_different_things_are_told_what(other: Placement, what: str) -> None:
    spaces = [SimulatedSpace(), SimulatedSpace()]
    everyone = [
        Participant(spaces[0], agree(spaces[0], [placement()], b"a" * 16)),
        Participant(spaces[1], agree(spaces[1], [other], b"b" * 16)),
    ]
    meet(everyone)
    assert all_or_none(everyone) is None
    for each in everyone:
        assert isinstance(each.outcome, PeersDisagree)
        assert what in each.outcome.what


def test_a_peer_that_votes_while_others_propose_is_a_disagreement() -> None:
    space = SimulatedSpace()
    conversation = agree(space, [placement()], bytes(16))
    mine = next(conversation)
    vote = Vote(Agreed(WINDOW, WINDOW, bytes(16)))
    with pytest.raises(PeersDisagree, match="vote"):
        conversation.send(merge(mine, vote))
    assert space.kernel.ours == NOTHING


def test_no_common_gap_is_told_with_the_largest_there_is() -> None:
    low, high = Range(BASE, BASE + 8 * PAGE), Range(BASE + 9 * PAGE, WINDOW.stop)
    everyone = gather([SimulatedSpace(occupied=[low]), SimulatedSpace(occupied=[high])])
    meet(everyone)
    assert all_or_none(everyone) is None
    for each in everyone:
        assert isinstance(each.outcome, NoGap)
        assert each.outcome.wanted.size == 2 * PAGE
        assert each.outcome.largest == Range(BASE + 8 * PAGE, BASE + 9 * PAGE)


def test_what_no_space_can_hold_is_no_gap_without_a_claim() -> None:
    everyone = gather([SimulatedSpace(), SimulatedSpace()], [placement(17 * PAGE)])
    meet(everyone)
    assert all_or_none(everyone) is None
    assert all(isinstance(each.outcome, NoGap) for each in everyone)


@pytest.mark.parametrize("attempts", [1, 5, 32])
def test_a_range_that_is_lost_each_time_is_given_up_after_a_bounded_number(attempts: int) -> None:
    # This kernel lists everything as free and refuses every claim, as one with a thief before each step would.
    claims = 0

    class Refusing(SimulatedSpace):
        def reserve_at(self, where: Range, keep: list[Range] | None = None) -> None:
            nonlocal claims
            claims += 1
            raise Occupied(where)

    everyone = gather([SimulatedSpace(), Refusing()], attempts=attempts)
    meet(everyone)
    assert all_or_none(everyone) is None
    for each in everyone:
        assert isinstance(each.outcome, Contended)
        assert each.outcome.attempts == attempts
    assert claims == attempts


def test_a_range_that_was_lost_is_not_drawn_again_and_again() -> None:
    drawn: list[Range] = []

    class Refusing(SimulatedSpace):
        def reserve_at(self, where: Range, keep: list[Range] | None = None) -> None:
            drawn.append(where)
            raise Occupied(where)

    meet(gather([SimulatedSpace(), Refusing()]))
    assert len(set(drawn)) > 8  # of 15 places, in 32 draws


def test_a_kernel_that_can_claim_nothing_says_why_and_the_others_hear_of_it() -> None:
    limited = SimulatedSpace(max_address_space=4 * PAGE)
    everyone = gather([SimulatedSpace(), limited, SimulatedSpace()], [placement(8 * PAGE)])
    meet(everyone)
    assert all_or_none(everyone) is None
    assert isinstance(everyone[1].outcome, LimitReached)
    for each in (everyone[0], everyone[2]):
        assert isinstance(each.outcome, PeerFailed)
        assert each.outcome.peer == "peer 1"
        assert "RLIMIT_AS" in each.outcome.reason


def test_who_has_what_in_the_way_is_told_where_it_would_fit_for_most() -> None:
    spaces = [SimulatedSpace() for _ in range(3)]
    spaces.append(SimulatedSpace(occupied=[WINDOW]))
    everyone = gather(spaces)
    meet(everyone)
    assert all_or_none(everyone) is None
    for each in everyone:
        text = str(each.outcome)
        assert "peer 3" in text
        assert "a simulated mapping" in text
        assert not any(f"peer {other}" in text for other in range(3))


def test_one_slot_that_is_free_for_all_is_found_among_a_million_that_one_of_them_has() -> None:
    window = Range(BASE, BASE + (1 << 20) * PAGE)
    hole = BASE + 777_777 * PAGE
    around = [Range(BASE, hole), Range(hole + PAGE, window.stop)]
    # Every other page, so that no coarse cell is free of either, but none is full.
    combs = [[Range.sized(BASE + n * PAGE, PAGE) for n in range(odd, 40_000, 2)] for odd in (0, 1)]
    spaces = [SimulatedSpace(occupied=each) for each in (around[:1], around[1:], combs[0][:500], combs[1][:500])]
    everyone = gather(spaces, [placement(PAGE, window)])
    meet(everyone)
    assert all_or_none(everyone) == Range.sized(hole, PAGE)


# ---- late ------------------------------------------------------------------------------------------


def settled(agreed: Agreed, size: int = 2 * PAGE) -> Settled:
    return Settled(agreed, Request.of(placement(size), PAGE))


def test_who_comes_late_claims_what_the_others_hold() -> None:
    agreed = Agreed(Range.sized(BASE, 2 * PAGE), Range.sized(BASE, 2 * PAGE), b"t" * 16)
    [late] = gather([SimulatedSpace()])
    next(late.conversation)
    vote = late.conversation.send(settled(agreed))
    assert vote == Vote(agreed)
    with pytest.raises(StopIteration) as ended:
        late.conversation.send(vote)
    assert ended.value.value == agreed
    assert late.held == RangeSet([agreed.outer])


def test_who_comes_late_and_has_something_there_is_told_what() -> None:
    agreed = Agreed(Range.sized(BASE, 2 * PAGE), Range.sized(BASE, 2 * PAGE), b"t" * 16)
    [late] = gather([SimulatedSpace(occupied=[Range.sized(BASE + PAGE, PAGE)])])
    next(late.conversation)
    vote = late.conversation.send(settled(agreed))
    assert isinstance(vote, Vote)
    assert not vote.claimed
    with pytest.raises(Occupied, match="simulated mapping"):
        late.conversation.send(vote)
    assert late.held == NOTHING


def test_who_comes_late_and_wants_something_else_is_told_both() -> None:
    agreed = Agreed(Range.sized(BASE, 4 * PAGE), Range.sized(BASE, 4 * PAGE), b"t" * 16)
    [late] = gather([SimulatedSpace()])
    next(late.conversation)
    with pytest.raises(PeersDisagree, match=r"size 16384.*size 8192"):
        late.conversation.send(settled(agreed, 4 * PAGE))
    assert late.held == NOTHING


def test_what_cannot_be_given_back_is_told_by_the_one_who_holds_it() -> None:
    lucky = SimulatedSpace()
    assert lucky.windows  # every probe comes before the steps that are counted below
    assert lucky.manner is Manner.EXACT
    # Its claim succeeds, the other's does not, and the kernel refuses to take it back.
    step = lucky.kernel.steps + 1
    failing = SimulatedSpace(failures={step: errno.ENOMEM})

    class Refusing(SimulatedSpace):
        def reserve_at(self, where: Range, keep: list[Range] | None = None) -> None:
            raise Occupied(where)

    everyone = gather([failing, Refusing()])
    meet(everyone)
    outcome = everyone[0].outcome
    assert isinstance(outcome, RollbackFailed)
    assert RangeSet(outcome.leaked) == failing.kernel.ours
    assert everyone[1].held == NOTHING
    assert untouched(everyone)


# ---- the driver -----------------------------------------------------------------------------------


class Alone:
    """An exchange with nobody else."""

    me = "alone"

    def allreduce(self, message: Message) -> Message:
        return message


class Breaking:
    """An exchange that fails at a vote, or with any other exception."""

    me = "alone"

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def allreduce(self, message: Message) -> Message:
        if isinstance(message, Proposal):
            return message
        raise self.error


def test_one_alone_agrees_with_itself() -> None:
    space = SimulatedSpace()
    agreed = drive(agree(space, [placement()], bytes(16)), Alone())
    assert space.kernel.ours == RangeSet([agreed.outer])


@pytest.mark.parametrize("error", [PeerFailed("worker 1", "is gone"), KeyboardInterrupt(), OSError("broken")])
def test_whatever_the_exchange_raises_comes_out_and_nothing_stays_held(error: BaseException) -> None:
    space = SimulatedSpace()
    with pytest.raises(type(error)) as raised:
        drive(agree(space, [placement()], bytes(16)), Breaking(error))
    assert raised.value is error
    assert space.kernel.ours == NOTHING
