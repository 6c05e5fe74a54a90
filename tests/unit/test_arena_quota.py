"""An arena's quota: what is beyond is refused, in words and numbers; what is within is as without."""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stead

if TYPE_CHECKING:
    from pathlib import Path

PAGE = os.sysconf("SC_PAGESIZE")
MIB = 1 << 20


def fill(arena: stead.Arena, held: list[int], size: int) -> None:
    while True:
        held.append(arena.allocate(size))


def test_what_is_beyond_the_quota_is_refused_with_numbers() -> None:
    with stead.Arena("64 MiB", name="small", quota="8 MiB") as arena:
        assert arena.quota == 8 * MIB
        assert arena.range.size == 64 * MIB
        first = arena.allocate("6 MiB")
        with pytest.raises(
            stead.OverQuota,
            match=r"size is 4194304 bytes: .*small.* has a quota of 8 MiB, of which 6 MiB are used",
        ) as caught:
            arena.allocate("4 MiB")
        error = caught.value
        assert (error.quota, error.used, error.size) == (8 * MIB, 6 * MIB, 4 * MIB)
        assert error.largest_free_run == 2 * MIB
        assert isinstance(error, stead.OutOfSpace)
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.quota) == (stead.OverQuota, str(error), error.quota)
        arena.free(arena.allocate("2 MiB"))
        arena.free(first)
        arena.free(arena.allocate("8 MiB"))
        arena.check()


def test_no_memory_is_taken_beyond_it() -> None:
    with stead.Arena("1 GiB", quota=3 * MIB) as arena:
        held: list[int] = []
        with pytest.raises(stead.OverQuota):
            fill(arena, held, 1000)
        statistics = arena.statistics()
        assert statistics.committed <= 3 * MIB
        assert statistics.used >= 0.9 * 3 * MIB
        for each in held:
            arena.free(each)


def test_what_no_arena_of_this_size_has_is_out_of_space() -> None:
    with stead.Arena("1 MiB", quota="512 KiB") as arena:
        with pytest.raises(stead.OutOfSpace) as caught:
            arena.allocate("2 MiB")
        assert not isinstance(caught.value, stead.OverQuota)
    with stead.Arena("1 MiB", quota="1 GiB") as arena:
        with pytest.raises(stead.OutOfSpace) as caught:
            arena.allocate("1 MiB") + arena.allocate("1 MiB")
        assert not isinstance(caught.value, stead.OverQuota)
        assert arena.quota == 1 << 30
        arena.free(arena.range.start)


@pytest.mark.parametrize(
    "more", [{"hardened": True}, {"guard": PAGE}, {"zero": True}, {"backing": "none"}, {"backing": "shared"}]
)
def test_with_everything_else(more: dict[str, Any]) -> None:
    with stead.Arena("64 MiB", quota="1 MiB", **more) as arena:
        held: list[int] = []
        with pytest.raises(stead.OverQuota, match="quota of 1 MiB"):
            fill(arena, held, 64 << 10)
        assert 1 <= len(held) <= 16
        for each in held:
            arena.free(each)


def test_in_a_reservation_a_file_and_a_block(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(4 * MIB))
    with stead.reserve("4 MiB") as held, stead.Arena(held, backing=stead.File(path), quota="1 MiB") as arena:
        assert arena.statistics().committed == MIB
        assert held.committed.size == MIB
        with pytest.raises(stead.OverQuota):
            arena.allocate("2 MiB")
        with stead.Arena("8 MiB") as outer:
            block = outer.block("4 MiB", 4096)
            inner = stead.Arena(block, quota="64 KiB")
            with pytest.raises(stead.OverQuota):
                inner.allocate("128 KiB")
            inner.close()
            del block


@pytest.mark.parametrize(
    ("quota", "kind", "says"),
    [(0, ValueError, "quota is 0"), (-1, ValueError, "quota is -1"), ("some", ValueError, "quota is 'some'"),
     (1.5, TypeError, "quota is 1.5"), (100, ValueError, "quota is 100, must be at least a page of 4 KiB")],
)  # fmt: skip
def test_a_wrong_quota_is_named_and_nothing_is_kept(quota: Any, kind: type[Exception], says: str) -> None:
    with stead.reserve("1 MiB") as held:
        with pytest.raises(kind, match=says):
            stead.Arena(held, quota=quota)
        stead.Arena(held).close()


def test_without_one_it_is_as_large_as_its_addresses() -> None:
    with stead.Arena("1 MiB") as arena:
        assert arena.quota is None
        arena.free(arena.allocate("1 MiB"))


@given(st.integers(1, 300), st.lists(st.integers(1, 40_000), max_size=60))
def test_never_more_than_the_quota(pages: int, sizes: list[int]) -> None:
    with stead.Arena("4 MiB", quota=pages * PAGE + 17) as arena:
        held = []
        for size in sizes:
            try:
                held.append(arena.allocate(size))
            except stead.OverQuota as error:
                assert error.quota == pages * PAGE == arena.quota
        statistics = arena.statistics()
        assert statistics.used <= statistics.committed <= pages * PAGE
        for each in held:
            arena.free(each)
        arena.check()
