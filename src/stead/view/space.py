"""An address space as a picture in the terminal: `stead show`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from stead.ranges import Range
from stead.sizes import format_size
from stead.view.rows import ASCII_GLYPH, DIM, GLYPH, KIND_STYLE, fold, kind_of, print_rows, range_of, rows_of
from stead.view.text import bar, plain, plural, shorten

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console

    from stead.seeing.shape import Artefact, Fill, Host, MappingSeen, ProcessSeen

# Screens that fit are read; longer ones are for --all and a pager.
_LINES = 40
_FILLS = 8
# [vsyscall] is above: of the kernel, the same in every process, and told with --all.
_TOP = 1 << 63


def print_artefact(console: Console, taken: Artefact, *, everything: bool = False) -> None:
    """Every process in turn."""
    for number, process in enumerate(taken["processes"]):
        if number:
            console.print()
        print_process(console, process, taken["hosts"][process["host"]], everything=everything)


def usable(host: Host) -> Range:
    """Where gaps are worth showing."""
    return Range(int(host["lowest"], 16), 1 << host["address_bits"])


def print_process(console: Console, process: ProcessSeen, host: Host, *, everything: bool = False) -> None:
    """The whole address space, low addresses on top."""
    mappings = process["mappings"]
    rank = f"rank {process['rank']} · " if process["rank"] is not None else ""
    title = f"{rank}{process['title'] or 'a process'} · pid {process['pid']} · {plural(len(mappings), 'mapping')}"
    console.print(plain(console, title), style="bold", no_wrap=True)
    console.print(plain(console, totals(mappings)))
    console.print(_strip(console, mappings, usable(host)))
    for each in process["unread"]:
        console.print(plain(console, f"not seen: {each}"), style="red")
    console.print()
    fills = _fills(process)
    rows = list(rows_of(mappings, usable(host)))
    if not everything:
        rows = [row for row in rows if row.range.start < _TOP]
        rows = fold(rows, _LINES - 8 - min(len(fills), _FILLS) - len(process["unread"]))
    print_rows(console, rows)
    console.print()
    console.print(_legend(console))
    _print_fills(console, fills, len(fills) if everything else _FILLS)


def totals(mappings: Iterable[MappingSeen]) -> str:
    """What is mapped, and how much of it is held, usable, in memory."""
    total = held = resident = swapped = 0
    known = True
    for each in mappings:
        size = range_of(each).size
        total += size
        held += size if each["state"] != "committed" else 0
        resident += each["resident"] or 0
        swapped += each["swapped"] or 0
        known = known and (each["resident"] is not None or each["state"] != "committed")
    text = f"mapped {format_size(total)} = reserved {format_size(held)} + committed {format_size(total - held)}"
    if known:
        text += f" · resident {format_size(resident)}"
    return text + (f" · swapped {format_size(swapped)}" if swapped else "")


def _strip(console: Console, mappings: Iterable[MappingSeen], whole: Range) -> Text:
    """All addresses at their true scale, on one line: what lies where is seen, and how little of it is used."""
    top = f" {format_size(whole.stop)}"
    width = max(console.width - len(top) - 2, 8) * 2
    taken: dict[int, str] = {}
    for each in mappings:
        where = range_of(each)
        if where.start >= whole.stop:
            continue
        kind = kind_of(each)
        first, last = (at * width // whole.stop for at in (where.start, min(where.stop, whole.stop) - 1))
        for half in range(first, last + 1):
            if taken.get(half) != "ours":
                taken[half] = kind
    line = Text("0 ", DIM)
    for half in range(0, width, 2):
        left, right = taken.get(half), taken.get(half + 1)
        glyph = "█" if left and right else "▌" if left else "▐" if right else "·"
        if console.options.ascii_only:
            glyph = "#" if left or right else "."
        kind_here = "ours" if "ours" in (left, right) else left or right
        line.append(glyph, KIND_STYLE[kind_here] if kind_here else DIM)
    line.append(top, DIM)
    return line


def _legend(console: Console) -> Text:
    line = Text()
    ascii_only = console.options.ascii_only
    for state in ("committed", "reserved", "guard", "free", "folded"):
        line.append(f"{ASCII_GLYPH[GLYPH[state]] if ascii_only else GLYPH[state]} {state}  ", DIM)
    for kind in ("ours", "heap", "stack", "file", "shared"):
        line.append(f" {kind}", KIND_STYLE[kind])
    return line


# ---- arenas and heaps -----------------------------------------------------------------------------


def _fills(process: ProcessSeen) -> list[tuple[str, str, Range, Fill]]:
    found = [("arena", each["name"], each) for each in process["arenas"]]
    found += [("heap", each["name"], each) for each in process["heaps"]]  # type: ignore[misc]
    return [
        (what, name or each["start"], Range(int(each["start"], 16), int(each["stop"], 16)), each["fill"])
        for what, name, each in found
        if each["fill"] is not None
    ]


def _print_fills(console: Console, fills: Sequence[tuple[str, str, Range, Fill]], most: int) -> None:
    """Used, in solid; and behind it, what was used at the most."""
    ascii_only = console.options.ascii_only
    for what, name, where, fill in fills[:most]:
        room = fill["committed"] or where.size
        width = 16
        used = bar(fill["used"] / room, width, ascii_only=ascii_only, least=1 if fill["used"] else 0)
        peak = min(round(fill["high_water"] / room * width), width)
        drawn = used + "." * (peak - len(used)) if ascii_only else used + "·" * (peak - len(used))
        line = Text(f"{what:<5} ", DIM)
        line.append(f"{shorten(plain(console, name), 18, ascii_only):<18} ")
        edge = ("[", "]") if ascii_only else ("▕", "▏")
        line.append(f"{edge[0]}{drawn:<{width}}{edge[1]}", KIND_STYLE["ours"])
        line.append(f" {format_size(fill['used'])} of {format_size(room)}, {plural(fill['blocks'], 'block')}")
        console.print(line, no_wrap=True, overflow="crop")
    if len(fills) > most:
        console.print(f"and {len(fills) - most:,} more arenas and heaps")
