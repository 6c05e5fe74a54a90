"""Tensors in a heap through PyTorch's own multiprocessing."""

from __future__ import annotations

import gc
import importlib
from typing import Any

import pytest

import stead
from conftest import need
from integration import heap_workers as workers


@pytest.fixture
def torch() -> Any:
    need("torch")
    return importlib.import_module("torch")


def make(torch: Any, heap: stead.SharedHeap) -> Any:
    tensor = torch.from_numpy(heap.array((4, 6), "f4"))
    tensor[:] = torch.arange(24).reshape(4, 6)
    return tensor


def test_a_tensor_arrives_as_the_same_memory(torch: Any) -> None:
    tensors: Any = importlib.import_module("stead.integrations.tensors")
    tensors.send_by_reference()
    heap = stead.SharedHeap("64 MiB")
    context = torch.multiprocessing.get_context("spawn")
    tasks, answers = context.SimpleQueue(), context.SimpleQueue()
    process = context.Process(target=workers.tensors, args=(tasks, answers))
    process.start()
    tensor = make(torch, heap)
    for sent in (tensor, tensor[1:, ::2], tensor.T, tensor[2, 3], tensor.view(torch.bfloat16)[:, 3:]):
        tasks.put(sent)
        assert answers.get() == (sent.data_ptr(), tuple(sent.shape), sent.stride(), float(sent.sum()))
        assert heap.owns(sent.data_ptr())  # the sender's has not moved
    tasks.put(torch.nn.Parameter(tensor))
    assert answers.get()[0] == tensor.data_ptr()
    elsewhere = torch.ones(3)
    tasks.put(elsewhere)
    assert answers.get()[3] == 3
    tasks.put(None)
    process.join()
    assert process.exitcode == 0
    del tensor, sent
    gc.collect()
    heap.collect()
    assert heap.statistics().blocks == 0
    heap.close()
