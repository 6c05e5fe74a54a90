"""Errors cross process borders whole, and are what other code expects to catch."""

from __future__ import annotations

import copy
import errno
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

import pytest

from stead.errors import (
    AddressSpaceError,
    BarrierOwnerDied,
    ChannelClosed,
    ChannelEmpty,
    ChannelFull,
    Contended,
    Corrupted,
    DriverError,
    LimitReached,
    Meaning,
    NoGap,
    NotLive,
    Obstacle,
    Occupied,
    OutOfSpace,
    OverQuota,
    OwnerDied,
    Paused,
    PeerFailed,
    PeersDisagree,
    Released,
    RollbackFailed,
    UnreadableMaps,
    UnreadableSave,
    Unsupported,
    WrongKey,
)
from stead.placement import Placement
from stead.ranges import Range

if TYPE_CHECKING:
    from collections.abc import Callable

HERE, THERE = Range(0x40_0000_0000, 0x40_4000_0000), Range(0x50_0000_0000, 0x50_4000_0000)
BY = Obstacle(Range(0x40_1000_0000, 0x40_2000_0000), "/usr/lib/libc.so.6", "process 7 (cat)")
WANTED = Placement(1 << 30, Range(0, 1 << 47), alignment=1 << 21)

EXAMPLES: list[Exception] = [
    AddressSpaceError("base"),
    AddressSpaceError("with a number", errno=errno.EBADF),
    Occupied(HERE, BY, THERE),
    Occupied(HERE),
    Occupied(HERE, BY, THERE, "in words of its own"),
    NoGap("no room", wanted=WANTED, largest=THERE),
    NoGap("no room at all", wanted=WANTED, largest=None),
    Contended("lost 32 times", attempts=32),
    LimitReached("too many mappings", "max_map_count"),
    LimitReached("a page too low", "mmap_min_addr", errno.EPERM),
    Unsupported("huge='explicit'", "a kernel with hugetlb pages", "none"),
    PeerFailed("worker 3", "did not answer in time"),
    WrongKey("the hub at tcp://10.0.0.1:4000", "does not accept our key"),
    PeersDisagree("size is 1 for one, and 2 for peer 1"),
    RollbackFailed("could not be given back", [HERE, THERE]),
    Released("used after its release"),
    Paused("0x1000–0x2000 is paused", range=HERE),
    DriverError("cuMemMap", 1, "CUDA_ERROR_INVALID_VALUE", Meaning.INVALID, "not aligned"),
    UnreadableMaps(3, "rubbish", "it is not of the form"),
    UnreadableSave("/saves/3-1.stead", "it is cut off"),
    OverQuota("over the quota", quota=1 << 20, used=1 << 19, size=1 << 19, largest_free_run=0),
    OutOfSpace("no free run of 64 KiB", size=65536, largest_free_run=4096),
    NotLive("0x1000 is no live block", address=0x1000),
    NotLive("0x1000 was freed already", address=0x1000, freed_at="here.py:7"),
    Corrupted("written past its end", address=0x1000),
    OwnerDied("process 7 died with the lock"),
    ChannelClosed("the channel was closed"),
    ChannelEmpty("nothing came"),
    ChannelFull("no room"),
    BarrierOwnerDied("process 7 died at the barrier"),
]


def named(error: object) -> str:
    return type(error).__name__


def facts(error: Exception) -> tuple[object, ...]:
    """Everything that a caller can see."""
    return type(error), str(error), error.args, vars(error), getattr(error, "errno", None)


def subclasses(kind: type) -> set[type]:
    found = {kind}
    each: type
    for each in kind.__subclasses__():
        found |= subclasses(each)
    return found


def test_every_class_has_an_example() -> None:
    public = {each for each in subclasses(AddressSpaceError) if not each.__name__.startswith("_")}
    assert public == {type(each) for each in EXAMPLES}


@pytest.mark.parametrize("error", EXAMPLES, ids=named)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_is_pickled_with_its_message_and_all_its_facts(error: Exception, protocol: int) -> None:
    there = pickle.loads(pickle.dumps(error, protocol))
    assert facts(there) == facts(error)
    # And from there to the next, as from a grandchild.
    assert facts(pickle.loads(pickle.dumps(there, protocol))) == facts(error)


@pytest.mark.parametrize("error", EXAMPLES, ids=named)
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_an_error_is_copied_with_all_its_facts(error: Exception, copied: Callable[[Exception], Exception]) -> None:
    assert facts(copied(error)) == facts(error)


def test_errors_reach_a_parent_from_its_workers_returned_or_raised() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for error in EXAMPLES:
            assert facts(pool.submit(copy.copy, error).result()) == facts(error)
            # A function of this file could not be found by a worker, whose path is not pytest's.
            raised = pool.submit(exec, "raise error", {"error": error}).exception()
            assert isinstance(raised, Exception)
            assert (type(raised), str(raised)) == (type(error), str(error))
            assert getattr(raised, "errno", None) == getattr(error, "errno", None)


def test_notes_travel_too() -> None:
    error = Occupied(HERE, BY)
    error.add_note("while attaching")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["while attaching"]


# ---- what others catch ----------------------------------------------------------------------------


def test_occupied_is_a_file_exists_error_with_its_errno() -> None:
    error = Occupied(HERE, BY, THERE)
    assert isinstance(error, FileExistsError)
    assert isinstance(error, AddressSpaceError)
    assert error.errno == errno.EEXIST
    assert error.strerror == str(error)
    assert (error.range, error.by, error.nearest) == (HERE, BY, THERE)


def test_occupied_says_what_is_in_the_way_and_where_there_is_room() -> None:
    text = str(Occupied(HERE, BY, THERE))
    for word in (str(HERE), str(BY.range), BY.name, BY.owner, str(THERE)):
        assert word in text
    assert str(Occupied(HERE)) == f"{HERE} is occupied"


def test_a_nameless_obstacle_is_called_something() -> None:
    assert "anonymous mapping" in str(Obstacle(HERE, "", "process 7"))


def test_limit_reached_is_an_os_error_that_names_the_limit() -> None:
    error = LimitReached("too many mappings", "max_map_count")
    assert isinstance(error, OSError)
    assert (error.errno, error.limit) == (errno.ENOMEM, "max_map_count")
    assert str(error) == "too many mappings"


@pytest.mark.parametrize(
    ("kind", "also"), [(NotLive, ValueError), (OutOfSpace, MemoryError), (UnreadableMaps, ValueError)]
)
def test_the_others_are_what_python_calls_such_errors(kind: type[Exception], also: type[Exception]) -> None:
    assert issubclass(kind, also)


def test_what_leaked_is_kept_as_it_was_told() -> None:
    ranges = [HERE]
    error = RollbackFailed("could not be given back", ranges)
    ranges.clear()
    assert error.leaked == (HERE,)
