"""What a symmetric heap does with its slices, and how all of it is saved and restored."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex

from stead.errors import Unsupported
from stead.ranges import Range
from stead.symmetric.group import Group
from stead.symmetric.image import Segment
from stead.symmetric.plan import Plan
from stead.symmetric.saving import find, save, saved_facts

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from threading import RLock
    from typing import Self

    from mpi4py import MPI

    from stead.symmetric.image import Save
    from stead.symmetric.memory import SymmetricMemory
    from stead.symmetric.migration import Arrival
    from stead.symmetric.slices import Slices
    from stead.symmetric.voting import Voting


class WithSlices:
    """The part of :class:`stead.SymmetricHeap` that is about slices and files."""

    _slices: Slices | None
    _memory: SymmetricMemory
    _plan: Plan
    _voting: Voting
    _where: Range
    _lock: RLock
    name: str | None

    @property
    def slices(self) -> Slices:
        """Where each rank allocates by itself. Raises Unsupported where the heap was made without, Released."""
        self._check_open()
        if self._slices is None:
            raise Unsupported("a slice for each rank", "a heap made with slice=", f"{self!r}, made without")
        return self._slices

    def migrate(
        self,
        blocks: Iterable[SupportsIndex] | SupportsIndex | None = None,
        *,
        to: SupportsIndex | None = None,
        copy: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> list[Arrival]:
        """Move blocks of the slices to rank ``to`` (collective): see :meth:`stead.symmetric.Slices.migrate`."""
        return self.slices.migrate(blocks, to=to, copy=copy, progress=progress)

    def save(self, folder: str | os.PathLike[str]) -> str:
        """Save the heap with all contents, slices included, one file for each rank, in place of the older save in
        ``folder`` (made where there is none): the path of this rank's. Collective; nobody may use the heap
        meanwhile.

        The older save stays whole until the new one is, whoever is killed. Raises LimitReached where the disk is
        full, OSError; PeerFailed where another rank could not, or went away; Released.
        """
        with self._lock:
            self._check_open()
            self.barrier()
            facts: dict[str, Any] = {
                "symmetric": {
                    "address": self._where.start,
                    "size": self._where.size,
                    "slice": 0 if self._slices is None else self._slices.slice_of(0).size,
                    "name": self.name,
                    "plan": self._plan.to_json(),
                }
            }
            segments = {"symmetric": self._secured()}
            if self._slices is not None:
                self._slices.collect()
                facts["slices"], more = self._slices.image()
                segments |= more
            with Group(self._voting.comm, self._voting.timeout) as group:
                return save(group, os.fspath(folder), facts, segments)

    @classmethod
    def restore(
        cls,
        folder: str | os.PathLike[str],
        comm: MPI.Intracomm,
        *,
        check: bool = False,
        onesided: Literal["auto", "mpi"] = "auto",
        timeout: float = 30.0,
    ) -> Self:
        """What as many ranks saved, at the same addresses (collective): the newest save of which every rank has
        its file; allocation goes on where it was.

        Raises Occupied where the addresses are taken here, which says by what; UnreadableSave where the file is
        damaged, cut off or not one for this rank; LimitReached, OSError; PeerFailed where another rank could not.
        Nothing is held then.
        """
        with Group(comm, timeout) as group, closing(find(group, os.fspath(folder))) as found:
            wrong: BaseException | None = None
            try:
                facts = saved_facts(found, "symmetric")
                saved = facts["address"], Plan.from_json(facts["plan"])
            except BaseException as error:
                wrong = error
            group.vote(wrong, "read its file")
            made = cls(
                facts["size"], comm, name=facts["name"], slice=facts["slice"],
                check=check, onesided=onesided, timeout=timeout, _saved=saved,
            )  # fmt: skip
            try:
                group.run(made._refill(found), "read its file")
            except BaseException:
                made.close()
                raise
            return made

    def _refill(self, found: Save) -> Generator[None]:
        self._memory.secure(list(self._plan.secured))
        segments = {"symmetric": self._secured()}
        if self._slices is None:
            yield from found.load(segments)
        else:
            yield from self._slices.refill(found, saved_facts(found, "slices"), segments)
        for offset, size in self._plan.blocks():
            self._add(self._where.start + offset, self._where.start + offset + size)

    def _secured(self) -> Segment:
        start = self._where.start
        return Segment(start, [Range(start + each.start, start + each.stop) for each in self._plan.secured])

    if TYPE_CHECKING:

        def __init__(self, size: int, comm: MPI.Intracomm, **options: Any) -> None: ...
        def _check_open(self) -> None: ...
        def _add(self, start: int, stop: int, /) -> None: ...
        def barrier(self, timeout: float | None = None) -> None: ...
        def close(self) -> None: ...
