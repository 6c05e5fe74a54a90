"""What the one-sided calls need of Python: the window of MPI that they go through where memory is not shared, and
the words for whatever is wrong with their arguments. The calls themselves are native/onesided_*.c.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NoReturn

from stead import _native
from stead.errors import NotLive, Released, Unsupported
from stead.ranges import Range

if TYPE_CHECKING:
    from mpi4py import MPI

# In the order of native/atomics.h.
TYPES = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64")
OPS = ("sum", "prod", "min", "max", "band", "bor", "bxor", "replace")
_MPI_TYPES = (
    "INT8_T", "INT16_T", "INT32_T", "INT64_T", "UINT8_T", "UINT16_T", "UINT32_T", "UINT64_T", "FLOAT", "DOUBLE",
)  # fmt: skip

# Windows, by handle, and the heaps that they are of: other ranks may reach the memory, and MPI the buffers of
# calls that did not wait, until all ranks have closed.
_open: dict[int, tuple[Any, OneSided]] = {}


class OneSided(_native.OneSided):
    """The one-sided calls, by (rank, address)."""

    _where: Range
    _ranks: int
    _closed: str | None = None  # why it is

    def _check_open(self) -> None:
        if self._closed is not None:
            raise Released(f"the symmetric heap at {self._where} {self._closed}")

    def _refuse(self, pointer: Any, size: int, element: int) -> NoReturn:
        self._check_pointer(pointer, size, element)
        raise AssertionError(f"{pointer!r} was refused, and nothing is wrong with it")

    def _check_pointer(self, pointer: Any, size: int, element: int) -> tuple[int, int]:
        """Rank and address, if a call about ``size`` bytes in elements of ``element`` may go there. Raises what
        that is told."""
        self._check_open()
        what = "a GlobalPointer, or a pair (rank, address) of ints"
        if not isinstance(pointer, tuple) or len(pointer) != 2:
            raise TypeError(f"pointer is {pointer!r}, must be {what}")
        try:
            rank, address = (each.__index__() for each in pointer)
        except AttributeError:
            raise TypeError(f"pointer is {pointer!r}, must be {what}") from None
        at = f"pointer is {address:#x} at rank {rank}"
        if not 0 <= rank < self._ranks:
            raise ValueError(f"{at}, must be at one of the {self._ranks} ranks, from 0 on")
        if not self._where.start <= address < self._where.stop:
            raise ValueError(f"{at}, must be in the heap, {self._where}")
        block = self._locate(address)
        if block is None:
            raise NotLive(f"{at}, where no block is live: it was freed, or never allocated", address=address)
        left = block[1] - address
        if size > left:
            raise ValueError(
                f"{at}, with {left} bytes to the end of its block, {Range(*block)}: {size} do not fit"
            )
        if address % element:
            raise ValueError(f"{at}, must be a multiple of {element}, the bytes of an element")
        return rank, address

    def _refuse_buffer(self, argument: str, given: Any, writable: bool) -> NoReturn:
        try:
            view = memoryview(given)
        except TypeError:
            kind = (
                "a writable buffer, or a number of bytes"
                if writable
                else "a buffer: bytes, an array, a memoryview"
            )
            raise TypeError(f"{argument} is {given!r}, must be {kind}") from None
        if writable and view.readonly:
            raise ValueError(f"{argument} is read-only, must be a writable buffer")
        raise ValueError(f"{argument} is not contiguous (strides {view.strides}), must be: copy it first")

    def _op_code(self, op: Any) -> int:
        mpi = sys.modules.get("mpi4py.MPI")
        if mpi is not None and isinstance(op, mpi.Op):
            for code, name in enumerate(OPS):
                if op == getattr(mpi, name.upper()):
                    return code
        raise ValueError(f"op is {op!r}, must be one of {', '.join(OPS)}, or mpi4py's of the same name")

    def _type_code(self, dtype: Any) -> int:
        if not isinstance(dtype, str):
            import numpy  # its dtypes have names, and so have Python's types to it

            dtype = numpy.dtype(dtype).name
        if dtype in TYPES:
            return TYPES.index(dtype)
        raise ValueError(f"dtype is {dtype!r}, must be one of {', '.join(TYPES)}")

    def _mpi_failed(self, code: int) -> NoReturn:
        from mpi4py import MPI

        raise MPI.Exception(code)


def open_window(heap: OneSided, where: Range, comm: Any) -> Any:
    """A window over the heap's memory, in which every rank may reach every other at any time (collective)."""
    from mpi4py import MPI

    win = MPI.Win.Create(MPI.buffer.fromaddress(where.start, where.size), 1, MPI.INFO_NULL, comm)
    win.Lock_all(MPI.MODE_NOCHECK)
    _open[MPI._handleof(win)] = win, heap
    return win


def use_window(calls: _native.OneSided, win: MPI.Win) -> None:
    """Send the one-sided calls through the window. Raises Unsupported where this MPI lacks what they need."""
    from mpi4py import MPI

    missing = calls._use_window(
        str(MPI.__file__),
        MPI._sizeof(MPI.Win),
        (MPI._handleof(win), MPI._handleof(MPI.BYTE)),
        tuple(MPI._handleof(getattr(MPI, name)) for name in _MPI_TYPES),
        tuple(MPI._handleof(getattr(MPI, name.upper())) for name in OPS),
    )
    if missing is not None:
        raise Unsupported("a symmetric heap over MPI", missing, f"an MPI library without it ({MPI.__file__})")


def is_unified(win: MPI.Win) -> bool:
    """Whether what is stored by others' processors, and through the window, is the same memory to both."""
    from mpi4py import MPI

    return bool(win.model == MPI.WIN_UNIFIED)


def close_window(win: MPI.Win) -> None:
    """Collective."""
    from mpi4py import MPI

    handle = MPI._handleof(win)
    win.Unlock_all()
    win.Free()
    del _open[handle]
