"""The page as text: what it is made of, and what it is not made of. Its doings: tests/integration/browser."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stead
from integration.browser.artefacts import HEAP, PAGE, artefact, host, mapping, process, program
from stead.seeing import NoSnapshot
from stead.view.page import render
from stead.view.page.pack import KINDS, pack, printable


def embedded(page: str) -> Any:
    [text] = re.findall(r'<script type="application/json" id="snapshot">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def test_a_page_asks_for_nothing_outside_of_itself() -> None:
    page = render(artefact(program()))
    markup = page.partition("<script")[0]
    outside = re.findall(r"""(?:src|href|action)\s*=\s*["']?([^"' >]+)""", markup)
    assert outside == ["data:,"]
    assert "@import" not in page
    assert not re.search(r"url\(", page)
    assert "default-src 'none'" in page
    assert "unsafe" not in page


def test_this_process_is_shown_as_it_is() -> None:
    seen = stead.capture()
    data = embedded(render(seen))
    [one] = data["processes"]
    [expected] = seen["processes"]
    at, ranges = 0, []
    for gap, length in zip(one["gap"], one["len"], strict=True):
        ranges.append((at + gap, at + gap + length))
        at += gap + length
    size = data["page_size"]
    assert [(hex(start * size), hex(stop * size)) for start, stop in ranges] == [
        (each["start"], each["stop"]) for each in expected["mappings"]
    ]
    assert sum(data["totals"]["pages"]) * size == sum(
        int(each["stop"], 16) - int(each["start"], 16) for each in expected["mappings"]
    )


@given(st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(1, 1 << 40)), max_size=20))
def test_columns_have_each_range_exactly(pieces: list[tuple[int, int]]) -> None:
    at, mappings = 0, []
    for gap, pages in pieces:
        mappings.append(mapping((at + gap) * PAGE, pages))
        at += gap + pages
    [packed] = pack(artefact(process(mappings)))["processes"]
    assert list(zip(packed["gap"], packed["len"], strict=True)) == pieces


@given(st.text(st.characters(codec=None)))
def test_any_name_arrives_and_ends_nothing(name: str) -> None:
    page = render(artefact(process([mapping(HEAP, 1, name=name)], title=name)))
    page.encode()
    assert embedded(page)["names"] == [printable(name)]
    assert page.count("<script") == page.count("</script") == 2


def test_every_kind_and_state_has_a_colour_of_its_own() -> None:
    kinds = ["heap", "stack", "vdso", "file", "shared memory", "anonymous", "ours"]
    many = [
        mapping(HEAP + (number * 3 + place) * PAGE, 1, kind, access, state=state)
        for number, kind in enumerate(kinds)
        for place, (access, state) in enumerate([("r-xp", "committed"), ("---p", "reserved"), ("---p", "guard")])
    ]
    [packed] = pack(artefact(process(many)))["processes"]
    found = [KINDS[number].key for number in packed["kind"]]
    assert found[::3] == ["heap", "stack", "kernel", "code", "shared", "anonymous", "committed"]
    assert found[1::3] == ["reserved"] * 6 + ["held"]
    assert set(found[2::3]) == {"guard"}


def test_pages_of_the_smallest_size_are_the_unit() -> None:
    hosts = [host(name="small"), host(name="large") | {"page_size": 65536}]
    large = process([mapping(0x10000, 16, resident=65536)], 2, host=1)
    data = pack(artefact(process([mapping(HEAP, 1)]), large, hosts=hosts))
    assert data["page_size"] == PAGE
    assert (data["processes"][1]["gap"], data["processes"][1]["len"]) == ([16], [16])
    assert data["processes"][1]["rss"] == [16]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "schema is None, must be 'stead.snapshot/1'"),
        ({"schema": "stead.snapshot/9"}, "schema is 'stead.snapshot/9', must be"),
        ({"schema": "stead.snapshot/1"}, "the snapshot lacks 'hosts'"),
        (artefact({"pid": 1}), "the snapshot lacks"),
        (artefact(process([{}])), "the snapshot lacks"),
        (artefact(process([mapping(HEAP, 2), mapping(HEAP + PAGE, 1)])), f"{HEAP + PAGE:#x} is not behind"),
        (artefact(process([mapping(HEAP, 1) | {"stop": hex(HEAP)}])), "must be whole pages of 4096 bytes"),
        (artefact(process([mapping(HEAP, 1) | {"stop": hex(HEAP + 5)}])), "must be whole pages of 4096 bytes"),
        (artefact(process([mapping(HEAP, 1) | {"stop": 5}])), "the snapshot is not of the form"),
        (artefact(process([mapping(HEAP, 1) | {"kind": "other"}])), "the snapshot lacks 'other'"),
        (artefact(process([]), hosts=[]) | {"hosts": []}, "hosts is empty"),
        (artefact(process([], host=3)), "the snapshot is not of the form"),
    ],
)
def test_what_is_no_snapshot_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(NoSnapshot, match=re.escape(said)):
        render(wrong)
