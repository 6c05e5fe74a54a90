"""What a hub and its members write to each other, as bytes and back. Raises ValueError for anything else."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stead.peers import wire

if TYPE_CHECKING:
    from stead.messages import Message

LONGEST_NAME = 100
SESSION = 16
_TWO_NUMBERS, _NUMBER = struct.Struct(">QQ"), struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class Join:
    """A member's first: its name, for how many seconds it waits in each exchange, and the session that it goes on
    with after its connection was lost, or nothing."""

    name: str
    patience: float
    session: bytes = b""


@dataclass(frozen=True, slots=True)
class Say:
    """A member's message. ``number``: of the exchange, in its session; ``had``: how many agreements it has had."""

    number: int
    had: int
    message: Message


@dataclass(frozen=True, slots=True)
class Leave:
    """A member goes, and is not missed."""


@dataclass(frozen=True, slots=True)
class Welcome:
    session: bytes


@dataclass(frozen=True, slots=True)
class Refuse:
    """To one who wants to join."""

    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What all say together, or who failed and how."""

    number: int
    what: Message | tuple[str, str]


Letter = Join | Say | Leave | Welcome | Refuse | Answer


def write(letter: Letter) -> bytes:
    match letter:
        case Join():
            return b"J" + json.dumps([letter.name, letter.patience, letter.session.hex()]).encode()
        case Say():
            return b"S" + _TWO_NUMBERS.pack(letter.number, letter.had) + wire.encode(letter.message)
        case Leave():
            return b"L"
        case Welcome():
            return b"W" + letter.session
        case Refuse():
            return b"R" + letter.reason.encode()
        case Answer():
            what = letter.what
            body = wire.encode_failure(*what) if isinstance(what, tuple) else wire.encode(what)
            return b"A" + _NUMBER.pack(letter.number) + body


def read(data: bytes) -> Letter:
    try:
        return _read(data[:1], data[1:])
    except (struct.error, TypeError, RecursionError) as error:
        raise ValueError(f"not a letter: {error}") from None


def _read(kind: bytes, body: bytes) -> Letter:
    if kind == b"S":
        number, had = _TWO_NUMBERS.unpack(body[: _TWO_NUMBERS.size])
        return Say(number, had, wire.decode(body[_TWO_NUMBERS.size :]))
    if kind == b"A":
        [number] = _NUMBER.unpack(body[: _NUMBER.size])
        return Answer(number, wire.decode_answer(body[_NUMBER.size :]))
    if kind == b"J":
        name, patience, session = json.loads(body)
        check_name(name)
        if type(patience) is not float or not 0 < patience < math.inf:
            raise ValueError(f"a patience of {patience!r}")
        return Join(name, patience, bytes.fromhex(session))
    if kind == b"W" and len(body) == SESSION:
        return Welcome(body)
    if kind == b"R":
        return Refuse(body.decode())
    if kind == b"L" and not body:
        return Leave()
    raise ValueError(f"not a letter: {kind!r} and {len(body)} bytes")


def check_name(name: object) -> str:
    """Raises TypeError, ValueError: a name is for people, and is repeated in messages of bounded length."""
    if not isinstance(name, str):
        raise TypeError(f"name is {name!r}, must be text")
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise ValueError(f"name is {name!r}, must be 1 to {LONGEST_NAME} printable characters")
    return name
