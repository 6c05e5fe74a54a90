"""``python -m stead.devices.probe``: what this machine's CUDA driver really does with addresses, as JSON.

Asks what docs/decisions says of drivers, each question in a process of its own (:mod:`stead.devices.asking`), and
writes what was done, what the answer was, or why there is none. Safe beside others: a few MiB of the device, for
moments; done within ``--seconds``.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stead.devices.asking import QUESTIONS
from stead.devices.cuda import CudaDriver
from stead.errors import AddressSpaceError, Unsupported

if TYPE_CHECKING:
    from collections.abc import Sequence

_SECONDS = 55.0
_EACH = 20.0  # for one question, of which most take one or two: those of cuInit and of a context


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the answers; 1, and one line on stderr, where there is no driver or no such device."""
    options = _parser().parse_args(arguments)
    if options.only:
        return _ask(options.only, options.device)
    try:
        report = probe(options.device, options.seconds)
    except (Unsupported, LookupError) as error:
        print(f"stead.devices.probe: {error.args[-1]}", file=sys.stderr)
        return 1
    print(json.dumps(report, indent=2))
    return 0


def probe(device: int = 0, seconds: float = _SECONDS) -> dict[str, Any]:
    """All of it, as data. Raises Unsupported where there is no driver, LookupError where no such device is."""
    stop = time.monotonic() + seconds
    driver = CudaDriver()
    devices = driver.devices()
    if not 0 <= device < len(devices):
        raise LookupError(f"device is {device}, must be below {len(devices)}: so many are there")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "kernel": platform.release(),
            "architecture": platform.machine(),
            "processors": _first_of("/proc/cpuinfo", "model name"),
            "python": platform.python_version(),
        },
        "driver": {
            "cuda": driver.version,
            "module": _read("/proc/driver/nvidia/version").partition("\n")[0],
            "cuda.bindings": _version(driver),
        },
        "devices": [each._asdict() for each in devices],
        "device": device,
        "answers": {name: _asked(name, device, stop - time.monotonic()) for name in QUESTIONS},
    }


def _asked(name: str, device: int, left: float) -> dict[str, Any]:
    """One question, in a process of its own."""
    question = {"question": (QUESTIONS[name].__doc__ or "").strip()}
    if left <= 0:
        return question | {"answer": None, "why": "no time was left"}
    command = [sys.executable, "-m", "stead.devices.probe", "--only", name, "--device", str(device)]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=min(left, _EACH))
    except subprocess.TimeoutExpired as error:
        return question | {"answer": None, "why": f"no answer within {error.timeout:.0f} s"}
    if found.returncode < 0:
        return question | {"answer": None, "why": f"the process died of {signal.Signals(-found.returncode).name}"}
    try:
        answer: dict[str, Any] = json.loads(found.stdout)
    except ValueError:
        said = found.stderr.strip().splitlines()
        return question | {"answer": None, "why": said[-1] if said else f"exit {found.returncode}, without a word"}
    return question | answer


def _ask(name: str, device: int) -> int:
    """In that process."""
    try:
        answer = QUESTIONS[name](CudaDriver(), device)
    except (AddressSpaceError, OSError) as error:
        answer = {"answer": None, "why": str(error)}
    print(json.dumps(answer))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m stead.devices.probe", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--device", type=int, default=0, help="which device, by CUDA's number (default: 0)")
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="for all questions (default: %(default)g)")
    parser.add_argument("--only", choices=list(QUESTIONS), help="one question, in this process")
    return parser


def _version(driver: CudaDriver) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("cuda-bindings")
    except PackageNotFoundError:
        return f"unknown, at {driver.api.__file__}"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _first_of(path: str, field: str) -> str:
    for line in _read(path).splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""


if __name__ == "__main__":
    sys.exit(main())
