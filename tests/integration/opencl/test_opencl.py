"""Real kernels on real devices, in memory of this process at its own addresses."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import stead
from conftest import need
from integration.opencl import kernels, programs
from integration.opencl.conftest import Worker
from stead.devices.constraints import EVERYWHERE, DeviceConstraints

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


numpy = pytest.importorskip("numpy")


@pytest.mark.parametrize(
    "program",
    [
        programs.reads_and_writes,
        programs.sees_the_hosts_addresses,
        programs.argument_holds_its_memory,
        programs.walks_and_changes_a_list,
        programs.walks_and_changes_a_tree,
        programs.builds_a_list,
        programs.adds_in_threads,
    ],
    ids=lambda program: program.__name__,
)
def test_a_kernel(device: Worker, program: Callable[[], None]) -> None:
    device(program)


def test_a_running_kernel_and_the_host_speak_to_each_other(device: Worker) -> None:
    if "ATOMICS" not in device(programs.capabilities):
        pytest.skip("the device has no atomics that the host sees")
    device(programs.answers_while_it_runs)


# ---- two processes --------------------------------------------------------------------------------


def test_kernels_in_two_processes_follow_the_same_pointers(
    device: Worker, another: Worker, heap: stead.SharedHeap
) -> None:
    with heap.block("64 KiB") as block:
        head = device(programs.build_in, block, 1000)
        assert another(programs.walk_in, block, head) == (sum(range(1000)), [2 * i for i in reversed(range(1000))])
        # What one has changed the other sees, and so does this process, which has no device at all.
        total, values = device(programs.walk_in, block, head)
        assert total == 2 * sum(range(1000))
        assert programs.values_from(head) == values == [4 * i for i in reversed(range(1000))]


def test_kernels_in_two_processes_add_to_one_counter(
    device: Worker, another: Worker, heap: stead.SharedHeap
) -> None:
    if "ATOMICS" not in device(programs.capabilities):
        pytest.skip("the device has no atomics beyond itself")
    counter = heap.array(1, "int32")
    counter[0] = 0
    for each in (device, another):
        each.begin(programs.add_often, counter, 10)
    for each in (device, another):
        each.result()
    assert counter[0] == 2 * 10 * 1000


# ---- limits ---------------------------------------------------------------------------------------


def test_an_arena_stays_in_reach_of_a_limited_device_beside_it(device: Worker, tmp_path: Path) -> None:
    (tmp_path / "boards.toml").write_text(
        '[[device]]\nname = "fpga0"\naddress-bits = 32\ngranularity = "64 KiB"\nalignment = "4 MiB"\n'
    )
    where = stead.Range(*device(programs.stays_in_reach_of, DeviceConstraints.read(tmp_path / "boards.toml")))
    assert where.stop <= 1 << 32
    assert where.start % (4 << 20) == 0


def test_what_the_device_asks_of_a_place(device: Worker) -> None:
    made = device(programs.constraints)
    assert made.kind == "OpenCL"
    assert made.window == EVERYWHERE
    assert made.alignment >= 16
    assert made.source.startswith("the OpenCL driver of ")


def test_an_argument_out_of_reach_is_refused(device: Worker) -> None:
    said = device(programs.refuses_what_is_out_of_reach)
    assert "needs addresses that '" in said
    assert "and fpga0' reaches; found: 32 bits of addresses" in said


# ---- refusals -------------------------------------------------------------------------------------


def test_what_is_no_argument_is_said(device: Worker) -> None:
    said = device(programs.refusals)
    kinds = ["ValueError", "ValueError", *["TypeError"] * 7, "ValueError", "ValueError", "TypeError", "ValueError"]
    assert [kind for kind, _ in said] == kinds
    assert said[0][1] == "memory is 0x5, where no reservation of this process has memory committed"
    assert said[2][1].startswith(
        "memory is 'here', must be a writable, contiguous buffer or an address: it is neith"
    )
    assert said[5][1] == "memory is True, must be a buffer or an address"
    assert said[6][1].endswith("must be a writable, contiguous buffer or an address: it is read-only")
    assert said[7][1].endswith("must be a writable, contiguous buffer or an address: it is not contiguous")
    assert said[11][1].startswith("memory is <Reservation ")


def test_a_device_that_does_not_say_that_it_shares_is_refused_where_that_counts(
    device: Worker, platform: str
) -> None:
    said = device(programs.insists_on_what_is_said)
    if device(programs.evidence) == "declared":
        assert said == "declared"
    else:
        assert "needs a device that shares system memory (CL_DEVICE_SVM_FINE_GRAIN_SYSTEM); found: coarse" in said
        assert said.endswith("(only what it says was to count)")
    if platform == "intel-opencl-rt":
        assert said == "declared"


def test_a_driver_that_ends_its_process_ends_no_more_than_the_trial(
    device: Worker, platform: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if device(programs.evidence) == "declared":
        pytest.skip("it says what it does, and is not tried")
    # PoCL's kernels are linked by `ld`, which it looks for in PATH; without one it aborts.
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("POCL_CACHE_DIR", str(tmp_path))
    worker = Worker(platform)
    try:
        said = worker(programs.tries_in_vain)
        assert said.startswith("sharing the addresses of this process with ")
        assert "fine-grained buffers, atomics (a trial ended with signal 6: " in said
        assert worker(kernels.has_device)
    finally:
        worker.end()


def test_without_a_target_it_is_the_first_device_that_shares(device: Worker) -> None:
    evidence, same = device(programs.without_a_target)
    assert evidence == device(programs.evidence)
    assert same


def test_devices_by_number(device: Worker) -> None:
    [made] = device(programs.by_number, 0)
    assert made.kind == "OpenCL"
    with pytest.raises(ValueError, match=r"^device is 'opencl:99', must be one of opencl:0 \(.+\)"):
        device(programs.by_number, 99)


def test_no_driver_at_all_is_said_in_one_line(tmp_path: Path) -> None:
    need("pyopencl")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import stead.devices.opencl as o\ntry: o.devices()\nexcept Exception as e: print(repr(e))",
        ],
        env={**os.environ, "OCL_ICD_VENDORS": str(tmp_path / "none")},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stderr == ""
    assert (
        "Unsupported(\"OpenCL needs a driver, such as that of `pip install 'pyopencl[pocl]'`; found: "
        in done.stdout
    )
