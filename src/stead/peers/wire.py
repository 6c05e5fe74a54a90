"""Messages of an agreement as bytes and back: JSON, bounded, never pickle. Raises ValueError for anything else."""

from __future__ import annotations

import json
from typing import Any

from stead.agreement import Message, Proposal, Vote
from stead.placement import Footprint, Placement
from stead.ranges import Range, RangeSet

# The footprints of some hundred peers fit in, coarsened as they are; what is larger is no message of ours.
MAX_BYTES = 1 << 22


def encode(message: Message) -> bytes:
    return json.dumps(_plain(message), separators=(",", ":")).encode()


def encode_all(messages: list[Message]) -> bytes:
    return json.dumps({"all": [_plain(each) for each in messages]}, separators=(",", ":")).encode()


def encode_failure(peer: str, reason: str) -> bytes:
    return json.dumps({"failed": [peer, reason]}).encode()


def decode(data: bytes) -> Message:
    try:
        return _message(json.loads(data))
    except (KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a message of an agreement: {error!r}") from None


def decode_all(data: bytes) -> list[Message] | tuple[str, str]:
    """Everyone's messages, or who failed and how."""
    try:
        plain = json.loads(data)
        if "failed" in plain:
            peer, reason = plain["failed"]
            return str(peer), str(reason)
        messages = [_message(each) for each in plain["all"]]
    except (KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ValueError(f"not the messages of an agreement: {error!r}") from None
    if not messages:
        raise ValueError("not the messages of an agreement: there are none")
    return messages


def _plain(message: Message) -> dict[str, Any]:
    if isinstance(message, Vote):
        return {"claimed": message.claimed, "reason": message.reason}
    return {
        "token": message.token.hex(),
        "wanted": [[each.size, *each.within, each.alignment, each.guard, each.prefer] for each in message.wanted],
        "seen": [message.seen.granularity, *(number for part in message.seen.occupied for number in part)],
    }


def _message(plain: dict[str, Any]) -> Message:
    if "claimed" in plain:
        if not isinstance(plain["claimed"], bool):
            raise ValueError(f"not a vote of an agreement: {plain['claimed']!r}")
        return Vote(plain["claimed"], str(plain["reason"]))
    wanted = tuple(
        Placement(_whole(size), Range(_whole(start), _whole(stop)), _whole(alignment), _whole(guard), prefer)
        for size, start, stop, alignment, guard, prefer in plain["wanted"]
    )
    if not wanted:
        raise ValueError("a proposal that wants nothing")
    granularity, *edges = map(_whole, plain["seen"])
    if granularity <= 0 or granularity & (granularity - 1):
        raise ValueError(f"a granularity of {granularity}, which is no power of two")
    occupied = RangeSet(zip(edges[::2], edges[1::2], strict=True))
    return Proposal(bytes.fromhex(plain["token"]), wanted, Footprint(occupied, granularity))


def _whole(number: Any) -> int:
    """JSON has floats, and Python takes them where it compares: they would get as far as the arithmetic."""
    if type(number) is not int:
        raise ValueError(f"not a whole number: {number!r}")
    return number
