"""The processes of this user that use stead: `stead ps`, `stead top`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stead import _native
from stead.errors import UnreadableMaps
from stead.proc import read_text
from stead.seeing.capture import capture, merge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stead.seeing.shape import Artefact

# Whoever imported stead has its extension mapped, wherever that is installed.
_EXTENSION = "/stead/" + os.path.basename(_native.__file__ or "_native.abi3.so")
_MEMORY = "/memfd:stead:"


def find_processes() -> Iterator[int]:
    """Pids, in order, of this user's other processes that have imported stead, or that map memory of its. What
    ends meanwhile, or may not be looked at, is left out."""
    user, me = os.geteuid(), os.getpid()
    for name in sorted(filter(str.isdecimal, os.listdir("/proc")), key=int):
        try:
            if int(name) == me or os.stat(f"/proc/{name}").st_uid != user:
                continue
        except OSError:
            continue
        text = read_text(f"/proc/{name}/maps")
        if _EXTENSION in text or _MEMORY in text:
            yield int(name)


def look(*, pages: bool = True) -> Artefact:
    """All of them, as one artefact: perhaps without any process."""
    seen = []
    for pid in find_processes():
        try:
            seen.append(capture(pid, pages=pages))
        except (OSError, UnreadableMaps):
            continue  # it has ended, or its maps changed too fast
    return merge(*seen) if seen else {**capture(pages=False), "processes": []}
