"""SharedHeap: blocks that processes share, at the same addresses in all of them.

The core (native/heap.c) finds the blocks, and knows who holds them; here is decided what it is given: addresses,
memory in steps, other processes.

Threads: every method is safe, but ``close``, which must be the last. Fork: a child is attached in its own
right, and holds what it inherits."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, SupportsIndex

from stead import _native
from stead.arena.statistics import SizeClass
from stead.errors import Corrupted, LimitReached, NotLive, Released, Unsupported
from stead.heap import files, registry, travel
from stead.heap.block import SharedBlock
from stead.heap.files import UNIT
from stead.heap.growth import GrowingHeap
from stead.heap.handle import arrive_heap, handle_of, sent
from stead.heap.objects import get, put
from stead.heap.primitives import Primitives
from stead.heap.statistics import HeapStatistics, Holder, alive
from stead.sizes import parse_address, parse_at_least

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, Literal, Self

    from numpy.typing import DTypeLike

    from stead.heap.arrays import HeapArray
    from stead.heap.files import HeapMemory
    from stead.heap.handle import HeapHandle
    from stead.heap.objects import Ref
    from stead.ranges import Range


class SharedHeap(Primitives, GrowingHeap):
    """A heap that processes share: blocks, arrays and objects at the same addresses in all of them.

    It reaches another process by pickle, like everything that is in it: as an argument or a result of
    multiprocessing (spawn, forkserver), a pool, an executor, joblib, Dask, Ray, in a queue; or by fork. Nothing
    is registered anywhere. Every process *holds* the blocks that it uses, and a block is free when nobody holds
    it; a process that ends, or is killed at any moment, holds nothing any more (``collect``). What was pickled
    stays until it has arrived, ``transit`` seconds at most. No process is special: the one that made the heap
    may end first. When the last one ends nothing is left behind.

    ``size``: bytes, or text such as "64 GiB": addresses, of which only what is used has memory behind it.
    ``name`` appears in /proc/<pid>/maps. ``step``: bytes by which the memory grows at least; by default as much
    again as there is, from 4 MiB to 1 GiB. ``keep``: as for :class:`stead.Arena`. ``transit``: seconds.

    Raises what :func:`stead.reserve` raises.
    """

    __slots__ = ()

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
            None if step is None else parse_at_least(step, "step", 1),
            None if keep is None else parse_at_least(keep, "keep", 0),
        )
        if not 0 <= transit < math.inf:
            raise ValueError(f"transit is {transit!r}, must be a number of seconds")
        memory = files.create(parse_at_least(size, "size", 1), name, int(transit * 1e9))
        with registry.lock:
            self._join(memory, name, policy)
            registry.add(self)

    def _join(self, memory: HeapMemory, name: str | None, policy: tuple[int | None, int | None]) -> None:
        """Attach this process. Takes over the memory."""
        code = self._attach(memory.control, memory.private)
        if code:
            memory.release()
            if code == _native.HEAP_NOT_OWNER:
                raise Unsupported("a heap that processes share", "/proc, to see which of them live", "none")
            if code == _native.HEAP_FULL:
                raise LimitReached("the heap has 1023 processes attached already", "processes of a heap")
            raise Corrupted("the tables of the heap cannot be those of one", address=memory.where.start)
        self.name, self._policy, self._files = name, policy, memory
        self._read_only = "w" not in memory.access
        self._begin_trimming()
        travel.register()

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
        """The processes that have it attached, by pid; of those that ended, such as nobody has looked for
        since."""
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
        """What another process needs to attach it: with ``access="r"`` it may only read, and the kernel sees to
        it (the file is opened for reading; mprotect is refused). Its tables stay writable: by them it holds
        blocks."""
        if access not in (None, "r", "rw"):
            raise ValueError(f"access is {access!r}, must be 'r', 'rw' or None (as here)")
        here = self._live().access
        if access == "rw" and here == "r":
            raise Unsupported("a handle that may write", "a heap that is attached for writing", f"{self!r}")
        return handle_of(self, access or here)

    # ---- by address ----

    def lease(self, address: SupportsIndex) -> None:
        """Hold the block at ``address`` once more. Raises NotLive."""
        at = parse_address(address)
        self._live()
        got = self._lease(at, -1)
        if isinstance(got, int):
            raise self._refusal(got, at)

    def owns(self, address: SupportsIndex) -> bool:
        """Whether a live block, whoever holds it, has the byte at ``address``."""
        at = parse_address(address)
        self._live()
        return self._find(at)[0] in (_native.HEAP_DONE, _native.HEAP_INTERIOR)

    def size_of(self, address: SupportsIndex) -> int:
        """Bytes that can be used at the address of a live block: as many as were asked for, or more. Raises
        NotLive."""
        at = parse_address(address)
        self._live()
        code, _, usable, _ = self._find(at)
        if code:
            raise self._refusal(code, at)
        return usable

    # ---- objects ----

    def block(self, size: SupportsIndex | str, alignment: SupportsIndex | str = 16) -> SharedBlock:
        """``size`` bytes, aligned to ``alignment`` (a power of two), as an object that holds them. Their
        contents are undefined. Raises OutOfSpace, LimitReached where memory is short, Unsupported where the heap
        is read-only."""
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

        By pickle protocol 5: the buffers of NumPy, pandas, Arrow and PyTorch (CPU) are copied once, to where
        they are used later; what is in this heap already is not copied, but referred to. Raises what ``block``
        does, and what pickle does.
        """
        self._request(1, 1)
        return put(self, obj)

    def get(self, ref: Ref, *, writable: bool = False) -> Any:
        """The object that was put: its buffers are the memory of the heap itself, held until the last of them is
        gone. By default they are read-only (but PyTorch has no read-only tensors); ``writable``: what is written
        is seen by all. Arrays, and those in lists, tuples and dicts, travel on as references.

        Raises NotLive where ``ref`` is of another heap or was freed, Unsupported for ``writable`` where the heap
        is read-only, Corrupted.
        """
        self._live()
        if writable and self._read_only:
            raise Unsupported("a writable object", "a heap that is attached for writing", f"{self!r}")
        return get(self, ref, writable)

    # ---- giving memory back, looking, the end ----

    def collect(self) -> int:
        """Give back what dead processes held, and what was pickled and did not arrive in time: how many
        processes were dead, and how many transits ended. Done anyway before the heap grows, or has no space."""
        self._live()
        dead = self._reap()
        self._collect_objects()
        return dead + self._expire(False)

    def trim(self, keep: SupportsIndex | str = 0) -> int:
        """Give free memory that was touched back to the system, all but ``keep`` bytes: the bytes given back.
        The addresses stay the heap's. What was given back is no longer secured: see Reservation.discard."""
        left = parse_at_least(keep, "keep", 0)
        self._live()
        self._reap()
        self._reclaim()
        with self._growing():
            return self._give_back(left, UNIT)

    def statistics(self) -> HeapStatistics:
        """How full it is, and who holds what; goes through all of it."""
        self._live()
        found = self._statistics()
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
        classes = tuple(SizeClass(*each) for each in found[8])
        return HeapStatistics(*found[:8], classes, holders, len(kept), sum(kept))

    def check(self) -> None:
        """Walk every invariant of the tables. Raises Corrupted."""
        memory = self._live()
        if wrong := self._check():
            what, unit = wrong
            address = memory.where.start + unit * UNIT
            raise Corrupted(f"{self!r}: {what}, at {address:#x}", address=address)

    def close(self, *, force: bool = False) -> None:
        """Detach this process: what it held is given back, its addresses are let go. Idempotent. The heap lives
        on in the others. Raises BufferError where this process holds a block, and then everything is as it was.

        ``force``: with live blocks (but not while another thread is inside a call, waiting). Their memory
        becomes inaccessible: touching it ends this process with SIGSEGV (``python -X faulthandler`` reports
        where), and never meets anybody else's data, since these addresses are not used again in this process.
        """
        with registry.lock:
            if self._closed or self._files is None:
                return
            if not force and (mine := [each for each in self._blocks() if self._place in each[3]]):
                raise BufferError(
                    f"cannot close {self!r}: this process holds {len(mine)} block{'s' * (len(mine) > 1)}, the "
                    f"first at {mine[0][0]:#x}; delete the blocks, the arrays, the objects that were got and the "
                    "Refs, or free their addresses"
                )
            self._end(inaccessible=force)

    def _end(self, *, inaccessible: bool) -> None:
        """Under the lock. ``inaccessible``: also in a forked child for which there was no place, since nothing
        protects the blocks that it inherited."""
        assert self._files
        self._detach()  # refuses where other threads are inside
        self._closed = True
        registry.remove(self, self._files.identity)
        if inaccessible:
            self._files.retire()
        else:
            self._files.release()

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # Nothing of it is left here: every block, array and Ref keeps it. At the end of the process somebody
        # else gives back what is held, and the system the rest.
        if self._files is not None and not self._closed and not finalizing():
            with registry.lock:
                self._end(inaccessible=False)

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

    def _refuse_released(self) -> None:
        raise Released(f"{self!r} is not attached any more")

    def _allocate_slowly(self, size: SupportsIndex | str, alignment: SupportsIndex | str = 16) -> int:
        return self._obtain(*self._request(size, alignment))[0]

    def _free_refused(self, address: SupportsIndex, code: int) -> None:
        at = parse_address(address)
        self._live()
        code = code or self._release(at)
        if code:
            raise self._refusal(code, at)

    # ---- inside ----

    def _request(self, size: SupportsIndex | str, alignment: SupportsIndex | str) -> tuple[int, int]:
        """The arguments of allocate and block, checked."""
        wanted, multiple = parse_at_least(size, "size", 1), parse_at_least(alignment, "alignment", 1)
        if multiple & (multiple - 1):
            raise ValueError(f"alignment is {alignment!r}, must be a power of two")
        where = self._live().where
        if multiple > max(where.size, UNIT):
            raise ValueError(f"alignment is {alignment!r}, must be at most the heap's size, {where.size}")
        if self._read_only:
            raise Unsupported("a new block", "a heap that is attached for writing", f"{self!r}")
        return min(wanted, 1 << 62), multiple

    def _depart(self, address: int) -> None:
        if code := self._send_off(address):
            raise self._refusal(code, address)

    def _received(self, address: int, generation: int, size: int, *, sent: bool = True) -> tuple[int, int, int]:
        """Hold a block that arrived: its address, the bytes that are meant, its generation."""
        got = self._arrive(address, generation) if sent else self._lease(address, generation)
        if isinstance(got, int) and got in (_native.HEAP_FULL, _native.HEAP_BROKEN):
            raise self._refusal(got, address)
        if isinstance(got, int):
            why = (
                "nobody held it, and it was underway for too long, or had arrived before"
                if sent
                else "it was freed"
            )
            raise NotLive(f"{address:#x} is not the block any more that was meant: {why}", address=address)
        if size > got[1]:
            self._release(address)
            raise NotLive(f"{address:#x} is a block of {got[1]} bytes, not of {size}", address=address)
        return address, size, generation
