"""What is different in two snapshots: mappings that came, went or changed, and where memory grew."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

from stead.ranges import Range
from stead.seeing.sums import Sums, sums

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from stead.seeing.shape import Artefact, MappingSeen, ProcessSeen


class What(NamedTuple):
    """What a place is, as far as two of them are compared."""

    access: str
    kind: str
    state: str
    name: str
    offset: int  # of the file, at the address 0: equal for all of one mapping

    @classmethod
    def of(cls, each: MappingSeen) -> What:
        offset = int(each["offset"], 16) - int(each["start"], 16) if each["inode"] else 0
        return cls(each["access"], each["kind"], each["state"], each["name"], offset)


@dataclass(frozen=True, slots=True)
class Change:
    """Of addresses, as large as it is the same: the kernel's own splits and merges are none."""

    where: Range
    before: What | None
    after: What | None

    @property
    def verb(self) -> Literal["new", "gone", "changed"]:
        return "new" if self.before is None else "gone" if self.after is None else "changed"


@dataclass(frozen=True, slots=True)
class Growth:
    """Bytes in memory of a mapping that is the same in both, or bytes used of an arena or a heap."""

    what: str
    name: str
    where: Range
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Of a process in both. ``growths``: the largest first."""

    before: ProcessSeen
    after: ProcessSeen
    sums: tuple[Sums, Sums]
    changes: Sequence[Change]
    growths: Sequence[Growth]


@dataclass(frozen=True, slots=True)
class Differences:
    seconds: float
    both: Sequence[Difference]
    gone: Sequence[ProcessSeen]
    new: Sequence[ProcessSeen]


def differences(before: Artefact, after: Artefact) -> Differences:
    """Processes are the same by host, pid and start; else by their rank; else where there is only one in each."""
    old, new = list(before["processes"]), list(after["processes"])
    pairs: list[tuple[ProcessSeen, ProcessSeen]] = []
    for key in (lambda at, each: _identity(at, each), lambda _, each: each["rank"]):
        for one in list(old):
            for other in new:
                if key(before, one) is not None and key(before, one) == key(after, other):
                    pairs.append((one, other))
                    old.remove(one)
                    new.remove(other)
                    break
    if not pairs and len(old) == len(new) == 1:
        pairs, old, new = [(old[0], new[0])], [], []
    both = [
        Difference(one, other, (sums(one), sums(other)), list(_changes(one, other)), _growths(one, other))
        for one, other in pairs
    ]
    return Differences(after["taken_at"] - before["taken_at"], both, old, new)


def _identity(taken: Artefact, process: ProcessSeen) -> tuple[Any, ...]:
    host = taken["hosts"][process["host"]]
    return host["name"], host["boot_id"], process["pid"], process["started_at"]


def _changes(one: ProcessSeen, other: ProcessSeen) -> Iterator[Change]:
    last: Change | None = None
    for where, before, after in _together(one["mappings"], other["mappings"]):
        if before == after:
            continue
        if last and (last.where.stop, last.before, last.after) == (where.start, before, after):
            last = Change(Range(last.where.start, where.stop), before, after)
            continue
        if last:
            yield last
        last = Change(where, before, after)
    if last:
        yield last


def _together(
    one: Sequence[MappingSeen], other: Sequence[MappingSeen]
) -> Iterator[tuple[Range, What | None, What | None]]:
    """Both at once, cut at the edges of either."""
    edges = sorted(
        {int(edge, 16) for side in (one, other) for each in side for edge in (each["start"], each["stop"])}
    )
    sides = [_Walk(one), _Walk(other)]
    for start, stop in pairwise(edges):
        before, after = (side.at(start) for side in sides)
        if before or after:
            yield Range(start, stop), before, after


class _Walk:
    """Through mappings in order."""

    def __init__(self, mappings: Sequence[MappingSeen]) -> None:
        self._left = [
            (int(each["start"], 16), int(each["stop"], 16), What.of(each)) for each in reversed(mappings)
        ]

    def at(self, address: int) -> What | None:
        while self._left and self._left[-1][1] <= address:
            self._left.pop()
        if self._left and self._left[-1][0] <= address:
            return self._left[-1][2]
        return None


def _growths(one: ProcessSeen, other: ProcessSeen) -> list[Growth]:
    before = {(each["start"], each["stop"], each["name"]): each["resident"] for each in one["mappings"]}
    found = []
    for each in other["mappings"]:
        was, now = before.get((each["start"], each["stop"], each["name"])), each["resident"]
        if was is not None and now is not None and was != now:
            found.append(_growth("in memory", each, was, now))
    fills = {each["start"]: each["fill"] for each in (*one["arenas"], *one["heaps"])}
    for what, others in (("arena", other["arenas"]), ("heap", other["heaps"])):
        for filled in others:
            old, new = fills.get(filled["start"]), filled["fill"]
            if old and new and old["used"] != new["used"]:
                found.append(_growth(f"used of {what}", filled, old["used"], new["used"]))
    return sorted(found, key=lambda each: -abs(each.after - each.before))


def _growth(what: str, each: Any, before: int, after: int) -> Growth:
    return Growth(what, each["name"] or "", Range(int(each["start"], 16), int(each["stop"], 16)), before, after)


def to_json(found: Differences) -> dict[str, Any]:
    def named(process: ProcessSeen) -> dict[str, Any]:
        return {"pid": process["pid"], "rank": process["rank"], "title": process["title"]}

    def placed(where: Range) -> dict[str, str]:
        return {"start": f"{where.start:#x}", "stop": f"{where.stop:#x}"}

    def told(what: What | None) -> dict[str, Any] | None:
        return None if what is None else {key: value for key, value in what._asdict().items() if key != "offset"}

    return {
        "seconds": found.seconds,
        "processes": [
            {
                **named(each.after),
                "sums": [asdict(side) for side in each.sums],
                "changes": [
                    {"what": change.verb, **placed(change.where), "before": told(change.before),
                     "after": told(change.after)}
                    for change in each.changes
                ],
                "growths": [
                    {"what": growth.what, "name": growth.name, **placed(growth.where), "before": growth.before,
                     "after": growth.after}
                    for growth in each.growths
                ],
            }
            for each in found.both
        ],
        "gone": [named(each) for each in found.gone],
        "new": [named(each) for each in found.new],
    }  # fmt: skip
