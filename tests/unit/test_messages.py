"""Messages merge: in any order, in any tree, and never into something that grows."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from stead.messages import (
    NAMED,
    NOMINEES,
    Agreed,
    Ballot,
    Blame,
    Candidate,
    Discord,
    Look,
    Message,
    Proposal,
    Request,
    Said,
    Step,
    Vote,
    merge,
)
from stead.placement import Placement
from stead.ranges import Range

if TYPE_CHECKING:
    from random import Random

few = st.integers(0, 5)
tokens = few.map(lambda n: bytes([n]) * 16)
names = few.map(lambda n: f"peer {n}")
requests = st.builds(Request, few, few, few, st.just("low"))
looks = st.builds(
    Look, st.sampled_from([b"a", b"b"]), st.integers(0, 255), st.integers(0, 255),
    st.lists(st.integers(0, 99), max_size=NOMINEES, unique=True).map(tuple), st.booleans(),
)  # fmt: skip
wanted = few.map(lambda n: (Placement(4096, Range(0, 4096 * (n + 1))),))
proposals = st.builds(
    Proposal, tokens, wanted, st.sampled_from([4096, 65536]),
    st.tuples(st.tuples(requests, names)), st.none() | looks,
)  # fmt: skip
said = st.lists(st.builds(Said, names, st.just("why")), max_size=2).map(tuple)
agreements = st.builds(Agreed, few.map(lambda n: Range(n, n + 1)), st.just(Range(0, 9)), tokens)
votes = st.builds(Vote, agreements, said, said)
blames = st.builds(
    lambda by, bits: Blame((Candidate(Range(0, 1), len(by), by), Candidate(Range(5, 6))), bits),
    said, st.integers(0, 255),
)  # fmt: skip
steps = few.map(lambda n: f"step {n}")
ballots = st.builds(Ballot.by, names, steps, st.none() | st.just("no memory"))
kinds_of_messages = (proposals, votes, blames, ballots)
alike = st.one_of(*(st.lists(each, min_size=1, max_size=7) for each in kinds_of_messages))
mixed = st.lists(st.one_of(*kinds_of_messages, st.just(Discord("before"))), min_size=1, max_size=7)


def canonical(message: Message) -> object:
    """The first nominees of a single message are in the order in which they were made."""
    return merge(message, message) if isinstance(message, Vote | Discord) else message


def in_some_tree(messages: list[Message], random: Random) -> Message:
    left = list(messages)
    while len(left) > 1:
        a = left.pop(random.randrange(len(left)))
        b = left.pop(random.randrange(len(left)))
        left.append(merge(a, b))
    return left[0]


@given(alike, st.randoms(use_true_random=False))
def test_any_tree_of_merges_gives_the_same(messages: list[Message], random: Random) -> None:
    if len(messages) > 1:
        assert in_some_tree(messages, random) == reduce(merge, messages)


@given(mixed, st.randoms(use_true_random=False))
def test_those_who_are_at_different_points_never_come_to_a_result(messages: list[Message], random: Random) -> None:
    kinds = {type(each) for each in messages}
    merged = in_some_tree(messages, random)
    assert isinstance(merged, Discord) == (len(kinds) > 1 or kinds == {Discord})


@given(st.lists(proposals, min_size=2, max_size=9))
def test_what_is_kept_is_bounded_and_belongs_to_the_smallest_token(messages: list[Proposal]) -> None:
    merged = reduce(Proposal.merge, messages)
    assert merged.token == min(each.token for each in messages)
    assert merged.wanted in [each.wanted for each in messages if each.token == merged.token]
    assert merged.granularity == max(each.granularity for each in messages)
    assert len(merged.requests) <= NAMED
    assert merged.peers == len(messages)
    keys = {each.look.key if each.look else None for each in messages}
    if keys == {b"a"}:
        assert merged.look is not None
        assert merged.look.touched == reduce(int.__or__, (each.look.touched for each in messages if each.look))
        assert len(merged.look.nominees) <= NOMINEES
    if len(keys) > 1:
        assert merged.look is None


def test_a_vote_is_won_only_where_all_have_claimed_the_same() -> None:
    one, other = (Agreed(Range(n, n + 1), Range(n, n + 1), bytes(16)) for n in (0, 1))
    assert merge(Vote(one), Vote(one)) == Vote(one)
    lost = merge(Vote(one), Vote(one, lost=(Said("b", "taken"),)))
    assert isinstance(lost, Vote)
    assert not lost.claimed
    assert lost.lost == (Said("b", "taken"),)
    unlike = merge(Vote(one), Vote(other))
    assert isinstance(unlike, Vote)
    assert not unlike.alike
    assert not unlike.claimed


@given(st.lists(ballots, min_size=1, max_size=12))
def test_a_ballot_counts_who_is_where_and_names_the_first(messages: list[Ballot]) -> None:
    merged = reduce(Ballot.merge, messages)
    said = sorted({each.steps[0].what for each in messages})[:NAMED]
    assert [each.what for each in merged.steps] == said
    for step in merged.steps:
        there = [each.steps[0].first for each in messages if each.steps[0].what == step.what]
        assert step == Step(step.what, len(there), min(there))
    refused = {each.refused[0].peer for each in messages if each.refused}
    assert [each.peer for each in merged.refused] == sorted(refused)[:NAMED]
