"""The main job: real processes follow raw pointers, and its checks can fail."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import resource
import signal
import struct
import subprocess
import sys
from ctypes import addressof
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stead
from conftest import need
from stead import demo
from stead.demo import index as pointers
from stead.demo import texts
from stead.demo.index import NOWHERE, Answer, PlainIndex, PointerIndex, TableNode, build
from stead.demo.workers import Meeting, Workers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result

PROGRAM = [sys.executable, "-c", "from stead.cli import main; main()"]


@pytest.fixture(autouse=True)
def _no_worker_left() -> Iterator[None]:
    yield
    assert not multiprocessing.active_children()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text("the cat, the dog; the end_1\n")
    (tmp_path / "b.txt").write_text("The the-cat\ncat\tcat (cat)")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.txt").write_bytes("caf\u00e9 the \u00fcber".encode() + b"\xff\xfeword")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "binary").write_bytes(b"the cat\0the cat")
    os.mkfifo(tmp_path / "pipe")
    os.symlink("a.txt", tmp_path / "link.txt")
    return tmp_path


RIGHT = {
    b"the": Answer(5, 3, (("a.txt", 3), ("b.txt", 1), ("sub/c.txt", 1))),
    b"cat": Answer(5, 2, (("b.txt", 4), ("a.txt", 1))),
    b"The": Answer(1, 1, (("b.txt", 1),)),
    b"end_1": Answer(1, 1, (("a.txt", 1),)),
    b"caf": Answer(1, 1, (("sub/c.txt", 1),)),
    b"ber": Answer(1, 1, (("sub/c.txt", 1),)),
    b"word": Answer(1, 1, (("sub/c.txt", 1),)),
}


def test_every_worker_has_it_at_one_address_and_answers_right(folder: Path) -> None:
    result = demo.run(folder, workers=3, queries=100, seed=5)
    assert result.disagreements == []
    assert result.files == 4
    assert result.skipped == 3
    assert result.words == 8
    for meeting in (result.by_pointers, result.by_pickle):
        assert len(set(meeting.pids) | {os.getpid()}) == 4
        for answers in meeting.answers:
            given_answers = dict(zip(result.queries, answers, strict=True))
            assert {word: given_answers[word] for word in RIGHT} == RIGHT
            assert NOWHERE in answers
    assert result.by_pointers.addresses == [result.where.start] * 3
    assert 0 < result.by_pointers.received <= result.by_pointers.answered


def test_the_seed_decides_what_is_asked(folder: Path) -> None:
    counted = [(path, texts.count_by_splitting(data)) for path, data in texts.read(folder).files]
    assert demo._draw(3, 1, counted) == demo._draw(3, 1, counted)
    assert any(demo._draw(3, 1, counted)[:3] != demo._draw(3, seed, counted)[:3] for seed in range(2, 20))


def test_the_random_sample_covers_the_words_evenly() -> None:
    counted = [("x", {b"w%d" % n: n for n in range(1, 1000)})]
    drawn = [demo._draw(100, seed, counted)[:100] for seed in range(50)]
    times = [sum(b"w%d" % n in each for each in drawn) for n in range(1, 1000)]
    assert max(times) < 20  # 5 on average, whatever their counts
    assert sum(times[:500]) > 2000


def in_process(*arguments: str) -> Result:
    from click.testing import CliRunner

    from stead.cli import commands

    need("click")
    need("rich")
    return CliRunner().invoke(commands(), ["demo", *arguments], env={"COLUMNS": "80"})


def test_the_command(folder: Path) -> None:
    need("click")
    need("rich")
    arguments = ["demo", str(folder), "--workers", "2", "--seed", "7"]
    done = subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    addresses = re.findall(r"^(builder|worker \d) +\d+ +(0x\w+)", done.stdout, re.MULTILINE)
    assert [name for name, _ in addresses] == ["builder", "worker 1", "worker 2"]
    assert len({address for _, address in addresses}) == 1
    assert "addresses: equal in all 3 processes" in done.stdout
    assert "--seed 7" in done.stdout
    assert "\x1b" not in done.stdout


def test_the_command_as_json(folder: Path) -> None:
    data = json.loads(in_process(str(folder), "--workers", "1", "--json").stdout)
    assert data["disagreements"] == []
    assert data["by_pointers"]["workers"][0]["address"] == data["address"]
    assert data["by_pickle"]["workers"][0]["address"] is None
    assert data["by_pointers"]["workers"][0]["answers"] == data["queries"]


# ---- the checks can fail --------------------------------------------------------------------------


def tampered(monkeypatch: pytest.MonkeyPatch, tamper: Any) -> None:
    def build_wrongly(*arguments: Any) -> PointerIndex:
        made = build(*arguments)
        return tamper(made) or made

    monkeypatch.setattr(demo, "build", build_wrongly)


def node_of(index: PointerIndex, word: bytes) -> Any:
    table = TableNode.from_address(index.head)
    link = table.buckets[crc32(word) % table.bucket_count]
    while pointers._text_after(link.contents) != word:
        link = link.contents.next
    return link.contents


def test_a_wrong_count_is_a_disagreement(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_more(index: PointerIndex) -> None:
        node = node_of(index, b"cat")
        node.total += 1
        node.postings.contents.count += 1

    tampered(monkeypatch, one_more)
    result = in_process(str(folder), "--workers", "2")
    assert result.exit_code == 1
    assert "2 disagreements" in result.stdout
    assert "worker 1 (pid" in result.stdout
    assert "says of 'cat': Answer(total=6" in " ".join(result.stdout.split())
    assert "as counted independently" not in result.stdout


def test_an_index_that_contradicts_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_more(index: PointerIndex) -> None:
        node_of(index, b"cat").total += 1

    tampered(monkeypatch, one_more)
    result = in_process(str(folder), "--workers", "1")
    assert result.exit_code == 1
    assert re.fullmatch(
        r"Error: worker 1 \(pid \d+\): ValueError: the files of b'cat' add up to 5, and its node says 6\n",
        result.stderr,
    )


def test_a_lost_word(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unlink(index: PointerIndex) -> None:
        table = TableNode.from_address(index.head)
        empty = struct.pack("=Q", 0)
        at = addressof(table.buckets.contents) - index.address + 8 * (crc32(b"word") % table.bucket_count)
        index.reservation.view(at, 8)[:] = empty

    tampered(monkeypatch, unlink)
    result = in_process(str(folder), "--workers", "1")
    assert result.exit_code == 1
    assert "says of 'word': Answer(total=0" in " ".join(result.stdout.split())


def test_a_wrong_address_is_a_disagreement(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Workers.meet

    def meet(self: Workers, *arguments: Any) -> Meeting:
        meeting = honest(self, *arguments)
        return replace(meeting, addresses=[each and each + 4096 for each in meeting.addresses])

    monkeypatch.setattr(Workers, "meet", meet)
    result = in_process(str(folder), "--workers", "1")
    assert result.exit_code == 1
    assert "worker 1 has the index at 0x" in result.stdout
    assert "equal in all" not in result.stdout


def test_a_worker_that_dies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pointer to nowhere kills who follows it: one line, and nobody is left behind."""
    limits = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, limits[1]))
    try:
        tampered(monkeypatch, lambda index: PointerIndex(index.reservation, 16))
        result = in_process(str(folder), "--workers", "2")
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, limits)
    assert result.exit_code == 1
    assert re.fullmatch(r"Error: worker 1 \(pid \d+\) was ended by SIGSEGV before it answered\n", result.stderr)


def test_a_refusal_in_a_worker_arrives_in_words() -> None:
    class Nowhere:
        def __reduce__(self) -> Any:
            return os.listdir, ("/nowhere/at/all",)

    with pytest.raises(demo.WorkerFailed, match=r"worker 1 \(pid \d+\): FileNotFoundError: .*/nowhere/at/all"):
        with Workers(1) as workers:
            workers.meet(Nowhere(), [])  # type: ignore[arg-type]


def test_an_interruption_leaves_nobody_behind(folder: Path) -> None:
    def interrupt(doing: str, done: int, total: int) -> None:
        if doing == "meeting by pointers" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo.run(folder, workers=2, progress=interrupt)
    assert not multiprocessing.active_children()


def test_workers_leave_an_interruption_to_their_parent() -> None:
    with Workers(1) as workers:
        process = workers._workers[0][0]
        assert process.pid is not None
        os.kill(process.pid, signal.SIGINT)
        meeting = workers.meet(PlainIndex({b"a": [("x", 2)]}), [b"a"])
    assert meeting.answers == [[Answer(2, 1, (("x", 2),))]]


# ---- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["empty", "binary", "no words"])
def test_a_folder_without_text(kind: str, tmp_path: Path) -> None:
    if kind != "empty":
        (tmp_path / "x").write_bytes(b"a\0b" if kind == "binary" else b" -- \n")
    result = in_process(str(tmp_path))
    assert result.exit_code == 1
    assert result.stderr == f"Error: {tmp_path} holds no text with a word in it\n"


def test_a_folder_with_too_much_text(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "MAX_TEXT", 40)
    with pytest.raises(demo.NoText, match="more than 40 B of text"):
        texts.read(folder)


def test_the_standard_library_is_what_is_read_by_default() -> None:
    found = texts.read(None)
    paths = [path for path, _ in found.files]
    assert "json/decoder.py" in paths
    assert not any("site-packages" in path or not path.endswith(".py") for path in paths)


@given(st.binary())
def test_both_ways_of_counting_agree(data: bytes) -> None:
    assert texts.count_by_pattern(data) == texts.count_by_splitting(data)


# ---- the index ------------------------------------------------------------------------------------

WORDS = st.dictionaries(
    st.binary(min_size=1, max_size=30),
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0")), st.integers(1, 1 << 40), min_size=1
    ),
)


@given(WORDS, st.binary())
def test_following_the_pointers_gives_what_the_dict_gives(
    words: dict[bytes, dict[str, int]], other: bytes
) -> None:
    sorted_words = {word: sorted(files.items(), key=pointers.most_often) for word, files in words.items()}
    plain = PlainIndex(sorted_words)
    with stead.reserve("64 MiB") as reservation:
        index = build(sorted_words, reservation)
        for word in [*words, other]:
            assert index.look_up(word) == plain.look_up(word)


def test_long_chains_and_memory_that_grows_under_them() -> None:
    """Several commits, one file for each, and pointers across all of them."""
    words = {b"everywhere": [(f"some/rather/long/path/of/file/{n}", 1) for n in range(150_000)]}
    words |= {b"word%d" % n: [("one", n + 1)] for n in range(50_000)}
    words[b"long" * 5000] = [("two", 1)]
    with stead.reserve("1 GiB") as reservation:
        index = build(words, reservation)
        assert len(reservation.parts) > 1
        assert index.look_up(b"everywhere")[:2] == (150_000, 150_000)
        assert index.look_up(b"word49999") == (50_000, 1, (("one", 50_000),))
        assert index.look_up(b"long" * 5000).total == 1


def test_no_room_for_the_index() -> None:
    with stead.reserve("64 KiB") as reservation:
        with pytest.raises(ValueError, match="index"):
            build({b"w%d" % n: [("x", 1)] for n in range(10_000)}, reservation)
