"""What stead does and holds in this process as OpenTelemetry metrics, by opentelemetry-api (`pip install
'stead[metrics]'`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter

from stead.events import Event, Subscription
from stead.integrations.measures import EVENTS, LEVELS, levels, measured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class OpenTelemetryMetrics(Subscription):
    """Counts events, from now on, and tells what is held whenever it is collected, until ``cancel``.

    Counters ``stead.events`` and ``stead.bytes`` by ``event``; the histogram ``stead.commit.seconds``; gauges
    ``stead.reservations``, ``stead.reserved_bytes``, ``stead.committed_bytes``, and ``stead.used_bytes``,
    ``stead.room_bytes``, ``stead.blocks`` by ``of`` (arena or heap) and ``name``. ``provider``: by default the
    global one; without an SDK that is one that does nothing.
    """

    def __init__(self, provider: MeterProvider | None = None) -> None:
        meter = get_meter("stead", meter_provider=provider)
        self._events = meter.create_counter("stead.events", description=EVENTS["events"])
        self._bytes = meter.create_counter("stead.bytes", "By", EVENTS["bytes"])
        self._seconds = meter.create_histogram("stead.commit.seconds", "s", EVENTS["seconds"])
        self._cancelled = False
        for name, (said, _) in LEVELS.items():
            unit = "By" if name.endswith("bytes") else "1"
            meter.create_observable_gauge(f"stead.{name}", [self._observer(name)], unit, said)
        super().__init__(self._count)

    def cancel(self) -> None:
        """Idempotent. The instruments stay, since no meter gives them up, and tell nothing any more."""
        super().cancel()
        self._cancelled = True

    def _count(self, event: Event) -> None:
        size, seconds = measured(event)
        which = {"event": event.name}
        self._events.add(1, which)
        if size:
            self._bytes.add(size, which)
        if seconds is not None:
            self._seconds.record(seconds)

    def _observer(self, wanted: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        keys = LEVELS[wanted][1]

        def observe(options: CallbackOptions) -> Iterable[Observation]:
            if not self._cancelled:
                for name, labels, value in levels():
                    if name == wanted:
                        yield Observation(value, dict(zip(keys, labels, strict=True)))

        return observe
