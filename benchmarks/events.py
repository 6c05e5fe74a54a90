"""What events cost: nothing to speak of while nobody listens.

The same code with and without its lines for events, in one process and in turns: `if events.listeners: …` is taken
out of the source, and the rest compiled again. A bound that is missed is printed as missed; the exit status is 0.
"""

from __future__ import annotations

import argparse
import ast
import gc
import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

from harness import Bound, Report, Row, Section, in_turns, timed

import stead
from stead import events

if TYPE_CHECKING:
    from collections.abc import Callable


class _Without(ast.NodeTransformer):
    """Takes out what asks for listeners."""

    removed = 0

    def visit_If(self, node: ast.If) -> ast.AST | None:
        self.generic_visit(node)
        if ast.unparse(node.test) != "events.listeners":
            return node
        self.removed += 1
        return ast.copy_location(ast.Pass(), node)

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        return node.orelse if ast.unparse(node.test) == "events.listeners" else node


def without_events(name: str, **replaced: Any) -> Any:
    """Module ``name`` compiled again, without events; ``replaced``: names that it shall take from elsewhere."""
    module = importlib.import_module(name)
    assert module.__file__
    with open(module.__file__, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    transformer = _Without()
    tree = ast.fix_missing_locations(transformer.visit(tree))
    assert transformer.removed, f"{name} has no events"
    made = types.ModuleType(f"{name}_without_events")
    made.__package__, made.__file__ = module.__package__, module.__file__
    sys.modules[made.__name__] = made  # dataclasses look there
    exec(compile(tree, module.__file__, "exec"), made.__dict__)
    made.__dict__.update(replaced)
    return made


def _pair(arena: stead.Arena, size: int) -> Callable[[], object]:
    allocate, free = arena.allocate, arena.free
    return lambda: free(allocate(size))


def _block(arena: stead.Arena) -> Callable[[], object]:
    make = arena.block
    return lambda: make(4096)


def compare(title: str, cases: dict[str, tuple[Any, Any]], rounds: int, n: int) -> Section:
    """Each case with and without events; then with somebody who listens and does nothing."""
    section = Section(title)
    for label, (with_events, without) in cases.items():
        samples = in_turns({"with": timed(with_events), "without": timed(without)}, rounds, n)
        against = ("without events", samples["without"])
        section.rows.append(Row(label, samples["with"], against, Bound("<=", 1.01)))
        with events.subscribe(lambda event: None):
            heard = in_turns({"heard": timed(with_events), "without": timed(without)}, max(rounds // 3, 3), n)
        section.rows.append(Row(f"{label}, and one listens", heard["heard"], ("without events", heard["without"])))
    return section


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run; its numbers mean little")
    parser.add_argument("--json", metavar="FILE", help="write all samples, in nanoseconds")
    options = parser.parse_args()
    rounds, n = (3, 500) if options.quick else (61, 20_000)

    reservation = without_events("stead.reservation")
    claiming = without_events(
        "stead.claiming", Reservation=reservation.Reservation, claim_here=reservation.claim_here
    )
    arena = without_events("stead.arena.arena")
    with_events, without = stead.Arena("1 GiB"), arena.Arena("1 GiB")
    report = Report(rounds)
    gc.collect()
    report.show(
        compare(
            "arena",
            {
                "allocate and free 4 KiB": (_pair(with_events, 4096), _pair(without, 4096)),
                "allocate and free 1 MiB": (_pair(with_events, 1 << 20), _pair(without, 1 << 20)),
                "a block of 4 KiB": (_block(with_events), _block(without)),
            },
            rounds,
            n,
        ),
        compare(
            "reservation",
            {
                "reserve and release 64 MiB": (
                    lambda: stead.reserve("64 MiB").release(),
                    lambda: claiming.reserve("64 MiB").release(),
                )
            },
            rounds,
            n // 20,
        ),
    )
    report.end(options.json)


if __name__ == "__main__":
    main()
