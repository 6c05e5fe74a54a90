"""The artefact: that it says what is so, of this process and of others, and that its schema holds."""

from __future__ import annotations

import copy
import json
import mmap
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stead
from conftest import need
from memory import resident
from others import NOBODY, need_root, other, run
from spaces import artefact, at, process
from stead import residency
from stead.ranges import Range
from stead.seeing import NoSnapshot, check, merge, schema
from stead.snapshot import read_mappings

if TYPE_CHECKING:
    from pathlib import Path

    from stead.seeing.shape import MappingSeen, ProcessSeen

PAGE = os.sysconf("SC_PAGESIZE")
MIB = 1 << 20


def this() -> ProcessSeen:
    [seen] = stead.capture()["processes"]
    return seen


def lying_in(seen: ProcessSeen, where: Range) -> list[MappingSeen]:
    found = [(Range(int(each["start"], 16), int(each["stop"], 16)), each) for each in seen["mappings"]]
    return [each for lies, each in found if lies.overlaps(where)]


# ---- what it says of this process -----------------------------------------------------------------


def test_it_is_what_the_schema_says_and_survives_json() -> None:
    need("jsonschema")
    import jsonschema

    with (
        stead.reserve("1 MiB", name="mine", guard="64 KiB") as held,
        stead.Arena("1 MiB", name="blocks") as arena,
        stead.SharedHeap("16 MiB", name="things") as heap,
    ):
        view = held.commit(0, PAGE)
        block = arena.block(100)
        channel = heap.channel(5)
        channel.send("a")
        back: Any = json.loads(json.dumps(stead.capture()))
        channel.receive()
        del block, channel
        view.release()
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.Draft202012Validator(schema()).validate(back)
    data: Any = check(back)
    assert data is back
    [seen] = data["processes"]
    assert {each["name"] for each in seen["reservations"]} >= {"mine", "blocks", "things"}
    [found] = [each for each in seen["arenas"] if each["name"] == "blocks"]
    assert found["fill"]["blocks"] == 1
    assert found["fill"]["used"] >= 100
    [shared] = [each for each in seen["heaps"] if each["name"] == "things"]
    assert [(each["messages"], each["capacity"], each["closed"]) for each in shared["channels"]] == [(1, 5, False)]
    assert [(each["pid"], each["alive"]) for each in shared["holders"]] == [(os.getpid(), True)]
    assert shared["holders"][0]["blocks"] >= 1


def test_a_reservation_is_cut_into_guards_reserved_and_committed() -> None:
    with stead.reserve("1 MiB", name="mine", guard="64 KiB") as held:
        view = held.commit("64 KiB", "64 KiB")
        view[0] = 1
        seen = this()
        view.release()
    pieces = lying_in(seen, held.outer)
    [number] = {each["reservation"] for each in pieces}
    assert number is not None
    assert seen["reservations"][number]["start"] == hex(held.address)
    start, committed = held.address, held.address + (1 << 16)
    assert [(each["state"], int(each["start"], 16), int(each["stop"], 16)) for each in pieces] == [
        ("guard", held.outer.start, start),
        ("reserved", start, committed),
        ("committed", committed, committed + (1 << 16)),
        ("reserved", committed + (1 << 16), held.range.stop),
        ("guard", held.range.stop, held.outer.stop),
    ]
    assert [each["kind"] for each in pieces] == ["ours"] * 5
    assert pieces[2]["resident"] == PAGE
    assert pieces[2]["pages"] == [(0, 1, "resident")]


def test_pages_are_told_one_by_one() -> None:
    with stead.reserve("1 MiB") as held:
        view = held.commit()
        for page in (3, 4, 9):
            view[page * PAGE] = 1
        [found] = lying_in(this(), held.range)
        assert found["pages"] == [(3, 2, "resident"), (9, 1, "resident")]
        assert found["resident"] == 3 * PAGE == resident(held.range)
        [found] = lying_in(stead.capture(pages=False)["processes"][0], held.range)
        assert (found["resident"], found["swapped"], found["pages"]) == (None, None, None)
        view.release()


def test_the_ways_of_counting_pages_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on kernels that have only the one or the other: of a process that stands still."""
    with other(
        "import mmap\nkeep = mmap.mmap(-1, 1 << 20)\nfor n in range(0, 200, 3): keep[n * 4096] = 1\nsay(1)\nhear()"
    ) as child:
        child.hear()
        os.kill(child.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        where = [each.range for each in read_mappings(child.pid) if each.range.start < 1 << 63]
        by_text = residency._by_text(str(child.pid), where)
        assert by_text[0] == "pagemap"
        way, scanned = residency.read_pages(where, child.pid)
        if way == "scan":
            # A page of zeros is nobody's memory: smaps and the scan know it, the text of pagemap does not.
            counted = {pages.resident for pages in scanned}
            assert len(counted) > 5
            assert sum(a.runs == b.runs for a, b in zip(scanned, by_text[1], strict=True)) >= 0.9 * len(where)

        refuse_pagemap(monkeypatch)
        way, counted_only = residency.read_pages(where, child.pid)
        assert way == "smaps"
        for a, b in zip(counted_only, by_text[1], strict=True):
            assert a.runs is None or a.runs == []
            assert a.resident is not None
            assert b.resident is not None
            assert abs(a.resident - b.resident) <= 8 * PAGE


def refuse_pagemap(monkeypatch: pytest.MonkeyPatch) -> None:
    true_open = os.open

    def refusing(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if str(path).endswith("/pagemap"):
            raise OSError(38, "not here")
        return true_open(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", refusing)


def test_of_pieces_of_one_mapping_the_counts_alone_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with stead.reserve("3 MiB") as scratch:
        start = scratch.address
    with stead.reserve(MIB, at=start) as low, stead.reserve(MIB, at=start + MIB) as high:
        views = [low.commit(), high.commit()]
        views[0][0] = 1
        refuse_pagemap(monkeypatch)
        way, pages = residency.read_pages([low.range, high.range])
        assert way == "smaps"
        whole = [each.range for each in read_mappings() if each.range.overlaps(low.range)]
        expected = (PAGE, 0) if whole == [low.range] else (None, None)
        assert (pages[0].resident, pages[1].resident) == expected
        for view in views:
            view.release()


def test_too_many_runs_are_counted_and_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "MOST_RUNS", 10)
    with stead.reserve("1 MiB") as held:
        view = held.commit()
        for page in range(0, 100, 2):
            view[page * PAGE] = 1
        [found] = lying_in(this(), held.range)
        assert found["resident"] == 50 * PAGE
        assert found["pages"] is None
        view.release()


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_any_pattern_of_touched_pages_is_seen_as_it_is(touched: list[bool]) -> None:
    with mmap.mmap(-1, len(touched) * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(15)  # MADV_NOHUGEPAGE
        for number, wanted in enumerate(touched):
            if wanted:
                memory[number * PAGE] = 1
        import ctypes

        held = ctypes.c_char.from_buffer(memory)
        where = Range.sized(ctypes.addressof(held), len(touched) * PAGE)
        _, [pages] = residency.read_pages([where])
        del held
    assert pages.runs is not None
    seen = [False] * len(touched)
    for first, count, state in pages.runs:
        assert state == "resident"
        seen[first : first + count] = [True] * count
    assert seen == touched
    assert pages.resident == sum(touched) * PAGE


# ---- other processes ------------------------------------------------------------------------------


def test_several_processes_in_one() -> None:
    with other("say(1)\nhear()") as child:
        child.hear()
        both = stead.capture(child.pid, os.getpid(), rank=4)
        check(json.loads(json.dumps(both)))
    assert [each["pid"] for each in both["processes"]] == [child.pid, os.getpid()]
    assert [each["rank"] for each in both["processes"]] == [None, 4]
    theirs = both["processes"][0]
    assert theirs["command"][0] == sys.executable
    assert theirs["user"] == os.getuid()
    assert theirs["started_at"] is not None
    assert theirs["started_at"] <= both["taken_at"] + 1
    assert theirs["published_at"] is None
    assert theirs["limits"]["mappings"]["used"] == pytest.approx(len(theirs["mappings"]), abs=8)


def test_what_several_captured_is_merged() -> None:
    mine = stead.capture(rank=0)
    theirs = copy.deepcopy(mine)
    theirs["hosts"][0]["name"] = "elsewhere"
    theirs["processes"][0]["rank"] = 1
    again = copy.deepcopy(mine)
    again["taken_at"] -= 100
    merged = check(merge(mine, theirs, again))
    assert [each["name"] for each in merged["hosts"]] == [mine["hosts"][0]["name"], "elsewhere"]
    assert [(each["host"], each["rank"]) for each in merged["processes"]] == [(0, 0), (1, 1), (0, 0)]
    assert merged["taken_at"] == again["taken_at"]
    with pytest.raises(ValueError, match="artefacts is empty"):
        merge()


def test_a_process_that_does_not_exist_or_has_no_memory_or_ended() -> None:
    with pytest.raises(ProcessLookupError, match="there is no process"):
        stead.capture(1 << 30)
    with subprocess.Popen(["true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ProcessLookupError, match=f"process {ended.pid} .*has no address space"):
            stead.capture(ended.pid)


def test_a_process_that_ends_while_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    with other("say(1)\nhear()") as child:
        child.hear()
        module = sys.modules["stead.seeing.capture"]

        def kill_and_read(where: list[Range], pid: int | None = None) -> Any:
            child.kill()
            return residency.read_pages(where, pid)

        monkeypatch.setattr(module, "read_pages", kill_and_read)
        with pytest.raises(ProcessLookupError, match=f"process {child.pid} ended while it was looked at"):
            stead.capture(child.pid)


def test_a_process_of_somebody_else() -> None:
    need_root()
    text = f"""
become({NOBODY})
error = attempt(stead.capture, {os.getpid()})
say((type(error).__name__, str(error)))
"""
    kind, said = run(text)
    assert kind == "PermissionError"
    assert str(os.getpid()) in said


@pytest.mark.parametrize(
    ("arguments", "named", "kind", "says"),
    [
        ((0,), {}, ValueError, "pid is 0"),
        (("1",), {}, TypeError, "pid is '1'"),
        ((True,), {}, TypeError, "pid is True"),
        ((), {"rank": -1}, ValueError, "rank is -1"),
        ((), {"rank": "0"}, ValueError, "rank is '0'"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: tuple[Any, ...], named: dict[str, Any], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        stead.capture(*arguments, **named)


def test_looking_leaves_no_descriptor_open() -> None:
    before = os.listdir("/proc/self/fd")
    stead.capture()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/odd \xff\xfe\n name"
    with open(path, "wb+") as file:
        file.truncate(PAGE)
        with mmap.mmap(file.fileno(), PAGE):
            back = json.loads(json.dumps(stead.capture()))
    assert any(os.fsencode(each["name"]) == path for each in back["processes"][0]["mappings"])


# ---- what is no snapshot --------------------------------------------------------------------------


def good() -> dict[str, Any]:
    made = artefact(process([at(0x10000, 4, "[heap]"), at(0x20000, 4)]))
    made["processes"][0]["reservations"] = [
        {
            "start": "0x20000", "stop": "0x24000", "outer_start": "0x1f000", "outer_stop": "0x25000", "name": None,
            "generation": 1, "since": None,
            "parts": [{"start": "0x20000", "stop": "0x21000", "access": "rw", "backing": "Anonymous()"}],
        }
    ]  # fmt: skip
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]


def change(data: Any, path: str, value: Any) -> None:
    *steps, last = [int(each) if each.isdigit() else each for each in path.split(".")]
    for step in steps:
        data = data[step]
    if value is KeyError:
        del data[last]
    else:
        data[last] = value


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("schema", "stead.snapshot/2", "schema is 'stead.snapshot/2', must be 'stead.snapshot/1'"),
        ("taken_at", "now", "taken_at is 'now', must be of type number"),
        ("hosts", [], "hosts has 0 items"),
        ("processes.0.host", 1, r"processes\[0\].host is 1, of 1 hosts"),
        ("processes.0.pid", True, r"processes\[0\].pid is True, must be of type integer"),
        ("processes.0.mappings.1.start", "0x0020000", r"mappings\[1\].start is '0x0020000', must look like"),
        (
            "processes.0.mappings.1.start",
            "0x13000",
            r"mappings\[1\] starts at 0x13000, before the one before it ends",
        ),
        ("processes.0.mappings.1.stop", "0x20000", r"mappings\[1\] stops at 0x20000, before it starts"),
        ("processes.0.mappings.0.kind", "region", r"mappings\[0\].kind is 'region', must be one of"),
        ("processes.0.mappings.0.name", KeyError, r"mappings\[0\] has no 'name'"),
        ("processes.0.mappings.0.colour", 1, "has 'colour', which stead.snapshot/1 does not know"),
        ("processes.0.mappings.0.resident", -1, "resident is -1, which is too small"),
        ("processes.0.mappings.0.reservation", 1, r"mappings\[0\].reservation is 1: no such one"),
        ("processes.0.mappings.0.pages", [[0, 1]], r"pages\[0\] has 2 items"),
        ("processes.0.reservations.0.outer_start", "0x21000", r"reservations\[0\] has guards inside of it"),
        ("processes.0.reservations.0.parts.0.stop", "0x26000", r"parts are not inside of it"),
    ],
)
def test_what_is_no_snapshot_is_refused_by_name(path: str, value: Any, says: str) -> None:
    check(good())
    data = good()
    change(data, path, value)
    with pytest.raises(NoSnapshot, match=says):
        check(data)


@pytest.mark.parametrize("data", [None, 3, [], "x", {}, {"schema": 1}])
def test_what_is_not_even_like_one(data: Any) -> None:
    with pytest.raises(NoSnapshot):
        check(data)


PATHS = [
    "taken_at", "hosts.0.page_size", "hosts.0.overcommit", "processes.0.pid", "processes.0.rank",
    "processes.0.command", "processes.0.pages_by", "processes.0.limits.data.most", "processes.0.mappings.0.access",
    "processes.0.mappings.0.start", "processes.0.mappings.0.state", "processes.0.mappings.0.pages",
    "processes.0.mappings.0.device", "processes.0.reservations.0.parts.0.access",
    "processes.0.reservations.0.since",
    "processes.0.more",
]  # fmt: skip
VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 1 << 70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6) | st.sampled_from(["rw-p", "0x10000", "0x0", "rw", "8:1", "resident", "guard", "scan"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=5,
)  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(PATHS), VALUES | st.just(KeyError)), min_size=1, max_size=2))
def test_the_check_and_the_schema_give_the_same_answer(changes: list[tuple[str, Any]]) -> None:
    """What jsonschema refuses, the check refuses; what it takes, the check takes, or says what no schema can."""
    need("jsonschema")
    import jsonschema

    data = good()
    for path, value in changes:
        try:
            change(data, path, value)
        except (KeyError, TypeError):
            return
    taken = jsonschema.Draft202012Validator(schema()).is_valid(data)
    try:
        check(data)
    except NoSnapshot as error:
        assert not taken or any(word in str(error) for word in ("starts", "inside", "no such one", "hosts"))
    else:
        assert taken
