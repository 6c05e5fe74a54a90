"""What a hardened or guarded arena does around every block: canaries, poison, quarantine, guard pages, and who
freed what. Owns what it knows of the blocks outside of their memory, where no stray write can reach it.

All of it under the lock of all reservations, which is held across a fork, so that a child's copy is whole.
"""

from __future__ import annotations

import errno
import os
import sys
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stead import _native
from stead.errors import Corrupted, LimitReached, NotLive, OutOfSpace
from stead.ranges import align_up
from stead.reservation import table_lock
from stead.securing import PAGE
from stead.sizes import format_size

if TYPE_CHECKING:
    from types import FrameType

# Bytes after each block that nobody may write; a guard does the same better.
_CANARY = 16
_POISON = 0xDD

# Freed blocks that are not handed out again yet, so that a late write or a second free meets nobody's memory.
_QUARANTINE_BLOCKS = 1024
_REMEMBERED = 65536

# Of a large block, the ends are poisoned: filling a gigabyte would cost more than it finds.
_POISONED_END = 64 * 1024

_PACKAGE = str(Path(__file__).parents[1]) + os.sep


@dataclass(slots=True)
class _Live:
    size: int
    usable: int
    held: bool  # by a Block, which alone may give it back


@dataclass(slots=True)
class _Freed:
    size: int
    usable: int
    where: str


def _caller() -> str:
    """The line outside of stead that brought us here."""
    frame: FrameType | None = sys._getframe(1)
    while frame and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "an unknown place"


def _memory(address: int, size: int) -> memoryview:
    return memoryview(_native.Exporter(address, size, False, None))


class Care:
    """Of one arena. Its methods raise what the arena's do, and Corrupted."""

    def __init__(self, arena: _native.Arena, hardened: bool, guard: int) -> None:
        # The arena holds us, and neither is seen by the garbage collector: no reference back but in each call.
        self._hardened, self._guard = hardened, guard
        self._extra = _CANARY if hardened and not guard else 0
        self._canary = bytes(each | 0x81 for each in os.urandom(_CANARY))  # never text, nor what ends it
        self._live: dict[int, _Live] = {}
        self._freed: OrderedDict[int, str] = OrderedDict()
        self._quarantine: OrderedDict[int, _Freed] = OrderedDict()
        self._waiting = 0
        self._most_waiting = min(arena._max_units * _native.ARENA_UNIT // 8, 64 << 20)
        self._process = os.getpid()
        self._protects = False  # an old kernel, without guards in page tables

    # ---- blocks ----

    def allocate(self, arena: _native.Arena, size: int, alignment: int, *, held: bool = False) -> int:
        with table_lock:
            try:
                address, usable = arena._take(size + self._extra, alignment)
            except OutOfSpace:
                if not self._quarantine:
                    raise
                self.flush(arena)
                address, usable = arena._take(size + self._extra, alignment)
            try:
                self._set_guard(address + usable)
            except BaseException:
                arena._give(address)
                raise
            self._freed.pop(address, None)
            self._live[address] = _Live(size, usable, held)
            self._write_canary(address, size, usable)
            return address

    def free(self, arena: _native.Arena, address: int, *, held: bool = False) -> None:
        with table_lock:
            block = self._live.get(address)
            if block is None or block.held is not held:
                raise self.not_live(arena, address)
            self._check_canary(address, block)
            where = _caller()
            del self._live[address]
            self._remember(address, where)
            ours = arena._source.private or os.getpid() == self._process
            if not self._hardened or not ours:  # a forked child leaves what it shares with its parent alone
                self._really_free(arena, address, block.usable)
                return
            self._poison(address, block.size)
            self._quarantine[address] = _Freed(block.size, block.usable, where)
            self._waiting += block.usable
            while len(self._quarantine) > _QUARANTINE_BLOCKS or self._waiting > self._most_waiting:
                self._let_go(arena)

    def resize(self, arena: _native.Arena, address: int, size: int) -> int | None:
        with table_lock:
            block = self._live.get(address)
            if block is None or block.held:
                raise self.not_live(arena, address)
            self._check_canary(address, block)
            if size + self._extra > block.usable:
                return None
            block.size = size
            self._write_canary(address, size, block.usable)
            return address

    def size_of(self, arena: _native.Arena, address: int) -> int:
        block = self._live.get(address)
        if block is None:
            raise self.not_live(arena, address)
        return block.size

    def owns(self, arena: _native.Arena, address: int) -> bool:
        _, start, _ = arena._find(address)
        block = self._live.get(start)
        return block is not None and address < start + block.size

    def not_live(self, arena: _native.Arena, address: int) -> NotLive:
        code, start, _ = arena._find(address)
        if where := self._freed.get(address):
            return NotLive(f"{address:#x} was freed already, at {where}", address=address, freed_at=where)
        if start in self._quarantine:
            where = self._quarantine[start].where
            return NotLive(f"{address:#x} is inside the block at {start:#x}, freed at {where}", address=address)
        held = start in self._live and self._live[start].held
        return not_live(_native.ARENA_HELD if held and start == address else code, address, start)

    # ---- looking ----

    @property
    def waiting(self) -> tuple[int, int]:
        """Blocks and bytes that are freed and not given back yet."""
        return len(self._quarantine), self._waiting

    def check(self) -> None:
        """Raises Corrupted where a block was written past its end, or after it was freed."""
        with table_lock:
            for address, block in list(self._live.items()):
                self._check_canary(address, block)
            for address, freed in list(self._quarantine.items()):
                self._check_poison(address, freed)

    def flush(self, arena: _native.Arena) -> None:
        """Give back all that was freed."""
        with table_lock:
            while self._quarantine:
                self._let_go(arena)

    # ---- inside ----

    def _let_go(self, arena: _native.Arena) -> None:
        address, freed = self._quarantine.popitem(last=False)
        self._waiting -= freed.usable
        self._really_free(arena, address, freed.usable)
        self._check_poison(address, freed)

    def _really_free(self, arena: _native.Arena, address: int, usable: int) -> None:
        self._clear_guard(address + usable)
        arena._give(address)

    def _remember(self, address: int, where: str) -> None:
        self._freed[address] = where
        if len(self._freed) > _REMEMBERED:
            self._freed.popitem(last=False)

    def _expected(self, size: int, usable: int) -> bytes:
        rest = usable - size
        return (self._canary * (rest // _CANARY + 1))[:rest]

    def _write_canary(self, address: int, size: int, usable: int) -> None:
        if self._hardened and usable > size:
            _memory(address + size, usable - size)[:] = self._expected(size, usable)

    def _check_canary(self, address: int, block: _Live) -> None:
        if not self._hardened or block.usable == block.size:
            return
        found = bytes(_memory(address + block.size, block.usable - block.size))
        expected = self._expected(block.size, block.usable)
        if found != expected:
            at = next(i for i, (one, other) in enumerate(zip(found, expected, strict=True)) if one != other)
            raise Corrupted(
                f"the block of {block.size} bytes at {address:#x} was written past its end, at byte "
                f"{block.size + at}",
                address=address,
            )

    @staticmethod
    def _poisoned(size: int) -> list[tuple[int, int]]:
        if size <= 2 * _POISONED_END:
            return [(0, size)]
        return [(0, _POISONED_END), (size - _POISONED_END, _POISONED_END)]

    def _poison(self, address: int, size: int) -> None:
        for offset, length in self._poisoned(size):
            _memory(address + offset, length)[:] = bytes([_POISON]) * length

    def _check_poison(self, address: int, freed: _Freed) -> None:
        for offset, length in self._poisoned(freed.size):
            found = bytes(_memory(address + offset, length))
            if found.count(_POISON) != length:
                at = next(i for i, each in enumerate(found) if each != _POISON)
                raise Corrupted(
                    f"the block of {freed.size} bytes at {address:#x}, freed at {freed.where}, was written after "
                    f"that, at byte {offset + at}",
                    address=address,
                    freed_at=freed.where,
                )

    # ---- guards: madvise(2) since Linux 6.13, without a mapping for each; before that, mprotect(2) ----

    def _set_guard(self, address: int) -> None:
        if not self._guard:
            return
        failed = -errno.EINVAL
        if not self._protects:
            failed = _native.advise(address, self._guard, _native.MADV_GUARD_INSTALL)
        if failed == -errno.EINVAL:
            self._protects = True
            failed = _native.protect(address, self._guard, _native.PROT_NONE)
        if failed:
            text = f"the guard at {address:#x} ({format_size(self._guard)}): {os.strerror(-failed)}"
            raise LimitReached(text, "mappings", -failed)

    def _clear_guard(self, address: int) -> None:
        if not self._guard:
            return
        if self._protects:
            _native.protect(address, self._guard, _native.PROT_READ | _native.PROT_WRITE)
        else:
            _native.advise(address, self._guard, _native.MADV_GUARD_REMOVE)


def not_live(code: int, address: int, start: int) -> NotLive:
    """Why an address cannot be freed, from the core's answer."""
    texts = {
        _native.ARENA_FOREIGN: "is no address of this arena",
        _native.ARENA_INTERIOR: f"is inside the live block at {start:#x}, not its address",
        _native.ARENA_HELD: "is that of a Block or an array, which gives itself back",
    }
    return NotLive(f"{address:#x} {texts.get(code, 'is of no live block: freed already, or never handed out')}",
                   address=address)  # fmt: skip


def guard_size(guard: int) -> int:
    """Bytes of a guard, in whole pages."""
    return align_up(guard, PAGE)
