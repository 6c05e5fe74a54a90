"""`stead record` and `stead replay`: an address space over time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from stead.cli.common import json_option, one_line_errors, pid_argument, print_json
from stead.seeing.files import frames
from stead.seeing.recording import record as record_frames
from stead.seeing.schema import NoSnapshot

if TYPE_CHECKING:
    import click


def commands() -> list[click.Command]:
    import click

    return [
        click.Command(
            "record",
            callback=one_line_errors(record),
            help="Write snapshots of each process PID into FILE, one a line, until the time is over, Ctrl-C, or "
            "one of them ends. What was recorded by then is good.",
            params=[
                pid_argument(nargs=-1, required=True),
                click.Option(
                    ["--seconds"],
                    type=click.FloatRange(0),
                    default=10,
                    show_default=True,
                    help="For how long.",
                ),
                click.Option(
                    ["--every"],
                    type=click.FloatRange(0.01),
                    default=1,
                    show_default=True,
                    help="Seconds between two.",
                ),
                click.Option(
                    ["-o", "--output"],
                    required=True,
                    type=click.Path(dir_okay=False, path_type=Path),
                    metavar="FILE",
                    help="Replaced where it exists.",
                ),
            ],
        ),
        click.Command(
            "replay",
            callback=one_line_errors(replay),
            help="Show how the processes of a recording grew, a line for each snapshot; or one of them, in full.",
            params=[
                click.Argument(["file"], type=click.Path(exists=True, dir_okay=False, path_type=Path)),
                click.Option(["--frame"], type=click.IntRange(0), help="The snapshot of that number, from 0 on."),
                json_option(),
            ],
        ),
    ]


def record(pids: tuple[int, ...], seconds: float, every: float, output: Path) -> None:
    taken = 0
    try:
        for _ in record_frames(output, pids, seconds, every):
            taken += 1
    except KeyboardInterrupt:
        pass
    except OSError as error:
        if not taken:
            raise
        raise type(error)(error.errno, f"{error.strerror}; {taken} snapshots in {output}") from None
    sys.stderr.write(f"{taken} snapshots in {output}\n")


def replay(file: Path, frame: int | None, as_json: bool) -> None:
    from stead.view.changes import print_recording
    from stead.view.space import print_artefact
    from stead.view.text import make_console

    if frame is None:
        if as_json:
            print_json(list(frames(file)))
        else:
            print_recording(make_console(), frames(file))
        return
    number = -1
    for number, taken in enumerate(frames(file)):
        if number == frame:
            print_json(taken) if as_json else print_artefact(make_console(), taken)
            return
    raise NoSnapshot(str(file), f"has {number + 1} snapshots, and none of number {frame}")
