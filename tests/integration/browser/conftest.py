"""A real browser, headless, and pages from disk that may not complain."""

from __future__ import annotations

import re
import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest

from conftest import need
from stead.view.page import render

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Dialog, Page

# As frame.js has it: above the map, and below it.
HEADER, FOOT = 34, 8


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    need("playwright")
    need("chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # As root Chromium has no sandbox; in containers /dev/shm is small.
        options = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        launched = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=options)
        yield launched
        launched.close()


class Shown:
    """A page in the browser, by what a person does and sees there."""

    def __init__(self, page: Page, problems: list[str]) -> None:
        self.page, self.problems = page, problems

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def frame(self) -> None:
        """Until what has been asked for is drawn."""
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def go(self, start: int, stop: int) -> None:
        """By the URL, which others may have sent."""
        self.page.evaluate(
            """hash => new Promise(done => {
            if (location.hash === hash) return done();
            addEventListener("hashchange", () => done(), { once: true });
            location.hash = hash })""",
            f"#{start:#x}-{stop:#x}",
        )
        self.frame()

    def until(self, condition: str) -> None:
        """Until this JavaScript is true. (Playwright's own waiting evaluates text in the page, which its
        content policy refuses.)"""
        deadline = time.monotonic() + 60
        while not self.page.evaluate(condition):
            assert time.monotonic() < deadline, f"{condition} has not come true"
            self.frame()

    @property
    def range(self) -> tuple[int, int]:
        """What the footer says is in view."""
        self.frame()
        start, stop = re.findall(r"0x([0-9a-f]+)", self.text("#range"))
        return int(start, 16), int(stop, 16)

    @property
    def map(self) -> dict[str, float]:
        box = self.page.locator("#map").bounding_box()
        assert box is not None
        return {
            "x": box["x"],
            "y": box["y"] + HEADER,
            "width": box["width"],
            "height": box["height"] - HEADER - FOOT,
        }

    def point(self, share: float, column: float = 0.3) -> tuple[float, float]:
        """At a share of the map's height, and of its width."""
        box = self.map
        return box["x"] + box["width"] * column, box["y"] + box["height"] * share

    def hover(self, share: float, column: float = 0.3) -> str:
        self.page.mouse.move(*self.point(share, column))
        return self.text("#tip") if self.page.is_visible("#tip") else ""

    def color(self, x: float, share: float) -> tuple[int, ...]:
        """Of the map's pixel at so many pixels from the canvas' left, and a share of the map's height."""
        self.frame()
        found = self.page.evaluate(
            """([x, y]) => { const canvas = document.getElementById("map");
            const ratio = canvas.width / canvas.clientWidth;
            return [...canvas.getContext("2d").getImageData(x * ratio, y * ratio, 1, 1).data] }""",
            [x, HEADER + self.map["height"] * share],
        )
        return tuple(found[:3])

    def key(self, *keys: str) -> None:
        for each in keys:
            self.page.keyboard.press(each)

    def focus(self) -> None:
        self.page.focus("#map")

    def find(self, text: str) -> str:
        self.page.fill("#find", text)
        return self.text("#found")

    def details(self) -> dict[str, str]:
        terms = self.page.locator("#details dt").all_inner_texts()
        return dict(zip(terms, self.page.locator("#details dd").all_inner_texts(), strict=True))

    def rows(self) -> list[list[str]]:
        """Of the table that is shown."""
        found = self.page.evaluate(
            "() => [...document.querySelectorAll('#rows tr')].map(r => [...r.cells].map(c => c.textContent))"
        )
        return [list(each) for each in found]


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Shown]]:
    """Opens the page of an artefact from disk. Whatever the page complains of, or asks the network for, fails."""
    contexts: list[tuple[Any, list[str]]] = []

    def dismiss(dialog: Dialog) -> None:
        contexts[-1][1].append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def opened(snapshot: dict[str, Any], fragment: str = "", **options: Any) -> Shown:
        path = tmp_path / f"map-{len(contexts)}.html"
        path.write_text(render(snapshot), "utf-8")
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        page = context.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(f"{error}\n{error.stack}"))
        # Reading pixels is the tests' doing, and not the page's.
        page.on(
            "console", lambda message: None if "getImageData" in message.text else problems.append(message.text)
        )
        page.on("dialog", dismiss)
        page.on(
            "request",
            lambda request: problems.append(request.url) if not request.url.startswith("file:") else None,
        )
        contexts.append((context, problems))
        page.goto(path.as_uri() + fragment)
        shown = Shown(page, problems)
        shown.frame()
        return shown

    yield opened
    for context, problems in contexts:
        context.close()
        assert problems == []
