"""SymmetricHeap: blocks at the same addresses at every rank, with contents of each rank's own."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, SupportsIndex

from stead.arena.arrays import layout
from stead.backing import check_name
from stead.errors import NotLive, PeerFailed, Unsupported
from stead.peers import Mpi
from stead.peers.pipes import positive_timeout
from stead.ranges import Range, align_up
from stead.sizes import parse_at_least, parse_size
from stead.symmetric import memory as memories
from stead.symmetric.onesided import OneSided, close_window, is_unified, open_window, use_window
from stead.symmetric.plan import UNIT, Plan
from stead.symmetric.pointer import GlobalPointer
from stead.symmetric.sliced import WithSlices
from stead.symmetric.slices import Slices
from stead.symmetric.voting import Voting

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Any, NoReturn, Self

    import numpy
    from mpi4py import MPI
    from numpy.typing import DTypeLike

    from stead.symmetric.plan import Spot

# Bytes that memory comes in: a multiple of the page size of every rank, on whatever machine it runs.
GRAIN = 1 << 16

_CACHE_LINE = 64


@dataclass(frozen=True, slots=True)
class SymmetricStatistics:
    """Bytes, the same at every rank: ``size`` of addresses, ``secured`` of memory at each rank, ``used`` in
    ``blocks`` live blocks, ``largest_free_run``."""

    size: int
    secured: int
    used: int
    blocks: int
    largest_free_run: int


class SymmetricHeap(OneSided, WithSlices):
    """A heap of ``size`` bytes (rounded up to 64 KiB) at the same addresses at all ranks of ``comm``, each of
    which makes one (collective: all with the same arguments).

    ``allocate``, ``array``, ``free`` and ``trim`` are collective as well: every rank calls the same in the same
    order, and gets the same addresses, without a word to the others unless more memory must be had. What is *in* a
    block is each rank's own; others reach it by ``put``, ``get``, ``accumulate``, ``fetch_add`` and
    ``compare_and_swap`` with a :class:`GlobalPointer`. ``check=True``: at each call all ranks compare what they
    have called so far.

    ``onesided``: "auto", by load and store where ranks share a host, else through MPI; "mpi", always through MPI.
    ``timeout``: seconds that each collective step waits for the slowest rank. ``name``: for people.

    ``slice``: bytes (rounded up as well) of a further part for each rank, in which that one alone allocates, and
    whose blocks move between ranks at their addresses: ``slices``, :meth:`migrate`.

    A context manager that closes at its end. Any thread may call, as far as the MPI library allows it, but
    collective calls must come in the same order everywhere.

    Raises PeersDisagree, PeerFailed, NoGap, LimitReached; Unsupported; ValueError or TypeError that names the
    argument.
    """

    def __init__(
        self,
        size: SupportsIndex | str,
        comm: MPI.Intracomm,
        *,
        name: str | None = None,
        check: bool = False,
        onesided: Literal["auto", "mpi"] = "auto",
        timeout: float = 30.0,
        slice: SupportsIndex | str = 0,
        _saved: tuple[int, Plan] | None = None,
    ) -> None:
        wanted = align_up(parse_at_least(size, "size", 1), GRAIN)
        each = align_up(parse_at_least(slice, "slice", 0), GRAIN)
        check_name(name)
        if onesided not in ("auto", "mpi"):
            raise ValueError(f"onesided is {onesided!r}, must be 'auto' or 'mpi'")
        self.name, self.check = name, bool(check)
        self._lock = threading.RLock()
        self._window: MPI.Win | None = None
        exchange = Mpi(comm, timeout)
        self._voting = Voting(exchange, timeout)
        self._ranks: int = exchange.comm.size
        self._rank: int = exchange.comm.rank
        at, self._plan = _saved or (None, Plan(wanted, GRAIN))
        self._slices: Slices | None = None
        try:
            self._voting.same(f"SymmetricHeap({wanted}, slice={each}, check={self.check}, onesided={onesided!r})")
            self._memory = memories.create(wanted, name, exchange, self._voting, each * self._ranks, at)
        except Exception:
            self._voting.close()  # all ranks have come to this
            raise
        self._where = Range.sized(self._memory.address, wanted)
        try:
            self._connect(onesided)
            if each:
                self._slices = Slices(self._memory.held, wanted, each, exchange.comm, timeout=timeout)
        except BaseException:
            self._abandon("could not be made")
            raise

    def _connect(self, onesided: str) -> None:
        """Find the way to each rank, and make the calls ready."""
        complete = onesided == "auto" and self._memory.meet(self._voting)
        direct = onesided == "auto"
        if not complete:
            self._window = open_window(self, self._where, self._voting.comm)
            direct = direct and is_unified(self._window)
        bases = (self._memory.base(rank, self._rank) if direct else 0 for rank in range(self._ranks))
        self._open(self._where.start, self._where.size, self._rank, tuple(bases))
        if self._window is not None:
            use_window(self, self._window)
        self._direct = direct

    # ---- what it is ----

    @property
    def range(self) -> Range:
        """The addresses, at every rank."""
        return self._where

    @property
    def address(self) -> int:
        """The first address."""
        return self._where.start

    @property
    def size(self) -> int:
        """Bytes of addresses."""
        return self._where.size

    @property
    def rank(self) -> int:
        """This rank, in the communicator that the heap was made with."""
        return self._rank

    @property
    def ranks(self) -> int:
        """How many there are."""
        return self._ranks

    @property
    def closed(self) -> bool:
        return self._closed is not None

    def reaches(self, rank: int) -> Literal["directly", "through MPI"]:
        """How ``put`` and ``get`` reach a rank: by load and store, or by a window. Raises ValueError."""
        self._check_rank(rank)
        return "directly" if self._direct and self._memory.base(rank, self._rank) else "through MPI"

    def statistics(self) -> SymmetricStatistics:
        """How full it is. Raises Released."""
        with self._lock:
            self._check_open()
            plan = self._plan
            return SymmetricStatistics(plan.size, plan.secured.size, plan.used, len(plan), plan.largest_free_run)

    def __repr__(self) -> str:
        state = self._closed or f"rank {self._rank} of {self._ranks}, {len(self._plan)} blocks"
        return f"<SymmetricHeap {self.name + ' ' if self.name else ''}{self._where}, {state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SymmetricHeap cannot be pickled: each rank makes its own, with the others")

    # ---- blocks ----

    def allocate(self, size: SupportsIndex | str, alignment: SupportsIndex | str = 16) -> int:
        """The address of a new block of ``size`` bytes, the same at every rank (collective). Its contents are not
        defined.

        ``alignment``: a power of two. No rank waits for another unless memory must be had for it; so before you
        reach into the block at another rank, be sure that that one has allocated it too (``barrier``).

        Raises OutOfSpace (at all ranks); LimitReached at a rank that has no memory for it, and PeerFailed with the
        reason at the others; PeersDisagree where they have called different things before, as far as it is looked
        at; ValueError, TypeError, Released. Nothing has changed then.
        """
        wanted = parse_at_least(size, "size", 1)
        multiple = parse_size(alignment, "alignment")
        if multiple <= 0 or multiple & (multiple - 1):
            raise ValueError(f"alignment is {alignment!r}, must be a power of two")
        what = f"allocate({wanted}, {multiple})"
        with self._lock:
            self._begin(what)
            spot = self._plan.place(wanted, max(multiple, UNIT))
            self._secure(spot, what)
            address = self._where.start + spot.offset
            self._add(address, address + wanted)
            self._plan.take(spot, what)
            return address

    def array(
        self,
        shape: SupportsIndex | Iterable[SupportsIndex],
        dtype: DTypeLike = float,
        order: Literal["C", "F"] = "C",
    ) -> numpy.ndarray[Any, Any]:
        """A NumPy array in a block of its own, aligned to 64 bytes (collective; else as ``allocate``).
        ``free(array)`` frees it, and it must not be used afterwards; the heap cannot be closed while it lives.

        Raises what ``allocate`` does."""
        import numpy

        lengths, kind, size = layout(shape, dtype, order, "a symmetric heap")
        address = self.allocate(max(size, 1), _CACHE_LINE)
        view = self._memory.held.view(address - self._where.start, max(size, 1))
        return numpy.ndarray(lengths, kind, buffer=view, order=order)

    def free(self, block: SupportsIndex | numpy.ndarray[Any, Any]) -> None:
        """Free a block, by its address or by the array that ``array`` made (collective). Its addresses may be
        given out again by the next call: be sure that no rank uses the block any more (``barrier``).

        Raises NotLive where no block begins there, TypeError, PeersDisagree, PeerFailed, Released."""
        address = address_of(block, "block")
        offset = address - self._where.start
        what = f"free({offset})"
        with self._lock:
            self._begin(what)
            if self._plan.size_of(offset) is None:
                raise NotLive(f"block is {address:#x}, where no block of {self!r} begins", address=address)
            self._drop(address)
            self._give_back(self._plan.give(offset, what))

    def trim(self) -> int:
        """Give the memory of all free pages back to the system, at every rank (collective): bytes at each. Large
        frees do it by themselves. Raises PeersDisagree, PeerFailed, Released."""
        with self._lock:
            self._begin("trim()")
            pages = self._plan.trim()
            self._plan.trimmed("trim()")
            self._give_back(pages)
            return sum(each.size for each in pages)

    def _begin(self, what: str) -> None:
        self._check_open()
        if self.check:
            self._voting.same(self._plan.step(what))

    def _secure(self, spot: Spot, what: str) -> None:
        """Have memory for the block at all ranks, or at none."""
        needed, generous = self._plan.missing(spot)
        if not needed:
            return
        step = self._plan.step(what)
        if generous != needed:
            # Where one rank has less, all try again with what is needed.
            with contextlib.suppress(Exception):
                self._voting.together(step, lambda: self._memory.secure(generous), self._memory.give_back)
                self._plan.secure(generous)
                return
        self._voting.together(step, lambda: self._memory.secure(needed), self._memory.give_back)
        self._plan.secure(needed)

    def _give_back(self, pages: list[Range]) -> None:
        # Each rank by itself: should one fail, it has more memory than it says, and nothing is amiss.
        with contextlib.suppress(OSError):
            self._memory.give_back(pages)

    # ---- the other ranks ----

    def pointer(self, block: SupportsIndex | numpy.ndarray[Any, Any], rank: int) -> GlobalPointer:
        """To an address, or an array's first element, at a rank. Raises ValueError where that is not in the heap,
        TypeError."""
        address = address_of(block, "block")
        self._check_rank(rank)
        if not self._where.start <= address < self._where.stop:
            raise ValueError(f"block is {address:#x}, must be in the heap, {self._where}")
        return GlobalPointer(rank.__index__(), address)

    def view(self, pointer: GlobalPointer | tuple[int, int], size: SupportsIndex | str) -> memoryview:
        """``size`` bytes at this rank, or at another on the same host, to be loaded and stored as any memory.

        Raises Unsupported where that rank's memory is not mapped here; what ``get`` raises."""
        wanted = parse_at_least(size, "size", 1)
        with self._lock:
            rank, address = self._check_pointer(pointer, wanted, 1)
            held = self._memory.held if rank == self._rank else self._memory.neighbours.get(rank)
            if held is None:
                raise Unsupported(
                    f"a view of the memory of rank {rank}", "a rank on this host", self.reaches(rank)
                )
            return held.view(address - self._where.start, wanted)

    def barrier(self, timeout: float | None = None) -> None:
        """Wait for all ranks, and until what all of them have put before is there (collective). ``timeout``:
        seconds; by default the heap's. Raises PeerFailed after it; the heap's collective calls fail then, too.
        Released."""
        if timeout is not None:
            positive_timeout(timeout)
        with self._lock:
            self.flush()
            if self._window is not None:
                self._window.Sync()
            self._voting.wait(self._voting.comm.Ibarrier(), timeout, nap=self._window is None)
            if self._window is not None:
                self._window.Sync()

    def _check_rank(self, rank: int) -> None:
        if not isinstance(rank, SupportsIndex):
            raise TypeError(f"rank is {rank!r}, must be an int")
        if not 0 <= rank.__index__() < self._ranks:
            raise ValueError(f"rank is {rank!r}, must be one of the {self._ranks} ranks, from 0 on")

    # ---- the end ----

    def close(self) -> None:
        """Give everything back, at all ranks (collective). Idempotent.

        Raises BufferError at a rank where a view or an array is live, and PeerFailed with the reason at the
        others: nothing has changed then. PeerFailed as well where a rank does not come: it is closed here all the
        same."""
        with self._lock:
            if self._closed is not None:
                return
            try:
                self._voting.together("close()", self._memory.check_unused, lambda _: None)
            except PeerFailed:
                if self._voting.failed:
                    self._abandon("was closed without the others, of whom one had failed")
                raise
            self.flush()
            while not self._shut():
                time.sleep(20e-6)  # another thread is in a call
            self._closed = "is closed"
            if self._window is not None:
                close_window(self._window)
                self._window = None
            if self._slices is not None:
                self._slices.close()
            self._let_go()
            self._voting.close()

    def _abandon(self, why: str) -> None:
        """Close without a word to the others."""
        while not self._shut():
            time.sleep(20e-6)
        self._closed = why
        if self._slices is not None:
            self._slices.abandon()
        self._let_go()

    def _let_go(self) -> None:
        """Of the memory; not where other ranks may still reach it by a window, which would need them to be
        closed."""
        if self._window is None:
            with contextlib.suppress(BufferError):  # it goes with the last view
                self._memory.release()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif self._closed is None:
            # The others need not be on their way out: nothing may wait for them.
            self._abandon("was left by an error")


def address_of(block: Any, argument: str) -> int:
    """An address as it is, or where an array's elements begin. Raises TypeError."""
    if hasattr(block, "ctypes"):  # arrays have it; NumPy's numbers, which may be addresses, have not
        address: int = block.ctypes.data
        return address
    if isinstance(block, bool) or not isinstance(block, SupportsIndex):
        raise TypeError(f"{argument} is {block!r}, must be an address, or an array of the heap")
    return block.__index__()
