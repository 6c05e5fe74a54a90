"""For everyone: axe-core's rules, both themes, paper, narrow windows, keys alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from conftest import need
from integration.browser.artefacts import artefact, program, ranks

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.browser.conftest import Shown

DARK, LIGHT = (20, 22, 27), (251, 251, 249)


def violations(shown: Shown) -> list[str]:
    need("axe_playwright_python")
    from axe_playwright_python.sync_playwright import Axe

    found: dict[str, Any] = Axe().run(shown.page).response
    assert found["passes"], "axe-core looked at nothing"
    return [
        f"{each['id']} ({each['impact']}): {json.dumps(each['nodes'][0]['target'])}"
        for each in found["violations"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["map", "table", "found", "narrow"])
def test_axe_finds_nothing(show: Callable[..., Shown], scheme: str, view: str) -> None:
    size = {"width": 400, "height": 800} if view == "narrow" else {"width": 1280, "height": 800}
    shown = show(ranks(3), color_scheme=scheme, viewport=size)
    if view == "table":
        shown.page.click("#as-table")
        shown.page.get_by_role("button", name="heap").click()
    if view == "found":
        shown.find("crypto")
        shown.page.press("#find", "Enter")
        shown.hover(0.5)
    assert violations(shown) == []


def test_the_theme_follows_the_system_until_it_is_chosen(show: Callable[..., Shown]) -> None:
    shown = show(artefact(program()), color_scheme="dark")
    corner = shown.map["width"] - 3
    assert shown.color(corner, 0.5) == DARK
    shown.page.emulate_media(color_scheme="light")
    shown.until("getComputedStyle(document.body).backgroundColor === 'rgb(251, 251, 249)'")
    assert shown.color(corner, 0.5) == LIGHT
    shown.page.click("#theme")
    assert shown.color(corner, 0.5) == DARK
    shown.page.emulate_media(color_scheme="dark")
    shown.page.click("#theme")
    assert shown.color(corner, 0.5) == LIGHT


def test_paper_is_light_whatever_the_screen_is(show: Callable[..., Shown]) -> None:
    shown = show(ranks(2), color_scheme="dark")
    shown.page.evaluate(
        """() => addEventListener("beforeprint", () => {
        const canvas = document.getElementById("map");
        const pixel = canvas.getContext("2d").getImageData(canvas.width - 5, 5, 1, 1).data;
        window.printed = [...pixel].slice(0, 3) })"""
    )
    assert shown.page.pdf(format="A4").startswith(b"%PDF")
    assert tuple(shown.page.evaluate("window.printed")) == LIGHT
    # And the screen is as it was.
    assert shown.color(shown.map["width"] - 3, 0.5) == DARK


def test_paper_has_the_map_and_what_is_said_of_it(show: Callable[..., Shown]) -> None:
    shown = show(ranks(2))
    shown.page.emulate_media(media="print")
    for selector in ("h1", "#totals", ".legend", "#map", "#gaps", "#processes"):
        assert shown.page.is_visible(selector), selector
    for selector in ("#find", "#theme", "footer", "#least"):
        assert shown.page.is_hidden(selector), selector


@pytest.mark.parametrize("width", [320, 420, 800, 2200])
def test_nothing_sticks_out_of_a_window(show: Callable[..., Shown], width: int) -> None:
    shown = show(ranks(4), viewport={"width": width, "height": 700})
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
    shown.page.click("#as-table")
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= width


def test_all_of_it_is_reached_by_keys(show: Callable[..., Shown]) -> None:
    shown = show(ranks(2))
    shown.page.focus("#find")
    reached = []
    for _ in range(60):
        shown.key("Tab")
        reached.append(
            shown.page.evaluate(
                "(e => e.id || e.getAttribute('aria-label') || e.textContent)(document.activeElement)"
            )
        )
    for wanted in ("scale", "as-table", "theme", "least", "map"):
        assert wanted in reached
    assert any(each.startswith("Copy 0x") for each in reached)
    assert any(each.startswith("heap") for each in reached)


def test_what_is_selected_is_said(show: Callable[..., Shown]) -> None:
    """In a live part of the page: the canvas itself says nothing."""
    shown = show(artefact(program()))
    assert shown.page.get_attribute("#said", "role") == "status"
    shown.focus()
    shown.key("ArrowDown")
    assert shown.text("#said") == "pool · guard · 64 KiB at 0x400000000000"
    assert shown.page.get_attribute("#found", "for") == "find"


def test_it_grows_with_its_window(show: Callable[..., Shown]) -> None:
    shown = show(artefact(program()))
    before = shown.map["width"]
    shown.page.set_viewport_size({"width": 1600, "height": 900})
    shown.until("innerWidth === 1600")
    shown.frame()
    assert shown.map["width"] == before + 320
    assert shown.page.evaluate("document.getElementById('map').width") == shown.map["width"]
    assert shown.range == (0, 1 << 47)
