"""Finding things: by address, by a part of a name, in the map and in the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from integration.browser.artefacts import HEAP, LIBRARY, PAGE, artefact, mapping, process, program, ranks

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.browser.conftest import Shown


def test_an_address_is_found_in_what_has_it(show: Callable[..., Shown]) -> None:
    shown = show(artefact(program()))
    assert shown.find(f"{LIBRARY + 5 * PAGE + 17:#X}".replace("X", "x")) == (
        f"libcrypto.so.3 · 1.56 MiB at {LIBRARY:#x}"
    )
    shown.page.press("#find", "Enter")
    assert "libcrypto.so.3" in shown.hover(0.5)
    assert shown.find("0x600000000000").startswith("free · ")
    shown.page.press("#find", "Enter")
    assert shown.text("#said").startswith("free · ")


def test_an_address_that_no_program_may_have_is_said_to_be_one(show: Callable[..., Shown]) -> None:
    shown = show(artefact(program()))
    assert shown.find("0xffff800000000000") == "above what programs may have"
    shown.page.press("#find", "Enter")
    assert shown.range == (0, 1 << 47)


def test_a_range_is_gone_to(show: Callable[..., Shown]) -> None:
    shown = show(artefact(program()))
    assert shown.find(f"{HEAP:#x}-{HEAP + 64 * PAGE:#x}") == "256 KiB: Enter goes there"
    shown.page.press("#find", "Enter")
    assert shown.range == (HEAP, HEAP + 64 * PAGE)


def test_names_are_found_one_after_the_other_and_round(show: Callable[..., Shown]) -> None:
    shown = show(artefact(program()))
    assert shown.find("CRYPTO") == "2 found: Enter goes to the first"
    field = shown.page.locator("#find")
    starts = []
    for key in ("Enter", "Enter", "Enter", "Shift+Enter"):
        field.press(key)
        starts.append(shown.text("#said").rpartition(" ")[2])
    first, second = f"{LIBRARY:#x}", f"{LIBRARY + 400 * PAGE:#x}"
    assert starts == [first, second, first, second]
    assert shown.text("#found") == "2 of 2"
    field.press("Escape")
    assert shown.text("#found") == ""
    assert shown.page.evaluate("document.activeElement.id") == "map"


@pytest.mark.parametrize("text", ["no such thing", "0x", "0xg", "-", "(", "\\", "%s", "0x123456789012345678901"])
def test_what_is_not_there_is_said_not_to_be(show: Callable[..., Shown], text: str) -> None:
    shown = show(artefact(program()))
    assert shown.find(text) == "no such name"
    shown.page.press("#find", "Enter")
    assert shown.range == (0, 1 << 47)


def test_hexadecimal_without_0x_is_a_name(show: Callable[..., Shown]) -> None:
    shown = show(artefact(process([mapping(HEAP, 1, name="/tmp/deadbeef")])))
    assert shown.find("deadbeef") == "1 found: Enter goes to the first"


def test_what_is_not_found_fades(show: Callable[..., Shown]) -> None:
    shown = show(artefact(program()))
    shown.go(HEAP, HEAP + 1024 * PAGE)
    heap = shown.color(250, 0.5)
    shown.find("crypto")
    assert shown.color(250, 0.5) != heap
    shown.find("[heap")
    assert shown.color(250, 0.5) == heap


def test_it_narrows_the_table(show: Callable[..., Shown]) -> None:
    shown = show(artefact(program()))
    shown.page.click("#as-table")
    assert len(shown.rows()) == 10
    shown.find("crypto")
    assert [row[0] for row in shown.rows()] == [f"{LIBRARY:#x}", f"{LIBRARY + 400 * PAGE:#x}"]
    assert shown.text("#rows-shown") == "1–2 of 2 mappings"
    shown.find("no such")
    assert shown.rows() == []
    assert shown.text("#rows-shown") == "no mapping to show"


def test_it_finds_in_all_processes_that_are_shown(show: Callable[..., Shown]) -> None:
    shown = show(ranks(3))
    assert shown.find("[heap]").startswith("3 found")
    shown.page.get_by_label("rank 1 · python").uncheck()
    assert shown.text("#found").startswith("2 found")
    shown.page.press("#find", "Enter")
    assert shown.text("#said") == f"rank 0: [heap] · 4 MiB at {HEAP:#x}"
    shown.page.press("#find", "Enter")
    assert shown.text("#said") == f"rank 2: [heap] · 4 MiB at {HEAP - (2 << 36):#x}"


def test_single_letters_typed_into_the_field_are_no_keys_of_the_map(show: Callable[..., Shown]) -> None:
    shown = show(artefact(program()))
    shown.focus()
    shown.key("/")
    shown.page.keyboard.type("tgfd")
    assert shown.page.input_value("#find") == "tgfd"
    assert shown.page.is_visible("#map")
    assert shown.page.evaluate("document.documentElement.dataset.theme") is None
