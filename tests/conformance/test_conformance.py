"""Every space that can run here passes the kit; a simulated one says which checks it leaves out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import stead
from stead.ranges import Range
from stead.space.process import ProcessSpace
from stead.testing import CHECKS, MEMORY_CHECKS, Manner, SimulatedSpace, check_address_space

if TYPE_CHECKING:
    from collections.abc import Callable

# Contents of a simulated space are borrowed from this process, at other addresses.
NOT_SIMULATED = {"memory is at its address", "access is what was asked for"}


def test_this_process_passes_every_check() -> None:
    ran = check_address_space(stead.this_process)
    assert len(ran) == len(CHECKS) + len(MEMORY_CHECKS)


class _Hinting(ProcessSpace):
    """The live kernel, used as if it ignored the flag: hint, compare, unmap."""

    manner = Manner.IGNORED


def test_this_process_passes_every_check_the_old_way() -> None:
    check_address_space(_Hinting)


@pytest.mark.parametrize("manner", list(Manner))
@pytest.mark.parametrize("width", [32, 39, 42, 46, 47, 48, 52, 56])
@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
def test_simulated_spaces_pass(manner: Manner, width: int, page_size: int) -> None:
    def make() -> SimulatedSpace:
        return SimulatedSpace(manner=manner, width=width, page_size=page_size)

    assert make().manner is manner
    assert make().usable == Range(65536, 2**width - page_size)
    check_address_space(make, leave_out=NOT_SIMULATED)


def test_simulated_spaces_pass_among_other_mappings() -> None:
    others = [(0x4000_0000_0000 + k * 2**40, 0x4000_0000_0000 + k * 2**40 + 2**39) for k in range(20)]

    def make() -> SimulatedSpace:
        return SimulatedSpace(occupied=others)

    check_address_space(make, leave_out=NOT_SIMULATED)


def test_the_kit_finds_what_is_wrong() -> None:
    """A kit that passes everything checks nothing: each of these breaks one promise."""

    class Clobbers(SimulatedSpace):
        def reserve_at(self, where: Range, keep: list[Range] | None = None) -> None:
            self.kernel.place(where.start, where.size, 0, 0, -1, 0)

    class Leaks(SimulatedSpace):
        def release(self, where: Range) -> None:
            pass

    class Forgets(SimulatedSpace):
        def decommit(self, where: Range) -> bool:
            self.kernel.unmap(where.start, where.size)
            return True

    class Lies(SimulatedSpace):
        @property
        def windows(self) -> tuple[Range, ...]:
            return (Range(0, 2**60),)

    for broken in (Clobbers, Leaks, Forgets, Lies):
        make: Callable[[], SimulatedSpace] = broken
        with pytest.raises(AssertionError):
            check_address_space(make, leave_out=NOT_SIMULATED)


def test_unknown_checks_cannot_be_left_out() -> None:
    with pytest.raises(ValueError, match="no check called"):
        check_address_space(SimulatedSpace, leave_out={"typo"})
