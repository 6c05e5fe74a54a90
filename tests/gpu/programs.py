"""What must hold on a real device: each a program of its own, run by test_gpu.py on a GPU where there is one, and
on the driver's double everywhere.

    python programs.py NAME
"""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import sys
from typing import TYPE_CHECKING, Any

import stead
from stead.devices.spaces import driver
from stead.testing import check_address_space

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

MIB = 1 << 20


def kit() -> None:
    """The driver's space passes the conformance kit, with memory of the host that the driver makes."""
    if any(each.host_located for each in driver("cuda").devices()):
        check_address_space(
            lambda: stead.DeviceSpace(driver("cuda"), usual=stead.HostMemory(piece="2 MiB")),
            leave_out={
                "discarded memory reads as zero",
                "a misaligned offset is refused and the range stays reserved",
            },
        )
    else:
        for check in stead.testing.CHECKS:
            check(stead.CudaSpace())


def memory() -> None:
    """Addresses stay while memory comes, goes and comes again."""
    with stead.reserve("1 GiB", space=stead.CudaSpace()) as held:
        view: Any = held.commit(0, 4 * MIB, backing=stead.DeviceMemory(0))
        view.fill(7)
        view.write(b"stead", MIB)
        held.commit(4 * MIB, 8 * MIB, backing=stead.DeviceMemory(0, piece="2 MiB"))
        whole: Any = held.view(0, 12 * MIB)
        assert whole.address == held.address
        assert whole[MIB : MIB + 6].read() == b"stead\7"
        held.pause(keep=True)
        held.resume()
        assert whole[MIB : MIB + 6].read() == b"stead\7"
        del view, whole
        held.decommit(4 * MIB, 2 * MIB)


def arena() -> None:
    with stead.Arena("256 MiB", backing=stead.DeviceMemory(0)) as made:
        blocks: list[Any] = [made.block(1 + number * 1000) for number in range(100)]
        blocks[3].record_stream(0)
        for number in range(1000):
            made.free_after(made.allocate(64 + number), 0)
        del blocks
        assert made.statistics().blocks == 0
        made.check()


def shared() -> None:
    """Every way of sharing with the host that the device says it has."""
    facts = driver("cuda").devices()[0]
    ways = {
        "pageable": facts.reaches_pageable,
        "registered": facts.registered_at_host_address,
        "located": facts.host_located,
        "managed": facts.manages_memory,
    }
    for way, there in ways.items():
        if there:
            with stead.reserve("8 MiB", devices=[0], sharing=way) as held:  # type: ignore[arg-type]
                view = held.commit()
                view[:5] = b"stead"
                on_device = bytearray(5)
                driver("cuda").copy(_address(on_device), held.address, 5)
                assert on_device == b"stead", way
                del view


def _address(buffer: bytearray) -> int:
    from stead import _native

    return _native.address_of(buffer)


def _other(connection: Connection) -> None:
    held = pickle.loads(connection.recv())
    view: Any = held.view(0, 5)
    connection.send((view.address, view.read()))
    view.write(b"child")
    connection.recv()


def processes() -> None:
    """The same memory at the same device address in another process."""
    held = stead.reserve("64 MiB", space=stead.CudaSpace())
    view: Any = held.commit(0, 4 * MIB, backing=stead.DeviceMemory(0, shareable=True))
    view.write(b"hello")
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_other, args=(there,))
    process.start()
    here.send(pickle.dumps(held))
    assert here.poll(120)
    assert here.recv() == (held.address, b"hello")
    here.send(None)
    process.join()
    assert process.exitcode == 0
    assert view[:5].read() == b"child"
    del view
    held.release()
    gc.collect()


PROGRAMS = {each.__name__: each for each in (kit, memory, arena, shared, processes)}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]]()
    print("good")
