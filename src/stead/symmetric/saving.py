"""Saves of all ranks: a file for each, which together are one save or none.

A save has a number, one more than any that any rank has in the folder, and a token. Each rank writes
``rank-3.7.stead.part`` and syncs it; when all have, each renames it to ``rank-3.7.stead``; when all have done
that, each removes what is older. Whoever is killed meanwhile leaves the older save whole, or the new one. Restored
is the save with the highest number of which every rank has its file. The folder may be one, or each host's own.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from stead.errors import PeersDisagree, UnreadableSave
from stead.symmetric.image import MACHINE, Save, write

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stead.symmetric.group import Group
    from stead.symmetric.image import Segment


def save(group: Group, folder: str, facts: dict[str, Any], segments: Mapping[str, Segment]) -> str:
    """The path of this rank's file. Raises OSError, LimitReached; PeerFailed where another rank could not: the
    older save is whole then."""
    wrong: BaseException | None = None
    here: list[int] = []
    try:
        os.makedirs(folder, exist_ok=True)
        here = _numbers(folder, group.rank)
    except BaseException as error:
        wrong = error
    said = group.gather([max(here, default=0), os.urandom(16).hex()])
    number, token = max(last for last, _ in said) + 1, said[0][1]
    path = os.path.join(folder, f"rank-{group.rank}.{number}.stead")
    facts = {**facts, "token": token, "rank": group.rank, "ranks": group.size, "machine": MACHINE}
    part = f"{path}.part"
    try:
        group.vote(wrong, "use its folder")
        group.run(write(part, facts, segments), "write its file")
        try:
            os.rename(part, path)
            _sync(folder)
        except BaseException as error:
            wrong = error
        group.vote(wrong, "rename its file")
    except BaseException:
        # Without the others' this one is of no use; what is left behind is removed by the next save.
        _remove(part)
        raise
    for old in here:
        _remove(os.path.join(folder, f"rank-{group.rank}.{old}.stead"))
    for name in os.listdir(folder):
        if re.fullmatch(rf"rank-{group.rank}\.\d+\.stead\.part", name):
            _remove(os.path.join(folder, name))
    return path


def find(group: Group, folder: str) -> Save:
    """This rank's file of the newest save that is whole. Raises UnreadableSave; PeerFailed where another rank's
    cannot be read."""
    wrong: BaseException | None = None
    here: list[int] = []
    found: Save | None = None
    try:
        if not os.path.isdir(folder):
            raise UnreadableSave(folder, "there is no such folder")
        here = sorted(_numbers(folder, group.rank))
    except BaseException as error:
        wrong = error
    said = group.gather(here)
    whole = set(said[0]).intersection(*said[1:])
    try:
        if wrong is None:
            found = _open(folder, whole, said, group)
    except BaseException as error:
        wrong = error
    try:
        group.vote(wrong, f"read its file in {folder}")
        assert found
        tokens = group.gather(found.facts["token"])
        for rank, token in enumerate(tokens):
            if token != tokens[0]:
                raise PeersDisagree(f"the file of rank {rank} is of another save than that of rank 0")
    except BaseException:
        if found:
            found.close()
        raise
    return found


def saved_facts(found: Save, part: str) -> dict[str, Any]:
    """What is said of a part. Raises UnreadableSave where nothing is."""
    facts = found.facts.get(part)
    if not isinstance(facts, dict):
        raise UnreadableSave(found.path, f"it has no {part}")
    return facts


def _open(folder: str, whole: set[int], said: list[list[int]], group: Group) -> Save:
    if not whole:
        none = [rank for rank, numbers in enumerate(said) if not numbers]
        why = f"there is no file of rank {none[0]}" if none else "no save in it has the files of all ranks"
        raise UnreadableSave(folder, why)
    found = Save(os.path.join(folder, f"rank-{group.rank}.{max(whole)}.stead"))
    try:
        for name, needed, what in (
            ("ranks", group.size, "ranks"),
            ("rank", group.rank, "the rank"),
            ("machine", MACHINE, "the machine"),
        ):
            if found.facts.get(name) != needed:
                why = f"it was saved with another number of {what}" if name == "ranks" else f"{what} was another"
                raise UnreadableSave(found.path, f"{why}, {found.facts.get(name)}; here it is {needed}")
    except BaseException:
        found.close()
        raise
    return found


def _numbers(folder: str, rank: int) -> list[int]:
    matches = (re.fullmatch(rf"rank-{rank}\.(\d+)\.stead", name) for name in os.listdir(folder))
    return [int(match[1]) for match in matches if match]


def _sync(folder: str) -> None:
    """So that the name is on the disk, too."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(path: str) -> None:
    with suppress(OSError):  # not there, or not to be removed now: the next save tries again
        os.unlink(path)
