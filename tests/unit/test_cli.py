"""The command line as its users meet it: exit codes, one line for each refusal, 80 columns, JSON."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import stead
from conftest import need
from running import PROGRAM, refused, stead_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stead.maps import Mapping

PAGE = os.sysconf("SC_PAGESIZE")


@pytest.fixture(autouse=True, scope="module")
def _needs() -> None:
    need("click")
    need("rich")


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """Another process, which lives until the test ends."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"?\n")
        process.stdin.flush()
        process.stdout.readline()  # by now it has become what it will be
        yield process
        process.kill()


# ---- the program ----------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_click_or_rich_it_says_what_to_install(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from stead.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "show"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "stead's command line needs click and rich: pip install 'stead[cli]'\n"


def test_the_module_is_cheap_for_those_who_only_import_it() -> None:
    """Spawned workers import it, with the program that started them."""
    code = "import sys, stead.cli; print([name for name in ('click', 'rich') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_help_names_every_command() -> None:
    output = stead_runs("--help").output
    for command in ("show", "find", "doctor", "demo"):
        assert re.search(rf"^  {command} ", output, re.MULTILINE)


@pytest.mark.parametrize("command", [["show"], ["find", "--size", "1GiB"]])
def test_a_process_that_does_not_exist(command: list[str]) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    refused(stead_runs(*command, str(process.pid)), f"there is no process {process.pid}")
    refused(stead_runs(*command, str(1 << 40)), "there is no process")


def test_a_missing_process_in_a_real_run() -> None:
    done = subprocess.run([*PROGRAM, "show", "999999999"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: there is no process 999999999\n"


def replace_maps(monkeypatch: pytest.MonkeyPatch, read: Callable[[int | None], list[Mapping]]) -> None:
    for module in ("stead.snapshot", "stead.seeing.capture"):
        monkeypatch.setattr(sys.modules[module], "read_mappings", read)


def test_a_refused_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int | None) -> list[Mapping]:
        raise PermissionError(errno.EACCES, f"not allowed to look at process {pid}")

    replace_maps(monkeypatch, refuse)
    refused(stead_runs("show", "1"), "not allowed to look at process 1")
    refused(stead_runs("find", "1", "--size", "4096"), "not allowed to look at process 1")


def test_maps_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int | None) -> list[Mapping]:
        raise stead.UnreadableMaps(7, "5555 r-xp", "it is not of the form of proc_pid_maps(5)")

    replace_maps(monkeypatch, refuse)
    refused(stead_runs("show"), "line 7 of the maps cannot be read")


@pytest.fixture
def zombie() -> Iterator[int]:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        yield process.pid


def test_a_process_without_an_address_space(zombie: int) -> None:
    for command in (["show"], ["show", "--json"], ["find", "--size", "4096"]):
        refused(stead_runs(*command, str(zombie)), "has no address space")


@pytest.mark.parametrize(
    ("arguments", "option", "says"),
    [
        (["show", "x"], "PID", "'x' is not a valid integer"),
        (["show", "0"], "PID", "pid is 0, must be positive"),
        (["find"], "--size", "Missing option"),
        (["find", "--size", "4 parsecs"], "--size", "size is '4 parsecs'"),
        (["find", "--size", "0"], "--size", "size is 0, must be at least 1 byte"),
        (["find", "--size", "1GiB", "--align", "3"], "--align", "align is 0x3, must be a power of two"),
        (["find", "--size", "1GiB", "--align", "2TiB"], "--align", "must be at most 1 TiB"),
        (["find", "--size", "1GiB", "--within", "here"], "--within", "within is 'here'"),
        (["find", "--size", "1GiB", "--within", "0x2000-0x1000"], "--within", "stops after its start"),
        (["find", "--size", "1GiB", "--guard", "some"], "--guard", "guard is 'some'"),
        (["find", "--size", "1GiB", "--prefer", "middle"], "--prefer", "'middle' is not one of"),
        (["demo", "/nowhere/at/all"], "FOLDER", "'/nowhere/at/all' does not exist"),
        (["demo", "--workers", "0"], "--workers", "0 is not in the range"),
        (["demo", "--queries", "-1"], "--queries", "-1 is not in the range"),
    ],
)
def test_wrong_arguments_are_usage_errors_that_name_them(arguments: list[str], option: str, says: str) -> None:
    result = stead_runs(*arguments)
    assert result.exit_code == 2
    assert option in result.stderr
    assert says in result.stderr


# ---- show -----------------------------------------------------------------------------------------


def test_show_another_process(child: subprocess.Popen[bytes]) -> None:
    result = stead_runs("show", str(child.pid))
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    count = len(stead.snapshot(child.pid).mappings)
    assert lines[0] == f"cat · pid {child.pid} · {count} mappings"
    assert re.fullmatch(r"mapped .+ = reserved .+ \+ committed .+ · resident .+", lines[1])
    assert "[heap]" in result.stdout
    assert "[stack]" in result.stdout
    assert re.search(r"╌ free +\d", result.stdout)


def test_show_itself_fits_a_screen_and_all_shows_every_mapping() -> None:
    folded = stead_runs("show").stdout.splitlines()
    assert len(folded) <= 40
    everything = stead_runs("show", "--all").stdout.splitlines()
    assert len(everything) > int(everything[0].split("·")[2].split()[0].replace(",", ""))


def test_show_names_our_own() -> None:
    with stead.reserve("64 GiB", name="pool of mine") as held:
        held.commit(0, "1 MiB", backing="shared").release()
        shown = stead_runs("show", "--all", COLUMNS="120").stdout
    lines = [line for line in shown.splitlines() if "ours" in line]
    assert any(line.startswith(f"{held.address:#014x}") and "1 MiB" in line for line in lines)
    assert any("---p" in line and "pool of mine" in line for line in lines)


def test_show_as_json() -> None:
    with stead.reserve("64 GiB", name="pool") as held:
        data = json.loads(stead_runs("show", "--json").stdout)
    assert data["schema"] == "stead.snapshot/1"
    [process] = data["processes"]
    assert process["pid"] == os.getpid()
    ours = [each for each in process["mappings"] if each["kind"] == "ours"]
    assert [hex(edge) for edge in held.range] in [[each["start"], each["stop"]] for each in ours]


def test_a_pipe_gets_no_escapes_and_no_more_than_80_columns() -> None:
    environment = {**os.environ, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"}
    for arguments in (["show"], ["show", "--all"], ["doctor"], ["find", "--size", "1 GiB", "--within", "1-1 PiB"]):
        done = subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, check=True, env=environment)
        assert "\x1b" not in done.stdout
        assert max(map(len, done.stdout.splitlines())) <= 80


def test_plain_ascii_where_the_terminal_takes_no_more(child: subprocess.Popen[bytes]) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
    for arguments in (["show"], ["show", "--all"], ["find", "--size", "1TiB"], ["doctor"]):
        target = [] if arguments[0] == "doctor" else [str(child.pid)]
        done = subprocess.run([*PROGRAM, *arguments, *target], capture_output=True, check=True, env=environment)
        assert done.stdout.isascii()
        assert b"\\u" not in done.stdout


# ---- find -----------------------------------------------------------------------------------------


def test_what_find_says_can_be_had() -> None:
    data = json.loads(stead_runs("find", "--size", "64 GiB", "--align", "1 GiB", "--json").stdout)
    assert data["fits"] is True
    start, stop = data["range"]
    assert stop - start == 64 << 30
    assert start % (1 << 30) == 0
    assert data["placement"]["within"] == list(stead.this_process().windows[0])
    with stead.reserve("64 GiB", at=start) as held:
        assert held.range == (start, stop)


@pytest.mark.parametrize(("prefer", "place"), [("low", 0), ("high", -1)])
def test_find_in_a_window_with_something_in_the_way(prefer: str, place: int) -> None:
    with stead.reserve("8 MiB") as held:
        held.commit("2 MiB", "1 MiB").release()
        low, high = held.range
        held_window = f"{low:#x}-{high:#x}"
        result = stead_runs("find", "--size", "1 MiB", "--within", held_window)
        assert result.exit_code == 1
        assert result.stdout.startswith("1 MiB does not fit")
        assert re.search(r"largest gap +none", result.stdout)
        assert re.search(r"in the way +3 mappings:", result.stdout)
        assert "ours" in result.stdout

        data = json.loads(stead_runs("find", "--size", "4096", "--within", held_window, "--json").stdout)
        assert data["fits"] is False
        assert data["range"] is data["largest_gap"] is None
        sizes = [stop - start for start, stop in (each["range"] for each in data["in_the_way"])]
        assert sizes == sorted(sizes, reverse=True)
        assert sum(sizes) == 8 << 20

        around = [low - (1 << 30), high + (1 << 30)]
        wide = f"{around[0]:#x}-{around[1]:#x}"
        arguments = ["--size", "1 MiB", "--within", wide, "--prefer", prefer, "--guard", "1 MiB", "--json"]
        data = json.loads(stead_runs("find", *arguments).stdout)
        assert data["range"][place] == around[place] + (1 << 20 if prefer == "low" else -(1 << 20))


def test_find_counts_what_it_does_not_list() -> None:
    with stead.reserve("1 MiB") as held:
        for page in range(0, 30, 2):
            held.commit(page * PAGE, PAGE).release()
        result = stead_runs("find", "--size", "1 MiB", "--within", f"{held.address:#x}-{held.range.stop:#x}")
        assert "in the way   30 mappings, the largest:" in result.stdout
        assert len([line for line in result.stdout.splitlines() if line.startswith("0x")]) == 10
        assert result.stdout.endswith("and 20 more\n")


def test_find_in_another_process_keeps_clear_of_its_stack_and_heap(child: subprocess.Popen[bytes]) -> None:
    mappings = stead.snapshot(child.pid).mappings
    for name, side in (("[stack]", 0), ("[heap]", 1)):
        edge = next(each.range for each in mappings if each.name == name)[side]
        window = f"{edge - PAGE:#x}-{edge:#x}" if side == 0 else f"{edge:#x}-{edge + PAGE:#x}"
        result = stead_runs("find", str(child.pid), "--size", "4096", "--within", window)
        assert result.exit_code == 1
        assert f"for the {name[1:-1]} to grow" in result.stdout
        assert f"process {child.pid} (cat)" in result.stdout


def test_find_more_than_there_is() -> None:
    result = stead_runs("find", "--size", "1 EiB")
    assert result.exit_code == 1
    assert re.search(r"largest gap +0x", result.stdout)


# ---- doctor ---------------------------------------------------------------------------------------

FEATURES = {
    "MAP_FIXED_NOREPLACE", "PROCMAP_QUERY", "memfd_create", "MFD_NOEXEC_SEAL", "fallocate on a memfd",
    "named anonymous memory", "MADV_DONTDUMP", "MADV_POPULATE_WRITE", "MADV_GUARD_INSTALL",
    "huge pages, anonymous", "huge pages, shared", "huge pages, explicit", "/proc/<pid>/fd", "free of sanitizers",
}  # fmt: skip
LIMITS = {
    "RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_STACK", "RLIMIT_NOFILE", "vm.max_map_count", "vm.overcommit_memory",
    "vm.mmap_min_addr", "addresses", "address randomization", "cgroup memory", "memory available",
}  # fmt: skip


def test_doctor_as_json() -> None:
    data = json.loads(stead_runs("doctor", "--json").stdout)
    assert {each["name"] for each in data["features"]} == FEATURES
    assert {each["name"] for each in data["limits"]} == LIMITS
    for each in data["features"]:
        assert each.keys() == {"name", "present", "found", "absence"}
        assert isinstance(each["present"], bool)
        assert each["found"]
        assert each["absence"]
    for each in data["limits"]:
        assert each.keys() == {"name", "value", "used", "text"}
    assert data["page_size"] == PAGE
    assert data["address_bits"] == (stead.this_process().usable.stop - 1).bit_length()


def test_doctor_in_80_columns() -> None:
    output = stead_runs("doctor").stdout
    assert max(map(len, output.splitlines())) <= 80
    for name in FEATURES | LIMITS:
        assert name in output


def test_doctor_finds_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, flags: int = 0) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "memfd_create", refuse)
    found = {each["name"]: each for each in json.loads(stead_runs("doctor", "--json").stdout)["features"]}
    for name in ("memfd_create", "MFD_NOEXEC_SEAL", "fallocate on a memfd"):
        assert found[name]["present"] is False
        assert found[name]["found"] == os.strerror(errno.ENOSYS)
    assert found["MADV_DONTDUMP"]["present"] is True


def test_a_reader_that_has_seen_enough() -> None:
    """`stead show --all | head -1` ends without a traceback."""
    process = subprocess.Popen([*PROGRAM, "show", "--all"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait() in (0, 1, -signal.SIGPIPE)
    assert b"Traceback" not in errors
