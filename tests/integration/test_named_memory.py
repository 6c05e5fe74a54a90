"""stead.shared_memory between processes: killed, racing, forked, of other users, with a small /dev/shm."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from others import NOBODY, SOMEBODY, need_mount_namespace, need_root, other, run
from stead import segments
from stead.shared_memory import ShareableList, SharedMemory

MEMORY = "from stead.shared_memory import SharedMemory, ShareableList\n"
METHODS = ["spawn", "fork", "forkserver"]

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def memfds(name: str) -> list[str]:
    """Descriptors of any process that have it open."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            for number in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{number}") == f"/memfd:stead:shm:{name} (deleted)":
                    found.append(f"/proc/{pid}/fd/{number}")
        except OSError:
            continue
    return found


def test_an_unrelated_process_attaches_it_by_name_and_it_outlives_its_creator() -> None:
    name = f"unrelated {os.getpid()}"
    with (
        other(
            MEMORY + f"m = SharedMemory({name!r}, create=True, size=5); m.buf[:] = b'hello'; say(1); hear()"
        ) as one,
        other(
            MEMORY + f"hear(); m = SharedMemory({name!r}); say(bytes(m.buf)); hear(); m.unlink(); say(1)"
        ) as two,
    ):
        one.hear()
        two.say("it is there")
        assert two.hear() == b"hello"
        one.kill()
        third = SharedMemory(name)
        third.buf[0] = ord("j")
        two.say("unlink it")
        two.hear()
        assert bytes(third.buf) == b"jello"
        with pytest.raises(FileNotFoundError):
            SharedMemory(name)


def test_it_stays_under_its_name_when_its_creator_has_closed_it() -> None:
    name = f"closed {os.getpid()}"
    with other(MEMORY + f"SharedMemory({name!r}, create=True, size=5).close(); say(1); hear()") as creator:
        creator.hear()
        SharedMemory(name).close()
        creator.kill()
    with pytest.raises(FileNotFoundError):
        SharedMemory(name)


def test_who_attached_it_can_still_unlink_it_when_its_creator_has_ended() -> None:
    # The last lines of many programs; with the creator gone nobody else has it after close().
    name = f"last {os.getpid()}"
    with other(MEMORY + f"m = SharedMemory({name!r}, create=True, size=5); say(1); hear()") as creator:
        creator.hear()
        memory = SharedMemory(name)
        creator.kill()
    memory.close()
    memory.unlink()
    with pytest.raises(FileNotFoundError):
        memory.unlink()


def test_a_killed_process_leaves_nothing_behind() -> None:
    name = f"killed {os.getpid()}"
    code = f"""
m = SharedMemory({name!r}, create=True, size=1 << 20)
l = ShareableList(range(100), name={name + " list"!r})
say(1)
hear()
"""
    with other(MEMORY + code) as creator:
        creator.hear()
        assert memfds(name)
        # Others use /dev/shm meanwhile: what counts is what this process has from there.
        assert "/dev/shm" not in Path(f"/proc/{creator.pid}/maps").read_text()
        creator.kill()
    assert memfds(name) == memfds(name + " list") == []
    assert not [each for each in os.listdir("/dev/shm") if name in each]
    with pytest.raises(FileNotFoundError):
        SharedMemory(name)


def test_a_process_that_forgets_it_ends_without_a_word() -> None:
    code = """
import sys, threading
from stead.shared_memory import SharedMemory, ShareableList
memory = SharedMemory(create=True, size=100)
again = SharedMemory(memory.name)
view = again.buf[5:]
closed = SharedMemory(create=True, size=100)
closed.close()
some = ShareableList(range(5))
assert threading.active_count() == 1
assert "multiprocessing.resource_tracker" not in sys.modules
"""
    ran = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code], capture_output=True, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")


def test_the_size_of_dev_shm_is_no_limit() -> None:
    need_mount_namespace()
    small = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=1m none /dev/shm && exec "$0" "$@"')
    code = """
import shutil
memory = SharedMemory(create=True, size=8 << 20)
memory.buf[:] = b"x" * (8 << 20)
say((shutil.disk_usage("/dev/shm").total, shutil.disk_usage("/dev/shm").used, bytes(memory.buf[-3:])))
"""
    assert run(MEMORY + code, *small) == (1 << 20, 0, b"xxx")


RACE = (
    MEMORY
    + """
say("ready")
for round in range(30):
    name = hear()
    won = attempt(SharedMemory, name, create=True, size=10)
    say(type(won).__name__)
    hear()
    if isinstance(won, SharedMemory):
        won.unlink()
    say("over")
"""
)


def test_of_creators_that_race_for_a_name_one_gets_it() -> None:
    with ExitStack() as stack:
        racers = [stack.enter_context(other(RACE)) for _ in range(4)]
        for each in racers:
            each.hear()
        for turn in range(30):
            for each in racers:
                each.say(f"race {os.getpid()} {turn % 2}")
            assert sorted(each.hear() for each in racers) == ["FileExistsError"] * 3 + ["SharedMemory"]
            for each in racers:
                each.say("over")
            for each in racers:
                each.hear()


def write(memory: SharedMemory, at: int) -> bytes:
    memory.buf[at] += 1
    return bytes(memory.buf[:5])


def change(items: ShareableList[Any], answers: Any) -> None:
    items[1] = "changed"
    answers.send(list(items))


@pytest.mark.parametrize("method", METHODS)
def test_pickles_arrive_by_every_start_method_and_in_pools(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    memory = SharedMemory(create=True, size=100)
    memory.buf[:5] = b"hello"
    process = context.Process(target=write, args=(memory, 50))
    process.start()
    process.join()
    assert (process.exitcode, memory.buf[50]) == (0, 1)
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        assert set(executor.map(write, [memory] * 6, range(60, 66))) == {b"hello"}
    with context.Pool(2) as pool:
        assert set(pool.starmap(write, [(memory, at) for at in range(66, 70)])) == {b"hello"}
    assert bytes(memory.buf[60:70]) == b"\1" * 10
    memory.close()
    memory.unlink()
    items = ShareableList([1, "original", None])
    here, there = context.Pipe()
    process = context.Process(target=change, args=(items, there))
    process.start()
    there.close()
    assert here.recv() == list(items) == [1, "changed", None]
    process.join()
    items.shm.unlink()


def test_what_is_sent_while_a_process_starts_need_not_be_held_by_anyone_else() -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    memory = SharedMemory(create=True, size=5)
    memory.buf[:] = b"hello"
    process = context.Process(target=wait_and_send, args=(memory, there))
    process.start()
    there.close()
    here.recv()
    memory.unlink()
    memory.close()
    here.send("gone")
    assert here.recv() == b"hello"
    process.join()


def wait_and_send(memory: SharedMemory, connection: Any) -> None:
    connection.send("here")
    connection.recv()
    connection.send(bytes(memory.buf))


def test_a_pickle_whose_sender_was_killed_arrives_from_whoever_has_it() -> None:
    code = """
m = SharedMemory(create=True, size=5)
m.buf[:] = b"hello"
say(pickle.dumps(m))
hear()
"""
    with (
        other(MEMORY + code) as sender,
        other(MEMORY + "m = pickle.loads(hear()); say(1); hear()") as keeper,
        other(MEMORY + "m = pickle.loads(hear()); say(bytes(m.buf)); hear()") as receiver,
    ):
        pickled = sender.hear()
        keeper.say(pickled)
        keeper.hear()
        sender.kill()
        receiver.say(pickled)
        assert receiver.hear() == b"hello"
        arrived = pickle.loads(pickled)
        keeper.kill()
        receiver.kill()
        assert bytes(arrived.buf) == b"hello"
        del arrived
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickled)


def test_another_user_cannot_attach_it_and_has_names_of_its_own() -> None:
    need_root()
    name = f"users {os.getpid()}"
    code = f"""
become({NOBODY})
name = hear()
say(type(attempt(SharedMemory, name)).__name__)
say(type(attempt(pickle.loads, hear())).__name__)
memory = SharedMemory(name, create=True, size=5)
memory.buf[:] = b"other"
say(pickle.dumps(memory))
hear()
"""
    memory = SharedMemory(name, create=True, size=5)
    with (
        other(MEMORY + code) as stranger,
        other(
            MEMORY + f"become({SOMEBODY}); say((attempt(SharedMemory, hear()), attempt(pickle.loads, hear())))"
        ) as third,
    ):
        stranger.say(name)
        assert stranger.hear() == "FileNotFoundError"
        stranger.say(pickle.dumps(memory))
        assert stranger.hear() == "FileNotFoundError"
        pickled = stranger.hear()
        # Not even root, who may look into that process, attaches what another user has laid out under a name.
        assert bytes(SharedMemory(name).buf) == bytes(5)
        memory.unlink()
        with pytest.raises(FileNotFoundError):
            SharedMemory(name)
        third.say(name)
        third.say(pickled)
        assert [type(each) for each in third.hear()] == [FileNotFoundError, FileNotFoundError]


def test_after_fork_parent_and_child_have_it_and_neither_ends_it_for_the_other() -> None:
    code = """
name = f"forked {os.getpid()}"
memory = SharedMemory(name, create=True, size=1 << 20)
memory.buf[:5] = b"hello"
child = os.fork()
if child == 0:
    memory.buf[0] = ord("j")
    memory.unlink()
    memory.close()
    os._exit(0)
os.waitpid(child, 0)
say((bytes(memory.buf[:5]), memory.buf[5], type(attempt(SharedMemory, name)).__name__))
blocks = os.fstat(memory._owned.fd).st_blocks
fd = os.dup(memory._owned.fd)
memory.close()
say((blocks * 512 >= 1 << 20, os.fstat(fd).st_blocks * 512 <= os.sysconf("SC_PAGESIZE")))
"""
    with other(MEMORY + code) as process:
        assert process.hear() == (b"jello", 0, "FileNotFoundError")
        assert process.hear() == (True, True)


def test_one_that_was_killed_while_it_mapped_an_unlinked_one_holds_up_nothing_for_long() -> None:
    name = f"swept {os.getpid()}"
    memory = SharedMemory(name, create=True, size=1 << 20)
    memory.close()
    with other(MEMORY + f"m = SharedMemory({name!r}); m.unlink(); say(1); hear()") as user:
        user.hear()
        del memory
        user.process.send_signal(signal.SIGKILL)
        user.process.wait()
    assert memfds(name)
    # The creator's next segments notice it, which each look at a few of those that it has.
    for _ in range(len(segments._kept)):
        SharedMemory(create=True, size=1).unlink()
    assert not memfds(name)


def test_processes_that_cannot_be_looked_into_pass_it_on_by_pickle() -> None:
    code = f"""
become({NOBODY})
memory = SharedMemory(create=True, size=5)
memory.buf[:] = b"hello"
shut_proc()
say((memory.name, pickle.dumps(memory)))
hear()
"""
    with (
        other(MEMORY + code) as sender,
        other(MEMORY + f"become({NOBODY}); m = pickle.loads(hear()); say(bytes(m.buf))") as receiver,
    ):
        _, pickled = sender.hear()
        receiver.say(pickled)
        assert receiver.hear() == b"hello"
