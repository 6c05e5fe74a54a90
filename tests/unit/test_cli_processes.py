"""Every command that looks at a process, at one that cannot be looked at: one line that says why, and exit 1."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import stead
from conftest import need
from others import NOBODY, need_root, other, run
from running import refused, stead_runs
from stead import residency

if TYPE_CHECKING:
    from collections.abc import Iterator

MISSING = 1 << 30  # above the largest pid_max


@pytest.fixture(autouse=True, scope="module")
def _needs() -> None:
    need("click")
    need("rich")


COMMANDS = ["show", "show --all", "show --json", "why", "why --json", "find", "budget", "budget --json", "record"]


def arguments(command: str, pid: int, folder: Path) -> list[str]:
    """Of a command that is given a process."""
    name, *options = command.split()
    before = {"why": ["0x480000000000"], "find": ["--size", "1 MiB"]}.get(name, [])
    after = ["--seconds", "0.0", "-o", str(folder / "recording")] if name == "record" else []
    return [name, *before, str(pid), *options, *after]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_process_that_does_not_exist(command: str, tmp_path: Path) -> None:
    refused(stead_runs(*arguments(command, MISSING, tmp_path)), f"there is no process {MISSING}")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_process_that_has_ended_and_is_not_waited_for(command: str, tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        refused(stead_runs(*arguments(command, ended.pid, tmp_path)), "has no address space")


def kernel_thread() -> int:
    try:
        if Path("/proc/2/comm").read_text() == "kthreadd\n":
            return 2
    except OSError:
        pass
    pytest.skip("no kernel thread to see from here")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_kernel_thread(command: str, tmp_path: Path) -> None:
    result = stead_runs(*arguments(command, kernel_thread(), tmp_path))
    if "not allowed" in result.stderr:
        refused(result, "not allowed to look at process 2")
    else:
        refused(result, "process 2 (kthreadd) has no address space")


@pytest.mark.parametrize("command", COMMANDS)
def test_process_1(command: str, tmp_path: Path) -> None:
    try:
        stead.snapshot(1)
    except PermissionError:
        refused(stead_runs(*arguments(command, 1, tmp_path)), "not allowed to look at process 1")
        return
    result = stead_runs(*arguments(command, 1, tmp_path))
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_a_process_that_ends_before_its_maps_are_read(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with other("say(1)\nhear()") as child:
        child.hear()
        read = sys.modules["stead.snapshot"].read_mappings

        def kill_and_read(pid: int | None = None) -> Any:
            child.process.kill()
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            return read(pid)

        for module in ("stead.snapshot", "stead.seeing.capture"):
            monkeypatch.setattr(sys.modules[module], "read_mappings", kill_and_read)
        refused(stead_runs(*arguments(command, child.pid, tmp_path)), "has no address space")


@pytest.mark.parametrize("command", ["show", "show --json", "why", "record"])
def test_a_process_that_ends_between_its_maps_and_its_pages(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with other("say(1)\nhear()") as child:
        child.hear()

        def kill_and_read(*arguments: Any) -> Any:
            child.kill()
            return residency.read_pages(*arguments)

        monkeypatch.setattr(sys.modules["stead.seeing.capture"], "read_pages", kill_and_read)
        refused(stead_runs(*arguments(command, child.pid, tmp_path)), f"process {child.pid} ended while it was")


@pytest.fixture
def somebody_elses(tmp_path: Path) -> Iterator[int]:
    with other("say(1)\nhear()") as child:
        child.hear()
        yield child.pid


def test_a_process_of_another_user(somebody_elses: int, tmp_path: Path) -> None:
    need_root()
    tmp_path.chmod(0o777)
    each = [arguments(command, somebody_elses, tmp_path) for command in COMMANDS]
    mine = [arguments(command, 0, tmp_path) for command in COMMANDS]
    text = f"""
from click.testing import CliRunner
from stead.cli import commands

def outcome(line):
    done = CliRunner().invoke(commands(), line, env={{"COLUMNS": "80"}})
    return done.exit_code, done.stdout, done.stderr

# All that they import, while the files can be read.
before = [outcome([part if part != "0" else str(os.getpid()) for part in line]) for line in {mine!r}]
become({NOBODY})
say((before, [outcome(line) for line in {each!r}]))
"""
    before, found = run(text)
    assert [code for code, _, _ in before] == [0] * len(COMMANDS)
    for command, (code, out, errors) in zip(COMMANDS, found, strict=True):
        assert (code, out) == (1, ""), command
        assert errors == f"Error: not allowed to look at process {somebody_elses}\n", command
