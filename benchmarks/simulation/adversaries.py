"""Peers that nobody has, and that an agreement must survive: each kind is a list of peers' spaces for a window.

Deterministic for a seed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulation.meeting import ListedSpace

from stead.ranges import Range, RangeSet

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

PAGE = 4096


def _needle(window: Range, size: int, peers: int, random: Random) -> list[ListedSpace]:
    """Between them everything is taken but one range of exactly the size; each has its share of the rest."""
    at = window.start + random.randrange((window.size - size) // PAGE) * PAGE
    rest = [
        Range(start, min(start + size, stop))
        for low, stop in ((window.start, at), (at + size, window.stop))
        for start in range(low, stop, size)
    ]
    random.shuffle(rest)
    return [ListedSpace(rest[number::peers], (window,)) for number in range(peers)]


def _nothing(window: Range, size: int, peers: int, random: Random) -> list[ListedSpace]:
    """The same, with a page in that one range as well."""
    found = _needle(window, size, peers, random)
    [free] = RangeSet(each for space in found for each in space.occupied).gaps(window)
    page = Range.sized(free.start + random.randrange(size // PAGE) * PAGE, PAGE)
    found[random.randrange(peers)].occupied |= RangeSet([page])
    return found


def _combs(window: Range, size: int, peers: int, random: Random) -> list[ListedSpace]:
    """Each has a page in every (size + one page), from a place of its own on: room for each, hardly for two."""
    pitch = size + PAGE
    found = []
    for _ in range(peers):
        begin = window.start + random.randrange(pitch // PAGE) * PAGE
        teeth = [Range.sized(at, PAGE) for at in range(begin, window.stop - PAGE, pitch)]
        found.append(ListedSpace(teeth, (window,)))
    return found


def _dust(window: Range, size: int, peers: int, random: Random) -> list[ListedSpace]:
    """Pages everywhere, 1,000 in all, whoever has them."""
    pages: list[list[Range]] = [[] for _ in range(peers)]
    for _ in range(1000):
        at = window.start + random.randrange(window.size // PAGE) * PAGE
        random.choice(pages).append(Range.sized(at, PAGE))
    return [ListedSpace(each, (window,)) for each in pages]


def _thieves(chance: float) -> Callable[[Range, int, int, Random], list[ListedSpace]]:
    def thieves(window: Range, size: int, peers: int, random: Random) -> list[ListedSpace]:
        def steals(_: Range) -> bool:
            return random.random() < chance / peers

        return [ListedSpace((), (window,), thief=steals) for _ in range(peers)]

    thieves.__doc__ = f"Of {chance:.0%} of all claims, somebody's is lost to another thread in the last moment."
    return thieves


def _pages_and_widths(window: Range, size: int, peers: int, random: Random) -> list[ListedSpace]:
    """Pages of 4, 16 and 64 KiB; and some can map no more than the lower half of the window."""
    half = Range(1 << 16, window.start + window.size // 2)
    return [
        ListedSpace(
            (),
            (window.intersection(half) or window,) if random.random() < 0.1 else (window,),
            random.choice((PAGE, 4 * PAGE, 16 * PAGE)),
            usable=half if random.random() < 0.1 else Range(1 << 16, 1 << 47),
        )
        for _ in range(peers)
    ]


KINDS: dict[str, Callable[[Range, int, int, Random], list[ListedSpace]]] = {
    "one range is left": _needle,
    "none is left": _nothing,
    "combs": _combs,
    "dust": _dust,
    "thieves, 10 %": _thieves(0.1),
    "thieves, 100 %": _thieves(1.0),
    "pages and widths": _pages_and_widths,
}
