"""What `stead demo` prints: a progress bar while it works, then what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from stead.sizes import format_size
from stead.view.text import plain, plural, print_facts, shorten

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from rich.console import Console

    from stead.demo import Result
    from stead.demo.index import Answer
    from stead.demo.workers import Meeting

# Disagreements that are written out; the rest are counted.
_SHOWN = 5
_EXAMPLES, _LOOKED_AT = 3, 200


class Bars:
    """A bar for each step, told by calls of ``bars(doing, done, total)``."""

    def __init__(self, console: Console, shown: bool) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not shown,
            transient=True,
        )
        self._doing = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, doing: str, done: int, total: int) -> None:
        if doing != self._doing:
            for task in self._progress.tasks:
                self._progress.update(task.id, completed=task.total)
            self._progress.add_task(f"{doing:<21}", total=total)
            self._doing = doing
        self._progress.update(self._progress.task_ids[-1], completed=done, total=total)


def print_result(console: Console, result: Result) -> None:
    meeting = result.by_pointers
    skipped = f", {result.skipped:,} skipped" if result.skipped else ""
    print_facts(
        console,
        [
            (
                "text",
                f"{plural(result.files, 'file')}{skipped}, {format_size(result.text_size)}, of {result.folder}",
            ),
            (
                "index",
                f"{plural(result.words, 'word')}, {plural(result.postings, 'posting')}: raw 64-bit pointers in "
                f"{format_size(result.index_size)}",
            ),
            ("asked", f"{plural(len(result.queries), 'word')}, most of them random (--seed {result.seed})"),
        ],
    )
    console.print()
    console.print(_addresses(console, result))
    console.print()
    for number in _worth_showing(result):
        console.print(plain(console, _example(result.queries[number], meeting.answers[-1][number], console.width)))
    console.print()
    console.print(_times(console, result))
    console.print()
    _print_verdict(console, result)


def _addresses(console: Console, result: Result) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("process")
    table.add_column("pid", justify="right")
    table.add_column("address of the index")
    table.add_column("answers", justify="right")
    table.add_row("builder", str(result.builder), f"{result.where.start:#014x}", "")
    meeting = result.by_pointers
    for number, (pid, address, answers) in enumerate(
        zip(meeting.pids, meeting.addresses, meeting.answers, strict=True), start=1
    ):
        where = "none" if address is None else f"{address:#014x}"
        table.add_row(f"worker {number}", str(pid), where, f"{len(answers):,}")
    return table


def _worth_showing(result: Result) -> list[int]:
    """Of some random words those with the most to say."""
    answers = result.by_pointers.answers[-1][:_LOOKED_AT]
    return sorted(range(len(answers)), key=lambda at: -answers[at].files)[:_EXAMPLES]


def _example(word: bytes, answer: Answer, width: int) -> str:
    """One answer on one line, with as many of its files as there is room for."""
    files = [f"{path} ({count:,})" for path, count in answer.top]
    text = f"{word.decode()}: {plural(answer.total, 'time')} in {plural(answer.files, 'file')}, most in "
    while len(files) > 1 and len(text) + len(", ".join(files)) > width:
        files.pop()
    return text + shorten(", ".join(files), max(width - len(text), 20))


def _times(console: Console, result: Result) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim", pad_edge=False)
    table.add_column(f"{plural(len(result.by_pointers.pids), 'worker')}, by")
    for header in ("sent to each", "all have it after", "last answer after"):
        table.add_column(header, justify="right")
    table.add_row("pointers", *_row(result.by_pointers))
    table.add_row("pickle", *_row(result.by_pickle))
    return table


def _row(meeting: Meeting) -> tuple[str, str, str]:
    return format_size(meeting.sent), _time(meeting.received), _time(meeting.answered)


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _print_verdict(console: Console, result: Result) -> None:
    wrong = result.disagreements
    if wrong:
        console.print(Text(plural(len(wrong), "disagreement"), "bold red"))
        for each in wrong[:_SHOWN]:
            console.print(plain(console, each))
        if len(wrong) > _SHOWN:
            console.print(f"and {len(wrong) - _SHOWN:,} more")
        return
    meeting = result.by_pointers
    answers = sum(map(len, meeting.answers))
    ratio = result.by_pickle.answered / meeting.answered
    console.print(Text(f"addresses: equal in all {len(meeting.pids) + 1} processes", "green"))
    console.print(Text(f"counts: all {answers:,} answers are as counted independently", "green"))
    speed = f"{ratio:.1f} times as fast" if ratio >= 1 else f"{1 / ratio:.1f} times as slow"
    console.print(Text(f"time: {speed} by pointers as by pickle", "green" if ratio >= 1 else ""))
