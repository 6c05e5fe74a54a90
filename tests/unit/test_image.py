"""Memory in a file and back: what was written comes back, and whatever was damaged is refused by name."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import stead
from stead.ranges import Range
from stead.symmetric.image import Save, Segment, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = 256 << 10


@pytest.fixture(scope="module")
def memory() -> Iterator[stead.Reservation]:
    with stead.reserve(SIZE) as held:
        held.commit()
        yield held


def save(path: Path, facts: dict[str, Any], segments: dict[str, Segment]) -> None:
    for _ in write(str(path), facts, segments):
        pass


def load(path: Path, segments: dict[str, Segment]) -> dict[str, Any]:
    found = Save(str(path))
    try:
        for _ in found.load(segments):
            pass
        return found.facts
    finally:
        found.close()


def fill(held: stead.Reservation, data: bytes) -> None:
    with held.view() as view:
        view[:] = data


def contents(held: stead.Reservation) -> bytes:
    with held.view() as view:
        return bytes(view)


ranges = st.lists(
    st.tuples(st.integers(0, SIZE - 1), st.integers(1, 40_000)), min_size=1, max_size=4
).map(lambda found: [Range(start, min(start + size, SIZE)) for start, size in found])  # fmt: skip


@given(where=ranges, written=st.lists(st.tuples(st.integers(0, SIZE - 1), st.binary(min_size=1, max_size=9))))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_written_comes_back(
    memory: stead.Reservation, tmp_path: Path, where: list[Range], written: list[tuple[int, bytes]]
) -> None:
    before = bytearray(SIZE)
    for at, data in written:
        before[at : at + len(data)] = data[: SIZE - at]
    fill(memory, bytes(before))
    segments = {
        f"part {number}": Segment(
            memory.address + each.start, [Range(memory.address + each.start, memory.address + each.stop)]
        )
        for number, each in enumerate(where)
    }
    save(tmp_path / "file", {"number": 7}, segments)
    fill(memory, bytes(SIZE))
    facts = load(tmp_path / "file", segments)
    assert facts["number"] == 7
    expected = bytearray(SIZE)
    for each in where:
        expected[each.start : each.stop] = before[each.start : each.stop]
    assert contents(memory) == expected


def whole(memory: stead.Reservation) -> dict[str, Segment]:
    return {"all": Segment(memory.address, [memory.range])}


@pytest.fixture
def file(memory: stead.Reservation, tmp_path: Path) -> Path:
    fill(memory, b"\0" * 70_000 + b"contents" * 100 + b"\0" * (SIZE - 70_800))
    save(tmp_path / "file", {"number": 7}, whole(memory))
    return tmp_path / "file"


def test_zeros_take_no_room(file: Path) -> None:
    assert 4096 <= file.stat().st_size < 2 * 4096 + 400


@given(data=st.data())
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_bit_is_found(memory: stead.Reservation, file: Path, data: st.DataObject) -> None:
    good = file.read_bytes()
    at, bit = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(0, 7))
    try:
        file.write_bytes(good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :])
        with pytest.raises(stead.UnreadableSave) as caught:
            load(file, whole(memory))
        assert str(file) in str(caught.value)
        assert caught.value.path == str(file)
    finally:
        file.write_bytes(good)


@given(data=st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_cut_off_is_found(memory: stead.Reservation, file: Path, data: st.DataObject) -> None:
    good = file.read_bytes()
    try:
        file.write_bytes(good[: data.draw(st.integers(0, len(good) - 1))])
        with pytest.raises(stead.UnreadableSave, match=r"cut off|no save of stead"):
            load(file, whole(memory))
    finally:
        file.write_bytes(good)


def test_other_files_are_refused(memory: stead.Reservation, tmp_path: Path) -> None:
    path = tmp_path / "other"
    for data, why in [
        (b"", "cut off"),
        (b"\x7fELF" * 100, "no save of stead"),
        (b"stead save 2\n\0\0\0" + bytes(100), "format is b'2"),
        (b"stead save 1\n\0\0\0" + b"\xff" * 8 + bytes(100), "its header is damaged"),
        (b"stead save 1\n\0\0\0" + (4).to_bytes(8, "little") + b"null" + bytes(100), "its header is damaged"),
    ]:
        path.write_bytes(data)
        with pytest.raises(stead.UnreadableSave, match=why):
            Save(str(path))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Save(str(tmp_path / "nowhere"))


def test_what_there_is_no_room_for_is_refused(memory: stead.Reservation, file: Path) -> None:
    for segments in (
        {},
        {"all": Segment(memory.address, [Range(memory.address, memory.address + 4096)])},
        {"all": Segment(memory.address + 65536, [Range(memory.address + 65536, memory.range.stop)])},
    ):
        fill(memory, bytes(SIZE))
        if "all" in segments and segments["all"].base != memory.address:
            load(file, segments)  # moved by as much as its base
            assert contents(memory)[65536 + 70_000 :][:8] == b"contents"
            continue
        with pytest.raises(stead.UnreadableSave, match="no room"):
            load(file, segments)
        assert contents(memory) == bytes(SIZE)


def test_where_it_cannot_be_written_there_is_no_file(memory: stead.Reservation, tmp_path: Path) -> None:
    fill(memory, b"\1" * SIZE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(stead.LimitReached, match=r"full.*cannot be written") as caught:
            save(tmp_path / "full", {}, whole(memory))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.limit == "RLIMIT_FSIZE"
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match="nowhere"):
        save(tmp_path / "nowhere" / "file", {}, whole(memory))


def test_one_that_is_not_written_to_the_end_leaves_no_file(memory: stead.Reservation, tmp_path: Path) -> None:
    fill(memory, b"\1" * SIZE)
    steps = write(str(tmp_path / "half"), {}, whole(memory))
    next(steps)
    steps.close()
    assert not list(tmp_path.iterdir())
