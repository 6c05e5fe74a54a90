"""A process with a device of its own driver's double, which does what it is told: importable by spawned ones."""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, Any

import doubles
import stead
from stead.devices.driver import Location

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


class Worker:
    def __init__(self, path: str, together: Any) -> None:
        self.double = doubles.CudaDouble(path)
        self.double.reset()
        self.together = stead.peers.Member(together, timeout=30)
        self.held: stead.Reservation | None = None
        self.squatting: list[stead.Reservation] = []

    def attach(self, payload: bytes) -> tuple[int, bytes]:
        self.held = pickle.loads(payload)
        return self.read()

    def attach_together(self, handle: stead.Handle) -> tuple[int, bytes]:
        self.held = handle.attach(together=self.together)
        return self.read()

    def reserve_together(self, size: int) -> int:
        self.held = stead.reserve(size, space=stead.CudaSpace(), together=self.together)
        return self.held.address

    def make(self, size: int, text: bytes) -> bytes:
        self.held = stead.reserve(size, space=stead.CudaSpace(), name="a device's")
        self.held.commit(backing=stead.DeviceMemory(shareable=True, piece=size // 4)).write(text)  # type: ignore[attr-defined]
        return self.send()

    def send(self) -> bytes:
        return pickle.dumps(self.held)

    def read(self, size: int = 5) -> tuple[int, bytes]:
        assert self.held
        view: Any = self.held.view(0, size)
        return view.address, view.read()

    def byte(self, offset: int) -> int:
        assert self.held
        view: Any = self.held.view(offset, 1)
        return int(view.read()[0])

    def write(self, text: bytes) -> None:
        assert self.held
        view: Any = self.held.view()
        view.write(text)

    def squat(self, address: int, size: int) -> None:
        self.squatting.append(stead.reserve(size, at=address, name="squatter"))

    def see_from(self, first: int) -> None:
        """This process's devices begin with that one of the host's."""
        self.double.set_first_device(first)

    def refuse(self, function: str, code: int, nth: int) -> None:
        self.double.refuse(function, code, nth)

    def release(self) -> None:
        assert self.held
        self.held.release()
        self.held = None

    def holds(self) -> dict[str, int]:
        return {key: count for key, count in self.double.holds().items() if key != "events"}

    def allowed(self, address: int) -> str:
        return self.double.allowed(Location("device", 0), address)

    def pid(self) -> int:
        return os.getpid()


def serve(path: str, orders: Connection, together: Any) -> None:
    worker = Worker(path, together)
    while True:
        try:
            name, arguments = orders.recv()
        except EOFError:
            return
        try:
            orders.send((True, getattr(worker, name)(*arguments)))
        except Exception as error:
            orders.send((False, error))
