"""What the workers of the tests of heaps under other libraries run: importable by spawned processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import stead

_kept: list[Any] = []


def keep(obj: Any) -> None:
    _kept.append(obj)


def kept_sum() -> float:
    return float(_kept[-1].sum())


def forget() -> None:
    _kept.clear()


def blocks(heap: stead.SharedHeap) -> int:
    """Blocks that a process holds, whichever."""
    return sum(bool(places) for *_, places, _ in heap._blocks())


# ---- torch ----------------------------------------------------------------------------------------


def describe(tensor: Any) -> tuple[Any, ...]:
    return (
        tensor.data_ptr(), str(tensor.dtype), tuple(tensor.shape), tensor.stride(), tensor.storage_offset(),
        tensor.requires_grad, type(tensor).__name__, tensor.is_conj(), tensor.detach().resolve_conj().tolist(),
    )  # fmt: skip


def fill(tensor: Any, value: float) -> None:
    tensor.detach().fill_(value)


def make_tensor(heap: stead.SharedHeap, n: int) -> Any:
    """A tensor that nobody holds any more when it is on its way."""
    import torch

    tensor = torch.from_numpy(heap.array(n))
    tensor.copy_(torch.arange(n))
    return tensor


def together(first: Any, second: Any) -> tuple[int, int]:
    second.fill_(7)
    return int(first[1]), first.data_ptr() - second.data_ptr()


def answer(requests: Any, answers: Any) -> None:
    """Take tensors from a queue until None, describe and fill each."""
    while (tensor := requests.get()) is not None:
        answers.put(describe(tensor))
        fill(tensor, -1)
        answers.put("filled")


def send_and_exit(heap: stead.SharedHeap, queue: Any) -> None:
    queue.put(make_tensor(heap, 50))


def get_described(ref: stead.Ref) -> Any:
    return [describe(each) for each in ref.heap.get(ref)]


# ---- Arrow and pandas -----------------------------------------------------------------------------


def addresses(table: Any) -> list[int]:
    """Of every buffer that has bytes."""
    return [
        buffer.address
        for column in table.columns
        for chunk in getattr(column, "chunks", (column,))
        for buffer in chunk.buffers()
        if buffer is not None and buffer.size
    ]


def table_seen(table: Any) -> tuple[list[int], Any]:
    return addresses(table), table.to_pydict()


def table_got(ref: stead.Ref) -> tuple[list[int], Any]:
    return table_seen(ref.heap.get(ref))


def make_table(heap: stead.SharedHeap) -> Any:
    import pyarrow

    from stead.integrations.arrow import to_heap

    return to_heap(heap, pyarrow.table({"n": range(1000)}))


def column_address(frame: Any, name: str) -> int:
    return int(frame[name].to_numpy().ctypes.data)


def frame_changed(frame: Any) -> tuple[int, Any]:
    """Where it was, and what it is after an assignment."""
    where = column_address(frame, "x")
    frame.loc[0, "x"] = -1.0
    return where, frame["x"].tolist()


def frame_got(ref: stead.Ref, writable: bool) -> tuple[int, Any]:
    return frame_changed(ref.heap.get(ref, writable=writable))


def addresses_of_frame(frame: Any) -> list[int]:
    import pyarrow

    return addresses(pyarrow.table(frame))
