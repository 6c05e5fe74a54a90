"""reserve(): choose a place and claim it. Claims first, and looks only after losing."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import lru_cache, partial
from itertools import count
from typing import TYPE_CHECKING, NamedTuple, SupportsIndex

from stead import events
from stead.agreement import agree, drive
from stead.backing import check_name
from stead.budget import check_room
from stead.devices.constraints import DeviceConstraints, blamed, constrain
from stead.devices.memory import device_number
from stead.devices.reaching import Reaching
from stead.devices.sharing import Managed, space_for
from stead.devices.space import DeviceSpace
from stead.errors import (
    AddressSpaceError,
    Contended,
    LimitReached,
    NoGap,
    Obstacle,
    Occupied,
    RollbackFailed,
    Unsupported,
)
from stead.kernel import Manner
from stead.placement import Placement, Preference
from stead.ranges import Range, align_up
from stead.reservation import Reservation, claim_driven, claim_here
from stead.sizes import parse_at_least, parse_size
from stead.snapshot import SHARED_PREFIX
from stead.space.process import ProcessSpace, this_process

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stead.agreement import Exchange
    from stead.devices.sharing import Sharing
    from stead.placement import Footprint
    from stead.space.protocol import AddressSpace, MemorySpace

    # Of an address and a size: None where they cannot be had, where a driver went elsewhere the address.
    Claim = Callable[[int, int], Reservation | int | None]

# Claims in one window before we say that it is contended. Each loss is followed by a look and a choice
# that differs, so only a storm of other threads gets this far.
_ATTEMPTS = 32

_BIG_PAGE = 1 << 21

# Where the caller gives no seed each reservation of each process makes its own draw, so that processes
# which later exchange reservations seldom sit on each other's. Begun anew after a fork. Steps of the golden
# ratio (Weyl's sequence; a prime, so that no number of places divides it) spread them evenly, at the cost of
# an addition, and numbers that stay below 2**60 are cheaper.
_GOLDEN = 0x278DDE89


def _first_draw() -> int:
    return int.from_bytes(os.urandom(7), "big")


_draws = count(_first_draw(), _GOLDEN)


def _redraw() -> None:
    global _draws
    _draws = count(_first_draw(), _GOLDEN)


os.register_at_fork(after_in_child=_redraw)


def reserve(
    size: SupportsIndex | str,
    *,
    within: Range | tuple[SupportsIndex | str, SupportsIndex | str] | str | None = None,
    align: SupportsIndex | str | None = None,
    guard: SupportsIndex | str = 0,
    at: SupportsIndex | str | None = None,
    name: str | None = None,
    prefer: Preference = "scattered",
    seed: int | None = None,
    space: MemorySpace | None = None,
    together: Exchange | None = None,
    check: bool = False,
    devices: Sequence[int | DeviceConstraints] | None = None,
    sharing: Sharing | None = None,
) -> Reservation:
    """Hold ``size`` bytes of addresses: no memory, no access, and nothing that was there is touched.

    Sizes are in bytes, or text such as "64 GiB"; ``size`` and ``guard`` are rounded up to whole pages.

    ``within``: the window, guards included; by default a quiet one where no known program maps, and when
    that is full, anywhere. ``align``: a power of two up to 1 TiB; by default the page size, and 2 MiB for
    2 MiB and more. ``guard``: bytes on both sides that are held and never committed. ``at``: exactly there.
    ``prefer``: "low", "high", or "scattered", drawn by ``seed`` (by default differently each time).
    ``name``: for people; it appears in ``stead show``, and in /proc/<pid>/maps where the kernel can.
    ``together``: claim the same range in every process at the other ends of an exchange
    (:mod:`stead.peers`), all or none; each of them makes the same call.
    ``check``: first see that it, and memory in it, is within the limits of this process (RLIMIT_AS,
    vm.max_map_count) and that there is a gap, and refuse before anything is tried; a look costs about a
    millisecond.
    ``devices``: that are to use what is committed here, too, at the same addresses: numbers of CUDA devices, and
    DeviceConstraints, which the place obeys.
    ``sharing``: how CUDA devices do, "pageable", "registered", "located" or "managed" (docs/devices.md says what
    each is); by
    default the first of the former three that all of them have, and ``reservation.sharing`` says which it was.

    Raises Occupied (``at`` is taken: by what, and the nearest range that would do), NoGap, Contended,
    LimitReached, PeerFailed, PeersDisagree; Unsupported where the devices cannot share memory so; ValueError or
    TypeError that names the argument.
    """
    if name is not None:
        check_name(name)
    obeyed: tuple[DeviceConstraints, ...] = ()
    if devices is not None:
        numbers, obeyed = _sorted_out(devices)
        if numbers and space is not None:
            raise ValueError(f"space is {space!r}, must not be given when devices has numbers")
        if numbers:
            shared = space_for(numbers, sharing)
            if isinstance(shared, Managed):
                _check_anywhere(within=within, align=align, at=at, seed=seed, together=together)
                where = shared.allocate(parse_at_least(size, "size", 1))
                return _named(Reservation(shared, where, where, name))
            space = shared
    if sharing is not None and (space is None or space.sharing is None):
        raise ValueError(f"sharing is {sharing!r}, must not be given where devices has no number")
    if at is not None:
        for argument, given in (("within", within), ("seed", seed), ("together", together)):
            if given is not None:
                raise ValueError(f"{argument} is {given!r}, must not be given when at is")
        if check:
            check_room(_checkable(space), parse_size(size, "size") + 2 * parse_size(guard, "guard"))
        return _named(_reserve_exactly(space or this_process(), size, at, align, guard, name, obeyed))
    if obeyed:
        planned = plan(space or this_process(), size, within, align, guard, prefer)
        planned = planned._replace(wanted=constrain(planned.wanted, obeyed))
    elif space is None:
        try:
            planned = _plan_here(size, within, align, guard, prefer)  # type: ignore[arg-type]  # see below
        except TypeError:  # an argument that is no key, or that is refused by name
            planned = plan(this_process(), size, within, align, guard, prefer)
    elif isinstance(space, DeviceSpace):
        try:
            planned = _plan_driven(space, size, within, align, guard, prefer)  # type: ignore[arg-type]
        except TypeError:
            planned = plan(space, size, within, align, guard, prefer)
    else:
        planned = plan(space, size, within, align, guard, prefer)
    space, wanted, quick = planned
    if check:
        if together is not None:
            raise ValueError("check is True, must not be given when together is: the others would wait")
        _check(_checkable(space), wanted)
    draw = 0
    if seed is None:
        draw = next(_draws)
        if quick is not None and together is None:
            first, step, total, bytes_held, claim = quick
            reservation = claim(first + draw % total * step, bytes_held)
            if isinstance(reservation, int):
                _evaded(space, first + draw % total * step, bytes_held, reservation)
            elif reservation is not None:
                if name is not None:
                    reservation.name = name
                    return _named(reservation)
                if events.listeners:
                    _tell(reservation)
                return reservation
            if events.listeners:
                _tell_lost(space, Range.sized(first + draw % total * step, bytes_held))
    else:
        wanted = _seeded(wanted, seed)
    if together is not None:
        reached = Reaching(space, obeyed) if obeyed else space
        agreed = drive(agree(reached, wanted, os.urandom(16), together.me), together)
        return _named(Reservation(space, agreed.where, agreed.outer, name, (agreed.token, 0)))
    try:
        where, outer = _search(space, wanted, draw)
    except NoGap as error:
        if not obeyed:
            raise
        free = plan(space, size, within, align, guard, prefer).wanted[-1]
        raise blamed(error, free, obeyed, space.footprint(free.within)) from None
    return _named(Reservation(space, where, outer, name))


def _quick_claim(space: ProcessSpace | DeviceSpace) -> Claim | None:
    """How to claim in this process, in a quiet window, before anybody looks; None where the kernel does not claim
    exactly: there it takes more than a call."""
    if not isinstance(space, DeviceSpace):
        return partial(claim_here, space) if space.manner is Manner.EXACT else None
    if space.driver.functions is None:
        return partial(_claim_through, space)
    return partial(claim_driven, space, *space.driver.functions, space.alignment)


def _claim_through(space: DeviceSpace, address: int, size: int) -> Reservation | None:
    where = Range.sized(address, size)
    try:
        space.reserve_at(where)
    except Occupied:
        return None
    return Reservation(space, where, where)


def _evaded(space: MemorySpace, address: int, size: int, instead: int) -> None:
    """The driver went elsewhere."""
    assert isinstance(space, DeviceSpace)
    space.give_back([space.evaded(Range.sized(address, size), instead)])


def _sorted_out(
    devices: Sequence[int | DeviceConstraints],
) -> tuple[list[int], tuple[DeviceConstraints, ...]]:
    """Numbers of devices, and what all others ask."""
    numbers, obeyed = [], []
    for each in devices:
        if isinstance(each, DeviceConstraints):
            obeyed.append(each)
        else:
            numbers.append(device_number(each, "devices"))
    if not numbers and not obeyed:
        raise ValueError("devices is empty, must name at least one")
    return numbers, tuple(obeyed)


def _check_anywhere(**given: object) -> None:
    for argument, value in given.items():
        if value is not None:
            raise ValueError(
                f"{argument} is {value!r}, must not be given when sharing is 'managed': the driver chooses"
            )


def _checkable(space: MemorySpace | None) -> ProcessSpace:
    space = space or this_process()
    if not isinstance(space, ProcessSpace):
        raise Unsupported("check=True", "a space of this process, whose limits are known", repr(space))
    return space


def _check(space: ProcessSpace, wanted: Sequence[Placement]) -> None:
    """That it could be reserved now. Raises LimitReached, NoGap."""
    placement = wanted[-1]
    page = space.granularity
    check_room(space, align_up(placement.size, page) + 2 * align_up(placement.guard, page))
    if not any(each.slots(space.footprint(each.within)).total for each in wanted):
        raise _no_gap(space, wanted)


def _named(reservation: Reservation) -> Reservation:
    if reservation.name is not None and isinstance(reservation.space, ProcessSpace):
        reservation.space.name(reservation.outer, SHARED_PREFIX + reservation.name)
    if events.listeners:
        _tell(reservation)
    return reservation


def _tell_lost(space: MemorySpace, where: Range) -> None:
    if space.obstacle(where):  # else a limit was in the way, and will be told as an error
        events.emit("claim lost", range=where)


def _tell(reservation: Reservation) -> None:
    events.emit("reserve", range=reservation.range, outer=reservation.outer, name=reservation.name)


class Quick(NamedTuple):
    """Where a claim in this process needs no look and no choice: one of ``total`` places, ``step`` bytes apart.
    ``claim``: how it is made there."""

    first: int
    step: int
    total: int
    size: int
    claim: Claim


class Plan(NamedTuple):
    """What the arguments of a call come to in ``space``: a placement for each window to try, in order, and the
    quick way that is tried before them, if there is one."""

    space: MemorySpace
    wanted: tuple[Placement, ...]
    quick: Quick | None


def plan(
    space: MemorySpace,
    size: SupportsIndex | str,
    within: Range | tuple[SupportsIndex | str, SupportsIndex | str] | str | None,
    align: SupportsIndex | str | None,
    guard: SupportsIndex | str,
    prefer: Preference,
) -> Plan:
    """What :func:`reserve` does with these arguments in ``space``, before it claims anything."""
    bytes_wanted = parse_size(size, "size")
    alignment = _alignment(space, bytes_wanted, align)
    room = _guard(space, guard)
    windows = space.windows if within is None else (Range.parse(within, "within"),)
    wanted = tuple(Placement(bytes_wanted, window, alignment, room, prefer) for window in windows)
    return Plan(space, wanted, None)


@lru_cache(typed=True)
def _plan_here(
    size: SupportsIndex | str,
    within: Range | tuple[SupportsIndex | str, SupportsIndex | str] | str | None,
    align: SupportsIndex | str | None,
    guard: SupportsIndex | str,
    prefer: Preference,
) -> Plan:
    """The plan in this process, worked out once for equal arguments."""
    return _quickly(this_process(), plan(this_process(), size, within, align, guard, prefer))


@lru_cache(typed=True)
def _plan_driven(
    space: DeviceSpace,
    size: SupportsIndex | str,
    within: Range | tuple[SupportsIndex | str, SupportsIndex | str] | str | None,
    align: SupportsIndex | str | None,
    guard: SupportsIndex | str,
    prefer: Preference,
) -> Plan:
    """The same for a driver's space."""
    return _quickly(space, plan(space, size, within, align, guard, prefer))


os.register_at_fork(after_in_child=_plan_driven.cache_clear)  # no driver survives a fork, nor its functions


def _quickly(space: ProcessSpace | DeviceSpace, planned: Plan) -> Plan:
    """With a quick way, if there is one: elsewhere than in a quiet window, what must be kept clear changes."""
    claim = _quick_claim(space)
    placement = planned.wanted[0]
    outline = space.outline(placement.within)
    if claim is None or outline.occupied or placement.guard or placement.prefer != "scattered":
        return planned
    slots = placement.slots(outline)
    if not slots.total:
        return planned
    [(first, total)] = slots.runs
    return planned._replace(quick=Quick(first, slots.step, total, slots.size, claim))


def _seeded(wanted: Sequence[Placement], seed: int) -> tuple[Placement, ...]:
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise TypeError(f"seed is {seed!r}, must be an int")
    return tuple(replace(each, seed=seed) for each in wanted)


def _alignment(space: AddressSpace, size: int, align: SupportsIndex | str | None) -> int:
    if align is None:
        return max(_BIG_PAGE, space.alignment) if size >= _BIG_PAGE else space.alignment
    wanted = parse_size(align, "align")
    return max(wanted, space.alignment) if wanted > 0 and not wanted & (wanted - 1) else max(wanted, 0)


def _guard(space: AddressSpace, guard: SupportsIndex | str) -> int:
    """A claim begins with the guard, and so the guard is what keeps the start aligned."""
    wanted = parse_size(guard, "guard")
    return align_up(wanted, space.alignment) if wanted > 0 else wanted


def _search(space: AddressSpace, wanted: Sequence[Placement], draw: int) -> tuple[Range, Range]:
    """Look, choose and claim until a claim is won."""
    keep: list[Range] = []
    try:
        for placement in wanted:
            if claimed := _search_window(space, placement, draw, keep):
                return claimed
        raise _no_gap(space, wanted)
    finally:
        if keep:
            _release_all(space, keep)


def _search_window(
    space: AddressSpace, placement: Placement, draw: int, keep: list[Range]
) -> tuple[Range, Range] | None:
    seen = avoided = space.outline(placement.within)
    for attempt in range(draw, draw + _ATTEMPTS):
        # A place that we just lost is avoided even where a look does not show why: a kernel may refuse
        # what it lists as free.
        where = placement.choose(avoided, attempt) or placement.choose(seen, attempt)
        if where is None:
            return None
        outer = placement.with_guards(where, seen.granularity)
        try:
            space.reserve_at(outer, keep)
        except Occupied:
            if events.listeners:
                events.emit("claim lost", range=outer)
            seen = space.footprint(placement.within)
            avoided = seen.without(outer)
        else:
            return where, outer
    raise Contended(
        f"{_ATTEMPTS} gaps for {placement} were lost to other threads, one after the other",
        attempts=_ATTEMPTS,
    )


def _release_all(space: AddressSpace, held: list[Range]) -> None:
    leaked = []
    for each in held:
        try:
            space.release(each)
        except AddressSpaceError:
            leaked.append(each)
    if leaked:
        raise RollbackFailed(f"could not be given back: {', '.join(map(str, leaked))}", leaked)


def _no_gap(space: AddressSpace, wanted: Sequence[Placement]) -> AddressSpaceError:
    placement = wanted[-1]
    window = placement.within
    if not window.overlaps(space.usable):
        return LimitReached(f"{window} is outside of {space.usable}, all that can be mapped here", "VA width")
    seen = space.footprint(window)
    largest = seen.occupied.largest_gap(window)
    found = f"the largest gap is {largest}" if largest else "it has no gap at all"
    if largest is None and (by := space.obstacle(window)):
        found += f", being occupied by {by}"
    return NoGap(f"no room for {placement}: {found}", wanted=placement, largest=largest)


# ---- exactly there --------------------------------------------------------------------------------


def _reserve_exactly(
    space: MemorySpace,
    size: SupportsIndex | str,
    at: SupportsIndex | str,
    align: SupportsIndex | str | None,
    guard: SupportsIndex | str,
    name: str | None,
    obeyed: Sequence[DeviceConstraints],
) -> Reservation:
    page = space.granularity
    start = parse_size(at, "at")
    wanted = Placement(
        parse_size(size, "size"), Range(0, 1 << 64), _alignment(space, 1, align), _guard(space, guard)
    )
    if start < 0 or start % space.alignment:
        unit = "the page size" if space.alignment == page else f"where {space!r} claims"
        raise ValueError(f"at is {start:#x}, must be a multiple of {unit}, {space.alignment}")
    if start % wanted.alignment:
        raise ValueError(f"at is {start:#x}, which is not aligned to align, {wanted.alignment:#x}")
    where = Range.sized(start, align_up(wanted.size, page))
    for device in obeyed:
        narrowed = device.narrow(replace(wanted, within=where))
        if (
            narrowed is None
            or narrowed.within != where
            or start % narrowed.alignment
            or narrowed.size > where.size
        ):
            raise ValueError(f"at is {start:#x}, and {where} is not for {device}")
    outer = wanted.with_guards(where, page)
    if outer.start < 0:
        raise ValueError(f"at is {start:#x}, which leaves no room for a guard of {wanted.guard} bytes below")
    claim_exactly(space, outer, wanted.size, wanted.alignment, wanted.guard)
    return Reservation(space, where, outer, name)


def claim_sent(space: ProcessSpace | DeviceSpace, outer: Range) -> Reservation:
    """Claim ``outer``, where it is in another process. Raises what :func:`claim_exactly` does."""
    quiet = any(window.contains(outer) for window in space.windows[:-1])
    if quiet and (claim := _quick_claim(space)):
        found = claim(outer.start, outer.size)
        if isinstance(found, Reservation):
            return found
        if found is not None:
            _evaded(space, outer.start, outer.size, found)
    claim_exactly(space, outer, outer.size)
    return Reservation(space, outer, outer)


def claim_exactly(space: AddressSpace, outer: Range, size: int, alignment: int = 1, guard: int = 0) -> None:
    """Claim ``outer``, or say what is in the way and where the nearest room for ``size`` bytes is."""
    # Not where the stack or the heap will grow: the kernel would let us, and the growth would die of it.
    inside = outer.intersection(space.usable)
    room = inside and next(space.outline(inside).occupied.overlapping(inside), None)
    if room:
        by = Obstacle(
            room, "room that is kept clear (for the stack or the heap to grow, or by a sanitizer)", "this process"
        )
        raise Occupied(outer, by, _nearest(space, outer, size, alignment, guard))
    try:
        space.reserve_at(outer)
    except Occupied:
        if events.listeners:
            events.emit("claim lost", range=outer)
        nearest = _nearest(space, outer, size, alignment, guard)
        raise Occupied(outer, space.obstacle(outer), nearest) from None


def _nearest(space: AddressSpace, where: Range, size: int, alignment: int, guard: int) -> Range | None:
    seen: Footprint = space.footprint(space.usable)
    fitting = Placement(size, space.usable, max(alignment, space.alignment), guard, "low")
    return fitting.nearest(seen, where.start + align_up(guard, space.granularity))
