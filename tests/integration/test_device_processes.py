"""A device's memory at the same device address in every process: real processes, real descriptors, real kills,
over the driver's double (tests/doubles)."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
from typing import TYPE_CHECKING, Any

import pytest

import stead
from integration import device_workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from doubles import CudaDouble

MIB = 1 << 20
SIZE = 8 * MIB
INVALID, OUT_OF_MEMORY = 1, 2


class Process:
    def __init__(self, path: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._orders, theirs = context.Pipe()
        self.together, member = context.Pipe()
        self.process = context.Process(target=device_workers.serve, args=(path, theirs, member), daemon=True)
        self.process.start()
        theirs.close()
        member.close()

    def tell(self, order: str, *arguments: Any) -> None:
        self._orders.send((order, arguments))

    def answer(self) -> Any:
        assert self._orders.poll(60)
        good, value = self._orders.recv()
        if not good:
            raise value
        return value

    def __call__(self, order: str, *arguments: Any) -> Any:
        self.tell(order, *arguments)
        return self.answer()

    def kill(self) -> None:
        assert self.process.pid
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()

    def close(self) -> None:
        self._orders.close()
        self.together.close()
        self.process.join(30)
        assert not self.process.is_alive()


@pytest.fixture
def start(cuda_double: CudaDouble) -> Iterator[Callable[[], Process]]:
    running: list[Process] = []

    def one() -> Process:
        running.append(Process(str(cuda_double.path)))
        return running[-1]

    yield one
    for each in running:
        each.close()


@pytest.fixture
def held(cuda_double: CudaDouble) -> Iterator[stead.Reservation]:
    """Memory of device 0 in two commits, "hello" at its beginning."""
    made = stead.reserve(2 * SIZE, space=stead.CudaSpace(), name="shared")
    made.commit(0, SIZE, backing=stead.DeviceMemory(shareable=True)).write(b"hello")  # type: ignore[attr-defined]
    made.commit(SIZE, SIZE, backing=stead.DeviceMemory(shareable=True, piece=2 * MIB))
    yield made
    made.release()
    gc.collect()
    assert not cuda_double.holds()


def read(held: stead.Reservation, size: int = 5) -> bytes:
    view: Any = held.view(0, size)
    found: bytes = view.read()
    return found


def test_the_same_memory_at_the_same_address(held: stead.Reservation, start: Callable[[], Process]) -> None:
    process = start()
    assert process("attach", pickle.dumps(held)) == (held.address, b"hello")
    process("write", b"child")
    assert read(held) == b"child"
    # What it has already, it keeps: another pickle is the same reservation.
    assert process("attach", pickle.dumps(held)) == (held.address, b"child")
    assert process("holds") == {"reservations": 1, "handles": 5, "memories": 5, "mappings": 5}
    process("release")
    assert process("holds") == {}
    assert read(held) == b"child"


def test_many_pieces_in_many_parts(cuda_double: CudaDouble, start: Callable[[], Process]) -> None:
    process = start()
    with stead.reserve(40 * MIB, space=stead.CudaSpace()) as held:
        for offset in range(0, 40 * MIB, 10 * MIB):
            view: Any = held.commit(offset, 10 * MIB, backing=stead.DeviceMemory(shareable=True, piece=2 * MIB))
            for piece in range(5):
                view.write(bytes([offset // MIB + piece]), piece * 2 * MIB)
        del view
        process("attach", pickle.dumps(held))
        assert process("holds") == {"reservations": 1, "handles": 20, "memories": 20, "mappings": 20}
        assert [process("byte", 2 * MIB * number) for number in range(20)] == [
            offset + piece for offset in range(0, 40, 10) for piece in range(5)
        ]
        process("release")
        assert process("holds") == {}


def test_growth_reaches_those_who_have_it(held: stead.Reservation, start: Callable[[], Process]) -> None:
    process = start()
    held.decommit(SIZE, SIZE)
    process("attach", pickle.dumps(held))
    held.commit(SIZE, 2 * MIB, backing=stead.DeviceMemory(shareable=True)).write(b"grown")  # type: ignore[attr-defined]
    process("attach", pickle.dumps(held))
    assert process("holds")["mappings"] == 2


def test_read_only_for_those_who_get_it_so(held: stead.Reservation, start: Callable[[], Process]) -> None:
    process = start()
    process("attach", pickle.dumps(stead.Handle.of(held, access="r").attach()))
    handle = stead.Handle.of(held, access="r")
    other = start()
    for each in (process, other):
        each.tell("attach_together", handle)
    together = stead.peers.Coordinator([process.together, other.together], timeout=30)
    handle.attach(together=together)
    assert process.answer() == other.answer() == (held.address, b"hello")
    assert other("allowed", held.address) == "r"
    with pytest.raises(ValueError, match="read-only"):
        other("write", b"no")


def test_all_or_none_where_one_has_no_room(held: stead.Reservation, start: Callable[[], Process]) -> None:
    processes = [start() for _ in range(3)]
    processes[1]("squat", held.address, MIB)
    handle = stead.Handle.of(held)
    for each in processes:
        each.tell("attach_together", handle)
    with pytest.raises(stead.PeerFailed, match="squatter"):
        handle.attach(together=stead.peers.Coordinator([each.together for each in processes], timeout=30))
    for number, each in enumerate(processes):
        with pytest.raises(stead.Occupied if number == 1 else stead.PeerFailed, match="squatter"):
            each.answer()
        assert each("holds") == {}
    assert read(held) == b"hello"


@pytest.mark.parametrize("call", ["cuMemImportFromShareableHandle", "cuMemMap", "cuMemSetAccess"])
def test_all_or_none_where_ones_driver_refuses(
    held: stead.Reservation, start: Callable[[], Process], call: str
) -> None:
    processes = [start() for _ in range(2)]
    processes[0]("refuse", call, OUT_OF_MEMORY, 2)
    handle = stead.Handle.of(held)
    for each in processes:
        each.tell("attach_together", handle)
    with pytest.raises(stead.PeerFailed, match="OUT_OF_MEMORY"):
        handle.attach(together=stead.peers.Coordinator([each.together for each in processes], timeout=30))
    for each in processes:
        with pytest.raises(stead.AddressSpaceError):
            each.answer()
        assert each("holds") == {}


def test_all_agree_on_the_place_and_then_on_the_memory(
    cuda_double: CudaDouble, start: Callable[[], Process]
) -> None:
    processes = [start() for _ in range(3)]
    for each in processes:
        each.tell("reserve_together", SIZE)
    connections = [each.together for each in processes]
    held = stead.reserve(SIZE, space=stead.CudaSpace(), together=stead.peers.Coordinator(connections, timeout=30))
    assert [each.answer() for each in processes] == [held.address] * 3
    held.commit(backing=stead.DeviceMemory(shareable=True)).write(b"there")  # type: ignore[attr-defined]
    for each in processes:
        assert each("attach", pickle.dumps(held)) == (held.address, b"there")
    held.release()
    gc.collect()
    assert not cuda_double.holds()


def test_a_late_joiner_gets_it_from_anyone_who_has_it(start: Callable[[], Process]) -> None:
    maker, second, late = start(), start(), start()
    address, text = second("attach", maker("make", SIZE, b"first"))
    sent = second("send")
    maker.kill()
    assert (address, text) == second("read")
    assert late("attach", sent) == (address, b"first")
    late("write", b"later")
    assert second("read") == (address, b"later")


def test_the_sender_is_gone(start: Callable[[], Process]) -> None:
    maker, late = start(), start()
    sent = maker("make", SIZE, b"first")
    maker.kill()
    with pytest.raises(stead.PeerFailed):
        late("attach", sent)
    assert late("holds") == {}


def test_memory_that_was_given_back_is_not_lent_any_more(
    cuda_double: CudaDouble, start: Callable[[], Process]
) -> None:
    process = start()
    with stead.reserve(SIZE, space=stead.CudaSpace()) as held:
        held.commit(backing=stead.DeviceMemory(shareable=True))
        sent = pickle.dumps(held)
        descriptors = len(os.listdir("/proc/self/fd"))
        held.decommit()
        assert len(os.listdir("/proc/self/fd")) < descriptors
        with pytest.raises(stead.PeerFailed):
            process("attach", sent)
    assert not cuda_double.holds()


def test_a_killed_process_leaves_nothing(
    held: stead.Reservation, cuda_double: CudaDouble, start: Callable[[], Process]
) -> None:
    process = start()
    process("attach", pickle.dumps(held))
    before = cuda_double.holds()
    process.kill()
    assert cuda_double.holds() == before
    assert read(held) == b"hello"


def test_a_device_that_the_other_does_not_see(held: stead.Reservation, start: Callable[[], Process]) -> None:
    process = start()
    process("see_from", 2)
    with pytest.raises(stead.Unsupported, match="that device here"):
        process("attach", pickle.dumps(held))
    assert process("holds") == {}


def test_a_device_that_has_another_number_there(cuda_double: CudaDouble, start: Callable[[], Process]) -> None:
    """As with CUDA_VISIBLE_DEVICES: what is device 1 here is device 0 there, and is found by its UUID."""
    process = start()
    process("see_from", 1)
    with stead.reserve(SIZE, space=stead.CudaSpace()) as held:
        held.commit(backing=stead.DeviceMemory(1, shareable=True)).write(b"other")  # type: ignore[attr-defined]
        assert process("attach", pickle.dumps(held)) == (held.address, b"other")
        assert process("allowed", held.address) == "rw"


def test_memory_that_was_not_made_to_be_shared_is_not_sent(cuda_double: CudaDouble) -> None:
    with stead.reserve(SIZE, space=stead.CudaSpace()) as held:
        held.commit(backing=stead.DeviceMemory())
        with pytest.raises(stead.Unsupported, match="shareable=True"):
            pickle.dumps(held)
    with (
        stead.reserve(SIZE, devices=[0], sharing="managed") as held,
        pytest.raises(stead.Unsupported, match="sending a reservation"),
    ):
        pickle.dumps(held)
