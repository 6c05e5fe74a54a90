"""put and get: what is copied once, what not at all, what it looks like afterwards, and who holds it."""

from __future__ import annotations

import array as arrays
import collections
import copy
import datetime
import gc
import pickle
import weakref
from typing import TYPE_CHECKING, Any

import pytest

import stead

if TYPE_CHECKING:
    from collections.abc import Iterator

np = pytest.importorskip("numpy")

Point = collections.namedtuple("Point", "x y")


@pytest.fixture
def heap() -> Iterator[stead.SharedHeap]:
    made = stead.SharedHeap("256 MiB")
    yield made
    gc.collect()
    made.check()
    made._expire(True)
    made.close()


def address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


@pytest.mark.parametrize(
    "obj",
    [
        None,
        1,
        "text",
        b"bytes",
        [1, [2, (3, {"a": {4}})]],
        {"b": 1.5},
        datetime.date(2026, 11, 24),
        int,
        "x" * 100_000,
    ],
    ids=str,
)
def test_plain_objects(heap: stead.SharedHeap, obj: Any) -> None:
    ref = heap.put(obj)
    for _ in range(2):
        assert heap.get(ref) == obj
    assert ref.size >= len(pickle.dumps(obj, 5))


ARRAYS = {
    "floats": lambda: np.arange(1000.0),
    "F": lambda: np.arange(12).reshape(3, 4, order="F"),
    "steps": lambda: np.arange(100).reshape(10, 10)[::2, ::-3],
    "0-d": lambda: np.array(3.5),
    "empty": lambda: np.zeros((0, 3), "i2"),
    "bool": lambda: np.array([True, False]),
    "record": lambda: np.zeros(3, [("a", "i4"), ("b", "f8", 2)]),
    "text": lambda: np.array(["a", "bcd"]),
    "datetime": lambda: np.array(["2026-11-24", "NaT"], "M8[s]"),
    "big-endian": lambda: np.arange(5, dtype=">i4"),
    "read-only": lambda: np.broadcast_to(np.arange(3), (2, 3)),
    "complex": lambda: np.arange(4) * 1j,
}


@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_seen_where_they_are(heap: stead.SharedHeap, name: str, writable: bool) -> None:
    original = ARRAYS[name]()
    ref = heap.put(original)
    one, other = heap.get(ref, writable=writable), heap.get(ref, writable=writable)
    for got in (one, other):
        assert type(got) is stead.HeapArray or not got.size
        assert (got.shape, got.dtype) == (original.shape, original.dtype)
        assert np.array_equal(got, original, equal_nan=False) or name == "datetime"
        assert got.tobytes() == original.tobytes()
        assert got.flags.f_contiguous == original.flags.f_contiguous or name in ("steps", "read-only")
    if original.size:
        assert heap.owns(address(one))
        assert address(one) == address(other)
        assert address(one) % 64 == 0
        assert one.flags.writeable == (writable and original.flags.writeable)
        # It travels on by reference.
        assert address(pickle.loads(pickle.dumps(one))) == address(one)
    if not writable and original.size:
        with pytest.raises(ValueError, match="read-only"):
            one[...] = 0
        with pytest.raises(ValueError, match="WRITEABLE"):
            one.flags.writeable = True


@pytest.mark.parametrize("size", [(1 << 18) - 1, (1 << 18) + 1, (40 << 20) + 8])
def test_large_objects(heap: stead.SharedHeap, size: int) -> None:
    original = np.random.default_rng(size).integers(0, 256, size, "u1")
    for _ in range(3):  # fresh memory, and memory that was used before
        got = heap.get(heap.put([original, original[::-1], pickle.PickleBuffer(bytearray(original))]))
        assert np.array_equal(got[0], original)
        assert np.array_equal(got[1], original[::-1])
        assert np.array_equal(np.frombuffer(got[2], "u1"), original)
        del got


def test_what_is_written_is_seen_by_all(heap: stead.SharedHeap) -> None:
    ref = heap.put(np.zeros(10))
    seen = heap.get(ref)
    heap.get(ref, writable=True)[3] = 7
    assert seen[3] == 7


def test_arrays_in_containers_travel_on(heap: stead.SharedHeap) -> None:
    inner = [np.ones(2)]
    obj = {"a": np.arange(5), "b": [np.arange(3), (np.zeros(2), "x")], "again": inner, "twice": inner}
    obj["self"] = obj
    obj["point"] = Point(np.ones(1), 2)
    got = heap.get(heap.put(obj))
    assert got["self"] is got
    assert got["again"] is got["twice"]
    for each in (got["a"], got["b"][0], got["b"][1][0], got["again"][0]):
        assert type(each) is stead.HeapArray
        assert not each.flags.writeable
    assert type(got["point"].x) is np.ndarray  # not in there: the classes of others are left alone
    got.clear()  # the cycle


def test_other_buffers(heap: stead.SharedHeap) -> None:
    got = heap.get(heap.put([pickle.PickleBuffer(b"hello"), pickle.PickleBuffer(bytearray(b"world"))]))
    assert [bytes(each) for each in got] == [b"hello", b"world"]
    assert heap.get(heap.put(arrays.array("i", [1, 2, 3]))).tolist() == [1, 2, 3]
    assert heap.get(heap.put(pickle.PickleBuffer(b""))) == b""


def test_objects_in_arrays_and_subclasses_are_pickled_as_ever(heap: stead.SharedHeap) -> None:
    assert heap.get(heap.put(np.array([1, "a", None], object))).tolist() == [1, "a", None]
    masked = np.ma.masked_array([1, 2, 3], [0, 1, 0])
    assert heap.get(heap.put(masked)).tolist() == [1, None, 3]
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        heap.put(lambda: None)
    assert heap.statistics().blocks == 0


# ---- without a copy -------------------------------------------------------------------------------


@pytest.mark.parametrize("view", [lambda a: a, lambda a: a[::-2, 1:], lambda a: a.T, lambda a: np.asarray(a)])
def test_what_is_in_the_heap_is_referred_to(heap: stead.SharedHeap, view: Any) -> None:
    array = heap.array((100, 100))
    array[...] = np.arange(10_000).reshape(100, 100)
    of = view(array)
    ref = heap.put({"here": of, "other": np.ones(3)})
    assert ref.size < 1000
    at, expected = address(of), np.array(of)
    del array, of
    gc.collect()
    got = heap.get(ref)["here"]
    assert address(got) == at
    assert np.array_equal(got, expected)
    assert not got.flags.writeable
    arrived = pickle.loads(pickle.dumps(ref))
    ref.free()
    del got
    assert address(heap.get(arrived)["here"]) == at
    arrived.free()
    assert heap.statistics().blocks == 0


def test_refs_and_blocks_inside_of_what_is_put_are_held_by_it(heap: stead.SharedHeap) -> None:
    inner, block = heap.put(np.arange(3)), heap.block(10)
    memoryview(block)[:] = b"0123456789"
    outer = heap.put([inner, block, heap])
    del inner, block
    gc.collect()
    ref, again, where = heap.get(outer)
    assert heap.get(ref).tolist() == [0, 1, 2]
    assert bytes(again) == b"0123456789"
    assert where is heap
    deeper = heap.put((outer,))
    del outer, ref, again
    gc.collect()
    assert heap.get(heap.get(heap.get(deeper)[0])[0]).tolist() == [0, 1, 2]
    assert heap.statistics().kept_blocks == 0


# ---- who holds it ---------------------------------------------------------------------------------


def test_a_ref_holds_and_so_does_what_was_got(heap: stead.SharedHeap) -> None:
    ref = heap.put(np.arange(10))
    gone, at = weakref.ref(ref), ref.address
    got = heap.get(ref)
    assert (ref.heap, ref.freed) == (heap, False)
    del ref
    assert gone() is None
    assert heap.owns(at)
    assert got.sum() == 45
    del got
    assert not heap.owns(at)


def test_a_freed_ref(heap: stead.SharedHeap) -> None:
    ref = heap.put([1, 2, 3])
    ref.free()
    ref.free()
    assert ref.freed
    assert "freed" in repr(ref)
    for call in (lambda: heap.get(ref), lambda: pickle.dumps(ref), lambda: copy.copy(ref)):
        with pytest.raises(stead.NotLive):
            call()


def test_refs_are_equal_where_they_name_the_same(heap: stead.SharedHeap) -> None:
    ref, other = heap.put(1), heap.put(1)
    arrived = pickle.loads(pickle.dumps(ref))
    assert arrived == ref
    assert copy.deepcopy(ref) == ref
    assert ref != other
    assert ref != 1
    assert len({ref, arrived, other}) == 2


def test_stale_and_foreign_refs(heap: stead.SharedHeap) -> None:
    ref = heap.put(np.arange(100))
    sent = pickle.dumps(ref)
    heap._expire(True)
    ref.free()
    with pytest.raises(stead.NotLive, match="nobody held it"):
        pickle.loads(sent)
    again = heap.put(np.arange(100))  # at the same address
    with pytest.raises(stead.NotLive):
        pickle.loads(sent)
    with stead.SharedHeap("1 MiB") as other, pytest.raises(stead.NotLive, match="not of"):
        other.get(again)
    with pytest.raises(TypeError, match="ref is 5"):
        heap.get(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="made by"):
        stead.Ref()


@pytest.mark.parametrize(("offset", "value"), [(0, b"x"), (8, b"\xff" * 8), (16, b"\xff" * 8), (24, b"\xff" * 8)])
def test_an_object_that_was_overwritten(heap: stead.SharedHeap, offset: int, value: bytes) -> None:
    ref = heap.put(np.arange(3))
    block = stead._native.Exporter(ref.address, ref.size, False, ref)
    with memoryview(block) as view:
        view[offset : offset + len(value)] = value
    with pytest.raises(stead.Corrupted):
        heap.get(ref)
    assert heap.statistics().blocks == 1


def test_a_buffer_that_points_elsewhere_is_not_followed(heap: stead.SharedHeap) -> None:
    ref = heap.put(np.arange(3))
    with memoryview(stead._native.Exporter(ref.address, ref.size, False, ref)) as view:
        view[32:40] = (4096).to_bytes(8, "little")
    with pytest.raises(stead.Corrupted, match="in none of its blocks"):
        heap.get(ref)


def test_no_room(heap: stead.SharedHeap) -> None:
    with pytest.raises(stead.OutOfSpace):
        heap.put(np.empty(300 << 20, "u1"))
    assert heap.statistics().blocks == 0


# ---- other libraries ------------------------------------------------------------------------------


def test_pandas(heap: stead.SharedHeap) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": np.arange(1000), "b": np.ones(1000), "t": pd.date_range("2026", periods=1000)})
    ref = heap.put(frame)
    got = heap.get(ref)
    pd.testing.assert_frame_equal(got, frame)
    assert heap.owns(address(got["b"].to_numpy()))
    assert got["a"].sum() == 499500
    assert (got["b"] + 1).iloc[0] == 2
    assert got.groupby(got["a"] % 3)["b"].sum().tolist() == [334, 333, 333]


def test_arrow(heap: stead.SharedHeap) -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"n": range(1000), "s": [str(each) for each in range(1000)]})
    got = heap.get(heap.put(table))
    assert got.equals(table)
    assert heap.owns(got["n"].chunk(0).buffers()[1].address)
    again = heap.put(got)
    assert again.size < 2000  # the buffers are in the heap already


def test_torch(heap: stead.SharedHeap) -> None:
    torch = pytest.importorskip("torch")
    for tensor in (
        torch.arange(1000.0), torch.ones(3, 4).T, torch.tensor(5), torch.zeros(0, 3),
        torch.ones(3, dtype=torch.bfloat16), torch.tensor([1 + 2j]).conj(), torch.tensor([True]),
        torch.nn.Parameter(torch.ones(2)), torch.ones(2, requires_grad=True),
    ):  # fmt: skip
        got = heap.get(heap.put({"t": tensor}))["t"]
        assert type(got) is type(tensor)
        assert (got.dtype, got.shape, got.requires_grad) == (tensor.dtype, tensor.shape, tensor.requires_grad)
        assert torch.equal(got, tensor)
        if got.numel():
            assert heap.owns(got.data_ptr())
    del got
    gc.collect()
    assert heap.statistics().blocks == 0
    model = torch.nn.Linear(10, 10)
    same = heap.get(heap.put(model))
    assert torch.equal(same.weight, model.weight)
