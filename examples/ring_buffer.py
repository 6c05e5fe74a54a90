"""A ring buffer without seams: the same memory twice, side by side, so that no read or write has to wrap.

python examples/ring_buffer.py
"""

import stead

SIZE = 1 << 16

with stead.reserve(2 * SIZE, name="ring") as addresses:
    ring = stead.SharedMemory(SIZE, name="ring")
    addresses.commit(0, SIZE, backing=ring).release()
    addresses.commit(SIZE, SIZE, backing=ring).release()
    with addresses.view(0, 2 * SIZE) as buffer:
        written = 0
        for number in range(10_000):
            message = b"message %d;" % number
            at = written % SIZE
            buffer[at : at + len(message)] = message  # past the end is the beginning
            assert bytes(buffer[at : at + len(message)]) == message
            written += len(message)
        last = bytes(buffer[written % SIZE + SIZE - 26 : written % SIZE + SIZE])
        print(f"{written:,} bytes through {SIZE:,}; the last ones: {last.decode()}")
