"""Messages as bytes: they come back as they went, and anything else is a ValueError."""

from __future__ import annotations

import contextlib
import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stead.agreement import Message, Proposal, Vote
from stead.peers import wire
from stead.placement import Footprint, Placement, Preference
from stead.ranges import Range, RangeSet

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
footprints = st.builds(
    Footprint, st.lists(some_ranges, max_size=6).map(RangeSet), st.sampled_from([4096, 16384, 65536])
)
proposals = st.builds(
    Proposal,
    st.binary(min_size=16, max_size=16),
    st.lists(placements, min_size=1, max_size=3).map(tuple),
    footprints,
)
votes = st.builds(Vote, st.booleans(), st.text())
messages = st.one_of(proposals, votes)

plain_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
# The same with the names that the messages use, so that the checks behind them are reached too.
near_messages = st.dictionaries(
    st.sampled_from(["claimed", "reason", "token", "wanted", "seen", "all", "failed"]), plain_json, max_size=5
)


@given(messages)
def test_a_message_comes_back_as_it_went(message: Message) -> None:
    assert wire.decode(wire.encode(message)) == message


@given(st.lists(messages, min_size=1, max_size=5))
def test_everyones_messages_come_back_in_their_order(all_of_them: list[Message]) -> None:
    assert wire.decode_all(wire.encode_all(all_of_them)) == all_of_them


@given(st.text(), st.text())
def test_a_failure_comes_back_as_who_and_how(peer: str, reason: str) -> None:
    assert wire.decode_all(wire.encode_failure(peer, reason)) == (peer, reason)


def test_a_footprint_of_the_most_mappings_that_a_process_may_have_fits_in() -> None:
    crowded = RangeSet(Range.sized(0x7FFF_0000_0000 + n * 8192, 4096) for n in range(65_530))
    whole = Proposal(bytes(16), (Placement(4096, Range(0, 1 << 47)),), Footprint(crowded, 4096))
    assert len(wire.encode(whole)) <= wire.MAX_BYTES


def survives(data: bytes) -> None:
    for decode in (wire.decode, wire.decode_all):
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


GOOD = {
    "token": "00" * 16,
    "wanted": [[4096, 0, 1 << 40, 4096, 0, "low"]],
    "seen": [4096, 4096, 8192],
}


def test_the_message_that_the_next_test_spoils_is_good() -> None:
    assert isinstance(wire.decode(json.dumps(GOOD).encode()), Proposal)


@pytest.mark.parametrize(
    "spoiled",
    [
        {"token": 5},
        {"token": "xyz"},
        {"wanted": []},
        {"wanted": [[4096.5, 0, 1 << 40, 4096, 0, "low"]]},
        {"wanted": [[float("inf"), 0, 1 << 40, 4096, 0, "low"]]},
        {"wanted": [[float("nan"), 0, 1 << 40, 4096, 0, "low"]]},
        {"wanted": [[4096, 0, 1e300, 4096, 0, "low"]]},
        {"wanted": [[4096, 0, 1 << 40, 4096, 0.5, "low"]]},
        {"wanted": [[4096, 0, 1 << 40, 4096, 0, "left"]]},
        {"wanted": [[True, 0, 1 << 40, 4096, 0, "low"]]},
        {"wanted": [[4096, 0, 1 << 40, 4096, 0]]},
        {"seen": []},
        {"seen": [0]},
        {"seen": [-4096]},
        {"seen": [4096.0]},
        {"seen": ["4096"]},
        {"seen": [3000]},  # no power of two
        {"seen": [4096, 4096]},
        {"seen": [4096, 8192, 4096]},
        {"seen": [4096, "a", "b"]},
        {"seen": [4096, 0.5, 1.5]},
    ],
)
def test_a_proposal_with_a_wrong_field_never_reaches_the_agreement(spoiled: dict[str, object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (each has its own words)
        wire.decode(json.dumps(GOOD | spoiled).encode())


@pytest.mark.parametrize("claimed", ["no", "false", 1, 0, None, []])
def test_only_true_and_false_are_votes(claimed: object) -> None:
    with pytest.raises(ValueError, match="agreement"):
        wire.decode(json.dumps({"claimed": claimed, "reason": ""}).encode())


def test_messages_of_nobody_are_refused() -> None:
    with pytest.raises(ValueError, match="agreement"):
        wire.decode_all(b'{"all": []}')


def test_deep_nesting_is_refused() -> None:
    survives(b"[" * 200_000)
