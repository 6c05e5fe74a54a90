"""What the commands share: options, arguments as values, and refusals in one line."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from stead.demo.texts import NoText
from stead.demo.workers import WorkerFailed
from stead.errors import AddressSpaceError
from stead.ranges import Range
from stead.seeing import capture
from stead.seeing.files import load
from stead.seeing.schema import NoSnapshot
from stead.sizes import parse_size

if TYPE_CHECKING:
    from collections.abc import Callable

    import click

    from stead.seeing.shape import Artefact

_T = TypeVar("_T")

SIZE_HELP = "In bytes, or as text such as '64 GiB'."


def json_option() -> click.Option:
    import click

    return click.Option(["--json", "as_json"], is_flag=True, help="Print JSON.")


def pid_argument(**more: Any) -> click.Argument:
    """One process, or several: see click.Argument."""
    import click

    settings: dict[str, Any] = {"type": int, "required": False, **more}
    return click.Argument(
        ["pids" if settings.get("nargs") else "pid"],
        metavar="[PID]" + "..." * bool(settings.get("nargs")),
        **settings,
    )


def from_option() -> click.Option:
    import click

    return click.Option(
        ["--from", "source"],
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Look at what --json, or `stead record`, wrote there, and not at a process.",
    )


def taken_of(pids: tuple[int, ...], source: Path | None, *, pages: bool = True) -> Artefact:
    """What the arguments ask to look at: processes, or a file, of which ``pids`` are those to keep."""
    if source is None:
        return capture(*pids, pages=pages)
    found = load(source)
    kept = [each for each in found["processes"] if not pids or each["pid"] in pids]
    if missing := set(pids) - {each["pid"] for each in kept}:
        raise NoSnapshot(str(source), f"has no process {min(missing)}")
    return {**found, "processes": kept}


def print_json(data: Any) -> None:
    sys.stdout.write(json.dumps(data) + "\n")


# ---- arguments as values --------------------------------------------------------------------------


def size(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    return None if value is None else checked(context, parameter, lambda name: parse_size(value, name))


def range_(context: click.Context, parameter: click.Parameter, value: str | None) -> Range | None:
    return None if value is None else checked(context, parameter, lambda name: Range.parse(value, name))


def checked(context: click.Context, parameter: click.Parameter, parse: Callable[[str], _T]) -> _T:
    import click

    try:
        return parse(parameter.name or "")
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from None


# ---- refusals -------------------------------------------------------------------------------------


def one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """What the machine refuses is one line and exit 1; what the arguments got wrong is a usage error."""
    import click

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        try:
            command(**arguments)
        except BrokenPipeError:
            raise  # the reader has seen enough; click ends quietly
        except (AddressSpaceError, OSError, NoText, WorkerFailed, NoSnapshot) as error:
            raise click.ClickException(_message(error)) from None
        except ValueError as error:
            # stead's own messages open with the argument's name.
            context = click.get_current_context()
            first = str(error).partition(" ")[0]
            named = [each for each in context.command.params if each.name in (first, first + "s")]
            if not named:
                raise
            raise click.BadParameter(str(error), context, named[0]) from None

    return run


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and not isinstance(error, AddressSpaceError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)
