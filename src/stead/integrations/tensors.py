"""PyTorch's CPU tensors whose memory is in a heap, sent to other processes as references.

    stead.integrations.tensors.send_by_reference()      # once, in each process that sends
    tensor = torch.from_numpy(heap.array((1000, 1000)))
    queue.put(tensor)                                   # arrives as the same memory

Without it PyTorch, as for every tensor, copies the memory into a file in /dev/shm, and lets the *sender's*
tensor point there as well: both share it then, and neither the heap.
"""

from __future__ import annotations

from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any

import torch
import torch.multiprocessing.reductions as theirs

from stead import _native
from stead.heap import registry
from stead.heap.arrays import HeapArray, locate

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["send_by_reference"]


def send_by_reference() -> None:
    """From now on what multiprocessing pickles (queues, pipes, pools, arguments of processes) sends tensors in a
    heap as references; all others as PyTorch does. For other picklers there is ``heap.put``."""
    for kind in (torch.Tensor, torch.nn.Parameter):
        ForkingPickler.register(kind, _reduce)


def _reduce(tensor: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    array = _memory(tensor)
    if array is None:
        made: tuple[Callable[..., Any], tuple[Any, ...]] = theirs.reduce_tensor(tensor)
        return made
    return _arrive, (
        array, tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.requires_grad,
        isinstance(tensor, torch.nn.Parameter),
    )  # fmt: skip


def _memory(tensor: Any) -> HeapArray | None:
    """The bytes that a tensor spans, if they are in a heap and it can be made from them."""
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided or not tensor.numel():
        return None
    if tensor.is_quantized or tensor.is_conj() or tensor.is_neg() or (tensor.requires_grad and not tensor.is_leaf):
        return None
    if registry.at(tensor.data_ptr()) is None:
        return None
    strides = zip(tensor.shape, tensor.stride(), strict=True)
    span = (1 + sum((length - 1) * stride for length, stride in strides)) * tensor.element_size()
    memory: Any = _native.Exporter(tensor.data_ptr(), span, False, tensor)
    array = HeapArray((span,), "u1", memory)
    return None if locate(array) is None else array


def _arrive(
    array: Any, dtype: Any, shape: tuple[int, ...], strides: tuple[int, ...], requires_grad: bool, parameter: bool
) -> Any:
    # There are no read-only tensors, and one of read-only memory is warned of.
    address = array.__array_interface__["data"][0]
    memory = _native.Exporter(address, array.nbytes, False, array)
    made = torch.frombuffer(memory, dtype=dtype).as_strided(shape, strides)
    return torch.nn.Parameter(made, requires_grad) if parameter else made.requires_grad_(requires_grad)
