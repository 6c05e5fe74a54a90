"""Draws docs/demo.svg: what `stead demo` prints on this machine, as a terminal would show it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 80

environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
environment.pop("NO_COLOR", None)
done = subprocess.run(
    [sys.executable, "-m", "stead", "demo", "--no-progress"],
    env=environment,
    capture_output=True,
    text=True,
    check=True,
)
# The folder is this machine's own business.
shown = re.sub(r"/\S*/lib/", "/usr/lib/", done.stdout).rstrip()
console = Console(width=COLUMNS, record=True, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
console.print(Text.from_ansi("$ make demo\n\n" + shown))
svg = console.export_svg(title="make demo", unique_id="demo")
# Drawn in any monospaced font that is there, and not in one that a viewer would have to fetch.
svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
Path(__file__).with_name("demo.svg").write_text(svg)
