"""The greeting and the envelopes: who has not the key, and whatever is changed on its way, is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stead.peers.envelopes import LONGEST, MAGIC, Broken, Envelopes, KeyRefused, greet_hub, greet_member

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = b"a key that both know"


def untouched(step: int, data: bytes) -> bytes:
    return data


def meet(member_key: bytes, hub_key: bytes, between: Callable[[int, bytes], bytes] = untouched) -> tuple[Any, Any]:
    """Both ends' envelopes, or what they raised. ``between`` has every piece, numbered, in its hands."""
    member, hub = greet_hub(member_key), greet_member(hub_key)
    outcomes: list[Any] = [None, None]
    _, hub_wants = next(hub)
    to_hub, member_wants = next(member)
    for step in range(2):
        data = between(2 * step, to_hub)
        assert len(data) == hub_wants, "a greeting is of fixed sizes"
        try:
            to_member, hub_wants = hub.send(data)
        except StopIteration as end:
            to_member, outcomes[1] = end.value
        except KeyRefused as error:
            to_member, outcomes[1] = error.parting, error
        except Broken as error:
            return "unanswered", error
        data = between(2 * step + 1, to_member)
        assert len(data) == member_wants
        try:
            to_hub, member_wants = member.send(data)
        except StopIteration as end:
            outcomes[0] = end.value[1]
        except Broken as error:
            return error, outcomes[1]
    return outcomes[0], outcomes[1]


def pair() -> tuple[Envelopes, Envelopes]:
    return meet(KEY, KEY)


@given(st.binary(), st.lists(st.binary(max_size=100), max_size=5), st.lists(st.binary(max_size=100), max_size=5))
def test_with_the_same_key_letters_arrive_both_ways(key: bytes, up: list[bytes], down: list[bytes]) -> None:
    member, hub = meet(key, key)
    for sender, receiver, letters in ((member, hub, up), (hub, member, down)):
        for letter in letters:
            sealed = bytearray(sender.seal(letter))
            assert receiver.missing(sealed) == 0
            assert receiver.open(sealed) == letter
            assert not sealed


@given(st.binary(), st.binary())
def test_with_different_keys_both_are_told(one: bytes, other: bytes) -> None:
    # HMAC pads short keys with zeros (RFC 2104), so that these would be the same.
    if one.rstrip(b"\0") == other.rstrip(b"\0"):
        return
    member, hub = meet(one, other)
    assert isinstance(member, KeyRefused)
    assert isinstance(hub, KeyRefused)


@given(st.integers(0, 3), st.integers(0, 10_000), st.integers(0, 7))
def test_a_greeting_with_any_bit_flipped_ends_in_a_refusal_at_one_side_at_least(
    step: int, at: int, bit: int
) -> None:
    def flip(number: int, data: bytes) -> bytes:
        changed = bytearray(data)
        if number == step:
            changed[at % len(data)] ^= 1 << bit
        return bytes(changed)

    member, hub = meet(KEY, KEY, flip)
    # Only the last piece is beyond what the hub can know of: there it waits for a member that has gone.
    assert isinstance(member, Broken) or member == "unanswered"
    assert isinstance(hub, Broken) or step in (1, 3)


def test_the_key_itself_is_never_sent() -> None:
    sent = []

    def listen(number: int, data: bytes) -> bytes:
        sent.append(data)
        return data

    meet(KEY, KEY, listen)
    assert len(sent) == 4
    assert not any(KEY in data for data in sent)


def test_a_stranger_is_given_nothing_that_depends_on_the_key_before_it_has_proved_to_know_it() -> None:
    hub = greet_member(KEY)
    next(hub)
    reply, _ = hub.send(MAGIC + bytes(32))
    assert reply.startswith(MAGIC)
    assert len(reply) == len(MAGIC) + 32  # a nonce
    with pytest.raises(KeyRefused) as refused:
        hub.send(bytes(32))
    assert not any(refused.value.parting)


def test_what_is_sent_back_to_its_sender_proves_nothing() -> None:
    member = greet_hub(KEY)
    hello, _ = next(member)
    with pytest.raises(Broken, match="comes back"):
        member.send(hello)


def test_a_proof_cannot_be_had_from_another_member_by_playing_its_hub() -> None:
    """Somebody in the middle passes everything on, but for the last word, which it makes from the member's."""
    member, hub = greet_hub(KEY), greet_member(KEY)
    next(hub)
    hello, _ = next(member)
    challenge, _ = hub.send(hello)
    proof, _ = member.send(challenge)
    with pytest.raises(KeyRefused):
        member.send(b"\1" + proof)


def test_a_greeting_that_was_overheard_opens_nothing_later() -> None:
    sent: list[bytes] = []

    def listen(number: int, data: bytes) -> bytes:
        sent.append(data)
        return data

    meet(KEY, KEY, listen)
    hub = greet_member(KEY)
    next(hub)
    hub.send(sent[0])
    with pytest.raises(KeyRefused):
        hub.send(sent[2])


@given(st.binary(min_size=40, max_size=40))
def test_who_speaks_something_else_is_refused_with_what_it_said(hello: bytes) -> None:
    hub = greet_member(KEY)
    next(hub)
    with pytest.raises(Broken, match="begins with"):
        hub.send(hello)
    member = greet_hub(KEY)
    next(member)
    with pytest.raises(Broken, match="begins with"):
        member.send(hello)


# ---- envelopes --------------------------------------------------------------------------------------


@given(st.binary(max_size=200), st.integers(0, 10_000), st.integers(0, 7))
def test_any_bit_flipped_is_refused_or_waits_for_bytes_that_do_not_come(letter: bytes, at: int, bit: int) -> None:
    member, hub = pair()
    sealed = bytearray(member.seal(letter))
    sealed[at % len(sealed)] ^= 1 << bit
    try:
        missing = hub.missing(sealed)
        if missing <= 0:
            hub.open(sealed)
    except Broken:
        return
    assert missing > 0, "it was opened"
    # A length that has grown: the bytes that would fill it are not sealed.
    with pytest.raises(Broken):
        hub.open(sealed + bytearray(missing))


@given(st.lists(st.binary(max_size=20), min_size=2, max_size=6), st.data())
def test_what_is_not_in_its_turn_is_refused(letters: list[bytes], data: st.DataObject) -> None:
    """Left out, repeated, or moved: also where the letters are equal."""
    member, hub = pair()
    sealed = [member.seal(letter) for letter in letters]
    order = data.draw(st.lists(st.integers(0, len(letters) - 1), min_size=1, max_size=8))
    for turn, number in enumerate(order):
        if number == turn:
            assert hub.open(bytearray(sealed[number])) == letters[number]
        else:
            with pytest.raises(Broken):
                hub.open(bytearray(sealed[number]))
            return


def test_what_was_sealed_in_another_connection_or_for_the_other_direction_is_refused() -> None:
    (member, hub), (another, _) = pair(), pair()
    with pytest.raises(Broken):
        hub.open(bytearray(another.seal(b"letter")))
    with pytest.raises(Broken):
        member.open(bytearray(member.seal(b"letter")))


@given(st.binary(max_size=50), st.integers(0, 100))
def test_what_is_cut_off_is_waited_for(letter: bytes, length: int) -> None:
    member, hub = pair()
    sealed = member.seal(letter)
    cut = bytearray(sealed[: min(length, len(sealed) - 1)])
    assert 0 < hub.missing(cut) <= len(sealed) - len(cut)


@pytest.mark.parametrize("length", [LONGEST + 1, 1 << 30, (1 << 32) - 1])
def test_a_length_that_is_too_long_is_refused_before_anything_of_it_is_read(length: int) -> None:
    _, hub = pair()
    with pytest.raises(Broken, match=f"a letter of {length} bytes"):
        hub.missing(bytearray(length.to_bytes(4, "big")))


def test_the_longest_letter_goes_and_a_longer_one_is_not_sealed() -> None:
    member, hub = pair()
    assert hub.open(bytearray(member.seal(bytes(LONGEST)))) == bytes(LONGEST)
    with pytest.raises(ValueError, match="at most"):
        member.seal(bytes(LONGEST + 1))
