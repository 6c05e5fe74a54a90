"""Names in /proc/<pid>/maps: shared memory carries its own, anonymous memory is named where the kernel can."""

from __future__ import annotations

import os

import pytest

import stead
from others import other
from stead.ranges import Range, RangeSet
from stead.snapshot import read_mappings
from stead.space.simulated import SimulatedSpace

PAGE = os.sysconf("SC_PAGESIZE")


class Naming(SimulatedSpace):
    """On a kernel that takes names, and forgets them with what is replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.named: dict[int, str] = {}
        self.kernel.name = self.take_name  # type: ignore[method-assign]
        self.true_place = self.kernel.place
        self.kernel.place = self.forget_and_place  # type: ignore[method-assign]

    def take_name(self, address: int, size: int, name: str, /) -> int:
        self.named.update(dict.fromkeys(range(address, address + size, PAGE), name))
        return 0

    def forget_and_place(
        self, address: int, size: int, protection: int, flags: int, fd: int, offset: int, /
    ) -> int:
        for page in range(address, address + size, PAGE):
            self.named.pop(page, None)
        return self.true_place(address, size, protection, flags, fd, offset)


def test_anonymous_memory_keeps_its_name_through_commit_and_decommit() -> None:
    space = Naming()
    with stead.reserve("64 KiB", space=space, name="mine", guard="8 KiB") as held:
        everything = dict.fromkeys(range(held.outer.start, held.outer.stop, PAGE), "stead:mine")
        assert space.named == everything
        held.commit(0, "16 KiB").release()
        held.commit("32 KiB", "16 KiB").release()
        assert space.named == everything
        held.decommit(0, "40 KiB")
        assert space.named == everything


def test_without_a_name_nothing_is_named() -> None:
    space = Naming()
    with stead.reserve("64 KiB", space=space) as held:
        held.commit().release()
        held.decommit()
        assert space.named == {}


def test_a_file_is_not_named_over() -> None:
    space = Naming()
    with stead.reserve("64 KiB", space=space, name="mine") as held:
        held.commit(0, "16 KiB", backing="shared").release()
        # The memfd has its name, and the rest of the reservation the one it had.
        assert RangeSet(Range.sized(page, PAGE) for page in space.named).size == 48 << 10


def test_shared_memory_carries_its_name_into_the_maps_of_every_process() -> None:
    with stead.reserve("64 KiB", name="all can see") as held:
        view = held.commit(backing="shared")
        with other("held = hear()\nview = held.view()\nsay(1)\nhear()") as child:
            child.say(held)
            child.hear()
            for pid in (os.getpid(), child.pid):
                [found] = [each for each in read_mappings(pid) if each.range.overlaps(held.range)]
                assert found.name == "/memfd:stead:all can see"
        view.release()


def test_the_running_kernel_names_anonymous_memory_where_it_can() -> None:
    with stead.reserve("64 KiB", name="mine") as held:
        if not stead.this_process().name(held.range, "stead:mine"):
            pytest.skip("this kernel names no anonymous memory (Linux 5.17, CONFIG_ANON_VMA_NAME)")
        for step in ("reserved", "committed", "decommitted"):
            if step == "committed":
                held.commit(0, "16 KiB").release()
            elif step == "decommitted":
                held.decommit()
            found = [each for each in read_mappings() if each.range.overlaps(held.range)]
            assert {each.name for each in found} == {"[anon:stead:mine]"}
