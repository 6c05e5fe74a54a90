"""The bytes of a cargo from one rank to another: long runs straight from their place to their place, short ones
together in buffers. Both ends work out the same messages from the same runs."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from stead import _native

if TYPE_CHECKING:
    from stead.symmetric.group import Group
    from stead.symmetric.residents import Cargo

# Shorter runs are copied into a buffer: a copy of so much costs what a message does.
_DIRECT = 64 << 10
_BUFFER = 1 << 20
_PIECE = 32 << 20  # of a long run at once
_DEPTH = 4  # messages on their way


class Flow:
    """One end. The addresses of the cargo must stay committed until it is finished, or abandoned."""

    def __init__(self, group: Group, peer: int, cargo: Cargo, fromaddress: Any, *, sends: bool) -> None:
        self.peer, self.size, self.done = peer, cargo.size, 0
        self._group, self._runs, self.sends = group, cargo.runs, sends
        self._numbers = memoryview(cargo.runs).cast("Q")
        self._at = self._offset = 0  # the run that is next, and how much of it is on its way
        self._posted = self._limit = 0  # bytes
        self._from = fromaddress
        self._buffers: list[bytearray] = []  # free ones
        # Request; the message's runs (first, offset, count); its buffer, where it has one; bytes.
        self._pending: deque[tuple[Any, tuple[int, int, int], bytearray | None, int]] = deque()

    def allow(self, more: int) -> None:
        """To begin messages until so many bytes more are on their way."""
        self._limit = self._posted + more

    @property
    def finished(self) -> bool:
        """All that is allowed has been moved."""
        return not self._pending and (self._posted >= self._limit or self._posted == self.size)

    def look(self) -> bool:
        """Go on as far as it goes without waiting: whether any message has ended."""
        ended = False
        while self._pending and self._pending[0][0].Test():
            _, runs, buffer, size = self._pending.popleft()
            if buffer is not None:
                if not self.sends:
                    _native.runs_scatter(self._runs, *runs, buffer)
                self._buffers.append(buffer)
            self.done += size
            ended = True
        while len(self._pending) < _DEPTH and self._posted < min(self._limit, self.size):
            self._post()
        return ended

    def _post(self) -> None:
        first, offset = self._at, self._offset
        count, size = _native.runs_next(self._runs, first, offset, _DIRECT, _BUFFER)
        buffer: bytearray | None = None
        if count:
            buffer = self._buffers.pop() if self._buffers else bytearray(_BUFFER)
            if self.sends:
                _native.runs_gather(self._runs, first, offset, count, buffer)
            memory: Any = memoryview(buffer)[:size]
            self._at, self._offset = first + count, 0
        else:
            start, length = self._numbers[2 * first], self._numbers[2 * first + 1]
            size = min(length - offset, _PIECE, self._limit - self._posted)
            memory = self._from(start + offset, size)
            self._at, self._offset = (first + 1, 0) if offset + size == length else (first, offset + size)
        begin = self._group.send if self.sends else self._group.receive
        self._pending.append((begin(memory, self.peer), (first, offset, count), buffer, size))
        self._posted += size

    def abandon(self) -> bool:
        """Nobody waits for it any more: whether MPI may still read or write its memory."""
        if self.sends:  # MPI-4 wants no send to be cancelled
            return bool(self._pending)
        for each in self._pending:
            each[0].Cancel()
        return not any(all(each[0].Test() for each in self._pending) for _ in range(1000))
