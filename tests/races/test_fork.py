"""What a fork does to a reservation: documented for each backing, and never touching the parent."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

import stead

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = os.sysconf("SC_PAGESIZE")

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def in_child(work: Callable[[], None]) -> int:
    """Run in a forked child: 0 if it went well, 1 after an exception, -N after a signal."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_anonymous_memory_is_copied() -> None:
    with stead.reserve("1 MiB") as r:
        r.commit(0, PAGE)[:4] = b"mine"

        def work() -> None:
            with r.view(0, 4) as view:
                assert bytes(view) == b"mine"
                view[:4] = b"copy"

        assert in_child(work) == 0
        with r.view(0, 4) as view:
            assert bytes(view) == b"mine"


def test_shared_memory_is_shared() -> None:
    with stead.reserve("1 MiB") as r:
        r.commit(0, PAGE, backing="shared")[:4] = b"mine"

        def work() -> None:
            with r.view(0, 4) as view:
                assert bytes(view) == b"mine"
                view[:4] = b"ours"

        assert in_child(work) == 0
        with r.view(0, 4) as view:
            assert bytes(view) == b"ours"


@pytest.mark.parametrize("private", [False, True])
def test_a_file_is_shared_unless_private(tmp_path: object, private: bool) -> None:
    path = f"{tmp_path}/data"
    with open(path, "wb") as file:
        file.write(b"a" * PAGE)
    with stead.reserve("1 MiB") as r:
        r.commit(0, PAGE, backing=stead.File(path, private=private))

        def work() -> None:
            with r.view(0, 4) as view:
                view[:4] = b"kids"

        assert in_child(work) == 0
        with r.view(0, 4) as view:
            assert bytes(view) == (b"aaaa" if private else b"kids")


def test_a_childs_release_and_decommit_never_touch_the_parent() -> None:
    with stead.reserve("1 MiB") as r:
        r.commit(0, PAGE)[:4] = b"mine"
        r.commit(PAGE, PAGE, backing="shared")[:4] = b"ours"

        def work() -> None:
            r.decommit(0, 2 * PAGE)
            r.commit(0, PAGE)[:4] = b"anew"
            r.release()
            stead.reserve(r.size, at=r.address).release()

        assert in_child(work) == 0
        for offset, expected in ((0, b"mine"), (PAGE, b"ours")):
            with r.view(offset, 4) as view:
                assert bytes(view) == expected
        with pytest.raises(stead.Occupied):
            stead.reserve(PAGE, at=r.address)


def test_a_child_never_waits_for_a_lock_of_the_parents_threads() -> None:
    """Threads commit and decommit all the time; each child does, too, and must not hang."""
    stop = threading.Event()
    reservations = [stead.reserve("1 MiB") for _ in range(3)]

    def churn(r: stead.Reservation) -> None:
        while not stop.is_set():
            view = r.commit(0, 4 * PAGE)
            time.sleep(0)  # where a fork may find it
            view.release()
            r.decommit(0, 4 * PAGE)

    threads = [threading.Thread(target=churn, args=(r,)) for r in reservations]
    for thread in threads:
        thread.start()
    try:
        with stead.reserve("1 MiB") as own:

            def work() -> None:
                own.commit(0, PAGE)[:1] = b"x"
                own.decommit()
                for each in reservations:
                    # The table says what is mapped, although a thread was at it.
                    for part in each.parts:
                        with each.view(part.range.start - each.address, 1) as view:
                            assert view[0] == 0
                    try:
                        each.release()
                    except BufferError:  # the view of a thread that was between its two calls, and is not here
                        assert each.viewed

            for _ in range(60):
                assert in_child(work) == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for r in reservations:
            r.release()


def test_parent_and_child_draw_different_places() -> None:
    from_child, to_parent = os.pipe()

    def work() -> None:
        places = [stead.reserve("1 GiB").address for _ in range(8)]
        os.write(to_parent, ",".join(map(str, places)).encode())

    assert in_child(work) == 0
    os.close(to_parent)
    with os.fdopen(from_child) as pipe:
        theirs = set(map(int, pipe.read().split(",")))
    mine = {stead.reserve("1 GiB").address for _ in range(8)}
    assert not mine & theirs
