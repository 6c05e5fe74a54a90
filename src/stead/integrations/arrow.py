"""Arrow data in a :class:`stead.SharedHeap`: copied there once, and from then on at the same addresses in every
process, whoever reads it.

    table = stead.integrations.arrow.to_heap(heap, anything_with___arrow_c_stream__)
    queue.put(table)  # a reference to its buffers; so are slices of it, its columns and their chunks

Multiprocessing sends such a table as a reference by itself; elsewhere (joblib, Dask, Ray) send
``heap.put(table)``, which copies nothing. What PyArrow, pandas or Polars takes over the C data interface from it
is this memory as well. Needs PyArrow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import SupportsIndex

    from stead.heap import SharedHeap

__all__ = ["buffer", "to_heap"]


def to_heap(heap: SharedHeap, data: Any) -> Any:
    """``data`` with its buffers in ``heap``, each copied once; those that are there already are not copied.

    A Table or a RecordBatch stays one. Whatever has ``__arrow_c_array__`` becomes a RecordBatch, and whatever has
    ``__arrow_c_stream__`` (a RecordBatchReader, a DataFrame of pandas or Polars) a Table; a stream is taken batch
    by batch, so that it need not fit into memory twice. What is returned holds its blocks, and so does everything
    made of it without copying; it is as immutable as all Arrow data.

    Raises what ``heap.put`` does, TypeError for other objects, and ImportError without PyArrow."""
    import pyarrow

    if isinstance(data, (pyarrow.Table, pyarrow.RecordBatch)):
        return heap.get(heap.put(data))
    if hasattr(data, "__arrow_c_stream__"):
        reader = pyarrow.RecordBatchReader.from_stream(data)
        batches = [heap.get(heap.put(batch)) for batch in reader]
        return pyarrow.Table.from_batches(batches, reader.schema)
    if hasattr(data, "__arrow_c_array__"):
        return heap.get(heap.put(pyarrow.record_batch(data)))
    raise TypeError(f"data is {data!r}, which has neither __arrow_c_stream__ nor __arrow_c_array__")


def buffer(heap: SharedHeap, size: SupportsIndex | str) -> Any:
    """A mutable ``pyarrow.Buffer`` of ``size`` bytes in ``heap``, aligned to 64: for ``Array.from_buffers``, or
    for ``pyarrow.FixedSizeBufferWriter``, which writes into it. Its contents are undefined. Raises what
    ``heap.block`` does, and ImportError without PyArrow."""
    import pyarrow

    return pyarrow.py_buffer(heap.block(size, 64))
