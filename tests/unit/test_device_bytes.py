"""Bytes of a device's memory go to another process, and are at the same address there. On the driver's double."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import stead
from stead.device_bytes import SentBytes

if TYPE_CHECKING:
    from doubles import CudaDouble

MIB = 1 << 20

# In the middle of what another process may pickle: the double comes first, as the driver would.
RECEIVER = """
import pickle, sys
import doubles
double = doubles.CudaDouble(sys.argv[1])
double.reset()
sent = pickle.load(sys.stdin.buffer)
view = sent.arrive()
print(view.address, view.nbytes, view.read()[:4].hex())
view[4:8].fill(0x99)
del view
print(double.holds("reservations", "mappings", "handles"))
"""


def received(double: CudaDouble, sent: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", RECEIVER, str(double.path)], input=pickle.dumps(sent), capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, timeout=120, check=False,
    )  # fmt: skip


def test_another_process_has_them_at_the_same_address(cuda_double: CudaDouble) -> None:
    with stead.Arena("8 MiB", backing=stead.DeviceMemory(0, shareable=True), step="2 MiB") as arena:
        reservation = arena.reservation
        assert reservation
        blocks = [arena.allocate(2 * MIB) for _ in range(3)]
        view: Any = reservation.view(blocks[1] - reservation.address, 8)
        view.fill(0x77)
        sent = SentBytes.of(blocks[1] + 2, 1000)
        assert sent
        assert len(sent.handle.parts) == 1  # not all that the arena has
        ran = received(cuda_double, sent)
        assert (ran.returncode, ran.stderr) == (0, b"")
        first, after = ran.stdout.decode().splitlines()
        assert first == f"{blocks[1] + 2} 1000 77777777"
        assert after == "{}"
        assert view.read() == b"\x77" * 6 + b"\x99" * 2
        del view
        for each in blocks:
            arena.free(each)


def test_here_they_are_what_they_are(cuda_double: CudaDouble) -> None:
    with stead.Arena("4 MiB", backing=stead.DeviceMemory(0, shareable=True)) as arena:
        address = arena.allocate(1000)
        sent = pickle.loads(pickle.dumps(SentBytes.of(address, 1000)))
        view = sent.arrive()
        assert (view.address, view.nbytes) == (address, 1000)
        del view
        arena.free(address)


def test_what_is_none_of_a_devices_memory_is_None(cuda_double: CudaDouble, arena: stead.Arena) -> None:
    block = arena.block(1000)
    assert SentBytes.of(block.address, 1000) is None
    assert SentBytes.of(block.address, 0) is None
    with stead.Arena("4 MiB", backing=stead.HostMemory((0,), shareable=True)) as host:
        with host.block(1000) as there:
            assert SentBytes.of(there.address, 1000) is None


def test_memory_that_was_not_made_to_be_shared_is_told(cuda_double: CudaDouble) -> None:
    with stead.Arena("4 MiB", backing=stead.DeviceMemory(0)) as arena:
        address = arena.allocate(1000)
        with pytest.raises(stead.Unsupported, match=r"DeviceMemory\(shareable=True\)"):
            SentBytes.of(address, 1000)
        arena.free(address)


def test_the_sender_is_gone(cuda_double: CudaDouble) -> None:
    with stead.Arena("4 MiB", backing=stead.DeviceMemory(0, shareable=True)) as arena:
        address = arena.allocate(1000)
        sent = SentBytes.of(address, 1000)
        arena.free(address)
    ran = received(cuda_double, sent)
    assert ran.returncode == 1
    assert b"PeerFailed" in ran.stderr
