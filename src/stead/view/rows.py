"""Mappings and gaps as lines of a table, few enough for a screen."""

from __future__ import annotations

import re
from itertools import pairwise
from math import log2
from typing import TYPE_CHECKING, NamedTuple

from rich.segment import Segment, Segments
from rich.style import Style

from stead.ranges import Range
from stead.sizes import format_size
from stead.view.text import bar, clean, plural, shorten

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import Console

    from stead.seeing.shape import MappingSeen

BIG_GAP = 1 << 30

# Memory of ours carries its name into the maps in one of these forms, of which the name says enough.
_OUR_NAME = re.compile(r"^(/memfd:stead:|\[anon(_shmem)?:stead:)|\]$")

DIM = Style(dim=True)
KIND_STYLE = {
    "heap": Style(color="yellow"),
    "stack": Style(color="magenta"),
    "kernel": Style(dim=True),
    "file": Style(color="blue"),
    "code": Style(color="bright_blue"),
    "shared": Style(color="cyan"),
    "anonymous": Style(),
    "ours": Style(color="green", bold=True),
    "guard": Style(color="red"),
    "reserved": DIM,
    "free": DIM,
    "folded": DIM,
}
GLYPH = {"committed": "█", "reserved": "░", "guard": "╳", "free": "╌", "folded": "▒"}
ASCII_GLYPH = {"█": "#", "░": ":", "╳": "x", "╌": "-", "▒": "~", "·": "."}


class Row(NamedTuple):
    """A line of the table: one mapping, one gap, or the small ones between two others."""

    range: Range
    size: int  # what is mapped in it; of a gap, all
    kind: str
    access: str
    name: str
    glyph: str
    resident: int | None  # bytes; None where it is not known, or cannot be
    importance: int  # 0: folded first; 1: our own and gaps, folded when there are too many; 2: never

    @property
    def style(self) -> Style:
        return KIND_STYLE[self.kind]


def rows_of(mappings: Iterable[MappingSeen], usable: Range) -> Iterator[Row]:
    """Mappings, and between them the gaps that are worth a line."""
    at = usable.start
    for each in mappings:
        row = row_of(each)
        gap = Range(at, min(row.range.start, usable.stop))
        if gap.stop - gap.start >= BIG_GAP:
            yield gap_row(gap)
        yield row
        at = max(at, row.range.stop)
    if usable.stop - at >= BIG_GAP:
        yield gap_row(Range(at, usable.stop))


def gap_row(where: Range) -> Row:
    return Row(where, where.size, "free", "", "", GLYPH["free"], None, 1)


def range_of(each: MappingSeen) -> Range:
    return Range(int(each["start"], 16), int(each["stop"], 16))


def kind_of(each: MappingSeen) -> str:
    """In a word of at most nine letters."""
    if each["state"] == "guard":
        return "guard"
    if each["kind"] == "anonymous" and each["state"] == "reserved":
        return "reserved"
    if each["kind"] == "file" and "x" in each["access"]:
        return "code"
    return {"shared memory": "shared", "vdso": "kernel"}.get(each["kind"], each["kind"])


def row_of(each: MappingSeen) -> Row:
    where = range_of(each)
    importance = {"heap": 2, "stack": 2, "ours": 1}.get(each["kind"], 0)
    name = each["name"] + (" (deleted)" if each["deleted"] and each["kind"] == "file" else "")
    if each["kind"] == "ours":
        name = _OUR_NAME.sub("", name)
    resident = each["resident"] if each["state"] == "committed" else None
    return Row(where, where.size, kind_of(each), each["access"], name, GLYPH[each["state"]], resident, importance)


# ---- few enough -----------------------------------------------------------------------------------


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
    ours = sum(row.importance == 1 for row in mapped)
    if not mapped:
        name = plural(len(rows), "gap")
    else:
        name = f"{len(mapped):,} small"
        if ours:
            name += ", all ours" if ours == len(mapped) else f", {ours:,} ours"
    size = sum(row.size for row in mapped)
    resident = sum(row.resident or 0 for row in mapped)
    known = any(row.resident is not None for row in mapped)
    where = Range(rows[0].range.start, rows[-1].range.stop)
    return Row(where, size, "folded", "", name, GLYPH["folded"], resident if known else None, 0)


# ---- as text --------------------------------------------------------------------------------------

# Columns before the name: the widest kind is "anonymous", the widest size "1023 KiB".
_KIND_WIDTH, _SIZE_WIDTH, _BAR_WIDTH, _RESIDENT_WIDTH = 11, 8, 12, 9
# From here on there is room for what may be done with a mapping.
_WIDE = 96


def print_rows(console: Console, rows: Sequence[Row]) -> None:
    """Not a rich.Table: that measures every cell of every row, and 60,000 mappings would take a minute."""
    ascii_only = console.options.ascii_only
    wide = console.width >= _WIDE
    pages = any(row.resident is not None for row in rows)
    starts = max([14, *(len(f"{row.range.start:#014x}") for row in rows)])
    scale = "4K..log.128T" if ascii_only else "4K…log…128T"
    header = f"{'start':<{starts}} {'kind':<{_KIND_WIDTH}} " + "perm " * wide + f"{'size':>{_SIZE_WIDTH}} "
    header += f"{scale:<{_BAR_WIDTH}} " + f"{'resident':<{_RESIDENT_WIDTH}} " * pages
    room = max(console.width - len(header), 8)
    segments = [Segment(header + "name", DIM), Segment.line()]
    for row in rows:
        glyph = ASCII_GLYPH[row.glyph] if ascii_only else row.glyph
        left = f"{row.range.start:#014x}".ljust(starts)
        shown = f"{_log_bar(row, ascii_only):<{_BAR_WIDTH}} "
        name = shorten(clean(row.name, ascii_only=ascii_only), room, ascii_only)
        after = f"{_share(row, ascii_only):<{_RESIDENT_WIDTH}} " * pages + name
        segments += (
            Segment(f"{left} "),
            Segment(f"{glyph} {row.kind}".ljust(_KIND_WIDTH), row.style),
            Segment(f" {row.access:<4}" * wide + f" {format_size(row.size):>{_SIZE_WIDTH}} "),
            Segment(shown if after.strip() else shown.rstrip(), row.style),
            Segment(after.rstrip() + "\n"),
        )
    console.print(Segments(segments), crop=False, end="")


def _log_bar(row: Row, ascii_only: bool) -> str:
    """4 KiB is a sliver, 128 TiB the full width."""
    share = (log2(max(row.size, 1)) - 12) / (47 - 12)
    drawn = bar(share, _BAR_WIDTH, ascii_only=ascii_only, least=1)
    if row.glyph == GLYPH["committed"]:
        return drawn
    glyph = ASCII_GLYPH[row.glyph] if ascii_only else row.glyph
    return glyph * max(round(min(max(share, 0), 1) * _BAR_WIDTH), 1)


def _share(row: Row, ascii_only: bool) -> str:
    """How much of it is in memory: four columns of a bar, and a number."""
    if row.resident is None or not row.size:
        return ""
    share = row.resident / row.size
    # Neither all nor nothing is said of what is not.
    number = 100 if share >= 1 else 0 if not row.resident else min(max(round(share * 100), 1), 99)
    drawn = bar(share, 4, ascii_only=ascii_only, least=1 if row.resident else 0)
    return f"{drawn:<4}{number:>4}%"
