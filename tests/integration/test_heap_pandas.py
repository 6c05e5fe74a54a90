"""Frames of pandas in a heap: what is got copies on write, or, writable, writes what all see."""

from __future__ import annotations

import gc
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any

import pytest

from conftest import need
from integration import library_workers as workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import stead


@pytest.fixture(scope="module")
def pd() -> Any:
    need("pandas")
    import pandas

    return pandas


@pytest.fixture(scope="module")
def executor() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as made:
        yield made


def frames(pd: Any) -> dict[str, Any]:
    frame = pd.DataFrame(
        {"x": [float(i) for i in range(1000)], "n": range(1000), "w": ["word", "other"] * 500},
    )
    return {
        "numpy": frame,
        "indexed": frame.set_index(pd.date_range("2020", periods=1000)),
        "categories": frame.assign(w=frame["w"].astype("category")),
        "times": frame.assign(t=pd.date_range("2020", periods=1000, tz="Asia/Tokyo")),
        "masked": frame.convert_dtypes(dtype_backend="numpy_nullable"),
        "several": frame.set_index(["w", "n"]),
        "objects": frame.assign(o=[(i,) for i in range(1000)]),
        "empty": frame[:0],
        "column": frame["x"],
    }


KINDS = ["numpy", "indexed", "categories", "times", "masked", "several", "objects", "empty", "column"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("writable", [False, True])
def test_put_and_get(heap: stead.SharedHeap, pd: Any, kind: str, writable: bool) -> None:
    frame = frames(pd)[kind]
    got = heap.get(heap.put({"it": frame}), writable=writable)["it"]
    same = pd.testing.assert_series_equal if kind == "column" else pd.testing.assert_frame_equal
    same(got, frame)
    same(ForkingPickler.loads(ForkingPickler.dumps(got)), frame)


def test_it_is_there_once_for_all(heap: stead.SharedHeap, pd: Any, executor: ProcessPoolExecutor) -> None:
    frame = frames(pd)["numpy"]
    ref = heap.put(frame)
    got = heap.get(ref)
    where = workers.column_address(got, "x")
    assert heap.owns(where)
    changed = [-1.0, *frame["x"].tolist()[1:]]
    # Who changes it has a copy then.
    assert executor.submit(workers.frame_got, ref, False).result() == (where, changed)
    assert executor.submit(workers.frame_changed, got).result() == (where, changed)
    assert got["x"].tolist() == frame["x"].tolist()
    # Unless it is writable.
    assert executor.submit(workers.frame_got, ref, True).result() == (where, changed)
    assert got["x"].tolist() == changed


CHANGES: dict[str, Callable[[Any], Any]] = {
    "a column": lambda frame: frame.__setitem__("x", 1.0),
    "by label": lambda frame: frame.loc.__setitem__((0, "n"), 7),
    "by place": lambda frame: frame.iloc.__setitem__((0, 0), 7.0),
    "by mask": lambda frame: frame.loc.__setitem__((frame["n"] > 3, "x"), 0.0),
    "text": lambda frame: frame.loc.__setitem__((0, "w"), "changed"),
    "a new column": lambda frame: frame.__setitem__("new", frame["x"] * 2),
    "another type": lambda frame: frame.__setitem__("n", frame["n"].astype("float32")),
    "update": lambda frame: frame.update(frame[["x"]] * 2 + 1),
    "insert": lambda frame: frame.insert(0, "new", 1),
    "pop": lambda frame: frame.pop("x"),
    "in place": lambda frame: frame.__getitem__("x").__iadd__(1),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", ["numpy", "categories", "masked", "pyarrow"])
def test_what_was_got_can_be_changed(heap: stead.SharedHeap, pd: Any, change: str, kind: str) -> None:
    if kind == "pyarrow":
        need("pyarrow")
        frame = frames(pd)["numpy"].convert_dtypes(dtype_backend="pyarrow")
    else:
        frame = frames(pd)[kind]
    if kind == "categories" and change == "text":
        frame["w"] = frame["w"].cat.add_categories("changed")
    ref = heap.put(frame)
    expected, got = frame.copy(), heap.get(ref)
    CHANGES[change](expected)
    CHANGES[change](got)
    pd.testing.assert_frame_equal(got, expected)
    pd.testing.assert_frame_equal(heap.get(ref), frame)


def test_a_series_of_a_frame_that_is_gone(heap: stead.SharedHeap, pd: Any) -> None:
    ref = heap.put(frames(pd)["numpy"])
    column = heap.get(ref)["x"]
    gc.collect()
    column.iloc[0] = -5
    assert column.iloc[0] == -5
    assert heap.get(ref)["x"].iloc[0] == 0
    # What is no frame any more is read-only, as every array that was got.
    with pytest.raises(ValueError, match="read-only"):
        heap.get(ref)["x"].to_numpy()[0] = 1


def test_arrow_columns_stay_where_they_are(heap: stead.SharedHeap, pd: Any, executor: ProcessPoolExecutor) -> None:
    need("pyarrow")
    import pyarrow

    frame = frames(pd)["numpy"].convert_dtypes(dtype_backend="pyarrow")
    got = heap.get(heap.put(frame))
    here = pyarrow.table(got)
    assert all(heap.owns(each) for each in workers.addresses(here))
    assert executor.submit(workers.addresses_of_frame, got).result() == workers.addresses(here)


def test_work_that_pandas_does(heap: stead.SharedHeap, pd: Any) -> None:
    frame = frames(pd)["numpy"]
    got = heap.get(heap.put(frame))
    works: list[Callable[[Any], Any]] = [
        lambda f: f.groupby("w").sum(),
        lambda f: f.merge(f, on="n"),
        lambda f: f.sort_values("x", ascending=False),
        lambda f: f.drop(columns="w").rolling(3).mean(),
        lambda f: f.pivot_table(values="x", index="w"),
        lambda f: f.set_index("n").loc[10:20],
        lambda f: f.describe(),
    ]
    for work in works:
        pd.testing.assert_frame_equal(work(got), work(frame))
