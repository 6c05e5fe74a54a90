"""An address space as a picture: what is drawn, that it fits, that hostile names do no harm."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stead
from conftest import need
from spaces import GIB, HOST, KIB, MIB, PAGE, TIB, artefact, at, drawn, expect, lies, process
from stead.maps import Kind, Mapping

if TYPE_CHECKING:
    from stead.seeing.shape import ProcessSeen

PICTURES = Path(__file__).parent / "pictures"


@pytest.fixture(autouse=True, scope="module")
def _needs() -> None:
    need("rich")


def example() -> ProcessSeen:
    """Everything that there is to draw."""
    pool, index = 0x480000000000, 0x490000000000
    fill = {
        "committed": 32 * MIB, "used": 24 * MIB, "blocks": 1200, "high_water": 28 * MIB, "dirty": 0,
        "largest_free_run": 4 * MIB,
    }  # fmt: skip
    mine: dict[str, Any] = {"reservation": 0}
    return process(
        [
            lies(pool - 64 * KIB, 64 * KIB, "ours", "pool", "---p", state="guard", **mine),
            lies(pool, 48 * MIB, "ours", "pool", resident=40 * MIB, swapped=MIB, **mine),
            lies(pool + 48 * MIB, 8 * GIB, "ours", "pool", "---p", state="reserved", resident=0, **mine),
            lies(pool + 48 * MIB + 8 * GIB, 64 * KIB, "ours", "pool", "---p", state="guard", **mine),
            lies(index, 4 * MIB, "ours", "/memfd:stead:index", "rw-s", resident=3 * MIB, swapped=0),
            lies(0x555555554000, 20 * KIB, "file", "/usr/bin/python3.11", "r-xp", resident=20 * KIB, swapped=0),
            lies(0x55555555A000, 4 * MIB, "heap", "[heap]", resident=4 * MIB - PAGE, swapped=0),
            lies(0x7F0000000000, 64 * MIB, "anonymous", "", "---p", state="reserved", resident=0, swapped=0),
            lies(0x7F0010000000, 64 * MIB, "anonymous", resident=PAGE, swapped=0),
            lies(0x7F0020000000, 2 * MIB, "file", "/usr/lib/x86_64-linux-gnu/libsomething.so.6", "r-xp",
                 resident=MIB, swapped=0),
            lies(0x7F0020200000, 8 * KIB, "file", "/usr/lib/x86_64-linux-gnu/libsomething.so.6", "r--p",
                 resident=0, swapped=0),
            lies(0x7F0030000000, 16 * MIB, "shared memory", "/dev/shm/theirs", "rw-s", resident=0, swapped=0),
            lies(0x7FFFF0000000, 132 * KIB, "stack", "[stack]", resident=68 * KIB, swapped=0),
            lies(0x7FFFF7FF0000, 16 * KIB, "vdso", "[vdso]", "r-xp", resident=PAGE, swapped=0),
            lies(0xFFFFFFFFFF600000, PAGE, "vdso", "[vsyscall]", "--xp", resident=0, swapped=0),
        ],
        pid=2345,
        title="python",
        arenas=[{"start": hex(pool), "stop": hex(pool + 8 * GIB), "name": "weights", "quota": None, "fill": fill}],
        heaps=[
            {"start": hex(index), "stop": hex(index + 4 * MIB), "name": None, "identity": "0" * 32,
             "read_only": False, "fill": {**fill, "committed": 4 * MIB, "used": MIB, "high_water": 3 * MIB},
             "holders": [], "channels": []},
        ],
        unread=["what stead holds: not all of it"],
    )  # fmt: skip


def picture(seen: ProcessSeen, **more: Any) -> str:
    from stead.view.space import print_process

    return drawn(print_process, seen, HOST, **more)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("plain", {}),
        ("colour", {"colour": True}),
        ("ascii", {"encoding": "ascii"}),
        ("wide", {"width": 120}),
    ],
)
def test_the_picture(name: str, more: dict[str, Any]) -> None:
    text = picture(example(), **more)
    if not more.get("colour"):
        assert max(map(len, text.splitlines())) <= more.get("width", 80)
    expect(text, PICTURES / f"space-{name}.txt")


def test_what_a_picture_says_without_colour() -> None:
    text = picture(example())
    assert text.splitlines()[0] == "python · pid 2345 · 15 mappings"
    assert re.search(r"reserved 8.06 GiB .*resident .*swapped 1 MiB", text, re.DOTALL)
    for state in ("█ ours", "░ ours", "╳ guard", "░ reserved", "█ anonymous", "█ code", "█ shared", "╌ free"):
        assert state in text
    assert re.search(r"█ ours +48 MiB .* 83% pool", text)
    assert re.search(r"█ heap +4 MiB .* 99% \[heap\]", text)  # not all of it: never 100 %
    assert re.search(r"█ anonymous +64 MiB .* 1%", text)  # not nothing: never 0 %
    assert re.search(r"arena weights +▕.*▏ 24 MiB of 32 MiB, 1,200 blocks", text)
    assert "not seen: what stead holds: not all of it" in text
    assert "vsyscall" not in text
    assert "vsyscall" in picture(example(), everything=True)


def test_what_is_not_known_is_not_made_up() -> None:
    text = picture(process([at(0x10000, 4, "[heap]")]))
    assert "resident" not in text
    assert "%" not in text


def test_colour_only_where_it_is_wanted() -> None:
    assert "\x1b[" in picture(example(), colour=True)
    assert "\x1b" not in picture(example())


def test_names_cannot_move_the_cursor_nor_break_the_table() -> None:
    from rich.cells import cell_len

    names = ["/a\nb", "/\x1b[2J", "/\udcff", "/" + "\u6f22" * 60, "/[bold]x[/bold]", "/" + "x" * 300, "/\u202e"]
    mappings = [at(0x1000000 * (n + 1), 1, name, inode=9) for n, name in enumerate(names)]
    arena = {"start": "0x1000", "stop": "0x2000", "quota": None, "fill": example()["arenas"][0]["fill"]}
    hostile = [{**arena, "name": name} for name in names]
    for encoding in ("utf-8", "ascii"):
        seen = process(mappings, title="some\x1b[31mone", arenas=hostile, unread=["\x1b[2J"])
        text = picture(seen, encoding=encoding)
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "[bold]x[/bold]" in text
        assert "/a\\nb" in text
        assert max(map(cell_len, text.splitlines())) <= 80


def test_60_000_mappings_fit_on_a_screen() -> None:
    # Folding one row at a time would take minutes here, and end at the time limit of every test.
    many = [at(0x400000000000 + 2 * n * PAGE, 1 + n % 2, f"/lib/{n}", inode=7) for n in range(60_000)]
    many += [at(0x7F0000000000, 33, "[stack]")]
    for everything in (False, True):
        text = picture(process(many), everything=everything)
        assert "60,001 mappings" in text
        assert len(text.splitlines()) <= 40 or everything
        assert "[stack]" in text


def test_sixty_thousand_of_our_own_fit_too() -> None:
    many = [at(0x400000000000 + 2 * n * PAGE, 1, "/memfd:stead:x", "rw-s", inode=7) for n in range(60_000)]
    text = picture(process([replace(each, kind=Kind.OURS) for each in many]))
    assert len(text.splitlines()) <= 40
    assert re.search(r"[0-9,]+ small, all ours", text)


def test_many_arenas_are_counted() -> None:
    arena = example()["arenas"][0]
    many = [{**arena, "name": f"number {n}"} for n in range(30)]
    text = picture(process([at(0x10000, 1, "[heap]")], arenas=many))
    assert "number 7" in text
    assert "number 8" not in text
    assert "and 22 more arenas and heaps" in text
    assert "number 29" in picture(process([at(0x10000, 1, "[heap]")], arenas=many), everything=True)


def test_several_processes_are_drawn_one_after_the_other() -> None:
    from stead.view.space import print_artefact

    both = artefact(process([at(0x10000, 1)], pid=7), process([at(0x20000, 1)], pid=8, rank=3))
    text = drawn(print_artefact, both)
    assert "someone · pid 7" in text
    assert "rank 3 · someone · pid 8" in text


def test_what_this_process_is_drawn_as() -> None:
    with stead.reserve("64 GiB", name="pool of mine", guard="1 MiB") as held:
        view = held.commit(0, "1 MiB", backing="shared")
        view[:] = bytes(len(view))
        [seen] = stead.capture()["processes"]
        text = picture(seen, everything=True, width=120)
        view.release()
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith("0x")}
    assert re.search(r"█ ours +rw-s +1 MiB .*100% pool of mine", lines[f"{held.address:#014x}"])
    assert re.search(r"░ ours +---p +64 GiB", lines[f"{held.address + MIB:#014x}"])
    assert re.search(r"╳ guard +---p +1 MiB .*pool of mine", lines[f"{held.outer.start:#014x}"])


# ---- folding --------------------------------------------------------------------------------------


def rows_of(sizes: list[int], kinds: list[int]) -> list[Any]:
    from stead.seeing.capture import mapping_seen
    from stead.view.rows import row_of

    names = ["", "[heap]", "[stack]", "/lib/x"]
    mappings: list[Mapping] = []
    start = 0x10000
    for size, kind in zip(sizes, kinds, strict=False):
        mappings.append(at(start, size, names[kind], inode=5 if names[kind].startswith("/") else 0))
        start = mappings[-1].range.stop + PAGE
    return [row_of(mapping_seen(each)) for each in mappings]


@given(st.lists(st.integers(1, 1000), max_size=200), st.integers(5, 60), st.data())
def test_folding_keeps_every_byte_and_never_folds_heap_or_stack(
    sizes: list[int], lines: int, data: st.DataObject
) -> None:
    from stead.view.rows import fold

    kinds = [0] * len(sizes)
    for kind in (1, 2):
        if sizes:
            kinds[data.draw(st.integers(0, len(sizes) - 1))] = kind
    rows = rows_of(sizes, kinds)
    folded = fold(rows, lines)
    assert len(folded) <= lines
    assert sum(row.size for row in folded) == sum(row.size for row in rows)
    assert [row.range.start for row in folded] == sorted(row.range.start for row in folded)
    assert {row.name for row in rows} & {"[heap]", "[stack]"} == {row.name for row in folded} & {
        "[heap]",
        "[stack]",
    }
    counts = [int(match[1]) for row in folded if (match := re.match(r"(\d+) small", row.name))]
    assert 1 not in counts
    assert sum(counts) + len(folded) - len(counts) == len(rows)
    if len(rows) <= lines:
        assert folded == rows


def test_gaps_are_worth_a_line_from_a_gibibyte_on() -> None:
    text = picture(process([at(GIB, 1), at(GIB + PAGE + GIB - PAGE, 1), at(3 * GIB, 1)]))
    assert text.count("free  ") >= 2
    assert re.search(r"free +128 TiB", picture(process([at(TIB >> 30 << 12, 1)])))
