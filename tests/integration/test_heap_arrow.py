"""Arrow data in a heap: put, got, sent, and handed on over the C data interface, all without a copy."""

from __future__ import annotations

import gc
import multiprocessing
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any

import pytest

from conftest import need
from integration import library_workers as workers
from stead.integrations.arrow import buffer, to_heap

if TYPE_CHECKING:
    from collections.abc import Iterator

    import stead


@pytest.fixture(scope="module")
def pa() -> Any:
    need("pyarrow")
    import pyarrow

    return pyarrow


@pytest.fixture(scope="module")
def executor() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as made:
        yield made


def table(pa: Any) -> Any:
    words = ["one", None, "three", "four"] * 250
    return pa.table(
        {
            "n": pa.array(range(1000), pa.int64()),
            "half": pa.array([i / 2 if i % 3 else None for i in range(1000)]),
            "words": words,
            "coded": pa.array(words).dictionary_encode(),
            "lists": [[i, i + 1] for i in range(1000)],
            "records": [{"a": i, "b": str(i)} for i in range(1000)],
            "flags": [i % 2 == 0 for i in range(1000)],
        }
    )


class Stream:
    """Nothing but the interface."""

    def __init__(self, of: Any) -> None:
        self._of = of

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._of.__arrow_c_stream__(requested_schema)


class Array:
    def __init__(self, of: Any) -> None:
        self._of = of

    def __arrow_c_array__(self, requested_schema: Any = None) -> Any:
        return self._of.__arrow_c_array__(requested_schema)


def inside(heap: stead.SharedHeap, data: Any) -> bool:
    found = workers.addresses(data)
    return bool(found) and all(heap.owns(each) for each in found)


# ---- into the heap, and to other processes --------------------------------------------------------


def test_put_and_get(heap: stead.SharedHeap, pa: Any, executor: ProcessPoolExecutor) -> None:
    for data in (table(pa), table(pa).to_batches()[0]):
        ref = heap.put(data)
        got = heap.get(ref)
        assert type(got) is type(data)
        assert got.equals(data)
        assert inside(heap, got)
        assert executor.submit(workers.table_got, ref).result() == (workers.addresses(got), data.to_pydict())


def test_it_is_sent_as_a_reference(heap: stead.SharedHeap, pa: Any, executor: ProcessPoolExecutor) -> None:
    sent = to_heap(heap, table(pa))
    assert sent.equals(table(pa))
    assert inside(heap, sent)
    for each in (sent, sent.slice(5, 10), sent.select(["words", "n"]), sent.to_batches()[0]):
        assert executor.submit(workers.table_seen, each).result() == workers.table_seen(each)
    back = executor.submit(workers.make_table, heap).result()
    assert inside(heap, back)
    assert back["n"].to_pylist() == list(range(1000))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(workers.table_seen, (sent,)) == workers.table_seen(sent)


def test_what_is_elsewhere_is_sent_as_ever(heap: stead.SharedHeap, pa: Any) -> None:
    sent = table(pa)
    got = ForkingPickler.loads(ForkingPickler.dumps(sent))
    assert got.equals(sent)
    assert not any(heap.owns(each) for each in workers.addresses(got))


def test_a_table_in_the_heap_is_not_copied_by_put(heap: stead.SharedHeap, pa: Any) -> None:
    once = to_heap(heap, pa.table({"n": range(100_000)}))
    for each in (once, once.slice(7, 20)):
        ref = heap.put(each)
        assert ref.size < 10_000
        assert set(workers.addresses(heap.get(ref))) <= set(workers.addresses(once))
    del once, each
    gc.collect()
    assert heap.get(ref)["n"].to_pylist() == list(range(7, 27))


def test_a_slice_is_put_without_what_it_is_a_slice_of(heap: stead.SharedHeap, pa: Any) -> None:
    whole = table(pa)
    for data in (whole, whole.combine_chunks().to_batches()[0], pa.concat_tables([whole, whole])):
        ref = heap.put(data.slice(100, 10))
        assert ref.size < 8000
        got = heap.get(ref)
        assert type(got) is type(data)
        assert got.equals(data.slice(100, 10))
        assert inside(heap, got)


def test_nothing(heap: stead.SharedHeap, pa: Any) -> None:
    for data in (table(pa).slice(0, 0), pa.table({}), pa.table({"a": pa.nulls(5)})):
        got = to_heap(heap, data)
        assert got.equals(data)
        assert ForkingPickler.loads(ForkingPickler.dumps(got)).equals(data)


def test_a_column_keeps_the_block(heap: stead.SharedHeap, pa: Any) -> None:
    column = to_heap(heap, table(pa))["n"].chunk(0)[10:12]
    gc.collect()
    assert workers.blocks(heap) == 1
    assert column.to_pylist() == [10, 11]
    del column
    gc.collect()
    assert workers.blocks(heap) == 0


# ---- the C data interface -------------------------------------------------------------------------


def test_capsules_bring_it_in(heap: stead.SharedHeap, pa: Any) -> None:
    data = pa.concat_tables([table(pa), table(pa)])
    got = to_heap(heap, Stream(data))
    assert got.equals(data)
    assert inside(heap, got)
    assert workers.blocks(heap) == len(data.to_batches())  # taken one by one
    batch = to_heap(heap, Array(data.to_batches()[0]))
    assert isinstance(batch, pa.RecordBatch)
    assert inside(heap, batch)
    again = to_heap(heap, Stream(got))  # there already
    assert workers.addresses(again.select(["n", "words"])) == workers.addresses(got.select(["n", "words"]))
    with pytest.raises(TypeError, match="__arrow_c_stream__"):
        to_heap(heap, [1, 2])


def test_capsules_take_it_out(heap: stead.SharedHeap, pa: Any) -> None:
    made = to_heap(heap, table(pa))
    expected = workers.addresses(made)
    reader = pa.RecordBatchReader.from_stream(Stream(made))
    del made
    gc.collect()
    got = reader.read_all()
    del reader
    assert workers.addresses(got) == expected
    [batch] = got.to_batches()
    assert workers.addresses(pa.record_batch(Array(batch))) == expected
    assert got.equals(table(pa))


def test_pandas_takes_it(heap: stead.SharedHeap, pa: Any) -> None:
    need("pandas")
    import pandas

    made = to_heap(heap, pa.table({"n": range(1000), "w": ["word"] * 1000}))
    address = made["n"].chunk(0).buffers()[1].address
    frame = made.to_pandas(types_mapper=pandas.ArrowDtype)
    assert pa.array(frame["n"]).buffers()[1].address == address
    numbers = made.select(["n"]).to_pandas(zero_copy_only=True, split_blocks=True)
    assert numbers["n"].to_numpy().ctypes.data == address
    back = to_heap(heap, Stream(pa.Table.from_pandas(frame)))
    assert back["n"].chunk(0).buffers()[1].address == address


def test_polars_takes_it(heap: stead.SharedHeap, pa: Any) -> None:
    need("polars")
    import polars

    made = to_heap(heap, pa.table({"n": range(1000)}))
    frame = polars.DataFrame(Stream(made))
    assert frame["n"].sum() == 499500
    assert frame["n"].to_arrow().buffers()[1].address == made["n"].chunk(0).buffers()[1].address
    assert inside(heap, to_heap(heap, frame))


# ---- made in place --------------------------------------------------------------------------------


def test_buffers_to_write_into(heap: stead.SharedHeap, pa: Any, executor: ProcessPoolExecutor) -> None:
    need("numpy")
    import numpy

    memory = buffer(heap, 8000)
    assert memory.is_mutable
    assert memory.address % 64 == 0
    numpy.frombuffer(memory, "i8")[:] = range(1000)
    made = pa.table({"n": pa.Array.from_buffers(pa.int64(), 1000, [None, memory])})
    assert executor.submit(workers.table_seen, made).result() == ([memory.address], made.to_pydict())


def test_a_stream_is_written_in_place(heap: stead.SharedHeap, pa: Any, executor: ProcessPoolExecutor) -> None:
    data = pa.table({"n": range(1000), "w": ["word"] * 1000})
    memory = buffer(heap, "1 MiB")
    with pa.FixedSizeBufferWriter(memory) as sink, pa.ipc.new_stream(sink, data.schema) as stream:
        stream.write(data)
    got = pa.ipc.open_stream(memory).read_all()
    assert inside(heap, got)
    assert executor.submit(workers.table_seen, got).result() == (workers.addresses(got), data.to_pydict())


def test_without_numpy(pa: Any) -> None:
    """Arrow does not need it, nor does the heap."""
    code = """\
import sys
sys.modules["numpy"] = None
import stead, pyarrow
from stead.integrations.arrow import to_heap
heap = stead.SharedHeap("64 MiB")
table = to_heap(heap, pyarrow.table({"n": pyarrow.array([1, 2, 3])}))
assert table["n"].to_pylist() == [1, 2, 3]
assert heap.owns(table["n"].chunk(0).buffers()[1].address)
del table
heap.close()
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
