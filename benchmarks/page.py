"""What the page of a map costs in a browser: until it is drawn, and for each step of a zoom.

    pip install . playwright     # and a Chromium: $STEAD_CHROMIUM, or what is called chromium here
    python benchmarks/page.py [--rounds N] [--mappings 100,5000,60000,4x60000] [--json FILE]

Headless, without a GPU, 1440x900. `first paint`: from the start of loading, from disk, until the frame that shows
the map has been handed over; `of an empty page`: the same of a page with one word, in turns with it, so that the
machine's load can be told from the page's own work; `the main thread's share`: its processor time until then,
which load stretches less. `step`: main-thread milliseconds for one turn of the
wheel, its handler and its drawing together, the median over 24 (12 in at the middle of the crowd, 12 out);
`slowest step`: the largest of the 24.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from harness import Row, Section
from playwright.sync_api import Browser, sync_playwright

from stead.view.page import render

# Before the page's own script: how long its frames take, and when the first has been handed over.
_WATCH = """
window.__frames = [];
window.__loaded = new Promise((done) => addEventListener("DOMContentLoaded", () =>
  requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now())))));
const plain = window.requestAnimationFrame.bind(window);
window.requestAnimationFrame = (callback) => plain((at) => {
  const began = performance.now();
  callback(at);
  window.__frames.push(performance.now() - began);
});
"""

# One step: the wheel's handler, and the drawing of the frame that follows.
_STEPS = """
async () => {
  const canvas = document.getElementById("map");
  const frame = () => new Promise((done) => setTimeout(done, 50));
  const box = canvas.getBoundingClientRect();
  const steps = [];
  await frame();
  for (let i = 0; i < 24; i++) {
    window.__frames.length = 0;
    const began = performance.now();
    canvas.dispatchEvent(new WheelEvent("wheel", {
      deltaY: i < 12 ? -120 : 120, clientX: box.left + 300, clientY: box.top + 0.55 * box.height, cancelable: true,
    }));
    const handled = performance.now() - began;
    await frame();
    steps.push(handled + window.__frames.reduce((a, b) => a + b, 0));
  }
  return steps;
}
"""


def crowd(number: int, seed: int) -> dict[str, Any]:
    """A process of so many mappings, as a large program has them: libraries, arenas, stacks, shared memory."""
    dice = random.Random(seed)
    at = 0x7F0000000000 + (seed << 38)
    mappings = []
    for i in range(number):
        kind, access, name, state = dice.choice(_SORTS)
        pages = dice.choice((1, 1, 2, 4, 16, 64, 512))
        at += dice.choice((0, 0, 0, 1, 8, 64)) * 4096
        resident = 0 if state == "reserved" else dice.randrange(pages + 1) * 4096
        mappings.append(
            {
                "start": hex(at), "stop": hex(at + pages * 4096), "access": access, "kind": kind, "state": state,
                "name": name and f"{name}{i // 50}", "deleted": False, "offset": "0x0", "device": "0:0",
                "inode": 0, "reservation": None, "resident": resident, "swapped": 0, "pages": None,
            }
        )  # fmt: skip
        at += pages * 4096
    return {
        "host": 0, "pid": 1000 + seed, "rank": None, "title": "crowd", "command": ["crowd"], "user": 0,
        "started_at": None, "pages_by": None, "published_at": None, "unread": [], "mappings": mappings,
        "reservations": [], "arenas": [], "heaps": [],
    }  # fmt: skip


_SORTS = [
    ("anonymous", "rw-p", "", "committed"), ("anonymous", "rw-p", "", "committed"),
    ("anonymous", "---p", "", "reserved"), ("file", "r--p", "/usr/lib/lib", "committed"),
    ("file", "r-xp", "/usr/lib/lib", "committed"), ("shared memory", "rw-s", "/dev/shm/block", "committed"),
]  # fmt: skip


def artefact(processes: int, mappings: int) -> dict[str, Any]:
    host = {"name": "here", "page_size": 4096, "address_bits": 47, "lowest": "0x10000"}
    crowds = [crowd(mappings, seed) for seed in range(processes)]
    return {"schema": "stead.snapshot/1", "taken_at": 0.0, "hosts": [host], "processes": crowds}


def measure(browser: Browser, path: Path, script: str) -> tuple[float, float, Any]:
    """Milliseconds until the first paint, those of them that the main thread ran, and what ``script`` answers."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    try:
        page = context.new_page()
        page.add_init_script(_WATCH)
        watcher = context.new_cdp_session(page)
        watcher.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.goto(path.as_uri())
        painted = page.evaluate("window.__loaded")
        metrics = watcher.send("Performance.getMetrics")["metrics"]
        [busy] = [1000 * each["value"] for each in metrics if each["name"] == "TaskDuration"]
        return painted, busy, page.evaluate(script)
    finally:
        context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mappings", default="100,5000,60000,4x60000", help="[PROCESSES x]MAPPINGS, with commas")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="which to run")
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    if not asked.chromium:
        sys.exit("there is no chromium to run: --chromium says where one is")
    sections = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu"]  # as root there is no sandbox
        browser = playwright.chromium.launch(executable_path=asked.chromium, args=options)
        empty = Path(folder, "empty.html")
        empty.write_text("<!doctype html><title>empty</title><p>empty")
        for case in asked.mappings.split(","):
            processes, _, mappings = case.rpartition("x")
            path = Path(folder, "map.html")
            path.write_text(render(artefact(int(processes or 1), int(mappings))))
            section = Section(f"{case} mappings, a page of {path.stat().st_size / 1e6:.2f} MB")
            measured, bare = [], []
            for _ in range(asked.rounds):
                measured.append(measure(browser, path, _STEPS))
                bare.append(measure(browser, empty, "0")[0])
            section.rows = [
                Row("first paint", [painted for painted, _, _ in measured], unit="ms"),
                Row("  the main thread's share", [busy for _, busy, _ in measured], unit="ms"),
                Row("first paint of an empty page", bare, unit="ms"),
                Row("step of a zoom", [median(steps) for _, _, steps in measured], unit="ms"),
                Row("slowest step", [max(steps) for _, _, steps in measured], unit="ms"),
            ]
            section.show()
            sections.append(section)
        browser.close()
    if asked.json:
        raw = [{"title": each.title, "rows": [row.raw() for row in each.rows]} for each in sections]
        asked.json.write_text(json.dumps(raw))


if __name__ == "__main__":
    main()
