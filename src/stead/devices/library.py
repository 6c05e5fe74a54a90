"""A driver's shared library in this process, called through ctypes: found, its functions typed, its answers made
into errors. Knows no driver; :mod:`stead.devices.hip` and :mod:`stead.devices.level_zero` say what is called.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stead.devices.driver import DriverError, Location, Meaning
from stead.errors import RollbackFailed, Unsupported
from stead.ranges import Range

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Functions = Mapping[str, Sequence[Any]]

NODES = Path("/sys/devices/system/node/online")


def already_loaded(stem: str) -> str | None:
    """The file of this process's mappings whose name begins with ``stem``. PyTorch brings its own runtime, and
    a second one in a process would know nothing of the first one's memory."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        path = line[line.find("/") :] if "/" in line else ""
        if path.rpartition("/")[2].startswith(stem) and not path.endswith(" (deleted)"):
            return path
    return None


def opened(driver: str, needs: str, names: Sequence[str]) -> ctypes.CDLL:
    """The first of ``names`` that can be loaded; otherwise raises Unsupported, since ``driver`` ``needs`` it."""
    refusals = []
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            refusals.append(str(error))
    raise Unsupported(driver, needs, f"none that can be loaded ({refusals[0]})")


class DriverLibrary:
    """Calls whose int answer is 0, or a DriverError.

    ``functions``: the arguments of each function. One that is missing is Unsupported here, one of ``newer`` only
    where it is called.
    """

    def __init__(
        self,
        driver: str,
        library: ctypes.CDLL,
        functions: Functions,
        newer: Functions,
        meanings: Mapping[int, Meaning],
        named: Callable[[int], str],
    ) -> None:
        self._driver = driver
        self._meanings = meanings
        self._named = named
        self._process = os.getpid()
        self._functions: dict[str, Callable[..., int]] = {}
        for name, arguments in {**functions, **newer}.items():
            try:
                function = getattr(library, name)
            except AttributeError:
                if name in newer:
                    continue
                found = f"a library without it ({library._name})"
                raise Unsupported(driver, f"a library with {name}", found) from None
            function.argtypes = list(arguments)
            function.restype = ctypes.c_int
            self._functions[name] = function

    def has(self, function: str) -> bool:
        return function in self._functions

    def check_process(self) -> None:
        """Raises Unsupported in a process that was forked off its user's: drivers share queues and locks with a
        device, and a copy of those hangs or corrupts. Before every call, and before a lock is taken."""
        if os.getpid() != self._process:
            found = f"process {os.getpid()}, forked off process {self._process} that uses it"
            raise Unsupported(self._driver, "a process of its own (multiprocessing: spawn, not fork)", found)

    def answer(self, function: str, *arguments: Any) -> int:
        """What the driver answers."""
        self.check_process()
        if function not in self._functions:
            raise DriverError(function, -1, "nothing", Meaning.UNSUPPORTED, "the library is older than this call")
        return self._functions[function](*arguments)

    def call(self, function: str, *arguments: Any) -> None:
        code = self.answer(function, *arguments)
        if code:
            raise self.refusal(function, code)

    def refusal(self, function: str, code: int, text: str = "") -> DriverError:
        return DriverError(function, code, self._named(code), self._meanings.get(code, Meaning.OTHER), text)


def duplicate(call: str, fd: int) -> int:
    """Another descriptor of the same, close-on-exec and not 0, for ``call``. Raises DriverError."""
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    except (OSError, ValueError) as error:
        code = error.errno or -1 if isinstance(error, OSError) else errno.EBADF
        meaning = Meaning.INVALID if code == errno.EBADF else Meaning.OUT_OF_MEMORY
        raise DriverError(call, -1, "nothing", meaning, f"descriptor {fd}: {os.strerror(code)}") from error


def same_file(one: int, other: int) -> bool:
    """Whether two descriptors are open, and of the same file."""
    try:
        return os.path.sameopenfile(one, other)
    except OSError:
        return False


def on_the_host(location: Location) -> Location:
    """The host instead of its only NUMA node, for drivers that know no nodes; otherwise the location itself."""
    if location.kind == "host node" and location.id == 0 and _one_node():
        return Location("host")
    return location


def _one_node() -> bool:
    try:
        return NODES.read_text().strip() == "0"
    except OSError:
        return True  # a kernel without NUMA


def reserved(
    reserve: Callable[[int, int], int], free: Callable[[int, int], None], size: int, alignment: int, hint: int
) -> int:
    """An aligned reservation of a driver that promises none. ``reserve``: of size and hint.

    Where it gives an address that is not aligned, a longer reservation shows where an aligned one fits; another
    thread may take that in between. Raises DriverError.
    """
    got = reserve(size, hint)
    if not alignment or got % alignment == 0:
        return got
    _give_back(free, got, size)
    longer = reserve(size + alignment, 0)
    _give_back(free, longer, size + alignment)
    got = reserve(size, -(-longer // alignment) * alignment)
    if got % alignment == 0:
        return got
    _give_back(free, got, size)
    text = f"{got:#x} is no multiple of the alignment, {alignment:#x}, nor was what it gave before"
    raise DriverError("reserve", 0, "success", Meaning.UNSUPPORTED, text)


def _give_back(free: Callable[[int, int], None], address: int, size: int) -> None:
    try:
        free(address, size)
    except DriverError as error:
        where = Range.sized(address, size)
        raise RollbackFailed(f"{where}, which is not aligned as asked, is still held", [where]) from error
