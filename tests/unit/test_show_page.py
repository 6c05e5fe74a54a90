"""`stead show --html`: a page on disk, whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from conftest import need
from running import refused, stead_runs
from stead.seeing import check

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True, scope="module")
def _needs() -> None:
    need("click")
    need("rich")


def test_a_page_of_this_process_is_written_and_told(tmp_path: Path) -> None:
    page = tmp_path / "map.html"
    page.write_text("before")
    done = stead_runs("show", "--html", str(page))
    assert done.exit_code == 0
    assert done.output.startswith(f"{page}: ")
    assert done.output.endswith("; open it in a browser\n")
    text = page.read_text("utf-8")
    assert text.startswith("<!doctype html>")
    assert f"pid {os.getpid()}" in text
    assert [each.name for each in tmp_path.iterdir()] == ["map.html"]


def test_a_snapshot_that_was_kept_makes_the_same_page(tmp_path: Path) -> None:
    first, again, kept = tmp_path / "first.html", tmp_path / "again.html", tmp_path / "kept.json"
    done = stead_runs("show", "--json", "--html", str(first))
    check(json.loads(done.output))
    kept.write_text(done.output)
    assert stead_runs("show", "--from", str(kept), "--html", str(again)).exit_code == 0
    assert again.read_bytes() == first.read_bytes()


def test_a_page_that_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    refused(stead_runs("show", "--html", str(tmp_path / "no" / "map.html")), "No such file or directory")
    before = tmp_path / "map.html"
    before.write_text("before")
    refused(stead_runs("show", "999999999", "--html", str(before)), "there is no process 999999999")
    assert before.read_text() == "before"
    assert [each.name for each in tmp_path.iterdir()] == ["map.html"]


def test_a_page_goes_into_a_pipe_too(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = [sys.executable, "-c", f"print(open({str(pipe)!r}).read()[:15])"]
    with subprocess.Popen(reading, stdout=subprocess.PIPE, text=True) as reader:
        done = stead_runs("show", "--html", str(pipe))
        assert reader.communicate()[0] == "<!doctype html>\n"
    assert done.exit_code == 0
    assert pipe.is_fifo()
