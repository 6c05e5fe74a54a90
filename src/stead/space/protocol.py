"""What a space must be able to do: five verbs to plan and claim, five more where it has memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Hashable

    from stead._native import Finalizer
    from stead.errors import Obstacle
    from stead.placement import Footprint
    from stead.ranges import Range

Access = Literal["none", "r", "rw", "rx", "rwx"]


class AddressSpace(Protocol):
    """Addresses, acted on from inside. Sizes are multiples of its granularity, starts of claims of its
    alignment."""

    @property
    def identity(self) -> Hashable:
        """Equal identities mean the same addresses."""
        ...

    @property
    def granularity(self) -> int:
        """Bytes; what sizes, and places of memory, are whole multiples of."""
        ...

    @property
    def alignment(self) -> int:
        """Bytes; what starts of claims are multiples of: the granularity, or more."""
        ...

    @property
    def usable(self) -> Range:
        """Everything that can be mapped here."""
        ...

    @property
    def windows(self) -> tuple[Range, ...]:
        """Where to go when the caller does not say, the quietest first; the last is all that is usable."""
        ...

    def outline(self, within: Range) -> Footprint:
        """What is known without looking: what cannot be mapped in ``within``, what must be kept clear."""
        ...

    def footprint(self, within: Range) -> Footprint:
        """The outline and what is mapped in ``within``. A hint: another thread may map in between."""
        ...

    def reserve_at(self, where: Range, keep: list[Range] | None = None) -> None:
        """Claim exactly ``where``, or leave everything as it was.

        Raises Occupied (bare: who is in the way costs a look), LimitReached, ValueError when misaligned.
        Where a claim is only a hint and the kernel or driver goes elsewhere, what it gave is appended to
        ``keep`` for the caller to release: held, it makes the next try differ. Without ``keep`` it is
        given back here.
        """
        ...

    def obstacle(self, where: Range) -> Obstacle | None:
        """What is in the way at ``where``, for saying so; None if there is nothing (any more)."""
        ...

    def release(self, where: Range) -> None:
        """Give back what was claimed. Raises LimitReached and changes nothing where the kernel refuses."""
        ...


class MemorySpace(AddressSpace, Protocol):
    """A space whose addresses can have memory behind them. Only a Reservation calls these, on what it owns."""

    def at_the_end(self, where: Range) -> Finalizer | None:
        """What releases ``where`` when its last reference goes; None where unmapping is all there is to do. Asked
        when a reservation is made, or, of one that was claimed in a single call of C, before its first commit.

        No __del__ does that: in a garbage cycle it may run while a view in the same cycle is still used."""
        ...

    @property
    def usual(self) -> Any:
        """What is committed where the caller does not say."""
        ...

    @property
    def sharing(self) -> str | None:
        """How devices share what is committed; None where none do."""
        ...

    def secure(self, backing: Any, size: int, writable: bool) -> Any:
        """Memory of that kind, on its way to :meth:`commit`: all of ``size`` bytes, so that running out is an
        error now. Raises LimitReached, ValueError, Unsupported where this space cannot have it."""
        ...

    def commit(self, where: Range, source: Any, access: Access) -> None:
        """Put ``source`` behind ``where``. On failure ``where`` is reserved again; RollbackFailed if not."""
        ...

    def decommit(self, where: Range) -> bool:
        """Drop what is behind ``where`` and make it inaccessible. Never fails for want of mappings: False
        says that the contents are dropped, but the range stays accessible until asked again."""
        ...

    def protect(self, where: Range, access: Access) -> None:
        """Change access. ``where`` is committed in one call's worth; on failure nothing has changed."""
        ...

    def discard(self, where: Range, advice: int) -> None:
        """Let the kernel drop contents, by the ``advice`` that the backing names."""
        ...

    def view(self, where: Range, writable: bool, owner: object) -> Any:
        """The memory as a buffer of exactly those bytes (any, not whole pages), which keeps ``owner`` alive."""
        ...

    def pause(self, where: Range, keep: bool) -> None:
        """Give back the memory of all that is committed in ``where``, or nothing; ``keep`` its contents. Raises
        Unsupported where it cannot."""
        ...

    def resume(self, where: Range) -> None:
        """Memory again for all that is paused in ``where``, or nothing."""
        ...

    def paused(self, where: Range) -> bool:
        """Whether any of it is."""
        ...
