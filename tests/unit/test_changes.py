"""stead ps, diff, record, replay: lists, differences, and an address space over time."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import subprocess
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stead
from conftest import need
from others import other
from running import PROGRAM, refused, stead_runs
from spaces import MIB, PAGE, artefact, drawn, lies, process
from stead.seeing import check
from stead.seeing.differences import differences
from stead.seeing.files import frames
from stead.seeing.processes import find_processes, look

if TYPE_CHECKING:
    from pathlib import Path

    from stead.seeing.shape import Artefact, MappingSeen

HOLDS = """
held = stead.reserve("1 MiB", name="theirs")
view = held.commit(backing="shared")
heap = stead.SharedHeap("16 MiB")
"""


@pytest.fixture(autouse=True, scope="module")
def _needs() -> None:
    need("click")
    need("rich")


# ---- ps -------------------------------------------------------------------------------------------


def test_ps_lists_who_uses_stead_and_nobody_else() -> None:
    with (
        other(HOLDS + "stead.publish()\nsay(1)\nhear()") as publishing,
        other(HOLDS + "say(1)\nhear()") as silent,
        subprocess.Popen(["cat"], stdin=subprocess.PIPE) as unrelated,
    ):
        publishing.hear()
        silent.hear()
        found = set(find_processes())
        assert found >= {publishing.pid, silent.pid}
        assert not found & {unrelated.pid, os.getpid()}
        data = check(json.loads(stead_runs("ps", "--json").stdout))
        text = stead_runs("ps").stdout
        unrelated.kill()
    seen = {each["pid"]: each for each in data["processes"]}
    assert len(seen[publishing.pid]["heaps"]) == 1
    assert seen[silent.pid]["published_at"] is None
    assert any("theirs" in each["name"] for each in seen[silent.pid]["mappings"])
    lines = {line.split()[0]: line for line in text.splitlines() if line.split()[0].isdecimal()}
    assert re.match(rf" *{publishing.pid} +[\d.]+ MiB +[\d.]+ MiB +\S+ \w+ +\d +0 +1 ", lines[str(publishing.pid)])
    assert re.search(r" \? +\? +\? ", lines[str(silent.pid)])
    assert max(map(len, text.splitlines())) <= 80
    assert "does not publish" in text


def test_ps_leaves_out_who_ends_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["stead.seeing.processes"]
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    monkeypatch.setattr(module, "find_processes", lambda: iter([ended.pid, 1 << 30]))
    taken = check(json.loads(json.dumps(look())))
    assert taken["processes"] == []
    assert stead_runs("ps").stdout == "no other process of this user uses stead\n"


# ---- diff -----------------------------------------------------------------------------------------


def at(start: int, size: int = MIB, **more: Any) -> MappingSeen:
    return lies(
        start, size, more.pop("kind", "anonymous"), more.pop("name", ""), more.pop("access", "rw-p"), **more
    )


def before_and_after() -> tuple[Artefact, Artefact]:
    stays = at(0x10000000, resident=PAGE, swapped=0)
    touched: MappingSeen = {**stays, "resident": 3 * PAGE}
    arena = {"start": "0x50000000", "stop": "0x60000000", "name": "weights", "quota": None}
    fill = {"committed": MIB, "used": 1000, "blocks": 1, "high_water": 1000, "dirty": 0, "largest_free_run": MIB}
    one = process(
        [stays, at(0x20000000, name="/gone", kind="file"), at(0x30000000), at(0x50000000)],
        pages_by="scan", arenas=[{**arena, "fill": fill}],
    )  # fmt: skip
    two = process(
        [touched, at(0x30000000, access="r--p"), at(0x40000000, 2 * MIB, name="/new"),
         at(0x50000000)],
        pages_by="scan", arenas=[{**arena, "fill": {**fill, "used": 5000}}],
    )  # fmt: skip
    return artefact(one), artefact(two, taken_at=1790000102.5)


def test_a_difference_is_told_in_words_and_as_data(tmp_path: Path) -> None:
    paths = []
    for number, taken in enumerate(before_and_after()):
        paths.append(tmp_path / f"{number}.json")
        paths[-1].write_text(json.dumps(taken) + "\n")
    text = stead_runs("diff", *map(str, paths)).stdout
    assert text.startswith("+2.5 s\nprocess 1 (someone)\n")
    assert "- 0x000020000000    1 MiB rw-p committed file /gone" in text
    assert "~ 0x000030000000    1 MiB rw-p→r--p committed anonymous" in text
    assert "+ 0x000040000000    2 MiB rw-p committed anonymous /new" in text
    assert re.search(r"\+8 KiB in memory at 0x000010000000", text)
    assert re.search(r"\+3.91 KiB used of arena at 0x000050000000 weights", text)
    assert re.search(r"mapped +4 MiB → 5 MiB \(\+1 MiB\)", text)
    data = json.loads(stead_runs("diff", "--json", *map(str, paths)).stdout)
    [found] = data["processes"]
    assert [(each["what"], each["start"]) for each in found["changes"]] == [
        ("gone", "0x20000000"), ("changed", "0x30000000"), ("new", "0x40000000"),
    ]  # fmt: skip
    assert [(each["what"], each["after"] - each["before"]) for each in found["growths"]] == [
        ("in memory", 2 * PAGE), ("used of arena", 4000),
    ]  # fmt: skip
    same = stead_runs("diff", str(paths[0]), str(paths[0])).stdout
    assert "nothing changed" in same


def test_a_split_by_the_kernel_is_no_change() -> None:
    one = artefact(process([at(0x10000, 4 * PAGE)]))
    two = artefact(process([at(0x10000, PAGE), at(0x10000 + PAGE, 3 * PAGE)]))
    assert differences(one, two).both[0].changes == []


@given(st.data())
def test_the_changes_are_what_makes_the_one_the_other(data: st.DataObject) -> None:
    def draw() -> dict[int, str]:
        return data.draw(st.dictionaries(st.integers(16, 40), st.sampled_from(["rw-p", "r--p"]), max_size=20))

    def space(pages: dict[int, str]) -> Artefact:
        return artefact(process([at(page * PAGE, PAGE, access=access) for page, access in sorted(pages.items())]))

    one, two = draw(), draw()
    made = dict(one)
    found = differences(space(one), space(two)).both[0].changes
    for change in found:
        for page in range(change.where.start // PAGE, change.where.stop // PAGE):
            assert (made.get(page) is None) is (change.before is None)
            if change.after is None:
                del made[page]
            else:
                made[page] = change.after.access
    assert made == two
    assert all(low.where.stop <= high.where.start for low, high in pairwise(found))


def test_processes_are_the_same_by_start_by_rank_or_alone() -> None:
    one = artefact(process([], pid=5, rank=0), process([], pid=6, rank=1), process([], pid=7))
    two = artefact(process([], pid=15, rank=0), process([], pid=6, rank=1), process([], pid=7, started_at=5.0))
    found = differences(one, two)
    assert sorted((each.before["pid"], each.after["pid"]) for each in found.both) == [(5, 15), (6, 6)]
    assert [each["pid"] for each in found.gone] == [7]
    assert [each["pid"] for each in found.new] == [7]
    alone = differences(artefact(process([], pid=5)), artefact(process([], pid=9)))
    assert len(alone.both) == 1
    from stead.view.changes import print_differences

    text = drawn(print_differences, found)
    assert "- process 7 (someone): not in the second" in text
    assert "+ process 7 (someone): not in the first" in text


def test_hostile_names_in_a_difference() -> None:
    from stead.view.changes import print_differences

    one = artefact(process([at(0x10000, name="/\x1b[2Jx" + "y" * 200)], title="\x1b[31m"))
    two = copy.deepcopy(one)
    two["processes"][0]["mappings"] = []
    for encoding in ("utf-8", "ascii"):
        text = drawn(print_differences, differences(one, two), encoding=encoding)
        assert "\x1b" not in text
        assert max(map(len, text.splitlines())) <= 80


# ---- record and replay ----------------------------------------------------------------------------


def test_a_recording_is_what_happened(tmp_path: Path) -> None:
    path = tmp_path / "recording.json"
    code = "held = stead.reserve('1 GiB')\nstead.publish()\nsay(1)\nhear()"
    with other(code) as child:
        child.hear()
        result = stead_runs("record", str(child.pid), "--seconds", "0.2", "--every", "0.01", "-o", str(path))
        assert result.exit_code == 0, result.output
    taken = list(frames(path))
    assert 1 <= len(taken) <= 21
    assert re.search(rf"{len(taken)} snapshots in ", result.stderr)
    times = [each["taken_at"] for each in taken]
    assert times == sorted(times)
    assert all(each["processes"][0]["pid"] == child.pid for each in taken)
    text = stead_runs("replay", str(path)).stdout
    assert len(text.splitlines()) == 1 + len(taken)
    assert max(map(len, text.splitlines())) <= 80
    assert f"pid {child.pid}" in stead_runs("replay", str(path), "--frame", "0").stdout
    assert json.loads(stead_runs("replay", str(path), "--frame", "0", "--json").stdout) == json.loads(
        json.dumps(taken[0])
    )
    assert len(json.loads(stead_runs("replay", str(path), "--json").stdout)) == len(taken)
    refused(stead_runs("replay", str(path), "--frame", "99"), f"has {len(taken)} snapshots, and none of number 99")


def test_a_process_that_ends_while_it_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "recording.json"
    with other("say(1)\nhear()") as child:
        child.hear()
        command = [*PROGRAM, "record", str(child.pid), "--seconds", "1000", "--every", "0.01", "-o", str(path)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as recorder:
            while not path.exists() or path.read_bytes().count(b"\n") < 2:
                assert recorder.poll() is None
            child.kill()
            assert recorder.stderr is not None
            said = recorder.stderr.read()
            assert recorder.wait() == 1
    assert re.match(rf"Error: .*process {child.pid}.*; \d+ snapshots in .*recording.json\n$", said)
    assert len(list(frames(path))) >= 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_recording_that_is_cut_off_is_good_as_far_as_it_got(number: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "recording.json"
    with other("say(1)\nhear()") as child:
        child.hear()
        # A job in the background inherits that SIGINT is ignored; a terminal's does not.
        code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); " + PROGRAM[-1]
        command = [sys.executable, "-c", code, "record", str(child.pid), "--seconds", "1000", "--every", "0.01"]
        with subprocess.Popen([*command, "-o", str(path)], stderr=subprocess.PIPE) as recorder:
            while not path.exists() or path.read_bytes().count(b"\n") < 2:
                assert recorder.poll() is None
            recorder.send_signal(number)
            assert recorder.wait() == (0 if number == signal.SIGINT else -signal.SIGKILL)
    whole = len(list(frames(path)))
    assert whole >= 2
    with open(path, "ab") as file:
        file.write(b'{"schema": "stead.snap')
    assert len(list(frames(path))) == whole


def test_what_is_no_recording(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text(json.dumps(artefact()) + "\n{}\n")
    refused(stead_runs("replay", str(path)), "line 2 is no snapshot")
    path.write_text(json.dumps(artefact()) + "\nx\n")
    refused(stead_runs("replay", str(path)), "line 2 is no JSON")
    path.write_bytes(b"\xff\xfe\n")
    refused(stead_runs("replay", str(path)), "line 1 is no JSON")
    path.write_text("[" * 100_000)
    refused(stead_runs("replay", str(path)), "is no JSON")


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    refused(stead_runs("record", str(os.getpid()), "-o", str(tmp_path / "no" / "x")), "No such file or directory")


def test_a_file_of_many_snapshots_can_be_shown(tmp_path: Path) -> None:
    with stead.reserve("1 MiB", name="mine"):
        path = tmp_path / "x"
        path.write_text(stead_runs("show", "--json").stdout)
    assert "mine" in stead_runs("show", "--all", "--from", str(path)).stdout


def test_a_recording_that_cannot_begin_leaves_the_file_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("precious")
    refused(stead_runs("record", str(1 << 30), "-o", str(path)), "there is no process")
    assert path.read_text() == "precious"
