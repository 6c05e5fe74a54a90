"""Channels of a heap in one process; races/test_heap_sync.py has several, and kills them."""

from __future__ import annotations

import gc
import math
import os
import pickle
import queue
import threading
from typing import TYPE_CHECKING, Any

import pytest

import stead
from stead import _native
from stead.heap import channel as channels

if TYPE_CHECKING:
    from collections.abc import Iterator

numpy = pytest.importorskip("numpy")


@pytest.fixture
def heap() -> Iterator[stead.SharedHeap]:
    made = stead.SharedHeap("64 MiB", name="channel")
    yield made
    gc.collect()
    if not made.closed:
        made.check()
        made.close(force=True)


@pytest.fixture
def channel(heap: stead.SharedHeap) -> Iterator[stead.Channel]:
    made = heap.channel(64)
    yield made
    heap.check()


def sent(channel: stead.Channel, obj: object) -> Any:
    channel.send(obj)
    return channel.receive(0)


# ---- what arrives -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "obj",
    [
        b"", b"abc", b"x" * 224, b"x" * 225, b"x" * 100_000, None, True, False, 0, -1, 2**63 - 1, -(2**63), 2**63,
        10**30, "", "text", "\u00e4\U0001f600", "x" * 224, "x" * 225, "\ud800", 1.5, -0.0, math.inf, (1, "a",
        None), {"a": [b"x" * 300]}, [1] * 5000, bytearray(b"x" * 500), len, ValueError("x").args,
    ],
    ids=lambda obj: repr(obj)[:20],
)  # fmt: skip
def test_objects_arrive_as_they_were(channel: stead.Channel, obj: object) -> None:
    got = sent(channel, obj)
    assert got == obj
    assert type(got) is type(obj)
    assert len(channel) == 0


def test_not_a_number_arrives(channel: stead.Channel) -> None:
    assert math.isnan(sent(channel, math.nan))


class Derived(int):
    pass


def test_a_derived_type_stays_one(channel: stead.Channel) -> None:
    assert type(sent(channel, Derived(5))) is Derived


def test_what_cannot_be_pickled_is_not_sent(channel: stead.Channel) -> None:
    with pytest.raises((pickle.PicklingError, AttributeError)):
        channel.send(lambda: 0)
    assert len(channel) == 0


def test_an_array_of_the_heap_is_not_copied(heap: stead.SharedHeap, channel: stead.Channel) -> None:
    array = heap.array((4, 6), "i4")
    array[:] = numpy.arange(24).reshape(4, 6)
    for each in (array, array[1:3], array.T, array[::-2, ::3], array[2], array.view("u1")):
        expected = numpy.array(each)
        got = sent(channel, each)
        assert type(got) is stead.HeapArray
        assert got.__array_interface__["data"] == each.__array_interface__["data"]
        assert (got.strides, got.dtype) == (each.strides, each.dtype)
        assert numpy.array_equal(got, expected)
    array.flags.writeable = False
    assert not sent(channel, array).flags.writeable


def test_the_sender_may_forget_at_once(heap: stead.SharedHeap, channel: stead.Channel) -> None:
    before = heap.statistics().blocks
    for number in range(20):
        array = heap.array(100)
        array[:] = number
        channel.send(array)
    del array
    heap._expire(True)
    heap.check()
    assert heap.statistics().blocks == before + 20
    for number in range(20):
        assert (channel.receive(0) == number).all()
    assert heap.statistics().blocks == before


def test_structured_and_empty_arrays(heap: stead.SharedHeap, channel: stead.Channel) -> None:
    array = heap.array(3, [("a", "i4"), ("b", "f8", (2,))])
    array["a"] = 7
    assert (sent(channel, array)["a"] == 7).all()
    assert sent(channel, heap.array(0)).shape == (0,)
    wide = heap.array(2, [(f"field{number}", "i4") for number in range(60)])
    wide["field59"] = 1
    assert (sent(channel, wide)["field59"] == 1).all()


def test_blocks_and_refs_are_not_copied(heap: stead.SharedHeap, channel: stead.Channel) -> None:
    block = heap.block(100)
    memoryview(block)[:3] = b"abc"
    got = sent(channel, block)
    assert (got.address, got.size, bytes(got)[:3]) == (block.address, 100, b"abc")
    ref = heap.put({"a": numpy.arange(1000)})
    copy = sent(channel, ref)
    assert copy == ref
    ref.free()
    assert heap.get(copy)["a"].sum() == 499500
    with pytest.raises(stead.NotLive):
        channel.send(ref)


def test_large_objects_are_put(heap: stead.SharedHeap, channel: stead.Channel) -> None:
    before = heap.statistics().blocks
    got = sent(channel, {"a": numpy.arange(100_000), "b": 1})
    assert type(got["a"]) is stead.HeapArray
    assert got["a"].sum() == 4999950000
    assert heap.owns(got["a"].__array_interface__["data"][0])
    del got
    assert heap.statistics().blocks == before


@pytest.mark.parametrize("count", [2, 40])
def test_several_blocks_in_one_message(heap: stead.SharedHeap, channel: stead.Channel, count: int) -> None:
    arrays = [heap.array(5) for _ in range(count)]
    for number, each in enumerate(arrays):
        each[:] = number
    before = heap.statistics()
    channel.send(arrays)
    places = [each.__array_interface__["data"][0] for each in arrays]
    del arrays, each
    got = channel.receive()
    assert [each.__array_interface__["data"][0] for each in got] == places
    assert [each[0] for each in got] == list(range(count))
    del got
    after = heap.statistics()
    assert after.blocks == before.blocks - count
    assert after.kept_blocks == before.kept_blocks


def test_what_was_not_sent_is_not_underway(heap: stead.SharedHeap) -> None:
    channel = heap.channel(1)
    channel.send(0)
    arrays = [heap.array(5) for _ in range(40)]
    ref = heap.put(arrays)
    before = heap.statistics().kept_blocks
    for obj in (arrays, arrays[:3], ref, arrays[0], b"x" * 1000):
        with pytest.raises(stead.ChannelFull):
            channel.send(obj, 0)
    assert heap.statistics().kept_blocks == before


def test_a_block_in_too_many_messages(heap: stead.SharedHeap) -> None:
    channel = heap.channel(300)
    array = heap.array(5)
    for _ in range(255):
        channel.send(array)
    with pytest.raises(stead.LimitReached, match="255"):
        channel.send(array)
    assert len(channel) == 255
    heap.check()
    channel.receive()
    channel.send(array)


def test_locks_and_channels_are_sent(heap: stead.SharedHeap, channel: stead.Channel) -> None:
    lock = heap.lock()
    assert sent(channel, lock) == lock
    assert sent(channel, channel) == channel
    assert sent(channel, heap) is heap


# ---- waiting, the end -----------------------------------------------------------------------------------------


def test_first_in_first_out_until_it_is_full(heap: stead.SharedHeap) -> None:
    channel = heap.channel(3)
    assert (channel.capacity, len(channel), channel.closed, bool(channel)) == (3, 0, False, True)
    for number in range(3):
        channel.send(number, 0)
    for timeout in (0, 0.01):
        with pytest.raises(stead.ChannelFull) as full:
            channel.send(3, timeout)
        assert isinstance(full.value, queue.Full)
        assert isinstance(full.value, TimeoutError)
    assert [channel.receive() for _ in range(3)] == [0, 1, 2]
    for timeout in (0, 0.01):
        with pytest.raises(stead.ChannelEmpty) as empty:
            channel.receive(timeout=timeout, spin=0.001)
        assert isinstance(empty.value, queue.Empty)
        assert isinstance(empty.value, TimeoutError)
    assert isinstance(pickle.loads(pickle.dumps(empty.value)), stead.ChannelEmpty)


def test_a_closed_channel_can_be_emptied(heap: stead.SharedHeap) -> None:
    with heap.channel(8) as channel:
        channel.send(1)
        channel.send([2])
    assert channel.closed
    for obj in (3, [3], b"x" * 1000):
        with pytest.raises(stead.ChannelClosed):
            channel.send(obj)
    assert list(channel) == [1, [2]]
    assert list(channel) == []
    with pytest.raises(stead.ChannelClosed, match="all has been received"):
        channel.receive()
    channel.close()


def test_closing_ends_the_waiting(heap: stead.SharedHeap) -> None:
    empty, full = heap.channel(1), heap.channel(1)
    full.send(0)
    found: list[Any] = []

    def wait(call: Any, *arguments: Any) -> None:
        try:
            found.append(call(*arguments))
        except stead.ChannelClosed as error:
            found.append(type(error))

    threads = [
        threading.Thread(target=wait, args=each)
        for each in ((empty.receive,), (full.send, 1), (list, empty), (empty.receive, 60, 60))
    ]
    for each in threads:
        each.start()
    empty.close()
    full.close()
    for each in threads:
        each.join()
    assert sorted(map(str, found)) == sorted(map(str, [stead.ChannelClosed] * 3 + [[]]))


def test_threads_lose_and_double_nothing(heap: stead.SharedHeap) -> None:
    channel = heap.channel(7)
    got: list[list[int]] = [[] for _ in range(3)]

    def take(mine: list[int]) -> None:
        mine.extend(channel)

    def give(first: int) -> None:
        for number in range(first, 3000, 3):
            channel.send(number if number % 2 else (number,))

    takers = [threading.Thread(target=take, args=(each,)) for each in got]
    givers = [threading.Thread(target=give, args=(first,)) for first in range(3)]
    for each in takers + givers:
        each.start()
    for each in givers:
        each.join()
    channel.close()
    for each in takers:
        each.join()
    plain = [each if isinstance(each, int) else each[0] for part in got for each in part]
    assert sorted(plain) == list(range(3000))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"capacity": 0}, ValueError),
        ({"capacity": 2**31}, ValueError),
        ({"capacity": "3"}, (TypeError, AttributeError)),
        ({"inline": 10}, ValueError),
        ({"inline": 5000}, ValueError),
        ({"spin": -1}, ValueError),
        ({"spin": math.nan}, ValueError),
    ],
)
def test_wrong_channels_are_refused(heap: stead.SharedHeap, arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        heap.channel(**arguments)
    assert heap.statistics().blocks == 0


def test_wrong_arguments_are_refused(channel: stead.Channel) -> None:
    anything: Any = channel
    wrong: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
        (anything.send, (), {}), (anything.send, (1, 2, 3, 4), {}), (anything.send, (1,), {"obj": 2}),
        (anything.send, (1,), {"wait": 2}), (anything.receive, (1, 2, 3), {}), (anything.receive, (), {"obj": 1}),
        (anything.receive, ("1",), {}),
    ]  # fmt: skip
    for call, arguments, named in wrong:
        with pytest.raises(TypeError):
            call(*arguments, **named)
    for timeout in (-1, math.nan):
        with pytest.raises(ValueError, match="timeout"):
            channel.receive(timeout)
        with pytest.raises(ValueError, match="spin"):
            channel.send(1, spin=timeout)
    assert len(channel) == 0
    channel.send(obj=5, spin=0, timeout=None)
    assert channel.receive(math.inf, math.inf) == 5
    with pytest.raises(TypeError, match=r"SharedHeap\.channel"):
        stead.Channel()


def test_spinning_is_the_channels(heap: stead.SharedHeap) -> None:
    channel = heap.channel(spin=0.5)
    assert pickle.loads(pickle.dumps(channel)).spin == channel.spin == 0.5
    channel.spin = 1e-6
    assert channel.spin == 1e-6
    with pytest.raises(ValueError, match="spin"):
        channel.spin = -1
    assert heap.channel().spin == (20e-6 if len(os.sched_getaffinity(0)) > 1 else 0)


def test_the_last_one_ends_it_with_its_messages(heap: stead.SharedHeap) -> None:
    channel = heap.channel()
    for _ in range(10):
        channel.send(heap.array(100))
    copy = pickle.loads(pickle.dumps(channel))
    assert (copy, hash(copy)) == (channel, hash(channel))
    del channel
    assert len(copy) == 10
    del copy
    assert heap.statistics().blocks == 0


def test_a_lock_whose_place_is_inside_a_block_now(heap: stead.SharedHeap) -> None:
    """Who looked for locks that nobody holds took the heap's lock for the second time, and waited for ever."""
    before = heap.block(4096 * 5)
    lock = heap.lock()
    address = lock._address
    del lock, before
    gc.collect()
    heap._reclaim()
    block = heap.block("60 MiB")
    assert heap._find(address)[:2] == (_native.HEAP_INTERIOR, block.address)
    assert heap._collect_objects() == 1
    assert heap._collect_objects() == 0


def test_a_message_that_nobody_understands(channel: stead.Channel, heap: stead.SharedHeap) -> None:
    for kind, data in ((99, b""), (channels._ARRAY, b""), (channels._BLOCK, bytes(8)), (channels._OBJECT, b"")):
        assert channel._send(kind, data, 0, 0, 0) == 0
        with pytest.raises(stead.Corrupted):
            channel.receive()
    block = heap.block(16)
    assert channel._send(channels._BYTES_BLOCK, (1 << 40).to_bytes(8, "little"), block.address, 0, 0) == 0
    with pytest.raises(stead.Corrupted):
        channel.receive()
    assert heap._held(block.address) == 1


def test_a_closed_heap_has_no_channel(heap: stead.SharedHeap) -> None:
    channel = heap.channel()
    heap.close(force=True)
    for call in (
        channel.receive,
        lambda: channel.send(1),
        lambda: channel.send([1]),
        channel.close,
        lambda: list(channel),
    ):
        with pytest.raises(stead.Released):
            call()
    assert "ended" in repr(channel)


def test_what_a_channel_says(channel: stead.Channel) -> None:
    channel.send(1)
    assert "1/64 messages" in repr(channel)
    assert repr(channel).startswith("<open stead.Channel")
    channel.close()
    assert repr(channel).startswith("<closed stead.Channel")
