"""What the ranks of an MPI job have, in what they differ, and whether one range for all exists (by claiming it).

Data only: `view.ranks` prints it. Run on every rank at once; rank 0 gets the report.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from stead.claiming import reserve
from stead.descriptors import boot_id
from stead.doctor import examine
from stead.errors import AddressSpaceError
from stead.peers import Mpi
from stead.proc import read_number
from stead.sizes import format_size

if TYPE_CHECKING:
    from mpi4py import MPI

    from stead.agreement import Exchange
    from stead.messages import Message

_ASLR = {0: "off", 1: "on, but for the heap", 2: "on"}
# Personality flag by which a process runs without address randomization (setarch -R, gdb): personality(2).
_ADDR_NO_RANDOMIZE = 0x0040000

# In these ranks should be alike; a difference is no fault, but explains much.
_COMPARED = {
    "kernel": "kernel",
    "python": "Python",
    "page_size": "page size",
    "address_bits": "address bits",
    "aslr": "address randomization",
    "address_space_limit": "RLIMIT_AS",
}


@dataclass(frozen=True, slots=True)
class Rank:
    """One rank. Sizes in bytes; ``address_space_limit``: None where there is none; ``available``: memory.
    ``boot``: equal where ranks run on the same kernel, and can share memory."""

    rank: int
    host: str
    pid: int
    boot: str
    kernel: str
    python: str
    page_size: int
    address_bits: int
    aslr: str
    address_space_limit: int | None
    stack_limit: int | None
    available: int | None


@dataclass(frozen=True, slots=True)
class Report:
    """``start``: of the range that all ranks held for a moment, of ``size`` bytes; None, and ``refusal``, where
    there is none. ``exchanges``: reductions that it took; ``milliseconds``: here. ``differences``: in words."""

    library: str
    ranks: tuple[Rank, ...]
    size: int
    start: int | None
    refusal: str | None
    exchanges: int
    milliseconds: float
    differences: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data for :func:`json.dumps`."""
        return asdict(self)


def examine_ranks(comm: MPI.Intracomm, size: int) -> Report | None:
    """Look at all ranks of ``comm`` (collective). Where there is one range for all, None on all but rank 0; where
    there is none, a report on every rank."""
    with Mpi(comm) as exchange:
        found = exchange.comm.allgather(_this_rank(comm.rank, exchange.me))
        counting = _Counting(exchange)
        began = time.perf_counter()
        start, refusal = None, None
        try:
            with reserve(size, together=counting) as held:
                start = held.address
        except AddressSpaceError as error:
            refusal = str(error)
        milliseconds = (time.perf_counter() - began) * 1e3
        if comm.rank and refusal is None:
            return None
        return Report(
            _library(),
            tuple(found),
            size,
            start,
            refusal,
            counting.exchanges,
            milliseconds,
            tuple(_differences(found)),
        )


class _Counting:
    def __init__(self, exchange: Exchange) -> None:
        self._exchange, self.me, self.exchanges = exchange, exchange.me, 0

    def allreduce(self, message: Message) -> Message:
        self.exchanges += 1
        return self._exchange.allreduce(message)


def _this_rank(rank: int, me: str) -> Rank:
    here = examine()
    limits = {each.name: each.value for each in here.limits}
    return Rank(
        rank=rank,
        host=os.uname().nodename,
        pid=os.getpid(),
        boot=boot_id(),
        kernel=here.kernel,
        python=here.python,
        page_size=here.page_size,
        address_bits=here.address_bits,
        aslr=_aslr(),
        address_space_limit=limits["RLIMIT_AS"],
        stack_limit=limits["RLIMIT_STACK"],
        available=limits["memory available"],
    )


def _aslr() -> str:
    try:
        with open("/proc/self/personality") as file:
            if int(file.read(), 16) & _ADDR_NO_RANDOMIZE:
                return "off for this process"
    except (OSError, ValueError):
        pass
    return _ASLR.get(
        -1 if (state := read_number("/proc/sys/kernel/randomize_va_space")) is None else state, "not told"
    )


def _library() -> str:
    from mpi4py import MPI

    first = MPI.Get_library_version().partition("\n")[0].partition(",")[0]
    return " ".join(first.replace("\0", "").split())


def _differences(ranks: list[Rank]) -> list[str]:
    found = []
    for name, words in _COMPARED.items():
        by_value: dict[Any, list[int]] = {}
        for each in ranks:
            by_value.setdefault(getattr(each, name), []).append(each.rank)
        if len(by_value) > 1:
            found.append(
                f"{words}: " + "; ".join(f"{_said(name, value)} on {on(who)}" for value, who in by_value.items())
            )
    return found


def _said(name: str, value: Any) -> str:
    if name in ("page_size", "address_space_limit"):
        return "unlimited" if value is None else format_size(value)
    return str(value)


def on(ranks: list[int]) -> str:
    """ "rank 3", or "ranks 0-2, 5"."""
    runs: list[list[int]] = []
    for each in sorted(ranks):
        if runs and each == runs[-1][1] + 1:
            runs[-1][1] = each
        else:
            runs.append([each, each])
    text = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
    return f"rank{'s' if len(ranks) > 1 else ''} {text}"
