"""PyTorch's tensors of the CPU, put into a heap and sent by multiprocessing, and those in a device's memory that
stead has mapped, sent. Imports torch where torch has been imported.

What PyTorch itself would do with a tensor whose memory is in a heap: copy that into shared memory of its own, and
have the sender's tensor point to the copy. So a tensor in a heap has a reducer of its own here; every other
tensor goes PyTorch's way."""

from __future__ import annotations

import pickle
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from stead import _native
from stead.device_bytes import SentBytes
from stead.errors import AddressSpaceError
from stead.handle import FailedArrival, in_pool_loop
from stead.heap.places import Bytes, arrive_at, find

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Shape(NamedTuple):
    """A tensor without its memory. ``offset`` and ``stride`` in elements; ``offset``: None for the beginning of
    the bytes that go with it."""

    dtype: Any
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    conjugated: bool
    negated: bool
    requires_grad: bool
    parameter: bool


def register(table: Callable[[type, Callable[[Any], Any]], None], reducers: dict[type, Any]) -> bool:
    """Put the reducer before PyTorch's own, of which ``reducers`` has what is registered: whether they were
    there."""
    torch = sys.modules.get("torch")
    kinds = (getattr(torch, "Tensor", None), getattr(getattr(torch, "nn", None), "Parameter", None))
    if any(kind not in reducers for kind in kinds):
        return False
    for kind in kinds:
        assert kind
        if not isinstance(reducers[kind], _Reducer):
            table(kind, _Reducer(reducers[kind]))
    return True


@dataclass(frozen=True, slots=True)
class _Reducer:
    otherwise: Callable[[Any], Any]

    def __call__(self, tensor: Any) -> Any:
        if tensor.requires_grad and not tensor.is_leaf:
            return self.otherwise(tensor)
        if tensor.device.type == "cuda":
            return self._of_device(tensor)
        where = _place(tensor)
        if where is None:
            return self.otherwise(tensor)
        sys.modules["torch"].utils.hooks.warn_if_has_hooks(tensor)
        return _arrive_tensor, (*where.sent(), _shape(tensor))

    def _of_device(self, tensor: Any) -> Any:
        if not _ordinary(tensor, "cuda"):
            return self.otherwise(tensor)
        storage, torch = tensor.untyped_storage(), sys.modules["torch"]
        sent = SentBytes.of(storage.data_ptr(), storage.nbytes())
        if sent is None:
            return self.otherwise(tensor)
        torch.utils.hooks.warn_if_has_hooks(tensor)
        torch.cuda.current_stream(tensor.device).synchronize()  # who receives it knows nothing of our streams
        return _arrive_device_tensor, (sent, _shape(tensor))


def _place(tensor: Any) -> Bytes | None:
    """Where the storage of a tensor lies, which others may share with it. None where it is in no heap, and for
    tensors that are more than a view of memory."""
    if not _ordinary(tensor):
        return None
    storage = tensor.untyped_storage()
    return find(storage.data_ptr(), storage.nbytes())


def _ordinary(tensor: Any, kind: str = "cpu") -> bool:
    if tensor.device.type != kind or tensor.layout is not sys.modules["torch"].strided:
        return False
    if tensor.is_quantized or tensor.is_nested:
        return False
    return not any(getattr(tensor, "names", ()))  # gone from PyTorch 2.13


def _shape(tensor: Any, offset: int | None = None) -> Shape:
    return Shape(
        tensor.dtype, tensor.storage_offset() if offset is None else offset,
        tuple(tensor.shape), tuple(tensor.stride()), tensor.is_conj(), tensor.is_neg(),
        tensor.requires_grad, isinstance(tensor, sys.modules["torch"].nn.Parameter),
    )  # fmt: skip


def _arrive_tensor(
    identity: bytes, handle: bytes, start: int, generation: int, address: int, size: int, shape: Shape
) -> Any:
    # There are no read-only tensors, and one of a read-only buffer is warned of.
    return arrive_at(
        identity, handle, start, generation, address, size, False, lambda memory: _made(memory, shape)
    )


def _arrive_device_tensor(sent: SentBytes, shape: Shape) -> Any:
    try:
        view = sent.arrive()
    except (AddressSpaceError, OSError) as error:
        if in_pool_loop():
            return FailedArrival(error)
        raise
    import torch

    return _over(torch.from_dlpack(view).untyped_storage(), shape)


def _made(memory: _native.Exporter, shape: Shape) -> Any:
    import torch

    return _over(torch.frombuffer(memory, dtype=torch.uint8).untyped_storage(), shape)


def _over(storage: Any, shape: Shape) -> Any:
    import torch

    empty = torch.empty(0, dtype=shape.dtype, device=storage.device)
    made = empty.set_(storage, shape.offset, shape.shape, shape.stride)
    if shape.conjugated:
        made = made.conj()
    if shape.negated:
        made = torch._neg_view(made)
    return _finished(made, shape)


def _finished(made: Any, shape: Shape) -> Any:
    import torch

    if shape.parameter:
        return torch.nn.Parameter(made, shape.requires_grad)
    return made.requires_grad_(shape.requires_grad)


# ---- put ------------------------------------------------------------------------------------------


def reduce_put(tensor: Any) -> Any:
    """How a tensor is pickled by put. PyTorch itself would copy its memory into the pickle."""
    if not _ordinary(tensor) or (tensor.requires_grad and not tensor.is_leaf):
        return NotImplemented  # PyTorch says what it thinks of the latter
    where = _place(tensor)
    if where is not None:
        memory = _native.Exporter(where.address, where.size, False, tensor)
        return _put_tensor, (pickle.PickleBuffer(memory), _shape(tensor))
    plain = tensor.detach().resolve_conj().resolve_neg()
    if not _dense(plain):
        plain = plain.contiguous()
    memory = _native.Exporter(plain.data_ptr(), plain.numel() * plain.element_size(), False, plain)
    shape = _shape(plain, 0)._replace(
        requires_grad=tensor.requires_grad, parameter=isinstance(tensor, sys.modules["torch"].nn.Parameter)
    )
    return _put_tensor, (pickle.PickleBuffer(memory), shape)


def _dense(tensor: Any) -> bool:
    """Whether its elements fill a piece of memory, each once, in whatever order."""
    expected = 1
    for stride, length in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if length != 1:
            if stride != expected:
                return False
            expected *= length
    return True


def _put_tensor(buffer: Any, shape: Shape) -> Any:
    import torch

    if isinstance(buffer, _native.Exporter):
        return _made(_native.Exporter(buffer._address, buffer._size, False, buffer), shape)
    return _finished(torch.empty_strided(shape.shape, shape.stride, dtype=shape.dtype), shape)
