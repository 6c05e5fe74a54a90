"""Agreement over Unix and TCP sockets between real processes, which are killed for real."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING, Any

import pytest

from integration.peers.conftest import KEY, Crowd, Peer, agreed
from stead.peers.addresses import Address, connect

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZE = "1 GiB"


def reserve(members: Sequence[Peer], size: str = SIZE) -> list[Any]:
    """All at once."""
    for each in members:
        each.ask("reserve", size)
    return [each.answer() for each in members]


@pytest.mark.parametrize("count", [1, 4])
def test_all_hold_the_same_ranges(crowd: Crowd, count: int) -> None:
    crowd.serve(count)
    members = crowd.members(*(f"member {k}" for k in range(count)))
    ranges = [agreed(reserve(members)) for _ in range(3)]
    assert len(set(ranges)) == 3
    for each in members:
        assert sum(held.size for held in each.held) == 3 << 30
        assert all(any(held.contains(where) for held in each.held) for where in ranges)


def test_members_may_come_before_their_hub(crowd: Crowd) -> None:
    if crowd.address.endswith(":0"):
        with socket.create_server(("127.0.0.1", 0)) as free:
            crowd.address = crowd._address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    members = crowd.members("one", "other")
    for each in members:
        each.ask("reserve", SIZE)
    crowd.serve(2)
    agreed([each.answer() for each in members])


# ---- killed ---------------------------------------------------------------------------------------------

STEPS = [(when, exchange) for exchange in (1, 2) for when in ("before", "after", "heard")]


@pytest.mark.parametrize(("when", "exchange"), STEPS)
def test_a_member_that_is_killed_at_any_step_and_started_again(crowd: Crowd, when: str, exchange: int) -> None:
    """Before the first answer it is waited for; in the agreement all others end in PeerFailed that names it, with
    nothing held, or all hold what was decided without its hearing. Started again it gets the same as they."""
    crowd.serve(3)
    victim, *others = crowd.members("victim", "one", "other")
    victim.tell("die", when, exchange)
    victim.ask("reserve", SIZE)
    began = exchange > 1 or when == "heard"
    if began:
        outcomes = reserve(others)
    victim.process.wait()
    crowd.gone(victim.name)
    again = crowd.member(victim.name)
    if not began:
        agreed(reserve([again, *others]))
    elif isinstance(outcomes[0], list):
        assert (when, exchange) in [("after", 2), ("heard", 2)]
        agreed([again.tell("reserve", SIZE), *outcomes])
    else:
        for each, outcome in zip(others, outcomes, strict=True):
            assert outcome["error"] == "PeerFailed"
            assert outcome["peer"] == victim.name
            assert each.held == []
        agreed(reserve([again, *others]))
    assert len({tuple(each.held) for each in [again, *others]}) == 1


def test_a_member_that_is_killed_and_does_not_come_back_is_named_in_time(crowd: Crowd) -> None:
    crowd.serve(2, timeout=1)
    victim, other = crowd.members("victim", "other")
    victim.tell("die", "after", 1)
    victim.ask("reserve", SIZE)
    victim.process.wait()
    outcome = other.tell("reserve", SIZE)
    assert (outcome["error"], outcome["peer"]) == ("PeerFailed", "victim")
    assert other.held == []


@pytest.mark.parametrize("exchange", [1, 2])
def test_a_hub_that_is_killed_leaves_nothing_held_and_nobody_waiting(crowd: Crowd, exchange: int) -> None:
    """In the second exchange: while it waits for the vote of one that has stopped."""
    crowd.serve(2)
    one, other = crowd.members("one", "other")
    one.ask("reserve", SIZE)
    if exchange == 2:
        other.tell("die", "before", 2, "SIGSTOP")
        other.ask("reserve", SIZE)
        other.wait_until_stopped()
    crowd.joined("one")
    crowd.hub.kill()
    crowd.everyone.remove(crowd.hub)
    other.go_on()
    for each in (one, other)[:exchange]:
        outcome = each.answer()
        assert outcome["error"] == "PeerFailed"
        assert outcome["peer"] == f"the hub at {crowd.address}"
        assert each.held == []


def test_a_hub_that_is_stopped_is_given_up_on_and_good_again_when_it_goes_on(crowd: Crowd) -> None:
    crowd.serve(1)
    member = crowd.member("member")
    first = member.tell("reserve", SIZE)
    member.tell("hurry", 0.3)
    crowd.hub.stop()
    outcome = member.tell("reserve", SIZE)
    assert outcome["error"] == "PeerFailed"
    assert outcome["peer"] == f"the hub at {crowd.address}"
    assert [tuple(each) for each in member.held] == [tuple(first)]
    crowd.hub.go_on()
    patient = crowd.member("patient")
    assert patient.tell("reserve", SIZE) == first


def test_where_a_hub_was_killed_the_next_one_can_be_started(crowd: Crowd) -> None:
    crowd.serve(1).kill()
    crowd.everyone.clear()
    crowd.serve(1)
    assert isinstance(crowd.member("member").tell("reserve", SIZE), list)


# ---- afterwards -----------------------------------------------------------------------------------------


def test_late_joiners_and_the_restarted_get_what_was_agreed_and_nobody_is_disturbed(crowd: Crowd) -> None:
    crowd.serve(2)
    members = crowd.members("one", "other")
    first, second = (agreed(reserve(members)) for _ in range(2))
    late, wrong, blocked = crowd.members("late", "wrong", "blocked")

    assert late.tell("reserve", SIZE) == list(first)

    outcome = wrong.tell("reserve", "2 GiB")
    assert outcome["error"] == "PeersDisagree"
    assert "wrong asks for size 2147483648" in outcome["what"]
    assert wrong.held == []

    blocked.tell("sit", first.start, 4096)
    outcome = blocked.tell("reserve", SIZE)
    assert outcome["error"] == "Occupied"
    assert "squatter" in outcome["what"]
    assert [each.size for each in blocked.held] == [4096]

    members[1].kill()
    crowd.everyone.remove(members[1])
    again = crowd.member("other")
    assert [again.tell("reserve", SIZE) for _ in range(2)] == [list(first), list(second)]
    # And the next agreement is of all that have a place, with the late one at its heels.
    assert late.tell("reserve", SIZE) == list(second)
    late.ask("reserve", SIZE)
    third = agreed(reserve([members[0], again]))
    assert late.answer() == list(third)


def test_a_second_one_of_a_name_is_refused_while_the_first_is_here(crowd: Crowd) -> None:
    crowd.serve(1)
    first = crowd.member("twin")
    got = first.tell("reserve", SIZE)
    outcome = crowd.member("twin").tell("reserve", SIZE)
    assert outcome["error"] == "PeerFailed"
    assert "somebody called 'twin' is here already" in outcome["what"]
    first.tell("leave")
    assert crowd.member("twin").tell("reserve", SIZE) == got


# ---- strangers ------------------------------------------------------------------------------------------


def test_a_wrong_key_is_told_to_both_with_the_address_and_disturbs_nobody(crowd: Crowd) -> None:
    crowd.serve(2)
    members = crowd.members("one", "other")
    members[0].ask("reserve", SIZE)
    outcome = crowd.member("stranger", key=b"another").tell("reserve", SIZE)
    assert outcome["error"] == "WrongKey"
    assert outcome["peer"] == f"the hub at {crowd.address}"
    [refused] = crowd.hub.tell("refused")
    where = "Unix socket" if "unix" in crowd.address else r"127\.0\.0\.1, port \d+"
    assert re.match(rf"WrongKey\('somebody at .*{where}: has another key'\)", refused)
    agreed([members[1].tell("reserve", SIZE), members[0].answer()])


def test_strangers_of_all_kinds_are_not_waited_for(crowd: Crowd) -> None:
    crowd.serve(2)
    members = crowd.members("one", "other")
    members[0].ask("reserve", SIZE)
    strangers = [connect(Address.parse(crowd.address), 30) for _ in range(100)]
    for number, each in enumerate(strangers):
        try:
            if number % 4 == 0:
                each.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n" * 3)
            elif number % 4 == 1:
                each.sendall((1 << 30).to_bytes(4, "big") + bytes(100_000))
            elif number % 4 == 2:
                each.sendall(b"s")  # and no more, for ever
            else:
                each.close()
        except ConnectionError:
            pass  # refused before it had said all
    agreed([members[1].tell("reserve", SIZE), members[0].answer()])
    agreed(reserve(members))
    assert any("begins with b'GET / HT'" in each for each in crowd.hub.tell("refused"))
    for each in strangers:
        each.close()


def test_a_hub_that_has_no_descriptors_left_lets_in_again_when_it_has(crowd: Crowd) -> None:
    crowd.serve(1)
    crowd.hub.tell("limit", 20)
    strangers = [connect(Address.parse(crowd.address), 30) for _ in range(40)]
    member = crowd.member("member")
    member.ask("reserve", SIZE)
    for each in strangers:
        each.close()
    assert isinstance(member.answer(), list)


def test_a_hub_with_a_member_in_its_own_process(crowd: Crowd) -> None:
    crowd.serve(2)
    crowd.hub.tell("member", crowd.address, "in the hub", KEY.hex())
    agreed(reserve([crowd.hub, crowd.member("outside")]))
