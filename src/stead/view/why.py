"""What is at an address: `stead why`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from stead.sizes import format_size
from stead.view.rows import print_rows, range_of, row_of
from stead.view.text import plain, plural, print_facts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from stead.seeing.why import Answer, There, Why

_MOST = 10


def print_why(console: Console, why: Why) -> None:
    where = f"{why.where.start:#x}" if why.where.size == 1 else str(why.where)
    everywhere = f" in all {len(why.answers):,} processes" * (len(why.answers) > 1)
    if not why.usable.contains(why.where):
        console.print(plain(console, f"{where} is outside of {why.usable}, all that can be mapped"), style="bold")
    elif why.free:
        console.print(plain(console, f"{where} is free{everywhere}"), style="bold")
    else:
        console.print(plain(console, where), style="bold")
    for answer in why.answers:
        _print_answer(console, answer)
    if why.free:
        return
    size = format_size(max(why.where.size, 4096))
    nearest = [
        (f"nearest {side}", str(found) if found else f"no room for {size}")
        for side, found in (("below", why.below), ("above", why.above))
    ]
    print_facts(console, nearest)


def _print_answer(console: Console, answer: Answer) -> None:
    process = f"process {answer.process['pid']}"
    if answer.process["title"]:
        process += f" ({answer.process['title']})"
    console.print(plain(console, f"{'free ' * answer.free}in {process}"))
    facts = [("kept clear", f"{room}: {why}") for room, why in answer.kept_clear]
    if len(answer.there) == 1:
        facts += _facts(answer.there[0])
    print_facts(console, facts)
    if len(answer.there) > 1:
        print_rows(console, [row_of(each.mapping) for each in answer.there[:_MOST]])
        if len(answer.there) > _MOST:
            console.print(f"and {len(answer.there) - _MOST:,} more")


def _facts(there: There) -> Iterator[tuple[str, str]]:
    mapping = there.mapping
    yield "whose", there.owner
    yield "mapping", f"{range_of(mapping)} {mapping['access']}, {mapping['state']}"
    if there.reservation:
        parts = there.reservation["parts"]
        start, stop = there.reservation["start"], there.reservation["stop"]
        yield "reservation", f"{start}–{stop}, {plural(len(parts), 'part')} committed"
        lies = range_of(mapping)
        for part in parts:
            if int(part["start"], 16) < lies.stop and lies.start < int(part["stop"], 16):
                yield "backing", f"{part['backing']}, access {part['access']!r}"
                break
    for what, each in [*(("arena", each) for each in there.arenas), *(("heap", each) for each in there.heaps)]:
        fill = each["fill"]
        text = each["name"] or "without a name"
        if fill:
            text += f": {format_size(fill['used'])} of {format_size(fill['committed'])} used"
        yield what, text
    for heap in there.heaps:
        yield "held by", ", ".join(f"process {each['pid']}" for each in heap["holders"])
    if mapping["resident"] is not None:
        yield "in memory", f"{format_size(mapping['resident'])} of {format_size(range_of(mapping).size)}"
    if there.page:
        yield "this page", there.page
    if there.since is None:
        yield "since", "not known"
    else:
        yield "since", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(there.since))
