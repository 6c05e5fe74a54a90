"""What protects a stream between a hub and a member: a greeting that proves on both sides who knows the key, and
then envelopes. No I/O.

The greeting: both send a fresh nonce, and prove the key by a MAC of both (HMAC-SHA256); the member first, so
that a stranger who connects is given nothing to try keys on. The proofs are of different texts, so that one
cannot be sent back as the other. The key itself is never sent. Every connection has keys of its own, one for
each direction, made from both nonces.

An envelope is a length, the letter, and a MAC over the number of the envelope, the length and the letter: what is
changed, left out, repeated, moved or brought in from elsewhere is refused. Nothing is encrypted.
"""

from __future__ import annotations

import os
from hmac import compare_digest
from hmac import digest as hmac_digest
from typing import TYPE_CHECKING

from stead.peers import wire

if TYPE_CHECKING:
    from collections.abc import Generator

    # Steps: what to send now, and how many bytes to come back with; at the end, what else to send.
    Greeting = Generator[tuple[bytes, int], bytes, tuple[bytes, "Envelopes"]]

MAGIC = b"stead/1\n"
LONGEST = wire.MAX_BYTES + 64  # what letters put around a message is less
_NONCE = _MAC = 32
_LENGTH = 4
_TRUSTED, _REFUSED = b"\1", b"\0"


class Broken(ValueError):
    """What came is none of ours, or was changed on its way."""


class KeyRefused(Broken):
    """The other side has another key. ``parting``: what to send it before the connection is closed."""

    def __init__(self, why: str, parting: bytes = b"") -> None:
        super().__init__(why)
        self.parting = parting


def greet_hub(key: bytes) -> Greeting:
    """The member's side."""
    nonce = os.urandom(_NONCE)
    hello = yield MAGIC + nonce, len(MAGIC) + _NONCE
    theirs = _nonce(hello, "a hub")
    if theirs == nonce:
        raise Broken("what was sent comes back: nobody else is there")
    text = nonce + theirs
    answer = yield _mac(key, b"member", text), 1 + _MAC
    if answer[:1] != _TRUSTED:
        raise KeyRefused("does not accept our key")
    if not compare_digest(answer[1:], _mac(key, b"hub", text)):
        raise KeyRefused("has not shown that it knows the key")
    up, down = _session_keys(key, text)
    return b"", Envelopes(up, down)


def greet_member(key: bytes) -> Greeting:
    """The hub's side. What it returns to be sent is the last of the greeting."""
    theirs = _nonce((yield b"", len(MAGIC) + _NONCE), "a member")
    nonce = os.urandom(_NONCE)
    text = theirs + nonce
    proof = yield MAGIC + nonce, _MAC
    if not compare_digest(proof, _mac(key, b"member", text)):
        raise KeyRefused("has another key", _REFUSED + bytes(_MAC))
    up, down = _session_keys(key, text)
    return _TRUSTED + _mac(key, b"hub", text), Envelopes(down, up)


def _nonce(hello: bytes, whom: str) -> bytes:
    if not hello.startswith(MAGIC):
        raise Broken(f"is not {whom} of this version of stead: it begins with {hello[: len(MAGIC)]!r}")
    return hello[len(MAGIC) :]


def _mac(key: bytes, role: bytes, text: bytes) -> bytes:
    return hmac_digest(key, MAGIC + role + b"\0" + text, "sha256")


def _session_keys(key: bytes, text: bytes) -> tuple[bytes, bytes]:
    return _mac(key, b"member to hub", text), _mac(key, b"hub to member", text)


class Envelopes:
    """Both directions of one connection, after the greeting."""

    def __init__(self, sending: bytes, receiving: bytes) -> None:
        self._sending, self._receiving = sending, receiving
        self._sent = self._received = 0

    def seal(self, letter: bytes) -> bytes:
        """Raises ValueError where it is longer than LONGEST."""
        if len(letter) > LONGEST:
            raise ValueError(f"a letter of {len(letter)} bytes, of at most {LONGEST}")
        data = len(letter).to_bytes(_LENGTH, "big") + letter
        mac = _numbered(self._sending, self._sent, data)
        self._sent += 1
        return data + mac

    def open(self, received: bytearray) -> bytes:
        """The next letter, which is taken out of ``received``, where nothing of it is missing. Raises Broken;
        nothing that comes afterwards can be trusted."""
        end = len(received) + self.missing(received)
        data, mac = bytes(received[: end - _MAC]), bytes(received[end - _MAC : end])
        if not compare_digest(mac, _numbered(self._receiving, self._received, data)):
            raise Broken("sent what was not sealed with the key, or not in its turn")
        self._received += 1
        del received[:end]
        return data[_LENGTH:]

    def missing(self, received: bytearray) -> int:
        """How many bytes the envelope that has begun still lacks; negative where more than it has come. Raises
        Broken where it is too long, before it is read."""
        if len(received) < _LENGTH:
            return _LENGTH + _MAC - len(received)
        length = int.from_bytes(received[:_LENGTH], "big")
        if length > LONGEST:
            raise Broken(f"sends a letter of {length} bytes, of at most {LONGEST}")
        return _LENGTH + length + _MAC - len(received)


def _numbered(key: bytes, number: int, data: bytes) -> bytes:
    return hmac_digest(key, number.to_bytes(8, "big") + data, "sha256")
