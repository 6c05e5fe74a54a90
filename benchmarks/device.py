"""What a device's memory costs through stead, beside the driver's own calls, PyTorch's caching allocator and RMM.

    python benchmarks/device.py           # on a GPU
    python benchmarks/device.py --double  # on the tests' driver, in this host's memory: what stead adds to the
                                          # calls, whose own times are not those of a driver

Raw calls are made through cuda.bindings. Measures and does not judge: the exit status is 0.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from itertools import cycle, repeat
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from harness import Bound, Report, Row, Section, in_turns, timed

import stead
from stead.device_bytes import SentBytes
from stead.devices.cuda import CudaDriver
from stead.devices.driver import Location
from stead.ranges import Range, align_up

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from stead.devices.driver import Driver

MiB = 1 << 20
HERE = Path(__file__).resolve().parent
DEVICE = Location("device", 0)


class Raw:
    """The same by calls of cuda.bindings alone, in a program that has filled in once what describes memory and
    access, and has the device's context current, as all have that use it."""

    def __init__(self, driver: Driver, size: int) -> None:
        assert isinstance(driver, CudaDriver)
        self.api = api = driver.api
        self.size, self.granularity = size, driver.granularity(DEVICE)
        check(*api.cuCtxSetCurrent(driver.context(0)))
        self.memory = api.CUmemAllocationProp()
        self.memory.type = api.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        self.access = api.CUmemAccessDesc()
        self.access.flags = api.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        for location in (self.memory.location, self.access.location):
            location.type, location.id = api.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE, 0
        self.descriptor = api.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR

    def claim(self, hint: int = 0) -> None:
        error, address = self.api.cuMemAddressReserve(self.size, self.granularity, hint, 0)
        check(error)
        check(*self.api.cuMemAddressFree(address, self.size))

    def put(self, address: object, handle: object) -> None:
        check(*self.api.cuMemMap(address, self.size, 0, handle, 0))
        check(*self.api.cuMemSetAccess(address, self.size, [self.access], 1))
        check(*self.api.cuMemRelease(handle))

    def drop(self, address: object) -> None:
        check(*self.api.cuCtxSynchronize())  # cuMemUnmap does not wait
        check(*self.api.cuMemUnmap(address, self.size))

    def commit(self, address: object) -> None:
        error, handle = self.api.cuMemCreate(self.size, self.memory, 0)
        check(error)
        self.put(address, handle)
        self.drop(address)

    def adopt(self, fd: int, parcels: Range) -> None:
        """What another process has at the beginning of ``parcels``, at its address, and let go of it. A driver
        goes there for whole ones only (docs/decisions/0016)."""
        error, address = self.api.cuMemAddressReserve(parcels.size, self.granularity, parcels.start, 0)
        check(error)
        if int(address) != parcels.start:
            raise RuntimeError(f"the driver went to {int(address):#x} instead of {parcels}")
        error, handle = self.api.cuMemImportFromShareableHandle(fd, self.descriptor)
        check(error)
        self.put(address, handle)
        self.drop(address)
        check(*self.api.cuMemAddressFree(address, parcels.size))


def check(error: object) -> None:
    if error:
        raise RuntimeError(f"the driver answered {error}")


def bound(limit: float, given: Any) -> Bound | None:
    """For the driver of a GPU: the double's calls do next to nothing."""
    return None if given.double else Bound("<=", limit)


def rows(found: Mapping[str, Sequence[float]], limit: float, given: Any) -> list[Row]:
    against = ("driver", found["raw"])
    return [
        Row("stead", found["stead"], against, bound(limit, given)), Row("the driver's calls", found["raw"])
    ]  # fmt: skip


def claims(space: stead.CudaSpace, given: Any) -> Section:
    """Of a parcel of the driver's, at a place drawn at random: that takes an mmap and a munmap. What is smaller,
    and has no hint, goes into a hole that the driver has already."""
    raw, small = Raw(space.driver, space.alignment), Raw(space.driver, space.granularity)
    window, draw = space.windows[0], random.Random(1)
    first, count = window.start // raw.size, window.size // raw.size - 1
    hints = cycle([(first + draw.randrange(count)) * raw.size for _ in range(10_000)])
    cases = {
        "stead": timed(lambda: stead.reserve(raw.size, space=space).release()),
        "raw": timed(lambda: raw.claim(next(hints))),
        "small": timed(small.claim),
    }
    found = in_turns(cases, given.rounds, given.n)
    title = f"1. reserve and release {raw.size // MiB} MiB of addresses"
    more = Row(f"the driver's calls, for {small.size // MiB} MiB anywhere", found["small"])
    return Section(title, [*rows(found, 1.1, given), more])


def commits(space: stead.CudaSpace, given: Any) -> Section:
    raw = Raw(space.driver, space.granularity)
    with stead.reserve(2 * space.granularity, space=space) as room:

        def commit() -> None:
            room.commit(0, space.granularity, backing=stead.DeviceMemory(0))
            room.decommit(0, space.granularity)

        where = room.address + space.granularity
        cases = {"stead": timed(commit), "raw": timed(lambda: raw.commit(where))}
        return Section("2. commit and decommit", rows(in_turns(cases, given.rounds, given.n), 1.5, given))


def blocks(given: Any) -> Section:
    """An allocation and its free, of 64 KiB: the arena's, and those of others where they are."""
    with stead.Arena("64 MiB", backing=stead.DeviceMemory(0)) as arena:
        cases: dict[str, Callable[[int], float]] = {
            "stead": pairs(arena.allocate, arena.free),
            "stead, behind a stream": pairs(arena.allocate, arena.free_after),
        }
        if other := pytorch():
            cases["PyTorch"] = pairs(*other)
        if other := rmm():
            cases["RMM"] = pairs(*other)
        found = in_turns(cases, given.rounds, 20 * given.n)
        peer = next((name for name in ("PyTorch", "RMM") if name in found), None)
        against = (peer, found[peer]) if peer else None
        lines = [Row(name, each, None if name == peer else against) for name, each in found.items()]
        if peer:
            lines[0].bound = Bound("<=", 1)
        absent = [name for name in ("PyTorch", "RMM") if name not in found]
        reached = "reached" if median(found["stead"]) <= 100 else "not reached"
        notes = [f"stead's is to be 100 ns at the most: {reached}"]
        if absent:
            notes.append(f"left out, as there is no device for it or it is not installed: {', '.join(absent)}")
        return Section("3. allocate and free 64 KiB", lines, notes)


def pairs(allocate: Callable[[int], Any], free: Callable[[Any], object]) -> Callable[[int], float]:
    """A case: so many allocations, each freed at once, by a loop with nothing else in it; nanoseconds for each."""

    def run(n: int) -> float:
        nothing = repeat(None, n)
        began = time.perf_counter_ns()
        for _ in nothing:
            free(allocate(65536))
        return (time.perf_counter_ns() - began) / n

    return run


def pytorch() -> tuple[Callable[[int], Any], Callable[[Any], object]] | None:
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    return torch.cuda.caching_allocator_alloc, torch.cuda.caching_allocator_delete


def rmm() -> tuple[Callable[[int], Any], Callable[[Any], object]] | None:
    try:
        import rmm
    except ImportError:
        return None
    pool = rmm.mr.PoolMemoryResource(rmm.mr.CudaMemoryResource(), 64 * MiB)
    return pool.allocate, lambda address: pool.deallocate(address, 65536)


def pauses(space: stead.CudaSpace, size: int, given: Any) -> Section:
    raw = Raw(space.driver, size)
    with stead.reserve(2 * size, space=space) as room:
        room.commit(0, size, backing=stead.DeviceMemory(0))
        where = room.address + size

        def pause() -> None:
            room.pause()
            room.resume()

        # Two of them would not fit on every device: the raw memory lives while stead's is away.
        def unmap() -> None:
            raw.commit(where)

        title = f"4. pause and resume {size // MiB:,} MiB"
        room.pause()
        samples: dict[str, list[float]] = {"stead": [], "raw": []}
        for _ in range(given.rounds):
            samples["raw"].append(timed(unmap)(max(given.n // 10, 1)))
            room.resume()
            samples["stead"].append(timed(pause)(max(given.n // 10, 1)))
            room.pause()
        room.resume()
    return Section(title, rows(samples, 1.1, given))


RECEIVER = """
import json, pickle, sys
sys.path[:0] = [sys.argv[3], sys.argv[4]]
import device
if sys.argv[1]:
    import doubles
    doubles.CudaDouble(sys.argv[1]).reset()
print(json.dumps(device.received(*pickle.load(sys.stdin.buffer), fd=int(sys.argv[2]))))
"""


def lend(fd: int, name: str) -> str:
    """A minimal door, called so: whoever connects, and says which, as often as he likes, gets the descriptor."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(f"\0stead:benchmark:{os.getpid()}:{name}")
    listening.listen()

    def serve() -> None:
        while True:
            client, _ = listening.accept()
            with client:
                while client.recv(16):
                    socket.send_fds(client, [b"!"], [fd])

    threading.Thread(target=serve, daemon=True).start()
    return str(listening.getsockname(), "ascii")


def called(name: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(name)
    return connection


def fetch(connection: socket.socket) -> int:
    """What is lent there."""
    connection.send(b"which: 16 bytes.")
    _, [(_, _, data)], _, _ = connection.recvmsg(1, socket.CMSG_LEN(4), socket.MSG_CMSG_CLOEXEC)
    return int.from_bytes(data, sys.byteorder)


def received(sent: SentBytes, doors: Sequence[str], rounds: int, n: int, fd: int) -> dict[str, list[float]]:
    """What the second process measures."""
    space = stead.CudaSpace()
    raw, line = Raw(space.driver, sent.size), called(doors[0])
    parcels = Range.sized(sent.address, align_up(sent.size, space.alignment))

    def adopt(fetched: int) -> None:
        raw.adopt(fetched, parcels)
        os.close(fetched)

    def call_and_adopt() -> None:
        with called(doors[1]) as connection:
            adopt(fetch(connection))

    cases: dict[str, Callable[[], object]] = {
        "stead": lambda: sent.handle.attach().release(),
        "fetched": call_and_adopt,
        "on a line": lambda: adopt(fetch(line)),
        "there": lambda: raw.adopt(fd, parcels),
    }
    return in_turns({each: timed(case) for each, case in cases.items()}, rounds, n)


def imports(space: stead.CudaSpace, double: str, given: Any) -> Section:
    """Beside the driver's calls at the same address, and the least that can be written to fetch a descriptor from
    the other process: a connection for each, as whoever comes with nothing needs, or one that stays."""
    with stead.reserve(space.granularity, space=space) as room:
        room.commit(backing=stead.DeviceMemory(0, shareable=True))
        sent = SentBytes.of(room.address, room.size)
        assert sent
        (mapped,) = space.mapped(room.range)
        fd = mapped.physical.export(0).fd
        doors = [lend(fd, "a line"), lend(fd, "calls")]
        ran = subprocess.run(
            [sys.executable, "-c", RECEIVER, double, str(fd), str(HERE), str(HERE.parent / "tests")],
            input=pickle.dumps((sent, doors, given.rounds, given.n)), stdout=subprocess.PIPE, pass_fds=[fd],
            check=True,
        )  # fmt: skip
    found = json.loads(ran.stdout)
    lines = [
        Row("stead, from a handle", found["stead"], ("fetched", found["fetched"]), bound(1.1, given)),
        Row("fetched: connect, SCM_RIGHTS, and the driver's calls", found["fetched"]),
        Row("the same on a connection that stays", found["on a line"]),
        Row("the driver's calls, where the descriptor is there", found["there"]),
    ]
    line, there = (Row("", found["stead"], (each, found[each])).ratio for each in ("on a line", "there"))
    notes = [
        "the other process has the descriptor: the bound is beside what fetches it, and does nothing else",
        f"stead's connection stays, too: {line:.2f} x that; {there:.2f} x the driver's calls alone",
    ]
    return Section("5. import in a second process, and let go", lines, notes)


def cache(on_device: bool) -> None:
    """The KV cache of the examples, as it says itself."""
    print("\n6. a KV cache that grows (examples/kv_cache.py)", flush=True)
    where = "cuda" if on_device else "host"
    began = time.perf_counter()
    subprocess.run([sys.executable, HERE.parent / "examples/kv_cache.py", "--device", where], check=True)
    print(f"  - {time.perf_counter() - began:.1f} s in all", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--double", action="store_true", help="the tests' driver instead of a GPU's")
    options.add_argument("--quick", action="store_true", help="a smoke run; its numbers mean little")
    options.add_argument("--json", metavar="FILE", help="every sample, in nanoseconds")
    given = options.parse_args()
    given.rounds, given.n = (3, 5) if given.quick else (15, 50)
    with tempfile.TemporaryDirectory() as folder:
        library = ""
        if given.double:
            sys.path.append(str(HERE.parent / "tests"))
            import doubles

            double = doubles.CudaDouble(doubles.build(doubles.CUDA, Path(folder)))
            double.reset(memory="4 GiB")
            library = str(double.path)
        try:
            space = stead.CudaSpace()
        except stead.Unsupported as error:
            sys.exit(f"nothing to measure: {error}; --double measures on the tests' driver")
        size = 64 * MiB if given.double else 10 << 30
        report = Report(given.rounds)
        if given.double:
            print("the driver is the tests' double, in this host's memory: only what stead adds says anything")
        report.show(claims(space, given))
        report.show(commits(space, given))
        report.show(blocks(given))
        report.show(pauses(space, size, given))
        report.show(imports(space, library, given))
        cache(not given.double and pytorch() is not None)
        report.end(given.json)


if __name__ == "__main__":
    main()
