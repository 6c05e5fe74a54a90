"""Messages as bytes: they come back as they went, and anything else is a ValueError."""

from __future__ import annotations

import contextlib
import json
from random import Random
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stead.grid import CELLS
from stead.messages import (
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
    Settled,
    Step,
    Vote,
)
from stead.peers import wire
from stead.placement import Placement, Preference
from stead.ranges import Range

edges = st.integers(0, 1 << 57)
some_ranges = st.tuples(edges, edges).map(lambda pair: Range(min(pair), max(pair) + 1))
placements = st.builds(
    Placement,
    size=st.integers(1, 1 << 57),
    within=some_ranges,
    alignment=st.integers(0, 40).map(lambda power: 1 << power),
    guard=st.integers(0, 1 << 40),
    prefer=st.sampled_from(get_args(Preference)),
)
tokens = st.binary(min_size=16, max_size=16)
bitmaps = st.integers(0, (1 << 200) - 1) | st.integers(0, (1 << CELLS) - 1)
requests = st.builds(Request, edges, edges, edges, st.sampled_from(get_args(Preference)))
said = st.lists(st.builds(Said, st.text(), st.text()), max_size=4).map(tuple)
agreements = st.builds(Agreed, some_ranges, some_ranges, tokens)
looks = st.builds(Look, tokens, bitmaps, bitmaps, st.lists(edges, max_size=16).map(tuple), st.booleans())
proposals = st.builds(
    Proposal,
    tokens,
    st.lists(placements, min_size=1, max_size=3).map(tuple),
    st.sampled_from([4096, 16384, 65536]),
    st.lists(st.tuples(requests, st.text()), max_size=4).map(tuple),
    st.none() | looks,
    st.integers(1, 1 << 20),
)
votes = st.builds(Vote, agreements, said, said, st.booleans())
candidates = st.builds(Candidate, some_ranges, st.integers(0, 1 << 20), said)
blames = st.builds(Blame, st.lists(candidates, max_size=16).map(tuple), bitmaps)
steps = st.lists(st.builds(Step, st.text(), st.integers(1, 1 << 20), st.text()), max_size=4).map(tuple)
messages = st.one_of(
    proposals,
    votes,
    blames,
    st.builds(Settled, agreements, requests),
    st.builds(Ballot, steps, said),
    st.builds(Discord, st.text()),
)

plain_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
# The same with the names that the messages use, so that the checks behind them are reached too.
near_messages = st.dictionaries(
    st.sampled_from(
        [
            "vote",
            "lost",
            "refused",
            "alike",
            "token",
            "wanted",
            "look",
            "granularity",
            "requests",
            "peers",
            "blame",
            "occupied",
            "settled",
            "request",
            "ballot",
            "discord",
            "failed",
        ]
    ),
    plain_json,
    max_size=5,
)


@given(messages)
def test_a_message_comes_back_as_it_went(message: Message) -> None:
    assert wire.decode(wire.encode(message)) == message


@given(st.text(), st.text())
def test_a_failure_comes_back_as_who_and_how(peer: str, reason: str) -> None:
    assert wire.decode_answer(wire.encode_failure(peer, reason)) == (peer, reason)


def test_the_longest_message_fits_in() -> None:
    random = int.from_bytes(Random(1).randbytes(CELLS // 8), "big")
    said = tuple(Said.by("a rank with a long name " * 9, "x" * 10_000 + str(n)) for n in range(4))
    agreed = Agreed(Range(0, 1 << 57), Range(0, 1 << 57), bytes(16))
    wanted = (Placement(4096, Range(0, 1 << 57)),) * 8
    nominees = tuple((1 << 45) + n for n in range(16))
    requests = tuple((Request(1 << 57, 1 << 40, n, "scattered"), said[0].peer) for n in range(4))
    for longest in (
        Proposal(bytes(16), wanted, 65536, requests, Look(bytes(16), random, random ^ 5, nominees), 1 << 20),
        Vote(agreed, said, said),
        Blame((Candidate(Range(0, 1 << 57), 1 << 20, said),) * 16, random),
    ):
        assert len(wire.encode(longest)) <= wire.MAX_BYTES


def survives(data: bytes) -> None:
    for decode in (wire.decode, wire.decode_answer):
        with contextlib.suppress(ValueError):
            decode(data)


@given(st.binary())
def test_random_bytes_raise_nothing_but_value_error(data: bytes) -> None:
    survives(data)


@given(st.one_of(plain_json, near_messages))
def test_random_json_raises_nothing_but_value_error(plain: object) -> None:
    survives(json.dumps(plain).encode())


@given(messages, st.data())
def test_a_damaged_message_is_refused_or_still_one_that_can_be_sent_on(
    message: Message, data: st.DataObject
) -> None:
    sent = bytearray(wire.encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        sent[data.draw(st.integers(0, len(sent) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = wire.decode(bytes(sent))
    except ValueError:
        return
    assert wire.decode(wire.encode(read)) == read


LOOK = ["00" * 16, wire._packed(5), wire._packed(1), [3], False]
GOOD = {
    "token": "00" * 16,
    "wanted": [[4096, 0, 1 << 40, 4096, 0, "low"]],
    "granularity": 4096,
    "requests": [[4096, 1, 0, "low", "a peer"]],
    "look": LOOK,
    "peers": 1,
}


def test_the_message_that_the_next_test_spoils_is_good() -> None:
    assert isinstance(wire.decode(json.dumps(GOOD).encode()), Proposal)


@pytest.mark.parametrize(
    "spoiled",
    [
        {"token": 5},
        {"token": "xyz"},
        {"token": "00"},
        {"wanted": []},
        {"wanted": [[4096.5, 0, 1 << 40, 4096, 0, "low"]]},
        {"wanted": [[float("inf"), 0, 1 << 40, 4096, 0, "low"]]},
        {"wanted": [[float("nan"), 0, 1 << 40, 4096, 0, "low"]]},
        {"wanted": [[4096, 0, 1e300, 4096, 0, "low"]]},
        {"wanted": [[4096, 0, 1 << 40, 4096, 0.5, "low"]]},
        {"wanted": [[4096, 0, 1 << 40, 4096, 0, "left"]]},
        {"wanted": [[True, 0, 1 << 40, 4096, 0, "low"]]},
        {"wanted": [[4096, 0, 1 << 40, 4096, 0]]},
        {"granularity": 0},
        {"granularity": -4096},
        {"granularity": 4096.0},
        {"granularity": "4096"},
        {"granularity": 3000},  # no power of two
        {"requests": [[4096, 1, 0, "low"]]},
        {"requests": [[4096, 1, 0, "low", "a"]] * 5},
        {"requests": [[4096, 1, 0, 7, "a"]]},
        {"peers": "many"},
        {"look": []},
        {"look": ["00" * 16, 5, LOOK[2], [], False]},
        {"look": ["00" * 16, "!!!", LOOK[2], [], False]},
        {"look": ["00" * 16, "AAAA", LOOK[2], [], False]},
        {"look": ["00" * 16, wire._packed(1 << 65536), LOOK[2], [], False]},
        {"look": ["00" * 16, wire._packed(1 << 99_999_999), LOOK[2], [], False]},
        {"look": [*LOOK[:3], [0.5], False]},
        {"look": [*LOOK[:3], list(range(17)), False]},
        {"look": [*LOOK[:4], 0]},
    ],
)
def test_a_proposal_with_a_wrong_field_never_reaches_the_agreement(spoiled: dict[str, object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (each has its own words)
        wire.decode(json.dumps(GOOD | spoiled).encode())


@pytest.mark.parametrize("alike", ["no", "false", 1, 0, None, []])
def test_only_true_and_false_are_votes(alike: object) -> None:
    vote = {"vote": [0, 4096, 0, 4096, "00"], "lost": [], "refused": [], "alike": alike}
    with pytest.raises(ValueError, match="true or false"):
        wire.decode(json.dumps(vote).encode())
