"""stead why, stead budget, reserve(check=True): what is there, what is left, and a refusal before a try."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stead
from conftest import need
from others import other, run
from running import refused, stead_runs
from spaces import GIB, MIB, PAGE, artefact, drawn, lies, process
from stead.ranges import Range, RangeSet
from stead.seeing.why import explain, parse_where
from stead.space.simulated import SimulatedSpace

if TYPE_CHECKING:
    from pathlib import Path

    from stead.seeing.shape import Artefact


@pytest.fixture(autouse=True, scope="module")
def _needs() -> None:
    need("click")
    need("rich")


# ---- why ------------------------------------------------------------------------------------------


def test_an_address_of_ours_is_told_with_all_that_is_known() -> None:
    with stead.reserve("64 MiB", name="pool") as held:
        with stead.Arena(held, name="weights") as arena:
            block = arena.block(100)
            memoryview(block)[0] = 1
            text = stead_runs("why", hex(held.address)).stdout
            data = json.loads(stead_runs("why", hex(held.address), "--json").stdout)
            del block
        text_reserved = stead_runs("why", hex(held.range.stop - 1)).stdout
    assert re.search(r"whose +a reservation of stead: pool", text)
    assert re.search(r"mapping +0x.* rw-p, committed", text)
    assert re.search(r"arena +weights: .* of 4 MiB used", text)
    assert re.search(r"this page +resident", text)
    assert re.search(r"since +not known", text)
    assert re.search(r"nearest below +0x", text)
    [answer] = data["processes"]
    assert answer["pid"] == os.getpid()
    [there] = answer["there"]
    assert there["reservation"]["name"] == "pool"
    assert there["page"] == "resident"
    assert re.search(r"---p, reserved", text_reserved)
    assert re.search(r"this page +not in memory", text_reserved)


def test_a_range_with_several_things_in_it_and_its_alternatives_can_be_had() -> None:
    with stead.reserve("8 MiB", guard="64 KiB") as held:
        held.commit("2 MiB", "1 MiB").release()
        where = f"{held.outer.start:#x}-{held.outer.stop:#x}"
        text = stead_runs("why", where).stdout
        data = json.loads(stead_runs("why", where, "--json").stdout)
        assert [each["mapping"]["state"] for each in data["processes"][0]["there"]] == [
            "guard", "reserved", "committed", "reserved", "guard",
        ]  # fmt: skip
        assert not data["free"]
        for side in ("below", "above"):
            start, stop = (int(data[side][key], 16) for key in ("start", "stop"))
            assert stop - start == held.outer.size
            assert (stop <= held.outer.start) is (side == "below")
            with stead.reserve(held.outer.size, at=start):
                pass
    assert text.count("╳ guard") == 2
    assert "░ ours" in text


def test_what_is_free_is_said_to_be_free() -> None:
    with stead.reserve("1 MiB") as held:
        where = held.range
    text = stead_runs("why", f"{where.start:#x}+1MiB").stdout
    assert text.startswith(f"{where} is free\n".replace("\n", ""))
    assert "nearest" not in text
    assert json.loads(stead_runs("why", f"{where.start:#x}+1MiB", "--json").stdout)["free"] is True


def test_free_means_in_all_processes() -> None:
    code = """
held = stead.reserve("1 MiB", name="theirs")
view = held.commit(backing="shared")
say(held.address)
hear()
"""
    with other(code) as child:
        address = child.hear()
        text = stead_runs("why", hex(address), str(os.getpid()), str(child.pid)).stdout
        assert f"free in process {os.getpid()}" in text
        assert re.search(rf"^in process {child.pid} ", text, re.MULTILINE)
        assert "theirs" in text
        assert "nearest above" in text


def test_since_when_is_told_where_it_is_known() -> None:
    code = "held = stead.reserve('1 MiB')\nstead.publish()\nsay(held.address)\nhear()"
    with other(code) as child:
        address = child.hear()
        text = stead_runs("why", hex(address), str(child.pid)).stdout
        assert re.search(r"since +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", text)
        stack = next(each for each in stead.snapshot(child.pid).mappings if each.name == "[stack]").range
        text = stead_runs("why", hex(stack.stop - 1), str(child.pid)).stdout
        assert "the stack of the main thread" in text
        assert re.search(r"since +\d{4}-", text)
        below = json.loads(stead_runs("why", hex(stack.start - PAGE), str(child.pid), "--json").stdout)
        assert below["free"] is False
        assert below["processes"][0]["kept_clear"][0]["why"] == "for the stack to grow"


def made() -> Artefact:
    return artefact(
        process(
            [
                lies(0x10000, PAGE, "file", "/bin/x", "r-xp"),
                lies(0x12000, PAGE, "heap", "[heap]"),
                lies(0x480000000000, MIB, "shared memory", "/dev/shm/a", "rw-s"),
                lies(0x480000200000, MIB, "anonymous", "", "---p", state="reserved"),
                lies(0x480000400000, MIB, "anonymous"),
                lies(0x480000600000, MIB, "ours", "/memfd:stead:x", "rw-s"),
                lies(0x480000800000, MIB, "vdso", "[vdso]", "r-xp"),
            ]
        )
    )


@pytest.mark.parametrize(
    ("where", "owner"),
    [
        (0x10000, "code: /bin/x"),
        (0x12000, "the heap of the C library"),
        (0x480000000000, "shared memory: /dev/shm/a"),
        (0x480000200000, "held without access"),
        (0x480000400000, "anonymous memory"),
        (0x480000600000, "a reservation of stead: /memfd:stead:x"),
        (0x480000800000, r"the kernel: \[vdso\]"),
    ],
)
def test_whose_it_is(where: int, owner: str) -> None:
    [answer] = explain(made(), Range.sized(where, 1)).answers
    assert re.match(owner, answer.there[0].owner)
    assert answer.there[0].page is None


def test_outside_of_all_addresses() -> None:
    from stead.view.why import print_why

    why = explain(made(), Range(0, 1))
    assert not why.free
    assert "is outside of" in drawn(print_why, why)
    assert why.below is None
    assert why.above is not None
    assert why.above.start >= 0x11000


@given(
    st.lists(st.tuples(st.integers(16, 400), st.integers(1, 9)), max_size=12),
    st.integers(16, 400),
    st.integers(1, 40),
)
def test_the_nearest_are_free_and_the_nearest(taken: list[tuple[int, int]], start: int, pages: int) -> None:
    mapped = RangeSet(Range.sized(first * PAGE, count * PAGE) for first, count in taken)
    seen = artefact(process([lies(each.start, each.size, "anonymous") for each in mapped]))
    where = Range.sized(start * PAGE, pages * PAGE)
    why = explain(seen, where)
    assert why.free is not any(mapped.overlapping(where))
    places = [
        Range.sized(at, where.size) for at in range(0x10000, 500 * PAGE, PAGE)
        if not any(mapped.overlapping(Range.sized(at, where.size)))
    ]  # fmt: skip
    assert why.below == max((each for each in places if each.start < where.start), default=None)
    assert why.above == min(each for each in places if each.start > where.start)


@pytest.mark.parametrize(
    ("text", "where"),
    [("0x1000", (0x1000, 0x1001)), ("0x1000-0x2000", (0x1000, 0x2000)), ("0x1000–0x2000", (0x1000, 0x2000)),
     ("0x1000+64KiB", (0x1000, 0x11000)), (" 0XFF ", (0xFF, 0x100))],
)  # fmt: skip
def test_where_can_be_written(text: str, where: tuple[int, int]) -> None:
    assert parse_where(text) == where


@pytest.mark.parametrize(
    "text",
    ["", "1000", "here", "0x", "0x1000-", "0x2000-0x1000", "0x1000+0", "0x1000+x", "0x1ffffffffffffffff", "-0x1"],
)
def test_where_is_named_when_it_is_wrong(text: str) -> None:
    with pytest.raises(ValueError, match="where is "):
        parse_where(text)
    result = stead_runs("why", "--", text)
    assert result.exit_code == 2
    assert "where is " in result.stderr


def test_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(made()) + "\n")
    assert "code: /bin/x" in stead_runs("why", "0x10000", "--from", str(path)).stdout
    assert "pid 1" in stead_runs("show", "1", "--from", str(path)).stdout
    refused(stead_runs("show", "2", "--from", str(path)), "has no process 2")
    for text, says in (("", "is empty"), ("{}", "is no snapshot: schema is None"), ("x", "is no JSON")):
        path.write_text(text)
        refused(stead_runs("show", "--from", str(path)), says)


# ---- budget ---------------------------------------------------------------------------------------


def test_the_budget_of_this_process() -> None:
    with stead.reserve("64 GiB", name="big") as held, stead.Arena("1 GiB", quota="10 MiB"):
        held.commit(0, "3 MiB").release()
        data = json.loads(stead_runs("budget", "--json").stdout)
        text = stead_runs("budget").stdout
    assert data["pid"] == os.getpid()
    assert data["stead"]["published"] is True
    assert data["stead"]["held"] >= 65 * GIB
    assert 3 * MIB <= data["stead"]["committed"] < GIB
    assert data["stead"]["quotas"] == 10 * MIB
    assert data["limits"]["mappings"]["used"] > 10
    gap = [int(data["largest_gap"][key], 16) for key in ("start", "stop")]
    assert gap[1] - gap[0] >= 16 << 40
    assert max(map(len, text.splitlines())) <= 80
    for name in ("RLIMIT_AS", "RLIMIT_DATA", "vm.max_map_count", "cgroup memory", "overcommit", "largest gap"):
        assert name in text
    assert "quotas of 10 MiB" in " ".join(text.split())


def test_the_budget_of_another_process_with_limits() -> None:
    code = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))
resource.setrlimit(resource.RLIMIT_DATA, (1 << 38, 1 << 38))
held = stead.reserve("1 MiB")
say(1)
hear()
"""
    with other(code) as child:
        child.hear()
        limits = json.loads(stead_runs("budget", str(child.pid), "--json").stdout)["limits"]
        text = stead_runs("budget", str(child.pid)).stdout
    assert limits["address_space"]["most"] == 1 << 40
    assert limits["data"]["most"] == 1 << 38
    assert 0 < limits["data"]["used"] < limits["address_space"]["used"] < 1 << 40
    assert re.search(r"RLIMIT_AS +1 TiB, .* used, .* left", text)
    assert "STEAD_PUBLISH=1" in text


def test_a_policy_that_never_overcommits_says_how_much_is_left() -> None:
    from stead.seeing.budgeting import budget_of
    from stead.view.budget import print_budget

    seen = made()
    seen["hosts"][0] = {**seen["hosts"][0], "overcommit": "never"}
    text = drawn(print_budget, budget_of(seen["processes"][0], seen["hosts"][0]))
    assert re.search(r"overcommit +never: 16 GiB, 1 GiB used, 15 GiB left", text)


# ---- reserve(check=True) --------------------------------------------------------------------------


def test_checked_and_there_is_room() -> None:
    for more in ({}, {"guard": "64 KiB"}, {"within": "0x400000000000-0x540000000000"}, {"name": "checked"}):
        with stead.reserve("1 GiB", check=True, **more) as held:  # type: ignore[arg-type]
            where = held.range
        with stead.reserve("1 GiB", at=where.start, check=True) as held:
            assert held.range == where


def test_what_is_over_a_limit_is_refused_before_it_is_tried() -> None:
    code = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))
calls = []
from stead import claiming
claiming.claim_here = lambda *arguments: calls.append(arguments)
error = attempt(stead.reserve, "2 TiB", check=True)
exactly = attempt(stead.reserve, "2 TiB", at=0x480000000000, check=True)
say((type(error).__name__, error.limit, str(error), exactly.limit, calls))
"""
    kind, limit, text, exactly, calls = run(code)
    assert (kind, limit, exactly) == ("LimitReached", "RLIMIT_AS", "RLIMIT_AS")
    assert re.match(r"cannot reserve 2 TiB: this process has .* of addresses, and RLIMIT_AS .* is 1 TiB", text)
    assert calls == []


def test_too_few_mappings_to_commit_in_it() -> None:
    space = SimulatedSpace(max_mappings=20)
    with pytest.raises(stead.LimitReached, match=r"vm.max_map_count is 20, and to commit in .* takes") as caught:
        stead.reserve("1 MiB", space=space, check=True)
    assert caught.value.limit == "max_map_count"
    assert not any(space.kernel.ours)
    stead.reserve("1 MiB", space=space).release()


def test_no_gap_is_found_out_before() -> None:
    with stead.reserve("8 MiB") as held, pytest.raises(stead.NoGap, match="it has no gap at all"):
        stead.reserve("1 MiB", within=held.range, check=True)
    with pytest.raises(stead.LimitReached, match="of addresses here") as caught:
        stead.reserve("1 EiB", check=True)
    assert caught.value.limit == "VA width"


class Elsewhere:
    """A space that is not a process's own."""

    def __init__(self) -> None:
        self.inner = SimulatedSpace()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_where_it_cannot_be_checked() -> None:
    with pytest.raises(stead.Unsupported, match="check=True needs a space of this process"):
        stead.reserve("1 MiB", space=Elsewhere(), check=True)
    with pytest.raises(ValueError, match="check is True, must not be given when together is"):
        stead.reserve("1 MiB", together=object(), check=True)  # type: ignore[arg-type]
