"""The table: everything that the map shows, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from integration.browser.artefacts import HEAP, LIBRARY, PAGE, artefact, crowd, program, ranks

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.browser.conftest import Shown


def test_it_has_each_mapping_with_all_there_is_to_say(show: Callable[..., Shown]) -> None:
    shown = show(artefact(program()))
    shown.focus()
    shown.key("t")
    assert shown.page.is_hidden("#map")
    assert shown.rows()[3:6] == [
        ["0x555500000000", "64 KiB", "code", "r-xp", "48 KiB", "/usr/bin/python3"],
        ["0x555500600000", "4 MiB", "heap", "rw-p", "3.91 MiB", "[heap]"],
        ["0x7f0000000000", "1.56 MiB", "file", "r--p", "400 KiB", "/usr/lib/libcrypto.so.3"],
    ]
    assert len(shown.rows()) == 10
    shown.key("t")
    assert shown.page.is_visible("#map")


def test_it_sorts(show: Callable[..., Shown]) -> None:
    shown = show(artefact(program()))
    shown.page.click("#as-table")
    header = shown.page.get_by_role("columnheader")
    for name, order in (
        ("size", "descending"),
        ("resident", "descending"),
        ("name", "ascending"),
        ("start", "ascending"),
    ):
        shown.page.get_by_role("button", name=name, exact=True).click()
        chosen = [each.get_attribute("aria-sort") for each in header.all()]
        assert chosen.count(order) == 1
        first = shown.rows()[0]
        expected = {"size": "4 GiB", "resident": "3.91 MiB", "name": "anonymous", "start": "0x400000000000"}[name]
        assert expected in first, name


def test_an_address_of_it_leads_back_to_the_map(show: Callable[..., Shown]) -> None:
    shown = show(artefact(program()))
    shown.page.click("#as-table")
    shown.page.get_by_role("button", name=f"Show {HEAP:#x} on the map").click()
    assert shown.page.evaluate("document.activeElement.id") == "map"
    assert "[heap]" in shown.hover(0.5)
    shown.page.mouse.move(5, 5)
    assert shown.details()["name"] == "[heap]"


def test_it_has_the_processes_and_kinds_that_are_shown(show: Callable[..., Shown]) -> None:
    shown = show(ranks(2))
    shown.page.get_by_label("rank 1 · python").uncheck()
    shown.page.click("#as-table")
    assert {row[0] for row in shown.rows()} == {"rank 0"}
    shown.page.get_by_role("button", name="heap").click()
    assert len(shown.rows()) == 9
    shown.page.select_option("#least", "1048576")
    assert [row[1] for row in shown.rows()] == [
        f"{0x400000000000 + 24 * PAGE:#x}",
        f"{LIBRARY:#x}",
        f"{LIBRARY + 400 * PAGE:#x}",
    ]


def test_sixty_thousand_mappings_are_shown_and_turned_by_250(show: Callable[..., Shown]) -> None:
    snapshot = crowd(60_000)
    shown = show(snapshot)
    assert "60,000 mappings" in shown.text("#totals")
    last = snapshot["processes"][0]["mappings"][-1]
    assert shown.find(last["start"]).endswith(f"at {last['start']}")
    shown.page.press("#find", "Enter")
    assert last["start"] in shown.hover(0.5)
    shown.find("")
    shown.page.click("#as-table")
    assert shown.text("#rows-shown") == "1–250 of 60,000 mappings"
    assert len(shown.rows()) == 250
    shown.page.click("#after")
    assert shown.text("#rows-shown") == "251–500 of 60,000 mappings"
    assert shown.rows()[0][0] == snapshot["processes"][0]["mappings"][250]["start"]
    shown.page.click("#before")
    assert shown.page.is_disabled("#before")
