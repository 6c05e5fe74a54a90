"""Reserve, commit, protect, discard, decommit, release: in this process and in simulated ones."""

from __future__ import annotations

import ctypes
import gc
import importlib
import itertools
import mmap
import os
import resource
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stead
from conftest import need
from stead.ranges import Range, RangeSet
from stead.securing import available_memory
from stead.testing import Manner, SimulatedSpace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PAGE = mmap.PAGESIZE
QUIET = Range(0x4000_0000_0000, 0x5400_0000_0000)


def smaps_flags(address: int) -> set[str]:
    with open("/proc/self/smaps") as file:
        found = False
        for line in file:
            head = line.split(" ", 1)[0]
            if "-" in head and not head.endswith(":"):
                start, stop = (int(each, 16) for each in head.split("-"))
                found = start <= address < stop
            elif found and line.startswith("VmFlags:"):
                return set(line.split()[1:])
    raise AssertionError(f"{address:#x} is not mapped")


def is_accessible(address: int) -> bool:
    """Whether a byte can be read, tried by the kernel for us."""
    from_us, to_us = os.pipe()
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        return bool(libc.write(to_us, ctypes.c_void_p(address), ctypes.c_size_t(1)) == 1)
    finally:
        os.close(from_us)
        os.close(to_us)


# ---- reserving ------------------------------------------------------------------------------------


def test_a_reservation_holds_addresses_in_the_quiet_window() -> None:
    with stead.reserve("64 GiB") as r:
        assert QUIET.contains(r.range)
        assert r.size == 64 << 30
        assert r.address == r.range.start
        assert r.address % (2 << 20) == 0, "large reservations can have huge pages"
        assert not is_accessible(r.address)
        assert "dd" in smaps_flags(r.address), "it would be in core dumps"
        with pytest.raises(stead.Occupied) as caught:
            stead.reserve("1 MiB", at=r.address)
        assert caught.value.by is not None
        assert "stead" in caught.value.by.owner
        assert caught.value.nearest is not None
        assert f"{r.address:#014x}" in str(caught.value)
    assert r.released
    stead.reserve("1 MiB", at=r.address).release()


def test_sizes_are_rounded_up_to_pages() -> None:
    with stead.reserve(1) as r:
        assert r.size == PAGE
    with stead.reserve(PAGE + 1, guard=1) as r:
        assert r.size == 2 * PAGE
        assert r.outer == Range(r.range.start - PAGE, r.range.stop + PAGE)


def test_nearly_half_of_all_addresses_can_be_held() -> None:
    most = stead.this_process().usable.size * 15 // 32 // PAGE * PAGE  # 60 TiB of 47 bits
    with stead.reserve(most) as r:
        assert r.size == most


def test_alignment_and_window_are_kept() -> None:
    for power in range(12, 41):
        with stead.reserve(PAGE, align=1 << power, within="0x400000000000-0x540000000000") as r:
            assert r.address % (1 << power) == 0
            assert QUIET.contains(r.range)


def test_low_is_below_high() -> None:
    window = Range(QUIET.start, QUIET.start + (1 << 30))
    with (
        stead.reserve("1 MiB", within=window, prefer="low") as low,
        stead.reserve("1 MiB", within=window, prefer="high") as high,
    ):
        assert low.address == window.start
        assert high.range.stop == window.stop


def test_a_seed_draws_the_same_place_again() -> None:
    with stead.reserve("1 GiB", seed=7) as first:
        place = first.range
    with stead.reserve("1 GiB", seed=7) as second:
        assert second.range == place
        with stead.reserve("1 GiB", seed=7) as third:
            assert not third.range.overlaps(place)


def test_guards_are_held_and_never_committed() -> None:
    with stead.reserve("64 KiB", guard="16 KiB") as r:
        r.commit()
        for beside in (r.range.start - PAGE, r.range.stop):
            assert not is_accessible(beside)
            with pytest.raises(stead.Occupied):
                stead.reserve(PAGE, at=beside)
        with pytest.raises(ValueError, match="offset"):
            r.commit(-PAGE, PAGE)
        with pytest.raises(ValueError, match="beyond"):
            r.protect(0, r.size + PAGE, access="r")


@pytest.mark.parametrize(
    ("arguments", "error", "names"),
    [
        ({"size": 0}, ValueError, "size"),
        ({"size": -1}, ValueError, "size"),
        ({"size": "much"}, ValueError, "size is 'much'"),
        ({"size": 1.5}, TypeError, "size is 1.5"),
        ({"size": True}, TypeError, "size is True"),
        ({"size": [1]}, TypeError, r"size is \[1\]"),
        ({"size": None}, TypeError, "size is None"),
        ({"size": 4096, "align": 3}, ValueError, "align"),
        ({"size": 4096, "align": 0}, ValueError, "align"),
        ({"size": 4096, "align": "2 TiB"}, ValueError, "align"),
        ({"size": 4096, "guard": -1}, ValueError, "guard"),
        ({"size": 4096, "within": "nowhere"}, ValueError, "within is 'nowhere'"),
        ({"size": 4096, "within": (5, 5)}, ValueError, "within"),
        ({"size": 4096, "within": 7}, TypeError, "within is 7"),
        ({"size": 4096, "at": 1}, ValueError, "at is 0x1"),
        ({"size": 4096, "at": -4096}, ValueError, "at is"),
        ({"size": 4096, "at": 0x4800_0000_1000, "align": "2 MiB"}, ValueError, "at is"),
        ({"size": 4096, "at": 0x4800_0000_0000, "within": (0, 1 << 40)}, ValueError, "within"),
        ({"size": 4096, "name": 5}, TypeError, "name is 5"),
        ({"size": 4096, "name": "a\0b"}, ValueError, "name"),
        ({"size": 4096, "prefer": "best"}, ValueError, "prefer is 'best'"),
        ({"size": 4096, "seed": "x"}, TypeError, "seed is 'x'"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], error: type[Exception], names: str) -> None:
    with pytest.raises(error, match=names):
        stead.reserve(**arguments)  # type: ignore[arg-type]


def test_beyond_the_address_width_says_so() -> None:
    with pytest.raises(stead.LimitReached) as caught:
        stead.reserve(PAGE, at=1 << 62)
    assert caught.value.limit == "VA width"
    with pytest.raises(stead.LimitReached):
        stead.reserve(PAGE, within=(1 << 61, 1 << 62))


def test_no_room_says_what_there_is() -> None:
    with stead.reserve("1 GiB") as r, pytest.raises(stead.NoGap) as caught:
        stead.reserve("4 MiB", within=Range(r.range.start, r.range.start + (8 << 20)))
    assert "occupied by" in str(caught.value)
    everything = stead.this_process().usable.size
    with pytest.raises(stead.NoGap) as caught:
        stead.reserve(everything)
    assert caught.value.largest is not None
    assert caught.value.largest.size < everything


def test_not_into_the_growth_room_of_the_stack_or_the_heap() -> None:
    stack = next(each for each in stead.snapshot().mappings if each.kind == "stack")
    parts = [each for each in stead.snapshot().mappings if each.kind == "heap"]
    if not parts:
        pytest.skip("no [heap]: another malloc is loaded")
    with pytest.raises(stead.Occupied, match="kept clear"):
        stead.reserve(PAGE, at=stack.range.start - 40 * PAGE)
    said = ""
    while "kept clear" not in said:  # what looks at the heap makes it grow now and then, past what was seen
        parts = [each for each in stead.snapshot().mappings if each.kind == "heap"]
        place = parts[-1].range.stop  # what NumPy has in huge pages is a part of its own
        with pytest.raises(stead.Occupied) as caught:
            stead.reserve(PAGE, at=place)
        said = str(caught.value)
        assert "kept clear" in said or "[heap]" in said
    for prefer in ("low", "high", "scattered"):
        with pytest.raises(stead.NoGap):
            stead.reserve(PAGE, within=Range(place, place + (1 << 20)), prefer=prefer)


def test_the_address_limit_is_named() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 40, hard))
    try:
        with pytest.raises(stead.LimitReached) as caught:
            stead.reserve("2 TiB")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert caught.value.limit == "RLIMIT_AS"
    assert isinstance(caught.value, OSError)


def test_shared_memory_carries_its_name_into_the_maps() -> None:
    with stead.reserve("1 MiB", name="weights ü") as r:
        r.commit(backing="shared")
        found = [each for each in stead.snapshot().mappings if each.range.overlaps(r.range)]
        assert [each.name for each in found] == ["/memfd:stead:weights ü"]
        assert {each.kind for each in found} == {"ours"}


def test_sixteen_threads_never_overlap() -> None:
    window = Range(QUIET.start, QUIET.start + 16 * 50 * 64 * PAGE)
    held: list[list[stead.Reservation]] = [[] for _ in range(16)]
    begin = threading.Barrier(16)

    def work(mine: list[stead.Reservation]) -> None:
        begin.wait()
        for _ in range(50):
            mine.append(stead.reserve(32 * PAGE, within=window, align=PAGE))

    threads = [threading.Thread(target=work, args=(mine,)) for mine in held]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    all_held = sorted(r.range for mine in held for r in mine)
    try:
        assert len(all_held) == 800
        assert all(a.stop <= b.start for a, b in itertools.pairwise(all_held))
    finally:
        for mine in held:
            for r in mine:
                r.release()


# ---- memory ---------------------------------------------------------------------------------------


@pytest.fixture(params=["live", *Manner])
def space(request: pytest.FixtureRequest) -> stead.MemorySpace:
    if request.param == "live":
        return stead.this_process()
    return SimulatedSpace(manner=request.param)


def test_committed_memory_is_exactly_there() -> None:
    with stead.reserve("1 MiB") as r:
        view = r.commit(2 * PAGE, 5000)
        assert len(view) == 5000
        assert not view.readonly
        view[:5] = b"stead"
        assert ctypes.string_at(r.address + 2 * PAGE, 5) == b"stead"
        assert ctypes.addressof(ctypes.c_char.from_buffer(view)) == r.address + 2 * PAGE
        assert r.committed == RangeSet([(r.address + 2 * PAGE, r.address + 4 * PAGE)])
        del view


def test_overlapping_commits_are_refused_and_change_nothing(space: stead.MemorySpace) -> None:
    with stead.reserve("1 MiB", space=space) as r:
        r.commit(4 * PAGE, 4 * PAGE)[:] = b"x" * 4 * PAGE
        before = r.parts
        for offset, size in ((4, 4), (5, 1), (2, 4), (6, 4), (0, 20)):
            with pytest.raises(stead.Occupied, match="committed part"):
                r.commit(offset * PAGE, size * PAGE)
        assert r.parts == before
        with r.view(4 * PAGE, 4 * PAGE) as view:
            assert bytes(view) == b"x" * 4 * PAGE


def test_live_views_stop_decommit_and_release(space: stead.MemorySpace) -> None:
    r = stead.reserve("1 MiB", space=space)
    view = r.commit(0, 4 * PAGE)
    part = view[10:20]
    view.release()
    for refused in (r.release, r.decommit, lambda: r.decommit(0, PAGE), lambda: r.protect(0, PAGE, access="r")):
        with pytest.raises(BufferError, match="1 live view"):
            refused()
    part[:3] = b"abc"
    r.decommit(8 * PAGE)  # beside the view
    del part
    r.decommit(0, PAGE)
    r.release()
    r.release()


def test_numpy_arrays_count_as_live_views() -> None:
    need("numpy")
    numpy: Any = importlib.import_module("numpy")
    r = stead.reserve("1 MiB")
    makers: tuple[Any, ...] = (
        lambda: numpy.frombuffer(r.view(), dtype=numpy.float64),
        lambda: numpy.ndarray((10,), dtype=numpy.int64, buffer=r.view()),
        lambda: numpy.asarray(r.view())[5:9].reshape(2, 2),
    )
    for make in makers:
        if not r.parts:
            r.commit()
        array = make()
        with pytest.raises(BufferError):
            r.release()
        with pytest.raises(BufferError):
            r.decommit()
        del array
    r.release()


def test_a_view_outlives_the_reservation_object() -> None:
    view = stead.reserve("1 MiB").commit(0, 100)
    gc.collect()
    view[:5] = b"alive"
    assert bytes(view[:5]) == b"alive"
    address = ctypes.addressof(ctypes.c_char.from_buffer(view))
    assert is_accessible(address)
    del view
    gc.collect()
    assert not is_accessible(address)


def test_addresses_come_back_when_everything_is_dropped() -> None:
    r = stead.reserve("1 MiB")
    place = r.range
    r.commit()
    del r
    stead.reserve(place.size, at=place.start).release()


def test_a_cycle_with_views_in_it_is_collected_without_a_crash() -> None:
    class Node:
        def __init__(self) -> None:
            self.reservation = stead.reserve("1 MiB")
            self.view = self.reservation.commit()
            self.me = self

        def __del__(self) -> None:
            self.view[0] = 1  # touched while the cycle is being collected

    place = Node().reservation.range
    gc.collect()
    gc.collect()
    stead.reserve(place.size, at=place.start).release()


def test_leaving_a_block_that_failed_does_not_hide_the_failure_behind_live_views() -> None:
    r = stead.reserve("1 MiB")
    views = [r.commit()]

    def fail() -> None:
        with r:
            views[0][0] = 1 // 0

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not r.released
    views.clear()
    r.release()


def test_decommit_drops_contents_and_keeps_the_addresses(space: stead.MemorySpace) -> None:
    with stead.reserve("1 MiB", space=space) as r:
        for backing in ("anonymous", "shared"):
            r.commit(0, 8 * PAGE, backing=backing)[:4] = b"data"
            generation = r.generation
            r.decommit(0, 8 * PAGE)
            assert r.generation > generation
            assert not r.committed
            if space is stead.this_process():
                assert not is_accessible(r.address)
                assert "dd" in smaps_flags(r.address)
            with pytest.raises(ValueError, match="committed"):
                r.view(0, 4)
        r.decommit()  # nothing there: nothing happens
        with r.commit(0, 8 * PAGE) as view:
            assert not any(view)


def test_a_middle_can_be_decommitted_and_committed_again() -> None:
    with stead.reserve("1 MiB") as r:
        memory = stead.SharedMemory(16 * PAGE)
        r.commit(0, 16 * PAGE, backing=memory)[:] = b"".join(bytes([k]) * PAGE for k in range(16))
        r.decommit(4 * PAGE, 4 * PAGE)
        assert [part.range.size // PAGE for part in r.parts] == [4, 8]
        with r.view(8 * PAGE) as view:
            assert view[0] == 8
            assert len(view) == 8 * PAGE
        with pytest.raises(ValueError, match="not all committed"):
            r.view(0, 16 * PAGE)
        with r.commit(4 * PAGE, 4 * PAGE, backing=memory.at(4 * PAGE)) as view:
            assert view[0] == 4


def test_protect_changes_access_and_the_views() -> None:
    with stead.reserve("1 MiB") as r:
        r.commit(0, 4 * PAGE)[:3] = b"abc"
        r.protect(PAGE, PAGE, access="none")
        assert not is_accessible(r.address + PAGE)
        r.protect(0, PAGE, access="r")
        with r.view(0, PAGE) as view:
            assert view.readonly
            assert bytes(view[:3]) == b"abc"
            r.protect(0, PAGE, access="rw")  # more than before: no view is in danger
        with pytest.raises(ValueError, match="protected"):
            r.view(0, 2 * PAGE)
        with pytest.raises(ValueError, match="access is 'write'"):
            r.protect(access="write")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="not all committed"):
            r.protect(0, 8 * PAGE, access="r")
        r.protect(0, 4 * PAGE, access="rw")
        with r.view(0, 4 * PAGE) as view:
            assert bytes(view[:3]) == b"abc", "protecting keeps contents"


def test_discard_keeps_the_mapping(space: stead.MemorySpace) -> None:
    with stead.reserve("1 MiB", space=space) as r:
        for offset, backing in ((0, "anonymous"), (8 * PAGE, "shared")):
            with r.commit(offset, 4 * PAGE, backing=backing) as view:  # type: ignore[arg-type]
                view[:3] = b"abc"
                r.discard(offset, 4 * PAGE)
                assert not any(view)


def test_the_same_shared_memory_can_be_committed_twice() -> None:
    with stead.reserve("64 KiB") as r:
        ring = stead.SharedMemory("16 KiB")
        r.commit(0, "16 KiB", backing=ring)
        r.commit("16 KiB", "16 KiB", backing=ring)
        with r.view(0, "32 KiB") as view:
            view[-3 - 16384 : -16384] = b"end"
            view[16384:16387] = b"bgn"
            assert bytes(view[16381:16387]) == b"endbgn"
            assert bytes(view[:3]) == b"bgn"
        with pytest.raises(ValueError, match="more than"):
            r.commit("32 KiB", "32 KiB", backing=ring)


def test_exhausted_shared_memory_is_an_OSError_and_nothing_is_left() -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    too_much = max(2 * (available_memory() or 0), 1 << 40)
    with stead.reserve(2 * too_much) as r:
        with pytest.raises(OSError, match="available") as caught:
            r.commit(0, too_much, backing="shared")
        assert isinstance(caught.value, stead.LimitReached)
        assert caught.value.limit == "memory"
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
        try:
            with pytest.raises(stead.LimitReached) as limited:
                r.commit(0, "4 MiB", backing="shared")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert limited.value.limit == "RLIMIT_FSIZE"
        assert not r.parts
        assert not is_accessible(r.address)
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_shared_memory_is_sealed_and_allocated() -> None:
    import fcntl

    memory = stead.SharedMemory("8 MiB", name="sealed")
    assert os.fstat(memory.fileno()).st_blocks * 512 == 8 << 20
    assert fcntl.fcntl(memory.fileno(), fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
    with pytest.raises(PermissionError):
        os.ftruncate(memory.fileno(), 4096)


def test_a_commit_that_the_kernel_refuses_leaves_the_range_reserved() -> None:
    for leaves_hole in (False, True):
        plain = SimulatedSpace()
        r = stead.reserve(64 * PAGE, space=plain)
        r.commit(32 * PAGE, PAGE)
        failing = plain.kernel.steps
        space = SimulatedSpace(failures={failing: 12}, failed_place_leaves_hole=leaves_hole)
        r = stead.reserve(64 * PAGE, space=space)
        r.commit(32 * PAGE, PAGE)
        before = r.parts
        with pytest.raises(stead.LimitReached):
            r.commit(0, 4 * PAGE)
        assert r.parts == before
        assert not any(space.kernel.ours.gaps(r.range)), "there is a hole in the reservation"
        r.commit(0, 4 * PAGE)
        r.release()


def test_a_hole_that_another_thread_took_is_told() -> None:
    plain = SimulatedSpace()
    held = stead.reserve(64 * PAGE, space=plain, seed=1)
    held.commit(32 * PAGE, PAGE)
    failing = plain.kernel.steps
    held.release()
    taken: list[Range] = []
    space = SimulatedSpace(
        failures={failing: 12},
        failed_place_leaves_hole=True,
        intrusions=lambda step: taken if step == failing + 1 else (),
    )
    r = stead.reserve(64 * PAGE, space=space, seed=1)
    r.commit(32 * PAGE, PAGE)
    taken.append(Range.sized(r.address, PAGE))
    with pytest.raises(stead.RollbackFailed) as caught:
        r.commit(0, 4 * PAGE)
    assert caught.value.leaked
    assert not space.kernel.clobbered


# ---- files ----------------------------------------------------------------------------------------


def test_a_file_from_an_offset(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"a" * PAGE + b"b" * PAGE + b"c" * 100)
    with stead.reserve("1 MiB") as r:
        with r.commit(0, PAGE + 100, backing=stead.File(path, PAGE)) as view:
            assert bytes(view) == b"b" * PAGE + b"c" * 100
            view[:3] = b"new"
        assert path.read_bytes()[PAGE : PAGE + 4] == b"newb"
        with pytest.raises(ValueError, match="holds 8292"):
            r.commit("64 KiB", PAGE, backing=stead.File(path, 2 * PAGE))
        with r.commit("64 KiB", PAGE, backing=stead.File(path, 2 * PAGE, grow=True)) as view:
            view[-1] = 1
        assert path.stat().st_size == 3 * PAGE
        with pytest.raises(ValueError, match="offset is 5"):
            stead.File(path, 5)


def test_a_private_file_keeps_changes_to_itself(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"a" * PAGE)
    path.chmod(0o400)
    with stead.reserve("1 MiB") as r, r.commit(0, PAGE, backing=stead.File(path, private=True)) as view:
        view[:1] = b"b"
        r.discard(0, PAGE)
        assert bytes(view[:1]) == b"a", "a private file reads as the file again"
    assert path.read_bytes() == b"a" * PAGE


def test_a_read_only_file_cannot_be_made_writable(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"a" * PAGE)
    with stead.reserve("1 MiB") as r:
        with r.commit(0, PAGE, backing=stead.File(path), access="r") as view:
            assert view.readonly
        with pytest.raises(stead.Unsupported):
            r.protect(0, PAGE, access="rw")
        assert r.parts[0].access == "r"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with stead.reserve("1 MiB") as r:
        with pytest.raises(FileNotFoundError):
            r.commit(0, PAGE, backing=stead.File(tmp_path / "missing"))
        with pytest.raises(ValueError, match="regular file"):
            r.commit(0, PAGE, backing=stead.File("/dev/zero"), access="r")
        with pytest.raises(TypeError, match="backing is 5"):
            r.commit(0, PAGE, backing=5)  # type: ignore[arg-type]
        assert not r.parts


# ---- huge pages -----------------------------------------------------------------------------------


def test_huge_pages_or_a_clear_word() -> None:
    with stead.reserve("8 MiB") as r:
        try:
            r.commit(0, "4 MiB", backing=stead.Anonymous(huge="transparent"))[:1] = b"x"
        except stead.Unsupported as error:
            assert "transparent" in str(error)
        else:
            assert "hg" in smaps_flags(r.address)
        try:
            r.commit("4 MiB", "4 MiB", backing=stead.Anonymous(huge="explicit"))
        except stead.LimitReached as error:
            assert error.limit == "vm.nr_hugepages"
        except stead.Unsupported as error:
            assert "hugetlb" in str(error)
        assert not any(stead.snapshot().occupied.gaps(r.range))
        with pytest.raises(ValueError, match="huge is 'yes'"):
            stead.Anonymous(huge="yes")  # type: ignore[arg-type]


# ---- limits ---------------------------------------------------------------------------------------


def test_a_free_does_not_fail_at_the_limit_of_mappings_simulated() -> None:
    space = SimulatedSpace(max_mappings=100)
    r = stead.reserve(200 * PAGE, space=space)
    committed = []

    def fill() -> None:
        for k in range(0, 200, 2):
            r.commit(k * PAGE, PAGE)
            committed.append(k)

    with pytest.raises(stead.LimitReached) as caught:
        fill()
    assert caught.value.limit == "max_map_count"
    for k in committed:
        r.decommit(k * PAGE, PAGE)
    assert not r.parts
    assert len(list(space.kernel.ours.overlapping(r.range))) == 1
    r.release()
    assert not any(space.kernel.ours.overlapping(r.range))


def test_use_after_release_is_told() -> None:
    r = stead.reserve("1 MiB")
    r.release()
    calls: list[Callable[[], object]] = [
        r.commit, r.view, r.decommit, r.discard, lambda: r.protect(access="r"), r.__enter__,
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(stead.Released):
            call()


@given(st.lists(st.tuples(st.sampled_from("cdpx"), st.integers(0, 31), st.integers(1, 8)), max_size=40))
def test_the_table_is_what_is_mapped(steps: list[tuple[str, int, int]]) -> None:
    """A model of pages against a reservation, live: contents and access, page by page."""
    model: dict[int, tuple[int, str]] = {}
    with stead.reserve(40 * PAGE, align=PAGE) as r:
        for number, (what, first, count) in enumerate(steps, start=1):
            pages = range(first, first + count)
            taken = [page for page in pages if page in model]
            if what == "c":
                if taken:
                    with pytest.raises(stead.Occupied):
                        r.commit(first * PAGE, count * PAGE)
                else:
                    r.commit(first * PAGE, count * PAGE)[:] = bytes([number]) * count * PAGE
                    model |= dict.fromkeys(pages, (number, "rw"))
            elif what == "d":
                r.decommit(first * PAGE, count * PAGE)
                for page in taken:
                    del model[page]
            elif len(taken) < count:
                with pytest.raises(ValueError, match="not all committed"):
                    r.protect(first * PAGE, count * PAGE, access="r")
            else:
                access = "r" if what == "p" else "none"
                r.protect(first * PAGE, count * PAGE, access=access)  # type: ignore[arg-type]
                model |= {page: (model[page][0], access) for page in pages}
        assert r.committed == RangeSet((r.address + p * PAGE, r.address + p * PAGE + PAGE) for p in model)
        for page in range(40):
            number_there, access_there = model.get(page, (0, "none"))
            assert is_accessible(r.address + page * PAGE) == (access_there != "none")
            if access_there != "none":
                with r.view(page * PAGE, PAGE) as view:
                    assert view.readonly == (access_there == "r")
                    assert bytes(view) == bytes([number_there]) * PAGE


def test_explicit_huge_pages_of_shared_memory_or_a_clear_word() -> None:
    with stead.reserve("8 MiB") as r:
        try:
            r.commit(0, "4 MiB", backing=stead.SharedMemory(huge="explicit"))[:1] = b"x"
        except stead.LimitReached as error:
            assert error.limit == "vm.nr_hugepages"
            assert not r.parts
        except stead.Unsupported as error:
            assert "hugetlb" in str(error)
