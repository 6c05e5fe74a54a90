"""An array that grows without moving: reserve addresses for the largest it may become, commit as it grows.

python examples/grow_in_place.py
"""

import numpy

import stead

with stead.reserve("1 TiB", name="samples") as room:  # addresses, no memory
    step = 8 << 20
    committed = used = 0
    first = None
    for batch in range(20):
        new = numpy.random.default_rng(batch).standard_normal(500_000)
        while committed < (used + new.size) * 8:
            room.commit(committed, step).release()
            committed += step
        samples = numpy.frombuffer(room.view(0, committed), dtype=numpy.float64)
        samples[used : used + new.size] = new
        used += new.size
        first = first or samples.ctypes.data
        assert samples.ctypes.data == first == room.address  # nothing was copied, nothing moved
    print(f"{used:,} samples at {first:#x}, mean {samples[:used].mean():+.4f}, {committed >> 20} MiB of memory")
    del samples
