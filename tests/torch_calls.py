"""The C functions of stead that PyTorch loads, called as it calls them."""

from __future__ import annotations

import ctypes
from typing import Any

from stead import _native
from stead.integrations import torch as plugin


class Functions:
    """What PyTorch finds in the library, by the names that it is told. PyDLL keeps the GIL, CDLL lets go of it."""

    def __init__(self, load: Any = ctypes.CDLL, allocate: str = plugin.ALLOCATE) -> None:
        library = load(str(plugin.library()))
        self.allocate = getattr(library, allocate)
        self.allocate.argtypes = [ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p]
        self.allocate.restype = ctypes.c_void_p
        self.free = getattr(library, plugin.FREE)
        self.free.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p]
        self.free.restype = None


def functions_of(arena: _native.Arena, load: Any = ctypes.CDLL) -> Functions:
    """Those of this arena alone, as for a MemPool."""
    return Functions(load, f"{plugin.ALLOCATE}_{_native.torch_place(arena):02o}")
