"""CPython's own tests of locks, conditions, semaphores and barriers, on those of a heap."""

from __future__ import annotations

import unittest
from typing import TYPE_CHECKING, Any

import pytest

import stead

if TYPE_CHECKING:
    from collections.abc import Iterator

lock_tests = pytest.importorskip("test.lock_tests", reason="this Python was installed without its tests")

# What is left out, and why.
OTHERWISE = {
    "test_at_fork_reinit": "these are the same lock in a forked child, and not a new one",
    "test_repr": "they say it in other words",
    "test_locked_repr": "they say it in other words",
    "test_acquire": "a Condition has a Lock of the heap, which is not reentrant",
    "test_notify": "asserts who has woken up by then, after sleeping",
    "test_waitfor_timeout": "asserts how long it took",
    "test_timeout": "asserts how long it took",
    "test_acquire_timeout": "asserts how long it took",
    "test_default_timeout": "one thread's sleep is to be longer than another's",
    "test_constructor": "calls constructors with wrong arguments",
    "test_constructor_noargs": "calls constructors with wrong arguments",
}
# Those of the above that are for others of the classes.
STILL = {("Semaphore", "test_acquire"), ("BoundedSemaphore", "test_acquire")}


@pytest.fixture(scope="module", autouse=True)
def heap() -> Iterator[stead.SharedHeap]:
    made = stead.SharedHeap("16 MiB")
    KINDS["heap"] = made
    yield made
    made.check()
    made.close(force=True)


KINDS: dict[str, Any] = {}


def cases() -> Iterator[tuple[str, type[unittest.TestCase], str]]:
    make: dict[str, tuple[str, Any]] = {
        "Lock": ("locktype", lambda: KINDS["heap"].lock()),
        "Condition": ("condtype", lambda lock=None: KINDS["heap"].condition(lock)),
        "Semaphore": ("semtype", lambda *value: KINDS["heap"].semaphore(*value)),
        "BoundedSemaphore": ("semtype", lambda *value: KINDS["heap"].bounded_semaphore(*value)),
        "Barrier": ("barriertype", lambda *given, **named: KINDS["heap"].barrier(*given, **named)),
    }
    for name, (attribute, made) in make.items():
        base = getattr(lock_tests, f"{name}Tests")
        kind = type(name, (base, unittest.TestCase), {attribute: staticmethod(made), "defaultTimeout": 120.0})
        for test in unittest.defaultTestLoader.getTestCaseNames(kind):
            yield name, kind, test


@pytest.mark.parametrize(
    ("name", "kind", "test"), [pytest.param(*each, id=f"{each[0]}-{each[2]}") for each in cases()]
)
def test_standard(name: str, kind: type[unittest.TestCase], test: str) -> None:
    if test in OTHERWISE and (name, test) not in STILL:
        pytest.skip(OTHERWISE[test])
    result = unittest.TestResult()
    kind(test).run(result)
    for _, trace in result.errors + result.failures:
        pytest.fail(trace)
    assert result.testsRun == 1
