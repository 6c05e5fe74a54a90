"""What is wanted, what is seen, and where it goes: pure arithmetic.

The same placement and the same footprint give the same answer in every process, on every host and in
every version of Python: peers rely on it to agree without saying a place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from stead.ranges import Range, RangeSet, align_down, align_up
from stead.sizes import format_size

Preference = Literal["low", "high", "scattered"]

MAX_ALIGNMENT = 1 << 40


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a planner knows of a space: where it cannot go, and what ranges are multiples of (bytes).

    Footprints merge: a place is free in the union only where it is free in both.
    """

    occupied: RangeSet
    granularity: int

    def __or__(self, other: Footprint) -> Footprint:
        return Footprint(self.occupied | other.occupied, max(self.granularity, other.granularity))

    def without(self, where: Range) -> Footprint:
        """The same, with ``where`` occupied too."""
        return Footprint(self.occupied | RangeSet([where]), self.granularity)


class Slots(NamedTuple):
    """Ranges that fit: ``size`` bytes, in ``runs`` of a first start and a count, ``step`` bytes apart."""

    size: int
    step: int
    runs: tuple[tuple[int, int], ...]
    total: int

    def choose(self, prefer: Preference, seed: int, attempt: int) -> Range | None:
        """See :meth:`Placement.choose`."""
        size, step, runs, total = self
        if not total:
            return None
        if prefer == "scattered":
            chosen = scatter(seed, attempt) % total
        else:
            chosen = 0 if prefer == "low" else total - 1
        for first, count in runs:
            if chosen < count:
                return Range.sized(first + chosen * step, size)
            chosen -= count
        raise AssertionError(total)


@dataclass(frozen=True, slots=True)
class Placement:
    """What is wanted. All in bytes; ``size`` and ``guard`` are rounded up to whole pages where they are used.

    ``within``: the window that must contain the range and its guards. ``alignment``: a power of two, up
    to 1 TiB, of the range's start. ``guard``: kept free on both sides. ``prefer``: the lowest place, the
    highest, or one drawn by ``seed`` (equal seeds draw equal places).
    """

    size: int
    within: Range
    alignment: int = 1
    guard: int = 0
    prefer: Preference = "scattered"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size <= 0:
            raise ValueError(f"size is {self.size}, must be at least 1 byte")
        if self.alignment <= 0 or self.alignment & (self.alignment - 1):
            raise ValueError(f"align is {self.alignment:#x}, must be a power of two")
        if self.alignment > MAX_ALIGNMENT:
            raise ValueError(f"align is {format_size(self.alignment)}, must be at most 1 TiB")
        if self.guard < 0:
            raise ValueError(f"guard is {self.guard}, must not be negative")
        if self.prefer not in get_args(Preference):
            raise ValueError(f"prefer is {self.prefer!r}, must be one of {', '.join(get_args(Preference))}")
        if not 0 <= self.within.start < self.within.stop:
            raise ValueError(f"within is {tuple(self.within)}, must start at 0 or above and stop after its start")

    def with_guards(self, where: Range, granularity: int) -> Range:
        """What to claim for a range that :meth:`choose` gave."""
        guard = align_up(self.guard, granularity)
        return Range(where.start - guard, where.stop + guard)

    def choose(self, seen: Footprint, attempt: int = 0) -> Range | None:
        """A range that fits between what is seen, guards not included, or None if there is none.

        Never misaligned, never outside ``within``. ``attempt`` perturbs a scattered choice, so that
        those who lost together part ways; the lowest and the highest place stay what they are.
        """
        return self.slots(seen).choose(self.prefer, self.seed, attempt)

    def slots(self, seen: Footprint) -> Slots:
        """Every range that fits between what is seen."""
        size = align_up(self.size, seen.granularity)
        guard = align_up(self.guard, seen.granularity)
        step = max(self.alignment, seen.granularity)
        runs = []
        for gap in seen.occupied.gaps(self.within):
            first = align_up(gap.start + guard, step)
            room = gap.stop - guard - size - first
            if room >= 0:
                runs.append((first, room // step + 1))
        return Slots(size, step, tuple(runs), sum(count for _, count in runs))

    def nearest(self, seen: Footprint, address: int) -> Range | None:
        """The range that fits and starts nearest to ``address``; the lower of two."""
        slots = self.slots(seen)
        starts = []
        for first, count in slots.runs:
            number = (2 * (address - first) + slots.step - 1) // (2 * slots.step)  # halves go down
            starts.append(first + min(max(number, 0), count - 1) * slots.step)
        best = min(starts, key=lambda start: abs(start - address), default=None)
        return None if best is None else Range.sized(best, slots.size)

    def __str__(self) -> str:
        text = f"{format_size(self.size)} within {self.within}"
        if self.alignment > 1:
            text += f", aligned to {format_size(self.alignment)}"
        return text + (f", with a guard of {format_size(self.guard)} on both sides" if self.guard else "")


_MASK = (1 << 64) - 1


def scatter(seed: int, attempt: int) -> int:
    """64 bits that look random and are the same everywhere: SplitMix64 (Steele, Lea, Flood 2014), output
    number ``attempt`` of the generator that starts at ``seed``."""
    z = (seed + (attempt + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


# Where no program that we measured ever was (docs/decisions/0002): above the JVM, V8, Go and what
# `ulimit -s unlimited` brings down, below PIE programs, ASan's heap and the kernel's mmap area.
_QUIET_47 = (Range(0x4000_0000_0000, 0x5400_0000_0000), Range(0x6600_0000_0000, 0x6F00_0000_0000))
# ThreadSanitizer aborts the process on mappings in most places; here it does not (up to 64 GiB).
_QUIET_UNDER_TSAN = Range(0x10_0000_0000, 0x20_0000_0000)


def quiet_windows(usable: Range, granularity: int, sanitizer: str | None = None) -> tuple[Range, ...]:
    """The windows to try where the caller names none, the best first; the last is all that is usable.

    ``usable``: the addresses that this space can map at all. Below 47 bits the quiet windows keep their
    share of the space: everyone else (PIE at two thirds, mmap from the top, heaps from the bottom) does.
    """
    width = max(usable.stop - 1, 1).bit_length()
    shift = max(47 - width, 0)
    windows: list[Range] = [_QUIET_UNDER_TSAN] if sanitizer == "thread" else []
    if sanitizer != "thread":
        for each in _QUIET_47:
            windows.append(
                Range(align_up(each.start >> shift, granularity), align_down(each.stop >> shift, granularity))
            )
    clipped = [inside for each in windows if (inside := each.intersection(usable))]
    # Under ThreadSanitizer a wrong place is an abort, not a refusal: offer no other.
    return tuple(clipped) if sanitizer == "thread" and clipped else (*clipped, usable)
