"""Numbers to classes: which errno, in which circumstances, is which error and names which limit."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from stead.errors import AddressSpaceError, LimitReached, Occupied, Unsupported
from stead.kernel import Limits
from stead.ranges import Range
from stead.space.refusal import refusal

USABLE = Range(0x10000, 0x7FFF_FFFF_F000)
WHERE = Range.sized(0x4800_0000_0000, 1 << 30)
ABOVE = Range.sized(0x7FFF_FFFF_F000, 4096)
ROOMY = Limits(
    mappings=100,
    max_mappings=65530,
    address_space=1 << 30,
    max_address_space=None,
    data=1 << 20,
    max_data=None,
    overcommit="heuristic",
)
NARROW = replace(ROOMY, max_address_space=3 << 29)
CROWDED = replace(ROOMY, mappings=65530)
LITTLE_DATA = replace(ROOMY, max_data=1 << 29)


def limit(
    number: int, where: Range = WHERE, limits: Limits = ROOMY, *, doing: str = "claim", accessible: bool = False
) -> str:
    error = refusal(number, doing, where, USABLE, limits, accessible=accessible)
    assert isinstance(error, LimitReached)
    assert error.errno == number
    assert str(where) in str(error)
    assert doing in str(error)
    return error.limit


def test_eexist_is_occupied_and_names_no_culprit_yet() -> None:
    error = refusal(errno.EEXIST, "claim", WHERE, USABLE, CROWDED)
    assert isinstance(error, Occupied)
    assert (error.range, error.by, error.nearest) == (WHERE, None, None)


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EINVAL])
@pytest.mark.parametrize("where", [ABOVE, Range(USABLE.stop - 4096, USABLE.stop + 4096), Range(1 << 60, 1 << 61)])
def test_beyond_the_last_address_the_limit_is_the_width(number: int, where: Range) -> None:
    assert limit(number, where) == "VA width"


@pytest.mark.parametrize("where", [Range(0, 4096), Range(4096, 0x20000)])
def test_below_the_first_address_the_limit_is_mmap_min_addr(where: Range) -> None:
    assert limit(errno.EPERM, where) == "mmap_min_addr"


def test_eagain_is_the_limit_of_locked_memory() -> None:
    assert limit(errno.EAGAIN, doing="commit", accessible=True) == "RLIMIT_MEMLOCK"


# ---- the causes of ENOMEM -------------------------------------------------------------------------


def test_a_claim_beyond_the_limit_of_addresses_names_it() -> None:
    assert limit(errno.ENOMEM, limits=NARROW) == "RLIMIT_AS"


def test_a_claim_that_the_limit_of_addresses_would_allow_has_another_cause() -> None:
    assert limit(errno.ENOMEM, limits=replace(NARROW, max_address_space=2 << 30)) == "memory"


@pytest.mark.parametrize("doing", ["commit", "decommit", "protect", "release", "discard"])
def test_what_happens_inside_addresses_that_are_held_takes_no_more_of_them(doing: str) -> None:
    assert limit(errno.ENOMEM, limits=replace(NARROW, mappings=65530), doing=doing) == "max_map_count"
    accessible = doing in ("commit", "protect")
    assert limit(errno.ENOMEM, limits=NARROW, doing=doing, accessible=accessible) != "RLIMIT_AS"


@pytest.mark.parametrize("mappings", [65528, 65529, 65530, 65531])
def test_at_the_limit_of_mappings_it_is_named_and_counted(mappings: int) -> None:
    crowded = replace(ROOMY, mappings=mappings)
    assert limit(errno.ENOMEM, limits=crowded) == "max_map_count"
    text = str(refusal(errno.ENOMEM, "claim", WHERE, USABLE, crowded))
    assert str(mappings) in text
    assert "65530" in text


def test_memory_beyond_the_limit_of_data_names_it() -> None:
    assert limit(errno.ENOMEM, limits=LITTLE_DATA, doing="commit", accessible=True) == "RLIMIT_DATA"
    assert limit(errno.ENOMEM, limits=LITTLE_DATA) == "memory"  # addresses without access count as no data


@pytest.mark.parametrize("policy", ["heuristic", "never"])
def test_memory_that_the_kernel_will_not_promise_is_overcommit(policy: str) -> None:
    limits = replace(ROOMY, overcommit=policy)
    assert limit(errno.ENOMEM, limits=limits, doing="commit", accessible=True) == "overcommit"
    assert policy in str(refusal(errno.ENOMEM, "commit", WHERE, USABLE, limits, accessible=True))


def test_where_nothing_else_explains_it_memory_is_short() -> None:
    assert limit(errno.ENOMEM) == "memory"
    assert limit(errno.ENOMEM, limits=replace(ROOMY, overcommit="always"), accessible=True) == "memory"


def test_unknown_limits_are_no_reason() -> None:
    unknown = Limits(0, None, 0, None, 0, None, "unknown")
    assert limit(errno.ENOMEM, limits=unknown) == "memory"


# ---- what is no limit -----------------------------------------------------------------------------


def test_eacces_says_that_the_backing_does_not_allow_it() -> None:
    error = refusal(errno.EACCES, "commit", WHERE, USABLE, ROOMY, accessible=True)
    assert isinstance(error, Unsupported)
    assert "commit" in error.feature


def test_einval_inside_the_space_is_a_wrong_argument() -> None:
    error = refusal(errno.EINVAL, "claim", Range(0x4800_0000_0001, 0x4800_0000_1001), USABLE, ROOMY)
    assert isinstance(error, ValueError)
    assert not isinstance(error, OSError)


@pytest.mark.parametrize("number", [errno.EBADF, errno.ENODEV, errno.EPERM, errno.ENFILE])
def test_any_other_number_is_kept(number: int) -> None:
    error = refusal(number, "commit", WHERE, USABLE, ROOMY)
    assert type(error) is AddressSpaceError
    assert vars(error)["errno"] == number
    assert str(WHERE) in str(error)
