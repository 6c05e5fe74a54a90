"""The probe, on CUDA's double: each question in this process, where the double can be told what to do; and all of
them as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from stead.devices import probe
from stead.devices.asking import QUESTIONS
from stead.devices.cuda import CudaDriver
from stead.devices.driver import DriverError
from stead.space.process import this_process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from doubles import CudaDouble


@pytest.fixture
def double(cuda_double: CudaDouble) -> Iterator[CudaDouble]:
    """After each question, nothing is left of what it took."""
    yield cuda_double
    assert not cuda_double.holds()


def ask(name: str, device: int = 0) -> dict[str, Any]:
    return QUESTIONS[name](CudaDriver(), device)


def test_what_the_host_holds_the_driver_evades(double: CudaDouble) -> None:
    found = ask("host-first")
    assert found["answer"] == "yes"
    assert int(found["the driver went to"], 16) % (2 << 20) == 0


def test_what_the_driver_holds_is_seen_and_respected(double: CudaDouble) -> None:
    found = ask("driver-first")
    assert found["answer"] == "visible, respected"
    assert len(found["lines of the maps"]) == 1
    assert found["lines after it was given back"] == []


def test_hints_that_are_followed_are_counted(double: CudaDouble) -> None:
    window = this_process().windows[1]
    double.move(-1, within=window)
    found = ask("hints")
    assert found["hints are followed at multiples of"] == 32 << 20
    in_the_window = [each for place, each in found.items() if f" in {window}" in place]
    assert len(in_the_window) == 8
    for each in in_the_window:
        assert each["exactly there"] == 0
        assert each["elsewhere"] >= len(each["such as"]) > 0
    told, _, untold = found["answer"].removeprefix("exactly there: ").partition(", ")
    exact, tried = map(int, told.removesuffix(" at multiples of 32 MiB").split(" of "))
    assert 0 < exact < tried
    fewer, tried_too = map(int, untold.removesuffix(" at multiples of 2 MiB").split(" of "))
    assert 0 < fewer < exact
    assert tried_too > 0


def test_holes_in_what_is_there_go_first(double: CudaDouble) -> None:
    found = ask("holes")
    assert found["2 MiB"]["exactly there"] == 0
    whole = found["32 MiB"]
    assert whole["exactly there"] > 10 * whole["elsewhere"]  # something of this process may be in the way of one
    assert found["answer"].startswith("exactly there, of 2 MiB: 0 of ")


def test_the_largest_reservation_is_one_that_fits(double: CudaDouble) -> None:
    driver = CudaDriver()
    size = ask("largest")["bytes"]
    driver.free(driver.reserve(size, 0, 0), size)
    with pytest.raises(DriverError):
        driver.reserve(size + (1 << 40), 0, 0)


def test_a_granularity_that_is_refused_says_why(double: CudaDouble) -> None:
    double.set(0, host_located=False)
    found = ask("granularity")
    assert found["answer"] == [2 << 20, 2 << 20]
    assert "CUDA_ERROR_NOT_SUPPORTED" in found["NUMA node 0 of the host"]


def test_memory_takes_no_context(double: CudaDouble) -> None:
    assert ask("contexts") == {
        "done": "reserved, created, mapped, allowed and gave all back, with no context",
        "answer": "no",
        "the primary context was made by it": False,
    }


@pytest.mark.parametrize("call", ["cuMemMap", "cuMemSetAccess", "cuMemCreate"])
def test_a_refusal_in_the_middle_leaves_nothing(double: CudaDouble, call: str) -> None:
    double.refuse(call, 201)
    with pytest.raises(DriverError, match=f"{call} answered CUDA_ERROR_INVALID_CONTEXT"):
        ask("contexts")


def test_pools_that_are_refused_say_why(double: CudaDouble) -> None:
    found = ask("pools")
    assert "the context" in found["answer"]
    assert len(found["refused"]) == 2
    assert "cuMemAllocAsync answered CUDA_ERROR_NOT_SUPPORTED" in found["refused"][0]


@pytest.mark.parametrize("name", ["registered", "pageable", "host-located"])
def test_without_kernels_it_says_so(double: CudaDouble, name: str) -> None:
    assert ask(name)["the kernel"] == "no kernels on this driver"


@pytest.mark.parametrize(("kernels", "seen"), [(False, 40), (True, 42)])
@pytest.mark.parametrize("device", [0, 1])
def test_registered_memory_keeps_its_address(double: CudaDouble, kernels: bool, seen: int, device: int) -> None:
    double.set_kernels(kernels)
    found = ask("registered", device)
    assert (found["answer"], found["the host sees"]) == ("yes", seen)


def test_registered_memory_that_is_elsewhere_on_the_device(double: CudaDouble) -> None:
    double.set(0, registered_at_host_address=False)
    double.set_kernels(True)
    found = ask("registered")
    assert found["answer"].startswith("no: 0x")
    assert (found["the host sees"], found["the driver says"]) == (42, False)


def test_a_device_that_reaches_ordinary_memory(double: CudaDouble) -> None:
    double.set(0, reaches_pageable=True)
    double.set_kernels(True)
    found = ask("pageable")
    assert (found["answer"], found["the host sees"], found["the kernel"]) == ("yes", 42, "done")


def test_a_device_that_does_not_is_at_fault(double: CudaDouble) -> None:
    double.set_kernels(True)
    found = ask("pageable")
    assert (found["answer"], found["the host sees"]) == ("no", 40)
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in found["the kernel"]


def test_host_located_memory_is_at_one_address(double: CudaDouble) -> None:
    double.set_kernels(True)
    found = ask("host-located")
    assert (found["answer"], found["the host sees"]) == ("yes", [42, "0x7070707"])


def test_a_descriptor_is_described(double: CudaDouble) -> None:
    assert ask("exported")["answer"].startswith("close-on-exec; /memfd:device memory")


# ---- as a user runs it ----


def run(library: CudaDouble, *arguments: str, devices: int = 2) -> subprocess.CompletedProcess[str]:
    """The double is where the linker looks: no preloading in that process, nor in those that it starts."""
    found = {"LD_LIBRARY_PATH": str(library.path.parent), "STEAD_DOUBLE_DEVICES": str(devices)}
    command = [sys.executable, "-m", "stead.devices.probe", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, env={**os.environ, **found})


def test_it_answers_every_question(cuda_library: CudaDouble) -> None:
    found = run(cuda_library, "--device", "1", "--seconds", "240")
    assert (found.returncode, found.stderr) == (0, "")
    report = json.loads(found.stdout)
    assert report["driver"]["cuda"] == "12.8"
    assert [each["name"] for each in report["devices"]] == ["Double 0", "Double 1"]
    assert report["device"] == 1
    assert set(report["answers"]) == set(QUESTIONS)
    for answer in report["answers"].values():
        assert answer["question"].endswith("?")
        assert answer["answer"], answer


def test_one_question(cuda_library: CudaDouble) -> None:
    found = run(cuda_library, "--only", "granularity")
    assert json.loads(found.stdout)["answer"] == [2 << 20, 2 << 20]


def test_a_question_that_is_refused_is_answered_with_why(cuda_library: CudaDouble) -> None:
    found = run(cuda_library, "--only", "contexts", "--device", "7")
    assert found.returncode == 0
    assert json.loads(found.stdout)["answer"] is None
    assert "CUDA_ERROR_INVALID_DEVICE" in json.loads(found.stdout)["why"]


def test_without_time_nothing_is_asked(cuda_library: CudaDouble) -> None:
    report = json.loads(run(cuda_library, "--seconds", "0").stdout)
    assert {each["why"] for each in report["answers"].values()} == {"no time was left"}


@pytest.mark.parametrize(
    ("arguments", "devices", "says"),
    [((), 0, "CUDA_ERROR_NO_DEVICE"), (("--device", "2"), 2, "device is 2, must be below 2")],
)
def test_without_a_device_it_is_one_line_and_exit_1(
    cuda_library: CudaDouble, arguments: tuple[str, ...], devices: int, says: str
) -> None:
    found = run(cuda_library, *arguments, devices=devices)
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.count("\n") == 1
    assert says in found.stderr


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "the process died of SIGSEGV"),
        ("import sys; sys.exit('it broke')", "it broke"),
        ("import sys; sys.exit(3)", "exit 3, without a word"),
        ("input()", "no answer within 1 s"),
    ],
)
def test_a_question_that_kills_its_process_is_only_that_ones_loss(
    monkeypatch: pytest.MonkeyPatch, program: str, why: str
) -> None:
    silent, other_end = os.pipe()
    real = subprocess.run

    def instead(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        return real([sys.executable, "-S", "-c", program], **options, stdin=silent)

    monkeypatch.setattr(subprocess, "run", instead)
    left = 1.0 if "no answer" in why else 100.0
    found = probe._asked("hints", 0, left)
    os.close(silent)
    os.close(other_end)
    assert (found["answer"], found["why"]) == (None, why)
