"""Other processes for tests: fresh interpreters that run a piece of text, and say and hear pickled objects.

Text, and not a function, so that it can run as another user, who may not read where this file is: everything that
it needs is imported before it changes its user.
"""

from __future__ import annotations

import base64
import os
import pickle
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY, SOMEBODY = 65534, 65533

PRELUDE = """
import base64, ctypes, os, pickle, signal, socket, subprocess, sys, traceback
import stead
from stead import calling, door
from stead.descriptors import describe, open_descriptor

def say(what):
    print(base64.b64encode(pickle.dumps(what)).decode(), flush=True)

def hear():
    return pickle.loads(base64.b64decode(sys.stdin.readline()))

def become(uid):
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)

def shut_proc():
    # PR_SET_DUMPABLE: others of the same user, if unprivileged, may look into it no more.
    assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0

def attempt(call, *arguments, **more):
    try:
        return call(*arguments, **more)
    except Exception as error:
        return error
"""


class Other:
    """A running process; ``say`` and ``hear`` talk to its ``hear`` and ``say``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid

    def say(self, what: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(base64.b64encode(pickle.dumps(what)).decode() + "\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the other process ended: {self.process.wait()}"
        return pickle.loads(base64.b64decode(line))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def other(code: str, *wrapped: str) -> Iterator[Other]:
    """A process that runs ``code`` after the prelude, under the command ``wrapped`` if one is given. It is killed
    at the end."""
    command = [*wrapped, sys.executable, "-c", PRELUDE + code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Other(process)
        finally:
            process.kill()


def run(code: str, *wrapped: str) -> Any:
    """What a process that runs ``code`` says; it must end well."""
    with other(code, *wrapped) as process:
        said = process.hear()
        assert process.process.wait() == 0
        return said


def need_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")


def need_mount_namespace() -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a mount namespace of its own cannot be made here (it takes root)")
