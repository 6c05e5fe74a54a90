"""A device's memory as others take it: by address, by ``__cuda_array_interface__``, by DLPack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stead import _native
from stead.ranges import Range

if TYPE_CHECKING:
    from stead.devices.driver import Driver

# DLDeviceType of dlpack.h (https://dmlc.github.io/dlpack).
DLPACK_TYPES = {"CUDA": 2, "HIP": 10, "Level Zero": 14}


class DeviceView:
    """Bytes of a device's memory, which cannot be touched from here. While it, a slice of it, or what was made of
    one lives, the memory stays where it is.

    ``read``, ``write`` and ``fill`` copy; NumPy's likes on devices take it as it is: ``cupy.asarray(view)``,
    ``torch.from_dlpack(view)``, ``numba.cuda.as_cuda_array(view)``, an array of bytes each.
    """

    __slots__ = ("__weakref__", "_range", "_readonly", "device", "driver", "obj")

    def __init__(self, driver: Driver, where: Range, device: int, readonly: bool, owner: object) -> None:
        self.driver, self.device = driver, device
        self._range, self._readonly = where, readonly
        self.obj = owner if isinstance(owner, _Lease) else _Lease(owner)

    @property
    def address(self) -> int:
        """The first address."""
        return self._range.start

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return self._range.size

    @property
    def readonly(self) -> bool:
        return self._readonly

    def __len__(self) -> int:
        return self._range.size

    def __getitem__(self, key: slice) -> DeviceView:
        """A slice of it. Raises TypeError for anything else, ValueError for steps."""
        if not isinstance(key, slice):
            raise TypeError(f"key is {key!r}, must be a slice: a device's bytes are not read one by one")
        start, stop, step = key.indices(self.nbytes)
        if step != 1:
            raise ValueError(f"step is {step}, must be 1")
        where = Range(self.address + start, self.address + max(start, stop))
        return DeviceView(self.driver, where, self.device, self._readonly, self.obj)

    def read(self) -> bytes:
        """A copy of it, when all that was written before on the default stream is done."""
        into = bytearray(self.nbytes)
        with memoryview(into) as view:
            self.driver.copy(_native.address_of(view), self.address, self.nbytes)
        return bytes(into)

    def write(self, data: bytes | bytearray | memoryview, offset: int = 0) -> None:
        """Copy ``data`` (contiguous) to ``offset``. Raises ValueError where it does not fit or may not be
        written."""
        with memoryview(data) as given:
            if self._readonly:
                raise ValueError(f"{self!r} is read-only")
            if not 0 <= offset <= self.nbytes - given.nbytes:
                raise ValueError(f"offset is {offset}: {given.nbytes} bytes from there are not in {self!r}")
            self.driver.copy(self.address + offset, _native.address_of(given), given.nbytes)

    def fill(self, byte: int) -> None:
        """Set every byte. Raises ValueError where it may not be written."""
        if self._readonly:
            raise ValueError(f"{self!r} is read-only")
        if not 0 <= byte <= 255:
            raise ValueError(f"byte is {byte}, must be from 0 to 255")
        self.driver.fill(self.address, self.nbytes, byte)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html, version 3; no stream is waited
        for."""
        if self.driver.name not in ("CUDA", "HIP"):
            raise AttributeError(f"{self.driver.name} has no __cuda_array_interface__")
        return array_interface(self.address, self.nbytes, self._readonly)

    def __dlpack_device__(self) -> tuple[int, int]:
        return DLPACK_TYPES[self.driver.name], self.device

    def __dlpack__(self, *, stream: int | None = None, **_: object) -> Any:
        """https://data-apis.org/array-api/latest/design_topics/data_interchange.html. Raises BufferError where it
        is read-only, which DLPack before 1.0 cannot say."""
        if self._readonly:
            raise BufferError(f"{self!r} is read-only")
        return _native.dlpack(self.address, self.nbytes, *self.__dlpack_device__(), self.obj)

    def __repr__(self) -> str:
        return f"<DeviceView of {self._range} on device {self.device} of {self.driver.name}>"


class _Lease:
    """Lives as long as anything that shows the memory, and keeps its owner."""

    __slots__ = ("__weakref__", "owner")

    def __init__(self, owner: object) -> None:
        self.owner = owner


def array_interface(address: int, size: int, readonly: bool) -> dict[str, Any]:
    return {
        "shape": (size,), "typestr": "|u1", "data": (address if size else 0, readonly), "version": 3,
        "strides": None, "stream": None,
    }  # fmt: skip
