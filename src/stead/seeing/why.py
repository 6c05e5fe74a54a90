"""What is at an address or in a range, since when, whose it is, and where there would be room instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stead.placement import Footprint, Placement
from stead.ranges import Range, RangeSet, align_down, align_up
from stead.seeing.finding import rooms

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stead.seeing.shape import ArenaSeen, Artefact, HeapSeen, MappingSeen, ProcessSeen, ReservationSeen

_BIG_PAGE = 1 << 21


@dataclass(frozen=True, slots=True)
class There:
    """One mapping in the way. ``owner``: whose it is, in words; ``since``: seconds since 1970, None where nobody
    knows. ``page``: of an address, "resident", "swapped" or "not in memory"; None where that is not known."""

    mapping: MappingSeen
    owner: str
    since: float | None
    reservation: ReservationSeen | None
    arenas: Sequence[ArenaSeen]
    heaps: Sequence[HeapSeen]
    page: str | None


@dataclass(frozen=True, slots=True)
class Answer:
    """Of one process. ``kept_clear``: where nothing is mapped, and nothing may be, and what for."""

    process: ProcessSeen
    there: Sequence[There]
    kept_clear: Sequence[tuple[Range, str]]

    @property
    def free(self) -> bool:
        return not self.there and not self.kept_clear


@dataclass(frozen=True, slots=True)
class Why:
    """``free``: in all processes. ``below``, ``above``: the nearest ranges as large that are free in all of them,
    aligned as :func:`stead.reserve` would."""

    where: Range
    answers: Sequence[Answer]
    usable: Range
    below: Range | None
    above: Range | None

    @property
    def free(self) -> bool:
        return all(each.free for each in self.answers) and self.usable.contains(self.where)


def explain(taken: Artefact, where: Range) -> Why:
    """What is at ``where`` in the processes of an artefact: one address (a range of one byte), or a range."""
    host = taken["hosts"][0]
    page = max(each["page_size"] for each in taken["hosts"])
    usable = Range(int(host["lowest"], 16), min(1 << each["address_bits"] for each in taken["hosts"]))
    whole = Range(align_down(where.start, page), align_up(where.stop, page))
    answers = []
    occupied = RangeSet([(0, usable.start), (usable.stop, 1 << 64)])
    for process in taken["processes"]:
        mapped = [(Range(int(each["start"], 16), int(each["stop"], 16)), each) for each in process["mappings"]]
        clear = rooms(process["pid"], ((each["kind"], each["name"], lies) for lies, each in mapped))
        occupied |= RangeSet([*(lies for lies, _ in mapped), *(room for room, _ in clear)])
        inside = [each for lies, each in mapped if lies.overlaps(where)]
        there = [_there(process, each, where, page) for each in inside]
        # Where it lies in what is mapped, that is in the way already.
        growth = [(room, why) for room, why in clear if room.overlaps(where) and not there]
        answers.append(Answer(process, there, growth))
    below, above = _nearest(Footprint(occupied, page), whole, usable)
    return Why(where, answers, usable, below, above)


def _nearest(seen: Footprint, where: Range, usable: Range) -> tuple[Range | None, Range | None]:
    align = _BIG_PAGE if where.size >= _BIG_PAGE else seen.granularity
    found: list[Range | None] = []
    for window, prefer in (
        (Range(usable.start, min(where.stop - 1, usable.stop)), "high"),
        (Range(max(where.start + 1, usable.start), usable.stop), "low"),
    ):
        if window.start >= window.stop:
            found.append(None)
            continue
        found.append(Placement(where.size, window, align, prefer=prefer).choose(seen))  # type: ignore[arg-type]
    return found[0], found[1]


def _there(process: ProcessSeen, mapping: MappingSeen, where: Range, page: int) -> There:
    number = mapping["reservation"]
    reservation = None if number is None else process["reservations"][number]
    lies = Range(int(mapping["start"], 16), int(mapping["stop"], 16))
    arenas = [each for each in process["arenas"] if _meets(each, lies)]
    heaps = [each for each in process["heaps"] if _meets(each, lies)]
    since = reservation["since"] if reservation else None
    if mapping["kind"] in ("stack", "vdso"):
        since = process["started_at"]  # the kernel maps these when a program begins
    state = _page(mapping, where, page) if where.size == 1 else None
    return There(mapping, _owner(mapping, reservation), since, reservation, arenas, heaps, state)


def _meets(each: ArenaSeen | HeapSeen, lies: Range) -> bool:
    return Range(int(each["start"], 16), int(each["stop"], 16)).overlaps(lies)


def _page(mapping: MappingSeen, where: Range, page: int) -> str | None:
    if mapping["pages"] is None:
        return None
    wanted = (where.start - int(mapping["start"], 16)) // page
    for first, count, state in mapping["pages"]:
        if first <= wanted < first + count:
            return state
    return "not in memory"


def _owner(mapping: MappingSeen, reservation: ReservationSeen | None) -> str:
    name, kind = mapping["name"], mapping["kind"]
    if reservation is not None or kind == "ours":
        called = (reservation["name"] if reservation else name) or "one without a name"
        part = {"guard": "the guard of ", "reserved": "", "committed": ""}[mapping["state"]]
        return f"{part}a reservation of stead: {called}"
    if kind == "heap":
        return "the heap of the C library (brk)"
    if kind == "stack":
        return "the stack of the main thread"
    if kind == "vdso":
        return f"the kernel: {name}"
    if kind == "file":
        what = "code" if "x" in mapping["access"] else "a file, mapped"
        return f"{what}: {name}{' (deleted)' if mapping['deleted'] else ''}"
    if kind == "shared memory":
        return f"shared memory: {name or 'without a name'}"
    if mapping["state"] == "reserved":
        return "held without access, by whom the kernel does not say: a guard, malloc, a library that reserves"
    return "anonymous memory, of whom the kernel does not say: malloc, a thread's stack, a library"


def parse_where(text: str) -> Range:
    """An address "0x7f…", a range "0x1000-0x2000" or "0x1000+64KiB". Raises ValueError that names it `where`.

    A number must begin with 0x: one that does not may be meant as either."""
    from stead.sizes import parse_size

    start, plus, size = text.partition("+")
    if plus:
        first = _address(start, text)
        length = parse_size(size, "where")
        if length <= 0:
            raise ValueError(f"where is {text!r}: a range has at least 1 byte")
        return Range.sized(first, length)
    start, minus, stop = text.replace("–", "-").partition("-")
    first = _address(start, text)
    if not minus:
        return Range.sized(first, 1)
    last = _address(stop, text)
    if last <= first:
        raise ValueError(f"where is {text!r}: a range stops after its start")
    return Range(first, last)


def _address(text: str, whole: str) -> int:
    try:
        if text.strip().lower().startswith("0x") and 0 <= (found := int(text, 16)) < 1 << 64:
            return found
    except ValueError:
        pass
    raise ValueError(f"where is {whole!r}, must be like 0x7f0000001000, 0x1000-0x2000 or 0x1000+64KiB")


def to_json(why: Why) -> dict[str, object]:
    """Plain data; addresses as in the artefact."""
    return {
        "where": _range(why.where),
        "free": why.free,
        "processes": list(_answers(why)),
        "below": _range(why.below),
        "above": _range(why.above),
    }


def _answers(why: Why) -> Iterator[dict[str, object]]:
    for answer in why.answers:
        yield {
            "pid": answer.process["pid"],
            "title": answer.process["title"],
            "free": answer.free,
            "there": [
                {
                    "mapping": each.mapping, "owner": each.owner, "since": each.since, "page": each.page,
                    "reservation": each.reservation, "arenas": each.arenas, "heaps": each.heaps,
                }
                for each in answer.there
            ],
            "kept_clear": [{**(_range(room) or {}), "why": why} for room, why in answer.kept_clear],
        }  # fmt: skip


def _range(where: Range | None) -> dict[str, str] | None:
    return None if where is None else {"start": f"{where.start:#x}", "stop": f"{where.stop:#x}"}
