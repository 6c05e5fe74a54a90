"""How many peers meet, where, and what it costs them: simulated, with recorded footprints and adversarial ones.

python benchmarks/agreement.py [--quick]: tables. With --docs docs: writes docs/agreement.svg and the tables of
docs/agreement.md too (needs matplotlib). Every run is drawn by its number: the same again next time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from harness import machine
from simulation import adversaries
from simulation.crowd import WINDOWS, Crowd, CrowdSpace, Peers
from simulation.meeting import USABLE, ListedSpace, Meeting, meet
from simulation.recorded import ADDRESS_SANITIZER, EVERYDAY, THREAD_SANITIZER, programs

from stead.agreement import Participant
from stead.placement import Placement, quiet_windows
from stead.ranges import Range
from stead.sizes import format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

GiB, TiB = 1 << 30, 1 << 40
BIG_PAGE = 1 << 21  # reserve() aligns to it what is at least as large
# Of each crowd, so many are participants of their own, and send what they would send.
ALONE = 4

SANITIZED_WINDOWS = quiet_windows(USABLE, 4096, "thread")

WHERE: dict[str, tuple[Range, ...]] = {
    "as reserve() looks": WINDOWS,
    "anywhere": (USABLE,),
    "below 4 GiB": (Range(1 << 16, 4 * GiB),),
    "the kernel's mmap area": (Range(0x7EFB_F000_0000, 0x7FFB_F000_0000),),
}


@dataclass(frozen=True)
class Case:
    """What is run again and again. ``holding``: reservations of 1 GiB that each peer has made before.
    ``stolen``: how often a claim is lost by somebody in the last moment. ``sanitized``: one of the peers runs
    under ThreadSanitizer; and ``mixed``: many of them under AddressSanitizer."""

    peers: int
    where: str
    size: int
    runs: int
    holding: float = 0.0
    stolen: float = 0.0
    sanitized: bool = False
    mixed: bool = True


class Outcome(NamedTuple):
    """Of one run. ``bytes``: by each peer in its longest exchange; ``all_bytes``: by each in all of them."""

    found: bool
    exchanges: int
    claims: int
    bytes: int
    all_bytes: int

    @classmethod
    def of(cls, meeting: Meeting) -> Outcome:
        both = [sent + received for sent, received in zip(meeting.sent, meeting.received, strict=True)]
        return cls(
            meeting.found, meeting.exchanges, meeting.claims, max(meeting.sent + meeting.received), sum(both)
        )


def run(case: Case, number: int) -> Outcome:
    """One meeting of a crowd, as it is drawn for this number."""
    random = Random(f"{case} {number}")
    windows = WHERE[case.where]
    wanted = tuple(Placement(case.size, each, BIG_PAGE) for each in windows)
    thief = _stealing(random, case.stolen)
    everyday = [each for each in EVERYDAY if case.mixed or each != ADDRESS_SANITIZER]
    peers = Peers(everyday, case.peers - ALONE, random.getrandbits(64), case.holding)
    participants: list[Participant] = [Crowd(CrowdSpace(peers, windows, thief), wanted, random.randbytes(16))]
    names = random.choices(everyday, k=ALONE)
    if case.sanitized:
        names[0] = THREAD_SANITIZER
    for name in names:
        mapped = random.choice(programs()[name]).restarted(random)
        space = ListedSpace(mapped, windows)
        if name == THREAD_SANITIZER:  # anywhere else it would abort the process, and so stead does not look there
            space = ListedSpace(mapped, SANITIZED_WINDOWS, usable=SANITIZED_WINDOWS[-1])
        theirs = tuple(Placement(case.size, each, BIG_PAGE) for each in space.windows)
        participants.append(Participant(space, theirs, random.randbytes(16), name))
    return Outcome.of(meet(participants))


def _stealing(random: Random, chance: float) -> Callable[[Range], bool]:
    return lambda _: random.random() < chance


def run_against(kind: str, peers: int, number: int) -> Outcome:
    """One meeting of adversaries, for 1 GiB within 1 TiB."""
    window, random = Range(WINDOWS[0].start, WINDOWS[0].start + TiB), Random(f"{kind} {peers} {number}")
    return Outcome.of(
        meet(
            [
                Participant(space, (Placement(GiB, window),), random.randbytes(16), f"peer {i}")
                for i, space in enumerate(adversaries.KINDS[kind](window, GiB, peers, random))
            ]
        )
    )


# ---- tables ---------------------------------------------------------------------------------------


def cells(outcomes: Sequence[Outcome], peers: int) -> list[str]:
    """The columns that every table ends with."""
    exchanges = [each.exchanges for each in outcomes]
    met = sum(each.found for each in outcomes) / len(outcomes)
    total = max(each.all_bytes for each in outcomes)
    return [
        f"{len(outcomes):,}",
        f"{met:.1%}" if met < 1 else "all",
        f"{max(each.claims for each in outcomes)}",
        f"{median(exchanges):g}, {max(exchanges)}",
        f"{max(each.bytes for each in outcomes) / 1024:.1f} KiB",
        f"{total / 1024:.1f} KiB",
        format_size(total * peers),
    ]


COLUMNS = [
    "runs", "met", "rounds", "exchanges", "bytes, longest message", "bytes of each peer", "bytes of all",
]  # fmt: skip


def table(heads: list[str], rows: list[list[str]]) -> str:
    """As Markdown."""
    lines = [heads + COLUMNS, ["---"] * (len(heads) + len(COLUMNS)), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


class Simulation:
    """Runs cases on all processors, and keeps what came of them."""

    def __init__(self, pool: multiprocessing.pool.Pool, fraction: float) -> None:
        self._pool, self._fraction = pool, fraction
        self.outcomes: dict[str, list[Outcome]] = {}

    def of(self, case: Case) -> list[Outcome]:
        return self._all(repr(case), partial(run, case), case.runs)

    def against(self, kind: str, peers: int, runs: int) -> list[Outcome]:
        return self._all(f"{kind}, {peers} peers", partial(run_against, kind, peers), runs)

    def _all(self, name: str, function: Callable[[int], Outcome], runs: int) -> list[Outcome]:
        if name not in self.outcomes:
            wanted = max(int(runs * self._fraction), 2)
            self.outcomes[name] = list(self._pool.imap(function, range(wanted), chunksize=max(wanted // 64, 1)))
        return self.outcomes[name]


def realistic() -> Iterable[Case]:
    for where in WHERE:
        for peers, runs in ((10, 400), (1_000, 200), (100_000, 20)):
            for size in (GiB, 64 * GiB, TiB, 16 * TiB):
                if size <= max(each.size for each in WHERE[where]):
                    yield Case(peers, where, size, runs)


MANY = [Case(100_000, "as reserve() looks", GiB, 10_000, stolen=stolen) for stolen in (0.0, 0.01)]
BUSY = [
    Case(peers, "as reserve() looks", GiB, 20, holding)
    for peers in (1_000, 100_000)
    for holding in (0.1, 1.0, 4.0, 16.0)
]
SANITIZED = [
    Case(100_000, "as reserve() looks", size, 20, sanitized=True, mixed=mixed)
    for size in (GiB, 64 * GiB)
    for mixed in (False, True)
]


def tables(simulation: Simulation) -> dict[str, str]:
    found = {}
    rows = [
        [case.where, f"{case.peers:,}", format_size(case.size), *cells(simulation.of(case), case.peers)]
        for case in realistic()
    ]
    found["recorded"] = table(["window", "peers", "size"], rows)
    rows = [[f"{case.peers:,}", f"{case.stolen:.0%}", *cells(simulation.of(case), case.peers)] for case in MANY]
    found["many"] = table(["peers", "claims stolen"], rows)
    rows = [[f"{case.peers:,}", f"{case.holding:g}", *cells(simulation.of(case), case.peers)] for case in BUSY]
    found["busy"] = table(["peers", "each holds, of 1 GiB"], rows)
    rows = [
        [
            f"{case.peers:,}, one under ThreadSanitizer" + ", many under AddressSanitizer" * case.mixed,
            format_size(case.size),
            *cells(simulation.of(case), case.peers),
        ]
        for case in SANITIZED
    ]
    found["sanitized"] = table(["peers", "size"], rows)
    rows = [
        [kind, f"{peers:,}", *cells(simulation.against(kind, peers, runs), peers)]
        for kind in adversaries.KINDS
        for peers, runs in ((10, 200), (1_000, 10))
    ]
    found["adversaries"] = table(["adversaries", "peers"], rows)
    return found


# ---- docs -----------------------------------------------------------------------------------------


def plot(simulation: Simulation, file: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "stead"  # the same picture, byte for byte
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
    sizes = [GiB, 4 * GiB, 16 * GiB, 64 * GiB, 256 * GiB, TiB, 16 * TiB]
    area = "the kernel's mmap area"
    lines = [
        ("as reserve() looks", 100_000, "o-"),
        (area, 10, "s--"),
        (area, 100, "^:"),
        (area, 1_000, "D-."),
        (area, 10_000, "v-"),
    ]
    for where, peers, style in lines:
        fitting = [size for size in sizes if size <= max(each.size for each in WHERE[where])]
        rates = []
        for size in fitting:
            outcomes = simulation.of(Case(peers, where, size, 20))
            rates.append(100 * sum(each.found for each in outcomes) / len(outcomes))
        label = f"{where}, {peers:,} peers"
        left.plot([size / GiB for size in fitting], rates, style, label=label, markersize=4, linewidth=1.2)
    left.set(xscale="log", xlabel="size, GiB", ylabel="met, % of runs", title="by window, size and peers")
    left.set_ylim(-4, 104)
    left.legend(fontsize=8, loc="center right")
    crowds = [10, 100, 1_000, 10_000, 100_000]
    for holding, style in ((0.0, "o-"), (0.1, "s--"), (1.0, "^:")):
        cases = [Case(each, "as reserve() looks", GiB, 20, holding) for each in crowds]
        kib = [max(each.all_bytes for each in simulation.of(case)) / 1024 for case in cases]
        label = f"{holding:g} reservations each before" if holding else "nothing reserved before"
        right.plot(crowds, kib, style, label=label, markersize=4, linewidth=1.2)
    right.axhline(64, color="grey", linewidth=0.8)
    right.text(crowds[0], 68, "64 KiB: the bound for one exchange", fontsize=8, color="grey")
    right.set(
        xscale="log",
        yscale="log",
        xlabel="peers",
        ylabel="KiB",
        title="sent and received by each peer, in all, 1 GiB",
    )
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_formatter("")
    right.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, 0.9))
    for axes in (left, right):
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(alpha=0.3, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, metadata={"Date": None})


def write(found: dict[str, str], file: Path) -> None:
    """Each table between its two marks."""
    text = file.read_text()
    for name, lines in found.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = before + begin + lines + end + after
    file.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a hundredth of the runs, at least two of each")
    parser.add_argument("--docs", type=Path, metavar="FOLDER", help="write agreement.svg and the tables there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every outcome")
    options = parser.parse_args()
    begun = time.monotonic()
    about = machine()
    with multiprocessing.get_context("forkserver").Pool() as pool:
        simulation = Simulation(pool, 0.01 if options.quick else 1.0)
        found = tables(simulation)
        for name, lines in found.items():
            print(f"\n{name}\n\n{lines}")
        if options.docs:
            plot(simulation, options.docs / "agreement.svg")
            write(found, options.docs / "agreement.md")
    print("\n".join(f"{key}: {value}" for key, value in about.items()))
    print(f"took {(time.monotonic() - begun) / 60:.1f} minutes")
    if options.json:
        options.json.write_text(json.dumps({"machine": about, "outcomes": simulation.outcomes}, indent=1))


if __name__ == "__main__":
    main()
