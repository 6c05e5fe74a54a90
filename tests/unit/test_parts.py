"""The table of committed parts, against a model of single pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from stead.backing import ANONYMOUS, Source
from stead.parts import Part, PartTable
from stead.ranges import Range

if TYPE_CHECKING:
    from stead.space.protocol import Access

PAGE = 4096
PAGES = 24

# What a page of a part is: which part, which file, where in the file.
Page = tuple[str, int, int]


def pages(start: int, stop: int) -> Range:
    return Range(start * PAGE, stop * PAGE)


@st.composite
def places(draw: st.DrawFn) -> Range:
    start = draw(st.integers(0, PAGES - 1))
    return pages(start, draw(st.integers(start + 1, PAGES)))


@st.composite
def parts(draw: st.DrawFn) -> Part:
    where = draw(places())
    fd = draw(st.sampled_from([-1, 3, 4]))
    offset = draw(st.integers(0, 100)) * PAGE if fd >= 0 else 0
    access: Access = draw(st.sampled_from(["none", "r", "rw"]))
    length = where.size - draw(st.integers(0, PAGE - 1))
    source = Source(flags=0, fd=fd, offset=offset)
    return Part(where, length, ANONYMOUS, source, access)


operations = st.lists(st.tuples(st.sampled_from(["put", "add", "cut"]), parts()), max_size=10)


def by_page(part: Part) -> dict[int, Page]:
    first = part.range.start // PAGE
    step = PAGE if part.source.fd >= 0 else 0
    return {
        first + n: (part.access, part.source.fd, part.source.offset + n * step)
        for n in range(part.range.size // PAGE)
    }


def built(steps: list[tuple[str, Part]]) -> tuple[PartTable, dict[int, Page]]:
    table, model = PartTable(), dict[int, Page]()
    for what, part in steps:
        if what == "put":
            table.put(part)
            model |= by_page(part)
        elif what == "add":
            if (there := table.add(part)) is None:
                assert not by_page(part).keys() & model.keys(), "it was not free"
                model |= by_page(part)
            else:
                assert there.range.overlaps(part.range)
        else:
            inside = {page: each for page, each in model.items() if page in by_page(part)}
            assert listed(table.cut(part.range)) == inside
            model = {page: each for page, each in model.items() if page not in inside}
    return table, model


def listed(found: list[Part]) -> dict[int, Page]:
    together: dict[int, Page] = {}
    for each in found:
        mine = by_page(each)
        assert not mine.keys() & together.keys(), "parts overlap"
        together |= mine
    return together


ALL = pages(0, PAGES)


@given(operations)
def test_the_table_says_of_every_page_what_was_put_there_last(steps: list[tuple[str, Part]]) -> None:
    table, model = built(steps)
    found = table.overlapping(ALL)
    assert listed(found) == model
    assert found == sorted(found, key=lambda each: each.range)
    assert list(table) == found


@given(operations, places())
def test_what_is_inside_a_place_are_the_pieces_of_its_pages(steps: list[tuple[str, Part]], where: Range) -> None:
    table, model = built(steps)
    expected = {page: each for page, each in model.items() if pages(page, page + 1).overlaps(where)}
    inside = table.inside(where)
    assert listed(inside) == expected
    assert all(where.contains(each.range) for each in inside)


@given(operations, places())
def test_what_overlaps_a_place_is_given_whole(steps: list[tuple[str, Part]], where: Range) -> None:
    table, _ = built(steps)
    assert table.overlapping(where) == [each for each in table if each.range.overlaps(where)]


@given(operations, places())
def test_holes_are_the_pages_of_a_place_where_nothing_is(steps: list[tuple[str, Part]], where: Range) -> None:
    table, model = built(steps)
    empty = {page for hole in table.holes(where) for page in range(hole.start // PAGE, hole.stop // PAGE)}
    wanted = set(range(where.start // PAGE, where.stop // PAGE))
    assert empty == wanted - model.keys()


@given(operations)
def test_a_part_covers_the_bytes_that_were_asked_for_and_no_page_more(steps: list[tuple[str, Part]]) -> None:
    table, _ = built(steps)
    for each in table:
        assert each.range.size - PAGE < each.length <= each.range.size


@given(parts(), places())
def test_a_piece_keeps_backing_and_access_and_moves_in_its_file_alone(part: Part, where: Range) -> None:
    if not part.range.overlaps(where):
        return
    piece = part.piece(where)
    assert piece.range == part.range.intersection(where)
    assert (piece.backing, piece.access) == (part.backing, part.access)
    moved = piece.range.start - part.range.start if part.source.fd >= 0 else 0
    assert piece.source.offset == part.source.offset + moved


def test_a_part_put_into_the_middle_of_another_leaves_both_its_ends() -> None:
    table = PartTable()
    outer = Part(pages(0, 10), 10 * PAGE - 100, ANONYMOUS, Source(0, fd=5), "rw")
    inner = Part(pages(4, 6), 2 * PAGE, ANONYMOUS, Source(0, fd=6), "r")
    table.put(outer)
    table.put(inner)
    low, middle, high = table
    assert (low.range, low.source.offset, low.length) == (pages(0, 4), 0, 4 * PAGE)
    assert middle == inner
    assert (high.range, high.source.offset, high.length) == (pages(6, 10), 6 * PAGE, 4 * PAGE - 100)
