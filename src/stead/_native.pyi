"""The typed face of the extension. Calls answer with a value ≥ 0, or with a negated errno."""

from collections.abc import Callable
from typing import Any, Self, TypeVar

_A = TypeVar("_A")
_B = TypeVar("_B")

PROT_NONE: int
PROT_READ: int
PROT_WRITE: int
PROT_EXEC: int
MAP_SHARED: int
MAP_PRIVATE: int
MAP_ANONYMOUS: int
MAP_NORESERVE: int
MAP_HUGETLB: int
MADV_DONTNEED: int
MADV_DONTDUMP: int
MADV_HUGEPAGE: int
MADV_POPULATE_WRITE: int
MADV_GUARD_INSTALL: int
MFD_NOEXEC_SEAL: int
QUERY_READABLE: int
QUERY_WRITABLE: int
QUERY_EXECUTABLE: int
QUERY_SHARED: int

def claim(address: int, size: int, /) -> int: ...
def hint(address: int, size: int, /) -> int: ...
def place(address: int, size: int, protection: int, flags: int, fd: int, offset: int, /) -> int: ...
def unmap(address: int, size: int, /) -> int: ...
def protect(address: int, size: int, protection: int, /) -> int: ...
def advise(address: int, size: int, advice: int, /) -> int: ...
def name(address: int, size: int, name: str, /) -> int: ...
def fallocate(fd: int, mode: int, offset: int, size: int, /) -> int: ...
def query(maps_fd: int, address: int, /) -> tuple[int, int, int, int, int, int, int, bytes] | int: ...
def program_break() -> int: ...
def sanitizer() -> str | None: ...

class Hold:
    name: str | None
    generation: int
    _address: int
    _size: int
    _serial: int
    # Members that are None until they are set: reservation.py says what they are.
    _released: Any
    _range: Any
    _outer: Any
    _space: Any
    _parts: Any
    _leases: Any
    _lingering: Any
    _identity: Any
    _end: Any
    @classmethod
    def _claim(
        cls,
        parts: object,
        ledger: set[Any],
        forget: Callable[[Any], object],
        space: object,
        address: int,
        size: int,
        /,
    ) -> Self | None: ...
    def _take_over(self, address: int, size: int, /) -> None: ...
    def _unmap(self) -> int: ...
    def _forget(self) -> None: ...

class Finalizer:
    def __init__(self, call: Callable[[_A, _B], object], first: _A, second: _B, /) -> None: ...
    def cancel(self) -> None: ...

class Exporter:
    def __init__(self, address: int, size: int, readonly: bool, owner: object) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
