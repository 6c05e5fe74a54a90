"""Real text to index, and two ways to count its words that share no code."""

from __future__ import annotations

import os
import re
import stat
import sysconfig
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stead.sizes import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

# All text is held in memory, and the index takes about twice as much again.
MAX_TEXT = 256 << 20

_NOT_THE_LIBRARY = {"site-packages", "dist-packages", "__pycache__"}


class NoText(ValueError):
    """The folder has none, or too much of it."""


class Texts(NamedTuple):
    """Files by path, relative to ``folder``, and how many were skipped (binary, or not readable)."""

    folder: str
    files: list[tuple[str, bytes]]
    skipped: int

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(len(data) for _, data in self.files)


def read(folder: Path | None) -> Texts:
    """The text files of ``folder``, or by default the sources of this Python's standard library.

    Raises OSError where the folder cannot be read, NoText.
    """
    root = folder or Path(sysconfig.get_path("stdlib"))
    os.listdir(root)  # os.walk would pass over an error
    files: list[tuple[str, bytes]] = []
    skipped = size = 0
    for path in _paths(root, library=folder is None):
        data = _text(path)
        if data is None:
            skipped += 1
            continue
        size += len(data)
        if size > MAX_TEXT:
            raise NoText(f"{root} holds more than {format_size(MAX_TEXT)} of text; choose a smaller folder")
        files.append((str(path.relative_to(root)), data))
    if not any(_WORD.search(data) for _, data in files):
        raise NoText(f"{root} holds no text with a word in it")
    return Texts(str(root), files, skipped)


def _paths(root: Path, *, library: bool) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not (library and name in _NOT_THE_LIBRARY))
        for name in sorted(names):
            if not library or name.endswith(".py"):
                yield Path(folder, name)


def _text(path: Path) -> bytes | None:
    """The contents; None where it is no regular file, is binary, or cannot be read."""
    try:
        # Never open what is not a file: a pipe would wait for its other end.
        if not stat.S_ISREG(path.lstat().st_mode):
            return None
        with path.open("rb") as file:
            data = file.read(MAX_TEXT + 1)
    except OSError:
        return None
    return None if b"\0" in data[:8192] else data


_WORD = re.compile(rb"[A-Za-z0-9_]+")


def count_by_pattern(data: bytes) -> Counter[bytes]:
    """How often each word occurs; the index is built from this."""
    return Counter(_WORD.findall(data))


_SPACES = bytes(
    byte if byte < 128 and (chr(byte).isalnum() or byte == ord("_")) else ord(" ") for byte in range(256)
)


def count_by_splitting(data: bytes) -> Counter[bytes]:
    """The same by other means: the index is checked against this."""
    return Counter(data.translate(_SPACES).split())
