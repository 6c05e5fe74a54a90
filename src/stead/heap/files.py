"""The memory of a heap in this process: two memfds, and where they are mapped.

*control* holds every table, is mapped writable by everyone, and anywhere; *data* holds the blocks, is mapped at
the same addresses by everyone, and read-only by who may only read. Both have their full length from the
beginning, are sealed to it, and are allocated as they are used: control by touching it, data in steps, by
fallocate.
"""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stead import _native
from stead.backing import Anonymous, Sparse, check_name
from stead.claiming import claim_exactly, reserve
from stead.errors import PeerFailed
from stead.ranges import Range, align_up
from stead.reservation import Reservation
from stead.securing import PAGE, PUNCH_HOLE, allocate, extend, sparse_memory
from stead.sizes import format_size
from stead.snapshot import SHARED_PREFIX
from stead.space.process import this_process

if TYPE_CHECKING:
    from typing import Literal

    Access = Literal["rw", "r"]

UNIT = _native.ARENA_UNIT
LARGEST_ALIGNMENT = 1 << 40

# Private tables are written where blocks are, and most of them is never touched.
_PRIVATE = Anonymous(overcommit=True)

# The last page of the control file says what it is: checked before anything is mapped.
_MAGIC = b"stead\0h1"
_HEADER = struct.Struct("<8s16sQQQ")  # identity, base, bytes of data, bytes of tables

# Closed by force: held until the process ends, so that a stale view never meets anybody else's memory.
_retired: list[Reservation] = []


@dataclass(frozen=True, slots=True)
class HeapMemory:
    """What a heap has in this process. Owns it."""

    identity: bytes
    access: Access
    control_fd: int
    data_fd: int
    data: Reservation
    tables: Reservation  # those that all share, and then this process's own
    control: int  # the addresses of the two
    private: int
    descriptors: _native.Finalizer

    @property
    def where(self) -> Range:
        return self.data.range

    def grow(self, start: int, stop: int) -> None:
        """Allocate data between two offsets, in bytes. Raises LimitReached, and has allocated nothing then."""
        extend(self.data_fd, start, stop, self.where.start)

    def discard(self, where: Range) -> None:
        """Give memory back: it reads as zeros, for everyone."""
        at = where.start - self.where.start
        allocate(self.data_fd, PUNCH_HOLE, at, where.size, lambda number: OSError(number, os.strerror(number)))

    def release(self) -> None:
        """Unmap it all, and close the descriptors."""
        self.data.release()
        self._release_tables()

    def retire(self) -> None:
        """Make the data inaccessible, and keep its addresses until the process ends."""
        self.data.decommit()
        self.data.name = f"{self.data.name or 'heap'}, closed by force"
        _retired.append(self.data)
        self._release_tables()

    def _release_tables(self) -> None:
        self.tables.release()
        self.descriptors.cancel()
        _close(self.control_fd, self.data_fd)


def create(size: int, name: str | None, transit: int) -> HeapMemory:
    """Memory for a new heap of at least ``size`` bytes of data; ``transit`` in nanoseconds."""
    check_name(name)
    size = align_up(size, max(PAGE, UNIT))
    units = size // UNIT
    if units > _native.ARENA_MAX_UNITS:
        most = format_size(_native.ARENA_MAX_UNITS * UNIT)
        raise ValueError(f"size is {format_size(size)}, a heap has at most {most}")
    tables = align_up(_native.Heap._sizes(units)[0], PAGE)
    identity = os.urandom(16)
    label = SHARED_PREFIX + (name or "heap")
    with ExitStack() as undo:
        # So that a block can be aligned to the size of the heap.
        align = min(1 << (size.bit_length() - 1), LARGEST_ALIGNMENT)
        data = reserve(size, align=align, name=name)
        undo.callback(data.release)
        control_fd = sparse_memory(f"{label}:control", tables + PAGE)
        undo.callback(os.close, control_fd)
        data_fd = sparse_memory(label, size)
        undo.callback(os.close, data_fd)
        os.pwrite(control_fd, _HEADER.pack(_MAGIC, identity, data.address, size, tables), tables)
        made = _mapped(identity, "rw", control_fd, data_fd, data, tables)
        _native.Heap._format(made.control, data.address, units, transit, identity)
        undo.pop_all()
        return made


def attach(
    identity: bytes, where: Range, access: Access, control_fd: int, data_fd: int, name: str | None, sender: str
) -> HeapMemory:
    """The memory of a heap that another process made, at the same addresses; owns the descriptors once it is
    there.

    Raises Occupied, LimitReached, and PeerFailed where the files are not those of that heap."""
    tables = _check_control(control_fd, identity, where, sender)
    _check_sealed(data_fd, where.size, "data", sender)
    space = this_process()
    claim_exactly(space, where, where.size)
    data = Reservation(space, where, where, name)
    try:
        return _mapped(identity, access, control_fd, data_fd, data, tables)
    except BaseException:
        data.release()
        raise


def _mapped(
    identity: bytes, access: Access, control_fd: int, data_fd: int, data: Reservation, tables: int
) -> HeapMemory:
    name = data.name or "heap"
    units = data.size // UNIT
    with ExitStack() as undo:
        data.commit(backing=Sparse(data_fd), access=access)
        # One claim for both: attaching is to be quick.
        both = reserve(tables + _native.Heap._sizes(units)[1], name=f"{name}:tables")
        undo.callback(both.release)
        both.commit(0, tables, backing=Sparse(control_fd))
        both.commit(tables, backing=_PRIVATE)
        end = _native.Finalizer(_close, control_fd, data_fd)
        undo.pop_all()
        return HeapMemory(
            identity, access, control_fd, data_fd, data, both, both.address, both.address + tables, end
        )


def _close(control_fd: int, data_fd: int) -> None:
    os.close(control_fd)
    os.close(data_fd)


def _check_control(fd: int, identity: bytes, where: Range, sender: str) -> int:
    """Bytes of tables in a control file, if it is this heap's."""
    length = os.fstat(fd).st_size
    header = os.pread(fd, _HEADER.size, max(length - PAGE, 0))
    if len(header) == _HEADER.size:
        magic, found, base, size, tables = _HEADER.unpack(header)
        if (magic, found, base, size) == (_MAGIC, identity, where.start, where.size):
            _check_sealed(fd, tables + PAGE, "control", sender)
            return int(tables)
    raise PeerFailed(sender, "sent the file of another heap, or of none")


def _check_sealed(fd: int, size: int, which: str, sender: str) -> None:
    """Whoever could shorten a file that we map could end this process by SIGBUS."""
    try:
        sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
    except OSError:
        sealed = 0
    if not sealed or os.fstat(fd).st_size != size:
        raise PeerFailed(sender, f"sent a {which} file that is no heap's: its length is not sealed, or not right")
