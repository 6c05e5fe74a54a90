"""`stead mpi doctor` under a real mpiexec."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from integration.mpi.conftest import Ranks

# Open MPI gives its ranks a terminal.
PLAIN = {"COLUMNS": "100", "TERM": "dumb"}


def test_each_rank_is_listed_and_one_range_for_all_is_found(ranks: Ranks, number: int) -> None:
    printed = ranks("doctor.py", number, "mpi", "doctor", env=PLAIN)
    assert max(map(len, printed.splitlines())) <= 100
    assert f"{number} ranks · " in printed
    for rank in range(number):
        assert re.search(rf"^ *{rank}  {re.escape(os.uname().nodename)} ", printed, re.MULTILINE), printed
    assert f"ranks 0-{number - 1}" in printed
    assert re.search(r"one range for all: 0x[0-9a-f]+–0x[0-9a-f]+ \(1 GiB\), in 2 exchanges", printed), printed


def test_as_json(ranks: Ranks, number: int) -> None:
    data = json.loads(ranks("doctor.py", number, "mpi", "doctor", "64 MiB", "--json"))
    assert [each["rank"] for each in data["ranks"]] == list(range(number))
    assert len({each["pid"] for each in data["ranks"]}) == number
    assert len({each["boot"] for each in data["ranks"]}) == 1
    assert data["start"] > 0
    assert data["size"] == 64 << 20
    assert data["refusal"] is None
    assert data["differences"] == []


def test_where_there_is_none_the_reason_is_said_and_every_rank_fails(ranks: Ranks, number: int) -> None:
    printed = ranks("doctor.py", number, "mpi", "doctor", "300 TiB", fails=True, env=PLAIN)
    assert "no range for all" in printed
    assert f"free in all of the {number} peers" in " ".join(printed.split())


def test_a_rank_that_has_less_is_pointed_out_and_named_as_what_is_in_the_way(ranks: Ranks, number: int) -> None:
    env = {**PLAIN, "LIMITED": "1"}
    fits = ranks("doctor.py", number, "mpi", "doctor", "1 GiB", env=env)
    limited = number - 1
    others = "rank 0" if limited == 1 else f"ranks 0-{limited - 1}"
    assert f"RLIMIT_AS: unlimited on {others}; 1 TiB on rank {limited}" in " ".join(fits.split()), fits
    printed = ranks("doctor.py", number, "mpi", "doctor", "2 TiB", env=env, fails=True)
    assert f"rank {limited} " in printed
    assert "RLIMIT_AS" in printed
