"""Blocks that wait: given back by the host, and still used by what a device's streams have to do.

An event behind each of those says when that is done (cuEventRecord, cuEventQuery). Blocks whose events have
passed are freed when the arena looks, which it does when it has no room, when many wait, and when it is asked how
full it is. Nobody waits for one, but who would find no room otherwise.
"""

from __future__ import annotations

from collections import deque
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stead.devices.driver import Driver

_MANY = 64
"""Blocks that wait before the arena looks at every further one."""


class Streams:
    """The blocks of one arena that wait."""

    def __init__(self, driver: Driver, device: int) -> None:
        self._driver, self._device = driver, device
        self._waiting: deque[tuple[int, list[int]]] = deque()
        self._looking = Lock()

    def events(self, streams: Iterable[int]) -> list[int]:
        """One behind what each of ``streams`` has to do now. Raises DriverError, and there is none then."""
        events: list[int] = []
        try:
            for stream in streams:
                events.append(self._driver.record(stream, self._device))
        except BaseException:
            self.forget(events)
            raise
        return events

    def forget(self, events: Iterable[int]) -> None:
        for event in events:
            self._driver.forget(event)

    def wait(self, address: int, events: list[int]) -> bool:
        """Let it wait for these; whether so many wait that one should look."""
        self._waiting.append((address, events))
        return len(self._waiting) > _MANY

    def settle(self, *, all: bool) -> list[int]:
        """Those that nothing uses any more wait no longer; ``all``: after waiting for the rest."""
        done: list[int] = []
        # A Block that goes in the middle of this, in a garbage collection, may get here again.
        if not self._looking.acquire(blocking=all):
            return done
        try:
            for _ in range(len(self._waiting)):
                address, events = self._waiting[0]
                while events and (all or self._driver.passed(events[-1])):
                    if all:
                        self._driver.wait(events[-1])
                    self._driver.forget(events.pop())
                if events:
                    self._waiting.rotate(-1)
                else:
                    self._waiting.popleft()
                    done.append(address)
        finally:
            self._looking.release()
        return done
