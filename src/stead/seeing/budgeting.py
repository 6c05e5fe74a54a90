"""What a process may still map, of the artefact: `stead budget`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stead.ranges import Range, RangeSet

if TYPE_CHECKING:
    from stead.seeing.shape import Host, Limits, ProcessSeen


@dataclass(frozen=True, slots=True)
class Budget:
    """Of one process. ``held``: addresses of stead's reservations, guards included; ``committed``: those that can
    be touched; ``published``: whether it says so itself; else this is what the names in its maps tell."""

    pid: int
    title: str
    limits: Limits
    host: Host
    largest_gap: Range | None
    published: bool
    reservations: int
    held: int
    committed: int
    arenas: int
    quotas: int
    heaps: int


def budget_of(process: ProcessSeen, host: Host) -> Budget:
    usable = Range(int(host["lowest"], 16), 1 << host["address_bits"])
    mapped = [(Range(int(each["start"], 16), int(each["stop"], 16)), each) for each in process["mappings"]]
    ours = [(lies, each) for lies, each in mapped if each["kind"] == "ours"]
    return Budget(
        pid=process["pid"],
        title=process["title"],
        limits=process["limits"],
        host=host,
        largest_gap=RangeSet(lies for lies, _ in mapped).largest_gap(usable),
        published=process["published_at"] is not None,
        reservations=len(process["reservations"]),
        held=sum(lies.size for lies, _ in ours),
        committed=sum(lies.size for lies, each in ours if each["state"] == "committed"),
        arenas=len(process["arenas"]),
        quotas=sum(each["quota"] or 0 for each in process["arenas"]),
        heaps=len(process["heaps"]),
    )


def to_json(budget: Budget) -> dict[str, Any]:
    gap = budget.largest_gap
    return {
        "pid": budget.pid,
        "title": budget.title,
        "limits": budget.limits,
        "host": budget.host,
        "largest_gap": gap and {"start": f"{gap.start:#x}", "stop": f"{gap.stop:#x}"},
        "stead": {
            "published": budget.published,
            "reservations": budget.reservations,
            "held": budget.held,
            "committed": budget.committed,
            "arenas": budget.arenas,
            "quotas": budget.quotas,
            "heaps": budget.heaps,
        },
    }
