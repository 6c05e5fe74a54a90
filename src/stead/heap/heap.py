"""SharedHeap: blocks that processes share, at the same addresses in all of them.

The core (native/heap.c) finds the blocks, and knows who holds them; here is decided what it is given: addresses,
memory in steps, other processes.

Threads: every method is safe, but ``close``, which must be the last. Fork: a child is attached in its own right, and
holds what it inherits."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, SupportsIndex

from stead import _native
from stead.arena.statistics import SizeClass
from stead.errors import Corrupted, LimitReached, NotLive, OutOfSpace, Released, Unsupported
from stead.heap import files, registry
from stead.heap.block import SharedBlock
from stead.heap.files import UNIT
from stead.heap.handle import arrive_heap, handle_of, sent
from stead.heap.objects import get, put
from stead.heap.statistics import HeapStatistics, Holder, alive
from stead.ranges import Range, align_up
from stead.securing import PAGE
from stead.sizes import format_size, parse_size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Any, Literal, Self

    from numpy.typing import DTypeLike

    from stead.heap.arrays import HeapArray
    from stead.heap.files import HeapMemory
    from stead.heap.handle import HeapHandle
    from stead.heap.objects import Ref

_LEAST_STEP = 4 << 20
_LARGEST_STEP = 1 << 30
_SMALL = 16384  # bytes; larger blocks are runs of pages

# Memory goes back to the system by itself only in pieces that are worth a system call.
_PIECE = 1 << 20

# Each time around, somebody else took what was there: by then it is a storm, and no room.
_ATTEMPTS = 100


class SharedHeap(_native.Heap):
    """A heap that processes share: blocks, arrays and objects at the same addresses in all of them.

    It reaches another process by pickle, like everything that is in it: as an argument or a result of
    multiprocessing (spawn, forkserver), a pool, an executor, joblib, Dask, Ray, in a queue; or by fork. Nothing is
    registered anywhere. Every process *holds* the blocks that it uses, and a block is free when nobody holds it; a
    process that ends, or is killed at any moment, holds nothing any more (``collect``). What was pickled stays until
    it has arrived, ``transit`` seconds at most. No process is special: the one that made the heap may end first.
    When the last one ends nothing is left behind.

    ``size``: bytes, or text such as "64 GiB": addresses, of which only what is used has memory behind it. ``name``
    appears in /proc/<pid>/maps. ``step``: bytes by which the memory grows at least; by default as much again as there
    is, from 4 MiB to 1 GiB. ``keep``: as for :class:`stead.Arena`. ``transit``: seconds.

    Raises what :func:`stead.reserve` raises.
    """

    __slots__ = ()

    # The members are in C, and None until they are set.
    _files: HeapMemory | None
    _policy: tuple[int | None, int | None]  # step, keep
    _handle: tuple[int, Any, bytes] | None
    _extra: int | None  # dirty bytes at which memory goes back
    _closed: bool | None

    def __init__(
        self,
        size: SupportsIndex | str,
        name: str | None = None,
        *,
        step: SupportsIndex | str | None = None,
        keep: SupportsIndex | str | None = None,
        transit: float = 600.0,
    ) -> None:
        if self._files is not None:
            raise TypeError(f"{self!r} is made already")
        policy = (
            None if step is None else _bytes(step, "step", 1),
            None if keep is None else _bytes(keep, "keep", 0),
        )
        if not 0 <= transit < math.inf:
            raise ValueError(f"transit is {transit!r}, must be a number of seconds")
        memory = files.create(_bytes(size, "size", 1), name, int(transit * 1e9))
        with registry.lock:
            self._join(memory, name, policy)
            registry.add(self)

    def _join(self, memory: HeapMemory, name: str | None, policy: tuple[int | None, int | None]) -> None:
        """Attach this process. Takes over the memory."""
        code = self._attach(memory.control.address, memory.private.address)
        if code:
            memory.release()
            if code == _native.HEAP_FULL:
                raise LimitReached("the heap has 1023 processes attached already", "processes of a heap")
            raise Corrupted("the tables of the heap cannot be those of one", address=memory.where.start)
        self.name, self._policy, self._files = name, policy, memory
        self._read_only = "w" not in memory.access
        if policy[1] is not None:
            self._extra = max(policy[1], _PIECE)

    # ---- what it is ----

    @property
    def range(self) -> Range:
        """All its addresses, the same in every process. Raises Released after close."""
        return self._live().where

    @property
    def closed(self) -> bool:
        return self._closed is True

    @property
    def read_only(self) -> bool:
        """Whether this process may only read: the kernel sees to it."""
        return bool(self._read_only)

    @property
    def processes(self) -> tuple[int, ...]:
        """The processes that have it attached, by pid; of those that ended, such as nobody has looked for since."""
        self._live()
        return tuple(sorted(pid for _, pid, _ in self._people()))

    def __repr__(self) -> str:
        name = f" {self.name}" if self.name else ""
        if self._files is None or self._closed:
            return f"<SharedHeap{name}, closed>"
        return f"<SharedHeap{name} {self._files.where}{', read-only' * bool(self._read_only)}>"

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return arrive_heap, sent(self)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def handle(self, access: Literal["rw", "r"] | None = None) -> HeapHandle:
        """What another process needs to attach it: with ``access="r"`` it may only read, and the kernel sees to it
        (the file is opened for reading; mprotect is refused). Its tables stay writable: by them it holds blocks."""
        if access not in (None, "r", "rw"):
            raise ValueError(f"access is {access!r}, must be 'r', 'rw' or None (as here)")
        here = self._live().access
        if access == "rw" and here == "r":
            raise Unsupported("a handle that may write", "a heap that is attached for writing", f"{self!r}")
        return handle_of(self, access or here)

    # ---- by address ----

    def lease(self, address: SupportsIndex) -> None:
        """Hold the block at ``address`` once more. Raises NotLive."""
        at = _address(address)
        self._live()
        got = self._lease(at, -1)
        if isinstance(got, int):
            raise self._refusal(got, at)

    def owns(self, address: SupportsIndex) -> bool:
        """Whether a live block, whoever holds it, has the byte at ``address``."""
        at = _address(address)
        self._live()
        return self._find(at)[0] in (_native.HEAP_DONE, _native.HEAP_INTERIOR)

    def size_of(self, address: SupportsIndex) -> int:
        """Bytes that can be used at the address of a live block: as many as were asked for, or more. Raises
        NotLive."""
        at = _address(address)
        self._live()
        code, _, usable, _ = self._find(at)
        if code:
            raise self._refusal(code, at)
        return usable

    # ---- objects ----

    def block(self, size: SupportsIndex | str, alignment: SupportsIndex | str = 16) -> SharedBlock:
        """``size`` bytes, aligned to ``alignment`` (a power of two), as an object that holds them. Their contents are
        undefined. Raises OutOfSpace, LimitReached where memory is short, Unsupported where the heap is read-only."""
        wanted, multiple = self._request(size, alignment)
        address, _, generation, _, _ = self._obtain(wanted, multiple)
        return SharedBlock._of(self, address, wanted, generation)

    def array(
        self,
        shape: SupportsIndex | tuple[SupportsIndex, ...],
        dtype: DTypeLike = float,
        order: Literal["C", "F"] = "C",
    ) -> HeapArray:
        """A NumPy array in the heap, aligned to 64 bytes; its contents are undefined. Pickled, it and its views
        travel as references. Raises what ``block`` does, TypeError for a dtype of objects."""
        from stead.heap.arrays import empty

        return empty(self, shape, dtype, order)

    def put(self, obj: object) -> Ref:
        """Any picklable object, put into one block of the heap: see :class:`stead.Ref`.

        By pickle protocol 5: the buffers of NumPy, pandas, Arrow and PyTorch (CPU) are copied once, to where they are
        used later; what is in this heap already is not copied, but referred to. Raises what ``block`` does, and what
        pickle does.
        """
        self._request(1, 1)
        return put(self, obj)

    def get(self, ref: Ref, *, writable: bool = False) -> Any:
        """The object that was put: its buffers are the memory of the heap itself, held until the last of them is
        gone. By default they are read-only (but PyTorch has no read-only tensors); ``writable``: what is written is
        seen by all. Arrays, and those in lists, tuples and dicts, travel on as references.

        Raises NotLive where ``ref`` is of another heap or was freed, Unsupported for ``writable`` where the heap is
        read-only, Corrupted.
        """
        self._live()
        if writable and self._read_only:
            raise Unsupported("a writable object", "a heap that is attached for writing", f"{self!r}")
        return get(self, ref, writable)

    # ---- giving memory back, looking, the end ----

    def collect(self) -> int:
        """Give back what dead processes held, and what was pickled and did not arrive in time: how many processes
        were dead, and how many transits ended. Done anyway before the heap grows, or has no space."""
        self._live()
        return self._reap() + self._expire(False)

    def trim(self, keep: SupportsIndex | str = 0) -> int:
        """Give free memory that was touched back to the system, all but ``keep`` bytes: the bytes given back. The
        addresses stay the heap's. What was given back is no longer secured: see Reservation.discard."""
        left = _bytes(keep, "keep", 0)
        self._live()
        self._reap()
        self._reclaim()
        with self._growing():
            return self._give_back(left, UNIT)

    def statistics(self) -> HeapStatistics:
        """How full it is, and who holds what; goes through all of it."""
        self._live()
        *numbers, classes = self._statistics()
        held: dict[int, list[int]] = {}
        kept: list[int] = []
        for _, usable, _, places, references in self._blocks():
            for place in places:
                held.setdefault(place, []).append(usable)
            if references:
                kept.append(usable)
        holders = tuple(
            Holder(pid, alive(pid, started), len(held.get(place, ())), sum(held.get(place, ())))
            for place, pid, started in self._people()
        )
        return HeapStatistics(
            *numbers, tuple(SizeClass(*each) for each in classes), holders, len(kept), sum(kept)
        )  # fmt: skip

    def check(self) -> None:
        """Walk every invariant of the tables. Raises Corrupted."""
        memory = self._live()
        if wrong := self._check():
            what, unit = wrong
            address = memory.where.start + unit * UNIT
            raise Corrupted(f"{self!r}: {what}, at {address:#x}", address=address)

    def close(self, *, force: bool = False) -> None:
        """Detach this process: what it held is given back, its addresses are let go. Idempotent. The heap lives on
        in the others. Raises BufferError where this process holds a block, and then everything is as it was.

        ``force``: with live blocks. Their memory becomes inaccessible: touching it ends this process with SIGSEGV
        (``python -X faulthandler`` reports where), and never meets anybody else's data, since these addresses are not
        used again in this process.
        """
        with registry.lock:
            if self._closed or self._files is None:
                return
            if not force and (mine := [each for each in self._blocks() if self._place in each[3]]):
                raise BufferError(
                    f"cannot close {self!r}: this process holds {len(mine)} block{'s' * (len(mine) > 1)}, the first "
                    f"at {mine[0][0]:#x}; delete the blocks, the arrays, the objects that were got and the Refs, or "
                    "free their addresses"
                )
            registry.remove(self)
            self._end(inaccessible=force)

    def _end(self, *, inaccessible: bool) -> None:
        assert self._files
        self._closed = True
        try:
            self._detach()
        except Released:
            pass  # at exit, already
        if inaccessible:
            self._files.retire()
        else:
            self._files.release()

    def _lose(self) -> None:
        """In a forked child for which there is no place left: nothing protects the blocks that it inherited."""
        registry.remove(self)
        self._end(inaccessible=True)

    def __enter__(self) -> Self:
        self._live()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except BufferError:
            if error is None:  # else the traceback keeps blocks of its frames alive: do not hide it behind them
                raise

    # ---- called by the core ----

    def _allocate_slowly(self, size: SupportsIndex | str, alignment: SupportsIndex | str = 16) -> int:
        return self._obtain(*self._request(size, alignment))[0]

    def _free_refused(self, address: SupportsIndex, code: int) -> None:
        at = _address(address)
        self._live()
        code = code or self._release(at)
        if code:
            raise self._refusal(code, at)

    # ---- inside ----

    def _live(self) -> HeapMemory:
        if self._files is None or self._closed:
            raise Released(f"{self!r}")
        return self._files

    def _request(self, size: SupportsIndex | str, alignment: SupportsIndex | str) -> tuple[int, int]:
        """The arguments of allocate and block, checked."""
        wanted, multiple = _bytes(size, "size", 1), _bytes(alignment, "alignment", 1)
        if multiple & (multiple - 1):
            raise ValueError(f"alignment is {alignment!r}, must be a power of two")
        where = self._live().where
        if multiple > max(where.size, UNIT):
            raise ValueError(f"alignment is {alignment!r}, must be at most the heap's size, {where.size}")
        if self._read_only:
            raise Unsupported("a new block", "a heap that is attached for writing", f"{self!r}")
        return min(wanted, 1 << 62), multiple

    def _refusal(self, code: int, address: int) -> Exception:
        """Why the core refused something about the block at an address."""
        if code == _native.HEAP_FULL:
            return LimitReached(f"{self!r} can note no more holders of {address:#x}", "holders of a heap's blocks")
        if code == _native.HEAP_BROKEN:
            return Corrupted(f"the tables of {self!r} were damaged", address=address)
        found, start, _, _ = self._find(address)
        if found == _native.HEAP_FOREIGN:
            why = "is no address of this heap"
        elif found == _native.HEAP_INTERIOR:
            why = f"is inside the live block at {start:#x}, not its address"
        elif found == _native.HEAP_DONE and self._held(address):
            why = "was handed out again since: that block is gone"
        elif found == _native.HEAP_DONE:
            pids = {place: pid for place, pid, _ in self._people()}
            others = ", ".join(str(pids.get(place, "one that ended")) for place in self._holders(address))
            why = f"is held by process {others}" if others else "is kept by the heap, on its way to another process"
            why += ", and not by this one"
        else:
            why = "is of no live block: freed already, or never handed out"
        return NotLive(f"{address:#x} {why}", address=address)

    def _depart(self, address: int) -> None:
        if code := self._send_off(address):
            raise self._refusal(code, address)

    def _received(self, address: int, generation: int, size: int, *, sent: bool = True) -> tuple[int, int, int]:
        """Hold a block that arrived: its address, the bytes that are meant, its generation."""
        got = self._arrive(address, generation) if sent else self._lease(address, generation)
        if isinstance(got, int) and got in (_native.HEAP_FULL, _native.HEAP_BROKEN):
            raise self._refusal(got, address)
        if isinstance(got, int):
            raise NotLive(
                f"{address:#x} is not the block any more that was sent: nobody held it, and it was underway for too "
                f"long, or was received before" if sent else f"{address:#x} is not the block any more that was meant",
                address=address,
            )  # fmt: skip
        if size > got[1]:
            self._release(address)
            raise NotLive(f"{address:#x} is a block of {got[1]} bytes, not of {size}", address=address)
        return address, size, generation

    # ---- taking, growing ----

    def _obtain(self, size: int, alignment: int) -> tuple[int, int, int, int, int]:
        """A block, held once by this process: address, usable bytes, generation, which of them are zero."""
        got = self._try(size, alignment)
        if got is None and self._reap():
            got = self._try(size, alignment)
        refused: LimitReached | None = None
        for _ in range(_ATTEMPTS):
            if got is not None:
                return got
            try:
                if not self._grow(size, alignment):
                    break
            except LimitReached as error:
                refused = error
                break
            got = self._try(size, alignment)
        if got is None:
            self._expire(False)
            self._reap()
            self._reclaim()
            got = self._try(size, alignment, last=True)
        if got is not None:
            return got
        if refused is not None:
            raise refused
        largest = self._statistics()[4]
        aligned = f" aligned to {format_size(alignment)}" if alignment > 16 else ""
        raise OutOfSpace(
            f"size is {size} bytes{aligned}: the largest free run of {self!r} has {largest} bytes, of "
            f"{format_size(self.range.size)} in all",
            size=size, largest_free_run=largest,
        )  # fmt: skip

    def _try(self, size: int, alignment: int, *, last: bool = False) -> tuple[int, int, int, int, int] | None:
        got = self._take(size, alignment, last)
        if not isinstance(got, int):
            return got
        if got != _native.HEAP_NO_SPACE:
            raise self._refusal(got, self.range.start)
        return None

    @contextmanager
    def _growing(self) -> Iterator[None]:
        """Alone among threads and processes to add memory, or to give it back."""
        with registry.growth_lock:
            code = self._begin_growth()
            if code < 0:
                raise self._refusal(code, self.range.start)
            try:
                yield
            finally:
                self._end_growth()

    def _grow(self, size: int, alignment: int) -> bool:
        """More units, so that this fits: whether there is something new to look at."""
        with self._growing():
            rest = self._max_units - self._units
            missing = self._shortfall(size, alignment)
            if not missing:
                return True  # others were quicker
            # Nothing is allocated for what will not fit; but a small block may fit in whatever is left.
            if not rest or (missing > rest and size > _SMALL):
                return False
            self._add(min(missing, rest))
            return True

    def _add(self, least: int) -> None:
        """At least so many units more, by the step where memory allows it."""
        have = self._units
        step = self._policy[0] or min(max(have * UNIT, _LEAST_STEP), _LARGEST_STEP)
        wanted = max(least * UNIT, step)
        try:
            self._lengthen(have, wanted)
        except LimitReached:
            if wanted == least * UNIT:
                raise
            self._lengthen(have, least * UNIT)

    def _lengthen(self, have: int, size: int) -> None:
        start = have * UNIT
        stop = min(align_up(start + size, PAGE), self._max_units * UNIT)
        self._live().grow(start, stop)
        self._extend((stop - start) // UNIT, True)

    # ---- trimming ----

    def _trim_if_wanted(self) -> None:
        """More than was to be kept is free. Half of it goes, so that the next free does not call again; and where it
        is too scattered to go, not before there is a good deal more."""
        if self._extra is None or self._dirty <= self._extra or self._closed:
            return
        if not registry.growth_lock.acquire(blocking=False):
            return  # the next one will see to it; and this may be the owner, interrupted
        registry.growth_lock.release()
        keep = self._policy[1] or 0
        with self._growing():
            self._give_back(keep // 2, _PIECE)
        self._extra = max(keep, self._dirty + max(keep // 4, _PIECE))

    def _give_back(self, keep: int, least: int) -> int:
        """Under the growth lock: who finds no space meanwhile waits for it, and then finds what comes back."""
        memory = self._live()
        before, untouched = self._dirty, 0
        as_it_was = []  # runs that would be found again
        try:
            while self._dirty > keep and (run := self._checkout(least)):
                head, units, start, stop = run
                where = Range(align_up(start, PAGE), stop // PAGE * PAGE)
                zero = False
                try:
                    if where.start < where.stop:
                        memory.discard(where)
                        zero = where == Range(start, stop)
                    else:
                        untouched += stop - start
                finally:
                    if zero:
                        self._checkin(head, units, True)
                    else:
                        as_it_was.append((head, units))
            return max(before - self._dirty - untouched, 0)
        finally:
            for head, units in as_it_was:
                self._checkin(head, units, False)


def _bytes(value: SupportsIndex | str, argument: str, least: int) -> int:
    number = parse_size(value, argument)
    if number < least:
        raise ValueError(f"{argument} is {value!r}, must be at least {least} byte{'s' * (least != 1)}")
    return number


def _address(value: SupportsIndex) -> int:
    """An address as an int; a number that is none is of no heap."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"address is {value!r}, must be an int")
    number = value.__index__()
    return number if 0 <= number < 1 << 64 else (1 << 64) - 1
