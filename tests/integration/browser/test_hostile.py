"""Names come from other programs, which may mean harm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from integration.browser.artefacts import HEAP, PAGE, artefact, host, mapping, process

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.browser.conftest import Shown

NAMES = [
    "</script><script>window.harmed = 1</script>",
    "<!--<script>",
    '"><img src=x onerror="window.harmed = 1">',
    "'\";window.harmed=1;//",
    "${window.harmed=1} $data $script {{harm}}",
    "&lt;b&gt; &amp; \\u003c",
    "]]>",
    "__proto__",
    "é 日本 🐍",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_text_wherever_it_is_shown(show: Callable[..., Shown], name: str) -> None:
    path = f"/tmp/{name}"
    shown = show(
        artefact(
            process([mapping(HEAP, 8, "file", name=path)], 1, title=name, command=[name], unread=[name]),
            process([mapping(HEAP, 8, name=name)], 2, title=name, host=1),
            hosts=[host(name=name), host(name="other")],
        )
    )
    shown.go(HEAP, HEAP + 8 * PAGE)
    assert name.rpartition("/")[2] in shown.hover(0.5, 0.2)
    assert shown.details()["name"] == path
    assert shown.find(name) == "2 found: Enter goes to the first"
    shown.page.press("#find", "Enter")
    shown.page.click("#as-table")
    assert [row[-1] for row in shown.rows()] == [path, name]
    assert name in shown.text("#processes") or shown.page.is_hidden("#processes")
    assert name in shown.page.text_content("#notes")
    assert shown.page.evaluate("window.harmed") is None
    assert shown.page.locator("img, #snapshot ~ script ~ script").count() == 0


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("a\nb\tc\0", "a\\nb\\tc\\x00"),
        ("\udcff\udcfe", "\\udcff\\udcfe"),
        ("\u2028\u2029", "\\u2028\\u2029"),
    ],
)
def test_what_would_turn_or_break_a_line_is_escaped(show: Callable[..., Shown], name: str, written: str) -> None:
    shown = show(artefact(process([mapping(HEAP, 8, name=name)], title=name)))
    shown.page.click("#as-table")
    assert shown.rows()[0][-1] == written
    assert shown.text("h1") == f"{written} · pid 1234"
    assert shown.page.title() == f"{written} · pid 1234 · stead"


def test_a_long_name_is_cut_where_there_is_no_room(show: Callable[..., Shown]) -> None:
    shown = show(artefact(process([mapping(HEAP, 8, "file", name="/" + "x" * 4000)], command=["y" * 100_000])))
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= 1280
    assert len(shown.details()["command"]) < 200


def test_the_page_may_do_nothing_but_run_its_own_script(show: Callable[..., Shown]) -> None:
    """Its content policy holds even for what somebody would write into the page."""
    shown = show(artefact(process([mapping(HEAP, 8)])))
    answered: list[str] = []
    shown.page.on("response", lambda response: answered.append(response.url))
    shown.page.evaluate(
        """() => { window.refused = [];
        addEventListener("securitypolicyviolation", event => window.refused.push(event.violatedDirective));
        const script = document.createElement("script");
        script.textContent = "window.harmed = 1"; document.body.append(script);
        const image = new Image(); image.src = "https://example.org/x.png"; document.body.append(image);
        return fetch("https://example.org/").then(() => { window.harmed = 1 }, () => 0) }"""
    )
    assert shown.page.evaluate("window.harmed") is None
    # Each was refused, and said so, before a request left.
    shown.until("window.refused.length === 3")
    assert answered == []
    refused = [each for each in shown.problems if "Content Security Policy" in each]
    assert len(refused) >= 3
    shown.problems.clear()
