"""Every exchange, by one kit: undisturbed, and with every participant failing at every step."""

from __future__ import annotations

import pytest

from exchanges import EXCHANGES, check_failing, check_undisturbed


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("kind", EXCHANGES)
def test_all_hold_the_same_time_after_time(kind: str, count: int) -> None:
    check_undisturbed(EXCHANGES[kind], count)


@pytest.mark.parametrize("heard", [False, True], ids=["before it speaks", "when it has heard"])
@pytest.mark.parametrize("crowded", [False, True], ids=["empty", "crowded"])
@pytest.mark.parametrize("who", range(3))
@pytest.mark.parametrize("kind", EXCHANGES)
def test_every_participant_failing_at_every_step(kind: str, who: int, crowded: bool, heard: bool) -> None:
    last = 0
    while True:
        # Before it has joined the hub does not know of it: that it is missing shows by the time.
        waited_for = "sockets" in kind and not heard and not last
        if not check_failing(EXCHANGES[kind], who, last, heard, crowded, timeout=0.25 if waited_for else 60.0):
            break
        last += 1
    assert last >= 2
