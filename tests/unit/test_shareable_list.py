"""stead.shared_memory.ShareableList: as the standard one, value by value, but where that is known to be wrong."""

from __future__ import annotations

import os
import pickle
import struct
from contextlib import contextmanager
from multiprocessing import shared_memory as standard
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stead.shared_memory import ShareableList, SharedMemory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MIXED: list[Any] = ["howdy", b"HoWdY", -273.154, 100, None, True, 42, "", b"", "12345678", False]

ITEMS = st.one_of(
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False),
    st.booleans(),
    st.none(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.binary(max_size=40),
)


@contextmanager
def made(items: Iterable[Any] | None = None, name: str | None = None) -> Iterator[ShareableList[Any]]:
    made = ShareableList[Any](items, name=name)
    try:
        yield made
    finally:
        made.shm.unlink()


@contextmanager
def theirs(items: Iterable[Any]) -> Iterator[Any]:
    made = standard.ShareableList(items)
    try:
        yield made
    finally:
        made.shm.close()
        made.shm.unlink()


def test_it_is_the_standard_one() -> None:
    with made(MIXED) as ours, theirs(MIXED) as other:
        assert list(ours) == list(other) == MIXED
        assert list(map(type, ours)) == list(map(type, other))
        assert ours.format == other.format
        assert len(ours) == len(other)
        assert ours[-2] == other[-2]
        for item in MIXED:
            assert (ours.count(item), ours.index(item)) == (other.count(item), other.index(item))
        assert repr(ours) == repr(other).replace(other.shm.name, ours.shm.name)
        for absent in (5, "x", b"y"):
            assert ours.count(absent) == 0
            with pytest.raises(ValueError, match="not in this container"):
                ours.index(absent)
        assert "howdy" in ours
        assert list(reversed(ours)) == MIXED[::-1]


@given(st.lists(ITEMS, max_size=20))
def test_whatever_is_in_it_comes_out(items: list[Any]) -> None:
    with made(items) as ours:
        assert list(ours) == items
        assert list(map(type, ours)) == list(map(type, items))
        again = ShareableList[Any](name=ours.shm.name)
        assert list(again) == items
        assert again.format == ours.format


@given(st.lists(ITEMS, min_size=1, max_size=8), st.lists(st.tuples(st.integers(0, 7), ITEMS), max_size=20))
def test_what_is_put_in_replaces_one_item_or_is_refused_and_changes_nothing(
    items: list[Any], changes: list[tuple[int, Any]]
) -> None:
    """The standard one is the model: what it takes is taken, what it says is in it is in it, its NULs apart."""
    clean = [item for item in items if not ends_in_nul(item) and not is_wide(item)]
    if not clean:
        return
    with made(clean) as ours, theirs(clean) as other:
        model = list(clean)
        for at, item in changes:
            position = at % len(clean)
            refused = None
            try:
                other[position] = item
            except ValueError as error:
                refused = error
            if refused is None:
                ours[position] = model[position] = item
            else:
                with pytest.raises(ValueError, match="exceeds available storage"):
                    ours[position] = item
            assert list(ours) == model
            assert ours.format == other.format


def ends_in_nul(item: Any) -> bool:
    return isinstance(item, (str, bytes)) and item[-1:] in ("\0", b"\0")


def is_wide(item: Any) -> bool:
    """The standard one counts characters for its room, and cuts off what has more bytes."""
    return isinstance(item, str) and len(item.encode()) > 8 * (len(item) // 8 + 1)


def test_what_the_standard_one_loses_is_kept() -> None:
    # Known issues of its documentation: the NULs at the end of str and bytes.
    with made(["?\x00", b"\x03\x02\x01\x00\x00\x00", "\0", b""]) as ours:
        assert list(ours) == ["?\x00", b"\x03\x02\x01\x00\x00\x00", "\0", b""]
        ours[0] = "\0\0"
        assert ours[0] == "\0\0"
    with made(["✓" * 7]) as ours:
        assert ours[0] == "✓" * 7
    # What does not fit leaves what was there; the standard one has changed the item's format by then.
    with made([1, "text"]) as ours:
        for wrong in (1 << 63, -(1 << 63) - 1):
            with pytest.raises(struct.error, match=f"item is {wrong}, must be an int of 64 bits"):
                ours[1] = wrong
        assert (list(ours), ours.format) == ([1, "text"], "q8s")


def test_positions_outside_are_refused() -> None:
    with made([1, 2]) as ours:
        for position in (2, -3, 1 << 70):
            with pytest.raises(IndexError, match="index out of range"):
                ours[position]
            with pytest.raises(IndexError, match="assignment index out of range"):
                ours[position] = 1
        wrong: Any = slice(0, 1)
        with pytest.raises(TypeError):
            ours[wrong]
        assert (ours[-1], ours[True]) == (2, 2)


def test_items_that_cannot_be_stored_are_named() -> None:
    for wrong in ([1], object(), 1j, bytearray(b"x")):
        with pytest.raises(TypeError, match=f"of type {type(wrong).__name__}, must be int, float"):
            ShareableList[Any]([wrong])
        with made([1]) as ours, pytest.raises(TypeError, match="must be int"):
            ours[0] = wrong
    with pytest.raises(ValueError, match="item has 9999992 bytes, must have at most 9999991"):
        ShareableList([b"x" * 9_999_992])
    with made([b"x" * 9_999_991]) as ours:
        assert ours[0] == b"x" * 9_999_991


def test_an_empty_one_and_one_of_a_generator() -> None:
    with made() as ours:
        assert (len(ours), list(ours), ours.format, ours.count(1)) == (0, [], "", 0)
        assert len(ShareableList[Any](name=ours.shm.name)) == 0
    with made(n * n for n in range(5)) as ours:
        assert list(ours) == [0, 1, 4, 9, 16]
    with made([], name=f"empty {os.getpid()}"):
        pass


def test_it_is_attached_by_name_and_by_pickle() -> None:
    with made(MIXED, name=f"list {os.getpid()}") as ours:
        again = ShareableList[Any](name=ours.shm.name)
        arrived = pickle.loads(pickle.dumps(ours))
        again[0] = "hello"
        arrived[2] = None
        assert (ours[0], ours[2]) == ("hello", None)
        with pytest.raises(FileExistsError):
            ShareableList([1], name=ours.shm.name)
        copy = ShareableList[Any](ours)
        assert list(copy) == list(ours)
        copy.shm.unlink()
    with pytest.raises(FileNotFoundError):
        ShareableList(name=ours.shm.name)


def test_what_is_no_list_is_told() -> None:
    for size, start in ((8, b""), (100, b"\xff" * 16), (100, b"\0" * 16), (100, struct.pack("qq", 2, 1 << 60))):
        memory = SharedMemory(create=True, size=size)
        memory.buf[: len(start)] = start
        with pytest.raises(ValueError, match=f"name is '{memory.name}', which holds no list"):
            ShareableList(name=memory.name)
        memory.unlink()
