"""GlobalPointer: an address at a rank. Pure arithmetic."""

from __future__ import annotations

from typing import NamedTuple, SupportsIndex, overload

# User addresses of x86-64 and AArch64 with four levels of page tables, and those that stead reserves in any case.
ADDRESS_BITS = 48
_ADDRESS = (1 << ADDRESS_BITS) - 1


class GlobalPointer(NamedTuple):
    """Where something is: at which rank, at which address. A pair, so ``(rank, address)`` does wherever one is
    wanted.

    ``pointer + bytes`` and ``pointer - bytes`` stay at the rank, and two pointers of one rank have a difference in
    bytes; they are equal, hashed and ordered as pairs. One whose address is 0 is false.
    """

    rank: int
    address: int

    @property
    def word(self) -> int:
        """Both in 64 bits, for a table in memory, or ``compare_and_swap`` with "uint64": the rank above 48 bits of
        address.

        Raises ValueError where one of them does not fit (rank 65,536; an address of 2**48 or more)."""
        if not (0 <= self.rank < 1 << 16 and 0 <= self.address <= _ADDRESS):
            raise ValueError(f"{self} does not fit into 64 bits: a rank has 16, an address {ADDRESS_BITS}")
        return self.rank << ADDRESS_BITS | self.address

    @classmethod
    def from_word(cls, word: SupportsIndex) -> GlobalPointer:
        """What has this ``word``; the one of 0 is false. Raises ValueError for more than 64 bits."""
        number = word.__index__()
        if not 0 <= number < 1 << 64:
            raise ValueError(f"word is {number}, must have 64 bits")
        return cls(number >> ADDRESS_BITS, number & _ADDRESS)

    def __add__(self, offset: SupportsIndex) -> GlobalPointer:  # type: ignore[override]  # tuples are joined by it
        if not isinstance(offset, SupportsIndex):
            return NotImplemented
        return GlobalPointer(self.rank, self.address + offset.__index__())

    def __radd__(self, offset: SupportsIndex) -> GlobalPointer:
        return self + offset

    @overload
    def __sub__(self, other: GlobalPointer) -> int: ...

    @overload
    def __sub__(self, other: SupportsIndex) -> GlobalPointer: ...

    def __sub__(self, other: GlobalPointer | SupportsIndex) -> GlobalPointer | int:
        """A pointer so many bytes below; or the bytes between two. Raises ValueError for two of different
        ranks."""
        if isinstance(other, GlobalPointer):
            if other.rank != self.rank:
                raise ValueError(f"{self} and {other} are at different ranks: there is no distance between them")
            return self.address - other.address
        if not isinstance(other, SupportsIndex):
            return NotImplemented
        return GlobalPointer(self.rank, self.address - other.__index__())

    def __bool__(self) -> bool:
        return self.address != 0

    def __str__(self) -> str:
        return f"{self.address:#x} at rank {self.rank}"
