"""What must hold with other libraries' own kernels and allocators, which need a GPU: each a program of its own.

python frameworks.py NAME
"""

from __future__ import annotations

import gc
import sys
from typing import Any

import stead
import stead.torch

MIB = 1 << 20


def model(torch: Any) -> Any:
    torch.manual_seed(7)
    layers = (torch.nn.Linear(512, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 64))
    return torch.nn.Sequential(*layers).cuda()


def train(torch: Any, network: Any, steps: int = 5) -> list[float]:
    optimizer = torch.optim.Adam(network.parameters())
    generator = torch.Generator(device="cuda").manual_seed(1)
    losses = []
    for _ in range(steps):
        batch = torch.randn(256, 512, device="cuda", generator=generator)
        loss = network(batch).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def torch_model() -> None:
    """A model in an arena learns what it learns elsewhere; paused and resumed, it goes on."""
    import torch

    elsewhere = model(torch)
    expected = train(torch, elsewhere)
    with stead.Arena("1 GiB", backing=stead.DeviceMemory(0)) as arena:
        with stead.torch.allocating_in(arena, ahead="256 MiB"):
            here = model(torch)
            found = train(torch, here)
        places = [each.data_ptr() for each in here.parameters()]
        assert all(arena.range.start <= each < arena.range.stop for each in places)
        assert not any(arena.range.start <= each.data_ptr() < arena.range.stop for each in elsewhere.parameters())
        assert torch.allclose(torch.tensor(found), torch.tensor(expected), rtol=1e-5), (found, expected)
        try:
            stead.torch.pause(arena)
        except BufferError as error:
            assert "keep=True" in str(error)
        else:
            raise AssertionError("tensors live in it")
        free = torch.cuda.mem_get_info()[0]
        stead.torch.pause(arena, keep=True)
        assert torch.cuda.mem_get_info()[0] > free
        stead.torch.resume(arena)
        assert [each.data_ptr() for each in here.parameters()] == places
        assert torch.allclose(torch.tensor(train(torch, here)), torch.tensor(train(torch, elsewhere)), rtol=1e-5)
        del here
        gc.collect()
        stead.torch.release(arena)


def torch_graph() -> None:
    """A CUDA graph over tensors in an arena is good again after a pause: it holds addresses."""
    import torch

    with stead.Arena("256 MiB", backing=stead.DeviceMemory(0)) as arena:
        with stead.torch.allocating_in(arena):
            x = torch.arange(1_000_000, device="cuda", dtype=torch.float64)
            y = torch.empty_like(x)
            try:
                torch.empty(1 << 30, device="cuda", dtype=torch.uint8)
            except torch.OutOfMemoryError:
                pass
            else:
                raise AssertionError("more than there is")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            torch.mul(x, 2, out=y)
        stead.torch.pause(arena, keep=True)
        stead.torch.resume(arena)
        y.zero_()
        graph.replay()
        torch.cuda.synchronize()
        assert y[3].item() == 6
        assert y.sum().item() == 999_999 * 1_000_000
        del x, y, graph
        stead.torch.release(arena)


def _receive(queue: Any, answers: Any) -> None:
    tensor = queue.get()
    answers.put((tensor.data_ptr(), tensor.sum().item()))
    tensor.add_(1)
    import torch

    torch.cuda.synchronize()
    answers.put("added")
    queue.get()


def torch_sent() -> None:
    """A tensor in an arena is at the same address in the process that gets it, by torch.multiprocessing."""
    import torch

    context = torch.multiprocessing.get_context("spawn")
    queue, answers = context.Queue(), context.Queue()
    process = context.Process(target=_receive, args=(queue, answers))
    process.start()
    with stead.Arena("256 MiB", backing=stead.DeviceMemory(0, shareable=True)) as arena:
        with stead.torch.allocating_in(arena):
            tensor = torch.ones(1000, 100, device="cuda")[10:20]
        queue.put(tensor)
        assert answers.get(timeout=120) == (tensor.data_ptr(), 1000)
        assert answers.get(timeout=120) == "added"
        assert tensor.sum().item() == 2000
        queue.put(None)
        process.join()
        assert process.exitcode == 0
        del tensor
        stead.torch.release(arena)


def torch_everything() -> None:
    """All tensors of a process, without PyTorch's caching allocator; frees come behind their streams."""
    import torch

    arena = stead.Arena("2 GiB", backing=stead.DeviceMemory(0, piece="64 MiB"))
    torch.cuda.memory.change_current_allocator(stead.torch.allocator(arena))
    network = model(torch)
    losses = train(torch, network)
    assert losses[-1] < losses[0]
    assert all(arena.owns(each.data_ptr()) for each in network.parameters())
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(100):
            torch.randn(1 << 16, device="cuda").mul_(2)
    torch.cuda.synchronize()
    arena.check()


def torch_order() -> None:
    """What is freed behind a stream is nobody's before the stream has come there; who needs it waits."""
    import torch

    stream = torch.cuda.Stream()
    with stead.Arena("4 MiB", backing=stead.DeviceMemory(0)) as arena:

        def keep_busy() -> None:
            with torch.cuda.stream(stream):
                torch.cuda._sleep(500_000_000)  # cycles; a third of a second
            assert not stream.query()

        address = arena.allocate(3 * MIB)
        keep_busy()
        arena.free_after(address, stream.cuda_stream)
        assert arena.statistics().blocks == 1
        assert arena.allocate(3 * MIB) == address
        assert stream.query()
        arena.free(address)
        block: Any = arena.block(3 * MIB)
        block.record_stream(stream.cuda_stream)
        keep_busy()
        del block
        assert arena.allocate(3 * MIB) == address
        assert stream.query()
        arena.free(address)


def torch_views() -> None:
    """Memory of a reservation as a tensor, by DLPack, in both directions of change."""
    import torch

    with stead.reserve("64 MiB", space=stead.CudaSpace()) as held:
        view: Any = held.commit(0, 4 * MIB, backing=stead.DeviceMemory(0))
        view.fill(0)
        tensor = torch.from_dlpack(view)
        assert (tensor.data_ptr(), tensor.numel()) == (held.address, 4 * MIB)
        tensor[:3] = torch.tensor([1, 2, 3], device="cuda", dtype=torch.uint8)
        torch.cuda.synchronize()
        assert view[:4].read() == b"\1\2\3\0"
        try:
            held.decommit()
        except BufferError:
            pass
        else:
            raise AssertionError("a tensor lives on it")
        del tensor, view
        gc.collect()
        held.decommit()


def cupy_arrays() -> None:
    import cupy

    from stead.integrations.cupy import allocating_in

    with stead.Arena("256 MiB", backing=stead.DeviceMemory(0)) as arena:
        with allocating_in(arena):
            x = cupy.arange(1_000_000, dtype="f8")
            stream = cupy.cuda.Stream(non_blocking=True)
            with stream:
                for _ in range(50):
                    y = cupy.ones(1000) * 3
            stream.synchronize()
            total = float((x * 2).sum())
        assert total == 999_999 * 1_000_000
        assert arena.owns(x.data.ptr)
        assert arena.owns(y.data.ptr)
        assert float(y.sum()) == 3000
        block = arena.block(800)
        taken = cupy.asarray(block)  # __cuda_array_interface__
        taken.fill(9)
        assert taken.data.ptr == block.address
        assert int(taken[799]) == 9
        del x, y, taken, block
        gc.collect()
        cupy.cuda.Device().synchronize()
        assert arena.statistics().blocks == 0


def numba_arrays() -> None:
    import numpy
    from numba import cuda

    from stead.integrations.numba import memory_manager

    arena = stead.Arena("256 MiB", backing=stead.DeviceMemory(0, shareable=True))
    cuda.set_memory_manager(memory_manager(arena))

    @cuda.jit  # type: ignore[untyped-decorator]  # Numba is not typed
    def add(array: Any, what: int) -> None:
        where = cuda.grid(1)
        if where < array.size:
            array[where] += what

    array = cuda.to_device(numpy.arange(1000))
    assert arena.owns(array.device_ctypes_pointer.value)
    add[8, 128](array, 5)
    assert (array.copy_to_host() == numpy.arange(1000) + 5).all()
    view = cuda.as_cuda_array(arena.block(1000))
    assert view.size == 1000


PROGRAMS = {
    each.__name__: each
    for each in (
        torch_model, torch_graph, torch_sent, torch_everything, torch_order, torch_views,
        cupy_arrays, numba_arrays,
    )
}  # fmt: skip

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]]()
    print("good")
