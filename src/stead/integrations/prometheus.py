"""What stead does and holds in this process as Prometheus metrics, by prometheus-client (`pip install
'stead[metrics]'`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily

from stead.events import Event, Subscription
from stead.integrations.measures import EVENTS, LEVELS, levels, measured

if TYPE_CHECKING:
    from collections.abc import Iterator

_Metric = TypeVar("_Metric", Counter, Histogram)


class PrometheusMetrics(Subscription):
    """Counts events, from now on, and tells what is held whenever the registry is scraped, until ``cancel``.

    Counters ``stead_events_total{event}``, ``stead_bytes_total{event}``; the histogram ``stead_commit_seconds``;
    gauges ``stead_reservations``, ``stead_reserved_bytes``, ``stead_committed_bytes``, and
    ``stead_used_bytes``, ``stead_room_bytes``, ``stead_blocks`` by ``of`` (arena or heap) and ``name``.
    ``registry``: by default prometheus_client's own. Raises ValueError (of prometheus_client) where it has these
    metrics already.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._registry = registry
        self._made: list[Counter | Histogram | PrometheusMetrics] = []
        try:
            self._events = self._add(Counter("stead_events", EVENTS["events"], ["event"], registry=registry))
            self._bytes = self._add(Counter("stead_bytes", EVENTS["bytes"], ["event"], registry=registry))
            self._seconds = self._add(Histogram("stead_commit_seconds", EVENTS["seconds"], registry=registry))
            registry.register(self)
        except BaseException:
            self._unregister()
            raise
        self._made.append(self)
        super().__init__(self._count)

    def _add(self, metric: _Metric) -> _Metric:
        self._made.append(metric)
        return metric

    def _unregister(self) -> None:
        while self._made:
            self._registry.unregister(self._made.pop())

    def cancel(self) -> None:
        """Idempotent. The metrics leave the registry."""
        super().cancel()
        self._unregister()

    def _count(self, event: Event) -> None:
        size, seconds = measured(event)
        self._events.labels(event.name).inc()
        if size:
            self._bytes.labels(event.name).inc(size)
        if seconds is not None:
            self._seconds.observe(seconds)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Called by the registry."""
        families = {
            name: GaugeMetricFamily(f"stead_{name}", said, labels=labels)
            for name, (said, labels) in LEVELS.items()
        }
        for name, labels, value in levels():
            families[name].add_metric(labels, value)
        yield from families.values()
