"""Addresses at ranks: arithmetic, and as words in memory."""

from __future__ import annotations

import pickle
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stead import GlobalPointer

ranks = st.integers(0, (1 << 16) - 1)
addresses = st.integers(0, (1 << 48) - 1)
pointers = st.builds(GlobalPointer, ranks, addresses)


@given(pointers, st.integers(-(1 << 40), 1 << 40))
def test_bytes_are_added_and_taken_away(pointer: GlobalPointer, offset: int) -> None:
    moved = pointer + offset
    assert isinstance(moved, GlobalPointer)
    assert moved == (pointer.rank, pointer.address + offset) == offset + pointer
    assert moved - offset == pointer
    assert moved - pointer == offset


@given(pointers)
def test_as_a_word_and_back(pointer: GlobalPointer) -> None:
    assert GlobalPointer.from_word(pointer.word) == pointer
    assert GlobalPointer.from_word(int(numpy.uint64(pointer.word))) == pointer
    assert pickle.loads(pickle.dumps(pointer)) == pointer
    assert bool(pointer) == (pointer.address != 0)


def test_an_index_of_numpy_does() -> None:
    assert GlobalPointer(1, 100) + numpy.int64(8) == GlobalPointer(1, 108)
    assert GlobalPointer.from_word(numpy.uint64(5)) == (0, 5)


def test_the_null_pointer_is_false() -> None:
    assert not GlobalPointer.from_word(0)
    assert GlobalPointer.from_word(0) == (0, 0)


@given(st.integers(0, 5), st.integers(6, 9), addresses)
def test_there_is_no_distance_between_ranks(one: int, other: int, address: int) -> None:
    with pytest.raises(ValueError, match="different ranks"):
        GlobalPointer(one, address) - GlobalPointer(other, address)


@pytest.mark.parametrize("pointer", [(-1, 0), (1 << 16, 0), (0, 1 << 48), (0, -1)])
def test_what_fits_into_no_word(pointer: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="does not fit into 64 bits"):
        _ = GlobalPointer(*pointer).word


@pytest.mark.parametrize("word", [-1, 1 << 64])
def test_what_is_no_word(word: int) -> None:
    with pytest.raises(ValueError, match=f"word is {word}"):
        GlobalPointer.from_word(word)


@pytest.mark.parametrize("other", ["8", 8.0, None, (1, 2)])
def test_only_bytes_are_added(other: Any) -> None:
    with pytest.raises(TypeError):
        GlobalPointer(0, 8) + other
    with pytest.raises(TypeError):
        GlobalPointer(0, 8) - other


def test_it_says_where() -> None:
    assert str(GlobalPointer(3, 0x480000000000)) == "0x480000000000 at rank 3"
