"""stead top, driven by keys in a terminal that textual simulates."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from conftest import need
from others import other
from running import PROGRAM, stead_runs
from spaces import MIB, PAGE, artefact, lies, process
from stead.seeing.processes import look

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from stead.seeing.shape import Artefact, ProcessSeen


@pytest.fixture(autouse=True, scope="module")
def _needs() -> None:
    need("textual")


def one(pid: int, command: str, resident: int, **more: Any) -> ProcessSeen:
    fill = {
        "committed": MIB,
        "used": 1000 * pid,
        "blocks": 2,
        "high_water": MIB,
        "dirty": 0,
        "largest_free_run": 1,
    }
    named = more.pop("name", f"arena of {pid}")
    more.setdefault("published_at", 1.0)
    return process(
        [lies(0x480000000000, 2 * MIB, "ours", "x", resident=resident, swapped=0)],
        pid=pid, command=[command], pages_by="scan",
        arenas=[{"start": "0x1000", "stop": "0x2000", "name": named, "quota": None, "fill": fill}], **more,
    )  # fmt: skip


def some(seconds: float = 0, grown: int = 0) -> Artefact:
    return artefact(
        one(10, "zebra", PAGE + grown), one(20, "ape", 3 * PAGE), one(30, "cat", 2 * PAGE, published_at=None),
        taken_at=1790000000.0 + seconds,
    )  # fmt: skip


def drive(look: Callable[[], Artefact], steps: Callable[[Any, Any], Coroutine[Any, Any, None]]) -> None:
    from stead.view.top import Top

    async def run() -> None:
        app = Top(look, None)
        async with app.run_test(size=(100, 30)) as pilot:
            await app.workers.wait_for_complete()
            await pilot.pause()
            await steps(app, pilot)

    asyncio.run(run())


def pids(app: Any) -> list[int]:
    from textual.widgets import DataTable

    table = app.query_one(DataTable)
    return [int(str(table.get_row_at(number)[0])) for number in range(table.row_count)]


def cells(app: Any, pid: int) -> list[str]:
    from textual.widgets import DataTable

    return [str(each) for each in app.query_one(DataTable).get_row(str(pid))]


def said(app: Any, which: str) -> str:
    from textual.widgets import Static

    return str(app.query_one(which, Static).render())


def test_keys_sort_and_reverse() -> None:
    async def steps(app: Any, pilot: Any) -> None:
        assert pids(app) == [20, 30, 10]  # what is in memory, the most first
        await pilot.press("r")
        assert pids(app) == [10, 30, 20]
        await pilot.press("r", "s", "s")
        assert pids(app) == [30, 20, 10]  # used
        await pilot.press("s", "s", "s")
        assert pids(app) == [20, 30, 10]  # command: ape, cat, zebra
        await pilot.press("s")
        assert pids(app) == [10, 20, 30]
        await pilot.press("S")
        assert pids(app) == [20, 30, 10]

    drive(some, steps)


def test_keys_filter() -> None:
    async def steps(app: Any, pilot: Any) -> None:
        await pilot.press("slash", *"arena of 2")
        await pilot.pause()
        assert pids(app) == [20]
        assert "1 of 3 processes" in said(app, "#state")
        await pilot.press("enter", "s")  # keys are keys again
        assert pids(app) == [20]
        await pilot.press("escape")
        await pilot.pause()
        assert len(pids(app)) == 3

    drive(some, steps)


def test_growth_is_told_from_one_look_to_the_next() -> None:
    looks = iter([some(), some(2, 8 * PAGE)])

    async def steps(app: Any, pilot: Any) -> None:
        assert cells(app, 10)[4] == ""
        await pilot.press("u")
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert cells(app, 10)[3:5] == ["36 KiB", "+16 KiB"]
        assert cells(app, 20)[4] == "0"
        assert cells(app, 30)[5:8] == ["?", "?", "?"]

    drive(lambda: next(looks), steps)


def test_the_chosen_one_is_told_in_full_and_stays_chosen() -> None:
    looks = iter([some(), artefact(one(10, "zebra", 9 * PAGE), one(20, "ape", PAGE)), artefact()])

    async def steps(app: Any, pilot: Any) -> None:
        assert said(app, "#facts").startswith("20 ape")
        await pilot.press("down", "down")
        await pilot.pause()
        assert said(app, "#facts").startswith("10 zebra")
        assert "arena arena of 10: " in said(app, "#facts")
        await pilot.press("u")
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert pids(app) == [10, 20]
        assert said(app, "#facts").startswith("10 zebra")
        await pilot.press("u")
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert pids(app) == []
        assert said(app, "#facts") == ""

    drive(lambda: next(looks), steps)


def test_hostile_names_are_only_text() -> None:
    async def steps(app: Any, pilot: Any) -> None:
        row = cells(app, 10)
        assert row[-1] == "[red]x[/red]\\x1b[2J\\n"
        assert "[bold]y\\x1b" in said(app, "#facts")
        assert "\x1b[2J" not in app.export_screenshot()

    drive(lambda: artefact(one(10, "[red]x[/red]\x1b[2J\n", PAGE, name="[bold]y\x1b")), steps)


def test_pause() -> None:
    async def steps(app: Any, pilot: Any) -> None:
        await pilot.press("p")
        assert "paused" in said(app, "#state")
        app._tick()
        assert not list(app.workers)
        await pilot.press("p")
        assert "paused" not in said(app, "#state")

    drive(some, steps)


def test_heaps_holders_and_channels_of_real_processes() -> None:
    code = """
heap = stead.SharedHeap("16 MiB", name="things")
channel = heap.channel(5)
channel.send("hello")
stead.publish()
say(1)
hear()
"""
    with other(code) as child:
        child.hear()

        async def steps(app: Any, pilot: Any) -> None:
            await pilot.press("slash", *str(child.pid), "enter")
            await pilot.pause()
            assert child.pid in pids(app)
            assert cells(app, child.pid)[6:8] == ["1", "1"]
            facts = said(app, "#facts")
            assert f"held by {child.pid}" in facts
            assert "channel 0: 1/5 messages" in facts
            assert "reservation things: 0x" in facts

        drive(look, steps)


def test_in_a_real_terminal_until_q() -> None:
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    with subprocess.Popen(
        [*PROGRAM, "top", "--every", "0.1"], stdin=slave, stdout=slave, stderr=slave, env=environment
    ) as running:
        os.close(slave)
        shown = b""
        while b"stead" not in shown or b"quit" not in shown:
            shown += os.read(master, 4096)
        os.write(master, b"q")
        try:
            while os.read(master, 4096):
                pass
        except OSError:  # EIO: it has ended
            pass
        assert running.wait() == 0
    os.close(master)


def test_without_a_terminal_or_textual() -> None:
    result = stead_runs("top")
    assert result.exit_code == 1
    assert "needs a terminal" in result.output + result.stderr
    code = "import sys; sys.modules['textual'] = None; " + PROGRAM[-1]
    done = subprocess.run([sys.executable, "-c", code, "top"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'stead[top]'" in done.stderr
