"""What real programs have mapped, as it was recorded, and as it would be in starts that were not.

Address space randomization moves what the kernel placed: the program and its heap, the mmap area, the stack, each
by an amount of its own (Documentation/admin-guide/sysctl/vm.rst, mmap_rnd_bits: 28 bits of pages on x86-64). What
a program placed itself stays where it was. Groups are moved by multiples of 64 MiB, so that what is aligned stays
so; below that, the recorded starts differ.
"""

from __future__ import annotations

import json
import lzma
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stead.ranges import Range

if TYPE_CHECKING:
    from random import Random

FILE = Path(__file__).resolve().parent.parent / "footprints" / "footprints.json.xz"
STEP = 1 << 26
_TiB = 1 << 40


class Area(NamedTuple):
    """Where the kernel places something: what lies within moves as one, so that its ``end`` is in ``drawn``."""

    within: Range
    end: str
    drawn: Range


# arch/x86/mm/mmap.c and fs/binfmt_elf.c, 47 bits: ELF_ET_DYN_BASE is two thirds of all; the mmap area ends below
# the room for the stack, which begins within the last 16 GiB; where the stack has no limit, five sixths are its.
AREAS = (
    Area(Range(0x5555_5555_4000, 0x5680_0000_0000), "start", Range(0x5555_5555_4000, 0x5655_5555_4000)),
    Area(Range(0x7EA0_0000_0000, 0x7FFB_F000_0000), "stop", Range(0x7EFB_F000_0000, 0x7FFB_F000_0000)),
    Area(Range(0x7FFB_F000_0000, 0x8000_0000_0000), "stop", Range(0x7FFC_0000_0000, 0x7FFF_FFFF_F000)),
    Area(Range(0x1400_0000_0000, 0x1555_5555_6000), "stop", Range(0x1455_5555_5000, 0x1555_5555_5000)),
)
_MMAP, _MMAP_UNLIMITED = 1, 3


@dataclass(frozen=True, slots=True)
class Start:
    """One recorded start: its ranges in order, which area each is of (-1: none), and by how many steps each area
    may be moved: from, to."""

    ranges: tuple[Range, ...]
    areas: tuple[int, ...]
    moves: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, ranges: tuple[Range, ...]) -> Start:
        areas = tuple(
            next((i for i, area in enumerate(AREAS) if area.within.contains(each)), -1) for each in ranges
        )
        if _MMAP in areas:  # it has only one of the two: what is where the other would be, the program placed
            areas = tuple(-1 if area == _MMAP_UNLIMITED else area for area in areas)
        moves = []
        for number, area in enumerate(AREAS):
            inside = [each for each, its in zip(ranges, areas, strict=True) if its == number]
            if not inside:
                moves.append((0, 0))
                continue
            at = inside[0].start if area.end == "start" else inside[-1].stop
            moves.append((-((at - area.drawn.start) // STEP), (area.drawn.stop - at) // STEP))
        return cls(ranges, areas, tuple(moves))

    def restarted(self, random: Random) -> list[Range]:
        """Its ranges in a start that was not recorded, in order."""
        by = [random.randint(*each) * STEP for each in self.moves] + [0]
        return [
            Range(each.start + by[area], each.stop + by[area])
            for each, area in zip(self.ranges, self.areas, strict=True)
        ]


@cache
def programs() -> dict[str, tuple[Start, ...]]:
    """The recorded starts of each program, by its name."""
    recorded = json.loads(lzma.decompress(FILE.read_bytes()))
    return {
        name: tuple(Start.of(tuple(Range(*each) for each in ranges)) for ranges in found["starts"])
        for name, found in recorded.items()
    }


# ThreadSanitizer owns both quiet windows: a crowd with one of its processes in it is another case.
ADDRESS_SANITIZER = "c, address sanitizer"
THREAD_SANITIZER = "c, thread sanitizer"
EVERYDAY = tuple(name for name in programs() if name != THREAD_SANITIZER)
