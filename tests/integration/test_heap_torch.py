"""PyTorch's CPU tensors in a heap: put, got, and sent by everything that multiprocessing's pickler serves."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any

import numpy
import pytest

import stead
from conftest import need
from integration import library_workers as workers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


@pytest.fixture(scope="module")
def torch() -> Any:
    need("torch")
    import torch

    return torch


@pytest.fixture(scope="module")
def executor() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as made:
        yield made


def tensor(heap: stead.SharedHeap, n: int = 24) -> Any:
    return workers.make_tensor(heap, n)


def travelled(obj: Any) -> Any:
    """As multiprocessing would have it in another process; the addresses are the same in each, this one, too."""
    return ForkingPickler.loads(ForkingPickler.dumps(obj))


# ---- sent -----------------------------------------------------------------------------------------


def test_it_arrives_at_its_address_and_stays_the_senders_own(
    heap: stead.SharedHeap, torch: Any, executor: ProcessPoolExecutor
) -> None:
    sent = tensor(heap)[3:20:2]
    before = workers.describe(sent)
    assert executor.submit(workers.describe, sent).result() == before
    executor.submit(workers.fill, sent, -1.0).result()
    assert sent.data_ptr() == before[0]
    assert sent.tolist() == [-1.0] * 9
    sent[0] = 5  # PyTorch would have moved it to memory of its own
    assert executor.submit(workers.describe, sent).result()[-1] == [5.0] + [-1.0] * 8
    back = executor.submit(workers.make_tensor, heap, 10).result()
    assert heap.owns(back.data_ptr())
    assert back.tolist() == list(range(10))


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_pools(heap: stead.SharedHeap, torch: Any, method: str) -> None:
    sent = tensor(heap)
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.map(workers.describe, [sent, sent.reshape(4, 6).T]) == [
            workers.describe(sent), workers.describe(sent.reshape(4, 6).T)
        ]  # fmt: skip
        assert heap.owns(pool.apply(workers.make_tensor, (heap, 5)).data_ptr())


@pytest.mark.parametrize("whose", ["multiprocessing", "torch.multiprocessing"])
def test_queues(heap: stead.SharedHeap, torch: Any, whose: str) -> None:
    context: Any = (torch.multiprocessing if "torch" in whose else multiprocessing).get_context("spawn")
    requests, answers = context.Queue(), context.Queue()
    process = context.Process(target=workers.answer, args=(requests, answers))
    process.start()
    sent = tensor(heap)
    before = workers.describe(sent)
    requests.put(sent)
    assert answers.get() == before
    assert answers.get() == "filled"
    assert (sent == -1).all()
    requests.put(None)
    process.join()
    assert process.exitcode == 0
    for queue in (requests, answers):
        queue.close()
        queue.join_thread()


def test_a_worker_sends_a_tensor_and_exits(heap: stead.SharedHeap, torch: Any) -> None:
    context: Any = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=workers.send_and_exit, args=(heap, queue))
    process.start()
    process.join()
    heap.collect()
    assert queue.get().tolist() == list(range(50))
    queue.close()
    queue.join_thread()


def test_the_receiver_keeps_the_block(heap: stead.SharedHeap, torch: Any, executor: ProcessPoolExecutor) -> None:
    sent = tensor(heap)
    executor.submit(workers.keep, sent[:3]).result()
    del sent
    gc.collect()
    assert workers.blocks(heap) == 1
    assert executor.submit(workers.kept_sum).result() == 3
    executor.submit(workers.forget).result()
    executor.submit(os.getpid).result()
    heap.collect()
    assert workers.blocks(heap) == 0


def test_two_of_one_storage_are_two_of_one_memory(
    heap: stead.SharedHeap, torch: Any, executor: ProcessPoolExecutor
) -> None:
    sent = tensor(heap)
    assert executor.submit(workers.together, sent, sent[1:3]).result() == (7, -8)
    assert sent[:4].tolist() == [0, 7, 7, 3]


KINDS = [
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
    "complex64", "complex128", "float8_e4m3fn", "uint16",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(heap: stead.SharedHeap, torch: Any, kind: str) -> None:
    dtype = getattr(torch, kind)
    memory = torch.frombuffer(heap.block(64), dtype=torch.uint8)
    memory.copy_(torch.arange(64) % 2)
    sent = memory.view(dtype)
    for got in (travelled(sent), heap.get(heap.put(sent))):
        assert got.data_ptr() == sent.data_ptr()
        assert got.dtype is dtype
        assert torch.equal(got.view(torch.uint8), memory)


def views(torch: Any, whole: Any) -> dict[str, Any]:
    """``whole``: 24 elements."""
    return {
        "all": whole,
        "slice": whole[5:9],
        "step": whole[1::5],
        "0-d": whole[7],
        "matrix": whole.view(2, 3, 4),
        "transposed": whole.view(4, 6).T,
        "column": whole.view(4, 6)[:, 2],
        "channels last": whole.view(1, 2, 3, 4).to(memory_format=torch.channels_last),
        "expanded": whole[:3].expand(5, 3),
        "empty": whole[:0],
        "overlapping": whole.as_strided((3, 4), (1, 1), 2),
        "complex": whole.view(12, 2)[2:],
        "conjugated": torch.view_as_complex(whole.view(12, 2)).conj(),
        "negated": torch.view_as_complex(whole.view(12, 2)).conj().imag,
        "leaf": whole[2:6].detach().requires_grad_(),
        "parameter": torch.nn.Parameter(whole.view(6, 4)),
        "frozen": torch.nn.Parameter(whole.view(6, 4), requires_grad=False),
    }


VIEWS = [
    "all", "slice", "step", "0-d", "matrix", "transposed", "column", "channels last", "expanded", "empty",
    "overlapping", "complex", "conjugated", "negated", "leaf", "parameter", "frozen",
]  # fmt: skip


@pytest.mark.parametrize("which", VIEWS)
def test_views(heap: stead.SharedHeap, torch: Any, which: str) -> None:
    inside = views(torch, tensor(heap))[which]
    elsewhere = views(torch, torch.arange(24.0, dtype=torch.float64))[which]
    for got in (travelled(inside), heap.get(heap.put(inside)), heap.get(heap.put([elsewhere]))[0]):
        assert type(got) is type(inside)
        assert got.shape == inside.shape
        assert got.dtype is inside.dtype
        assert got.requires_grad is inside.requires_grad
        assert torch.equal(got.detach(), inside.detach())
    for got in (travelled(inside), heap.get(heap.put(inside))):
        if which not in ("channels last", "empty"):  # a copy; nothing
            assert got.data_ptr() == inside.data_ptr()
        assert got.stride() == inside.stride()
        assert got.is_conj() is inside.is_conj()


def test_what_is_elsewhere_goes_pytorchs_way(torch: Any, heap: stead.SharedHeap) -> None:
    sent = torch.ones(5)
    assert not sent.is_shared()
    got = travelled(sent)
    assert sent.is_shared()
    got[0] = 3
    assert sent[0] == 3
    assert not heap.owns(got.data_ptr())
    # And what is in no state to be sent is refused, here as there.
    with pytest.raises(RuntimeError, match="non-leaf"):
        ForkingPickler.dumps(tensor(heap).requires_grad_() * 2)
    inside = tensor(heap).requires_grad_()
    with pytest.raises(RuntimeError, match="non-leaf"):
        ForkingPickler.dumps(inside.view(4, 6))


def test_a_file_has_the_contents(heap: stead.SharedHeap, torch: Any, tmp_path: Path) -> None:
    saved = tensor(heap)
    torch.save(saved, tmp_path / "file")
    assert not heap.owns(torch.load(tmp_path / "file").data_ptr())


def test_a_module(heap: stead.SharedHeap, torch: Any, executor: ProcessPoolExecutor) -> None:
    module = torch.nn.Linear(3, 2)
    module.load_state_dict(heap.get(heap.put(module.state_dict())), assign=True)
    weight = module.weight
    assert heap.owns(weight.data_ptr())
    assert travelled(module).weight.data_ptr() == weight.data_ptr()
    assert executor.submit(workers.describe, weight).result() == workers.describe(weight)


# ---- put ------------------------------------------------------------------------------------------


def test_put_and_get(heap: stead.SharedHeap, torch: Any, executor: ProcessPoolExecutor) -> None:
    parts = [
        torch.arange(6, dtype=torch.bfloat16).reshape(2, 3).T,
        torch.nn.Parameter(torch.ones(3)),
        torch.ones(()),
    ]
    ref = heap.put(parts)
    here = heap.get(ref)
    assert [each.stride() for each in here] == [(1, 3), (1,), ()]
    assert all(heap.owns(each.data_ptr()) for each in here)
    assert executor.submit(workers.get_described, ref).result() == [workers.describe(each) for each in here]


def test_tied_weights_stay_tied_and_are_there_once(heap: stead.SharedHeap, torch: Any) -> None:
    weight = torch.ones(100_000)
    ref = heap.put({"one": weight, "two": weight.detach()})
    assert ref.size < 600_000
    got = heap.get(ref)
    assert got["one"].data_ptr() == got["two"].data_ptr()


def test_what_is_in_the_heap_is_not_copied_by_put(heap: stead.SharedHeap, torch: Any) -> None:
    inside = tensor(heap, 100_000)
    ref = heap.put([inside, inside[5:10]])
    assert ref.size < 10_000
    whole, part = heap.get(ref)
    assert (whole.data_ptr(), part.data_ptr()) == (inside.data_ptr(), inside.data_ptr() + 40)
    del inside, whole
    gc.collect()
    assert part.tolist() == [5, 6, 7, 8, 9]


# ---- who comes first ------------------------------------------------------------------------------

ORDERS = {
    "heap, torch": "import stead; heap = stead.SharedHeap('64 MiB'); import torch",
    "torch, heap": "import torch, stead; heap = stead.SharedHeap('64 MiB')",
    "heap, a module of torch": "import stead; heap = stead.SharedHeap('64 MiB'); import torch.nn.functional",
    "two heaps": "import stead as s; s.SharedHeap(1).close(); import torch; heap = s.SharedHeap(1<<26)",
}


@pytest.mark.parametrize("order", ORDERS)
def test_whichever_comes_first(torch: Any, order: str) -> None:
    code = f"""\
{ORDERS[order]}
import sys
from multiprocessing.reduction import ForkingPickler as F
t = torch.from_numpy(heap.array(10))
assert F.loads(F.dumps(t)).data_ptr() == t.data_ptr()
assert not any(type(each).__name__ == "_Watch" for each in sys.meta_path) or "pandas" not in sys.modules
assert torch.__spec__.loader is torch.__loader__
assert torch.__loader__.get_source("torch")
del t
heap.close()
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_pool_says_what_is_in_the_way_of_a_tensor(heap: stead.SharedHeap, torch: Any) -> None:
    from integration import heap_workers

    sent, where = tensor(heap), heap.range
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        executor.submit(heap_workers.sit_on, where.start, 1 << 20).result()
        with pytest.raises(stead.Occupied, match="squatter"):
            executor.submit(workers.describe, sent).result()
        assert executor.submit(os.getpid).result()


def test_ordinary_arrays_over_the_heap_travel_as_references(heap: stead.SharedHeap) -> None:
    plain = numpy.asarray(heap.array(100))
    assert type(plain) is numpy.ndarray
    got = travelled(plain[3:])
    assert type(got) is numpy.ndarray
    assert got.ctypes.data == plain.ctypes.data + 24
    elsewhere = numpy.arange(5)
    got = travelled(elsewhere)
    assert got.tolist() == elsewhere.tolist()
    assert got.ctypes.data != elsewhere.ctypes.data
