"""Several processes on one axis: where they could meet, and each on and off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from integration.browser.artefacts import HEAP, LIBRARY, PAGE, artefact, host, mapping, process, program, ranks

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.browser.conftest import Shown

ALIGNED = 2 << 20


def gaps(shown: Shown) -> list[tuple[int, int]]:
    """As the copy buttons have them."""
    labels = shown.page.eval_on_selector_all(
        "#gaps button[aria-label^='Copy']", "all => all.map(each => each.getAttribute('aria-label'))"
    )
    found = []
    for label in labels:
        start, _, stop = label.removeprefix("Copy ").partition("-")
        found.append((int(start, 16), int(stop, 16)))
    return found


def free(snapshot: dict[str, Any], *, without: tuple[int, ...] = ()) -> list[tuple[int, int]]:
    """The same, worked out anew: every 2 MiB that nothing touches, in runs."""
    blocked = [(0, 0x10000), ((1 << 47) - PAGE, 1 << 48)]
    for number, each in enumerate(snapshot["processes"]):
        if number in without:
            continue
        for one in each["mappings"]:
            start, stop = int(one["start"], 16), int(one["stop"], 16)
            blocked.append((start, stop))
            if one["kind"] == "heap":
                blocked.append((stop, stop + (64 << 30)))
            if one["name"] == "[stack]":
                blocked.append((start - (9 << 20), start))
    blocked.sort()
    found, at = [], 0
    for start, stop in blocked:
        low, high = -(-at // ALIGNED) * ALIGNED, start // ALIGNED * ALIGNED
        if low < high:
            found.append((low, high))
        at = max(at, stop)
    return sorted(found, key=lambda each: (each[0] - each[1], each[0]))


@pytest.mark.parametrize("number", [1, 2, 5])
def test_what_is_offered_is_free_in_all_aligned_and_clear_of_what_grows(
    show: Callable[..., Shown], number: int
) -> None:
    snapshot = ranks(number)
    shown = show(snapshot)
    assert gaps(shown) == free(snapshot)[:8]
    assert gaps(shown)[0][0] >= ALIGNED
    title = "Largest gaps" if number == 1 else f"Where all {number} could meet"
    assert shown.text("#gaps-title") == title


def test_a_gap_is_gone_to_and_copied(show: Callable[..., Shown]) -> None:
    shown = show(ranks(2))
    start, stop = gaps(shown)[1]
    shown.page.get_by_role("button", name=f"at {start:#x}").click()
    assert f"{start:#x}–{stop:#x}" in shown.text("#said")
    assert "free in all 2" in shown.hover(0.5)
    shown.page.get_by_role("button", name=f"Copy {start:#x}-{stop:#x}").click()
    shown.until(f"document.getElementById('said').textContent === 'Copied {start:#x}-{stop:#x}'")
    shown.page.focus("#find")
    shown.key("Control+v")
    assert shown.page.input_value("#find") == f"{start:#x}-{stop:#x}"


def test_each_has_a_column_and_says_whose_it_is(show: Callable[..., Shown]) -> None:
    shown = show(ranks(3))
    assert shown.text("h1") == "3 MPI ranks"
    shown.go(HEAP, HEAP + 1024 * PAGE)
    assert shown.hover(0.5, 0.2).startswith("rank 0: [heap]")
    start, stop = HEAP - (2 << 36) + 1024 * PAGE, LIBRARY - (2 << 36)
    assert shown.hover(0.5, 0.9) == f"free in rank 2 · {start:#x}–{stop:#x} · 41.7 TiB · rank 0"


def test_arrows_go_sideways_at_one_address(show: Callable[..., Shown]) -> None:
    shown = show(ranks(3))
    shown.focus()
    shown.key("ArrowDown", "ArrowDown")
    first = shown.text("#said")
    shown.key("ArrowRight")
    assert shown.text("#said") == first.replace("rank 0", "rank 1")
    shown.key("ArrowRight", "ArrowRight")
    assert shown.text("#said") == first.replace("rank 0", "rank 2")
    shown.key("ArrowLeft", "ArrowLeft")
    assert shown.text("#said") == first


def test_without_a_process_there_is_more_room(show: Callable[..., Shown]) -> None:
    snapshot = ranks(3)
    shown = show(snapshot)
    shown.page.get_by_label("rank 0 · python").uncheck()
    assert gaps(shown) == free(snapshot, without=(0,))[:8]
    assert shown.text("#gaps-title") == "Where all 2 could meet"
    shown.until("location.hash === '#off=0'")
    shown.page.get_by_label("rank 1 · python").uncheck()
    # One stays.
    shown.page.get_by_label("rank 2 · python").click()
    assert shown.page.get_by_label("rank 2 · python").is_checked()
    assert gaps(shown) == free(snapshot, without=(0, 1))[:8]


def test_the_url_says_what_is_shown(show: Callable[..., Shown]) -> None:
    fragment = f"#{LIBRARY:#x}-{LIBRARY + 400 * PAGE:#x};off=1"
    shown = show(ranks(3), fragment)
    assert shown.range == (LIBRARY, LIBRARY + 400 * PAGE)
    assert not shown.page.get_by_label("rank 1 · python").is_checked()
    assert shown.page.get_by_label("rank 2 · python").is_checked()
    shown.focus()
    shown.key("Escape")
    shown.until("location.hash === '#off=1'")


@pytest.mark.parametrize(
    "fragment",
    [
        "#0x10-0x5",
        "#off=0,1,2,3,4",
        "#off=x;scale=maybe",
        "#%",
        "#0x-0x",
        "#;;;",
        "#0xfffffffffffff000-0xfffffffffffffffff",
    ],
)
def test_a_url_that_makes_no_sense_shows_everything(show: Callable[..., Shown], fragment: str) -> None:
    shown = show(ranks(3), fragment)
    assert shown.range == (0, 1 << 47)
    assert shown.page.locator("#processes input:checked").count() == 3


def test_labels_of_many_columns_share_a_lane(show: Callable[..., Shown]) -> None:
    """16 columns have no room for text: there is some at the right, and the columns keep their bars."""
    shown = show(ranks(16))
    shown.go(0x400000000000, 0x400100000000)
    assert shown.hover(0.5, 0.2).startswith("rank 0: pool · reserved")
    # Three labels at the right for 16 times three mappings: rows of text, and ground between them.
    written = shown.page.evaluate(
        """() => { const canvas = document.getElementById("map"), pen = canvas.getContext("2d");
        const rows = [];
        for (let y = 40; y < canvas.height; y++) {
            const { data } = pen.getImageData(canvas.width - 262, y, 150, 1);
            rows.push(data.some((value, i) => value !== data[i % 4]));
        }
        return rows.filter((inked, i) => inked && !rows[i - 1]).length }"""
    )
    assert written == 3


def test_hosts_with_fewer_bits_meet_where_all_have_addresses(show: Callable[..., Shown]) -> None:
    hosts = [host(47, "small"), host(56, "large")]
    shown = show(artefact(process([mapping(HEAP, 1)], 1), process([mapping(1 << 50, 1)], 2, host=1), hosts=hosts))
    found = gaps(shown)
    assert found
    assert all(stop < 1 << 47 for _, stop in found)
    assert "large · pid 2" in shown.text("#processes")


def test_a_process_that_shares_a_number_on_another_host_is_its_own(show: Callable[..., Shown]) -> None:
    hosts = [host(47, "one"), host(47, "two")]
    shown = show(artefact(program(pid=7), program(1 << 40, pid=7, host=1), hosts=hosts))
    shown.page.click("#as-table")
    assert {row[0] for row in shown.rows()} == {"pid 7 on one", "pid 7 on two"}
