"""What the tests of doors and of those who call at them share."""

from __future__ import annotations

import gc
import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stead import door
from stead.door import Door

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def opened(deadline: float = door.DEADLINE, most_clients: int = door.MOST_CLIENTS) -> Iterator[Door]:
    made = Door(deadline, most_clients)
    try:
        yield made
    finally:
        made.close()


def connected(made: Door) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect("\0" + made.name)
    return connection


def open_count() -> int:
    gc.collect()  # what other tests have left
    return len(os.listdir("/proc/self/fd"))
