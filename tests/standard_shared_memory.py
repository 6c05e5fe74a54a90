"""CPython's own tests of multiprocessing.shared_memory, run against stead's: a start method as argument.

Started as a script, so that spawned processes, which import it too, have the same module in place of theirs.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.managers
import signal
import sys
import unittest
from typing import Any

import stead.shared_memory as ours

sys.modules["multiprocessing.shared_memory"] = ours
replaced: Any = multiprocessing
replaced.shared_memory = replaced.managers.shared_memory = ours

# They ask for the resource tracker's words about segments of the standard module, in processes that use that one.
NOT_OURS = {
    "test_shared_memory_cleaned_after_process_termination",
    "test_shared_memory_SharedMemoryManager_reuses_resource_tracker",
    "test_shared_memory_tracking",
    "test_shared_memory_untracking",
}


def main(method: str) -> int:
    import test._test_multiprocessing as theirs  # type: ignore[import-not-found]

    theirs.shared_memory = ours
    # One of them interrupts itself; a background job of a shell ignores that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    multiprocessing.set_start_method(method, force=True)
    case = type("Case", (theirs.ProcessesMixin, theirs._TestSharedMemory, unittest.TestCase), {})
    names = [name for name in unittest.defaultTestLoader.getTestCaseNames(case) if name not in NOT_OURS]
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(unittest.TestSuite(map(case, names)))
    return 0 if result.wasSuccessful() and result.testsRun >= 10 and not result.skipped else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
