"""stead._native: the truth table of claims, arguments, and the two objects with a life of their own."""

from __future__ import annotations

import ctypes
import errno
import gc
import mmap
import os
import platform
import sys
import threading
import weakref
from typing import TYPE_CHECKING

import pytest

import stead
from stead import _native
from stead.kernel import Manner
from stead.ranges import Range
from stead.snapshot import mappings_within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = os.sysconf("SC_PAGESIZE")
ANYONE = _native.MAP_PRIVATE | _native.MAP_ANONYMOUS | _native.MAP_NORESERVE
READ_WRITE = _native.PROT_READ | _native.PROT_WRITE

exact_only = pytest.mark.skipif(
    stead.this_process().manner is not Manner.EXACT, reason="the running kernel is not exact"
)


@pytest.fixture
def base() -> Iterator[int]:
    """Twenty free pages in a quiet window; unmapped afterwards."""
    with stead.reserve(20 * PAGE) as held:
        start = held.address
    yield start
    _native.unmap(start, 20 * PAGE)


def place(address: int, size: int) -> memoryview:
    assert _native.place(address, size, READ_WRITE, ANYONE, -1, 0) == address
    return memoryview(_native.Exporter(address, size, False, None))


def mapped(where: Range) -> bool:
    return bool(mappings_within(where))


# ---- the truth table ------------------------------------------------------------------------------


@exact_only
@pytest.mark.parametrize(
    ("start", "pages"),
    [(8, 4), (9, 2), (6, 4), (10, 4), (6, 8), (8, 1), (11, 1), (8, 8), (4, 8), (7, 2)],
    ids=[
        "exact",
        "contained",
        "lower end",
        "upper end",
        "covering",
        "first",
        "last",
        "onward",
        "up to",
        "one over",
    ],
)
def test_a_claim_of_what_is_taken_is_refused_and_changes_no_byte(base: int, start: int, pages: int) -> None:
    taken = place(base + 8 * PAGE, 4 * PAGE)
    sentinels = bytes(number * 31 % 251 for number in range(4 * PAGE))
    taken[:] = sentinels
    assert _native.claim(base + start * PAGE, pages * PAGE) == -errno.EEXIST
    assert taken == sentinels
    assert not mapped(Range(base, base + 8 * PAGE))
    assert not mapped(Range(base + 12 * PAGE, base + 20 * PAGE))


@pytest.mark.parametrize("start", [4, 12])
def test_what_is_adjacent_is_claimed_and_the_neighbour_keeps_its_bytes(base: int, start: int) -> None:
    taken = place(base + 8 * PAGE, 4 * PAGE)
    taken[:] = sentinels = b"\x5a" * (4 * PAGE)
    assert _native.claim(base + start * PAGE, 4 * PAGE) == base + start * PAGE
    assert taken == sentinels


@exact_only
def test_our_own_reservation_is_in_the_way_as_anything_else(base: int) -> None:
    assert _native.claim(base, 4 * PAGE) == base
    for start, pages in ((0, 4), (1, 2), (3, 4)):
        assert _native.claim(base + start * PAGE, pages * PAGE) == -errno.EEXIST


@pytest.mark.parametrize(("offset", "size"), [(1, PAGE), (PAGE // 2, PAGE), (0, 0)])
def test_parts_of_pages_and_nothing_are_invalid(base: int, offset: int, size: int) -> None:
    assert _native.claim(base + offset, size) == -errno.EINVAL
    assert not mapped(Range(base, base + 2 * PAGE))


@exact_only
@pytest.mark.skipif(platform.machine() != "x86_64", reason="where addresses end differs by architecture")
def test_beyond_the_last_user_page_there_is_no_memory() -> None:
    top = 1 << (stead.this_process().usable.stop - 1).bit_length()
    assert top in (1 << 47, 1 << 56)
    for address, size in ((top, PAGE), (top - PAGE, PAGE), (top - 2 * PAGE, 2 * PAGE), ((1 << 64) - PAGE, PAGE)):
        assert _native.claim(address, size) == -errno.ENOMEM


def in_an_ordinary_users_child(call: Callable[[], int]) -> int:
    """What ``call`` answers for a user without privileges, as root may map page 0."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            os.write(writing, str(call()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return int(text)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_page_0_is_not_permitted_to_an_ordinary_user() -> None:
    with open("/proc/sys/vm/mmap_min_addr") as file:
        if int(file.read()) < PAGE:
            pytest.skip("vm.mmap_min_addr allows page 0")
    assert in_an_ordinary_users_child(lambda: _native.claim(0, PAGE)) == -errno.EPERM


def test_a_claim_is_inaccessible_private_and_has_no_memory(base: int) -> None:
    _native.claim(base, 4 * PAGE)
    [found] = mappings_within(Range(base, base + PAGE))
    assert found.permissions == "---p"
    assert found.reserved


def test_a_hint_that_is_taken_goes_elsewhere(base: int) -> None:
    assert _native.hint(base, PAGE) == base
    got = _native.hint(base, PAGE)
    assert got >= 0
    assert got != base
    assert _native.unmap(got, PAGE) == 0


def test_every_call_answers_with_a_negated_errno(base: int) -> None:
    assert _native.unmap(base + 1, PAGE) == -errno.EINVAL
    assert _native.protect(base, PAGE, READ_WRITE) == -errno.ENOMEM
    assert _native.advise(base, PAGE, _native.MADV_DONTNEED) == -errno.ENOMEM
    assert _native.place(base, PAGE, READ_WRITE, _native.MAP_SHARED, 9999, 0) == -errno.EBADF
    assert _native.fallocate(-1, 0, 0, PAGE) == -errno.EBADF
    assert _native.query(-1, base) == -errno.EBADF
    assert _native.name(base, PAGE, "stead:test") in (-errno.EINVAL, -errno.ENOMEM)


def test_protect_advise_and_unmap_do_what_they_say(base: int) -> None:
    view = place(base, 2 * PAGE)
    view[:] = b"\x01" * (2 * PAGE)
    assert _native.protect(base, PAGE, _native.PROT_READ) == 0
    assert [each.permissions for each in mappings_within(Range(base, base + 2 * PAGE))] == ["r--p", "rw-p"]
    assert view[0] == 1
    assert _native.advise(base + PAGE, PAGE, _native.MADV_DONTNEED) == 0
    assert (view[0], view[PAGE]) == (1, 0)
    assert _native.unmap(base, PAGE) == 0
    assert not mapped(Range(base, base + PAGE))
    assert mapped(Range(base + PAGE, base + 2 * PAGE))


def test_a_query_says_what_the_text_says(base: int) -> None:
    fd = os.memfd_create("a name")
    os.ftruncate(fd, 4 * PAGE)
    assert _native.place(base, PAGE, _native.PROT_READ, _native.MAP_SHARED, fd, PAGE) == base
    maps = os.open("/proc/self/maps", os.O_RDONLY)
    try:
        answer = _native.query(maps, base)
        if answer in (-errno.ENOTTY, -errno.EINVAL):
            pytest.skip("this kernel has no PROCMAP_QUERY (Linux 6.11)")
        assert not isinstance(answer, int)
        start, stop, flags, offset, inode, major, minor, name = answer
        assert (start, stop, offset, name) == (base, base + PAGE, PAGE, b"/memfd:a name (deleted)")
        assert (
            flags & (_native.QUERY_READABLE | _native.QUERY_SHARED)
            == _native.QUERY_READABLE | _native.QUERY_SHARED
        )
        assert not flags & (_native.QUERY_WRITABLE | _native.QUERY_EXECUTABLE)
        assert (inode, os.makedev(major, minor)) == (os.fstat(fd).st_ino, os.fstat(fd).st_dev)
        assert _native.query(maps, (1 << 64) - PAGE) == -errno.ENOENT
    finally:
        os.close(maps)
        os.close(fd)


def test_constants_are_those_of_the_system() -> None:
    assert (_native.PROT_READ, _native.PROT_WRITE, _native.PROT_EXEC) == (
        mmap.PROT_READ,
        mmap.PROT_WRITE,
        mmap.PROT_EXEC,
    )
    assert (_native.MAP_SHARED, _native.MAP_PRIVATE) == (mmap.MAP_SHARED, mmap.MAP_PRIVATE)
    assert _native.MAP_ANONYMOUS == mmap.MAP_ANONYMOUS
    assert _native.MADV_DONTNEED == mmap.MADV_DONTNEED
    if hasattr(mmap, "MAP_NORESERVE"):
        assert _native.MAP_NORESERVE == mmap.MAP_NORESERVE


def test_the_break_is_where_the_heap_ends() -> None:
    for _ in range(100):  # looking needs memory itself, and may grow the heap
        before = _native.program_break()
        heap = [each.range.stop for each in stead.snapshot().mappings if each.name == "[heap]"]
        if _native.program_break() == before:
            break
    assert before > 0
    assert not heap or before <= heap[-1]


def test_no_sanitizer_is_none() -> None:
    assert _native.sanitizer() in (None, "address", "thread", "memory")


def test_other_threads_run_during_a_system_call(base: int) -> None:
    # Populating 256 MiB takes tens of milliseconds; a thread that counts must get on meanwhile.
    size = 256 << 20
    with stead.reserve(size) as held:
        start = held.address
    counted, going = [0], threading.Event()

    def count() -> None:
        going.set()
        while going.is_set():
            counted[0] += 1
            os.stat("/")  # lets go of the GIL, as nobody is asked to below

    thread = threading.Thread(target=count)
    old = sys.getswitchinterval()
    thread.start()
    going.wait()
    sys.setswitchinterval(1000)  # only who lets go of the GIL by himself does
    try:
        before = counted[0]
        assert _native.place(start, size, READ_WRITE, ANYONE, -1, 0) == start
        _native.advise(start, size, _native.MADV_POPULATE_WRITE)
        assert counted[0] > before
    finally:
        going.clear()
        sys.setswitchinterval(old)
        thread.join()
        _native.unmap(start, size)


# ---- arguments ------------------------------------------------------------------------------------

CALLS: list[tuple[Callable[..., object], int]] = [
    (_native.claim, 2),
    (_native.hint, 2),
    (_native.unmap, 2),
    (_native.protect, 3),
    (_native.advise, 3),
    (_native.place, 6),
    (_native.query, 2),
    (_native.fallocate, 4),
]


@pytest.mark.parametrize(("call", "count"), CALLS, ids=[call.__name__ for call, _ in CALLS])
def test_too_many_or_too_few_arguments_are_a_type_error(call: Callable[..., object], count: int) -> None:
    for wrong in (0, count - 1, count + 1):
        with pytest.raises(TypeError):
            call(*([0] * wrong))


@pytest.mark.parametrize(("call", "count"), CALLS, ids=[call.__name__ for call, _ in CALLS])
@pytest.mark.parametrize("wrong", ["1", 1.0, None, b"1"])
def test_what_is_no_int_is_a_type_error(call: Callable[..., object], count: int, wrong: object) -> None:
    for position in range(count):
        arguments: list[object] = [0] * count
        arguments[position] = wrong
        with pytest.raises(TypeError):
            call(*arguments)


@pytest.mark.parametrize("call", [_native.claim, _native.hint, _native.unmap])
@pytest.mark.parametrize("wrong", [-1, 1 << 64, -(1 << 63)])
def test_addresses_and_sizes_that_do_not_fit_are_an_overflow_error(
    call: Callable[..., object], wrong: int
) -> None:
    with pytest.raises(OverflowError):
        call(wrong, PAGE)
    with pytest.raises(OverflowError):
        call(0, wrong)


def test_the_largest_numbers_that_fit_reach_the_kernel() -> None:
    assert _native.claim((1 << 64) - PAGE, PAGE) < 0
    assert _native.claim(0, (1 << 64) - PAGE) < 0


# ---- Exporter -------------------------------------------------------------------------------------


class Owner:
    """Something that memory belongs to."""

    view: memoryview


def exporter(
    owner: object = None, *, readonly: bool = False
) -> tuple[ctypes.Array[ctypes.c_char], _native.Exporter]:
    memory = ctypes.create_string_buffer(b"0123456789", 10)
    return memory, _native.Exporter(ctypes.addressof(memory), 10, readonly, owner)


def test_it_is_the_memory_itself_as_plain_bytes() -> None:
    memory, made = exporter()
    view = memoryview(made)
    assert (view.format, view.itemsize, view.ndim, view.shape, view.contiguous) == ("B", 1, 1, (10,), True)
    assert bytes(view) == b"0123456789"
    view[0] = ord("X")
    assert memory.raw == b"X123456789"
    view[2:4] = b"YZ"
    assert memory.raw == b"X1YZ456789"


def test_what_is_read_only_cannot_be_written() -> None:
    memory, made = exporter(readonly=True)
    view = memoryview(made)
    assert view.readonly
    with pytest.raises(TypeError):
        view[0] = 1
    with pytest.raises((TypeError, BufferError, ValueError)):
        ctypes.c_char.from_buffer(made)
    assert memory.raw == b"0123456789"


def test_nothing_is_a_buffer_too() -> None:
    assert bytes(memoryview(_native.Exporter(0, 0, False, None))) == b""


def test_a_negative_size_is_refused_by_value() -> None:
    with pytest.raises(ValueError, match="size is -1"):
        _native.Exporter(0, -1, False, None)


@pytest.mark.parametrize("arguments", [(), (0,), (0, 0, False), ("0", 0, False, None), (0, None, False, None)])
def test_an_exporter_takes_an_address_a_size_a_flag_and_an_owner(arguments: tuple[object, ...]) -> None:
    with pytest.raises(TypeError):
        _native.Exporter(*arguments)  # type: ignore[arg-type]


def test_the_owner_lives_as_long_as_the_last_view() -> None:
    owner = Owner()
    alive = weakref.ref(owner)
    memory, made = exporter(owner)
    views = [memoryview(made), memoryview(made)]
    views.append(views[0][2:5])
    leased = weakref.ref(made)
    del owner, made
    while views:
        gc.collect()
        assert alive() is not None
        assert leased() is not None  # which tells that someone can still touch the memory
        views.pop(0)
    gc.collect()
    assert alive() is None
    assert leased() is None
    del memory


def test_a_view_that_is_released_lets_go_at_once() -> None:
    owner = Owner()
    alive = weakref.ref(owner)
    memory, made = exporter(owner)
    view = memoryview(made)
    del owner, made
    view.release()
    assert alive() is None
    del memory


def test_a_cycle_through_the_owner_is_collected_and_the_memory_readable_until_then() -> None:
    owner = Owner()
    alive = weakref.ref(owner)
    memory, made = exporter(owner)
    owner.view = memoryview(made)
    leased = weakref.ref(made)
    del made
    gc.collect()
    assert bytes(owner.view) == b"0123456789"
    del owner
    assert alive() is not None  # the cycle holds it
    gc.collect()
    assert alive() is None
    assert leased() is None
    del memory


def test_a_thousand_cycles_leave_nothing_behind() -> None:
    alive = []
    for _ in range(1000):
        owner = Owner()
        _, made = exporter(owner)
        owner.view = memoryview(made)
        alive.append(weakref.ref(owner))
    del owner, made
    gc.collect()
    assert not any(each() for each in alive)


# ---- Finalizer ------------------------------------------------------------------------------------


def test_it_calls_once_when_the_last_reference_goes() -> None:
    calls: list[tuple[int, str]] = []
    made = _native.Finalizer(lambda first, second: calls.append((first, second)), 1, "two")
    second = made
    del made
    gc.collect()
    assert calls == []
    del second
    assert calls == [(1, "two")]


def test_after_cancel_it_makes_no_call_and_lets_go_of_the_callee() -> None:
    calls: list[object] = []
    made = _native.Finalizer(lambda first, second: calls.append(first), 1, 2)
    made.cancel()
    made.cancel()
    del made
    assert calls == []


def test_what_it_holds_lives_until_the_call() -> None:
    owner = Owner()
    alive = weakref.ref(owner)
    seen: list[bool] = []
    made = _native.Finalizer(lambda first, second: seen.append(alive() is first), owner, None)
    del owner
    gc.collect()
    assert alive() is not None
    del made
    assert seen == [True]
    assert alive() is None


def test_an_exception_in_the_call_is_told_and_never_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable.exc_value))
    error = RuntimeError("in the call")

    def fail(first: object, second: object) -> None:
        raise error

    made = _native.Finalizer(fail, 1, 2)
    del made
    assert told == [error]
    told.clear()


def test_an_exception_on_its_way_stays_what_it_is() -> None:
    calls: list[object] = []

    def inner() -> None:
        made = _native.Finalizer(lambda first, second: calls.append(first), 1, 2)
        assert made is not None
        raise KeyError("on its way")

    with pytest.raises(KeyError, match="on its way"):
        inner()
    gc.collect()
    assert calls == [1]


def test_it_is_called_only_after_everything_in_its_cycle_is_done_with_the_memory() -> None:
    # What hangs on an owner in a cycle with its view: the finalizer runs when the view is gone for good.
    calls: list[bool] = []
    owner = Owner()
    memory, made = exporter(owner)
    leased = weakref.ref(made)
    owner.view = memoryview(made)
    vars(owner)["end"] = _native.Finalizer(lambda first, second: calls.append(leased() is None), 1, 2)
    del owner, made
    gc.collect()
    assert len(calls) == 1
    del memory


@pytest.mark.parametrize("arguments", [(), (print,), (print, 1), (print, 1, 2, 3)])
def test_a_finalizer_takes_a_call_and_two_arguments(arguments: tuple[object, ...]) -> None:
    with pytest.raises(TypeError):
        _native.Finalizer(*arguments)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        _native.Finalizer(print, 1, second=2)  # type: ignore[call-arg]
