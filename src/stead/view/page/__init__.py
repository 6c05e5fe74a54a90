"""A snapshot as one page of HTML that needs nothing else: opens from disk, asks no network.

The page's data are made by :mod:`stead.view.page.pack`; the rest is the files beside this one, put together as
they are. Its content policy allows the one script and the one style sheet by their digests, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib import metadata, resources
from string import Template
from typing import TYPE_CHECKING

from stead.sizes import format_size
from stead.view.page.pack import KINDS, pack

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# In this order: what is used at once, when a file is read, stands before it.
_SCRIPTS = (
    "model", "gaps", "axis", "view", "palette", "bars", "frame", "labels", "map", "panel", "table", "search",
    "place", "controls", "main",
)  # fmt: skip


def render(snapshot: Mapping[str, Any]) -> str:
    """The page of an artefact of the schema stead.snapshot/1, with all its processes side by side.

    Raises NoSnapshot, a ValueError, where it is of another schema or is not what the schema says.
    """
    data = pack(snapshot)
    script = '"use strict";\n(() => {\n' + "".join(_asset(f"{name}.js") for name in _SCRIPTS) + "})();\n"
    style = _asset("page.css")
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return Template(_asset("page.html")).substitute(
        policy=policy,
        generator=html.escape(f"stead {metadata.version('stead')}"),
        title=html.escape(data["title"]),
        totals=_totals(data),
        chips="\n  ".join(_chips(data)),
        hint=_hint(data),
        notes=_notes(data),
        process_head='<th scope="col">process</th>' if len(data["processes"]) > 1 else "",
        style=style,
        script=script,
        data=_embedded(data),
    )


def _asset(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text("utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _embedded(data: dict[str, Any]) -> str:
    """JSON that no name can end: inside a script element "</script>" and "<!--" have a meaning."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _totals(data: dict[str, Any]) -> str:
    totals = data["totals"]
    mapped, reserved = sum(totals["pages"]), totals["reserved"]
    parts = [
        f"<b>{totals['mappings']:,}</b> mapping{'' if totals['mappings'] == 1 else 's'}",
        f"mapped {_size(data, mapped)} = reserved {_size(data, reserved)} "
        f"+ usable {_size(data, mapped - reserved)}",
    ]
    if totals["resident"] is not None:
        parts.append(f"resident {_size(data, totals['resident'])}")
    return " · ".join(parts)


def _size(data: dict[str, Any], pages: int) -> str:
    return f"<b>{format_size(pages * data['page_size'])}</b>"


def _chips(data: dict[str, Any]) -> list[str]:
    chips = []
    for number, (kind, pages) in enumerate(zip(KINDS, data["totals"]["pages"], strict=True)):
        if pages:
            amount = format_size(pages * data["page_size"])
            swatch = f'<i class="swatch {kind.color} {kind.pattern}"></i>'
            chips.append(
                f'<button type="button" class="chip" data-kind="{number}" aria-pressed="true">{swatch}'
                f"{html.escape(kind.label)} <b>{amount}</b></button>"
            )
    return chips


def _hint(data: dict[str, Any]) -> str:
    if data["totals"]["resident"] is None:
        return "what is in memory: not told"
    return "solid = in memory"


def _notes(data: dict[str, Any]) -> str:
    notes = [(each["label"], note) for each in data["processes"] for note in each["notes"]]
    if not notes:
        return ""
    lines = "".join(f"<li><b>{html.escape(who)}</b>: {html.escape(what)}</li>" for who, what in notes)
    return f'<h2>Not looked at</h2><ul id="notes">{lines}</ul>'
