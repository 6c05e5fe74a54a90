"""`stead show`: an address space as a picture, in the terminal or as a page."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from stead.cli.common import from_option, json_option, one_line_errors, pid_argument, print_json, taken_of
from stead.sizes import format_size

if TYPE_CHECKING:
    import click


def commands() -> list[click.Command]:
    import click

    return [
        click.Command(
            "show",
            callback=one_line_errors(show),
            help="Show the address space of process PID, by default of this one, or of several in turn.",
            params=[
                pid_argument(nargs=-1),
                click.Option(["--all", "everything"], is_flag=True, help="Every mapping: fold none together."),
                click.Option(
                    ["--html", "page"],
                    type=click.Path(dir_okay=False, path_type=Path),
                    metavar="FILE",
                    help="Write a page for a browser, all processes side by side. Replaced where it exists.",
                ),
                from_option(),
                json_option(),
            ],
        )
    ]


def show(pids: tuple[int, ...], everything: bool, page: Path | None, source: Path | None, as_json: bool) -> None:
    taken = taken_of(pids, source)
    if page is not None:
        from stead.view.page import render

        size = _replace(page, render(taken).encode())
        mappings = sum(len(each["mappings"]) for each in taken["processes"])
        if not as_json:
            print(
                f"{page}: {mappings:,} mapping{'s' * (mappings != 1)}, {format_size(size)}; open it in a browser"
            )
    if as_json:
        print_json(taken)
    if as_json or page is not None:
        return
    from stead.view.space import print_artefact
    from stead.view.text import make_console

    print_artefact(make_console(), taken, everything=everything)


def _replace(path: Path, data: bytes) -> int:
    """The whole file or, where it cannot be written, what was there before. Returns its size."""
    if path.exists() and not path.is_file():  # /dev/stdout, a pipe: nothing to keep
        return path.write_bytes(data)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        size = unfinished.write_bytes(data)
        unfinished.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise
    return size
