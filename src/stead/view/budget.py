"""What a process may still map: `stead budget`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stead.sizes import format_size
from stead.view.text import plain, plural, print_facts

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from stead.seeing.budgeting import Budget
    from stead.seeing.shape import Limit


def print_budget(console: Console, budget: Budget) -> None:
    title = f" ({budget.title})" if budget.title else ""
    console.print(plain(console, f"process {budget.pid}{title}"), style="bold")
    limits, host = budget.limits, budget.host
    available = host["memory_available"]
    gap = budget.largest_gap
    print_facts(
        console,
        [
            ("RLIMIT_AS", _size(limits["address_space"])),
            ("RLIMIT_DATA", _size(limits["data"])),
            ("vm.max_map_count", _count(limits["mappings"])),
            ("cgroup memory", _size(limits["memory"])),
            ("overcommit", _overcommit(host["overcommit"], host["committed_memory"])),
            ("memory available", "not told" if available is None else format_size(available)),
            ("addresses", f"{host['address_bits']} bits, from {host['lowest']}"),
            ("largest gap", str(gap) if gap else "none"),
            ("stead holds", _held(budget)),
        ],
    )


def _size(limit: Limit) -> str:
    return _said(limit, format_size)


def _count(limit: Limit) -> str:
    return _said(limit, "{:,}".format)


def _said(limit: Limit, text: Callable[[int], str]) -> str:
    most, used = limit["most"], limit["used"]
    if most is None:
        return "no limit" if used is None else f"no limit, {text(used)} used"
    if used is None:
        return text(most)
    return f"{text(most)}, {text(used)} used, {text(max(most - used, 0))} left"


def _overcommit(policy: str, committed: Limit) -> str:
    if policy != "never":
        return policy
    return f"never: {_size(committed)}"


def _held(budget: Budget) -> str:
    sizes = f"{format_size(budget.held)} of addresses, {format_size(budget.committed)} committed"
    if not budget.published:
        return f"{sizes}, by the names in its maps (more with STEAD_PUBLISH=1)"
    text = f"{plural(budget.reservations, 'reservation')}, {sizes}"
    text += f"; {plural(budget.arenas, 'arena')}, {plural(budget.heaps, 'heap')}"
    return text + (f"; quotas of {format_size(budget.quotas)}" if budget.quotas else "")
