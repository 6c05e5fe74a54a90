"""What must hold on a real device: each a program of its own, run by test_gpu.py on a GPU where there is one, and
on the driver's double everywhere.

    python programs.py NAME
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import stead
from stead.devices.adding import NO_KERNELS, add_on_device
from stead.devices.cuda import CudaDriver
from stead.devices.spaces import driver
from stead.ranges import align_down
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
        assert add(held.address, 2) in (NO_KERNELS, 0x07070709)
        view.write(b"stead", MIB)
        held.commit(4 * MIB, 8 * MIB, backing=stead.DeviceMemory(0, piece="2 MiB"))
        whole: Any = held.view(0, 12 * MIB)
        assert whole.address == held.address
        assert whole[MIB : MIB + 6].read() == b"stead\7"
        generation = held.generation
        held.pause(keep=True)
        held.resume()
        assert held.generation != generation
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


def host_arena() -> None:
    """Blocks of an arena in the host's memory that a kernel uses at the host's addresses."""
    with stead.reserve("64 MiB", devices=[0]) as held, stead.Arena(held) as made:
        assert held.sharing in ("pageable", "registered", "located")
        blocks: list[Any] = [made.block(100 + number) for number in range(50)]
        for number, each in enumerate(blocks):
            memoryview(each)[:4] = number.to_bytes(4, "little")
            assert add(each.address, 1000) in (NO_KERNELS, 1000 + number)
            assert int.from_bytes(bytes(each)[:4], "little") in (number, 1000 + number)
        del blocks, each


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
                view[8:12] = (40).to_bytes(4, "little")
                assert add(held.address + 8, 2) in (NO_KERNELS, 42), way
                assert int.from_bytes(view[8:12], "little") in (40, 42), way
                del view


def exhausted() -> None:
    """What does not fit is refused whole; what was paused waits until another tenant has gone."""
    device, space = driver("cuda"), stead.CudaSpace()
    everything = device.devices()[0].memory
    with stead.reserve(4 * everything, space=space, name="much") as held:
        before = device.free_memory(0)
        for piece in (None, "64 MiB"):
            try:
                held.commit(0, 2 * everything, backing=stead.DeviceMemory(0, piece=piece))
            except stead.LimitReached as error:
                assert "out of memory" in str(error).lower() or "OUT_OF_MEMORY" in str(error), error
            else:
                raise AssertionError("twice what there is")
            assert not held.committed
            assert freed(before), (before, device.free_memory(0))
        most = align_down(before * 3 // 5, 64 * MIB)
        view: Any = held.commit(0, most, backing=stead.DeviceMemory(0, piece="64 MiB"))
        view.write(b"stead")
        view.write(b"stead", most - 5)
        del view
        held.pause()
        with stead.reserve(most, space=space, name="another tenant") as other:
            other.commit(backing=stead.DeviceMemory(0))
            left = device.free_memory(0)
            try:
                held.resume()
            except stead.LimitReached:
                assert held.paused
                assert freed(left)
            else:
                raise AssertionError("two tenants where there is room for one")
        held.resume()
        held.view(0, 5).write(b"again")  # type: ignore[attr-defined]
        assert not held.paused
    assert freed(before)


def add(address: int, what: int) -> str | int:
    """A kernel on device 0 adds to the 32-bit number there: what is there then, or NO_KERNELS."""
    device = driver("cuda")
    assert isinstance(device, CudaDriver)
    if add_on_device(device, 0, address, what) == NO_KERNELS:
        return NO_KERNELS
    found = bytearray(4)
    device.copy(_address(found), address, 4)
    return int.from_bytes(found, "little")


def freed(expected: int) -> bool:
    """Whether the device has so much free memory, give or take what contexts take; it may come back late."""
    stop = time.monotonic() + 30
    while driver("cuda").free_memory(0) < expected - 32 * MIB and time.monotonic() < stop:
        time.sleep(0.05)  # the kernel's module gives a killed process's memory back when it comes to it
    return driver("cuda").free_memory(0) >= expected - 32 * MIB


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


def _maker(connection: Connection) -> None:
    held = stead.reserve("1 GiB", space=stead.CudaSpace(), name="of one that is killed")
    view: Any = held.commit(0, 256 * MIB, backing=stead.DeviceMemory(0, shareable=True, piece="64 MiB"))
    view.write(b"first")
    view.write(b"last!", 256 * MIB - 5)
    connection.send((held.address, pickle.dumps(held)))
    connection.recv()


def killed() -> None:
    """What a killed process made stays with those who have it, reaches late joiners from them, and goes with the
    last."""
    device = driver("cuda")
    before = device.free_memory(0)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    maker = context.Process(target=_maker, args=(there,))
    maker.start()
    assert here.poll(120)
    address, sent = here.recv()
    held = pickle.loads(sent)
    assert maker.pid
    os.kill(maker.pid, signal.SIGKILL)
    maker.join()
    assert held.address == address
    view: Any = held.view(0, 256 * MIB)
    assert (view[:5].read(), view[256 * MIB - 5 :].read()) == (b"first", b"last!")
    late = context.Process(target=_other, args=(there,))
    late.start()
    here.send(pickle.dumps(held))
    assert here.poll(120)
    assert here.recv() == (address, b"first")
    here.send(None)
    late.join()
    assert (late.exitcode, view[:5].read()) == (0, b"child")
    del view
    held.release()
    assert freed(before), (before, device.free_memory(0))


def _member(connection: Connection, orders: Connection) -> None:
    member = stead.peers.Member(connection, timeout=120)
    held = stead.reserve("64 MiB", space=stead.CudaSpace(), together=member)
    orders.send(held.address)
    handle = orders.recv()
    held.release()
    del held
    held = handle.attach(together=member)
    view: Any = held.view(0, 5)
    orders.send((held.address, view.read()))
    orders.recv()


def together() -> None:
    """Three processes agree on a place, and then import the memory: all of them."""
    context = multiprocessing.get_context("spawn")
    peers, orders = [], []
    for _ in range(2):
        (mine, theirs), (order, answer) = context.Pipe(), context.Pipe()
        context.Process(target=_member, args=(theirs, answer), daemon=True).start()
        peers.append(mine)
        orders.append(order)
    coordinator = stead.peers.Coordinator(peers, timeout=120)
    held = stead.reserve("64 MiB", space=stead.CudaSpace(), together=coordinator)
    view: Any = held.commit(0, 4 * MIB, backing=stead.DeviceMemory(0, shareable=True))
    view.write(b"hello")
    handle = stead.Handle.of(held)
    for each in orders:
        assert each.poll(120)
        assert each.recv() == held.address
        each.send(handle)
    again = handle.attach(together=coordinator)
    assert again.address == held.address
    for each in orders:
        assert each.poll(120)
        assert each.recv() == (held.address, b"hello")
        each.send(None)


ALONE = ("exhausted", "killed")  # they look at how much memory the device has left
PROGRAMS = {
    each.__name__: each
    for each in (kit, memory, arena, host_arena, shared, exhausted, processes, killed, together)
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]]()
    print("good")
