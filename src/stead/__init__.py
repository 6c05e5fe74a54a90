"""One address, everywhere: reserve ranges without clobbering anything, and meet there from every process.

Layers, each importing only to its right (import-linter holds the contract):

    cli → view → demo → doctor → testing → seeing → heap | symmetric → device_bytes
        → arena | peers | handle | shared_memory → claiming
        → reservation | agreement → parts → devices → space → backing | segments → features | securing
        → snapshot | kernel | descriptors → ledger | maps | door → openfiles → placement → ranges
        → sizes | errors | proc → _native
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stead import peers, shared_memory
from stead._native import Block, DeviceBlock
from stead.arena import Arena, ArenaStatistics
from stead.backing import ANONYMOUS, Anonymous, File, SharedMemory
from stead.claiming import reserve
from stead.devices.constraints import DeviceConstraints
from stead.devices.memory import DeviceMemory, HostMemory
from stead.devices.space import DeviceSpace
from stead.devices.spaces import CudaSpace, HipSpace, LevelZeroSpace
from stead.devices.view import DeviceView
from stead.errors import (
    AddressSpaceError,
    BarrierOwnerDied,
    ChannelClosed,
    ChannelEmpty,
    ChannelFull,
    Contended,
    Corrupted,
    DriverError,
    LimitReached,
    NoGap,
    NotLive,
    Obstacle,
    Occupied,
    OutOfSpace,
    OverQuota,
    OwnerDied,
    Paused,
    PeerFailed,
    PeersDisagree,
    Released,
    RollbackFailed,
    UnreadableMaps,
    UnreadableSave,
    Unsupported,
    WrongKey,
)
from stead.handle import Handle
from stead.heap import (
    Barrier,
    BoundedSemaphore,
    Channel,
    Condition,
    HeapHandle,
    HeapStatistics,
    Lock,
    Ref,
    Semaphore,
    SharedBlock,
    SharedHeap,
)
from stead.maps import Kind, Mapping
from stead.placement import Footprint, Placement
from stead.ranges import Range, RangeSet
from stead.reservation import Reservation
from stead.seeing import NoSnapshot, capture, publish
from stead.seeing import publishing as _publishing
from stead.snapshot import Snapshot, snapshot
from stead.space.process import ProcessSpace, this_process
from stead.space.protocol import AddressSpace, MemorySpace
from stead.symmetric import GlobalPointer, SymmetricHeap, SymmetricStatistics

if TYPE_CHECKING:
    from typing import Any

    from stead.heap import HeapArray

__version__ = "0.1.0"

__all__ = [
    "ANONYMOUS",
    "AddressSpace",
    "AddressSpaceError",
    "Anonymous",
    "Arena",
    "ArenaStatistics",
    "Barrier",
    "BarrierOwnerDied",
    "Block",
    "BoundedSemaphore",
    "Channel",
    "ChannelClosed",
    "ChannelEmpty",
    "ChannelFull",
    "Condition",
    "Contended",
    "Corrupted",
    "CudaSpace",
    "DeviceBlock",
    "DeviceConstraints",
    "DeviceMemory",
    "DeviceSpace",
    "DeviceView",
    "DriverError",
    "File",
    "Footprint",
    "GlobalPointer",
    "Handle",
    "HeapArray",
    "HeapHandle",
    "HeapStatistics",
    "HipSpace",
    "HostMemory",
    "Kind",
    "LevelZeroSpace",
    "LimitReached",
    "Lock",
    "Mapping",
    "MemorySpace",
    "NoGap",
    "NoSnapshot",
    "NotLive",
    "Obstacle",
    "Occupied",
    "OutOfSpace",
    "OverQuota",
    "OwnerDied",
    "Paused",
    "PeerFailed",
    "PeersDisagree",
    "Placement",
    "ProcessSpace",
    "Range",
    "RangeSet",
    "Ref",
    "Released",
    "Reservation",
    "RollbackFailed",
    "Semaphore",
    "SharedBlock",
    "SharedHeap",
    "SharedMemory",
    "Snapshot",
    "SymmetricHeap",
    "SymmetricStatistics",
    "UnreadableMaps",
    "UnreadableSave",
    "Unsupported",
    "WrongKey",
    "capture",
    "peers",
    "publish",
    "reserve",
    "shared_memory",
    "snapshot",
    "this_process",
]


def __getattr__(name: str) -> Any:
    if name == "HeapArray":  # needs NumPy, which stead does not
        from stead.heap.arrays import HeapArray

        return HeapArray
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_publishing.begin_if_wanted()
