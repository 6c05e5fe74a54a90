"""Every exception of stead, in one tree. Owns the messages' form; knows no system call.

All of them can be pickled, since they cross from workers to their parents.
"""

from __future__ import annotations

import errno as _errno
from dataclasses import dataclass
from enum import Enum
from queue import Empty, Full
from threading import BrokenBarrierError
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from stead.ranges import Range


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What is in the way: a mapping or a room that must stay free, its name, and whose it is."""

    range: Range
    name: str
    owner: str

    def __str__(self) -> str:
        return f"{self.name or 'an anonymous mapping'} at {self.range} of {self.owner}"


class AddressSpaceError(Exception):
    """Base of every refusal that has to do with addresses."""

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.__dict__.update(facts)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.args, dict(self.__dict__))

    def __str__(self) -> str:
        return str(self.args[-1]) if self.args else ""


def _rebuilt(kind: type[AddressSpaceError], args: tuple[Any, ...], facts: dict[str, Any]) -> AddressSpaceError:
    """Every class below takes a message and its facts by name; pickle calls with positions only."""
    made: AddressSpaceError
    if issubclass(kind, MemoryError):
        made = kind(*args)  # MemoryError.__new__ refuses a class whose first base is another
    else:
        made = kind.__new__(kind)
    if isinstance(made, OSError):
        OSError.__init__(made, *args)  # which keeps the errno where Python code cannot set it
    else:
        made.args = args
    made.__dict__.update(facts)
    return made


class _WithErrno(AddressSpaceError, OSError):
    """Also an OSError, with its errno, for callers who catch those."""

    def __init__(self, message: str, errno: int, **facts: Any) -> None:
        OSError.__init__(self, errno, message)
        self.__dict__.update(facts)


class Occupied(_WithErrno, FileExistsError):
    """The place is taken. Nothing there was touched.

    ``range`` is what was wanted, ``by`` the :class:`Obstacle` in the way (None where it was gone
    before we could look), ``nearest`` the nearest range that would do, or None.
    """

    range: Range
    by: Obstacle | None
    nearest: Range | None

    def __init__(
        self, range: Range, by: Obstacle | None = None, nearest: Range | None = None, message: str = ""
    ) -> None:
        text = message or f"{range} is occupied" + (f" by {by}" if by else "")
        if nearest is not None and not message:
            text += f"; the nearest range that would do is {nearest}"
        super().__init__(text, _errno.EEXIST, range=range, by=by, nearest=nearest)


class NoGap(AddressSpaceError):
    """No range fits. ``wanted`` is the placement, ``largest`` the largest gap in its window, or None."""

    wanted: Any
    largest: Range | None


class Contended(AddressSpaceError):
    """There were gaps, and others took each one first. ``attempts`` says how often."""

    attempts: int


class LimitReached(_WithErrno):
    """The kernel, the hardware or an administrator sets a limit. ``limit`` names it."""

    limit: str

    def __init__(self, message: str, limit: str, errno: int = _errno.ENOMEM) -> None:
        super().__init__(message, errno, limit=limit)


class Unsupported(AddressSpaceError):
    """``feature`` was asked for, takes ``needs``, and ``found`` is what there is."""

    feature: str
    needs: str
    found: str

    def __init__(self, feature: str, needs: str, found: str) -> None:
        super().__init__(f"{feature} needs {needs}; found: {found}", feature=feature, needs=needs, found=found)


class PeerFailed(AddressSpaceError):
    """``peer`` went away or broke the protocol (``reason``); everything taken here was given back."""

    peer: str
    reason: str

    def __init__(self, peer: str, reason: str) -> None:
        super().__init__(f"{peer}: {reason}", peer=peer, reason=reason)


class WrongKey(PeerFailed):
    """``peer`` has not shown that it knows our key, or says that we do not know its."""


class PeersDisagree(AddressSpaceError):
    """The participants ask for different things; ``what`` says which."""

    what: str

    def __init__(self, what: str) -> None:
        super().__init__(f"the peers ask for different things: {what}", what=what)


class RollbackFailed(AddressSpaceError):
    """A step failed, and so did giving back what it took. ``leaked`` is what is still held, and where."""

    leaked: Sequence[Range]

    def __init__(self, message: str, leaked: Sequence[Range]) -> None:
        super().__init__(message, leaked=tuple(leaked))


class Released(AddressSpaceError):
    """Used after its release."""


class Paused(AddressSpaceError):
    """``range`` has its addresses, and no memory until it is resumed."""

    range: Range


class Meaning(Enum):
    """What an error of a driver comes to."""

    OUT_OF_MEMORY = "out of memory"
    INVALID = "an argument that is not valid"
    UNSUPPORTED = "not supported"
    NOT_READY = "not ready"
    GONE = "the driver or the device is gone"
    OTHER = "something else"


class DriverError(AddressSpaceError):
    """``call`` was answered ``name`` (``code``) by a driver; ``meaning`` is what that comes to."""

    call: str
    code: int
    name: str
    meaning: Meaning

    def __init__(self, call: str, code: int, name: str, meaning: Meaning, text: str = "") -> None:
        super().__init__(
            f"{call} answered {name} ({code})" + (f": {text}" if text else ""),
            call=call, code=code, name=name, meaning=meaning,
        )  # fmt: skip


class UnreadableMaps(AddressSpaceError, ValueError):
    """A line of a maps file that cannot be read. ``number`` counts from 1, ``line`` is the text."""

    number: int
    line: str

    def __init__(self, number: int, line: str, why: str) -> None:
        super().__init__(f"line {number} of the maps cannot be read, {why}: {line!r}", number=number, line=line)


class UnreadableSave(AddressSpaceError, ValueError):
    """``path`` is no save that can be restored here: damaged, cut off, of another program or another machine;
    ``why`` says which."""

    path: str
    why: str

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path} cannot be restored: {why}", path=path, why=why)


class OutOfSpace(AddressSpaceError, MemoryError):
    """An arena has no free run that is large enough for ``size`` bytes; the largest has ``largest_free_run``."""

    size: int
    largest_free_run: int


class OverQuota(OutOfSpace):
    """An arena would need more than its ``quota``, of which ``used`` bytes are in live blocks, for ``size`` more
    bytes."""

    quota: int
    used: int


class NotLive(AddressSpaceError, ValueError):
    """``address`` is not that of a live block. ``freed_at``: where it was freed, if the arena is hardened."""

    address: int
    freed_at: str | None = None


class Corrupted(AddressSpaceError, RuntimeError):
    """Memory was written by somebody who did not own it: past the end of a block, after its end, or in the tables
    of an arena. ``address``: of the block, or of what the tables say of it."""

    address: int
    freed_at: str | None = None


class OwnerDied(AddressSpaceError):
    """The process that held a lock of a heap died in it. The lock is held by the caller now; what it guards may be
    half done."""


class ChannelClosed(AddressSpaceError):
    """The channel was closed: nothing can be sent any more, and all that was sent has been received."""


class BarrierOwnerDied(OwnerDied, BrokenBarrierError):
    """A process was killed that waited at a barrier, or ran its action."""


class ChannelEmpty(AddressSpaceError, TimeoutError, Empty):
    """Nothing came in time. Also a TimeoutError, and a queue.Empty."""


class ChannelFull(AddressSpaceError, TimeoutError, Full):
    """There was no room in time. Also a TimeoutError, and a queue.Full."""
