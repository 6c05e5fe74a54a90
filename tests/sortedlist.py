"""What the arena's tests compare it with: live blocks in a sorted list, found by bisection."""

from __future__ import annotations

from bisect import bisect_right, insort


class SortedBlocks:
    def __init__(self) -> None:
        self._blocks: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, address: int) -> bool:
        held = self.holding(address)
        return held is not None and held[0] == address

    def add(self, address: int, room: int) -> None:
        insort(self._blocks, (address, room))

    def remove(self, address: int) -> None:
        held = self.holding(address)
        assert held is not None
        assert held[0] == address
        self._blocks.remove(held)

    def room(self, address: int) -> int:
        held = self.holding(address)
        assert held is not None
        return held[1]

    def holding(self, address: int) -> tuple[int, int] | None:
        """The block that the address is in."""
        i = bisect_right(self._blocks, (address, 1 << 80)) - 1
        if i >= 0 and address < self._blocks[i][0] + self._blocks[i][1]:
            return self._blocks[i]
        return None

    def addresses(self) -> list[int]:
        return [address for address, _ in self._blocks]

    def used(self) -> int:
        return sum(room for _, room in self._blocks)

    def check(self) -> None:
        """No two blocks overlap."""
        for (one, room), (other, _) in zip(self._blocks, self._blocks[1:], strict=False):
            assert one + room <= other
