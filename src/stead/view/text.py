"""Everything that `stead` prints in a terminal: 80 columns, readable without colour and in plain ASCII."""

from __future__ import annotations

from itertools import pairwise
from math import log2
from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style
from rich.table import Table
from rich.text import Text

from stead.maps import Kind
from stead.ranges import Range
from stead.sizes import format_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import IO

    from stead.cli import Finding
    from stead.doctor import Report
    from stead.maps import Mapping
    from stead.snapshot import Snapshot


def make_console(file: IO[str] | None = None, *, stderr: bool = False) -> Console:
    """For plain text: nothing in a path or a name is taken for markup."""
    return Console(file=file, stderr=stderr, markup=False, highlight=False, emoji=False)


def plain(console: Console, text: str) -> str:
    """``text`` without what would move the cursor, and with what the output's encoding can carry."""
    shown = (
        text if text.isprintable() else "".join(each if each.isprintable() else _escaped(each) for each in text)
    )
    if console.options.ascii_only:
        shown = shown.translate(_ASCII).encode("ascii", "backslashreplace").decode()
    return shown


_ASCII = str.maketrans({"–": "-", "·": "-", "…": "..."})


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


def plural(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


# ---- an address space -----------------------------------------------------------------------------

# Screens that fit are read; longer ones are for --all and a pager.
_LINES = 40
_BIG_GAP = 1 << 30

_KIND_WORD = {Kind.SHARED_MEMORY: "shared"}
_KIND_STYLE = {
    Kind.HEAP: Style(color="yellow"),
    Kind.STACK: Style(color="magenta"),
    Kind.VDSO: Style(dim=True),
    Kind.FILE: Style(color="blue"),
    Kind.SHARED_MEMORY: Style(color="cyan"),
    Kind.ANONYMOUS: Style(),
    Kind.OURS: Style(color="green", bold=True),
}
_DIM = Style(dim=True)
_BOLD = Style(bold=True)


class Row(NamedTuple):
    """A line of the table: one mapping, one gap, or the small ones between two others."""

    range: Range
    size: int  # what is mapped in it; of a gap, all
    kind: str
    permissions: str
    name: str
    style: Style
    glyph: str
    importance: int  # 0: folded first; 1: our own and gaps, folded when there are too many; 2: never


def print_snapshot(console: Console, taken: Snapshot, usable: Range, *, everything: bool = False) -> None:
    """The whole address space, low addresses on top. ``usable``: where gaps are worth showing."""
    title = f"{taken.title or 'a process'} · pid {taken.pid} · {plural(len(taken.mappings), 'mapping')}"
    console.print(plain(console, title), style=_BOLD)
    if not taken.mappings:
        console.print("no address space: a kernel thread, or a process that has ended")
        return
    reserved = sum(each.range.size for each in taken.mappings if each.reserved)
    total = sum(each.range.size for each in taken.mappings)
    usable_size = format_size(total - reserved)
    console.print(f"mapped {format_size(total)} = reserved {format_size(reserved)} + usable {usable_size}\n")
    rows = list(_rows(taken.mappings, usable))
    _print_rows(console, rows if everything else fold(rows, _LINES - 4))


def print_mappings(console: Console, mappings: Sequence[Mapping]) -> None:
    """Some mappings, in the order given."""
    _print_rows(console, [_row(each) for each in mappings])


def _rows(mappings: Iterable[Mapping], usable: Range) -> Iterator[Row]:
    """Mappings, and between them the gaps that are worth a line."""
    at = usable.start
    for each in mappings:
        gap = Range(at, min(each.range.start, usable.stop))
        if gap.stop - gap.start >= _BIG_GAP:
            yield _gap(gap)
        yield _row(each)
        at = max(at, each.range.stop)
    if usable.stop - at >= _BIG_GAP:
        yield _gap(Range(at, usable.stop))


def _gap(where: Range) -> Row:
    return Row(where, where.size, "free", "", "", _DIM, "╌", 1)


def _row(each: Mapping) -> Row:
    kind = _KIND_WORD.get(each.kind, each.kind.value)
    glyph, style = "█", _KIND_STYLE[each.kind]
    if each.reserved:
        glyph = "░"
        if each.kind is Kind.ANONYMOUS:
            kind, style = "reserved", _DIM
    importance = {Kind.HEAP: 2, Kind.STACK: 2, Kind.OURS: 1}.get(each.kind, 0)
    name = each.name + (" (deleted)" if each.deleted and each.kind is Kind.FILE else "")
    return Row(each.range, each.range.size, kind, each.permissions, name, style, glyph, importance)


def fold(rows: Sequence[Row], lines: int) -> list[Row]:
    """At most ``lines`` rows, as far as those that are never folded let it: the most important and the
    largest as they are, neighbours among the rest together in one."""
    if len(rows) <= lines:
        return list(rows)
    order = sorted(range(len(rows)), key=lambda at: (-rows[at].importance, -rows[at].size))
    never = sum(row.importance == 2 for row in rows)
    # Each row that is kept takes a line, so that more than `lines` need not be tried, however many there are.
    for number in range(lines, never, -1):
        kept = sorted(order[:number])
        if number + _runs(kept, len(rows)) <= lines:
            break
    else:
        kept = sorted(order[:never])
    return list(_folded(rows, kept))


def _runs(kept: Sequence[int], total: int) -> int:
    """How many runs of folded rows lie before, between and after those that are kept."""
    edges = [-1, *kept, total]
    return sum(after - before > 1 for before, after in pairwise(edges))


def _folded(rows: Sequence[Row], kept: Sequence[int]) -> Iterator[Row]:
    at = 0
    for each in (*kept, len(rows)):
        if each - at == 1:
            yield rows[at]
        elif each > at:
            yield _together(rows[at:each])
        if each < len(rows):
            yield rows[each]
        at = each + 1


def _together(rows: Sequence[Row]) -> Row:
    mapped = [row for row in rows if row.kind != "free"]
    ours = sum(row.kind == Kind.OURS for row in mapped)
    if not mapped:
        name = plural(len(rows), "gap")
    else:
        name = plural(len(mapped), "small mapping")
        if ours:
            name += ", all ours" if ours == len(mapped) else f", {ours:,} ours"
        if len(rows) > len(mapped):
            name += f", {plural(len(rows) - len(mapped), 'gap')}"
    size = sum(row.size for row in mapped)
    where = Range(rows[0].range.start, rows[-1].range.stop)
    return Row(where, size, "folded", "", name, _DIM, "▒", 0)


# Columns before the name: the widest kind is "anonymous", the widest size "1023 KiB".
_KIND_WIDTH, _SIZE_WIDTH, _BAR_WIDTH = 11, 8, 12


def _print_rows(console: Console, rows: Sequence[Row]) -> None:
    """Not a rich.Table: that measures every cell of every row, and 60,000 mappings would take a minute."""
    ascii_only = console.options.ascii_only
    starts = max([14, *(len(f"{row.range.start:#014x}") for row in rows)])
    before = starts + 1 + _KIND_WIDTH + 1 + 4 + 1 + _SIZE_WIDTH + 1 + _BAR_WIDTH + 1
    room = max(console.width - before, 8)
    scale = "4K..log.128T" if ascii_only else "4K…log…128T"
    header = f"{'start':<{starts}} {'kind':<{_KIND_WIDTH}} perm {'size':>{_SIZE_WIDTH}} {scale:<{_BAR_WIDTH}} name"
    segments = [Segment(header, _DIM), Segment.line()]
    for row in rows:
        glyph = _ASCII_GLYPH[row.glyph] if ascii_only else row.glyph
        left = f"{row.range.start:#014x}".ljust(starts)
        bar = _bar(row, ascii_only)
        segments += (
            Segment(f"{left} "),
            Segment(f"{glyph} {row.kind}".ljust(_KIND_WIDTH), row.style),
            Segment(f" {row.permissions:<4} {format_size(row.size):>{_SIZE_WIDTH}} "),
            Segment(f"{bar:<{_BAR_WIDTH}} " if row.name else bar, row.style),
            Segment(shorten(plain(console, row.name), room, ascii_only) + "\n"),
        )
    console.print(Segments(segments), crop=False, end="")


_EIGHTHS = " ▏▎▍▌▋▊▉"
_ASCII_GLYPH = {"█": "#", "░": ":", "╌": "-", "▒": "~"}


def _bar(row: Row, ascii_only: bool) -> str:
    """4 KiB is a sliver, 128 TiB the full width; each eighth of a cell counts."""
    share = min(max((log2(max(row.size, 1)) - 12) / (47 - 12), 0), 1)
    eighths = max(round(share * _BAR_WIDTH * 8), 1)
    cells, rest = divmod(eighths, 8)
    if ascii_only:
        return _ASCII_GLYPH[row.glyph] * max(round(eighths / 8), 1)
    if row.glyph != "█":
        return row.glyph * max(round(eighths / 8), 1)
    return "█" * cells + (_EIGHTHS[rest] if rest else "")


def shorten(text: str, room: int, ascii_only: bool = False) -> str:
    """``text`` in at most ``room`` columns; of a path the end says most."""
    if cell_len(text) <= room:
        return text
    mark = "..." if ascii_only else "…"
    end = text[-room:]
    while cell_len(end) > room - len(mark):
        end = end[1:]
    return mark + end


# ---- where it would go ----------------------------------------------------------------------------

_OBSTACLES = 10


def print_finding(console: Console, found: Finding) -> None:
    placement, taken = found.placement, found.taken
    process = f"process {taken.pid}" + (f" ({taken.title})" if taken.title else "")
    size = format_size(placement.size)
    answer = f"{size} would go to {found.where}" if found.where else f"{size} does not fit"
    console.print(plain(console, answer), style=_BOLD)
    wanted = f"aligned to {format_size(placement.alignment)}, {placement.prefer}"
    if placement.guard:
        wanted += f", with a guard of {format_size(placement.guard)} on both sides"
    facts = [("in", process), ("wanted", wanted), ("window", str(placement.within))]
    if found.where:
        drawn = ", this one drawn by seed 0" if placement.prefer == "scattered" else ""
        facts.append(("places", f"{found.places:,}{drawn}"))
    else:
        facts.append(("largest gap", str(found.largest) if found.largest else "none"))
    facts += [("kept clear", f"{room}: {why}") for room, why in found.rooms]
    number = len(found.obstacles)
    which = f"{plural(number, 'mapping')}{', the largest' if number > _OBSTACLES else ''}:"
    facts.append(("in the way", which if number else "nothing"))
    print_facts(console, facts)
    if found.obstacles:
        print_mappings(console, found.obstacles[:_OBSTACLES])
    if number > _OBSTACLES:
        console.print(f"and {number - _OBSTACLES:,} more")


def print_facts(console: Console, facts: Iterable[tuple[str, str]]) -> None:
    """Names and what is to be said of them, in two columns."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in facts:
        table.add_row(name, plain(console, text))
    console.print(table)


# ---- the machine ----------------------------------------------------------------------------------


def print_report(console: Console, report: Report) -> None:
    machine = (
        f"{report.kernel} {report.machine} · Python {report.python} · pages of {format_size(report.page_size)}"
    )
    console.print(plain(console, machine), style=_BOLD)
    console.print("\nlimits", style=_BOLD)
    print_facts(console, [(each.name, each.text) for each in report.limits])
    there = sum(each.present for each in report.features)
    console.print(f"\nfeatures, found by trying: {there} of {len(report.features)}", style=_BOLD)
    features = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for header in ("", "feature", "found", "without it"):
        features.add_column(header)
    for each in report.features:
        mark = Text("yes", "green") if each.present else Text("no", "bold red")
        features.add_row(mark, each.name, each.found, Text(each.absence, "dim" if each.present else ""))
    console.print(features)
