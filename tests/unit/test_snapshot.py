"""Snapshots of live processes: two ways to look, one answer."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import stead
from stead import _native
from stead.maps import Kind, Mapping
from stead.ranges import Range
from stead.snapshot import Snapshot, mappings_within, obstacle, query_mappings, read_mappings

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = os.sysconf("SC_PAGESIZE")
USER_SPACE = Range(0, 1 << 47)


@contextmanager
def child(code: str = "") -> Iterator[int]:
    """A process that has run ``code`` and stands still, so that its mappings do."""
    text = f"import sys\n{code}\nprint('ready', flush=True)\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            os.kill(process.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            yield process.pid
        finally:
            process.kill()


def need_query() -> None:
    if query_mappings(Range(0, PAGE)) is None:
        pytest.skip("this kernel has no PROCMAP_QUERY (Linux 6.11)")


def without_vsyscall(found: list[Mapping]) -> list[Mapping]:
    """It lies outside of user space, in the text alone."""
    return [each for each in found if each.name != "[vsyscall]"]


def at(found: Snapshot, address: int) -> Mapping:
    [each] = [each for each in found.mappings if each.range.start <= address < each.range.stop]
    return each


EVERY_KIND = r"""
import ctypes, mmap, os, tempfile
keep = [mmap.mmap(-1, 1 << 16), mmap.mmap(-1, 1 << 16, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)]
for name in ("plain", " spaces ", "new\nline", "line\u2028separator \x0c", "x (deleted)"):
    fd = os.memfd_create(name)
    os.ftruncate(fd, 1 << 16)
    keep.append(mmap.mmap(fd, 1 << 16))
    keep.append(mmap.mmap(fd, 1 << 15, offset=1 << 15))
    folder = tempfile.mkdtemp()
    path = os.path.join(folder, name)
    with open(path, "wb+") as file:
        file.truncate(1 << 16)
        keep.append(mmap.mmap(file.fileno(), 0))
    if "(deleted)" not in name:
        os.unlink(path)
        os.rmdir(folder)
"""


def test_text_and_query_give_the_same_answer_on_a_live_process(tmp_path: Path) -> None:
    need_query()
    with child(f"import tempfile\ntempfile.tempdir = {str(tmp_path)!r}\n" + EVERY_KIND) as pid:
        text = without_vsyscall(read_mappings(pid))
        assert query_mappings(USER_SPACE, pid) == text
        assert len([each for each in text if each.deleted]) >= 14
        for each in text:
            assert query_mappings(each.range, pid) == [each]
            middle = each.range.start + each.range.size // 2
            assert mappings_within(Range(middle, middle + 1), pid) == [each]
        for below, above in itertools.pairwise(text):
            if below.range.stop < above.range.start:
                assert query_mappings(Range(below.range.stop, above.range.start), pid) == []


def test_a_name_longer_than_a_path_may_be_is_found_all_the_same(tmp_path: Path) -> None:
    # PROCMAP_QUERY refuses names beyond PATH_MAX (4096); a file so deep is opened step by step.
    need_query()
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(tmp_path)
        for _ in range(20):
            os.mkdir("d" * 250)
            os.chdir("d" * 250)
        with open("file", "wb+") as file:
            file.truncate(PAGE)
            with mmap.mmap(file.fileno(), PAGE) as mapped:
                where = Range.sized(ctypes.addressof(ctypes.c_char.from_buffer(mapped)), PAGE)
                [found] = mappings_within(where)
                assert len(found.name) > 4096
                by = obstacle(where)
                assert by is not None
                assert by.name == found.name
    finally:
        os.fchdir(here)
        os.close(here)


def test_looking_leaves_no_descriptor_open() -> None:
    before = os.listdir("/proc/self/fd")
    stead.snapshot()
    mappings_within(USER_SPACE)
    obstacle(Range(0, PAGE))
    assert len(os.listdir("/proc/self/fd")) == len(before)


# ---- kinds ----------------------------------------------------------------------------------------


def test_mappings_are_in_order_and_never_overlap() -> None:
    found = stead.snapshot().mappings
    assert all(below.range.stop <= above.range.start for below, above in itertools.pairwise(found))
    assert all(each.range.start % PAGE == each.range.stop % PAGE == 0 for each in found)


def test_the_kernels_own_mappings_have_their_kinds() -> None:
    found = stead.snapshot()
    kinds = {each.name: each.kind for each in found.mappings}
    assert kinds["[stack]"] is Kind.STACK
    assert kinds["[vdso]"] is Kind.VDSO
    assert kinds.get("[heap]", Kind.HEAP) is Kind.HEAP


def test_files_anonymous_and_shared_memory_have_their_kinds(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(PAGE))
    memory = os.memfd_create("somebody's")
    os.ftruncate(memory, PAGE)
    with open(path, "rb+") as file:
        maps = [
            (mmap.mmap(file.fileno(), PAGE), Kind.FILE, str(path)),
            (mmap.mmap(memory, PAGE), Kind.SHARED_MEMORY, "/memfd:somebody's"),
            (mmap.mmap(-1, PAGE), Kind.SHARED_MEMORY, "/dev/zero"),
            (mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), Kind.ANONYMOUS, ""),
        ]
    os.close(memory)
    for mapped, kind, name in maps:
        held = ctypes.c_char.from_buffer(mapped)
        found = at(stead.snapshot(), ctypes.addressof(held))
        assert (found.kind, found.name, found.permissions[:2]) == (kind, name, "rw")
        del held
        mapped.close()


# ---- ours -----------------------------------------------------------------------------------------


def test_a_reservation_is_ours_by_name_for_as_long_as_it_is_held() -> None:
    with stead.reserve("1 MiB", name="mine") as held:
        found = at(stead.snapshot(), held.address)
        assert (found.kind, found.range) == (Kind.OURS, held.range)
        assert "mine" in found.name
        assert found.reserved
        where = held.range
    assert not any(each.range.overlaps(where) for each in stead.snapshot().mappings)


def test_neighbours_that_the_kernel_has_merged_are_told_apart() -> None:
    # Two reservations and a foreign one, alike and side by side: one entry for the kernel.
    with stead.reserve("3 MiB") as scratch:
        start = scratch.address
    size = 1 << 20
    with (
        stead.reserve(size, at=start, name="low") as low,
        stead.reserve(size, at=start + size, name="high") as high,
    ):
        foreign = _native.claim(start + 2 * size, size)
        assert foreign == start + 2 * size
        try:
            found = stead.snapshot()
            for held, name in ((low, "low"), (high, "high")):
                mine = at(found, held.address)
                assert (mine.kind, mine.range) == (Kind.OURS, held.range)
                assert name in mine.name
            theirs = at(found, foreign)
            assert (theirs.kind, theirs.range) == (Kind.ANONYMOUS, Range.sized(foreign, size))
        finally:
            _native.unmap(foreign, size)


def test_a_file_that_goes_on_behind_a_reservation_is_cut_at_its_edge_with_the_right_offsets(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(2 * PAGE))
    with stead.reserve("1 MiB") as scratch:
        start = scratch.address
    backing = stead.File(path)
    with stead.reserve(PAGE, at=start) as held:
        view = held.commit(backing=backing)
        # A foreign mapping of the second page, right behind ours of the first: one entry for the kernel.
        assert _native.claim(start + PAGE, PAGE) == start + PAGE
        protection = _native.PROT_READ | _native.PROT_WRITE
        _native.place(start + PAGE, PAGE, protection, _native.MAP_SHARED, backing.fileno(), PAGE)
        try:
            found = stead.snapshot()
            ours, theirs = at(found, start), at(found, start + PAGE)
            assert (ours.kind, ours.range, ours.offset) == (Kind.OURS, held.range, 0)
            assert (theirs.kind, theirs.range, theirs.offset) == (Kind.FILE, Range.sized(start + PAGE, PAGE), PAGE)
        finally:
            _native.unmap(start + PAGE, PAGE)
            view.release()


def test_a_reservation_with_guards_is_ours_guards_and_all() -> None:
    with stead.reserve("64 KiB", guard="64 KiB") as held:
        assert at(stead.snapshot(), held.outer.start).kind is Kind.OURS
        assert at(stead.snapshot(), held.outer.stop - 1).kind is Kind.OURS


def test_shared_memory_of_another_process_is_ours_by_its_name() -> None:
    code = "import stead\nheld = stead.reserve('1 MiB', name='theirs')\nview = held.commit(backing='shared')"
    with child(code) as pid:
        ours = [each for each in stead.snapshot(pid).mappings if each.kind is Kind.OURS]
        assert any("theirs" in each.name and each.range.size == 1 << 20 for each in ours)


def test_an_obstacle_is_named_with_its_owner() -> None:
    with stead.reserve("1 MiB", name="mine") as held:
        by = obstacle(held.range)
        assert by is not None
        assert by.range == held.range
        assert "mine" in by.name
        assert str(os.getpid()) in by.owner
        assert "stead" in by.owner
        where = held.range
    assert obstacle(where) is None


def test_the_lowest_of_several_obstacles_is_named() -> None:
    with stead.reserve("2 MiB") as scratch:
        start = scratch.address
    with (
        stead.reserve("64 KiB", at=start + (1 << 16), name="lower"),
        stead.reserve("64 KiB", at=start + (1 << 20)),
    ):
        by = obstacle(Range.sized(start, 2 << 20))
        assert by is not None
        assert by.range == Range.sized(start + (1 << 16), 1 << 16)


# ---- other processes ------------------------------------------------------------------------------


def test_another_process_is_seen_as_it_sees_itself() -> None:
    with child() as pid:
        found = stead.snapshot(pid)
        assert found.pid == pid
        assert found.title == Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
        assert [each.range for each in found.mappings] == [each.range for each in read_mappings(pid)]
        assert found.occupied.size == sum(each.range.size for each in found.mappings)
        assert any(each.kind is Kind.STACK for each in found.mappings)


def test_our_own_pid_is_this_process() -> None:
    with stead.reserve("1 MiB", name="mine") as held:
        assert at(stead.snapshot(os.getpid()), held.address).kind is Kind.OURS


MISSING = (1 << 22) + 1  # above the largest pid_max


def test_a_missing_process_is_a_process_lookup_error_that_names_it() -> None:
    with pytest.raises(ProcessLookupError, match=str(MISSING)):
        stead.snapshot(MISSING)
    with pytest.raises(ProcessLookupError, match=str(MISSING)):
        mappings_within(USER_SPACE, MISSING)


def test_a_process_that_has_ended_has_no_mappings_or_is_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # a zombie, until it is waited for
        assert stead.snapshot(ended.pid).mappings == ()
        assert mappings_within(USER_SPACE, ended.pid) == []
    with pytest.raises(ProcessLookupError):
        stead.snapshot(ended.pid)


def test_a_kernel_thread_has_no_mappings() -> None:
    try:
        if Path("/proc/2/comm").read_text() != "kthreadd\n":
            pytest.skip("no kernel thread to see from here")
        open("/proc/2/maps").close()
    except OSError:
        pytest.skip("no kernel thread that may be looked at from here")
    assert stead.snapshot(2).mappings == ()
    assert mappings_within(USER_SPACE, 2) == []


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody else")
def test_a_process_of_somebody_else_is_a_permission_error_that_names_it() -> None:
    with child() as pid:
        other = os.fork()
        if other == 0:
            refused = 0
            try:
                os.setgid(65534)
                os.setuid(65534)
                for look in (stead.snapshot, lambda pid: mappings_within(USER_SPACE, pid)):
                    try:
                        look(pid)
                    except PermissionError as error:
                        refused += str(pid) in str(error)
            finally:
                os._exit(refused)
        assert os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) == 2


@pytest.mark.parametrize(
    ("pid", "kind"), [(0, ValueError), (-1, ValueError), ("1", TypeError), (1.0, TypeError), (True, TypeError)]
)
def test_a_wrong_pid_is_named(pid: object, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="pid is "):
        stead.snapshot(pid)  # type: ignore[arg-type]
