"""A process that takes part in agreements over a stream socket, or serves them: told what to do line by line
(JSON) on its standard input, and answering line by line. Where it is told to, it kills itself at a certain
step."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from typing import Any

import stead
from stead.ranges import Range

# Where reservations go that nobody has told where to go (facts of the kernel: no known program maps there).
QUIET = Range(0x400000000000, 0x540000000000)


class Mortal(stead.peers.Socket):
    """Sends itself a signal in exchange ``last``: "before" it has spoken, "after" that, or when it has "heard" the
    answer."""

    last, when, which = 0, "", "SIGKILL"

    def allreduce(self, message: Any) -> Any:
        self._die("before", self._exchanges + 1)
        answer = super().allreduce(message)
        self._die("heard", self._exchanges)
        return answer

    def _asked(self, say: bytes, until: float) -> Any:
        if self.when == "after" and self._exchanges == self.last:
            assert self._line
            self._line.send(say, until)
            os.kill(os.getpid(), signal.Signals[self.which])
        return super()._asked(say, until)

    def _die(self, when: str, exchange: int) -> None:
        if (when, exchange) == (self.when, self.last):
            os.kill(os.getpid(), signal.Signals[self.which])


class Program:
    def __init__(self) -> None:
        self.socket: Mortal | None = None
        self.hub: stead.peers.Hub | None = None
        self.reservations: list[stead.Reservation] = []

    def serve(self, address: str, peers: int, key: str, timeout: float) -> str:
        self.hub = stead.peers.Hub(address, peers, key=bytes.fromhex(key), timeout=timeout)
        return self.hub.address

    def member(self, address: str, name: str, key: str, timeout: float = 60.0) -> None:
        self.socket = Mortal(address, key=bytes.fromhex(key), name=name, timeout=timeout)

    def die(self, when: str, last: int, which: str = "SIGKILL") -> None:
        assert self.socket
        self.socket.when, self.socket.last, self.socket.which = when, last, which

    def hurry(self, timeout: float) -> None:
        """From now on."""
        assert self.socket
        self.socket._timeout = timeout

    def reserve(self, size: str) -> list[int]:
        made = stead.reserve(size, together=self.socket)
        self.reservations.append(made)
        return list(made.range)

    def sit(self, start: int, size: int) -> None:
        self.reservations.append(stead.reserve(size, at=start, name="squatter"))

    def leave(self) -> None:
        assert self.socket
        self.socket.close()

    def held(self) -> list[list[int]]:
        """What is mapped in the quiet window: nothing but reservations is."""
        return [list(each.range) for each in stead.snapshot().mappings if each.range.overlaps(QUIET)]

    def limit(self, descriptors: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    def members(self) -> list[str]:
        assert self.hub
        return sorted(self.hub.members)

    def refused(self) -> list[str]:
        assert self.hub
        return [repr(each) for each in self.hub.refused]


def main() -> None:
    program = Program()
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = getattr(program, name)(*arguments)
        except stead.AddressSpaceError as error:
            answer = {"error": type(error).__name__, "what": str(error), "peer": getattr(error, "peer", None)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
