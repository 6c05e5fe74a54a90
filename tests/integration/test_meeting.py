"""The same memory at the same address in every process: real processes, every way to start them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

import stead
from integration import workers
from stead.ranges import Range

if TYPE_CHECKING:
    from collections.abc import Iterator

METHODS = ["spawn", "fork", "forkserver"]
PAGE = os.sysconf("SC_PAGESIZE")

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


@pytest.fixture
def shared() -> Iterator[stead.Reservation]:
    r = stead.reserve("64 MiB", name="shared", guard=PAGE)
    with r.commit(0, "1 MiB", backing="shared") as view:
        view[:5] = b"hello"
    yield r
    r.release()


@contextmanager
def worker(target: Any, *arguments: Any, method: str = "spawn") -> Iterator[Any]:
    """A running worker and the connection to it."""
    context: Any = multiprocessing.get_context(method)
    here, there = context.Pipe()
    process = context.Process(target=target, args=(there, *arguments))
    process.start()
    there.close()
    try:
        yield here, process
    finally:
        here.close()
        process.join(10)
        if process.is_alive():
            process.kill()
            process.join()


@pytest.mark.parametrize("method", METHODS)
def test_a_process_gets_it_as_an_argument(shared: stead.Reservation, method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    here, there = context.Pipe()
    process = context.Process(target=workers.read_and_write, args=(shared, there))
    process.start()
    there.close()
    assert here.recv() == (shared.address, b"hello", process.pid)
    process.join()
    assert process.exitcode == 0
    with shared.view(0, 10) as view:
        assert bytes(view) == b"hellochild"


@pytest.mark.parametrize("method", METHODS)
def test_executors_and_pools_pass_it_with_every_task(shared: stead.Reservation, method: str) -> None:
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        answers = [each.result() for each in [executor.submit(workers.look, shared) for _ in range(6)]]
        assert {answer[:2] for answer in answers} == {(shared.address, b"hello")}
    with context.Pool(2) as pool:
        assert pool.map(workers.look_at, [(shared, k % 5) for k in range(20)]) == list(b"hello" * 4)


def test_what_is_committed_later_arrives_with_the_next_message(shared: stead.Reservation) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        executor.submit(workers.look, shared).result()
        memory = stead.SharedMemory("1 MiB")
        with shared.commit("8 MiB", "64 KiB", backing=memory.at("64 KiB")) as view:
            view[:1] = b"!"
        assert executor.submit(workers.look_at, (shared, 0)).result() == ord("h")
        [in_worker] = executor.submit(_parts, shared).result()[1:]
        assert in_worker == (Range.sized(shared.address + (8 << 20), 64 << 10), ord("!"))


def _parts(r: stead.Reservation) -> list[tuple[Range, int]]:
    return [(part.range, r.view(part.range.start - r.address, 1)[0]) for part in r.parts]


def test_it_comes_back_as_the_one_that_is_here(shared: stead.Reservation) -> None:
    assert pickle.loads(pickle.dumps(shared)) is shared


def test_what_a_worker_made_arrives_at_the_parent() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        with executor.submit(workers.make_and_send, 1 << 20).result() as r:
            with r.view(0, 4) as view:
                assert bytes(view) == b"made"
            assert r.name == "from the worker"


def test_a_place_that_is_taken_there_is_named_with_its_process(shared: stead.Reservation) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        pid = executor.submit(workers.sit_on, shared.address + PAGE, PAGE).result()
        with pytest.raises(stead.Occupied, match=f"of process {pid} ") as caught:
            executor.submit(workers.look, shared).result(20)
        assert caught.value.by is not None
        assert caught.value.by.range.overlaps(shared.range)
        # The pool goes on: its workers have not been killed by it.
        assert executor.submit(os.getpid).result() == pid


def test_a_pool_task_whose_place_is_taken_does_not_hang(shared: stead.Reservation) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pid = pool.apply(workers.sit_on, (shared.address, PAGE))
        with pytest.raises(stead.Occupied, match=f"of process {pid} "):
            pool.apply_async(workers.look, (shared,)).get(20)


def test_a_connection_raises_it_at_once(shared: stead.Reservation) -> None:
    blocked = Range.sized(shared.address, PAGE)
    with worker(_sit_and_receive, blocked.start) as (connection, _):
        connection.recv()
        connection.send(shared)
        answer = connection.recv()
        assert isinstance(answer, stead.Occupied)
        assert "squatter" in str(answer)
        connection.send(None)


def _sit_and_receive(connection: Any, address: int) -> None:
    connection.send(workers.sit_on(address, PAGE))
    workers.attach_what_comes(connection)


def test_read_only_where_the_sender_says_so(shared: stead.Reservation) -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as executor:
        handle = stead.Handle.of(shared, access="r")
        assert executor.submit(workers.attach_and_write, handle).result() == "read-only"
    with ProcessPoolExecutor(1, mp_context=spawn) as executor:
        assert executor.submit(workers.try_to_write, shared).result() == "writable"
    shared.protect(0, "1 MiB", access="r")
    with ProcessPoolExecutor(1, mp_context=spawn) as executor:
        assert executor.submit(workers.try_to_write, shared).result() == "read-only"


def test_a_file_arrives_too(tmp_path: Any) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"x" * PAGE + b"files" + b"y" * PAGE)
    with stead.reserve("1 MiB") as r:
        r.commit(0, PAGE, backing=stead.File(path, PAGE))
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
            assert executor.submit(workers.look, r).result()[1] == b"files"


def test_what_cannot_be_shared_is_not_sent() -> None:
    with stead.reserve("1 MiB") as r:
        r.commit(0, PAGE)
        with pytest.raises(stead.Unsupported, match="private to this process"):
            pickle.dumps(r)
    with pytest.raises(stead.Released):
        pickle.dumps(r)


def test_a_sender_that_is_gone_is_told() -> None:
    with worker(_send_and_wait) as (connection, process):
        data = connection.recv_bytes()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    with pytest.raises(stead.PeerFailed, match="has ended"):
        pickle.loads(data)
    place = Range(*_address_in(data))
    stead.reserve(place.size, at=place.start).release()  # nothing is held by what failed


def test_when_the_sender_is_gone_it_arrives_from_another_process_that_has_it() -> None:
    with worker(_send_and_wait) as (connection, process):
        data = connection.recv_bytes()
        with pickle.loads(data) as r:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            with r.view(0, 5) as view:
                view[:] = b"hello"
            with worker(workers.attach_what_comes) as (other, _):
                other.send_bytes(data)
                assert other.recv() == (r.address, b"hello")
                other.send(None)


def _address_in(data: bytes) -> Any:
    seen: list[Any] = []

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if name == "_arrive":
                return seen.append
            return super().find_class(module, name)

    import io

    Reader(io.BytesIO(data)).load()
    return seen[0].range


def _send_and_wait(connection: Any) -> None:
    with stead.reserve("1 MiB") as r:
        r.commit(backing="shared")
        connection.send_bytes(pickle.dumps(r))
        signal.pause()


def test_a_released_sender_is_told() -> None:
    r = stead.reserve("1 MiB")
    r.commit(backing="shared")
    with worker(workers.attach_what_comes) as (connection, _):
        data = pickle.dumps(r)
        r.decommit()
        connection.send_bytes(data)
        answer = connection.recv()
        assert isinstance(answer, stead.PeerFailed)
        assert "released it" in str(answer)
        connection.send(None)
    r.release()


@pytest.mark.parametrize("workers_count", [1, 3])
def test_a_parent_and_its_running_workers_claim_together(workers_count: int) -> None:
    context = multiprocessing.get_context("spawn")
    ends = [context.Pipe() for _ in range(workers_count)]
    processes = [
        context.Process(target=workers.reserve_together, args=(there, 1 << 30, None)) for _, there in ends
    ]
    for process, (_, there) in zip(processes, ends, strict=True):
        process.start()
        there.close()
    connections = [here for here, _ in ends]
    with stead.reserve("1 GiB", together=stead.peers.Coordinator(connections)) as r:
        assert [connection.recv() for connection in connections] == [r.range] * workers_count
        with r.commit(0, PAGE, backing="shared") as view:
            view[:4] = b"both"
        for connection in connections:
            connection.send(r)
            assert connection.recv() == b"both"
    for process in processes:
        process.join()
        assert process.exitcode == 0


def test_together_goes_round_what_only_one_of_them_has() -> None:
    """The worker sits on the place that the parent draws first."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    window = stead.this_process().windows[0]
    blocked = Range(window.start, window.stop - (64 << 30))
    process = context.Process(target=workers.reserve_together, args=(there, 1 << 30, blocked))
    process.start()
    there.close()
    with stead.reserve(1 << 30, together=stead.peers.Coordinator([here])) as r:
        assert here.recv() == r.range
        assert not r.range.overlaps(blocked)
        r.commit(0, PAGE, backing="shared")
        here.send(r)
        here.recv()
    process.join()


def test_a_worker_that_dies_in_the_middle_leaves_nothing_held() -> None:
    before = stead.snapshot().occupied
    context = multiprocessing.get_context("spawn")
    ends = [context.Pipe() for _ in range(2)]
    targets: list[Any] = [workers.leave_in_the_middle, workers.reserve_together]
    processes = [
        context.Process(target=targets[0], args=(ends[0][1], 1 << 40)),
        context.Process(target=targets[1], args=(ends[1][1], 1 << 40, None)),
    ]
    for process, (_, there) in zip(processes, ends, strict=True):
        process.start()
        there.close()
    with pytest.raises(stead.PeerFailed, match="worker 1: is gone"):
        stead.reserve("1 TiB", together=stead.peers.Coordinator([here for here, _ in ends]))
    answer = ends[1][0].recv()
    assert isinstance(answer, stead.PeerFailed)
    for process in processes:
        process.join()
    grown = stead.snapshot().occupied.size - before.size
    assert grown < 1 << 40


def test_peers_that_ask_for_different_things_are_told() -> None:
    with worker(workers.reserve_together, 1 << 20, None) as (connection, _):
        with pytest.raises(stead.PeersDisagree, match="size"):
            stead.reserve(1 << 30, together=stead.peers.Coordinator([connection]))
        assert isinstance(connection.recv(), stead.PeersDisagree)


def test_a_silent_worker_is_given_up_after_the_deadline() -> None:
    here, _there = multiprocessing.Pipe()
    with pytest.raises(stead.PeerFailed, match="did not answer in time"):
        stead.reserve("1 GiB", together=stead.peers.Coordinator([here], timeout=0.05))


def test_nonsense_from_a_peer_is_refused() -> None:
    here, there = multiprocessing.Pipe()
    there.send_bytes(b'{"token": 5}')
    with pytest.raises(stead.PeerFailed, match="not a message"):
        stead.reserve("1 GiB", together=stead.peers.Coordinator([here]))


@pytest.mark.long
def test_two_hundred_spawned_workers_all_meet(shared: stead.Reservation) -> None:
    met = 0
    for _ in range(20):
        context = multiprocessing.get_context("spawn")
        ends = [context.Pipe() for _ in range(10)]
        processes = [context.Process(target=workers.read_and_write, args=(shared, there)) for _, there in ends]
        for process in processes:
            process.start()
        for (here, _), process in zip(ends, processes, strict=True):
            assert here.recv()[:2] == (shared.address, b"hello")
            process.join()
            met += 1
    assert met == 200


def discard_as_told(handle: stead.Handle) -> str:
    try:
        handle.attach().discard(0, "1 MiB")
    except stead.Unsupported as error:
        return str(error)
    return "discarded"


def test_a_read_only_attachment_cannot_discard_what_it_may_not_write(shared: stead.Reservation) -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as executor:
        handle = stead.Handle.of(shared, access="r")
        assert "may write" in executor.submit(discard_as_told, handle).result()
    with shared.view(0, 5) as view:
        assert bytes(view) == b"hello"
    with ProcessPoolExecutor(1, mp_context=spawn) as executor:
        assert executor.submit(discard_as_told, stead.Handle.of(shared)).result() == "discarded"
    with shared.view(0, 5) as view:
        assert bytes(view) == bytes(5)


def test_a_forked_child_gets_what_its_parent_commits_later() -> None:
    """It inherited the reservation empty; what arrives is that one, not a stranger at the same place."""
    with stead.reserve("1 MiB") as r:
        here, there = multiprocessing.Pipe()
        pid = os.fork()
        if pid == 0:
            arrived = here.recv()
            with arrived.view(0, 5) as view:
                os._exit(0 if arrived is r and bytes(view) == b"later" else 1)
        with r.commit(0, PAGE, backing="shared") as view:
            view[:5] = b"later"
        there.send(r)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
