"""In processes that run under a sanitizer: AddressSanitizer has its own places, and ThreadSanitizer answers a
mapping outside of a few by ending the process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from conftest import need

UNDER_ASAN = """
import stead
from stead.testing import check_address_space
print(stead.this_process()._kernel.sanitizer, len(check_address_space(stead.this_process)))
"""

UNDER_TSAN = """
import stead
space = stead.this_process()
print(space._kernel.sanitizer, *map(hex, space.windows[0]))
with stead.reserve("8 GiB") as r:
    with r.commit(0, 4096, backing="shared") as view:
        view[:5] = b"stead"
        print(space.windows[0].contains(r.range), bytes(view[:5]))
    r.decommit()
for arguments in ({"size": "1 TiB"}, {"size": 4096, "within": (1 << 46, 1 << 47)}, {"size": 4096, "at": 1 << 46}):
    try:
        stead.reserve(**arguments)
    except (stead.NoGap, stead.Occupied) as error:
        print(type(error).__name__)
"""


def run_under(library: str, code: str, *before: str, options: str) -> list[str]:
    need("cc")
    found = subprocess.run(
        ["cc", f"-print-file-name={library}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not os.path.isabs(found):
        pytest.skip(f"the compiler has no {library}")
    environment = {**os.environ, "LD_PRELOAD": found, "ASAN_OPTIONS": options, "TSAN_OPTIONS": options}
    done = subprocess.run(
        [*before, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        check=False,
    )
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("this sanitizer does not run on this kernel")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_conformance_kit_passes_under_address_sanitizer() -> None:
    assert run_under("libasan.so", UNDER_ASAN, options="detect_leaks=0") == ["address", "18"]


def test_reservations_stay_where_thread_sanitizer_lets_them() -> None:
    if not shutil.which("setarch") or subprocess.run(["setarch", "-R", "true"], check=False).returncode:
        pytest.skip("cannot switch address randomization off")
    answers = run_under("libtsan.so", UNDER_TSAN, "setarch", "-R", options="report_bugs=0")
    assert answers == [
        "thread", "0x1000000000", "0x2000000000", "True", "b'stead'", "NoGap", "NoGap", "Occupied",
    ]  # fmt: skip
