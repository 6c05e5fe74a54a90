"""A KV cache that grows in place: addresses for the longest sequence, memory as tokens come, and none between two
requests. Beside what is done without: a larger array and a copy, each time it is full.

python examples/kv_cache.py                        # in this host's memory, with NumPy's attention
python examples/kv_cache.py --device cuda          # on a GPU with PyTorch; not run on one yet
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec

import numpy

import stead


@dataclass
class Shape:
    layers: int
    heads: int
    width: int
    longest: int  # tokens

    @property
    def token(self) -> int:
        """Bytes of one token's keys (or values) in one layer, 16 bits each."""
        return 2 * self.heads * self.width


REQUESTS = 3
USUAL = {
    "host": {"heads": 4, "width": 64, "tokens": 400},
    "cuda": {"heads": 32, "width": 128, "tokens": 2000},
}


class Host:
    """Memory of this process, arrays of NumPy's."""

    step = 64 << 10

    def reserve(self, size):
        return stead.reserve(size, name="kv-cache")

    def commit(self, room, offset, size):
        room.commit(offset, size).release()

    def tensor(self, room, offset, size):
        return numpy.frombuffer(room.view(offset, size), dtype=numpy.float16)

    def rest(self, room):
        room.decommit()

    def wake(self, room):
        """Nothing is committed then: the next request begins anew."""

    def empty(self, count):
        return numpy.empty(count, dtype=numpy.float16)

    def put(self, there, numbers):
        there[...] = numbers

    def attend(self, query, keys, values):
        """One token's attention over all before it: (heads, width), from (tokens, heads, width)."""
        keys, values = keys.astype(numpy.float32), values.astype(numpy.float32)
        scores = numpy.einsum("thw,hw->ht", keys, query) / query.shape[-1] ** 0.5
        scores = numpy.exp(scores - scores.max(axis=1, keepdims=True))
        return numpy.einsum("ht,thw->hw", scores / scores.sum(axis=1, keepdims=True), values)

    def done(self):
        pass


class Cuda:
    """Memory of a GPU, tensors of PyTorch's."""

    def __init__(self):
        import torch

        if not torch.cuda.is_available():
            raise SystemExit(
                f"--device cuda needs a GPU that PyTorch can use; PyTorch {torch.__version__} has none"
            )
        self.torch, self.space = torch, stead.CudaSpace()
        self.step = self.space.granularity

    def reserve(self, size):
        return stead.reserve(size, name="kv-cache", space=self.space)

    def commit(self, room, offset, size):
        room.commit(offset, size, backing=stead.DeviceMemory(0, piece=self.step))

    def tensor(self, room, offset, size):
        return self.torch.from_dlpack(room.view(offset, size)).view(self.torch.float16)

    def rest(self, room):
        room.pause()  # for another tenant of the GPU; graphs and pointers stay good

    def wake(self, room):
        room.resume()

    def empty(self, count):
        return self.torch.empty(count, dtype=self.torch.float16, device="cuda")

    def put(self, there, numbers):
        there.copy_(self.torch.from_numpy(numbers))

    def attend(self, query, keys, values):
        query = self.torch.from_numpy(query).cuda()
        scores = self.torch.einsum("thw,hw->ht", keys.float(), query) / query.shape[-1] ** 0.5
        return self.torch.einsum("ht,thw->hw", scores.softmax(1), values.float()).cpu().numpy()

    def done(self):
        self.torch.cuda.synchronize()


class Growing:
    """In one reservation: a lane of fixed addresses for each layer's keys and each layer's values."""

    def __init__(self, memory, shape):
        self.memory, self.shape = memory, shape
        self.lane = -(-shape.longest * shape.token // memory.step) * memory.step
        self.room = memory.reserve(2 * shape.layers * self.lane)
        self.committed = self.copied = self.peak = 0  # bytes; committed: of each lane
        self.lanes = []

    def make_room(self, tokens):
        if tokens * self.shape.token <= self.committed:
            return
        more = -(-tokens * self.shape.token // self.memory.step) * self.memory.step
        starts = [number * self.lane for number in range(2 * self.shape.layers)]
        for start in starts:
            self.memory.commit(self.room, start + self.committed, more - self.committed)
        self.committed = more
        self.peak = max(self.peak, more * len(starts))
        self.lanes = [self.memory.tensor(self.room, start, more) for start in starts]

    def rest(self):
        """Between two requests: the memory is others', the addresses are ours."""
        self.lanes = []
        self.memory.rest(self.room)
        self.memory.wake(self.room)
        self.committed = sum(part.range.size for part in self.room.parts) // (2 * self.shape.layers)
        if self.committed:
            starts = range(0, 2 * self.shape.layers * self.lane, self.lane)
            self.lanes = [self.memory.tensor(self.room, start, self.committed) for start in starts]

    def close(self):
        self.lanes = []
        self.room.release()


class Copying:
    """An array for each lane, and one twice as large when it is full."""

    def __init__(self, memory, shape):
        self.memory, self.shape = memory, shape
        self.lanes = [memory.empty(0) for _ in range(2 * shape.layers)]
        self.committed = self.copied = self.peak = 0

    def make_room(self, tokens):
        if tokens * self.shape.token <= self.committed:
            return
        needed = max(tokens * self.shape.token, 2 * self.committed)
        more = -(-needed // self.memory.step) * self.memory.step
        for number, old in enumerate(self.lanes):
            new = self.memory.empty(more // 2)
            new[: len(old)] = old
            self.copied += 2 * len(old)
            held = (number + 1) * more + (len(self.lanes) - number) * self.committed
            self.peak = max(self.peak, held)
            self.lanes[number] = new
        self.committed = more

    def rest(self):
        self.lanes = [self.memory.empty(0) for _ in self.lanes]
        self.committed = 0

    def close(self):
        self.lanes = []


def request(cache, memory, shape, tokens, seed):
    """Decode so many tokens: the last answer of each layer, and nanoseconds."""
    numbers = numpy.random.default_rng(seed)
    new = numbers.standard_normal((tokens, 3, shape.heads, shape.width), dtype=numpy.float32)
    began = time.perf_counter_ns()
    for token in range(tokens):
        cache.make_room(token + 1)
        key, value, query = new[token]
        answers = []
        for layer in range(shape.layers):
            lanes = cache.lanes[2 * layer : 2 * layer + 2]
            keys, values = (
                each[: (token + 1) * shape.heads * shape.width].reshape(token + 1, shape.heads, shape.width)
                for each in lanes
            )
            memory.put(keys[token], key.astype(numpy.float16))
            memory.put(values[token], value.astype(numpy.float16))
            answers.append(memory.attend(query, keys, values))
    memory.done()
    return numpy.stack(answers), time.perf_counter_ns() - began


def plain(memory, shape, tokens, seed):
    """The same last answer with no cache that grows: all keys and values are there at once."""
    new = numpy.random.default_rng(seed).standard_normal(
        (tokens, 3, shape.heads, shape.width), dtype=numpy.float32
    )
    keys, values = memory.empty(tokens * shape.token // 2), memory.empty(tokens * shape.token // 2)
    keys, values = (each.reshape(tokens, shape.heads, shape.width) for each in (keys, values))
    memory.put(keys, new[:, 0].astype(numpy.float16))
    memory.put(values, new[:, 1].astype(numpy.float16))
    return memory.attend(new[-1, 2], keys, values)


def once(memory, shape):
    """The first use of a GPU, and of NumPy, takes time that is nobody's."""
    cache = Copying(memory, shape)
    request(cache, memory, shape, 32, 0)
    cache.close()


def run(kinds, memory, shape, tokens):
    """Some requests in turns, the memory given back between them: a line of the table for each kind."""
    caches = [kind(memory, shape) for kind in kinds]
    where = [cache.room.address for cache in caches if isinstance(cache, Growing)]
    took = {cache: [] for cache in caches}
    for seed in range(1, REQUESTS + 1):
        expected = plain(memory, shape, tokens, seed)
        for cache in caches:
            answer, nanoseconds = request(cache, memory, shape, tokens, seed)
            if not all(numpy.allclose(each, expected, rtol=1e-3, atol=1e-3) for each in answer):
                name = type(cache).__name__.lower()
                raise SystemExit(f"{name}: request {seed} has another answer than without a cache")
            took[cache].append(nanoseconds / tokens)
            cache.rest()
    assert where == [cache.room.address for cache in caches if isinstance(cache, Growing)]
    for cache in caches:
        name = type(cache).__name__.lower()
        if os.environ.get("PYTORCH_CUDA_ALLOC_CONF"):
            name += ", expandable"
        seconds = statistics.median(took[cache]) / 1e9
        print(f"{name:<22}{cache.copied // REQUESTS:>14,}{cache.peak:>14,}{seconds:>18.6f}", flush=True)
        cache.close()


def gpu():
    try:
        return stead.CudaSpace()
    except stead.Unsupported:
        return None


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--device", choices=("host", "cuda"), default=None, help="default: cuda where there is one"
    )
    options.add_argument("--layers", type=int, default=2)
    options.add_argument("--heads", type=int, help="default: 4 on the host, 32 on a GPU")
    options.add_argument("--width", type=int, help="of a head; default: 64 on the host, 128 on a GPU")
    options.add_argument("--tokens", type=int, help="default: 400 on the host, 2000 on a GPU")
    options.add_argument("--longest", type=int, default=1 << 20, help="tokens for which there are addresses")
    options.add_argument("--only", choices=("growing", "copying"), help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.device is None:
        given.device = "cuda" if find_spec("torch") and gpu() else "host"
    for name, usual in USUAL[given.device].items():
        if getattr(given, name) is None:
            setattr(given, name, usual)
    for name, value in vars(given).items():
        if isinstance(value, int) and value < 1:
            options.error(f"--{name} is {value}, must be at least 1")
    if given.tokens > given.longest:
        options.error(f"--tokens is {given.tokens}, must be at most --longest, {given.longest}")
    shape = Shape(given.layers, given.heads, given.width, given.longest)
    memory = Cuda() if given.device == "cuda" else Host()
    once(memory, shape)
    if not given.only:
        of = f"{given.layers} layers, {given.heads} heads of {given.width}"
        print(f"{given.device}, {of}: requests of {given.tokens} tokens, the median of {REQUESTS}")
        print(f"{'':<22}{'bytes copied':>14}{'peak bytes':>14}{'seconds a token':>18}", flush=True)
    kinds = [kind for kind in (Growing, Copying) if given.only in (None, kind.__name__.lower())]
    run(kinds, memory, shape, given.tokens)
    if given.device == "cuda" and not given.only:
        settings = {**os.environ, "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
        subprocess.run([sys.executable, *sys.argv, "--only", "copying"], env=settings, check=True)


if __name__ == "__main__":
    main()
