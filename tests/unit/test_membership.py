"""What a hub answers: every member failing at every step, in any order of events, by a simulated network."""

from __future__ import annotations

from math import inf
from random import Random

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from meeting import PAGE, TIMEOUT, WINDOW, Meeting, Process
from stead.errors import NoGap, Occupied, PeerFailed, PeersDisagree
from stead.messages import Agreed, Settled, Vote
from stead.peers.membership import Membership, Refused
from stead.ranges import Range, RangeSet


def founded(places: int = 3, wants: int = 1, seed: int = 0) -> Meeting:
    meeting = Meeting(places, Random(seed))
    for number in range(places):
        meeting.add(Process(f"founder {number}", wants, number))
    return meeting


seeds = st.integers(0, 1 << 32)


@given(st.integers(1, 5), st.integers(1, 4), seeds)
def test_undisturbed_all_have_the_same_agreements_in_their_order(places: int, wants: int, seed: int) -> None:
    meeting = founded(places, wants, seed)
    meeting.run(wants_time=False)
    meeting.check()
    assert len(meeting.settled) == wants
    assert all(each.agreed == meeting.settled for each in meeting.processes)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("who", range(3))
@pytest.mark.parametrize("fault", ["kill", "cut"])
def test_every_member_failing_at_every_step(fault: str, who: int, seed: int) -> None:
    """With nobody to take its place: the others end in PeerFailed that names it, with nothing held, or all hold
    what was decided."""
    step, more = 0, True
    while more:
        meeting = founded(seed=seed)
        victim = meeting.processes[who]
        for _ in range(step):
            if more := bool(steps := meeting.steps()):
                meeting.do(*meeting.random.choice(steps))
        joined = bool(victim.session)
        if fault == "kill" or victim.link:
            meeting.do(fault, victim)
        to_the_end(meeting)
        meeting.check()
        living = [each for each in meeting.processes if each is not victim]
        assert len({tuple(each.agreed) for each in living}) == 1
        for each in living:
            [outcome] = each.outcomes
            if isinstance(outcome, PeerFailed):
                assert outcome.peer == (victim.name if joined else "a member of 3"), (step, outcome, meeting.story)
            else:
                assert isinstance(outcome, Agreed)
                assert victim.agreed == [outcome] or not victim.alive
        step += 1
    assert step > 15


def to_the_end(meeting: Meeting) -> None:
    """Where who was told of a failure does not try again."""
    while True:
        for each in meeting.processes:
            each.wants = len(each.agreed) if each.outcomes else each.wants
        if steps := meeting.steps():
            meeting.do(*meeting.random.choice(steps))
        elif meeting.hub.deadline() < inf:
            meeting.pass_time(meeting.hub.deadline() - meeting.now)
        else:
            return


@given(st.integers(1, 4), st.integers(1, 3), seeds, st.data())
def test_in_any_order_of_events_nobody_holds_what_the_others_do_not(
    places: int, wants: int, seed: int, data: st.DataObject
) -> None:
    """Kills, lost connections, late joiners, restarts and the clock, at any time; afterwards, when all are back,
    all get what they want."""
    meeting = founded(places, wants, seed)
    note(f"Random({seed}) drives it")
    for number in range(data.draw(st.integers(0, 2))):
        meeting.add(Process(f"late {number}", wants, 100 + number))
    try:
        for fault in data.draw(st.lists(st.sampled_from(["fault", "time", "step"]), max_size=12)):
            for _ in range(meeting.random.randint(0, 12)):
                if steps := meeting.steps():
                    meeting.do(*meeting.random.choice(steps))
            if fault == "fault" and (faults := meeting.faults()):
                meeting.do(*meeting.random.choice(faults))
            elif fault == "time":
                meeting.pass_time(meeting.random.choice([1.0, TIMEOUT / 2, TIMEOUT]))
        for each in list(meeting.dead):
            meeting.do("restart", each)
        meeting.run()
        meeting.check()
    except BaseException:
        note("\n".join(meeting.story))
        raise
    assert len(meeting.settled) >= wants
    assert all(each.satisfied for each in meeting.processes)


# ---- afterwards ---------------------------------------------------------------------------------------


def test_a_late_joiner_takes_what_was_agreed_on_and_nobody_else_is_asked() -> None:
    meeting = founded(wants=3)
    meeting.run()
    late = meeting.add(Process("late", 3, 9))
    before = [each.exchanges for each in meeting.processes[:3]]
    meeting.run()
    assert late.agreed == meeting.settled
    assert [each.exchanges for each in meeting.processes[:3]] == before


def test_one_that_is_started_again_gets_the_same_again_and_goes_on_with_the_others() -> None:
    meeting = founded(wants=2)
    meeting.run()
    meeting.do("kill", meeting.processes[1])
    meeting.run()
    meeting.do("restart", meeting.dead[0])
    for each in meeting.processes:
        each.wants = 4
    meeting.run()
    meeting.check()
    assert len(meeting.settled) == 4
    assert all(each.agreed == meeting.settled for each in meeting.processes)


def test_a_late_joiner_whose_place_is_taken_is_told_by_what_and_the_others_are_not_disturbed() -> None:
    meeting = founded()
    meeting.run()
    late = meeting.add(Process("late", 1, 9, occupied=[WINDOW]))
    for _ in range(20):
        if steps := [each for each in meeting.steps() if not late.outcomes]:
            meeting.do(*steps[0])
    [outcome] = late.outcomes
    assert isinstance(outcome, Occupied)
    late.wants = 0
    for each in meeting.processes[:3]:
        each.wants = 2
    meeting.run()
    assert len(meeting.settled) == 2


def test_who_asks_for_something_else_later_is_told_and_alone() -> None:
    meeting = founded()
    meeting.run()
    other = meeting.add(Process("other", 1, 9, pages=3))
    while not other.outcomes:
        meeting.do(*meeting.steps()[0])
    [outcome] = other.outcomes
    assert isinstance(outcome, PeersDisagree)
    assert other.space.kernel.ours == RangeSet()
    other.wants = 0
    for each in meeting.processes[:3]:
        each.wants = 2
    meeting.run()
    assert len(meeting.settled) == 2


def test_who_asks_for_something_else_at_first_is_told_and_so_are_the_others() -> None:
    meeting = Meeting(2, Random(0))
    one, other = meeting.add(Process("one", 1, 1)), meeting.add(Process("other", 1, 2, pages=3))
    while not (one.outcomes and other.outcomes):
        meeting.do(*next(each for each in meeting.steps() if each[0] != "ask" or not each[1].outcomes))
    for each in (one, other):
        assert isinstance(each.outcomes[0], PeersDisagree)
        assert "size" in each.outcomes[0].what


def test_where_there_is_no_gap_all_are_told_and_the_next_agreement_is_as_good() -> None:
    meeting = Meeting(2, Random(0))
    full = [Range(WINDOW.start, WINDOW.stop - PAGE)]
    one, other = meeting.add(Process("one", 1, 1)), meeting.add(Process("other", 1, 2, occupied=full))
    while not (one.outcomes and other.outcomes):
        meeting.do(*next(each for each in meeting.steps() if each[0] != "ask" or not each[1].outcomes))
    assert isinstance(one.outcomes[0], NoGap)
    assert isinstance(other.outcomes[0], NoGap)
    one.pages = other.pages = 1
    meeting.run()
    assert len(meeting.settled) == 1
    assert one.agreed == other.agreed == meeting.settled


def test_who_does_not_come_is_named() -> None:
    meeting = founded(4)
    absent = meeting.processes.pop()
    idle = meeting.processes.pop()
    for each in meeting.processes:
        each.wants = 1
    while meeting.hub.deadline() == inf or meeting.steps():
        meeting.do(*meeting.steps()[0])
    joined = meeting.hub.join(idle.name, TIMEOUT)
    meeting.pass_time(TIMEOUT)
    for each in meeting.processes:
        each.wants = 0
    meeting.run()
    for each in meeting.processes:
        [outcome] = each.outcomes
        assert isinstance(outcome, PeerFailed)
        assert outcome.peer == idle.name
        assert "1 more" in outcome.reason
    assert joined.name == idle.name != absent.name


def test_who_leaves_politely_is_not_missed_and_its_place_is_free() -> None:
    meeting = founded()
    meeting.run()
    leaver = meeting.processes.pop()
    assert leaver.link
    meeting.hub.leave(leaver.link.session)
    meeting.links.remove(leaver.link)
    meeting.add(Process("instead", 2, 77))
    for each in meeting.processes:
        each.wants = 2
    meeting.run()
    assert len(meeting.settled) == 2
    assert all(each.agreed == meeting.settled for each in meeting.processes)


# ---- one by one ----------------------------------------------------------------------------------------


def test_two_of_one_name_are_not_let_in_at_the_same_time() -> None:
    hub = Membership(2, TIMEOUT)
    session = hub.join("one", TIMEOUT)
    with pytest.raises(Refused, match="'one' is here already"):
        hub.join("one", TIMEOUT)
    hub.lost(session, "is gone")
    assert hub.join("one", TIMEOUT) is not session


def test_a_session_that_nobody_knows_is_not_gone_on_with() -> None:
    with pytest.raises(Refused, match="not known"):
        Membership(2, TIMEOUT).resume(bytes(16))


def test_who_has_had_more_than_there_was_is_told_so() -> None:
    hub = Membership(1, TIMEOUT)
    session = hub.join("one", TIMEOUT)
    vote = Vote(Agreed(Range(0, PAGE), Range(0, PAGE), bytes(16)))
    hub.say(session, 1, 5, vote, 0)
    assert hub.outbox == [(session, 1, ("the hub", "knows of 0 agreements, one of 5"))]


def test_a_number_that_goes_back_is_refused() -> None:
    hub = Membership(2, TIMEOUT)
    session = hub.join("one", TIMEOUT)
    vote = Vote(Agreed(Range(0, PAGE), Range(0, PAGE), bytes(16)))
    hub.say(session, 5, 0, vote, 0)
    with pytest.raises(ValueError, match="exchange 4 after 5"):
        hub.say(session, 4, 0, vote, 0)


def test_what_is_long_past_is_forgotten_and_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stead.peers.membership.MOST_REMEMBERED", 2)
    meeting = founded(2, 3)
    meeting.run()
    assert len(meeting.settled) == 3
    late = meeting.add(Process("late", 1, 9))
    while not late.outcomes:
        meeting.do(*meeting.steps()[0])
    assert isinstance(late.outcomes[0], PeerFailed)
    assert "has forgotten" in late.outcomes[0].reason


def test_there_is_room_for_new_sessions_where_old_ones_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stead.peers.membership.MOST_SESSIONS", 3)
    hub = Membership(2, TIMEOUT)
    one, _, _ = (hub.join(name, TIMEOUT) for name in ("one", "two", "three"))
    with pytest.raises(Refused, match="3 members are here already"):
        hub.join("four", TIMEOUT)
    hub.lost(one, "is gone")
    hub.join("four", TIMEOUT)
    with pytest.raises(Refused, match="not known"):
        hub.resume(one.id)


def test_a_settled_answer_is_given_again_to_who_asks_again() -> None:
    meeting = founded(1)
    meeting.run()
    late = meeting.hub.join("late", TIMEOUT)
    process = Process("late", 1, 3)
    process.ask()
    from stead.peers import letters

    assert process.says
    say = letters.read(process.says)
    assert isinstance(say, letters.Say)
    for _ in range(2):
        meeting.hub.say(late, say.number, say.had, say.message, 0)
    answers = [what for _, _, what in meeting.hub.outbox]
    assert len(answers) == 2
    assert answers[0] == answers[1]
    assert isinstance(answers[0], Settled)
