"""Devices that a person describes, and what is said of a file that is wrong."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import pytest

from stead import Unsupported
from stead.devices.constraints import EVERYWHERE, DeviceConstraints
from stead.devices.named import named
from stead.ranges import Range

if TYPE_CHECKING:
    from pathlib import Path


def written(folder: Path, text: str) -> Path:
    path = folder / "boards.toml"
    path.write_text(text)
    return path


def test_all_that_a_file_can_say(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        [[device]]
        name = "fpga0"
        address-bits = 32
        granularity = "64 KiB"
        alignment = "2 MiB"
        note = "behind the old bridge"

        [[device]]
        name = "nic"
        window = "4 GiB-1 TiB"
        granularity = 4096

        [[device]]
        name = "dsp"
        window = [0x1000, "1 MiB"]

        [[device]]
        name = "anything"
        """,
    )
    source = str(path)
    assert DeviceConstraints.read(path) == (
        DeviceConstraints("fpga0", "file", Range(0, 1 << 32), 1 << 16, 1 << 21, source, "behind the old bridge"),
        DeviceConstraints("nic", "file", Range(1 << 32, 1 << 40), 4096, 1, source),
        DeviceConstraints("dsp", "file", Range(0x1000, 1 << 20), 1, 1, source),
        DeviceConstraints("anything", "file", EVERYWHERE, 1, 1, source),
    )
    assert named(str(path)) == DeviceConstraints.read(str(path))


NAMED = "[[device]]\nname = 'fpga0'\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "{path} has no [[device]], must have one for each device"),
        ("device = 3", "{path} has no [[device]], must have one for each device"),
        ("[device]\nname = 'fpga0'", "{path} has no [[device]], must have one for each device"),
        ("[[devices]]", "{path} has the key 'devices', must have [[device]] only"),
        (NAMED + "[board]", "{path} has the key 'board', must have [[device]] only"),
        ("[[device]\n", "{path} is not TOML: Expected"),
        ("[[device]]\n", "{path}, device 1: name is missing"),
        (NAMED + "[[device]]\n", "{path}, device 2: name is missing"),
        (NAMED + NAMED, "{path}, device 2 ('fpga0'): name is 'fpga0', as of another device there"),
        ("[[device]]\nname = 3", "{path}, device 1 (3): name is 3, must be of type str"),
        (
            NAMED + "adress-bits = 32",
            "{path}, device 1 ('fpga0'): the key 'adress-bits' is unknown, must be one of name",
        ),
        (NAMED + "address-bits = 80", "{path}, device 1 ('fpga0'): address-bits is 80, must be from 1 to 64"),
        (NAMED + "address-bits = '32'", "{path}, device 1 ('fpga0'): address-bits is '32', must be an int"),
        (
            NAMED + "address-bits = 32\nwindow = '0-4 GiB'",
            "{path}, device 1 ('fpga0'): address-bits and window are both given, must be one of them",
        ),
        (NAMED + "window = '4 GiB'", "{path}, device 1 ('fpga0'): window is '4 GiB', must be two addresses"),
        (NAMED + "window = [1, 2, 3]", "{path}, device 1 ('fpga0'): window is (1, 2, 3), must be"),
        (
            NAMED + "window = '2 GiB-1 GiB'",
            "{path}, device 1 ('fpga0'): window is ('2 GiB', '1 GiB'): a range starts",
        ),
        (
            NAMED + "granularity = '3 KiB'",
            "{path}, device 1 ('fpga0'): granularity is 0xc00, must be a power of two",
        ),
        (
            NAMED + "granularity = '2 parsecs'",
            "{path}, device 1 ('fpga0'): granularity is '2 parsecs': unknown unit",
        ),
        (NAMED + "alignment = true", "{path}, device 1 ('fpga0'): alignment is True, must be an int of bytes"),
        (NAMED + "note = 3", "{path}, device 1 ('fpga0'): note is 3, must be of type str"),
    ],
)
def test_what_is_wrong_is_named_with_its_file_and_device(tmp_path: Path, text: str, says: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=f"^{re.escape(says.format(path=path))}"):
        DeviceConstraints.read(path)


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        DeviceConstraints.read(tmp_path / "nothing.toml")
    (tmp_path / "noise.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"noise\.toml is not TOML: "):
        DeviceConstraints.read(tmp_path / "noise.toml")


@pytest.mark.parametrize("text", ["cuda", "cuda:", "cuda:-1", "gpu:0", "cuda:12345", "", "no/such/file.toml"])
def test_a_name_that_is_none(text: str) -> None:
    says = (
        f"device is {text!r}, must be cuda:N, hip:N, level-zero:N, opencl:N, or a TOML file that describes devices"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        named(text)


def test_without_pyopencl_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyopencl", None)
    with pytest.raises(Unsupported, match=r"OpenCL needs pyopencl \(pip install 'stead\[opencl\]'\); found: "):
        named("opencl:0")
