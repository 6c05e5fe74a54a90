"""What a device's driver is asked for, the same for all of them: addresses, physical memory, and mapping the one
at the other.

CUDA, HIP and Level Zero offer the same dozen calls under other names. A :class:`Driver` is one of them, with
numbers for handles; it decides nothing, and keeps no table and retries nothing but where its library does not do
by itself what is promised here. :class:`stead.devices.space.DeviceSpace` does, and tests run all drivers over
libraries that do the same on this host's memory (tests/doubles/).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from stead.errors import DriverError, Meaning

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["DeviceAccess", "DeviceFacts", "Driver", "DriverError", "Location", "Meaning"]

DeviceAccess = Literal["none", "r", "rw"]


class Location(NamedTuple):
    """Where physical memory is, or who accesses it: device number ``id``, the host, or NUMA node ``id`` of it."""

    kind: Literal["device", "host", "host node"]
    id: int = 0

    def __str__(self) -> str:
        return {"device": f"device {self.id}", "host": "the host"}.get(self.kind, f"NUMA node {self.id}")


class DeviceFacts(NamedTuple):
    """A device as its driver describes it. Sizes are in bytes.

    ``unified``: it uses the addresses of its process. ``manages_addresses``: its driver reserves addresses and
    maps memory there. ``shares_by_descriptor``: memory can be exported as a file descriptor.
    ``reaches_pageable``: it reads and writes ordinary memory of the process by itself.
    ``registered_at_host_address``: what is registered has its host address on the device. ``manages_memory``:
    memory that migrates (managed). ``host_located``: memory on a NUMA node of the host can be mapped through the
    driver.
    """

    number: int
    name: str
    uuid: str
    memory: int
    unified: bool
    manages_addresses: bool
    shares_by_descriptor: bool
    reaches_pageable: bool
    registered_at_host_address: bool
    manages_memory: bool
    host_located: bool


class Driver(Protocol):
    """One driver in this process. Addresses, handles, streams and events are ints; sizes are in bytes. Every
    method raises DriverError where the driver refuses, and has changed nothing then."""

    @property
    def name(self) -> str:
        """For people, and part of an identity: "CUDA", "HIP", "Level Zero"."""
        ...

    def devices(self) -> Sequence[DeviceFacts]: ...

    # ---- addresses ----

    def granularity(self, location: Location, *, recommended: bool = False) -> int:
        """What sizes and places of memory there are multiples of; ``recommended``: for speed."""
        ...

    @property
    def functions(self) -> tuple[int, int] | None:
        """Where the C functions are that reserve addresses and free them, as cuMemAddressReserve and
        cuMemAddressFree are declared, for who does without Python in between; None where there are none."""
        ...

    def reserve(self, size: int, alignment: int, hint: int) -> int:
        """Addresses for ``size`` bytes: at ``hint`` if the driver likes to, or anywhere. 0: no hint."""
        ...

    def free(self, address: int, size: int) -> None:
        """Give back exactly one reservation."""
        ...

    # ---- physical memory ----

    def create(self, size: int, location: Location, *, shareable: bool) -> int:
        """Memory, mapped nowhere; ``shareable``: :meth:`export` will be called. A handle."""
        ...

    def release(self, handle: int) -> None:
        """Let go of a handle. The memory goes when no mapping and no other process has it any more."""
        ...

    def export(self, handle: int) -> int:
        """A file descriptor that stands for the memory, close-on-exec; the caller owns it."""
        ...

    def adopt(self, fd: int, size: int, location: Location) -> int:
        """A handle for what another process exported; ``fd`` stays the caller's."""
        ...

    # ---- the one at the other ----

    def map(self, address: int, size: int, handle: int) -> None:
        """All of a handle's memory at ``address``, inside one reservation, accessible to nobody yet."""
        ...

    def unmap(self, address: int, size: int) -> None:
        """Whole mappings. Does not wait for what still runs: :meth:`synchronize` before."""
        ...

    def allow(self, address: int, size: int, who: Sequence[Location], access: DeviceAccess) -> None:
        """Who may do what with mapped memory. Those who are not named keep what they could."""
        ...

    def managed(self, size: int) -> int:
        """Memory that host and devices both use, at an address that the driver chooses; :meth:`free_managed`."""
        ...

    def free_managed(self, address: int) -> None: ...

    def register(self, address: int, size: int) -> int:
        """Let devices use ordinary memory of the process: the address that it has there."""
        ...

    def unregister(self, address: int) -> None: ...

    # ---- contents and order ----

    def copy(self, to: int, source: int, size: int) -> None:
        """Between any two addresses, host or device; done when it returns."""
        ...

    def fill(self, address: int, size: int, byte: int) -> None:
        """Set memory that the device may write; done when it returns."""
        ...

    def synchronize(self, device: int) -> None:
        """Wait for everything that was given to the device."""
        ...

    def free_memory(self, device: int) -> int:
        """Bytes of the device that nobody has."""
        ...

    def record(self, stream: int, device: int) -> int:
        """An event behind what ``stream`` has to do now; :meth:`passed`, then :meth:`forget`."""
        ...

    def passed(self, event: int) -> bool: ...

    def forget(self, event: int) -> None: ...

    def wait(self, event: int) -> None:
        """Until it has passed."""
        ...
