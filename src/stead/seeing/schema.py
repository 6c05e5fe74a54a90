"""Whether data is what snapshot-1.schema.json says: as much of JSON Schema as that file uses, and not more.

No library for it, since whoever looks at a recording on a small machine should not have to install one; the tests
hold the two to the same answers.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from stead.seeing.shape import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stead.seeing.shape import Artefact, Holdings

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list, tuple),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


class NoSnapshot(ValueError):
    """What was to be a snapshot is none. ``where``: the path to what is wrong in it."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where or 'the snapshot'} {why}")
        self.where, self.why = where, why

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.where, self.why)


@cache
def schema() -> dict[str, Any]:
    """The JSON schema of :func:`stead.capture`'s result."""
    text = files("stead.seeing").joinpath("snapshot-1.schema.json").read_text(encoding="utf-8")
    return cast("dict[str, Any]", json.loads(text))


def check(data: object) -> Artefact:
    """``data``, which is a snapshot. Raises NoSnapshot."""
    if isinstance(data, dict) and data.get("schema") != SCHEMA:
        raise NoSnapshot("schema", f"is {data.get('schema')!r}, must be {SCHEMA!r}")
    _check(data, schema(), "")
    artefact = cast("Artefact", data)
    for number, process in enumerate(artefact["processes"]):
        path = f"processes[{number}]"
        if process["host"] >= len(artefact["hosts"]):
            raise NoSnapshot(f"{path}.host", f"is {process['host']}, of {len(artefact['hosts'])} hosts")
        _check_order(process["mappings"], f"{path}.mappings", disjoint=True)
        _check_holdings(process, path)
        for at, mapping in enumerate(process["mappings"]):
            if (mapping["reservation"] or 0) >= max(len(process["reservations"]), 1):
                raise NoSnapshot(f"{path}.mappings[{at}].reservation", f"is {mapping['reservation']}: no such one")
    return artefact


def check_holdings(data: object) -> Holdings:
    """``data``, which is what stead holds in a process. Raises NoSnapshot."""
    properties = schema()["$defs"]["process"]["properties"]
    wanted = {key: properties[key] for key in ("reservations", "arenas", "heaps")}
    _check(data, {"type": "object", "required": list(wanted), "properties": wanted}, "")
    holdings = cast("Holdings", data)
    _check_holdings(holdings, "")
    return holdings


def _check_holdings(held: Holdings, path: str) -> None:
    dot = path + "." * bool(path)
    _check_order(held["reservations"], f"{dot}reservations", disjoint=True)
    _check_order(held["arenas"], f"{dot}arenas", disjoint=False)  # an arena may be in a block of another
    _check_order(held["heaps"], f"{dot}heaps", disjoint=True)
    for number, each in enumerate(held["reservations"]):
        here = f"{dot}reservations[{number}]"
        edges = [int(each[key], 16) for key in ("outer_start", "start", "stop", "outer_stop")]
        if edges != sorted(edges):
            raise NoSnapshot(here, "has guards inside of it")
        _check_order(each["parts"], f"{here}.parts", disjoint=True)
        if (
            each["parts"]
            and not edges[1]
            <= int(each["parts"][0]["start"], 16)
            <= int(each["parts"][-1]["stop"], 16)
            <= edges[2]
        ):
            raise NoSnapshot(f"{here}.parts", "are not inside of it")


def _check_order(found: Sequence[Mapping[str, Any]], path: str, *, disjoint: bool) -> None:
    edges = [(int(each["start"], 16), int(each["stop"], 16)) for each in found]
    for number, (start, stop) in enumerate(edges):
        if start >= stop:
            raise NoSnapshot(f"{path}[{number}]", f"stops at {stop:#x}, before it starts at {start:#x}")
    for number, (low, high) in enumerate(pairwise(edges), start=1):
        if high[0] < (low[1] if disjoint else low[0]):
            raise NoSnapshot(f"{path}[{number}]", f"starts at {high[0]:#x}, before the one before it ends")


def _check(data: object, rule: dict[str, Any], path: str) -> None:
    if "$ref" in rule:
        _check(data, schema()["$defs"][rule["$ref"].rpartition("/")[2]], path)
    if "anyOf" in rule:
        _check_any(data, rule["anyOf"], path)
    if "type" in rule:
        kinds = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
        if not any(_is(data, kind) for kind in kinds):
            raise NoSnapshot(path, f"is {_short(data)}, must be of type {' or '.join(kinds)}")
    if "const" in rule and data != rule["const"]:
        raise NoSnapshot(path, f"is {_short(data)}, must be {rule['const']!r}")
    if "enum" in rule and (data not in rule["enum"] or isinstance(data, bool)):
        raise NoSnapshot(path, f"is {_short(data)}, must be one of {', '.join(map(repr, rule['enum']))}")
    if isinstance(data, str):
        if "pattern" in rule and not re.search(rule["pattern"], data, re.ASCII):
            raise NoSnapshot(path, f"is {_short(data)}, must look like {rule['pattern']}")
    elif isinstance(data, int | float):
        if not rule.get("minimum", data) <= data <= rule.get("maximum", data):
            raise NoSnapshot(
                path, f"is {data!r}, which is too {'small' if data < rule.get('minimum', data) else 'large'}"
            )
    elif isinstance(data, dict):
        _check_object(data, rule, path)
    elif isinstance(data, list | tuple):
        _check_array(data, rule, path)


def _check_any(data: object, rules: Sequence[dict[str, Any]], path: str) -> None:
    refusal = None
    for rule in rules:
        try:
            return _check(data, rule, path)
        except NoSnapshot as error:
            refusal = refusal or error
    assert refusal
    raise refusal


def _check_object(data: dict[Any, Any], rule: dict[str, Any], path: str) -> None:
    known = rule.get("properties", {})
    for key in rule.get("required", ()):
        if key not in data:
            raise NoSnapshot(path, f"has no {key!r}")
    for key, value in data.items():
        if key in known:
            _check(value, known[key], f"{path}.{key}" if path else key)
        elif rule.get("additionalProperties") is False:
            raise NoSnapshot(path, f"has {_short(key)}, which {SCHEMA} does not know")


def _check_array(data: Sequence[Any], rule: dict[str, Any], path: str) -> None:
    if not rule.get("minItems", 0) <= len(data) <= rule.get("maxItems", len(data)):
        raise NoSnapshot(path, f"has {len(data)} items")
    ahead = rule.get("prefixItems", ())
    for number, value in enumerate(data):
        if number < len(ahead):
            _check(value, ahead[number], f"{path}[{number}]")
        elif "items" in rule:
            _check(value, rule["items"], f"{path}[{number}]")


def _is(data: object, kind: str) -> bool:
    if kind == "integer" and isinstance(data, float):
        return data.is_integer()
    return isinstance(data, _TYPES[kind]) and (kind == "boolean" or not isinstance(data, bool))


def _short(data: object) -> str:
    text = repr(data)
    return text if len(text) <= 60 else text[:57] + "..."
