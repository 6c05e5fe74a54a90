"""The map: what is in view, what is under the pointer, which pixels have which colour."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from integration.browser.artefacts import (
    CODE,
    HEAP,
    LIBRARY,
    PAGE,
    STACK,
    artefact,
    host,
    mapping,
    process,
    program,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.browser.conftest import Shown

WHOLE = (0, 1 << 47)
POOL = 0x400000000000


def test_it_shows_the_whole_space_and_says_what_is_there(show: Callable[..., Shown]) -> None:
    shown = show(artefact(program()))
    assert shown.range == WHOLE
    assert shown.text("h1") == "python · pid 1234"
    totals = shown.text("#totals")
    assert "10 mappings" in totals
    assert "reserved 4 GiB" in totals
    assert f"resident {(12 + 1000 + 100 + 64 + 1 + 9 + 3) * PAGE / 2**20:.2f} MiB" in totals
    assert shown.details() == {
        "command": "python -m work",
        "taken": "2027-01-15 08:00:00 UTC",
        "pages of": "4 KiB",
        "addresses": "47 bits",
    }


def test_the_wheel_comes_nearer_to_what_is_under_the_pointer(show: Callable[..., Shown]) -> None:
    shown = show(artefact(program()))
    at = next(share / 100 for share in range(5, 100) if "[heap]" in shown.hover(share / 100))
    before, text = shown.range, shown.text("#range")
    for _ in range(6):
        shown.page.mouse.wheel(0, -120)
    shown.until(f"document.getElementById('range').textContent !== {text!r}")
    assert "[heap]" in shown.hover(at)
    start, stop = shown.range
    assert before[0] < start < stop < before[1]
    shown.focus()
    shown.key("Escape")
    assert shown.range == WHOLE


def test_it_zooms_down_to_one_page_and_no_further(show: Callable[..., Shown]) -> None:
    shown = show(artefact(program()))
    shown.go(HEAP, HEAP + 1024 * PAGE)
    shown.focus()
    shown.key(*["+"] * 40)
    start, stop = shown.range
    assert 2 * PAGE <= stop - start <= 4 * PAGE
    assert HEAP <= start < stop <= HEAP + 1024 * PAGE
    assert f"at {HEAP:#x}" in shown.hover(0.5)


@pytest.mark.parametrize("bits", [47, 56])
def test_a_range_of_the_url_is_shown_to_the_page(show: Callable[..., Shown], bits: int) -> None:
    """Anywhere, from a single page to a tebibyte, also where a page is less than a Number's last bit of all."""
    top = 1 << bits
    giant = top - (top >> 3)
    shown = show(
        artefact(
            process(
                [
                    mapping(CODE, 16, "file", "r-xp", "/bin/x"),
                    mapping(giant, top // 32 // PAGE, "ours", "---p", "giant", state="reserved"),
                    mapping(giant + top // 32, 512, "ours", "rw-p", "giant"),
                ]
            ),
            hosts=[host(bits)],
        )
    )
    dice = random.Random(bits)
    for _ in range(40):
        where = dice.choice([0x10000, CODE - (1 << 30), CODE, giant - (1 << 30), giant, giant + top // 64])
        start = where + dice.randrange(1 << 16) * PAGE
        stop = start + dice.choice([1, 2, 3, 100, dice.randrange(1, 1 << 28)]) * PAGE
        shown.go(start, stop)
        found = shown.range
        # Where cuts of other heights lie between, the far end is as exact as pixels are.
        assert found[0] == start
        assert abs(found[1] - stop) <= max((stop - start) // 10**6, 0) // PAGE * PAGE, f"{start:#x}-{stop:#x}"


@pytest.mark.parametrize("bits", [47, 56])
def test_each_page_is_where_the_pointer_finds_it(show: Callable[..., Shown], bits: int) -> None:
    """Single pages of the highest addresses, as mappings of their own: each a tenth of the map."""
    base = (1 << bits) - (1 << 40)
    shown = show(
        artefact(
            process(
                [
                    mapping(1 << 30, (1 << bits) // 4 // PAGE, "ours", "---p", "giant", state="reserved"),
                    *(mapping(base + i * PAGE, 1, name=f"page {i}") for i in range(10)),
                ]
            ),
            hosts=[host(bits)],
        )
    )
    shown.go(base, base + 10 * PAGE)
    for i in range(10):
        assert f"page {i} · 4 KiB at {base + i * PAGE:#x}" in shown.hover((i + 0.5) / 10)


def test_dragging_moves_and_clicking_selects(show: Callable[..., Shown]) -> None:
    shown = show(artefact(program()))
    shown.go(LIBRARY, LIBRARY + 400 * PAGE)
    shown.page.mouse.move(*shown.point(0.2))
    shown.page.mouse.down()
    shown.page.mouse.move(*shown.point(0.7), steps=4)
    shown.page.mouse.up()
    start, _ = shown.range
    assert start < LIBRARY
    assert shown.text("#said") == ""
    shown.page.mouse.click(*shown.point(0.9))
    assert shown.text("#said") == f"libcrypto.so.3 · 1.56 MiB at {LIBRARY:#x}"
    shown.page.mouse.move(5, 5)
    assert shown.text("#details-title") == "Selected"
    assert shown.details()["range"] == f"{LIBRARY:#x}–{LIBRARY + 400 * PAGE:#x}"
    shown.page.mouse.dblclick(*shown.point(0.9))
    start, stop = shown.range
    assert start < LIBRARY
    assert stop > LIBRARY + 400 * PAGE
    assert f"at {LIBRARY:#x}" in shown.hover(0.5)


def test_details_tell_all_of_a_mapping(show: Callable[..., Shown]) -> None:
    shown = show(artefact(program()))
    shown.go(POOL + 16 * PAGE, POOL + 24 * PAGE)
    assert shown.hover(0.5) == f"pool · committed · 32 KiB at {POOL + 16 * PAGE:#x}"
    assert shown.details() == {
        "what": "stead, committed",
        "name": "pool",
        "range": f"{POOL + 16 * PAGE:#x}–{POOL + 24 * PAGE:#x}",
        "size": "32 KiB, 8 pages",
        "access": "rw-p",
        "resident": "12 KiB, 38 %",
        "reservation": f"pool, 4 GiB at {POOL:#x}",
        "arena": "pool: 25 % of 32 KiB used, at most 75 %",
    }


def test_what_is_not_known_is_not_made_up(show: Callable[..., Shown]) -> None:
    shown = show(artefact(process([mapping(HEAP, 16, "heap", name="[heap]")], unread=["pages: not allowed"])))
    shown.go(HEAP, HEAP + 16 * PAGE)
    shown.hover(0.5)
    assert shown.details()["resident"] == "not told"
    assert "not told" in shown.text(".hint")
    assert "resident" not in shown.text("#totals")
    assert "pages: not allowed" in shown.text("#notes")


def test_close_to_a_page_each_page_is_solid_or_not(show: Callable[..., Shown]) -> None:
    """Of 8 pages, those numbered 0, 1 and 6 are in memory: seen at the far end of the bar's width."""
    shown = show(artefact(program() | {"arenas": []}))
    shown.go(POOL + 16 * PAGE, POOL + 24 * PAGE)
    x = 330  # inside of the bar, beyond the share that the mapping has on average
    colors = [shown.color(x, (page + 0.5) / 8) for page in range(8)]
    solid, tint = colors[0], colors[2]
    assert solid != tint
    assert colors == [solid if page in (0, 1, 6) else tint for page in range(8)]


def test_kinds_and_small_ones_can_be_switched_off(show: Callable[..., Shown]) -> None:
    shown = show(artefact(program()))
    shown.go(HEAP, HEAP + 1024 * PAGE)
    heap = shown.color(250, 0.5)
    chip = shown.page.get_by_role("button", name="heap")
    chip.click()
    assert chip.get_attribute("aria-pressed") == "false"
    assert shown.color(250, 0.5) != heap
    assert "[heap]" not in shown.hover(0.5)
    chip.click()
    assert shown.color(250, 0.5) == heap
    shown.page.select_option("#least", "1073741824")
    assert shown.color(250, 0.5) != heap


def test_true_scale_gives_all_pages_one_height(show: Callable[..., Shown]) -> None:
    shown = show(artefact(program()))
    shown.focus()
    shown.key("f")
    assert shown.page.get_attribute("#scale", "aria-pressed") == "true"
    shown.until("location.hash === '#scale=true'")
    for share in (0.25, 0.5):
        shown.page.mouse.click(*shown.point(share, 0.6))
        start, stop = (int(each, 16) for each in shown.details()["range"].split("–"))
        assert start <= share * (1 << 47) <= stop
    shown.key("f")
    assert shown.range == WHOLE


def test_keys_go_from_mapping_to_mapping(show: Callable[..., Shown]) -> None:
    shown = show(artefact(program()))
    shown.focus()
    names = []
    for _ in range(10):
        shown.key("ArrowDown")
        names.append(shown.text("#said").split(" · ")[0])
    assert names == ["pool", "pool", "pool", "python3", "[heap]", "libcrypto.so.3", "libcrypto.so.3", "anonymous",
                     "queue", "[stack]"]  # fmt: skip
    shown.key("ArrowDown")
    assert shown.text("#said").startswith("[stack]")
    shown.key("Enter")
    start, stop = shown.range
    assert start < STACK < STACK + 33 * PAGE < stop
    assert "[stack]" in shown.hover(0.5)
    shown.key("ArrowUp", "ArrowUp")
    assert shown.text("#said").startswith("anonymous")
    shown.key("Escape")
    assert shown.range == WHOLE


def test_g_goes_from_gap_to_gap_and_round(show: Callable[..., Shown]) -> None:
    shown = show(artefact(program()))
    shown.focus()
    gaps = []
    for _ in range(5):
        shown.key("g")
        gaps.append(shown.text("#said"))
    assert gaps[0] == f"free · 0x0–{POOL:#x} · 64 TiB"
    assert gaps[4] == gaps[0]
    assert len(set(gaps)) == 4
    shown.key("Shift+G")
    assert shown.text("#said") == gaps[3]


def test_a_space_with_nothing_in_it_is_free(show: Callable[..., Shown]) -> None:
    shown = show(artefact(process([])))
    assert "free · 0x0–0x800000000000 · 128 TiB" in shown.hover(0.5)
    shown.focus()
    shown.key("ArrowDown", "ArrowRight", "+", "g", "Enter", "f", "t", "t", "Escape")
    assert shown.range == WHOLE


def test_what_is_above_all_programs_is_on_the_map_too(show: Callable[..., Shown]) -> None:
    vsyscall = 0xFFFFFFFFFF600000
    shown = show(artefact(process([mapping(vsyscall, 1, "vdso", "--xp", "[vsyscall]", resident=0)])))
    assert shown.find(hex(vsyscall)) == f"[vsyscall] · 4 KiB at {vsyscall:#x}"
    shown.page.press("#find", "Enter")
    assert f"[vsyscall] · 4 KiB at {vsyscall:#x}" in shown.hover(0.97)
    shown.focus()
    shown.key("Escape")
    assert any("the kernel's addresses" in shown.hover(share / 50) for share in range(25, 50))
