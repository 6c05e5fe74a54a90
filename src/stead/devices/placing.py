"""Memory to its place and away from it: all that is asked for, or nothing.

Owns no table; :mod:`stead.devices.space` holds its lock meanwhile.
"""

from __future__ import annotations

import mmap
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stead import _native
from stead.devices.driver import DriverError
from stead.devices.memory import create, refused
from stead.errors import LimitReached, RollbackFailed, Unsupported
from stead.ranges import Range
from stead.sizes import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stead.devices.driver import DeviceAccess, Driver
    from stead.devices.mapped import Mapped

ACCESS: dict[str, DeviceAccess] = {"none": "none", "r": "r", "rw": "rw"}


def map_all(driver: Driver, wanted: Sequence[Mapped]) -> None:
    """Map every piece, and allow access. Raises LimitReached, Unsupported, DriverError; RollbackFailed where what
    was mapped before the refusal could not be unmapped."""
    done: list[Range] = []  # what is mapped of each
    try:
        for each in wanted:
            start, stop = each.range
            physical, number = each.physical, each.first
            done.append(Range(start, start))
            for at in range(start, stop, physical.piece):
                driver.map(at, physical.piece, physical.handles[number])
                done[-1] = Range(start, at + physical.piece)
                number += 1
            driver.allow(start, stop - start, physical.who, ACCESS[each.access])
    except BaseException as error:
        _unmap_all(driver, done, error)
        if isinstance(error, DriverError):
            raise refused(error, f"memory at {wanted[len(done) - 1].range}") from error
        raise


def _unmap_all(driver: Driver, done: Sequence[Range], cause: BaseException) -> None:
    left = []
    for each in done:
        try:
            if each.start < each.stop:
                driver.unmap(each.start, each.size)
        except DriverError:
            left.append(each)
    if left:
        raise RollbackFailed(f"{cause}; and still mapped: {', '.join(map(str, left))}", left) from cause


def unmap_all(driver: Driver, mapped: Sequence[Mapped]) -> None:
    """Unmap every one, and keep its memory. Raises DriverError, and all are mapped as before; RollbackFailed."""
    gone = 0
    try:
        for each in mapped:
            start, stop = each.range
            driver.unmap(start, stop - start)
            gone += 1
    except DriverError as error:
        map_again(driver, mapped[:gone], error)
        raise refused(error, f"unmapping {mapped[gone].range}") from error


def map_again(driver: Driver, gone: Sequence[Mapped], cause: BaseException) -> None:
    """After what failed behind their unmapping."""
    try:
        map_all(driver, gone)
    except Exception as error:
        lost = [each.range for each in gone]
        text = f"{cause}; and {', '.join(map(str, lost))} could not be mapped again: {error}"
        raise RollbackFailed(text, lost) from cause


# ---- pausing --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Away:
    """What was mapped, and its contents, where they were to be kept."""

    mapped: Mapped
    contents: mmap.mmap | None


def take_away(driver: Driver, mapped: Sequence[Mapped], keep: bool) -> list[Away]:
    """Unmap, and let go of the memory. Nothing runs that uses it. Raises Unsupported where other processes have
    the memory, LimitReached where there is no room for the contents, DriverError; it is all there then."""
    for each in mapped:
        if each.physical.exported:
            raise Unsupported(
                f"pausing {each.range}",
                "memory that no other process has: theirs would be another after a resume",
                "memory that was sent, or received",
            )
    away = [Away(each, _saved(driver, each) if keep else None) for each in mapped]
    unmap_all(driver, mapped)
    for each in mapped:
        each.physical.release(each.first, each.pieces)
    return away


def _saved(driver: Driver, mapped: Mapped) -> mmap.mmap:
    size = mapped.range.size
    try:
        contents = mmap.mmap(-1, size)
    except OSError as error:
        raise LimitReached(f"{format_size(size)} for the contents of {mapped.range}: {error}", "memory") from error
    try:
        with _reachable(driver, mapped):
            driver.copy(_native.address_of(contents), mapped.range.start, size)
    except DriverError as error:
        contents.close()
        raise refused(error, f"the contents of {mapped.range}") from error
    return contents


@contextmanager
def _reachable(driver: Driver, mapped: Mapped) -> Iterator[None]:
    """So that its contents can be copied, whatever access there is to it."""
    start, size, who = mapped.range.start, mapped.range.size, mapped.physical.who
    if mapped.access != "rw":
        driver.allow(start, size, who, "rw")
    try:
        yield
    finally:
        if mapped.access != "rw":
            driver.allow(start, size, who, ACCESS[mapped.access])


def bring_back(driver: Driver, away: Sequence[Away]) -> None:
    """New memory at every place, with its contents where they were kept. Raises LimitReached, DriverError; nothing
    is there then, as before."""
    created: list[Mapped] = []
    placed = False
    try:
        for each in away:
            physical = each.mapped.physical
            handles = create(driver, each.mapped.pieces, physical.piece, physical.location, physical.shareable)
            physical.handles.update(enumerate(handles, each.mapped.first))
            created.append(each.mapped)
        map_all(driver, created)
        placed = True
        for each in away:
            if each.contents is not None:
                with _reachable(driver, each.mapped):
                    driver.copy(each.mapped.range.start, _native.address_of(each.contents), each.mapped.range.size)
    except BaseException as error:
        if placed:
            _unmap_all(driver, [each.range for each in created], error)
        for mapped in created:
            mapped.physical.release(mapped.first, mapped.pieces)
        if isinstance(error, DriverError):
            raise refused(error, "the contents of what was paused") from error
        raise
    for each in away:
        if each.contents is not None:
            each.contents.close()
