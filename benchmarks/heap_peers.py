"""What else brings an array to a worker, each the way its documentation says, and each with the array already
where it wants it: the array is made once, and passed many times."""

from __future__ import annotations

import tempfile
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import heap_workers as workers
import numpy as np
from heap_workers import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = (
    "pickle over Pipe", "pickle 5 out of band", "SharedMemory", "joblib memmap", "Ray", "torch.multiprocessing"
)  # fmt: skip
_NEEDED = {"joblib memmap": "joblib", "Ray": "ray", "torch.multiprocessing": "torch"}


def missing() -> list[str]:
    return [name for name, module in _NEEDED.items() if find_spec(module) is None]


class Peer:
    """``fresh``: a worker that has never had the array; ``total``: it sums it, and answers."""

    modules: tuple[str, ...] = ("numpy",)

    def __init__(self, array: Any) -> None:
        self.array = array
        self.worker: Any = None

    def fresh(self) -> None:
        self.worker = Worker(*self.modules)

    def total(self) -> float:
        return float(self.worker.ask(workers.total, self.array))

    def end(self) -> None:
        if self.worker is not None:
            self.worker.end()
            self.worker = None

    def close(self) -> None:
        self.end()


class OutOfBand(Peer):
    def total(self) -> float:
        return float(self.worker.ask_out_of_band(workers.total, self.array))


class StandardSharedMemory(Peer):
    def __init__(self, array: Any) -> None:
        super().__init__(array)
        from multiprocessing.shared_memory import SharedMemory

        self._memory = SharedMemory(create=True, size=array.nbytes)
        np.ndarray(array.size, "f8", self._memory.buf)[:] = array

    def total(self) -> float:
        return float(self.worker.ask(workers.total_in_shared_memory, self._memory.name, self.array.size))

    def end(self) -> None:
        if self.worker is not None:
            self.worker.ask(workers.detach_shared_memory, self._memory.name)
        super().end()

    def close(self) -> None:
        super().close()
        self._memory.close()
        self._memory.unlink()


class Joblib(Peer):
    """A file in /dev/shm, where joblib itself puts its own."""

    def __init__(self, array: Any) -> None:
        super().__init__(array)
        import joblib

        self._folder = tempfile.TemporaryDirectory(dir="/dev/shm", prefix="benchmark-")
        path = Path(self._folder.name) / "array"
        joblib.dump(array, path)
        self._mapped = joblib.load(path, mmap_mode="r")
        self._joblib = joblib

    def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._joblib.Parallel(2, "loky")([self._joblib.delayed(function)(*arguments)])[0]

    def fresh(self) -> None:
        self.worker = self._run(workers.total, np.ones(3))

    def total(self) -> float:
        return float(self._run(workers.total, self._mapped))

    def end(self) -> None:
        from joblib.externals.loky import get_reusable_executor

        if self.worker is not None:
            get_reusable_executor().shutdown(wait=True)
            self.worker = None

    def close(self) -> None:
        super().close()
        del self._mapped
        self._folder.cleanup()


class Ray(Peer):
    """An actor, since a task may run in a worker that has had the array."""

    def __init__(self, array: Any) -> None:
        super().__init__(array)
        start_ray(2 * array.nbytes)
        import ray

        self._ray, self._ref = ray, ray.put(array)
        self._actor = ray.remote(num_cpus=0)(_Actor)

    def fresh(self) -> None:
        self.worker = self._actor.remote()
        self._ray.get(self.worker.total.remote(np.ones(3)))

    def total(self) -> float:
        return float(self._ray.get(self.worker.total.remote(self._ref)))

    def end(self) -> None:
        if self.worker is not None:
            self._ray.kill(self.worker)
            self.worker = None

    def close(self) -> None:
        super().close()
        del self._ref
        self._ray.shutdown()


class _Actor:
    def total(self, array: Any) -> float:
        return float(array.sum())


def start_ray(memory: int) -> None:
    import ray

    if ray.is_initialized():
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(
            num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error",
            object_store_memory=max(memory, 1 << 28),
            runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}},
        )  # fmt: skip


class Torch(Peer):
    modules = ("numpy", "torch")

    def __init__(self, array: Any) -> None:
        super().__init__(array)
        import torch

        self._tensor = torch.from_numpy(array).clone().share_memory_()

    def total(self) -> float:
        return float(self.worker.ask(workers.total_of_tensor, self._tensor))


_KINDS: dict[str, type[Peer]] = {
    "pickle over Pipe": Peer, "pickle 5 out of band": OutOfBand, "SharedMemory": StandardSharedMemory,
    "joblib memmap": Joblib, "Ray": Ray, "torch.multiprocessing": Torch,
}  # fmt: skip


def peers(array: Any) -> dict[str, Peer]:
    """All that are installed."""
    absent = missing()
    return {name: _KINDS[name](array) for name in NAMES if name not in absent}


class Heap(Peer):
    """stead itself, as one of them: the array is in a heap."""

    modules = ("numpy", "stead.heap.arrays")


def passing(peer: Peer) -> Callable[[int], float]:
    """A case: to the worker that has had it before."""

    def run(n: int) -> float:
        began = time.perf_counter_ns()
        for _ in range(n):
            peer.total()
        return (time.perf_counter_ns() - began) / n

    return run


def passing_first(make: Peer) -> Callable[[int], float]:
    """A case: to a worker that is started for it, which is not counted."""

    def run(n: int) -> float:
        spent = 0
        for _ in range(n):
            make.end()
            make.fresh()
            began = time.perf_counter_ns()
            make.total()
            spent += time.perf_counter_ns() - began
        return spent / n

    return run
