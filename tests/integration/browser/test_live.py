"""A real process, looked at and shown."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import stead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from integration.browser.conftest import Shown

PROGRAM = """
import stead, sys
held = stead.reserve("1 GiB", name="tested-pool", guard="64 KiB")
view = held.commit(0, "1 MiB")
for page in (0, 1, 5):
    view[page * 4096] = 1
print(held.address, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def running() -> Iterator[tuple[int, int]]:
    """A process that has a reservation: its pid, and the address."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        yield program.pid, int(program.stdout.readline())
        program.communicate("")


def test_each_mapping_of_it_is_in_the_table(show: Callable[..., Shown], running: tuple[int, int]) -> None:
    pid, address = running
    seen = stead.capture(pid)
    shown = show(seen)
    shown.page.click("#as-table")
    [process] = seen["processes"]
    expected = [each["start"] for each in process["mappings"]]
    found = []
    while True:
        found += [row[0] for row in shown.rows()]
        if shown.page.is_disabled("#after"):
            break
        shown.page.click("#after")
    assert found == expected
    assert hex(address) in shown.find(hex(address))


def test_pages_that_it_has_touched_are_solid(show: Callable[..., Shown], running: tuple[int, int]) -> None:
    pid, address = running
    seen = stead.capture(pid)
    [where] = [each for each in seen["processes"][0]["mappings"] if int(each["start"], 16) == address]
    if where["pages"] is None:
        pytest.skip("this kernel does not tell which pages are in memory")
    resident = {
        first + number for first, count, state in where["pages"] if state == "resident" for number in range(count)
    }
    assert {0, 1, 5} <= resident
    shown = show(seen)
    shown.go(address, address + 8 * 4096)
    colors = [shown.color(330, (page + 0.5) / 8) for page in range(8)]
    if resident.issuperset(range(8)):  # huge pages come whole
        assert len(set(colors)) == 1
    else:
        tint = next(colors[page] for page in range(8) if page not in resident)
        assert [each != tint for each in colors] == [page in resident for page in range(8)]
