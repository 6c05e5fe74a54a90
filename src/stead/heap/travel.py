"""What multiprocessing sends of other libraries' objects whose memory is in a heap: references. Nobody registers
anything: it is done as soon as a heap and the library are in the process, whichever comes first.

Only multiprocessing's own pickler is told (queues, pipes, pools, ProcessPoolExecutor, and
torch.multiprocessing, which is built on it). An ordinary pickle of an ordinary array or tensor stays one that can
be kept, and read elsewhere."""

from __future__ import annotations

import pickle
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from stead.heap import frames, registry, tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

_missing = {"numpy", "torch", "pyarrow", "pandas"}


def register() -> None:
    """What can be registered by now; the rest when it is imported. Cheap when all is done, or nothing is new."""
    if not _missing:
        return
    found = [name for name in _missing if name in sys.modules]
    with registry.lock:  # which is held across a fork
        for name in found:
            # Half imported: another time.
            with suppress(AttributeError):
                if name in _missing and _REGISTRATIONS[name]():
                    _missing.discard(name)
        watching = _watch in sys.meta_path
        if _missing and not watching:
            sys.meta_path.insert(0, _watch)
        elif watching and not _missing:
            sys.meta_path.remove(_watch)


def _numpy() -> bool:
    _register(sys.modules["numpy"].ndarray, _reduce_array)
    return True


def _torch() -> bool:
    from multiprocessing.reduction import ForkingPickler

    return tensors.register(_register, ForkingPickler._extra_reducers)  # type: ignore[attr-defined]


def _pyarrow() -> bool:
    _register(sys.modules["pyarrow"].Buffer, frames.reduce_buffer)
    return True


def _pandas() -> bool:
    pandas = sys.modules["pandas"]
    for kind in (pandas.DataFrame, pandas.Series):
        _register(kind, frames.reduce_sent_frame)
    for kind in (pandas.arrays.ArrowExtensionArray, pandas.arrays.ArrowStringArray):
        _register(kind, frames.reduce_sent_column)
    return True


_REGISTRATIONS: dict[str, Callable[[], bool]] = {
    "numpy": _numpy, "torch": _torch, "pyarrow": _pyarrow, "pandas": _pandas
}  # fmt: skip


def _register(kind: type, reduce: Callable[[Any], Any]) -> None:
    from multiprocessing.reduction import ForkingPickler

    ForkingPickler.register(kind, reduce)


class _Watch:
    """Finds no module: has those that are waited for registered once somebody else has found and run them."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _missing:
            return None
        for finder in list(sys.meta_path):
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                _when_run(spec)
                return spec
        return None


def _when_run(spec: ModuleSpec) -> None:
    loader: Any = spec.loader
    execute = getattr(loader, "exec_module", None)

    def run(module: ModuleType) -> None:
        with suppress(AttributeError):
            del loader.exec_module
        assert execute
        execute(module)
        register()

    # In the loader itself, which belongs to this one module: what looks at a module's loader finds it.
    with suppress(AttributeError):
        if execute is not None:
            loader.exec_module = run


_watch: Any = _Watch()


def _reduce_array(array: Any) -> Any:
    from stead.heap.arrays import reduce_plain

    return reduce_plain(array, pickle.DEFAULT_PROTOCOL)
