"""Letters between a hub and its members come back as they went; anything else is a ValueError."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stead.messages import Agreed, Discord, Message, Settled, Vote
from stead.peers import letters
from stead.peers.envelopes import LONGEST
from stead.peers.letters import Answer, Join, Leave, Letter, Refuse, Say, Welcome
from stead.peers.wire import MAX_BYTES
from stead.ranges import Range

numbers = st.integers(0, (1 << 64) - 1)
names = st.text(min_size=1, max_size=100).filter(str.isprintable)
text = st.text(st.characters(exclude_categories=["Cs"]))
votes = st.booleans().map(lambda alike: Vote(Agreed(Range(0, 4096), Range(0, 4096), bytes(16)), alike=alike))
messages: st.SearchStrategy[Message] = votes | st.builds(Discord, text)
every_letter = st.one_of(
    st.builds(Join, names, st.floats(1e-6, 1e6), st.binary(max_size=16)),
    st.builds(Say, numbers, numbers, messages),
    st.just(Leave()),
    st.builds(Welcome, st.binary(min_size=16, max_size=16)),
    st.builds(Refuse, text),
    st.builds(Answer, numbers, messages | st.tuples(text, text)),
)


@given(every_letter)
def test_a_letter_comes_back_as_it_went(letter: Letter) -> None:
    assert letters.read(letters.write(letter)) == letter


@given(st.binary())
def test_random_bytes_raise_nothing_but_value_error(data: bytes) -> None:
    for kind in (b"", b"J", b"S", b"A", b"W", b"R", b"L"):
        with contextlib.suppress(ValueError):
            letters.read(kind + data)


@given(every_letter, st.data())
def test_a_damaged_letter_raises_nothing_but_value_error(letter: Letter, data: st.DataObject) -> None:
    sent = bytearray(letters.write(letter))
    for _ in range(data.draw(st.integers(1, 4))):
        sent[data.draw(st.integers(0, len(sent) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        letters.read(bytes(sent))


@pytest.mark.parametrize(
    "spoiled",
    [
        b'["", 1.0, ""]',
        b'["a\\n", 1.0, ""]',
        b'[7, 1.0, ""]',
        b'["a", 1, ""]',
        b'["a", 0.0, ""]',
        b'["a", -1.0, ""]',
        b'["a", NaN, ""]',
        b'["a", Infinity, ""]',
        b'["a", 1.0, "x"]',
        b'["a", 1.0]',
        b'{"a": 1}',
        b"[" * 100_000,
        b'["' + b"a" * 101 + b'", 1.0, ""]',
    ],
)
def test_who_joins_with_something_odd_is_refused(spoiled: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (each has its own words)
        letters.read(b"J" + spoiled)


def test_the_longest_letter_fits_into_an_envelope() -> None:
    around = len(letters.write(Say(0, 0, Discord("")))) - len('{"discord":""}')
    assert around + MAX_BYTES <= LONGEST


@pytest.mark.parametrize("name", ["", "a\0b", "a\nb", "a" * 101, "\ud800"])
def test_a_name_that_cannot_be_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="name is"):
        letters.check_name(name)
    with pytest.raises(TypeError, match="name is 7"):
        letters.check_name(7)


def test_settled_is_a_message_like_any_other() -> None:
    from stead.messages import Request

    settled = Settled(Agreed(Range(0, 4096), Range(0, 4096), bytes(16)), Request(4096, 1, 0, "low"))
    assert letters.read(letters.write(Answer(3, settled))) == Answer(3, settled)
