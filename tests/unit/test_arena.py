"""Arena: where its memory comes from, how it grows, what it gives back, what it refuses."""

from __future__ import annotations

import gc
import mmap
import resource
import subprocess
import sys
import weakref
from typing import TYPE_CHECKING, Any

import pytest

import stead
from memory import read, resident, write
from stead.ranges import Range
from stead.testing import SimulatedSpace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PAGE = mmap.PAGESIZE
MIB = 1 << 20


# ---- sizes and alignments -------------------------------------------------------------------------


def test_a_block_can_be_the_whole_arena() -> None:
    with stead.Arena("4 MiB") as arena:
        address = arena.allocate("4 MiB")
        write(address + 4 * MIB - 4, b"last")
        with pytest.raises(stead.OutOfSpace, match=r"largest free run of .* has 0 bytes"):
            arena.allocate(1)
        arena.free(address)
        assert arena.statistics().largest_free_run == 4 * MIB


@pytest.mark.parametrize("size", [PAGE, 3 * PAGE, 64 * 1024, 100 * MIB])
def test_small_arenas_can_be_filled_to_the_last_byte(size: int) -> None:
    with stead.Arena(size) as arena:
        size = arena.range.size
        address = arena.allocate(size)
        arena.free(address)
        small = []
        try:
            while True:
                small.append(arena.allocate(size // 2000 + 1))
        except stead.OutOfSpace:
            # What is left is too short for one more; and a page for each class of sizes at most is not used.
            assert sum(map(arena.size_of, small)) > 0.6 * size
        arena.check()
        for each in small:
            arena.free(each)
        assert arena.statistics().largest_free_run == size


@pytest.mark.parametrize("power", range(23))
def test_every_alignment_up_to_the_size_of_the_arena(power: int) -> None:
    with stead.Arena("4 MiB") as arena:
        one, other = arena.allocate(1), arena.allocate(20_000)
        if power < 22:
            address = arena.allocate(100, alignment=1 << power)
            assert address % (1 << power) == 0
            arena.free(address)
        arena.free(one)
        arena.free(other)
        address = arena.allocate(100, 1 << power)
        assert address % (1 << power) == 0
        arena.free(address)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"size": 0}, "size is 0"),
        ({"size": -5}, "size is -5"),
        ({"size": "many"}, "size is 'many'"),
        ({"size": 1.5}, "size is 1.5"),
        ({"size": True}, "size is True"),
        ({"size": None}, "size is None"),
        ({"size": 8, "alignment": 0}, "alignment is 0"),
        ({"size": 8, "alignment": 24}, "alignment is 24"),
        ({"size": 8, "alignment": -16}, "alignment is -16"),
        ({"size": 8, "alignment": "8 MiB"}, "alignment is 8388608"),
    ],
)
@pytest.mark.parametrize("call", ["allocate", "block"])
def test_bad_arguments_are_named(call: str, arguments: dict[str, Any], named: str) -> None:
    with stead.Arena("4 MiB") as arena:
        with pytest.raises((ValueError, TypeError), match=named):
            getattr(arena, call)(**arguments)
        assert arena.statistics().blocks == 0


@pytest.mark.parametrize("size", [1 << 40, 1 << 62, (1 << 63) - 1, 1 << 64, 1 << 100, "5 MiB"])
def test_what_can_never_fit_is_out_of_space_and_changes_nothing(size: int | str) -> None:
    with stead.Arena("4 MiB") as arena:
        before = arena.statistics()
        with pytest.raises(stead.OutOfSpace) as caught:
            arena.allocate(size)
        assert caught.value.largest_free_run == 4 * MIB
        assert arena.statistics() == before


def test_text_and_other_integers_are_sizes() -> None:
    numpy = pytest.importorskip("numpy")
    with stead.Arena("4 MiB") as arena:
        assert arena.size_of(arena.allocate("64 KiB")) == 65536
        assert arena.size_of(arena.allocate(numpy.int64(65536), alignment="4 KiB")) == 65536
        assert len(arena.block("1 KiB")) == 1024
        for each in [arena.range.start]:
            assert arena.owns(numpy.uint64(each))
        with pytest.raises(BufferError, match="2 live blocks"):
            arena.close()
        arena.free(arena.range.start)
        arena.free(next(a for a in range(arena.range.start, arena.range.stop, 4096) if arena.owns(a)))


@pytest.mark.parametrize("address", ["0x1000", 1.0, None, True])
def test_an_address_is_an_int(address: Any) -> None:
    with stead.Arena("4 MiB") as arena:
        for call in (arena.free, arena.owns, arena.size_of):
            with pytest.raises(TypeError, match="address is"):
                call(address)


# ---- blocks ---------------------------------------------------------------------------------------


def test_a_block_gives_itself_back() -> None:
    with stead.Arena("4 MiB") as arena:
        block = arena.block(1000)
        gone = weakref.ref(block)
        view = memoryview(block)
        assert (len(block), block.size, view.nbytes, view.readonly, block.arena) == (
            1000,
            1000,
            1000,
            False,
            arena,
        )
        view[:3] = b"abc"
        assert read(block.address, 3) == b"abc"
        del block
        assert gone() is not None  # the view keeps it
        assert arena.statistics().blocks == 1
        del view
        assert gone() is None
        assert arena.statistics().blocks == 0


def test_a_block_at_the_end_of_with() -> None:
    with stead.Arena("4 MiB") as arena:
        with arena.block(100) as block:
            assert not block.freed
        assert block.freed
        block.free()
        with pytest.raises(ValueError, match="given back"):
            memoryview(block)
        with pytest.raises(ValueError, match="given back"):
            block.__enter__()
        assert "given back" in repr(block)


def test_a_block_with_a_view_is_not_freed() -> None:
    with stead.Arena("4 MiB") as arena:
        block = arena.block(100)
        view = memoryview(block)
        with pytest.raises(BufferError, match="1 live view"):
            block.free()
        with pytest.raises(BufferError, match="1 live view"), block:
            pass
        with pytest.raises(KeyError), block:  # which is not hidden
            raise KeyError
        view[0] = 1
        view.release()
        block.free()


def test_a_block_cannot_be_made_by_hand() -> None:
    with pytest.raises(TypeError):
        stead.Block()


def test_blocks_keep_their_arena_and_its_memory() -> None:
    arena = stead.Arena("4 MiB")
    where, gone = arena.range, weakref.ref(arena)
    block = arena.block(100)
    del arena
    memoryview(block)[:5] = b"alive"
    assert gone() is not None
    del block
    assert gone() is None
    assert not any(each.range.overlaps(where) for each in stead.snapshot().mappings)


def test_a_thousand_arenas_leave_nothing_behind() -> None:
    def mappings() -> int:
        with open("/proc/self/maps") as file:
            return len(file.readlines())

    stead.Arena("4 MiB").allocate(100)
    gc.collect()
    before = mappings()
    for _ in range(1000):
        arena = stead.Arena("64 MiB")
        arena.allocate(100)  # whose address goes with the arena
        arena.block("1 MiB")
    del arena
    assert mappings() <= before + 5


# ---- where the memory comes from ------------------------------------------------------------------


def test_in_a_reservation_it_commits_as_it_grows() -> None:
    with stead.reserve("64 MiB") as reservation:
        with stead.Arena(reservation, step="1 MiB") as arena:
            assert reservation.committed.size == 0
            assert arena.range == reservation.range
            block = arena.block("3 MiB")
            assert reservation.range.contains(Range.sized(block.address, block.size))
            assert 3 * MIB <= reservation.committed.size < 8 * MIB
            assert arena.statistics().committed == reservation.committed.size
            with pytest.raises(BufferError):
                reservation.release()
            block.free()
        assert not reservation.released
        reservation.decommit()


def test_in_a_reservation_that_is_committed() -> None:
    with stead.reserve("4 MiB") as reservation:
        with reservation.commit() as view:
            view[:5] = b"dirty"
        with stead.Arena(reservation) as arena, arena.block("4 MiB") as block:
            assert block.address == reservation.address
            assert bytes(memoryview(block)[:5]) == b"dirty"
        with pytest.raises(ValueError, match="backing is 'shared'"):
            stead.Arena(reservation, backing="shared")


def test_a_reservation_that_is_committed_in_part_is_refused() -> None:
    with stead.reserve("4 MiB") as reservation:
        reservation.commit(0, PAGE).release()
        with pytest.raises(ValueError, match="commit nothing in it, or all of it"):
            stead.Arena(reservation)


def test_read_only_memory_is_refused() -> None:
    with stead.reserve("4 MiB") as reservation:
        reservation.commit(access="r").release()
        with pytest.raises(ValueError, match="read-only"):
            stead.Arena(reservation)


def test_a_released_reservation_is_refused() -> None:
    reservation = stead.reserve("4 MiB")
    reservation.release()
    with pytest.raises(stead.Released):
        stead.Arena(reservation)


def test_a_simulated_reservation_has_no_memory() -> None:
    reservation = stead.reserve("4 MiB", space=SimulatedSpace())
    with pytest.raises(stead.Unsupported, match="in this process"):
        stead.Arena(reservation)
    arena = stead.Arena(reservation, backing="none")
    assert reservation.range.contains(Range.sized(arena.allocate("1 MiB"), MIB))


def test_a_file_is_mapped_once(tmp_path: Path) -> None:
    path = tmp_path / "arena"
    path.write_bytes(b"\xff" * 4 * MIB)
    with stead.Arena("4 MiB", backing=stead.File(path), zero=True) as arena:
        address = arena.allocate("1 MiB")
        assert read(address, MIB) == bytes(MIB)
        write(address, b"into the file")
        assert path.read_bytes()[address - arena.range.start :][:13] == b"into the file"
        arena.free(address)


def test_shared_memory_of_ones_own_is_committed_at_once() -> None:
    memory = stead.SharedMemory("4 MiB")
    with stead.Arena("4 MiB", backing=memory) as arena:
        assert arena.statistics().committed == 4 * MIB
        with stead.reserve("4 MiB") as other, arena.block(100) as block:
            view = other.commit(backing=memory)
            memoryview(block)[:3] = b"one"
            offset = block.address - arena.range.start
            assert bytes(view[offset : offset + 3]) == b"one"
            del view


def test_addresses_alone_are_never_touched() -> None:
    with stead.reserve("1 GiB") as reservation:
        with stead.Arena(reservation, backing="none") as arena:
            address = arena.allocate(
                "512 MiB", alignment="512 MiB" if reservation.address % (1 << 29) == 0 else 16
            )
            assert arena.statistics().used == 512 * MIB
            assert arena.statistics().committed == 0
            with pytest.raises(stead.Unsupported, match="may be touched"):
                arena.block(100)
            arena.free(address)
            assert arena.trim() == 0
        assert reservation.committed.size == 0
        for wrong in ("zero", "hardened", "guard"):
            options: dict[str, Any] = {wrong: 4096}
            with pytest.raises(ValueError, match=wrong):
                stead.Arena(reservation, backing="none", **options)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"source": 0}, "source is 0"),
        ({"source": "no size"}, "source is 'no size'"),
        ({"source": None}, "source is None"),
        ({"source": "4 MiB", "step": 0}, "step is 0"),
        ({"source": "4 MiB", "keep": -1}, "keep is -1"),
        ({"source": "4 MiB", "guard": -1}, "guard is -1"),
        ({"source": "4 MiB", "backing": "tape"}, "backing is 'tape'"),
        ({"source": "4 MiB", "name": 7}, "name is 7"),
    ],
)
def test_bad_arguments_of_an_arena_are_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises((ValueError, TypeError), match=named):
        stead.Arena(**arguments).allocate(1)


def test_an_arena_has_at_most_16_tib() -> None:
    with pytest.raises(ValueError, match="at most 16 TiB"):
        stead.Arena("17 TiB")
    with stead.Arena("15 TiB") as arena:  # addresses alone are free
        arena.free(arena.allocate("1 MiB", alignment="1 TiB"))


@pytest.mark.parametrize("alignment", [8 * MIB, "8 MiB", 1 << 70])
def test_an_alignment_beyond_the_arena_is_named(alignment: int | str) -> None:
    with stead.Arena("4 MiB") as arena, pytest.raises(ValueError, match="alignment is"):
        arena.allocate(1, alignment)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_growth_is_told_and_changes_nothing(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise error

    with stead.Arena("64 MiB", step="1 MiB") as arena:
        arena.allocate(100)
        before = arena.statistics()
        with monkeypatch.context() as patch:
            patch.setattr(stead.Arena, "_add", interrupted)
            with pytest.raises(error):
                arena.allocate("4 MiB")
        assert arena.statistics() == before
        arena.free(arena.allocate("4 MiB"))
        arena.free(arena.range.start)


def test_it_grows_in_steps_and_only_as_far_as_it_must() -> None:
    with stead.Arena("1 GiB", step="2 MiB") as arena:
        assert arena.statistics().committed == 0
        blocks = [arena.block("1 MiB") for _ in range(8)]
        assert arena.statistics().committed == 8 * MIB
        with pytest.raises(stead.OutOfSpace):
            arena.allocate("1 GiB")
        assert arena.statistics().committed == 8 * MIB  # nothing was committed for what did not fit
        del blocks


def test_the_memory_limit_is_out_of_space_and_says_why() -> None:
    code = """if True:
        import resource, stead
        arena = stead.Arena("8 GiB", step="1 MiB")
        arena.block(100)
        now = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (now + (64 << 20), -1))
        blocks = []
        try:
            while True:
                blocks.append(arena.block("4 MiB"))
        except stead.OutOfSpace as error:
            assert "cannot grow" in str(error), error
            assert isinstance(error.__cause__, stead.LimitReached), error.__cause__
        assert 8 < len(blocks) < 20, len(blocks)
        arena.check()
        blocks.pop()
        blocks.append(arena.block("4 MiB"))
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# ---- resize ---------------------------------------------------------------------------------------


def test_resize_stays_where_it_is_or_does_nothing() -> None:
    with stead.Arena("64 MiB", step="1 MiB") as arena:
        last = arena.allocate("1 MiB")
        write(last, b"contents")
        assert arena.resize(last, "32 MiB") == last  # the arena grows for it
        assert arena.size_of(last) >= 32 * MIB
        assert read(last, 8) == b"contents"
        behind = arena.allocate("1 MiB")
        assert arena.resize(last, "63 MiB") is None
        assert arena.size_of(last) == 32 * MIB
        assert arena.resize(last, "1 MiB") == last
        assert arena.statistics().used == 2 * MIB
        assert arena.resize(last, "32 MiB") == last
        assert arena.resize(last, "65 MiB") is None
        small = arena.allocate(100)
        assert arena.resize(small, 10) == small
        assert arena.resize(small, 10_000) is None
        for wrong in (small + 1, 1234):
            with pytest.raises(stead.NotLive):
                arena.resize(wrong, 10)
        with pytest.raises(ValueError, match="size is 0"):
            arena.resize(small, 0)
        with arena.block(100) as block, pytest.raises(stead.NotLive, match="Block"):
            arena.resize(block.address, 50)
        for each in (last, behind, small):
            arena.free(each)


# ---- zeros ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 100, 4096, 20_000, 3 * MIB, 40 * MIB])
def test_every_block_of_a_zeroed_arena_reads_as_zeros(size: int) -> None:
    with stead.Arena("64 MiB", zero=True) as arena:
        for _ in range(3):
            address = arena.allocate(size)
            assert not any(read(address, size))
            write(address, b"\xff" * size)
            arena.free(address)
            with arena.block(size) as block:
                assert not any(bytes(block))
                memoryview(block)[:] = b"\xee" * size


def test_fresh_pages_are_not_cleared_by_hand() -> None:
    with stead.Arena("1 GiB", zero=True, backing=stead.ANONYMOUS) as arena:
        with arena.block("512 MiB") as block:
            assert resident(Range.sized(block.address, block.size)) == 0
            memoryview(block)[0] = 1
        with arena.block("512 MiB") as block:
            assert memoryview(block)[0] == 0


def test_what_resize_adds_is_zero_too() -> None:
    with stead.Arena("4 MiB", zero=True) as arena:
        address = arena.allocate("1 MiB")
        write(address, b"\xff" * MIB)
        assert arena.resize(address, 4096) == address
        assert arena.resize(address, MIB) == address
        assert read(address, 4096) == b"\xff" * 4096
        assert not any(read(address + 4096, MIB - 4096))
        arena.free(address)


# ---- giving memory back ---------------------------------------------------------------------------


def test_memory_is_kept_until_it_is_trimmed() -> None:
    with stead.Arena("64 MiB", backing=stead.ANONYMOUS) as arena:
        with arena.block("32 MiB") as block:
            memoryview(block)[:] = b"\xff" * (32 * MIB)
        assert resident(arena.range) >= 32 * MIB
        assert arena.statistics().dirty == 32 * MIB
        assert arena.trim("8 MiB") >= 24 * MIB
        assert arena.trim() >= 0
        assert resident(arena.range) == 0
        assert arena.statistics().dirty == 0
        with arena.block("32 MiB") as block:
            assert not any(bytes(memoryview(block)[::4096]))


@pytest.mark.parametrize("size", [20 * 1024, 64 * 1024, MIB, 20 * MIB])
def test_a_large_block_that_was_freed_is_kept_for_the_next_and_free_for_everyone(size: int) -> None:
    """The core keeps runs that were freed a moment ago as they are."""
    with stead.Arena(64 * MIB) as arena:
        address = arena.allocate(size)
        arena.free(address)
        for bad in (address, address + 1, address + PAGE):
            with pytest.raises(stead.NotLive):
                arena.free(bad)
        assert not arena.owns(address)
        assert arena.allocate(size) == address
        arena.free(address)
        arena.check()
        seen = arena.statistics()
        assert (seen.used, seen.blocks, seen.largest_free_run) == (0, 0, 64 * MIB)

        first, second = arena.allocate(size), arena.allocate(size)
        arena.free(second)  # it lies in the way
        assert arena.resize(first, 2 * size) is not None
        arena.check()
        arena.free(first)
        whole = arena.allocate(64 * MIB)
        arena.free(whole)
        arena.check()

        arena.free(arena.allocate(size))
        block = arena.block(size)  # the same memory, but held
        with pytest.raises(stead.NotLive):
            arena.free(block.address)
        block.free()
        address = arena.allocate(size)
        write(address, b"x" * size)
        arena.free(address)
        arena.trim()
        assert resident(arena.range) == 0


def test_a_high_water_limit_gives_back_what_is_beyond() -> None:
    with stead.Arena("256 MiB", backing=stead.ANONYMOUS, keep="16 MiB") as arena:
        for _ in range(3):
            with arena.block("128 MiB") as block:
                memoryview(block)[:] = b"\xff" * (128 * MIB)
            assert resident(arena.range) <= 16 * MIB
        with arena.block("4 MiB") as block:  # within the limit: kept
            memoryview(block)[:] = b"\xff" * (4 * MIB)
            address = block.address
        assert resident(Range.sized(address, 4 * MIB)) == 4 * MIB


def test_blocks_survive_a_trim() -> None:
    with stead.Arena("64 MiB") as arena:
        blocks = [arena.block(10_000 + i) for i in range(2000)]
        for i, block in enumerate(blocks):
            memoryview(block)[:] = bytes([i % 251]) * len(block)
        del blocks[::2], block
        assert arena.trim() > 0
        arena.check()
        for i, block in enumerate(blocks):
            assert bytes(block) == bytes([(2 * i + 1) % 251]) * len(block)
        del blocks, block


# ---- arenas in arenas -----------------------------------------------------------------------------


def test_a_sub_arena_owns_its_block_alone() -> None:
    with stead.Arena("64 MiB") as outer:
        block = outer.block("8 MiB", alignment=4096)
        gone = weakref.ref(block)
        inner = stead.Arena(block, name="inner")
        assert inner.range == Range.sized(block.address, 8 * MIB)
        inside = inner.block("1 MiB")
        outside = [outer.block("1 MiB") for _ in range(40)]
        assert all(not inner.range.contains(Range.sized(each.address, 1)) for each in outside)
        with pytest.raises(BufferError):
            block.free()
        with pytest.raises(stead.NotLive):
            outer.free(block.address)
        del block, outside
        assert gone() is not None  # the sub-arena keeps it
        innermost = stead.Arena(inside)
        with pytest.raises(BufferError, match="1 live block"):
            inner.close()
        del inside
        innermost.allocate(100)
        del innermost
        inner.close()
        assert gone() is None
        assert outer.statistics().blocks == 0


def test_a_sub_arena_of_a_block_that_is_not_aligned() -> None:
    with stead.Arena("64 MiB") as outer:
        block = outer.block(10_000, alignment=16)
        with stead.Arena(block) as inner:
            assert block.address <= inner.range.start
            assert inner.range.stop <= block.address + block.size
            inner.free(inner.allocate(1))
        with pytest.raises(ValueError, match="no whole page"):
            stead.Arena(outer.block(100))
        del block


@pytest.mark.parametrize("backing", [None, "none"])
@pytest.mark.parametrize("committed", [False, True])
def test_one_arena_at_a_time_in_a_reservation(backing: Any, committed: bool) -> None:
    with stead.reserve("8 MiB") as reservation:
        if committed:
            reservation.commit().release()
        first = stead.Arena(reservation, backing=backing)
        with pytest.raises(ValueError, match="another arena hands out already"):
            stead.Arena(reservation, backing=backing)
        first.free(first.allocate(100))
        first.close()
        reservation.decommit()
        second = stead.Arena(reservation, backing=backing)
        del second  # forgotten is as good as closed
        stead.Arena(reservation, backing=backing).close()


def test_one_sub_arena_at_a_time_in_a_block() -> None:
    with stead.Arena("16 MiB") as outer:
        block = outer.block("4 MiB")
        with stead.Arena(block) as inner:
            with pytest.raises(ValueError, match="another arena hands out already"):
                stead.Arena(block)
            inner.check()
        stead.Arena(block).close()
        block.free()
        with pytest.raises(ValueError, match=r"source is <Block .* given back>"):
            stead.Arena(block)


@pytest.mark.parametrize(
    ("address", "named"), [(-5, "-0x5 is no"), (0, "0x0 is no"), (1 << 70, f"{1 << 70:#x} is no")]
)
def test_an_address_that_cannot_be_is_named(address: int, named: str) -> None:
    with stead.Arena("4 MiB") as arena:
        assert not arena.owns(address)
        calls: list[Callable[[int], object]] = [arena.free, arena.size_of, lambda at: arena.resize(at, 10)]
        for call in calls:
            with pytest.raises(stead.NotLive, match=named):
                call(address)


# ---- the end --------------------------------------------------------------------------------------


def test_after_the_end_everything_is_refused() -> None:
    arena = stead.Arena("4 MiB", name="short")
    address = arena.allocate(100)
    with pytest.raises(BufferError, match="1 live block"):
        arena.close()
    arena.free(address)
    arena.close()
    arena.close()
    assert arena.closed
    assert repr(arena) == "<Arena short, closed>"
    for call in (
        lambda: arena.allocate(1),
        lambda: arena.block(1),
        lambda: arena.free(address),
        arena.statistics,
        arena.check,
        arena.trim,
        lambda: arena.range,
        lambda: arena.owns(1),
        lambda: arena.size_of(1),
        lambda: arena.resize(1, 1),
        arena.__enter__,
        lambda: arena.allocate("x"),
    ):
        with pytest.raises((stead.Released, ValueError)):
            call()


def test_statistics_say_what_there_is() -> None:
    with stead.Arena("4 MiB") as arena:
        large = arena.allocate("1 MiB")
        small = [arena.allocate(100) for _ in range(10)]
        s = arena.statistics()
        assert (s.size, s.used, s.free, s.blocks) == (4 * MIB, MIB + 10 * 112, 4 * MIB - MIB - 10 * 112, 11)
        by_size = {each.size: each for each in s.classes}
        assert (by_size[112].blocks, by_size[112].bytes, by_size[112].spans) == (10, 1120, 1)
        assert by_size[112].capacity >= 10
        assert (by_size[0].blocks, by_size[0].bytes) == (1, MIB)
        assert 0 < s.fragmentation < 0.1
        assert s.high_water >= s.used
        arena.free(large)
        for each in small:
            arena.free(each)
        after = arena.statistics()
        assert (after.used, after.blocks, after.fragmentation, after.free_runs) == (0, 0, 0.0, 1)
        assert after.high_water == s.high_water


def test_the_name_is_seen_in_maps() -> None:
    with stead.Arena("4 MiB", name="tensors") as arena:
        found = [each for each in stead.snapshot().mappings if each.range.overlaps(arena.range)]
        assert found
        assert "tensors" in repr(arena)


def test_limits_of_address_space_are_told() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        with pytest.raises((stead.AddressSpaceError, ValueError)):
            stead.Arena("256 TiB")
