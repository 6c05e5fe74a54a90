"""DeviceSpace through the CUDA driver's double: claims, memory in pieces, refusals at every step, leaks."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

import stead
from stead.devices import spaces
from stead.devices.driver import Location
from stead.peers import Threads
from stead.ranges import Range
from stead.space.process import ProcessSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from doubles import CudaDouble

MIB = 1 << 20
PAGE = 2 * MIB
ALIGNMENT = 32 * MIB  # at which the double, as the driver, follows hints
OUT_OF_MEMORY, INVALID, NOT_SUPPORTED = 2, 1, 801
WHERE = 0x4800_0000_0000


@pytest.fixture
def space(cuda_double: CudaDouble) -> stead.CudaSpace:
    return stead.CudaSpace()


@pytest.fixture
def held(space: stead.CudaSpace) -> Iterator[stead.Reservation]:
    made = stead.reserve(16 * PAGE, space=space)
    yield made
    made.release()


# ---- what it is -----------------------------------------------------------------------------------


def test_it_is_this_process_and_its_granularity_is_the_devices(space: stead.CudaSpace) -> None:
    assert space.identity == stead.this_process().identity
    assert space.granularity == PAGE


def test_what_is_claimed_is_occupied_for_the_process_and_what_the_process_holds_for_it(
    space: stead.CudaSpace,
) -> None:
    with stead.reserve(PAGE, space=space) as held, pytest.raises(stead.Occupied):
        stead.reserve(PAGE, at=held.address)
    with stead.reserve(PAGE, align=ALIGNMENT) as ours, pytest.raises(stead.Occupied) as refused:
        stead.reserve(PAGE, at=ours.address, space=space)
    assert refused.value.by is not None
    assert refused.value.nearest is not None


def test_no_device_that_manages_addresses_is_Unsupported(cuda_double: CudaDouble) -> None:
    for device in (0, 1):
        cuda_double.set(device, manages_addresses=False)
    with pytest.raises(stead.Unsupported, match="manages them"):
        stead.CudaSpace()


def test_it_cannot_meet_the_process_that_it_is(space: stead.CudaSpace) -> None:
    """Two participants with the same addresses would be in each other's way for ever."""
    group = Threads(["process", "device"], timeout=20)
    said: dict[str, Exception] = {}

    def meet(name: str, where: stead.MemorySpace) -> None:
        try:
            stead.reserve(2 * PAGE, align=ALIGNMENT, space=where, together=group.member(name))
        except Exception as error:
            said[name] = error

    spaces: dict[str, stead.MemorySpace] = {"process": ProcessSpace(), "device": space}
    threads = [threading.Thread(target=meet, args=each) for each in spaces.items()]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert set(said) == {"process", "device"}
    assert any(isinstance(each, stead.PeersDisagree) for each in said.values()), said
    assert any("same addresses" in str(each) for each in said.values()), said


# ---- claiming -------------------------------------------------------------------------------------


def test_a_driver_that_goes_elsewhere_is_asked_for_another_place(
    space: stead.CudaSpace, cuda_double: CudaDouble
) -> None:
    cuda_double.move(3)
    with stead.reserve(PAGE, space=space) as held:
        assert space.windows[0].contains(held.range)
        assert cuda_double.count("reservations") == 1, "what it gave instead was not given back"
    assert not cuda_double.holds()


def test_a_driver_that_always_goes_elsewhere_is_an_error_and_leaves_nothing(
    space: stead.CudaSpace, cuda_double: CudaDouble
) -> None:
    cuda_double.move()
    with pytest.raises(stead.Contended):
        stead.reserve(PAGE, space=space)
    with pytest.raises(stead.Occupied, match="went to") as refused:
        stead.reserve(PAGE, at=WHERE, space=space)
    assert refused.value.by is not None
    assert refused.value.by.owner == "CUDA"
    assert not cuda_double.holds()


def test_a_driver_without_addresses_says_so(space: stead.CudaSpace, cuda_double: CudaDouble) -> None:
    cuda_double.refuse("cuMemAddressReserve", OUT_OF_MEMORY)
    with pytest.raises(stead.LimitReached, match="CUDA_ERROR_OUT_OF_MEMORY"):
        stead.reserve(PAGE, at=WHERE, space=space)
    assert not cuda_double.holds()


@pytest.mark.parametrize(
    "claim",
    [lambda space: space.reserve_at(Range.sized(WHERE, PAGE)), lambda space: stead.reserve(PAGE, space=space)],
    ids=["reserve_at", "reserve"],
)
def test_what_was_given_instead_and_cannot_be_given_back_is_told(
    space: stead.CudaSpace, cuda_double: CudaDouble, claim: Callable[[stead.CudaSpace], object]
) -> None:
    cuda_double.move(1)
    cuda_double.refuse("cuMemAddressFree", INVALID)
    with pytest.raises(stead.RollbackFailed) as failed:
        claim(space)
    [leaked] = failed.value.leaked
    space.release(leaked)
    assert not cuda_double.holds()


@pytest.mark.parametrize("committed", [True, False])
def test_a_release_that_is_refused_leaves_it_and_can_be_repeated(
    space: stead.CudaSpace, cuda_double: CudaDouble, committed: bool
) -> None:
    held = stead.reserve(2 * PAGE, space=space)
    if committed:
        held.commit(0, PAGE, backing=stead.DeviceMemory())
    before = cuda_double.holds()
    cuda_double.refuse("cuMemAddressFree", INVALID)
    if not committed:
        cuda_double.refuse("cuMemAddressFree", INVALID, nth=2)  # it is asked again, to say why not
    with pytest.raises(stead.DriverError, match="cuMemAddressFree"):
        held.release()
    assert not held.released
    assert cuda_double.holds() == before
    held.commit(PAGE, PAGE, backing=stead.DeviceMemory())
    held.release()
    assert not cuda_double.holds()


def test_addresses_that_a_driver_does_not_take_back_are_told_at_the_end(
    space: stead.CudaSpace, cuda_double: CudaDouble
) -> None:
    held = stead.reserve(PAGE, space=space)
    where = held.range
    cuda_double.refuse("cuMemAddressFree", INVALID)
    with pytest.warns(ResourceWarning, match="still held"):
        del held
    space.driver.free(where.start, space.alignment)
    assert not cuda_double.holds()


def test_what_the_kernel_does_not_list_is_known_to_every_space_of_the_driver(
    space: stead.CudaSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = stead.Footprint(stead.RangeSet(), space.granularity)
    monkeypatch.setattr(ProcessSpace, "footprint", lambda self, within: nowhere)
    monkeypatch.setattr(ProcessSpace, "obstacle", lambda self, where: None)
    with stead.reserve(PAGE, space=space) as held:
        for each in (space, stead.CudaSpace()):
            assert each.footprint(held.range).occupied.covers(held.range)
            found = each.obstacle(held.range)
            assert found is not None
            assert found.range == held.range
    assert space.obstacle(held.range) is None


def test_a_reservation_that_nobody_has_gives_all_back(space: stead.CudaSpace, cuda_double: CudaDouble) -> None:
    held = stead.reserve(4 * PAGE, space=space)
    view = held.commit(0, PAGE, backing=stead.DeviceMemory())
    part = view[:10]
    del held, view
    gc.collect()
    assert cuda_double.count("mappings") == 1, "a slice of the view is alive"
    del part
    gc.collect()
    assert not cuda_double.holds()


# ---- memory ---------------------------------------------------------------------------------------


def test_memory_of_a_device_is_read_written_and_accessible_to_those_named(
    held: stead.Reservation, cuda_double: CudaDouble
) -> None:
    view = held.commit(PAGE, 3 * PAGE, backing=stead.DeviceMemory(1, accessible_from=[0]))
    assert isinstance(view, stead.DeviceView)
    assert (view.address, view.nbytes, view.device, view.readonly) == (held.address + PAGE, 3 * PAGE, 1, False)
    view.fill(3)
    view.write(b"stead", 7)
    assert view[5:14].read() == b"\3\3stead\3\3"
    assert cuda_double.bytes(Location("device", 1)) == 3 * PAGE
    for number in (0, 1):
        assert cuda_double.allowed(Location("device", number), view.address) == "rw"
    held.commit(4 * PAGE, PAGE, backing=stead.DeviceMemory(1))
    assert cuda_double.allowed(Location("device", 0), held.address + 4 * PAGE) == "none"
    held.protect(PAGE, 3 * PAGE, access="rw")
    with pytest.raises(BufferError):
        held.protect(PAGE, 3 * PAGE, access="r")
    del view
    held.protect(PAGE, 3 * PAGE, access="r")
    assert cuda_double.allowed(Location("device", 1), held.address + PAGE) == "r"
    readonly = held.view(PAGE, 10)
    with pytest.raises(ValueError, match="read-only"):
        readonly.write(b"no")


def test_what_a_view_gives_to_others(held: stead.Reservation) -> None:
    view = held.commit(0, PAGE, backing=stead.DeviceMemory(1))
    interface = view.__cuda_array_interface__  # type: ignore[attr-defined]
    assert interface["data"] == (held.address, False)
    assert (interface["shape"], interface["typestr"], interface["version"]) == ((PAGE,), "|u1", 3)
    assert view.__dlpack_device__() == (2, 1)  # type: ignore[attr-defined]  # kDLCUDA
    capsule = view.__dlpack__()  # type: ignore[attr-defined]
    del view
    with pytest.raises(BufferError):
        held.decommit()
    assert "dltensor" in repr(capsule)
    del capsule
    held.decommit()


@pytest.mark.parametrize(
    ("backing", "message"),
    [
        (stead.ANONYMOUS, "DeviceMemory or stead.HostMemory"),
        (None, "DeviceMemory or stead.HostMemory"),
        ("shared", "DeviceMemory or stead.HostMemory"),
    ],
)
def test_only_what_the_driver_makes_can_be_committed(
    held: stead.Reservation, cuda_double: CudaDouble, backing: object, message: str
) -> None:
    with pytest.raises(stead.Unsupported, match=message):
        held.commit(backing=backing)  # type: ignore[arg-type]
    assert cuda_double.holds() == {"reservations": 1}


def test_memory_of_a_device_is_not_for_the_process() -> None:
    with stead.reserve(PAGE) as ours, pytest.raises(stead.Unsupported, match="driver"):
        ours.commit(backing=stead.DeviceMemory())


def test_pieces_can_be_decommitted_one_by_one_and_a_whole_only_whole(
    held: stead.Reservation, cuda_double: CudaDouble
) -> None:
    held.commit(0, 4 * PAGE, backing=stead.DeviceMemory(piece=PAGE))
    held.commit(4 * PAGE, 4 * PAGE, backing=stead.DeviceMemory())
    held.decommit(PAGE, 2 * PAGE)
    assert cuda_double.bytes() == 6 * PAGE
    assert held.committed == stead.RangeSet(
        [(held.address, held.address + PAGE), (held.address + 3 * PAGE, held.address + 8 * PAGE)]
    )
    with pytest.raises(ValueError, match="cannot cut"):
        held.decommit(4 * PAGE, PAGE)
    assert cuda_double.bytes() == 6 * PAGE
    held.decommit()
    assert cuda_double.holds() == {"reservations": 1}
    with pytest.raises(ValueError, match="piece is 1048576"):
        held.commit(0, PAGE, backing=stead.DeviceMemory(piece=MIB))


def test_growth_in_place_and_the_generation(held: stead.Reservation) -> None:
    first = held.commit(0, PAGE, backing=stead.DeviceMemory())
    first.fill(9)  # type: ignore[attr-defined]
    before = held.generation
    held.commit(PAGE, PAGE, backing=stead.DeviceMemory())
    whole = held.view(0, 2 * PAGE)
    assert whole.address == held.address  # type: ignore[attr-defined]
    assert whole[:3].read() == b"\t\t\t"  # type: ignore[attr-defined]
    assert held.generation > before


@pytest.mark.parametrize("call", ["cuMemCreate", "cuMemMap", "cuMemSetAccess"])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_commit_that_fails_at_any_call_leaves_nothing(
    held: stead.Reservation, cuda_double: CudaDouble, call: str, nth: int
) -> None:
    if call == "cuMemSetAccess" and nth > 1:
        pytest.skip("one call allows all of it")
    cuda_double.refuse(call, OUT_OF_MEMORY, nth)
    generation = held.generation
    with pytest.raises(stead.LimitReached) as refused:
        held.commit(0, 3 * PAGE, backing=stead.DeviceMemory(piece=PAGE))
    assert refused.value.limit == "device memory"
    assert cuda_double.holds() == {"reservations": 1}
    assert not held.parts
    assert held.generation == generation
    held.commit(0, 3 * PAGE, backing=stead.DeviceMemory(piece=PAGE))


def test_too_little_memory_names_the_device_and_the_size(held: stead.Reservation, cuda_double: CudaDouble) -> None:
    cuda_double.limit("8 MiB")
    with pytest.raises(stead.LimitReached, match="10 MiB of device 0"):
        held.commit(0, 5 * PAGE, backing=stead.DeviceMemory(piece=PAGE))
    assert cuda_double.bytes() == 0


def test_a_decommit_that_the_driver_refuses_changes_nothing(
    held: stead.Reservation, cuda_double: CudaDouble
) -> None:
    held.commit(0, PAGE, backing=stead.DeviceMemory())
    cuda_double.refuse("cuMemUnmap", INVALID)
    with pytest.raises(stead.DriverError, match="CUDA_ERROR_INVALID_VALUE"):
        held.decommit()
    assert held.committed.size == PAGE
    held.decommit()
    assert cuda_double.holds() == {"reservations": 1}


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_decommit_of_several_that_is_refused_at_one_keeps_all(
    held: stead.Reservation, cuda_double: CudaDouble, nth: int
) -> None:
    for number in range(3):
        view = held.commit(2 * number * PAGE, PAGE, backing=stead.DeviceMemory())
        view.fill(number + 1)  # type: ignore[attr-defined]
    del view
    before = cuda_double.holds()
    cuda_double.refuse("cuMemUnmap", INVALID, nth)
    with pytest.raises(stead.DriverError):
        held.decommit()
    assert cuda_double.holds() == before
    for number in range(3):
        assert held.view(2 * number * PAGE, 2).read() == bytes([number + 1] * 2)  # type: ignore[attr-defined]


@pytest.mark.parametrize("call", ["cuMemUnmap", "cuMemAddressFree"])
def test_a_release_that_is_refused_keeps_all(cuda_double: CudaDouble, call: str) -> None:
    held = stead.reserve(4 * PAGE, space=stead.CudaSpace())
    held.commit(0, PAGE, backing=stead.DeviceMemory()).write(b"kept")  # type: ignore[attr-defined]
    before = cuda_double.holds()
    cuda_double.refuse(call, INVALID)
    with pytest.raises(stead.DriverError):
        held.release()
    assert not held.released
    assert cuda_double.holds() == before
    assert held.view(0, 4).read() == b"kept"  # type: ignore[attr-defined]
    held.release()
    assert not cuda_double.holds()


def test_a_decommit_waits_for_what_the_device_still_does(held: stead.Reservation, cuda_double: CudaDouble) -> None:
    held.commit(0, PAGE, backing=stead.DeviceMemory()).fill(0)  # type: ignore[attr-defined]
    cuda_double.fill(7, held.address, PAGE, 1)
    held.decommit()
    assert cuda_double.count("works") == 0
    assert cuda_double.count("faults") == 0


def test_a_forked_child_leaves_the_parents_memory_alone(held: stead.Reservation, cuda_double: CudaDouble) -> None:
    view = held.commit(0, PAGE, backing=stead.DeviceMemory())
    view.write(b"parent")  # type: ignore[attr-defined]
    child = os.fork()
    if not child:
        with contextlib.suppress(Exception):
            held.decommit()
        del view, held
        gc.collect()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert view[:6].read() == b"parent"  # type: ignore[attr-defined]


def test_a_forked_child_says_nothing_of_memory_that_it_does_not_have(
    space: stead.CudaSpace, cuda_double: CudaDouble
) -> None:
    memory = space.secure(stead.DeviceMemory(), PAGE, True)
    child = os.fork()
    if not child:
        said: list[object] = []
        sys.unraisablehook = said.append
        del memory
        os._exit(len(said))
    assert os.waitpid(child, 0)[1] == 0
    assert cuda_double.bytes() == PAGE
    del memory
    assert not cuda_double.holds()


def test_a_forked_child_gives_no_addresses_back(space: stead.CudaSpace, cuda_double: CudaDouble) -> None:
    held, other = stead.reserve(PAGE, space=space), stead.reserve(PAGE, space=space)
    before = cuda_double.calls("cuMemAddressFree")
    child = os.fork()
    if not child:
        try:
            with pytest.raises(stead.Unsupported):
                held.release()
            del held, other
            gc.collect()
            assert cuda_double.calls("cuMemAddressFree") == before
            with pytest.raises(stead.Unsupported):
                stead.reserve(PAGE, space=space)
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    held.release()
    other.release()
    assert not cuda_double.holds()


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: stead.DeviceMemory(-1), ValueError, "device is -1"),
        (lambda: stead.DeviceMemory("0"), TypeError, "device is '0'"),  # type: ignore[arg-type]
        (lambda: stead.DeviceMemory(True), TypeError, "device is True"),
        (lambda: stead.DeviceMemory(0, accessible_from=[-2]), ValueError, "accessible_from is -2"),
        (lambda: stead.DeviceMemory(0, piece=0), ValueError, "piece is 0"),
        (lambda: stead.HostMemory(numa=-1), ValueError, "numa is -1"),
    ],
)
def test_nonsense_names_the_argument(make: object, kind: type[Exception], message: str) -> None:
    assert callable(make)
    with pytest.raises(kind, match=message):
        make()


# ---- whatever is done, in any order ---------------------------------------------------------------


class Machine(RuleBasedStateMachine):
    """Reservations and their memory, with a driver that refuses now and then."""

    double: CudaDouble
    reservations: Bundle[stead.Reservation] = Bundle("reservations")

    def __init__(self) -> None:
        super().__init__()
        self.double.reset(memory="64 MiB")
        spaces._drivers.clear()
        self.space = stead.CudaSpace()
        self.live: dict[int, set[int]] = {}
        self.kept: list[stead.Reservation] = []

    @initialize()
    def start(self) -> None:
        assert not self.double.holds()

    @rule(target=reservations, pages=st.integers(1, 8), moves=st.integers(0, 2))
    def reserve(self, pages: int, moves: int) -> stead.Reservation:
        self.double.move(moves)
        made = stead.reserve(pages * PAGE, space=self.space)
        self.live[id(made)] = set()
        self.kept.append(made)
        return made

    @rule(
        held=reservations,
        first=st.integers(0, 7),
        count=st.integers(1, 4),
        refused=st.sampled_from(["", "cuMemCreate", "cuMemMap", "cuMemSetAccess"]),
        nth=st.integers(1, 3),
    )
    def commit(self, held: stead.Reservation, first: int, count: int, refused: str, nth: int) -> None:
        wanted = set(range(first, first + count))
        if refused:
            self.double.refuse(refused, OUT_OF_MEMORY, nth)
        try:
            held.commit(first * PAGE, count * PAGE, backing=stead.DeviceMemory(piece=PAGE))
        except (stead.LimitReached, stead.Occupied, stead.Released, stead.Paused, ValueError):
            pass
        else:
            assert not held.released
            self.live[id(held)] |= wanted
        self.double.refuse("cuMemCreate", 0, 0)

    @rule(held=reservations, first=st.integers(0, 7), count=st.integers(1, 8))
    def decommit(self, held: stead.Reservation, first: int, count: int) -> None:
        try:
            held.decommit(first * PAGE, count * PAGE)
        except (stead.Released, stead.Paused, ValueError):
            return
        self.live[id(held)] -= set(range(first, first + count))

    @rule(held=reservations, keep=st.booleans(), nth=st.integers(0, 3))
    def pause_and_resume(self, held: stead.Reservation, keep: bool, nth: int) -> None:
        try:
            held.pause(keep=keep)
        except (stead.Released, stead.Paused):
            return
        if nth:
            self.double.refuse("cuMemCreate", OUT_OF_MEMORY, nth)
        with contextlib.suppress(stead.LimitReached):
            held.resume()
        assert held.paused == (held.paused and bool(self.live[id(held)]))

    @rule(held=reservations)
    def resume(self, held: stead.Reservation) -> None:
        with contextlib.suppress(stead.Released, stead.LimitReached):
            held.resume()

    @rule(held=reservations)
    def release(self, held: stead.Reservation) -> None:
        held.release()
        self.live[id(held)] = set()

    @invariant()
    def what_is_held_is_what_was_committed(self) -> None:
        there = sum(len(self.live[id(each)]) for each in self.kept if not each.released and not each.paused)
        assert self.double.count("mappings") == self.double.count("handles") == there
        assert self.double.count("reservations") == sum(not each.released for each in self.kept)

    def teardown(self) -> None:
        for each in self.kept:
            each.release()
        assert not self.double.holds()


def test_in_any_order_nothing_is_lost_and_nothing_left(cuda_double: CudaDouble) -> None:
    Machine.double = cuda_double
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=60, stateful_step_count=30, suppress_health_check=list(HealthCheck), deadline=None
        ),
    )
