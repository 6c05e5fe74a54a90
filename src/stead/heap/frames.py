"""Arrow's tables and pandas' frames: put into a heap, and sent by multiprocessing. Imports them where they have
been imported."""

from __future__ import annotations

import pickle
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from stead.heap.places import arrive_at, find

if TYPE_CHECKING:
    from typing import Any

    from stead import _native

# Above this much in buffers that a table uses less than half of, it is compacted before it is put.
_WORTH = 1 << 12


# ---- Arrow ----------------------------------------------------------------------------------------


def reduce_buffer(buffer: Any) -> Any:
    """For multiprocessing: an Arrow buffer in a heap travels as a reference, and so every array and table made
    of such."""
    where = find(buffer.address, buffer.size)
    if where is None:
        return buffer.__reduce_ex__(pickle.DEFAULT_PROTOCOL)
    return _arrive_buffer, (*where.sent(), buffer.is_mutable)


def _arrive_buffer(
    identity: bytes, handle: bytes, start: int, generation: int, address: int, size: int, mutable: bool
) -> Any:
    def make(memory: _native.Exporter) -> Any:
        import pyarrow

        return pyarrow.py_buffer(memory)

    return arrive_at(identity, handle, start, generation, address, size, not mutable, make)


def compact(table: Any) -> Any:
    """A table or batch for put: Arrow pickles the whole buffers of what a slice is a slice of. One that uses less
    than half of them is copied, without the rest."""
    import pyarrow

    if _worth_all(table, table.columns):
        return table
    # By Arrow's own format for streams, which knows every type, and cuts.
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as stream:
        stream.write(table)
    reader = pyarrow.ipc.open_stream(sink.getvalue())
    if isinstance(table, pyarrow.Table):
        return reader.read_all()
    return reader.read_next_batch()


def _worth_all(data: Any, columns: Any) -> bool:
    """Whether all that its buffers have may be put: it uses most of that, or it is in a heap already, and not
    copied at all."""
    whole = data.get_total_buffer_size()
    return whole < _WORTH or data.nbytes * 2 > whole or _inside(columns)


def _inside(columns: Any) -> bool:
    for column in columns:
        for chunk in getattr(column, "chunks", (column,)):
            for buffer in chunk.buffers():
                if buffer is not None and buffer.size:
                    return find(buffer.address, buffer.size) is not None
    return False


# ---- pandas ---------------------------------------------------------------------------------------


def reduce_frame(frame: Any, protocol: int) -> Any:
    """As pandas does it, with one thing to do after it: see protect."""
    reduced = tuple(frame.__reduce_ex__(protocol))
    return (*reduced, *[None] * (5 - len(reduced)), _set_state)


def reduce_sent_frame(frame: Any) -> Any:
    """For multiprocessing."""
    if any(_read_only(block.values) for block in _blocks(frame)):
        return reduce_frame(frame, pickle.DEFAULT_PROTOCOL)
    return frame.__reduce_ex__(pickle.DEFAULT_PROTOCOL)


def reduce_column(array: Any, *, put: bool) -> Any:
    """Of an Arrow-backed column, which pandas itself copies before it is pickled."""
    chunks = getattr(getattr(array, "_pa_array", None), "chunks", None)
    if chunks and (_worth_all(array._pa_array, chunks) if put else _inside(chunks)):
        # As pandas' __getstate__ has it.
        return _new, (type(array),), {**array.__dict__, "_pa_array": chunks, "_cache": {}}
    return array.__reduce_ex__(5 if put else pickle.DEFAULT_PROTOCOL)


def _new(kind: Any) -> Any:
    return kind.__new__(kind)


def reduce_sent_column(array: Any) -> Any:
    """For multiprocessing."""
    return reduce_column(array, put=False)


def _set_state(frame: Any, state: Any) -> None:
    frame.__setstate__(state)
    protect(frame)


# What pandas takes for another user of the same memory.
_other: Any = None


def protect(frame: Any) -> None:
    """Make pandas copy on write what it cannot write. It copies what others use as well, so there is always one
    more user of read-only memory; else assignment into a frame that was got would raise ValueError, as it still
    does where pandas keeps its books differently."""
    global _other
    with suppress(AttributeError, TypeError):
        for block in _blocks(frame):
            if not _read_only(block.values):
                continue
            if _other is None:
                pandas = sys.modules["pandas"]
                _other = _blocks(pandas.Series([0]))[0]
            block.refs.add_reference(_other)


def _blocks(frame: Any) -> Any:
    return getattr(getattr(frame, "_mgr", None), "blocks", ())


def _read_only(values: Any) -> bool:
    """Of a block's values, an array or one of pandas' extension arrays."""
    for each in (values, *(getattr(values, name, None) for name in ("_ndarray", "_data"))):
        flags = getattr(each, "flags", None)
        if flags is not None and hasattr(flags, "writeable"):
            return not flags.writeable
    return False
