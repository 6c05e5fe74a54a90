"""One range for all ranks: undisturbed, crowded, impossible, and with a rank that does not come."""

from __future__ import annotations

import importlib
from typing import Any

import stead
from stead.peers import mpi
from stead.ranges import Range

GiB = 1 << 30
WINDOW = Range(0x4100_0000_0000, 0x4100_0000_0000 + 64 * GiB)


def all_equal(comm: Any, value: object) -> bool:
    return len(set(comm.allgather(value))) == 1


def undisturbed(comm: Any) -> None:
    with stead.peers.Mpi(comm) as together:
        held = [stead.reserve(GiB, together=together) for _ in range(20)]
        assert all_equal(comm, tuple(each.range for each in held))
        assert len({each.range for each in held}) == 20
        assert all_equal(comm, held[0].identity)


def crowded(comm: Any) -> None:
    """Each rank has all but two places of the window taken, one of which all have free."""
    common = WINDOW.start + 17 * GiB
    own = WINDOW.start + (20 + comm.rank) * GiB
    taken = []
    for n in range(64):
        at = WINDOW.start + n * GiB
        if at not in (common, own):
            taken.append(stead.reserve(GiB, at=at))
    with stead.peers.Mpi(comm) as together:
        found = stead.reserve(GiB, within=WINDOW, together=together)
        expected = common if comm.size > 1 else found.address
        assert found.address == expected, hex(found.address)
        found.release()
        blocker = stead.reserve(GiB, at=common) if comm.rank == comm.size - 1 else None
        try:
            stead.reserve(GiB, within=WINDOW, together=together)
        except stead.NoGap as error:
            assert f"rank {comm.size - 1} " in str(error), error
            assert "reserved by stead" in str(error), error
            assert all_equal(comm, str(error))
        else:
            assert comm.size == 1
        # The exchange is as good as before.
        assert all_equal(comm, stead.reserve(GiB, together=together).range)
    del blocker, taken


def disagreeing(comm: Any) -> None:
    with stead.peers.Mpi(comm) as together:
        try:
            stead.reserve(GiB * (1 + (comm.rank == 1)), together=together)
        except stead.PeersDisagree as error:
            assert "size" in str(error)
            assert "rank 1 " in str(error), error
        else:
            assert comm.size == 1


def absent(comm: Any) -> None:
    """The others end with nothing held; who did not come is named."""
    missing = comm.size - 1
    mpi._LEVEL = 1.0  # a rank that gets no processor for a second shall not be named in its place
    together = stead.peers.Mpi(comm, timeout=1.0)
    before = len(stead.snapshot().mappings)
    if comm.rank != missing:
        for _ in range(2):
            try:
                stead.reserve(GiB, together=together)
            except stead.PeerFailed as error:
                assert error.peer.startswith(f"rank {missing}") or comm.size > 3, error
            else:
                raise AssertionError("without a rank")
        assert len(stead.snapshot().mappings) <= before
    comm.Barrier()
    together.close()


def main() -> None:
    comm: Any = importlib.import_module("mpi4py.MPI").COMM_WORLD
    for part in (undisturbed, crowded, disagreeing, absent):
        part(comm)
        comm.Barrier()
    for wrong in (None, 7, "comm"):
        try:
            stead.peers.Mpi(wrong)
        except TypeError as error:
            assert "comm is" in str(error)
        else:
            raise AssertionError(wrong)
    print("good", flush=True)


if __name__ == "__main__":
    main()
