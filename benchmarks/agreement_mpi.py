"""What it costs all ranks of an MPI job to agree on a range: beside what one writes by hand with mpi4py.

mpiexec -n 4 python benchmarks/agreement_mpi.py; rank 0 prints. README.md says what the rows mean.
"""

from __future__ import annotations

import argparse
import contextlib
import io

from harness import Bound, Report, Row, Section, in_turns, timed
from mpi4py import MPI

import stead

GiB = 1 << 30


def by_hand(comm: MPI.Intracomm) -> None:
    """Rank 0 chooses, all others claim the same: one loses, all lose; nobody looks what is where."""
    mine = stead.reserve(GiB) if comm.rank == 0 else None
    address = comm.bcast(mine.address if mine else None)
    if mine is None:
        with contextlib.suppress(stead.Occupied):
            mine = stead.reserve(GiB, at=address)
    all_have_it = comm.allreduce(mine is not None, MPI.LAND)
    if mine is not None:
        mine.release()
    assert all_have_it


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run; its numbers mean little")
    parser.add_argument("--json", metavar="FILE", help="write all samples, in nanoseconds")
    options = parser.parse_args()
    rounds, n = (3, 10) if options.quick else (21, 100)
    comm = MPI.COMM_WORLD
    with stead.peers.Mpi(comm) as together:
        cases = {
            "stead": timed(lambda: stead.reserve(GiB, together=together).release()),
            "by hand": timed(lambda: by_hand(comm)),
            "barrier": timed(comm.Barrier),
        }
        samples = in_turns(cases, rounds, n)
    # Each rank's loop ends when it has its last answer: the slowest rank's figure counts.
    slowest = {name: comm.allreduce(each, lambda a, b: list(map(max, a, b))) for name, each in samples.items()}
    with contextlib.redirect_stdout(io.StringIO()) if comm.rank else contextlib.nullcontext():
        report = Report(rounds)
        print(f"{comm.size} ranks, {MPI.Get_library_version().splitlines()[0].strip()}")
        five_ms = [5e6] * rounds
        hand = ("by hand", slowest["by hand"])
        report.show(
            Section(
                "all ranks agree on 1 GiB, and give it back",
                [
                    Row("a barrier", slowest["barrier"]),
                    Row("by hand: choose, bcast, claim, allreduce", slowest["by hand"]),
                    Row("reserve(together=Mpi(comm))", slowest["stead"], hand),
                    Row("the same", slowest["stead"], ("5 ms", five_ms), Bound("<=", 1.0)),
                ],
            )
        )
        report.end(options.json if comm.rank == 0 else None)


if __name__ == "__main__":
    main()
