"""The command line as its users meet it: exit codes, one line for each refusal, 80 columns, JSON."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stead
from conftest import need
from stead import cli
from stead.maps import Kind, Mapping, mapping
from stead.ranges import Range
from stead.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result

PAGE = os.sysconf("SC_PAGESIZE")
USABLE = Range(0x10000, (1 << 47) - PAGE)
PROGRAM = [sys.executable, "-c", "from stead.cli import main; main()"]


@pytest.fixture(autouse=True, scope="module")
def _needs() -> None:
    need("click")
    need("rich")


def stead_runs(*arguments: str, **environment: str) -> Result:
    from click.testing import CliRunner

    return CliRunner().invoke(cli.commands(), arguments, env={"COLUMNS": "80", **environment})


def refused(result: Result, says: str) -> None:
    """One line on stderr that says why, nothing on stdout, exit 1."""
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert says in result.stderr


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


def test_a_refused_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int | None) -> Snapshot:
        raise PermissionError(errno.EACCES, f"not allowed to look at process {pid}")

    monkeypatch.setattr(cli, "snapshot", refuse)
    refused(stead_runs("show", "1"), "not allowed to look at process 1")
    refused(stead_runs("find", "1", "--size", "4096"), "not allowed to look at process 1")


def test_maps_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int | None) -> Snapshot:
        raise stead.UnreadableMaps(7, "5555 r-xp", "it is not of the form of proc_pid_maps(5)")

    monkeypatch.setattr(cli, "snapshot", refuse)
    refused(stead_runs("show"), "line 7 of the maps cannot be read")


@pytest.fixture
def zombie() -> Iterator[int]:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        yield process.pid


def test_a_process_without_an_address_space(zombie: int) -> None:
    result = stead_runs("show", str(zombie))
    assert result.exit_code == 0
    assert f"pid {zombie} · 0 mappings" in result.stdout
    assert "no address space" in result.stdout
    refused(stead_runs("find", str(zombie), "--size", "4096"), "has no address space")
    refused(stead_runs("show", "--json", str(zombie)), "has no address space")


def test_a_kernel_thread() -> None:
    try:
        with open("/proc/2/comm") as file:
            name = file.read().strip()
    except OSError:
        pytest.skip("no process 2 here")
    if name != "kthreadd":
        pytest.skip("process 2 is no kernel thread here")
    result = stead_runs("show", "2")
    if result.exit_code == 0:
        assert "kthreadd · pid 2 · 0 mappings" in result.stdout
        assert "no address space" in result.stdout
    else:
        refused(result, "not allowed to look at process 2")


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
    assert re.fullmatch(r"mapped .+ = reserved .+ \+ usable .+", lines[1])
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


def test_no_color_in_a_terminal() -> None:
    from rich.console import Console

    from stead.view.text import print_snapshot

    for environment, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        file = io.StringIO()
        console = Console(
            file=file, force_terminal=True, color_system="truecolor", width=80,
            _environ={"TERM": "xterm", **environment},
        )  # fmt: skip
        print_snapshot(console, stead.snapshot(), USABLE)
        assert bool(re.search(r"\x1b\[[0-9;]*3[0-7][;m]", file.getvalue())) is coloured


def test_plain_ascii_where_the_terminal_takes_no_more(child: subprocess.Popen[bytes]) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
    for arguments in (["show"], ["show", "--all"], ["find", "--size", "1TiB"], ["doctor"]):
        target = [] if arguments[0] == "doctor" else [str(child.pid)]
        done = subprocess.run([*PROGRAM, *arguments, *target], capture_output=True, check=True, env=environment)
        assert done.stdout.isascii()
        assert b"\\u" not in done.stdout


def at(start: int, pages: int, name: str = "", permissions: str = "rw-p", inode: int = 0) -> Mapping:
    return mapping(Range.sized(start, pages * PAGE), permissions, 0, (0, 0), inode, name)


def shown(mappings: list[Mapping], *, everything: bool = False, encoding: str = "utf-8") -> str:
    from rich.console import Console

    from stead.view.text import print_snapshot

    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    taken = Snapshot(1, "some\x1b[31mone", 0.0, PAGE, tuple(mappings))
    console = Console(file=file, width=80, markup=False, highlight=False, emoji=False)
    print_snapshot(console, taken, USABLE, everything=everything)
    file.flush()
    return raw.getvalue().decode(encoding)


def test_names_cannot_move_the_cursor_nor_break_the_table() -> None:
    from rich.cells import cell_len

    names = ["/a\nb", "/\x1b[2J", "/\udcff", "/" + "\u6f22" * 60, "/[bold]x[/bold]", "/" + "x" * 300, "/\u202e"]
    for encoding in ("utf-8", "ascii"):
        text = shown(
            [at(0x1000000 * (n + 1), 1, name, inode=9) for n, name in enumerate(names)], encoding=encoding
        )
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "[bold]x[/bold]" in text
        assert "/a\\nb" in text
        lines = text.splitlines()
        assert len(lines) == 4 + len(names) + 1  # and one gap, to the end
        assert max(map(cell_len, lines)) <= 80


def test_60_000_mappings_fit_on_a_screen() -> None:
    # Folding one row at a time would take minutes here, and end at the time limit of every test.
    many = [at(0x400000000000 + 2 * n * PAGE, 1 + n % 2, f"/lib/{n}", inode=7) for n in range(60_000)]
    many += [at(0x7F0000000000, 33, "[stack]")]
    for everything in (False, True):
        text = shown(many, everything=everything)
        assert "60,001 mappings" in text
        assert len(text.splitlines()) <= 40 or everything
        assert "[stack]" in text


def test_sixty_thousand_of_our_own_fit_too() -> None:
    many = [at(0x400000000000 + 2 * n * PAGE, 1, "/memfd:stead:x", "rw-s", inode=7) for n in range(60_000)]
    ours = [Mapping(*(getattr(each, f) for f in each.__slots__[:-1]), kind=Kind.OURS) for each in many]  # type: ignore[misc]
    text = shown(ours)
    assert len(text.splitlines()) <= 40
    assert re.search(r"small mappings, all ours", text)


def rows_of(sizes: list[int], kinds: list[int]) -> list[Any]:
    from stead.view.text import _row

    names = ["", "[heap]", "[stack]", "/lib/x"]
    mappings, start = [], 0x10000
    for size, kind in zip(sizes, kinds, strict=False):
        mappings.append(at(start, size, names[kind], inode=5 if names[kind].startswith("/") else 0))
        start = mappings[-1].range.stop + PAGE
    return [_row(each) for each in mappings]


@given(st.lists(st.integers(1, 1000), max_size=200), st.integers(5, 60), st.data())
def test_folding_keeps_every_byte_and_never_folds_heap_or_stack(
    sizes: list[int], lines: int, data: st.DataObject
) -> None:
    from stead.view.text import fold

    kinds = [0] * len(sizes)
    for kind in (1, 2):
        if sizes:
            kinds[data.draw(st.integers(0, len(sizes) - 1))] = kind
    rows = rows_of(sizes, kinds)
    folded = fold(rows, lines)
    assert len(folded) <= lines
    assert sum(row.size for row in folded) == sum(row.size for row in rows)
    assert [row.range.start for row in folded] == sorted(row.range.start for row in folded)
    assert {row.name for row in rows} & {"[heap]", "[stack]"} == {row.name for row in folded} & {
        "[heap]",
        "[stack]",
    }
    counts = [int(match[1]) for row in folded if (match := re.match(r"(\d+) small", row.name))]
    assert 1 not in counts
    assert sum(counts) + len(folded) - len(counts) == len(rows)
    if len(rows) <= lines:
        assert folded == rows


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
