"""What all views share: a console for plain text, 80 columns, readable without colour and in plain ASCII."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import IO


def make_console(file: IO[str] | None = None, *, stderr: bool = False) -> Console:
    """For plain text: nothing in a path or a name is taken for markup."""
    return Console(file=file, stderr=stderr, markup=False, highlight=False, emoji=False)


def plain(console: Console, text: str) -> str:
    """``text`` without what would move the cursor, and with what the output's encoding can carry."""
    return clean(text, ascii_only=console.options.ascii_only)


def clean(text: str, *, ascii_only: bool = False) -> str:
    shown = (
        text if text.isprintable() else "".join(each if each.isprintable() else _escaped(each) for each in text)
    )
    if ascii_only:
        shown = shown.translate(_ASCII).encode("ascii", "backslashreplace").decode()
    return shown


_ASCII = str.maketrans({"–": "-", "·": "-", "…": "...", "→": "->", "⊂": "<", "─": "-"})


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


def plural(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def shorten(text: str, room: int, ascii_only: bool = False) -> str:
    """``text`` in at most ``room`` columns; of a path the end says most."""
    if cell_len(text) <= room:
        return text
    mark = "..." if ascii_only else "…"
    end = text[-room:]
    while cell_len(end) > room - len(mark):
        end = end[1:]
    return mark + end


_EIGHTHS = " ▏▎▍▌▋▊▉"


def bar(share: float, width: int, *, ascii_only: bool, least: int = 0) -> str:
    """A bar of at most ``width`` columns; each eighth of one counts, and there are at least so many."""
    eighths = max(round(min(max(share, 0), 1) * width * 8), least)
    cells, rest = divmod(eighths, 8)
    if ascii_only:
        return "#" * max(round(eighths / 8), 1 if eighths else 0)
    return "█" * cells + (_EIGHTHS[rest] if rest else "")


def print_facts(console: Console, facts: Iterable[tuple[str, str]]) -> None:
    """Names and what is to be said of them, in two columns."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in facts:
        table.add_row(name, plain(console, text))
    console.print(table)


def make_table(*headers: str, right: Iterable[str] = ()) -> Table:
    """A table without lines; the columns ``right`` are numbers."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    numbers = set(right)
    for header in headers:
        table.add_column(header, justify="right" if header in numbers else "left")
    return table
