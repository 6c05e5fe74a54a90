"""Hardened and guarded arenas: mistakes are noticed, and the message says where they were made."""

from __future__ import annotations

import ctypes
import mmap
import signal
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING

import pytest

import stead
from stead import _native

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = mmap.PAGESIZE
MIB = 1 << 20
HERE = __file__


@pytest.fixture
def arena() -> stead.Arena:
    return stead.Arena("64 MiB", hardened=True)


def line() -> int:
    return sys._getframe(1).f_lineno


def test_a_second_free_is_told_where_the_first_was(arena: stead.Arena) -> None:
    address = arena.allocate(100)
    first = line() + 1
    arena.free(address)
    with pytest.raises(stead.NotLive, match=f"{address:#x} was freed already, at {HERE}:{first}") as caught:
        arena.free(address)
    assert (caught.value.address, caught.value.freed_at) == (address, f"{HERE}:{first}")
    with pytest.raises(stead.NotLive, match=f"inside the block at {address:#x}, freed at"):
        arena.free(address + 8)
    calls: tuple[Callable[[int], object], ...] = (arena.size_of, lambda at: arena.resize(at, 10))
    for call in calls:
        with pytest.raises(stead.NotLive, match="freed already"):
            call(address)
    arena.check()


def test_it_is_still_told_when_the_memory_went_back(arena: stead.Arena) -> None:
    address = arena.allocate("1 MiB")
    arena.free(address)
    arena.trim()
    with pytest.raises(stead.NotLive, match=f"freed already, at {HERE}"):
        arena.free(address)


@pytest.mark.parametrize("size", [1, 15, 16, 100, 4000, 5 * MIB])
@pytest.mark.parametrize("beyond", [0, 7, 15])
def test_a_write_past_the_end_is_noticed_at_the_free(arena: stead.Arena, size: int, beyond: int) -> None:
    address = arena.allocate(size)
    assert arena.size_of(address) == size
    kept = ctypes.string_at(address + size + beyond, 1)
    ctypes.memmove(address + size + beyond, b"\0", 1)  # as the end of a string does
    calls: tuple[Callable[[], object], ...] = (
        arena.check,
        lambda: arena.free(address),
        lambda: arena.resize(address, 1),
    )
    for call in calls:
        with pytest.raises(
            stead.Corrupted, match=f"{address:#x} was written past its end, at byte {size + beyond}"
        ):
            call()
    assert arena.owns(address)  # the refusal changed nothing
    ctypes.memmove(address + size + beyond, kept, 1)
    arena.free(address)


@pytest.mark.parametrize("size", [1, 100, 5 * MIB])
def test_a_write_after_the_end_is_noticed(arena: stead.Arena, size: int) -> None:
    address = arena.allocate(size)
    arena.free(address)
    assert ctypes.string_at(address, 1) == b"\xdd"
    ctypes.memmove(address + size - 1, b"x", 1)
    with pytest.raises(stead.Corrupted, match=f"freed at {HERE}:.*, was written after that, at byte {size - 1}"):
        arena.check()
    with pytest.raises(stead.Corrupted, match="was written after that"):
        arena.trim()
    arena.check()  # what was told is told once


def test_freed_blocks_wait_before_they_are_used_again(arena: stead.Arena) -> None:
    address = arena.allocate(100)
    arena.free(address)
    again = {arena.allocate(100) for _ in range(100)}
    assert address not in again
    assert arena.statistics().blocks == 100


def test_what_waits_is_used_before_memory_runs_out() -> None:
    arena = stead.Arena("4 MiB", hardened=True)
    for _ in range(100):
        arena.free(arena.allocate("3 MiB"))
    arena.check()
    with pytest.raises(stead.OutOfSpace):
        arena.allocate("4 MiB")  # with what is behind it, it is larger than the arena
    arena.close()


def test_blocks_of_a_hardened_arena(arena: stead.Arena, capsys: pytest.CaptureFixture[str]) -> None:
    with arena.block(100) as block:
        memoryview(block)[:] = b"x" * 100
        address = block.address
        with pytest.raises(stead.NotLive, match="Block"):
            arena.free(address)
    with pytest.raises(stead.NotLive, match="freed already"):
        arena.free(address)
    damaged = arena.block(100)
    ctypes.memmove(damaged.address + 100, b"!", 1)
    with pytest.raises(stead.Corrupted, match="past its end"):
        arena.check()
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        said: list[BaseException | None] = []
        patch.setattr(sys, "unraisablehook", lambda what: said.append(what.exc_value))
        del damaged
    assert [type(each) for each in said] == [stead.Corrupted]


def test_resize_in_a_hardened_arena_keeps_its_canary(arena: stead.Arena) -> None:
    address = arena.allocate(90)
    assert arena.resize(address, 40) == address
    assert arena.size_of(address) == 40
    ctypes.memmove(address + 40, b"!", 1)
    with pytest.raises(stead.Corrupted, match="at byte 40"):
        arena.check()
    ctypes.memset(address, 0, 40)


# ---- guards ---------------------------------------------------------------------------------------

FAULT = """if True:
    import ctypes, stead
    arena = stead.Arena("64 MiB", guard={guard}, hardened={hardened})
    before = [arena.allocate({size}, 1) for _ in range(20)]
    address = arena.allocate({size}, 1)
    ctypes.memset(address, 1, {size})
    print("wrote", flush=True)
    ctypes.memset(address + {size} + {beyond}, 1, 1)
    print("survived", flush=True)
"""


@pytest.mark.parametrize(("size", "beyond"), [(1, 0), (100, 0), (4096, 4095), (70_001, 0), (3 * MIB + 5, 100)])
@pytest.mark.parametrize("hardened", [False, True])
def test_a_touch_behind_a_guarded_block_faults_at_once(size: int, beyond: int, hardened: bool) -> None:
    code = FAULT.format(guard=PAGE, size=size, beyond=beyond, hardened=hardened)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.returncode) == ("wrote\n", -signal.SIGSEGV)


@pytest.mark.parametrize("old_kernel", [False, True])
def test_guards_come_and_go_with_their_blocks(old_kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if old_kernel:  # before Linux 6.13
        monkeypatch.setattr(_native, "MADV_GUARD_INSTALL", 9999)
    arena = stead.Arena("4 MiB", guard="8 KiB")
    for _ in range(3):
        addresses = [arena.allocate(1000 * i, alignment=8) for i in range(1, 50)]
        for i, address in enumerate(addresses, 1):
            assert (address + arena.size_of(address)) <= arena.range.stop
            ctypes.memset(address, 1, 1000 * i)
        for address in addresses:
            arena.free(address)
        arena.check()
    monkeypatch.undo()
    whole = arena.block(4 * MIB - 8192)  # over all places where guards were
    memoryview(whole)[:] = b"\xff" * len(whole)
    del whole
    arena.close()


def test_a_guarded_block_that_cannot_be_guarded_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    arena = stead.Arena("4 MiB", guard=4096)
    arena.free(arena.allocate(1))
    before = arena.statistics()
    monkeypatch.setattr(_native, "advise", lambda *_: -12)
    with pytest.raises(stead.LimitReached, match="guard"):
        arena.allocate(100)
    monkeypatch.undo()
    assert arena.statistics() == before
