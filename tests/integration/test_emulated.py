"""On a kernel that is not Linux: QEMU's user mode emulates system calls, has no PROCMAP_QUERY, and up to QEMU 8.0
takes MAP_FIXED_NOREPLACE as a hint. So the way of older kernels runs for real."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from conftest import need

CODE = """
import stead
from stead.testing import check_address_space
print(stead.this_process().manner, len(check_address_space(stead.this_process)))
with stead.reserve("1 GiB") as r:
    try:
        stead.reserve("1 MiB", at=r.address)
    except stead.Occupied as error:
        print("stead" in error.by.owner)
    window = (r.outer.stop, r.outer.stop + (16 << 20))
    held = [stead.reserve("1 MiB", within=window, prefer="low") for _ in range(16)]
    print(len({each.address for each in held}))
    try:
        stead.reserve("1 MiB", within=window)
    except stead.NoGap:
        print("full")
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="QEMU is asked to emulate x86-64")
def test_the_conformance_kit_passes_in_an_emulator() -> None:
    need("qemu-x86_64")
    done = subprocess.run(
        ["qemu-x86_64", sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    manner, *rest = done.stdout.split()
    assert manner in ("ignored", "exact")
    assert rest == ["18", "True", "16", "full"]
