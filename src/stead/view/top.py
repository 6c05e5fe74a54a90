"""The processes that use stead, live: `stead top`, by textual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import DataTable, Footer, Input, Static

from stead.seeing.sums import Sums, sums
from stead.sizes import format_size
from stead.view.text import bar, clean, plural

if TYPE_CHECKING:
    from collections.abc import Callable

    from stead.seeing.shape import Artefact, Fill, ProcessSeen

_COLUMNS = ("pid", "held", "committed", "in memory", "growth/s", "used", "holders", "messages", "command")


@dataclass(frozen=True, slots=True)
class Line:
    """One process: what it is now, and bytes a second by which what it has in memory grew since the last look."""

    process: ProcessSeen
    sums: Sums
    growth: float | None

    @property
    def command(self) -> str:
        return clean(" ".join(self.process["command"]) or self.process["title"])

    def keys(self) -> tuple[float | str, ...]:
        """What to sort by, for each column; largest first but for the command."""
        found = self.sums
        held = found.ours_reserved + found.ours_committed
        return (
            self.process["pid"], held, found.ours_committed, found.ours_resident or 0, self.growth or 0.0,
            found.used, found.holders, found.messages, self.command,
        )  # fmt: skip

    def cells(self) -> tuple[str, ...]:
        found = self.sums
        said = self.process["published_at"] is not None
        growth = "" if self.growth is None else "0" if not self.growth else _signed(self.growth)
        return (
            str(self.process["pid"]),
            format_size(found.ours_reserved + found.ours_committed),
            format_size(found.ours_committed),
            "?" if found.ours_resident is None else format_size(found.ours_resident),
            growth,
            format_size(found.used) if said else "?",
            f"{found.holders:,}" if said else "?",
            f"{found.messages:,}" if said else "?",
            self.command,
        )

    def matches(self, wanted: str) -> bool:
        """By pid, command, or the name of a reservation, an arena, a heap."""
        names = [each["name"] or "" for key in ("reservations", "arenas", "heaps") for each in self.process[key]]
        return any(wanted in text.lower() for text in (str(self.process["pid"]), self.command, *names))


def _signed(size: float) -> str:
    return ("+" if size >= 0 else "-") + format_size(abs(round(size)))


class Top(App[None]):
    """``look`` gives the artefact to show, every ``every`` seconds; None: only when asked to."""

    TITLE = "stead top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #state { height: 1; color: $text-muted; }
    DataTable { height: 2fr; }
    #details { height: 1fr; border-top: solid $panel; }
    #wanted { display: none; border: none; height: 1; }
    #wanted.shown { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "quit"),
        Binding("s", "sort(1)", "sort by the next"),
        Binding("S", "sort(-1)", "by the one before", show=False),
        Binding("r", "reverse", "reverse"),
        Binding("slash", "filter", "filter", key_display="/"),
        Binding("escape", "clear", "all", show=False),
        Binding("p", "pause", "pause"),
        Binding("u", "update", "update"),
    ]

    def __init__(self, look: Callable[[], Artefact], every: float | None) -> None:
        super().__init__()
        self._look, self._every = look, every
        self._lines: dict[int, Line] = {}
        self._taken_at = 0.0
        self._sorted_by, self._reversed, self._wanted, self._paused = 3, False, "", False

    def compose(self) -> ComposeResult:
        yield Static(id="state")
        yield DataTable(cursor_type="row", zebra_stripes=True)
        yield VerticalScroll(Static(id="facts"), id="details", can_focus=False)
        yield Input(placeholder="pid, command, or a name", id="wanted")
        yield Footer()

    def on_mount(self) -> None:
        self._table.focus()
        self.action_update()
        if self._every is not None:
            self.set_interval(self._every, self._tick)

    @property
    def _table(self) -> DataTable[Text]:
        return self.query_one(DataTable)

    # ---- looking ----

    def _tick(self) -> None:
        if not self._paused:
            self.action_update()

    def action_update(self) -> None:
        # In a thread, and only one at a time: a look takes as long as there are processes, and keys must not wait.
        self.run_worker(self._update, thread=True, group="look", exclusive=True)

    def _update(self) -> None:
        taken = self._look()
        self.call_from_thread(self.show, taken)

    def show(self, taken: Artefact) -> None:
        """The processes of an artefact, and what grew since the last one."""
        seconds = taken["taken_at"] - self._taken_at
        lines = {}
        for process in taken["processes"]:
            found = sums(process)
            before = self._lines.get(process["pid"])
            growth = None
            if before and before.process["started_at"] == process["started_at"] and seconds > 0:
                was, now = before.sums.ours_resident, found.ours_resident
                growth = None if was is None or now is None else (now - was) / seconds
            lines[process["pid"]] = Line(process, found, growth)
        self._lines, self._taken_at = lines, taken["taken_at"]
        self._draw()

    # ---- keys ----

    def action_sort(self, step: int) -> None:
        self._sorted_by = (self._sorted_by + step) % len(_COLUMNS)
        self._draw()

    def action_reverse(self) -> None:
        self._reversed = not self._reversed
        self._draw()

    def action_pause(self) -> None:
        self._paused = not self._paused
        self._draw()

    def action_filter(self) -> None:
        wanted = self.query_one("#wanted", Input)
        wanted.add_class("shown")
        wanted.focus()

    def action_clear(self) -> None:
        wanted = self.query_one("#wanted", Input)
        wanted.value = ""
        wanted.remove_class("shown")
        self._table.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._wanted = event.value.strip().lower()
        self._draw()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self._table.focus()

    # ---- drawing ----

    def lines(self) -> list[Line]:
        """Those that are shown, in order."""
        at = self._sorted_by
        shown = [each for each in self._lines.values() if not self._wanted or each.matches(self._wanted)]
        falling = at not in (0, len(_COLUMNS) - 1)
        return sorted(shown, key=lambda each: each.keys()[at], reverse=falling is not self._reversed)

    def _draw(self) -> None:
        table, shown = self._table, self.lines()
        chosen = self._chosen()
        table.clear(columns=True)
        for number, name in enumerate(_COLUMNS):
            arrow = "" if number != self._sorted_by else " ▲" if self._rising else " ▼"
            right = number < len(_COLUMNS) - 1
            table.add_column(Text(name + arrow, justify="right" if right else "left"), key=name)
        for each in shown:
            *numbers, command = each.cells()
            table.add_row(
                *(Text(cell, justify="right") for cell in numbers), Text(command), key=str(each.process["pid"])
            )
        pids = [each.process["pid"] for each in shown]
        if chosen in pids:
            table.move_cursor(row=pids.index(chosen))
        state = f"{len(shown)} of {len(self._lines)} processes that use stead"
        state += " · paused" * self._paused + (f" · with {self._wanted!r}" if self._wanted else "")
        self.query_one("#state", Static).update(Text(clean(state)))
        self._draw_details()

    @property
    def _rising(self) -> bool:
        return (self._sorted_by in (0, len(_COLUMNS) - 1)) is not self._reversed

    def _chosen(self) -> int | None:
        if not self._table.row_count:
            return None
        key = self._table.coordinate_to_cell_key(self._table.cursor_coordinate).row_key.value
        return int(key) if key else None

    def on_data_table_row_highlighted(self) -> None:
        self._draw_details()

    def _draw_details(self) -> None:
        chosen = self._chosen()
        line = self._lines.get(chosen) if chosen is not None else None
        self.query_one("#facts", Static).update(details(line.process) if line else "")


def details(process: ProcessSeen) -> Text:
    """What one process holds."""
    text = Text()
    title = clean(" ".join(process["command"]) or process["title"])
    text.append(f"{process['pid']} {title}\n", "bold")
    if process["published_at"] is None:
        text.append("does not publish what it holds (STEAD_PUBLISH=1)\n", "dim")
    for arena in process["arenas"]:
        quota = f", quota {format_size(arena['quota'])}" if arena["quota"] else ""
        _add(text, "arena", arena["name"], arena["fill"], quota)
    for heap in process["heaps"]:
        pids = ", ".join(str(each["pid"]) for each in heap["holders"] if each["alive"])
        _add(text, "heap", heap["name"], heap["fill"], f", held by {pids or 'nobody'}")
        for channel in heap["channels"]:
            text.append(f"  channel {channel['number']}: {channel['messages']}/{channel['capacity']} messages")
            text.append(", closed\n" if channel["closed"] else "\n")
    for each in process["reservations"]:
        size = int(each["stop"], 16) - int(each["start"], 16)
        parts = sum(int(part["stop"], 16) - int(part["start"], 16) for part in each["parts"])
        text.append(f"reservation {clean(each['name'] or 'without a name')}: {each['start']}, {format_size(size)}")
        text.append(f", {format_size(parts)} committed\n")
    return text


def _add(text: Text, what: str, name: str | None, fill: Fill | None, more: str) -> None:
    text.append(f"{what} {clean(name or 'without a name')}: ")
    if fill:
        room = fill["committed"] or 1
        text.append("▕" + f"{bar(fill['used'] / room, 16, ascii_only=False):<16}" + "▏ ", "green")
        text.append(
            f"{format_size(fill['used'])} of {format_size(fill['committed'])}, {plural(fill['blocks'], 'block')}"
        )
    text.append(more + "\n")
