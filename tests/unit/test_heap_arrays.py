"""HeapArray: what travels as a reference, what is an ordinary array, and who holds the memory meanwhile."""

from __future__ import annotations

import copy
import gc
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stead

if TYPE_CHECKING:
    from collections.abc import Iterator

np = pytest.importorskip("numpy")


@pytest.fixture
def heap() -> Iterator[stead.SharedHeap]:
    made = stead.SharedHeap("64 MiB")
    yield made
    gc.collect()
    made.check()
    made._expire(True)
    made.close()


def address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


def sent(array: Any, protocol: int = pickle.HIGHEST_PROTOCOL) -> Any:
    return pickle.loads(pickle.dumps(array, protocol))


def filled(heap: stead.SharedHeap, *shape: int, dtype: Any = float, order: Any = "C") -> Any:
    array = heap.array(shape, dtype, order)
    array[...] = np.arange(array.size).reshape(shape)
    return array


def test_an_array(heap: stead.SharedHeap) -> None:
    array = heap.array((3, 5), "i4", "F")
    assert type(array) is stead.HeapArray is stead.heap.HeapArray
    assert (array.shape, array.dtype, array.flags.f_contiguous) == ((3, 5), np.dtype("i4"), True)
    assert array.flags.writeable
    assert address(array) % 64 == 0
    assert heap.owns(address(array))
    assert heap.array(7).shape == (7,)
    assert heap.array(()).shape == ()
    assert heap.array((0, 3)).shape == (0, 3)
    assert heap.array(np.int64(3)).shape == (3,)


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ((-1,), ValueError, "shape is -1"),
        (((2, -3),), ValueError, "shape is"),
        ((3, object), TypeError, "Python objects"),
        ((3, [("a", object)]), TypeError, "Python objects"),
        ((3, float, "X"), ValueError, "order is 'X'"),
        (((1 << 40, 1 << 40),), stead.OutOfSpace, "largest free run"),
    ],
)
def test_what_cannot_be_made(heap: stead.SharedHeap, arguments: Any, error: Any, named: str) -> None:
    with pytest.raises(error, match=named):
        heap.array(*arguments)


VIEWS = {
    "whole": lambda a: a,
    "slice": lambda a: a[1:3, 2:5],
    "steps": lambda a: a[::2, ::3],
    "backwards": lambda a: a[::-1, ::-2],
    "transposed": lambda a: a.T,
    "column": lambda a: a[:, 1],
    "flat": lambda a: a.reshape(-1),
    "nothing": lambda a: a[2:2],
    "nothing at the end": lambda a: a[len(a) :],
    "0-d": lambda a: a[1, 2, ...],
    "bytes": lambda a: a.view("u1")[:, 3::5],
    "new axis": lambda a: a[None, :, None],
    "broadcast": lambda a: np.broadcast_to(a[:1], (4, *a.shape[1:]), subok=True),
    "diagonal": lambda a: a.diagonal(),
    "windows": lambda a: np.lib.stride_tricks.sliding_window_view(a, 2, axis=0, subok=True),
    "read-only": lambda a: readonly(a[1:]),
    "fields": lambda a: a.reshape(-1)[: a.size // 2 * 2].view([("x", a.dtype), ("y", a.dtype)])["y"],
    "record": lambda a: a.reshape(-1)[: a.size // 2 * 2].view([("x", a.dtype), ("y", a.dtype)])[::-1],
}


def readonly(array: Any) -> Any:
    array = array[...]
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("view", VIEWS)
def test_views_travel_as_references(heap: stead.SharedHeap, view: str, order: str, protocol: int) -> None:
    array = filled(heap, 6, 8, order=order)
    if order == "F" and view in ("bytes", "flat", "fields", "record"):
        return  # NumPy makes no such view without a copy
    of = VIEWS[view](array)
    arrived = sent(of, protocol)
    assert type(arrived) is stead.HeapArray
    assert (arrived.shape, arrived.dtype) == (of.shape, of.dtype)
    assert arrived.flags.writeable == of.flags.writeable
    assert np.array_equal(arrived, of)
    if of.size:
        assert (address(arrived), arrived.strides) == (address(of), of.strides)
    if of.size and of.flags.writeable:
        arrived[...] = arrived[::-1].copy() if of.dtype.fields else arrived + 1
        assert np.array_equal(arrived, of)


@st.composite
def cuts(draw: Any, length: int) -> slice:
    ends = st.one_of(st.none(), st.integers(-length - 1, length + 1))
    return slice(draw(ends), draw(ends), draw(st.sampled_from([None, 1, 2, 3, -1, -2, -5])))


@given(st.tuples(cuts(7), cuts(4), cuts(5)), st.permutations(range(3)), st.sampled_from("CF"))
def test_any_cut_of_any_axis_travels(cut: tuple[slice, ...], axes: list[int], order: Any) -> None:
    with stead.SharedHeap("1 MiB") as heap:
        array = filled(heap, 7, 4, 5, dtype="i2", order=order)
        of = array.transpose(axes)[cut]
        arrived = sent(of)
        assert np.array_equal(arrived, of)
        if of.size:
            assert (address(arrived), arrived.strides) == (address(of), of.strides)
        del array, of, arrived


def test_results_and_copies_are_ordinary_arrays(heap: stead.SharedHeap) -> None:
    array = filled(heap, 4, 5)
    for result in (
        array + 1, 1 + array, array * array, np.sqrt(array), array.sum(axis=0), array.mean(axis=1), -array,
        array.copy(), copy.copy(array), copy.deepcopy(array), np.add.accumulate(array), np.asarray(array),
        array > 3, np.concatenate([array, np.ones((1, 5))]),
    ):  # fmt: skip
        assert type(result) is np.ndarray
    for scalar in (array.sum(), array.max(), array[1, 2], np.add.reduce(array, axis=None), array.mean()):
        assert isinstance(scalar, np.generic)
        assert not isinstance(scalar, np.ndarray)
    assert copy.copy(array.T).flags.f_contiguous
    assert not array.T.copy().flags.f_contiguous
    assert not heap.owns(address(copy.deepcopy({"a": array})["a"]))
    assert array.__iadd__(1) is array
    assert np.add(array, 1, out=array) is array
    assert type(array[1:]) is stead.HeapArray
    assert type(array.T) is stead.HeapArray
    assert type(array[array > 3]) is not None


def test_an_array_elsewhere_travels_as_an_ordinary_one(heap: stead.SharedHeap) -> None:
    elsewhere = np.arange(5.0).view(stead.HeapArray)
    arrived = sent(elsewhere)
    assert type(arrived) is np.ndarray
    assert arrived.tolist() == elsewhere.tolist()
    assert type(sent(np.asarray(filled(heap, 3, 3)))) is np.ndarray  # by value: it is no HeapArray
    again = np.asarray(filled(heap, 3, 3)).view(stead.HeapArray)
    assert address(sent(again)) == address(again)
    fancy = filled(heap, 10)[[1, 2]]
    assert not heap.owns(address(sent(fancy)))


def test_an_array_of_a_block_travels(heap: stead.SharedHeap) -> None:
    block = heap.block(80, 64)
    array = np.frombuffer(block).view(stead.HeapArray)
    assert address(sent(array[2:])) == block.address + 16
    with pytest.raises(BufferError, match="live view"):
        block.free()
    del array
    block.free()


def test_views_hold_the_memory_and_nothing_else_does(heap: stead.SharedHeap) -> None:
    array = heap.array(1000)
    at = address(array)
    part = np.asarray(array)[10:20]
    memory = memoryview(array[5:])  # type: ignore[arg-type]  # a buffer before Python 3.12
    del array
    gc.collect()
    assert heap.owns(at)
    del part
    assert heap.owns(at)
    memory.release()
    del memory
    assert not heap.owns(at)


def test_an_array_that_arrived_holds_it_for_itself(heap: stead.SharedHeap) -> None:
    array = filled(heap, 10)
    at = address(array)
    arrived = sent(array[3:])
    del array
    assert heap.owns(at)
    assert arrived.tolist() == [3, 4, 5, 6, 7, 8, 9]
    del arrived
    assert not heap.owns(at)


def test_a_freed_block_is_not_sent(heap: stead.SharedHeap) -> None:
    """numpy.ndarray(buffer=block) holds a reference and no buffer: nothing sees it when the block is freed."""
    block = heap.block(80)
    array = np.ndarray(10, float, buffer=block).view(stead.HeapArray)
    array[:] = 3
    block.free()
    arrived = sent(array)  # by value, since this process holds it no more
    assert type(arrived) is np.ndarray


def test_a_writable_array_of_a_read_only_one_is_refused(heap: stead.SharedHeap) -> None:
    arrived = sent(readonly(filled(heap, 5)))
    with pytest.raises(ValueError, match="WRITEABLE"):
        arrived.flags.writeable = True


def test_cycles_are_collected_and_give_memory_back(heap: stead.SharedHeap) -> None:
    class Holder:
        pass

    holder = Holder()
    holder.itself = holder  # type: ignore[attr-defined]
    holder.array = heap.array(10)  # type: ignore[attr-defined]
    at = address(holder.array)  # type: ignore[attr-defined]
    del holder
    gc.collect()
    assert not heap.owns(at)


def test_save_and_load(heap: stead.SharedHeap, tmp_path: Any) -> None:
    array = filled(heap, 5)
    np.save(tmp_path / "a.npy", array)
    assert np.load(tmp_path / "a.npy").tolist() == array.tolist()
