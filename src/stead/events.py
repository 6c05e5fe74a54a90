"""What stead does, told as it happens to whoever listens: reserve, claim lost, release, commit, decommit, pause,
resume, agreement round, growth. Nobody listens unless asked to, and then an event costs one look at an empty
tuple.

Owns the listeners. Who sends them on: `log` here, by the standard library's logging; and
`stead.integrations.opentelemetry`, `stead.integrations.prometheus`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Self

    Listener = Callable[["Event"], object]

Name = Literal[
    "reserve", "claim lost", "release", "commit", "decommit", "pause", "resume", "agreement round", "growth"
]  # fmt: skip

_logger = logging.getLogger("stead")


@dataclass(frozen=True, slots=True)
class Event:
    """``at``: seconds since 1970, when it was done. ``facts``: by name; ranges are :class:`stead.Range`, sizes are
    in bytes, ``seconds`` is how long it took.

    reserve: range, outer, name; claim lost: range; release: range, outer, name; commit: range, name, access,
    backing, seconds; decommit, pause, resume: range, name; agreement round: attempt, range, claimed (by all),
    peers; growth: of ("arena" or "heap"), name, range, before, after (bytes committed).
    """

    name: Name
    at: float
    facts: Mapping[str, Any]

    def __str__(self) -> str:
        return self.name + "".join(f" {key}={_said(value)}" for key, value in self.facts.items())


def _said(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6f}"
    text = str(value)
    return text if text.isprintable() and " " not in text else repr(text)


# Replaced as a whole, so that it is read without a lock. Who makes an event looks here first.
listeners: tuple[Listener, ...] = ()

_lock = threading.Lock()
_inside = threading.local()


class Subscription:
    """A listener that hears every event until ``cancel``, or the end of ``with``."""

    def __init__(self, listener: Listener) -> None:
        global listeners
        if not callable(listener):
            raise TypeError(f"listener is {listener!r}, must be callable with an event")
        # An object of its own: the same function may be subscribed twice.
        self._listener = lambda event: listener(event)
        with _lock:
            listeners = (*listeners, self._listener)

    def cancel(self) -> None:
        """Idempotent."""
        global listeners
        with _lock:
            listeners = tuple(each for each in listeners if each is not self._listener)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()


def subscribe(listener: Listener) -> Subscription:
    """Call ``listener`` with each event of this process, in the thread that made it, after what it tells of is
    done. What it raises is logged (logger "stead"), and changes nothing. What stead does on its behalf makes no
    events. A forked child has the same listeners."""
    return Subscription(listener)


def log(logger: logging.Logger | None = None, level: int = logging.INFO) -> Subscription:
    """Log each event, by default to the logger "stead": as text, and as ``record.stead``, a dict of the event's
    name and its facts, for whoever formats records as data."""
    target = logger or _logger

    def listener(event: Event) -> None:
        if target.isEnabledFor(level):
            target.log(level, "%s", event, extra={"stead": {"event": event.name, "at": event.at, **event.facts}})

    return subscribe(listener)


def emit(name: Name, /, **facts: Any) -> None:
    """For stead itself: tell all who listen."""
    if getattr(_inside, "listener", False):
        return
    event = Event(name, time.time(), facts)
    _inside.listener = True
    try:
        for listener in listeners:
            try:
                listener(event)
            except Exception:
                _logger.exception("a listener failed at: %s", event)
    finally:
        _inside.listener = False


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
