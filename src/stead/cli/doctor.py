"""`stead doctor`: what this machine offers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stead.cli.common import json_option, one_line_errors, print_json

if TYPE_CHECKING:
    import click


def commands() -> list[click.Command]:
    import click

    return [
        click.Command(
            "doctor",
            callback=one_line_errors(doctor),
            help="Say what this machine offers: kernel, limits, and each feature, found by trying it.",
            params=[json_option()],
        )
    ]


def doctor(as_json: bool) -> None:
    from stead.doctor import examine

    report = examine()
    if as_json:
        print_json(report.to_json())
        return
    from stead.view.report import print_report
    from stead.view.text import make_console

    print_report(make_console(), report)
