"""Draws docs/map.png: `stead show --html` of a program and two of its workers, in the Chromium of this machine.

pip install . numpy playwright     # and a chromium
python docs/map.py
"""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright

import stead
from stead.view.page import render

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

MIB = 1 << 20


def work(connection: Connection, heap: stead.SharedHeap, share: int) -> None:
    own = stead.Arena("1 GiB", name="scratch")
    kept = [own.allocate(MIB) for _ in range(share)]
    held = stead.reserve("64 GiB", name="results", guard="64 KiB")
    view = held.commit(0, "256 MiB")
    view[: share * MIB] = bytes(share * MIB)
    stead.publish()
    connection.send((len(kept), heap.statistics().used))
    connection.recv()


def main() -> None:
    spawning = multiprocessing.get_context("spawn")
    heap = stead.SharedHeap("16 GiB", name="index")
    arrays = [heap.array(4 * MIB) for _ in range(6)]
    for each in arrays:
        each[:] = 1
    weights = stead.Arena("512 MiB", name="weights")
    blocks = [weights.block(8 * MIB) for _ in range(40)]
    ours, theirs = zip(*(spawning.Pipe() for _ in range(2)), strict=True)
    workers = [
        spawning.Process(target=work, args=(each, heap, 60 * (number + 1))) for number, each in enumerate(theirs)
    ]
    for worker in workers:
        worker.start()
    for each in ours:
        each.recv()
    taken = stead.capture(
        *(each for each in (multiprocessing.current_process().pid, *(w.pid for w in workers)) if each)
    )
    for each, worker in zip(ours, workers, strict=True):
        each.send(None)
        worker.join()
    assert len(blocks) == 40
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = Path(folder, "map.html")
        page_file.write_text(render(taken), "utf-8")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 880})
        page.goto(page_file.as_uri())
        page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        page.screenshot(path=Path(__file__).with_name("map.png"))
        browser.close()


if __name__ == "__main__":
    main()
