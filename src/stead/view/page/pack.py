"""An artefact of the schema stead.snapshot/1 → the data that the page carries.

Columns in place of records, distances in place of addresses, pages in place of bytes: 60,000 mappings take 0.8 MB
instead of 20. Page numbers stay below 2^52, which a JavaScript number has exactly. What a terminal or a reader
could take for something else (controls, changes of direction, lone surrogates) is written as an escape.
"""

from __future__ import annotations

from time import gmtime, strftime
from typing import TYPE_CHECKING, NamedTuple

from stead.seeing.schema import NoSnapshot
from stead.seeing.shape import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any


class Kind(NamedTuple):
    """What is drawn alike. ``color``: a name in the style sheet; ``pattern``: of what has no memory."""

    key: str
    label: str
    color: str
    pattern: str = ""
    state: str = ""  # that its label adds to the name of a reservation


KINDS = (
    Kind("heap", "heap", "heap"),
    Kind("stack", "stack", "stack"),
    Kind("anonymous", "anonymous", "anonymous"),
    Kind("shared", "shared memory", "shared"),
    Kind("file", "file", "file"),
    Kind("code", "code", "code"),
    Kind("committed", "stead, committed", "ours", state="committed"),
    Kind("held", "stead, reserved", "ours", "hatch", "reserved"),
    Kind("reserved", "reserved", "reserved", "hatch"),
    Kind("guard", "guard", "guard", "cross", "guard"),
    Kind("kernel", "kernel", "kernel"),
)
_NUMBER = {kind.key: number for number, kind in enumerate(KINDS)}
_BY_KIND = {"shared memory": "shared", "vdso": "kernel"}

# As stead keeps them clear when it chooses (space.live). The artefact does not tell RLIMIT_STACK: this is the
# kernel's default (_STK_LIM), with the gap that it keeps below a stack.
_HEAP_ROOM = 1 << 36
_STACK_ROOM = (8 << 20) + (1 << 20)


def pack(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """Raises NoSnapshot where ``snapshot`` is not what its schema says, as far as that is met on the way: the
    whole check of :func:`stead.seeing.check` takes seconds for 60,000 mappings."""
    schema = snapshot.get("schema")
    if schema != SCHEMA:
        raise NoSnapshot("schema", f"is {schema!r}, must be {SCHEMA!r}")
    try:
        return _Packer(snapshot).data()
    except NoSnapshot:
        raise
    except KeyError as error:
        raise NoSnapshot("", f"lacks {error}, which {SCHEMA} has") from None
    except (TypeError, AttributeError, IndexError, ValueError) as error:
        raise NoSnapshot("", f"is not of the form of {SCHEMA}: {error}") from None


class _Packer:
    def __init__(self, snapshot: Mapping[str, Any]) -> None:
        self.snapshot = snapshot
        self.hosts: Sequence[Mapping[str, Any]] = snapshot["hosts"]
        if not self.hosts:
            raise NoSnapshot("hosts", "is empty, must have one or more")
        self.page = min(host["page_size"] for host in self.hosts)
        self.bits = max(host["address_bits"] for host in self.hosts)
        self.names: dict[str, int] = {}
        self.access: dict[str, int] = {}
        self.totals = [0] * len(KINDS)
        self.resident: int | None = None

    def data(self) -> dict[str, Any]:
        processes = [self._process(each) for each in self.snapshot["processes"]]
        reserved = sum(self.totals[number] for number, kind in enumerate(KINDS) if kind.pattern)
        return {
            "title": self._title(),
            "taken_at": strftime("%Y-%m-%d %H:%M:%S UTC", gmtime(self.snapshot["taken_at"])),
            "page_size": self.page,
            "va_bits": self.bits,
            "lowest": max(self._pages_up(int(host["lowest"], 16)) for host in self.hosts),
            "kinds": [kind._asdict() for kind in KINDS],
            "names": list(self.names),
            "access": list(self.access),
            "processes": processes,
            "totals": {
                "pages": self.totals,
                "reserved": reserved,
                "resident": self.resident,
                "mappings": sum(len(each["len"]) for each in processes),
            },
        }

    def _title(self) -> str:
        processes = self.snapshot["processes"]
        if len(processes) == 1:
            return self._label(processes[0])
        ranks = all(each["rank"] is not None for each in processes) and processes
        return f"{len(processes)} {'MPI ranks' if ranks else 'processes'}"

    def _label(self, process: Mapping[str, Any]) -> str:
        title = printable(process["title"]) or "a process"
        if process["rank"] is not None:
            return f"rank {process['rank']} · {title}"
        return f"{title} · pid {process['pid']}"

    def _process(self, process: Mapping[str, Any]) -> dict[str, Any]:
        mappings = process["mappings"]
        host = self.hosts[process["host"]]
        columns = self._columns(mappings)
        rank = process["rank"]
        name = printable(host["name"]) if len(self.hosts) > 1 else ""
        where = f" on {name}" if name else ""
        return {
            "pid": process["pid"],
            "label": self._label(process),
            "short": f"pid {process['pid']}{where}" if rank is None else f"rank {rank}",
            "host": name,
            "command": printable(" ".join(process["command"])),
            "notes": [printable(each) for each in process["unread"]],
            **columns,
            "reservations": [self._named(each, "outer_") for each in process["reservations"]],
            "arenas": [
                {"what": what, **self._named(each), **self._fill(each)}
                for what, many in (("arena", process["arenas"]), ("heap", process["heaps"]))
                for each in many
                if each["fill"] is not None
            ],
            "rooms": list(self._rooms(mappings, host)),
        }

    def _columns(self, mappings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        gap: list[int] = []
        length: list[int] = []
        kinds: list[int] = []
        names: list[int] = []
        access: list[int] = []
        resident: list[int] = []
        swapped: list[int] = []
        runs: list[int] = []
        at = run_end = 0
        for each in mappings:
            start, pages = self._range(each)
            if start < at:
                raise NoSnapshot(f"the mapping at {each['start']}", "is not behind the one before it")
            kind = _NUMBER[_kind(each)]
            gap.append(start - at)
            length.append(pages)
            kinds.append(kind)
            names.append(self.names.setdefault(_name(each), len(self.names)))
            access.append(self.access.setdefault(each["access"], len(self.access)))
            resident.append(self._known(each["resident"]))
            swapped.append(self._known(each["swapped"]))
            for first, count, state in each["pages"] or ():
                if state == "resident":
                    runs += (start + first - run_end, count)
                    run_end = start + first + count
            self.totals[kind] += pages
            if resident[-1] >= 0:
                self.resident = (self.resident or 0) + resident[-1]
            at = start + pages
        return {
            "gap": gap,
            "len": length,
            "kind": kinds,
            "name": names,
            "access": access,
            "rss": resident if any(each >= 0 for each in resident) else None,
            "swap": swapped if any(each > 0 for each in swapped) else None,
            "runs": runs or None,
        }

    def _known(self, size: int | None) -> int:
        return -1 if size is None else self._pages_up(size)

    def _pages_up(self, size: int) -> int:
        return int(-(-size // self.page))

    def _range(self, what: Mapping[str, Any], which: str = "") -> tuple[int, int]:
        start, stop = int(what[which + "start"], 16), int(what[which + "stop"], 16)
        if start >= stop or start % self.page or stop % self.page:
            raise NoSnapshot(f"the range {start:#x}–{stop:#x}", f"must be whole pages of {self.page} bytes")
        return start // self.page, (stop - start) // self.page

    def _named(self, what: Mapping[str, Any], which: str = "") -> dict[str, Any]:
        start, pages = self._range(what, which)
        return {"name": printable(what["name"] or ""), "start": start, "pages": pages}

    def _fill(self, what: Mapping[str, Any]) -> dict[str, float]:
        """Shares of its range."""
        size = int(what["stop"], 16) - int(what["start"], 16)
        fill = what["fill"]
        return {"used": fill["used"] / size, "high": fill["high_water"] / size}

    def _rooms(self, mappings: Iterable[Mapping[str, Any]], host: Mapping[str, Any]) -> Iterable[list[int]]:
        """What nothing may be put into: where the heap and the stack grow, and what this host's addresses do
        not reach, where another's do."""
        for each in mappings:
            start, pages = self._range(each)
            if each["kind"] == "heap":
                yield [start + pages, _HEAP_ROOM // self.page]
            elif each["name"] == "[stack]":
                room = min(_STACK_ROOM // self.page, start)
                yield [start - room, room]
        reach = (1 << host["address_bits"]) // self.page
        if host["address_bits"] < self.bits:
            yield [reach - 1, (1 << self.bits) // self.page - reach + 1]


def _kind(mapping: Mapping[str, Any]) -> str:
    kind: str = mapping["kind"]
    state = mapping["state"]
    if state == "guard":
        return "guard"
    if kind == "ours":
        return "held" if state == "reserved" else "committed"
    if state == "reserved":
        return "reserved"
    if kind == "file" and "x" in mapping["access"]:
        return "code"
    return _BY_KIND.get(kind, kind)


def _name(mapping: Mapping[str, Any]) -> str:
    name = printable(mapping["name"])
    return f"{name} (deleted)" if mapping["deleted"] and mapping["kind"] == "file" else name


def printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "surrogatepass").decode() for each in text
    )
