"""What changed between snapshots: `stead diff`, `stead replay`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from stead.seeing.sums import sums
from stead.sizes import format_size
from stead.view.text import make_table, plain, plural, shorten

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from stead.seeing.differences import Change, Difference, Differences
    from stead.seeing.shape import Artefact, ProcessSeen

_MOST = 30
_MARK = {"new": ("+", "green"), "gone": ("-", "red"), "changed": ("~", "yellow")}


def print_differences(console: Console, found: Differences) -> None:
    console.print(f"{found.seconds:+.1f} s", style="dim")
    for each in found.gone:
        console.print(plain(console, f"- {_named(each)}: not in the second"), style="red")
    for each in found.new:
        console.print(plain(console, f"+ {_named(each)}: not in the first"), style="green")
    for difference in found.both:
        _print_difference(console, difference)


def _named(process: ProcessSeen) -> str:
    rank = f"rank {process['rank']}, " if process["rank"] is not None else ""
    return f"{rank}process {process['pid']}" + (f" ({process['title']})" if process["title"] else "")


def _print_difference(console: Console, found: Difference) -> None:
    console.print(plain(console, _named(found.after)), style="bold")
    before, after = found.sums
    for name in ("mapped", "reserved", "committed", "resident", "swapped", "used"):
        was, now = getattr(before, name), getattr(after, name)
        if was != now and None not in (was, now):
            console.print(
                plain(console, f"  {name:<10} {format_size(was)} → {format_size(now)} ({_signed(now - was)})")
            )
    if not found.changes and not found.growths:
        console.print("  nothing changed")
    for change in found.changes[:_MOST]:
        console.print(_line(console, change), no_wrap=True, overflow="crop")
    if len(found.changes) > _MOST:
        console.print(f"  and {len(found.changes) - _MOST:,} more")
    for growth in found.growths[:_MOST]:
        size = _signed(growth.after - growth.before)
        name = shorten(plain(console, growth.name), 30, console.options.ascii_only)
        console.print(
            f"  {size:>10} {growth.what} at {growth.where.start:#014x} {name}", no_wrap=True, overflow="crop"
        )
    if len(found.growths) > _MOST:
        console.print(f"  and {plural(len(found.growths) - _MOST, 'more growth')}")


def _line(console: Console, change: Change) -> Text:
    mark, colour = _MARK[change.verb]
    now = change.after or change.before
    assert now
    what = f"{now.access} {now.state} {now.kind}"
    if change.before and change.after:
        was = change.before
        what = " ".join(
            (new if old == new else f"{old}→{new}")
            for old, new in ((was.access, now.access), (was.state, now.state), (was.kind, now.kind))
        )
        if was.name != now.name:
            what += f", was {was.name or 'without a name'}"
    line = Text(f"{mark} ", colour)
    line.append(f"{change.where.start:#014x} {format_size(change.where.size):>8} ")
    left = console.width - len(line.plain) - 1
    said = plain(console, what)
    line.append(said)
    if left > len(said) + 8:
        line.append(" " + shorten(plain(console, now.name), left - len(said), console.options.ascii_only))
    return line


def _signed(size: int) -> str:
    return ("+" if size >= 0 else "-") + format_size(abs(size))


def print_recording(console: Console, taken: Iterable[Artefact]) -> None:
    """A line for each process of each snapshot."""
    numbers = ("frame", "seconds", "pid", "mappings", "mapped", "committed", "in memory", "used")
    table = make_table(*numbers, right=numbers)
    began: float | None = None
    for number, artefact in enumerate(taken):
        began = artefact["taken_at"] if began is None else began
        for process in artefact["processes"]:
            found = sums(process)
            table.add_row(
                f"{number:,}",
                f"{artefact['taken_at'] - began:.1f}",
                str(process["pid"]),
                f"{found.mappings:,}",
                format_size(found.mapped),
                format_size(found.committed),
                "?" if found.resident is None else format_size(found.resident),
                format_size(found.used) if process["published_at"] is not None else "?",
            )
    console.print(table)
