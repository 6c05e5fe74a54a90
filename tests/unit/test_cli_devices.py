"""`stead find --device`: what each device leaves of a window, and which one is in the way."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

import stead
from conftest import need
from running import refused, stead_runs
from stead.ranges import Range

if TYPE_CHECKING:
    from pathlib import Path

need("click")
need("rich")

MIB = 1 << 20


@pytest.fixture
def window() -> Range:
    """64 MiB that are free, from a multiple of 4 MiB."""
    with stead.reserve(64 * MIB, align="4 MiB") as held:
        return held.range


def text_of(window: Range) -> str:
    return f"{window.start:#x}-{window.stop:#x}"


def boards(folder: Path, window: Range) -> str:
    """Two devices that share the second 16 MiB of the window, and a third that reaches its last 4."""
    a, b, c = (
        Range(window.start + low * MIB, window.start + high * MIB) for low, high in ((0, 32), (16, 48), (60, 64))
    )
    path = folder / "boards.toml"
    path.write_text(
        f'[[device]]\nname = "a"\nwindow = "{text_of(a)}"\ngranularity = "64 KiB"\nnote = "the old one"\n'
        f'[[device]]\nname = "b"\nwindow = "{text_of(b)}"\nalignment = "4 MiB"\n'
    )
    (folder / "far.toml").write_text(f'[[device]]\nname = "c"\nwindow = "{text_of(c)}"\n')
    return str(path)


def test_what_each_device_leaves(tmp_path: Path, window: Range) -> None:
    path = boards(tmp_path, window)
    data = json.loads(
        stead_runs("find", "--size", "100 kB", "--within", text_of(window), "--device", path, "--json").stdout
    )
    assert data["fits"] is True
    start, stop = data["range"]
    assert start % (4 * MIB) == 0
    assert stop - start == 128 << 10
    assert data["asked"]["within"] == list(window)
    first, second = data["devices"]
    assert (first["name"], first["source"], first["note"]) == ("a", path, "the old one")
    assert first["leaves"]["within"] == [window.start, window.start + 32 * MIB]
    assert first["leaves"]["size"] == 128 << 10
    assert first["places"] == (32 * MIB - (128 << 10)) // (64 << 10) + 1
    assert second["leaves"] == data["placement"]
    assert second["leaves"]["within"] == [window.start + 16 * MIB, window.start + 32 * MIB]
    assert second["places"] == data["places"] == 4
    assert data["kept_from_it_by"] == []
    with stead.reserve(stop - start, at=start) as held:
        assert held.range == (start, stop)


def test_the_picture(tmp_path: Path, window: Range) -> None:
    path = boards(tmp_path, window)
    arguments = ["--size", "100 kB", "--within", text_of(window), "--device", path]
    lines = stead_runs("find", *arguments, COLUMNS="200").stdout.splitlines()
    said = [line.rstrip() for line in lines if not line.startswith("in  ")]
    start = window.start
    a, b = Range(start, start + 32 * MIB), Range(start + 16 * MIB, start + 48 * MIB)
    assert said[0].startswith("128 KiB would go to 0x")
    assert said[1:] == [
        "wanted      aligned to 4 KiB, scattered",
        f"window      {window}",
        f"for         device 'a' reaches {a}, in multiples of 64 KiB ({path}): the old one",
        f"  leaves    {a}, aligned to 64 KiB, rounded up to whole 64 KiB, 511 places",
        f"for         device 'b' reaches {b}, aligned to 4 MiB ({path})",
        f"  leaves    {Range(b.start, a.stop)}, aligned to 4 MiB, 4 places",
        "places      4, this one drawn by seed 0",
        "in the way  nothing",
    ]


def test_the_device_in_the_way_is_named(tmp_path: Path, window: Range) -> None:
    path = boards(tmp_path, window)
    arguments = ["--size", "24 MiB", "--within", text_of(window), "--device", path]
    result = stead_runs("find", *arguments, COLUMNS="200")
    assert result.exit_code == 1
    assert result.stdout.startswith("24 MiB does not fit\n")
    assert "kept from it  by device 'a', device 'b'" in result.stdout
    assert json.loads(stead_runs("find", *arguments, "--json").stdout)["kept_from_it_by"] == ["a", "b"]


def test_devices_that_share_no_address(tmp_path: Path, window: Range) -> None:
    path, far = boards(tmp_path, window), str(tmp_path / "far.toml")
    arguments = ["--size", "4096", "--within", text_of(window), "--device", path, "--device", far, "--device", far]
    result = stead_runs("find", *arguments, COLUMNS="200")
    assert result.exit_code == 1
    said = [line.rstrip() for line in result.stdout.splitlines()]
    assert said.count("  leaves      nothing: it reaches no address of what was left") == 1
    assert said.count("  leaves      nothing") == 1
    assert "largest gap" not in result.stdout
    assert "in the way" not in result.stdout
    data = json.loads(stead_runs("find", *arguments, "--json").stdout)
    assert data["fits"] is False
    assert data["placement"] is data["range"] is data["devices"][2]["leaves"] is None
    assert data["devices"][1]["places"] == 4


def test_elsewhere_than_in_the_usual_windows_where_a_device_does_not_reach_them(tmp_path: Path) -> None:
    (tmp_path / "boards.toml").write_text('[[device]]\nname = "fpga0"\naddress-bits = 40\n')
    data = json.loads(
        stead_runs("find", "--size", "4096", "--device", str(tmp_path / "boards.toml"), "--json").stdout
    )
    assert data["range"][1] <= 1 << 40
    assert data["asked"]["within"] == list(stead.this_process().windows[-1])


def test_what_is_wrong_with_a_device_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "boards.toml").write_text('[[device]]\nname = "fpga0"\nbits = 40\n')
    for device, says in (
        ("nope", "device is 'nope', must be cuda:N, hip:N, level-zero:N, opencl:N, or a TOML file"),
        (str(tmp_path / "boards.toml"), "boards.toml, device 1 ('fpga0'): the key 'bits' is unknown"),
    ):
        result = stead_runs("find", "--size", "4096", "--device", device)
        assert result.exit_code == 2
        assert "Invalid value for '--device'" in result.stderr
        assert says in result.stderr


def test_a_driver_that_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyopencl", None)
    refused(stead_runs("find", "--size", "4096", "--device", "opencl:0"), "OpenCL needs pyopencl (pip install")
