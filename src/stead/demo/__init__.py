"""The main job, shown on real text: an index of raw pointers that every process follows as they are.

One process builds a word index in shared memory (`index.py`), fresh workers receive it by pickling and
follow its pointers (`workers.py`), and every answer is compared with a count that was made without the
index (`texts.py`). The same answers by way of a pickled dict stand beside it, for the time they take.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from stead.claiming import reserve
from stead.demo.index import Answer, PlainIndex, build, expected, postings
from stead.demo.texts import NoText, count_by_pattern, count_by_splitting, read
from stead.demo.workers import Meeting, WorkerFailed, Workers

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from stead.demo.index import Index
    from stead.demo.texts import Texts
    from stead.ranges import Range

__all__ = ["NoText", "Result", "WorkerFailed", "run"]

# Bytes of addresses for each byte of text, and for files with next to none. Four-letter words that all
# differ come to 18. Addresses are free; memory is committed as it is needed, and nothing moves.
_ROOM, _LEAST_ROOM = 32, 1 << 30

# Asked besides the random sample: the words with the longest chains, and some that are nowhere.
_COMMONEST = 50
_ABSENT = 10


class Progress(Protocol):
    """Told of the work while it goes on."""

    def __call__(self, doing: str, done: int, total: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Result:
    """What happened. ``disagreements``: every address and every count that was not as it must be."""

    folder: str
    files: int
    skipped: int
    text_size: int
    words: int
    postings: int
    index_size: int
    where: Range
    seed: int
    queries: list[bytes]
    builder: int
    by_pointers: Meeting
    by_pickle: Meeting
    disagreements: list[str]

    def to_json(self) -> dict[str, Any]:
        """Plain data for :func:`json.dumps`: addresses and sizes in bytes, times in seconds."""
        return {
            "folder": self.folder,
            "files": self.files,
            "skipped": self.skipped,
            "text_size": self.text_size,
            "words": self.words,
            "postings": self.postings,
            "index_size": self.index_size,
            "address": self.where.start,
            "seed": self.seed,
            "queries": len(self.queries),
            "builder": self.builder,
            "by_pointers": _summary(self.by_pointers),
            "by_pickle": _summary(self.by_pickle),
            "disagreements": self.disagreements,
        }


def _summary(meeting: Meeting) -> dict[str, Any]:
    return {
        "sent": meeting.sent,
        "received": meeting.received,
        "answered": meeting.answered,
        "workers": [
            {"pid": pid, "address": address, "answers": len(answers)}
            for pid, address, answers in zip(meeting.pids, meeting.addresses, meeting.answers, strict=True)
        ],
    }


def run(
    folder: Path | None = None,
    *,
    workers: int = 4,
    queries: int = 2000,
    seed: int | None = None,
    progress: Progress = lambda doing, done, total: None,
) -> Result:
    """Index the text of ``folder`` (by default the standard library's sources) and meet ``workers`` there.

    ``queries``: random words asked of each worker, drawn by ``seed``, besides the commonest ones.
    Raises NoText, OSError, WorkerFailed, and what :func:`stead.reserve` raises.
    """
    seed = int.from_bytes(os.urandom(4), "big") if seed is None else seed
    progress("reading", 0, 1)
    texts = read(folder)

    counted = list(_count("counting", count_by_splitting, texts, progress))
    asked = _draw(queries, seed, counted)
    wanted = [expected(word, counted) for word in asked]
    distinct = len(set().union(*(counts for _, counts in counted)))
    del counted

    words = postings(_count("indexing", count_by_pattern, texts, progress))
    with reserve(_LEAST_ROOM + _ROOM * texts.size, name="demo") as reservation:
        index = build(words, reservation, lambda done: progress("writing the pointers", done, len(words)))
        by_pointers = _meet("meeting by pointers", workers, index, asked, progress)
        by_pickle = _meet("meeting by pickle", workers, PlainIndex(words), asked, progress)
        disagreements = _compare_addresses(reservation.address, by_pointers.addresses)
        if distinct != len(words):
            disagreements.append(f"the index has {len(words)} words, and the text has {distinct}")
        for meeting in (by_pointers, by_pickle):
            disagreements += _compare_answers(asked, wanted, meeting)
        return Result(
            folder=texts.folder,
            files=len(texts.files),
            skipped=texts.skipped,
            text_size=texts.size,
            words=len(words),
            postings=sum(map(len, words.values())),
            index_size=reservation.committed.size,
            where=reservation.range,
            seed=seed,
            queries=asked,
            builder=os.getpid(),
            by_pointers=by_pointers,
            by_pickle=by_pickle,
            disagreements=disagreements,
        )


def _count(
    doing: str, count: Callable[[bytes], Counter[bytes]], texts: Texts, progress: Progress
) -> Iterator[tuple[str, Counter[bytes]]]:
    for done, (path, data) in enumerate(texts.files):
        progress(doing, done, len(texts.files))
        yield path, count(data)


def _draw(number: int, seed: int, counted: Sequence[tuple[str, dict[bytes, int]]]) -> list[bytes]:
    """The words to ask for, each once: drawn from the text, never from the index, which might lack some."""
    totals: dict[bytes, int] = {}
    for _, counts in counted:
        for word, count in counts.items():
            totals[word] = totals.get(word, 0) + count
    vocabulary = sorted(totals)
    drawn = random.Random(seed).sample(vocabulary, min(number, len(vocabulary)))
    commonest = sorted(vocabulary, key=lambda word: (-totals[word], word))[:_COMMONEST]
    absent = [b"no word has a space %d" % each for each in range(_ABSENT)]
    return list(dict.fromkeys([*drawn, *commonest, *absent]))


def _meet(doing: str, workers: int, index: Index, words: Sequence[bytes], progress: Progress) -> Meeting:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(doing, done, 3 * workers)

    progress(doing, 0, 3 * workers)
    with Workers(workers) as started:
        return started.meet(index, words, step)


def _compare_addresses(here: int, there: Sequence[int | None]) -> list[str]:
    return [
        f"worker {number} has the index at {_written(address)}, and the builder has it at {_written(here)}"
        for number, address in enumerate(there, start=1)
        if address != here
    ]


def _written(address: int | None) -> str:
    return "no address" if address is None else f"{address:#x}"


def _compare_answers(words: Sequence[bytes], wanted: Sequence[Answer], meeting: Meeting) -> list[str]:
    return [
        f"worker {number} (pid {pid}) says of {word.decode()!r}: {answer}; counted: {right}"
        for number, (pid, answers) in enumerate(zip(meeting.pids, meeting.answers, strict=True), start=1)
        for word, answer, right in zip(words, answers, wanted, strict=True)
        if answer != right
    ]
