"""Messages of an agreement as bytes and back: JSON, bounded, never pickle. Raises ValueError for anything else."""

from __future__ import annotations

import json
import zlib
from base64 import b64decode, b64encode
from typing import Any

from stead.grid import CELLS
from stead.messages import (
    NAMED,
    NOMINEES,
    Agreed,
    Ballot,
    Blame,
    Candidate,
    Discord,
    Look,
    Message,
    Proposal,
    Request,
    Said,
    Settled,
    Step,
    Vote,
)
from stead.placement import Placement
from stead.ranges import Range

# The longest message of ours has less than half of that.
MAX_BYTES = 1 << 16


def encode(message: Message) -> bytes:
    return json.dumps(_plain(message), separators=(",", ":")).encode()


def encode_failure(peer: str, reason: str) -> bytes:
    return json.dumps({"failed": [peer, reason]}).encode()


def decode(data: bytes) -> Message:
    answer = decode_answer(data)
    if isinstance(answer, tuple):
        raise ValueError("not a message of an agreement, but a failure")
    return answer


def decode_answer(data: bytes) -> Message | tuple[str, str]:
    """The merged message, or who failed and how."""
    try:
        plain = json.loads(data)
        if "failed" in plain:
            peer, reason = plain["failed"]
            return str(peer), str(reason)
        return _message(plain)
    except (KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a message of an agreement: {error!r}") from None


# ---- to plain data ----


def _plain(message: Message) -> dict[str, Any]:
    match message:
        case Proposal():
            look = message.look
            return {
                "token": message.token.hex(),
                "wanted": [[w.size, *w.within, w.alignment, w.guard, w.prefer] for w in message.wanted],
                "granularity": message.granularity,
                "requests": [[*request, peer] for request, peer in message.requests],
                "look": look
                and [look.key.hex(), _packed(look.touched), _packed(look.full), look.nominees, look.lost],
                "peers": message.peers,
            }
        case Vote():
            return {
                "vote": _agreed(message.agreed),
                "lost": message.lost,
                "refused": message.refused,
                "alike": message.alike,
            }
        case Blame():
            return {
                "blame": [[*each.where, each.blocked, each.by] for each in message.candidates],
                "occupied": _packed(message.occupied),
            }
        case Settled():
            return {"settled": _agreed(message.agreed), "request": message.request}
        case Ballot():
            return {"ballot": message.steps, "refused": message.refused}
        case Discord():
            return {"discord": message.what}


def _agreed(agreed: Agreed) -> list[Any]:
    return [*agreed.where, *agreed.outer, agreed.token.hex()]


def _packed(bitmap: int) -> str:
    """Most are all zeros or nearly."""
    return b64encode(zlib.compress(bitmap.to_bytes(-(-bitmap.bit_length() // 8), "big"))).decode()


# ---- and back ----


def _message(plain: dict[str, Any]) -> Message:
    if "vote" in plain:
        return Vote(
            _agreed_back(plain["vote"]), _said(plain["lost"]), _said(plain["refused"]), _bool(plain["alike"])
        )
    if "blame" in plain:
        candidates = tuple(
            Candidate(_range(start, stop), _whole(blocked), _said(by))
            for start, stop, blocked, by in plain["blame"]
        )
        return Blame(_few(candidates, NOMINEES), _unpacked(plain["occupied"]))
    if "settled" in plain:
        return Settled(_agreed_back(plain["settled"]), _request(*plain["request"]))
    if "ballot" in plain:
        steps = tuple(Step(_text(what), _whole(peers), _text(first)) for what, peers, first in plain["ballot"])
        return Ballot(_few(steps, NAMED), _said(plain["refused"]))
    if "discord" in plain:
        return Discord(_text(plain["discord"]))
    return _proposal(plain)


def _proposal(plain: dict[str, Any]) -> Proposal:
    wanted = tuple(
        Placement(_whole(size), _range(start, stop), _whole(alignment), _whole(guard), prefer)
        for size, start, stop, alignment, guard, prefer in plain["wanted"]
    )
    if not wanted:
        raise ValueError("a proposal that wants nothing")
    granularity = _whole(plain["granularity"])
    if granularity <= 0 or granularity & (granularity - 1):
        raise ValueError(f"a granularity of {granularity}, which is no power of two")
    requests = tuple((_request(*request), _text(peer)) for *request, peer in plain["requests"])
    look = None
    if plain["look"] is not None:
        key, touched, full, names, lost = plain["look"]
        look = Look(
            bytes.fromhex(key),
            _unpacked(touched),
            _unpacked(full),
            _few(tuple(map(_whole, names)), NOMINEES),
            _bool(lost),
        )
    token = bytes.fromhex(plain["token"])
    if len(token) != 16:
        raise ValueError(f"a token of {len(token)} bytes")
    return Proposal(token, wanted, granularity, _few(requests, NAMED), look, _whole(plain["peers"]))


def _request(size: Any, alignment: Any, guard: Any, prefer: Any) -> Request:
    return Request(_whole(size), _whole(alignment), _whole(guard), _text(prefer))


def _agreed_back(plain: Any) -> Agreed:
    start, stop, outer_start, outer_stop, token = plain
    return Agreed(_range(start, stop), _range(outer_start, outer_stop), bytes.fromhex(token))


def _said(plain: Any) -> tuple[Said, ...]:
    return _few(tuple(Said(_text(peer), _text(what)) for peer, what in plain), NAMED)


def _unpacked(text: Any) -> int:
    """Bounded: a small message must not become a large one here."""
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(b64decode(_text(text), validate=True), CELLS // 8 + 1)
    except zlib.error as error:
        raise ValueError(f"not a bitmap: {error}") from None
    if len(data) > CELLS // 8 or not unpacker.eof:
        raise ValueError(f"not a bitmap of at most {CELLS} bits")
    return int.from_bytes(data, "big")


def _range(start: Any, stop: Any) -> Range:
    if not 0 <= _whole(start) < _whole(stop):
        raise ValueError(f"not a range: {start}, {stop}")
    return Range(start, stop)


def _few(items: tuple[Any, ...], most: int) -> tuple[Any, ...]:
    if len(items) > most:
        raise ValueError(f"{len(items)} of what there are at most {most} of")
    return items


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"not text: {value!r}")
    return value


def _bool(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError(f"not true or false: {value!r}")
    return value


def _whole(number: Any) -> int:
    """JSON has floats, and Python takes them where it compares: they would get as far as the arithmetic."""
    if type(number) is not int:
        raise ValueError(f"not a whole number: {number!r}")
    return number
