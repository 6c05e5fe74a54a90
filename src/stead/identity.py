"""Which reservation it is, wherever it has been: a token of the process that made it, and a serial number.

A forked child has the identities of its parent for what it inherits, and its own for what it makes.
"""

from __future__ import annotations

import os

from stead import _native

Identity = tuple[bytes, int]

# From which serial number on, which token.
_tokens = [(0, os.urandom(16))]


def _renew_token() -> None:
    _tokens.append((_native.Hold()._serial, os.urandom(16)))


os.register_at_fork(after_in_child=_renew_token)


def identity_of(serial: int) -> Identity:
    """The identity of what was made in this process, or inherited by it, as number ``serial``."""
    return next(token for first, token in reversed(_tokens) if first <= serial), serial
