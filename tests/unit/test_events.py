"""Events: what is told, to whom, in which order; by logging, Prometheus and OpenTelemetry."""

from __future__ import annotations

import logging
import os
import threading
from itertools import count, pairwise
from typing import TYPE_CHECKING, Any

import pytest

import stead
from conftest import need
from stead import events
from stead.space.simulated import SimulatedSpace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stead.events import Event

MIB = 1 << 20


@pytest.fixture
def heard() -> Iterator[list[Event]]:
    """Every event of this thread."""
    found: list[Event] = []
    me = threading.get_ident()
    with events.subscribe(lambda event: found.append(event) if threading.get_ident() == me else None):
        yield found


def names(found: list[Event]) -> list[str]:
    return [each.name for each in found]


# ---- what is told ---------------------------------------------------------------------------------


def test_the_life_of_a_reservation(heard: list[Event]) -> None:
    with stead.reserve("1 MiB", name="mine", guard="64 KiB") as held:
        held.commit(0, "64 KiB").release()
        held.decommit()
        where, outer = held.range, held.outer
    held.release()
    assert names(heard) == ["reserve", "commit", "decommit", "release"]
    reserve, commit, decommit, release = (dict(each.facts) for each in heard)
    assert reserve == {"range": where, "outer": outer, "name": "mine"}
    assert commit.pop("seconds") > 0
    assert commit == {
        "range": stead.Range.sized(where.start, 1 << 16), "name": "mine", "access": "rw",
        "backing": stead.ANONYMOUS,
    }  # fmt: skip
    assert decommit == {"range": where, "name": "mine"}
    assert release == {"range": where, "outer": outer, "name": "mine"}
    assert all(each.at <= later.at for each, later in pairwise(heard))


def test_every_way_to_reserve_is_told_once(heard: list[Event]) -> None:
    with stead.reserve("1 MiB") as held:
        start = held.address
    for more in ({}, {"name": "x"}, {"at": start}, {"seed": 3}, {"prefer": "low"}, {"guard": 4096}):
        heard.clear()
        with stead.reserve("1 MiB", **more):
            assert names(heard).count("reserve") == 1


def test_what_fails_is_no_event(heard: list[Event]) -> None:
    with stead.reserve("1 MiB") as held:
        view = held.commit()
        heard.clear()
        with pytest.raises(stead.Occupied):
            held.commit()
        with pytest.raises(BufferError):
            held.release()
        with pytest.raises(ValueError, match="size is"):
            stead.reserve(0)
        assert names(heard) == []
        view.release()


def test_lost_claims(heard: list[Event]) -> None:
    with stead.reserve("1 MiB", name="first") as held:
        heard.clear()
        with pytest.raises(stead.Occupied):
            stead.reserve("1 MiB", at=held.address)
        assert [(each.name, each.facts["range"]) for each in heard] == [("claim lost", held.range)]
    heard.clear()
    # Others take every place before the first three claims.
    space = SimulatedSpace(intrusions=lambda step: [stead.Range(1 << 46, 1 << 47)] if step < 1 else [])
    stead.reserve("1 GiB", space=space, within=((1 << 46) - (1 << 30), 1 << 47), prefer="high").release()
    assert names(heard)[-3:] == ["claim lost", "reserve", "release"]


def test_a_lost_claim_of_the_quick_way(heard: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    from stead import claiming

    with stead.reserve("1 MiB") as first:
        monkeypatch.setattr(claiming, "_draws", count(7, claiming._GOLDEN))
        with stead.reserve("1 MiB") as second:
            monkeypatch.setattr(claiming, "_draws", count(7, claiming._GOLDEN))
            heard.clear()
            with stead.reserve("1 MiB") as third:
                assert len({first.address, second.address, third.address}) == 3
            assert heard[0].name == "claim lost"
            assert heard[0].facts["range"] == second.range


def test_growth_of_arenas_and_heaps(heard: list[Event]) -> None:
    with stead.Arena("64 MiB", name="blocks") as arena, stead.SharedHeap("64 MiB", name="things") as heap:
        heard.clear()
        arena.free(arena.allocate(1000))
        heap.free(heap.allocate(1000))
        grown = [each for each in heard if each.name == "growth"]
        assert [(each.facts["of"], each.facts["name"]) for each in grown] == [
            ("arena", "blocks"),
            ("heap", "things"),
        ]
        assert [each.facts["range"] for each in grown] == [arena.range, heap.range]
        assert [each.facts["before"] for each in grown] == [0, 0]
        assert all(each.facts["after"] >= 4096 for each in grown)
        heard.clear()
        arena.free(arena.allocate(1000))
        heap.free(heap.allocate(1000))
        assert heard == []


def test_rounds_of_an_agreement(heard: list[Event]) -> None:
    everything: list[Event] = []
    with events.subscribe(everything.append):
        meeting = stead.peers.Threads("ab")
        held: list[stead.Reservation] = []

        def take(exchange: Any) -> None:
            held.append(stead.reserve("1 MiB", space=SimulatedSpace(), together=exchange))

        threads = [threading.Thread(target=take, args=(meeting.member(name),)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    rounds = [each for each in everything if each.name == "agreement round"]
    assert len(rounds) == 2
    for each in rounds:
        assert each.facts == {"attempt": 0, "range": held[0].outer, "claimed": True, "peers": 2}
    for reservation in held:
        reservation.release()


# ---- who listens ----------------------------------------------------------------------------------


def test_nobody_listens_unless_asked_to() -> None:
    before = events.listeners
    subscription = events.subscribe(print)
    assert len(events.listeners) == len(before) + 1
    subscription.cancel()
    subscription.cancel()
    assert events.listeners == before


def test_the_same_listener_twice() -> None:
    found: list[Event] = []
    with events.subscribe(found.append):
        with events.subscribe(found.append):
            events.emit("decommit")
        events.emit("decommit")
    events.emit("decommit")
    assert len(found) == 3


def test_a_listener_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    found: list[Event] = []

    def fail(event: Event) -> None:
        raise ZeroDivisionError

    with events.subscribe(fail), events.subscribe(found.append), stead.reserve("1 MiB"):
        pass
    assert names(found) == ["reserve", "release"]
    assert [each.name for each in caplog.records] == ["stead", "stead"]
    assert "a listener failed at: reserve" in caplog.text


def test_what_a_listener_does_makes_no_events() -> None:
    found: list[Event] = []

    def listener(event: Event) -> None:
        found.append(event)
        stead.reserve("1 MiB").release()

    with events.subscribe(listener), stead.reserve("1 MiB"):
        pass
    assert names(found) == ["reserve", "release"]


@pytest.mark.parametrize("listener", [None, 3, "print"])
def test_what_is_no_listener(listener: Any) -> None:
    with pytest.raises(TypeError, match="listener is "):
        events.subscribe(listener)


def test_a_listener_may_cancel_and_subscribe() -> None:
    found: list[str] = []

    def listener(event: Event) -> None:
        found.append("once")
        subscription.cancel()

    subscription = events.subscribe(listener)
    events.emit("decommit")
    events.emit("decommit")
    assert found == ["once"]


def test_events_in_many_threads() -> None:
    found: list[Event] = []
    with events.subscribe(found.append):

        def work() -> None:
            for _ in range(50):
                stead.reserve("64 KiB", name="many").release()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    mine = [each for each in found if each.facts.get("name") == "many"]
    assert names(mine).count("reserve") == names(mine).count("release") == 200


# ---- by logging -----------------------------------------------------------------------------------


def test_events_are_logged_as_text_and_as_data(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO, logger="stead"),
        events.log(),
        stead.reserve("1 MiB", name="a name") as held,
    ):
        record = caplog.records[0]
    assert record.name == "stead"
    assert record.levelno == logging.INFO
    assert record.getMessage() == f"reserve range={str(held.range)!r} outer={str(held.outer)!r} name='a name'"
    data = record.stead  # type: ignore[attr-defined]
    assert (data["event"], data["range"], data["name"]) == ("reserve", held.range, "a name")


def test_another_logger_and_level(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("mine")
    with caplog.at_level(logging.DEBUG, logger="mine"), events.log(logger, logging.DEBUG), stead.reserve("1 MiB"):
        pass
    assert [(each.name, each.levelno) for each in caplog.records] == [("mine", logging.DEBUG)] * 2
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="mine"), events.log(logger, logging.DEBUG), stead.reserve("1 MiB"):
        pass
    assert caplog.records == []


def test_a_hostile_name_breaks_no_line_of_a_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="stead"), events.log():
        events.emit("decommit", name="a\nreserve name=b")
    assert "\n" not in caplog.records[0].getMessage()


# ---- as metrics -----------------------------------------------------------------------------------


def use_things() -> tuple[stead.Reservation, stead.Arena, stead.SharedHeap]:
    held = stead.reserve("2 MiB", name="mine")
    held.commit(0, "1 MiB").release()
    return held, stead.Arena("64 MiB", name="blocks"), stead.SharedHeap("64 MiB", name="things")


def test_prometheus() -> None:
    need("prometheus_client")
    import prometheus_client

    from stead.integrations.prometheus import PrometheusMetrics

    registry = prometheus_client.CollectorRegistry()

    def value(metric: str, /, **labels: str) -> float:
        found = registry.get_sample_value(metric, labels)
        assert found is not None, metric
        return found

    with PrometheusMetrics(registry) as metrics:
        with pytest.raises(ValueError, match="Duplicated"):
            PrometheusMetrics(registry)
        held, arena, heap = use_things()
        block = arena.allocate(1000)
        assert value("stead_events_total", event="reserve") >= 1
        assert value("stead_bytes_total", event="reserve") >= 2 * MIB
        assert value("stead_bytes_total", event="commit") >= MIB
        assert value("stead_bytes_total", event="growth") >= 4 * MIB
        assert value("stead_commit_seconds_count") >= 1
        assert value("stead_reservations") >= 3
        assert value("stead_reserved_bytes") >= 130 * MIB
        assert 1000 <= value("stead_used_bytes", of="arena", name="blocks") <= 4096
        assert value("stead_blocks", of="arena", name="blocks") == 1
        assert value("stead_blocks", of="heap", name="things") == 0
        assert b"stead_committed_bytes" in prometheus_client.generate_latest(registry)
        arena.free(block)
        for each in (arena, heap):
            each.close()
        held.release()
        assert registry.get_sample_value("stead_blocks", {"of": "arena", "name": "blocks"}) is None
        assert value("stead_events_total", event="release") >= 1
    metrics.cancel()
    assert b"stead_" not in prometheus_client.generate_latest(registry)


def test_opentelemetry() -> None:
    need("opentelemetry")
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    from stead.integrations.opentelemetry import OpenTelemetryMetrics

    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])

    def values() -> dict[tuple[str, str], Any]:
        data: Any = reader.get_metrics_data()
        found = {}
        for metric in data.resource_metrics[0].scope_metrics[0].metrics if data else []:
            for point in metric.data.data_points:
                labels = point.attributes
                found[metric.name, labels.get("event") or labels.get("name") or ""] = getattr(
                    point, "value", getattr(point, "count", None)
                )
        return found

    with OpenTelemetryMetrics(provider):
        held, arena, heap = use_things()
        block = arena.allocate(1000)
        found = values()
        assert found["stead.events", "reserve"] >= 1
        assert found["stead.bytes", "commit"] >= MIB
        assert found["stead.commit.seconds", ""] >= 1
        assert found["stead.reservations", ""] >= 3
        assert found["stead.blocks", "blocks"] == 1
        assert found["stead.blocks", "things"] == 0
        arena.free(block)
        for each in (arena, heap):
            each.close()
        held.release()
    assert ("stead.reservations", "") not in values()
    provider.shutdown()


def test_opentelemetry_without_an_sdk_does_nothing() -> None:
    need("opentelemetry")
    from opentelemetry.metrics import NoOpMeterProvider

    from stead.integrations.opentelemetry import OpenTelemetryMetrics

    with OpenTelemetryMetrics(NoOpMeterProvider()), stead.reserve("1 MiB") as held:
        assert held.size == MIB


def test_importing_stead_needs_none_of_them() -> None:
    import subprocess
    import sys

    code = (
        "import sys, stead; print([n for n in ('opentelemetry', 'prometheus_client', 'rich') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert done.stdout == "[]\n"
