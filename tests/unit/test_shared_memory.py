"""stead.shared_memory.SharedMemory within one process: what the standard one promises, and what it leaks."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import stead
from others import run
from stead import segments
from stead.shared_memory import SharedMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = os.sysconf("SC_PAGESIZE")


def named(name: str) -> str:
    """Names are this user's, and other runs of these tests may be going on."""
    return f"{name} {os.getpid()}"


def maps() -> str:
    return Path("/proc/self/maps").read_text()


@contextmanager
def made(size: int = 100, name: str | None = None) -> Iterator[SharedMemory]:
    memory = SharedMemory(name, create=True, size=size)
    try:
        yield memory
    finally:
        if memory._owned is not None:
            memory.unlink()


def test_it_has_what_the_standard_one_has() -> None:
    with made(1000, named("stead test")) as memory:
        assert (memory.name, memory.size) == (named("stead test"), 1000)
        assert repr(memory) == f"SharedMemory({named('stead test')!r}, size=1000)"
        buf = memory.buf
        assert (buf.format, buf.itemsize, buf.readonly, buf.contiguous) == ("B", 1, False, True)
        assert (len(buf), bytes(buf)) == (1000, bytes(1000))
        buf[:5] = b"hello"
        buf[-1] = 255
        again = SharedMemory(named("stead test"))
        assert (again.size, bytes(again.buf[:5]), again.buf[999]) == (1000, b"hello", 255)
        assert SharedMemory(name=named("stead test"), create=False, size=5000, track=False).size == 1000


@pytest.mark.parametrize("size", [1, PAGE - 1, PAGE, PAGE + 1, 5 * PAGE])
def test_sizes_are_exact_as_on_linux(size: int) -> None:
    from multiprocessing import shared_memory as standard

    theirs = standard.SharedMemory(create=True, size=size)
    with made(size) as ours:
        assert (ours.size, len(ours.buf)) == (theirs.size, len(theirs.buf or b"")) == (size, size)
        ours.buf[size - 1] = 1
    theirs.close()
    theirs.unlink()


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="size is -1, must be a positive"):
        SharedMemory(create=True, size=-1)
    with pytest.raises(ValueError, match="size is 0"):
        SharedMemory("name", True)
    with pytest.raises(ValueError, match="name is None"):
        SharedMemory()
    with pytest.raises(ValueError, match="embedded null character"):
        SharedMemory("a\0b")
    wrong: Any = 1.5
    with pytest.raises(TypeError):
        SharedMemory(create=True, size=wrong)
    wrong = 5
    with pytest.raises(TypeError, match="name is 5"):
        SharedMemory(wrong)


@pytest.mark.parametrize(
    ("name", "number"),
    [("", errno.EINVAL), ("/", errno.EINVAL), ("a/b", errno.EINVAL), ("x" * 256, errno.ENAMETOOLONG)],
)
def test_names_that_the_standard_one_refuses_are_refused_alike(name: str, number: int) -> None:
    from multiprocessing import shared_memory as standard

    for kind in (SharedMemory, standard.SharedMemory):
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            kind(name, create=True, size=1)
        assert caught.value.errno == number


@pytest.mark.parametrize(
    "name", ["/slash", "a b\n(deleted)", "ünïcode ✓", "\udcff", "x" * 231, "x" * 232, "x" * 247, "y" * 240 + "z"]
)
def test_any_other_name_will_do(name: str) -> None:
    name = f"{name[0]}{os.getpid() % 10**8:08}{name[1:]}"  # of at most 255 bytes, and 239 fit into a memfd's name
    with made(10, name) as memory:
        assert memory.name == name
        memory.buf[0] = 7
        assert SharedMemory(name).buf[0] == 7
        assert pickle.loads(pickle.dumps(memory)).buf[0] == 7
        with pytest.raises(FileExistsError):
            SharedMemory(name, create=True, size=1)
        with pytest.raises(FileNotFoundError):
            SharedMemory(name[:-1] + "!")


def test_a_name_that_is_taken_and_a_name_that_is_not_there() -> None:
    with made(10, named("taken")):
        with pytest.raises(FileExistsError, match=named("taken")):
            SharedMemory(named("taken"), create=True, size=10)
    with pytest.raises(FileNotFoundError, match=named("taken")):
        SharedMemory(named("taken"))


def test_closing_does_not_destroy() -> None:
    with made(10, named("kept")) as memory:
        memory.buf[0] = 7
        memory.close()
        memory.close()
        assert memory.buf is None
        assert SharedMemory(named("kept")).buf[0] == 7
        pickled = pickle.dumps(memory)
        del memory
    made_here = SharedMemory(named("kept"), create=True, size=10)
    made_here.buf[0] = 8
    del made_here
    gc.collect()
    assert SharedMemory(named("kept")).buf[0] == 8
    assert pickle.loads(pickled).buf[0] == 8  # by its name, as the standard one
    SharedMemory(named("kept")).unlink()


@pytest.mark.parametrize("order", list(permutations(["close creator", "close other", "unlink"])))
@pytest.mark.parametrize("by", ["creator", "other"])
def test_closing_and_unlinking_happen_in_any_order(order: tuple[str, ...], by: str) -> None:
    creator = SharedMemory(named("order"), create=True, size=PAGE)
    other = SharedMemory(named("order"))
    closed = set()
    unlinked = False
    for step in order:
        if step == "unlink":
            (creator if by == "creator" else other).unlink()
            unlinked = True
        else:
            which = creator if step == "close creator" else other
            which.close()
            closed.add(which)
        for each in (creator, other):
            if each not in closed:
                each.buf[0] += 1
        if unlinked:
            with pytest.raises(FileNotFoundError):
                SharedMemory(named("order"))
        else:
            SharedMemory(named("order"))
    for each in (creator, other):
        with pytest.raises(FileNotFoundError):
            each.unlink()
    with made(1, named("order")):
        with pytest.raises(FileNotFoundError):  # it never ends a name that is another's by now
            creator.unlink()
        SharedMemory(named("order"))


def test_unlinking_frees_the_name_and_who_has_it_goes_on() -> None:
    first = SharedMemory(named("name"), create=True, size=10)
    other = SharedMemory(named("name"))
    other.unlink()
    with made(20, named("name")) as second:
        first.buf[0], second.buf[0] = 1, 2
        assert (other.buf[0], SharedMemory(named("name")).buf[0]) == (1, 2)
        with pytest.raises(FileNotFoundError):
            first.unlink()


def memory_of(pattern: str) -> int:
    """Bytes allocated in this process's memfds of that name."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            if pattern in os.readlink(f"/proc/self/fd/{number}"):
                status = os.stat(f"/proc/self/fd/{number}")
                found[status.st_ino] = status.st_blocks * 512
        except FileNotFoundError:
            continue
    return sum(found.values())


def test_memory_is_given_back_when_it_is_unlinked_and_nobody_maps_it() -> None:
    size = 1 << 20
    creator = SharedMemory(named("given back"), create=True, size=size)
    other = SharedMemory(named("given back"))
    assert memory_of(named("given back")) >= size
    creator.close()
    other.unlink()
    other.buf[0] = 1
    assert memory_of(named("given back")) >= size
    other.close()
    # This process still has its descriptor: a page of it is left.
    assert memory_of(named("given back")) <= PAGE
    again = SharedMemory(named("given back"), create=True, size=size)
    again.close()
    again.unlink()
    assert memory_of(named("given back")) <= PAGE
    del creator, other, again
    assert segments._kept.keys().isdisjoint({named("given back")})


def test_an_unlinked_segment_is_swept_up() -> None:
    gc.collect()  # what other tests have left
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(200):
        name = SharedMemory(create=True, size=1).name
        SharedMemory(name).unlink()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_view_keeps_it_from_being_closed_as_in_the_standard_one() -> None:
    with made() as memory:
        view = memory.buf[2:5]
        with pytest.raises(BufferError, match="cannot close exported pointers exist"):
            memory.close()
        view[0] = 1
        del view
        memory.close()
    with made() as memory:
        exported = memoryview(memory.buf).cast("B")
        with pytest.raises(BufferError):
            memory.close()
        del exported
        memory.close()


def test_views_outlive_it_without_harm() -> None:
    with made() as memory:
        memory.buf[:] = b"x" * 100
        view = memory.buf[10:]
        alone = memory.buf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del memory  # the standard one complains in __del__ here
        gc.collect()
    assert (bytes(view), bytes(alone)) == (b"x" * 90, b"x" * 100)


def test_numpys_arrays_outlive_it_without_harm() -> None:
    # numpy#23305: with the standard one the last line is a segmentation fault.
    numpy = pytest.importorskip("numpy")
    with made(80) as memory:
        pointing = numpy.ndarray(10, dtype="f8", buffer=memory.buf)
        pointing[:] = 7
        memory.close()
    assert pointing.sum() == 70
    with made(80) as memory:
        held = numpy.frombuffer(memory.buf)
        with pytest.raises(BufferError):
            memory.close()
        memory.unlink()
        del memory
    assert held.sum() == 0


def test_what_only_keeps_the_memoryview_does_no_harm_either() -> None:
    # As torch.frombuffer does: a pointer, and a reference to the memoryview, which close() releases.
    import ctypes

    with made() as memory:
        buf = memory.buf
        address = ctypes.addressof(ctypes.c_char.from_buffer(buf))
        gc.collect()
        memory.buf[0] = 7
        memory.close()
        assert ctypes.string_at(address, 1) == b"\7"
        with pytest.raises(ValueError, match="released"):
            buf[0]
        # Its first word: there is no mapping that starts at another's address.
        assert f"\n{address:x}-" in maps()
        del buf
        assert f"\n{address:x}-" not in maps()


def test_nothing_stays_open_or_mapped() -> None:
    def round_trip() -> None:
        with made(10 * PAGE, named("round")) as memory:
            other = SharedMemory(named("round"))
            third = pickle.loads(pickle.dumps(memory))
            memory.close()
            other.close()
            third.close()
        with pytest.raises(FileNotFoundError):
            SharedMemory(named("round"))
        with made(5, named("round")), pytest.raises(FileExistsError):
            SharedMemory(named("round"), create=True, size=5)

    round_trip()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        round_trip()
    assert len(os.listdir("/proc/self/fd")) <= before
    assert "stead:shm:" + named("round") not in maps()


def test_it_is_nobody_elses_and_sealed() -> None:
    import fcntl

    with made() as memory:
        assert memory._owned is not None
        assert os.fstat(memory._owned.fd).st_mode & 0o777 == 0o600
        seals = fcntl.fcntl(memory._owned.fd, fcntl.F_GET_SEALS)
        assert seals & fcntl.F_SEAL_SHRINK
        with pytest.raises(PermissionError):
            os.ftruncate(memory._owned.fd, PAGE)
        assert not os.get_inheritable(memory._owned.fd)


def test_what_only_looks_like_a_segment_is_not_attached() -> None:
    head = segments._HEAD.pack(segments._MAGIC, segments._READY, 10 * PAGE)
    for contents in (b"x" * 100, head, segments._HEAD.pack(segments._MAGIC, 9, 1)):
        fd = os.memfd_create("stead:shm:" + named("false"))
        os.fchmod(fd, 0o600)
        os.write(fd, contents)
        with pytest.raises(FileNotFoundError):
            SharedMemory(named("false"))
        os.close(fd)
    # Nor one that others may read, or one that can be cut off under those who map it.
    for mode, seals, size in ((0o644, True, 11 * PAGE), (0o600, False, 11 * PAGE), (0o600, True, 10 * PAGE)):
        fd = os.memfd_create("stead:shm:" + named("false"), os.MFD_ALLOW_SEALING)
        os.fchmod(fd, mode)
        os.write(fd, head)
        os.ftruncate(fd, size)
        if seals:
            import fcntl

            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        with pytest.raises(FileNotFoundError):
            SharedMemory(named("false"))
        os.close(fd)


def test_a_creator_that_claims_nothing_is_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "DEADLINE", 0.0)
    older = os.memfd_create("stead:shm:" + named("silent"))
    os.fchmod(older, 0o600)
    with pytest.raises(FileExistsError):
        SharedMemory(named("silent"), create=True, size=1)
    os.close(older)
    with made(1, named("silent")):
        pass


def test_of_many_threads_that_create_one_name_one_does() -> None:
    def attempt(_: int) -> SharedMemory | None:
        try:
            return SharedMemory(named("raced"), create=True, size=10)
        except FileExistsError:
            return None

    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            won = [each for each in pool.map(attempt, range(8)) if each is not None]
            assert len(won) == 1
            won[0].unlink()


def test_of_many_threads_that_unlink_one_does() -> None:
    def attempt(memory: SharedMemory) -> bool:
        try:
            memory.unlink()
        except FileNotFoundError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            handles = [SharedMemory(create=True, size=10)]
            handles += [SharedMemory(handles[0].name) for _ in range(7)]
            assert sum(pool.map(attempt, handles)) == 1


def test_running_out_is_an_error_and_leaves_the_name_free() -> None:
    with pytest.raises(stead.LimitReached):
        SharedMemory(named("too much"), create=True, size=1 << 50)
    with pytest.raises(OverflowError):
        SharedMemory(named("too much"), create=True, size=1 << 70)
    with made(1, named("too much")):
        pass


def test_without_descriptors_it_says_so() -> None:
    said = run(
        """
import resource
from stead.shared_memory import SharedMemory
memory = SharedMemory(f"few {os.getpid()}", create=True, size=10)
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
some = []
try:
    while True:
        some.append(SharedMemory(create=True, size=10))
except OSError as error:
    failed = error
more = []
while True:
    try:
        more.append(os.dup(0))
    except OSError:
        break
memory.close()  # without a descriptor to spare
half = attempt(SharedMemory, f"half {os.getpid()}", create=True, size=10)  # it takes two, and there is one now
for each in some:
    each.close()
for each in more:
    os.close(each)
few, half_made = SharedMemory(f"few {os.getpid()}"), SharedMemory(f"half {os.getpid()}", create=True, size=20)
say((failed.errno, few.size, half.errno, half_made.size))
"""
    )
    assert said == (errno.EMFILE, 10, errno.EMFILE, 20)


def test_a_class_of_ones_own_arrives_as_one() -> None:
    with made() as memory:
        mine = Mine(memory.name)
        arrived = pickle.loads(pickle.dumps(mine))
        assert type(arrived) is Mine
        assert arrived.buf[0] == 0
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickle.dumps(mine))


class Mine(SharedMemory):
    pass


def test_a_pickle_says_where_it_was_and_has_one_length() -> None:
    lengths = set()
    with made(5) as one, made(5) as other:
        for each in (one, other):
            lengths.add(len(pickle.dumps(each)))
    assert len(lengths) == 1
