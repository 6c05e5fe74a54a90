"""The parser of /proc/<pid>/maps: what it reads, and what it refuses to read."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stead
from stead.errors import UnreadableMaps
from stead.maps import Kind, Mapping, mapping, parse
from stead.ranges import Range

if TYPE_CHECKING:
    from pathlib import Path

PAGE = 4096


def line(
    name: str = "", where: str = "7f0000000000-7f0000001000", inode: int = 0, permissions: str = "rw-p"
) -> str:
    """As show_map_vma() in fs/proc/task_mmu.c writes it: a name begins at column 73."""
    fields = f"{where} {permissions} 00000000 00:00 {inode} "
    return (fields.ljust(73) + name if name else fields) + "\n"


def only(text: str) -> Mapping:
    [found] = parse(text)
    return found


# ---- what is read ---------------------------------------------------------------------------------


def test_an_empty_text_has_no_mappings() -> None:
    assert parse("") == []


def test_every_field_is_read() -> None:
    text = "55d0c0a00000-55d0c0a21000 r-xp 0001f000 fd:01 1234567                    /usr/bin/cat\n"
    assert only(text) == Mapping(
        Range(0x55D0C0A00000, 0x55D0C0A21000),
        "r-xp",
        0x1F000,
        (0xFD, 1),
        1234567,
        "/usr/bin/cat",
        False,
        Kind.FILE,
    )


def test_upper_case_hex_is_read() -> None:
    assert only(line(where="7F0000ABC000-7F0000ABD000")).range == Range(0x7F0000ABC000, 0x7F0000ABD000)


@pytest.mark.parametrize(
    "name",
    [
        "/tmp/with space",
        "/tmp/two  spaces",
        "/tmp/trailing ",
        "/tmp/trailing   ",
        "/ leading",
        "/tmp/\ttab",
        "/tmp/line\u2028separator",
        "/tmp/form\x0cfeed",
        "/tmp/vertical\x0btab",
        "/tmp/next\x85line",
        "/tmp/carriage\rreturn",
        "/tmp/file\x1cseparator",
        "/tmp/udc80surrogate\udc80",
        "/tmp/7f0000000000-7f0000001000 rw-p 00000000 00:00 0",
        "/tmp/back\\slash",
    ],
)
def test_a_name_is_kept_to_the_last_character_and_never_splits_a_line(name: str) -> None:
    below, named, above = parse(
        line(where="1000-2000") + line(name, where="2000-3000", inode=7) + line(where="3000-4000")
    )
    assert named.name == name
    assert named.range == Range(0x2000, 0x3000)
    assert below.name == above.name == ""


def test_an_escaped_newline_in_a_name_is_a_newline() -> None:
    assert only(line("/tmp/one\\012two\\012", inode=7)).name == "/tmp/one\ntwo\n"


@pytest.mark.parametrize(
    ("name", "inode", "permissions", "kind"),
    [
        ("", 0, "rw-p", Kind.ANONYMOUS),
        ("", 0, "---p", Kind.ANONYMOUS),
        ("[anon:x]", 0, "rw-p", Kind.ANONYMOUS),
        ("[anon: spaced name ]", 0, "rw-p", Kind.ANONYMOUS),
        ("[heap]", 0, "rw-p", Kind.HEAP),
        ("[stack]", 0, "rw-p", Kind.STACK),
        ("[stack:123]", 0, "rw-p", Kind.STACK),
        ("[vdso]", 0, "r-xp", Kind.VDSO),
        ("[vvar]", 0, "r--p", Kind.VDSO),
        ("[vvar_vclock]", 0, "r--p", Kind.VDSO),
        ("[vsyscall]", 0, "--xp", Kind.VDSO),
        ("[uprobes]", 0, "--xp", Kind.VDSO),
        ("/usr/lib/libc.so.6", 42, "r-xp", Kind.FILE),
        ("/usr/lib/libc.so.6 (deleted)", 42, "r-xp", Kind.FILE),
        ("/memfd:", 42, "rw-s", Kind.FILE),  # a real file of that name: memory is always "(deleted)"
        ("/memfd:x (deleted)", 42, "rw-s", Kind.SHARED_MEMORY),
        ("/memfd:a name (deleted)", 42, "rw-p", Kind.SHARED_MEMORY),
        ("/dev/shm/psm_1", 42, "rw-s", Kind.SHARED_MEMORY),
        ("/dev/shm/psm_1 (deleted)", 42, "rw-s", Kind.SHARED_MEMORY),
        ("/dev/zero (deleted)", 42, "rw-s", Kind.SHARED_MEMORY),
        ("/SYSV00000000 (deleted)", 42, "rw-s", Kind.SHARED_MEMORY),
        ("[anon_shmem:x]", 42, "rw-s", Kind.SHARED_MEMORY),
        ("/anon_hugepage (deleted)", 42, "rw-s", Kind.SHARED_MEMORY),
        ("/anon_hugepage (deleted)", 42, "rw-p", Kind.ANONYMOUS),
    ],
)
def test_the_kind_follows_from_name_inode_and_permissions(
    name: str, inode: int, permissions: str, kind: Kind
) -> None:
    found = only(line(name, inode=inode, permissions=permissions))
    assert found.kind is kind
    assert found.deleted == name.endswith("(deleted)")
    assert found.name == name.removesuffix(" (deleted)")


def test_only_inaccessible_memory_without_a_file_is_a_reservation() -> None:
    assert only(line(permissions="---p")).reserved
    assert not only(line(permissions="r--p")).reserved
    assert not only(line("/file", inode=9, permissions="---p")).reserved


def test_the_highest_mapping_of_x86_is_read() -> None:
    found = only(line("[vsyscall]", where="ffffffffff600000-ffffffffff601000", permissions="--xp"))
    assert found.range == Range(0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000)


# ---- what is refused ------------------------------------------------------------------------------

GOOD = line(where="1000-2000")


@pytest.mark.parametrize(
    "bad",
    [
        "",
        " ",
        "no mapping at all",
        "7f0000000000 rw-p 00000000 00:00 0",
        "7f0000000000-7f0000001000",
        "7f0000000000-7f0000001000 rw-p",
        "7f0000000000-7f0000001000 rwzp 00000000 00:00 0 ",
        "7f0000000000-7f0000001000 rw-p 00000000 00:00 x ",
        "7f0000000000-7f0000001000 rw-p 00000000 0000 0 ",
        "7f0000000000-7f0000001000  rw-p 00000000 00:00 0 ",
        "-7f0000000000-7f0000001000 rw-p 00000000 00:00 0 ",
        "0x7f0000000000-0x7f0000001000 rw-p 00000000 00:00 0 ",
        "7f0000000000g-7f0000001000 rw-p 00000000 00:00 0 ",
        "17f0000000000000000-7f0000001000 rw-p 00000000 00:00 0 ",
        "7f0000001000-7f0000000000 rw-p 00000000 00:00 0 ",  # reversed
        "7f0000001000-7f0000001000 rw-p 00000000 00:00 0 ",  # empty
        "٧f0000000000-7f0000001000 rw-p 00000000 00:00 0 ",  # digits of another script
    ],
)
def test_a_line_that_cannot_be_read_is_named_by_number_and_text(bad: str) -> None:
    with pytest.raises(UnreadableMaps) as refused:
        parse(GOOD + GOOD.replace("1000-2000", "2000-3000") + bad + "\n" + line(where="9000-a000"))
    assert refused.value.number == 3
    assert refused.value.line == bad
    assert "line 3" in str(refused.value)
    assert repr(bad) in str(refused.value)


@pytest.mark.parametrize("kept", range(1, len(GOOD)))
def test_a_half_last_line_is_refused_however_much_of_it_there_is(kept: int) -> None:
    half = line(where="2000-3000")[:kept].rstrip("\n")
    with pytest.raises(UnreadableMaps, match="newline") as refused:
        parse(GOOD + half)
    assert (refused.value.number, refused.value.line) == (2, half)


@given(st.text())
def test_garbage_raises_nothing_but_unreadable_maps(text: str) -> None:
    try:
        parse(text)
    except UnreadableMaps as refused:
        assert refused.number >= 1


@given(st.data())
def test_a_damaged_text_is_refused_or_read_without_making_up_a_range(data: st.DataObject) -> None:
    text = "".join(line("/a b", where=f"{n:x}000-{n + 1:x}000", inode=5) for n in range(1, 6))
    at = data.draw(st.integers(0, len(text)))
    damaged = text[:at] + data.draw(st.text(max_size=3)) + text[at + data.draw(st.integers(0, 30)) :]
    try:
        found = parse(damaged)
    except UnreadableMaps:
        return
    # Each line is one range or was dropped as a repeat: never more, and never an empty or reversed one.
    assert len(found) <= damaged.count("\n")
    assert all(each.range.start < each.range.stop for each in found)


# ---- a text read while others map -----------------------------------------------------------------


def test_a_range_that_is_listed_twice_counts_once_and_grown() -> None:
    text = line(where="1000-2000") + line(where="1000-5000") + line(where="5000-6000")
    assert [each.range for each in parse(text)] == [Range(0x1000, 0x5000), Range(0x5000, 0x6000)]


def test_a_repeat_of_what_is_listed_already_is_dropped() -> None:
    text = line(where="1000-5000") + line(where="1000-5000") + line(where="3000-5000")
    assert [each.range for each in parse(text)] == [Range(0x1000, 0x5000)]


def test_several_ranges_that_merged_while_being_listed_count_once() -> None:
    text = (
        line(where="1000-2000")
        + line("/x", "2000-3000", inode=4)
        + line(where="3000-4000")
        + line(where="1000-6000")
    )
    assert [each.range for each in parse(text)] == [Range(0x1000, 0x6000)]


# ---- formatted and read back ----------------------------------------------------------------------

names = st.one_of(
    st.just(""),
    st.sampled_from(["[heap]", "[stack]", "[vdso]", "[anon:a b]"]),
    # A literal backslash escape cannot be told from an escaped newline: the kernel escapes no backslash.
    st.text(st.characters(exclude_characters="\\\x00", codec="utf-8"), min_size=1, max_size=20).map("/{}".format),
)


@st.composite
def tables(draw: st.DrawFn) -> list[Mapping]:
    edges = sorted(draw(st.sets(st.integers(0, (1 << 52) - 1), max_size=16)))
    made = []
    for start, stop in zip(edges[::2], edges[1::2], strict=False):
        name = draw(names)
        inode = draw(st.integers(1, (1 << 64) - 1)) if name.startswith("/") else 0
        permissions = "".join(draw(st.sampled_from(pair)) for pair in ("r-", "w-", "x-", "sp"))
        offset = draw(st.integers(0, 1 << 40)) * PAGE if inode else 0
        device = (draw(st.integers(0, 0xFFF)), draw(st.integers(0, 0xFFFFF))) if inode else (0, 0)
        made.append(mapping(Range(start * PAGE, stop * PAGE), permissions, offset, device, inode, name))
    return made


def written(each: Mapping) -> str:
    """show_map_vma(): %08lx-%08lx, four letters, %08llx, %02x:%02x, %lu, a space, padding to column 73."""
    fields = (
        f"{each.range.start:08x}-{each.range.stop:08x} {each.permissions} {each.offset:08x} "
        f"{each.device[0]:02x}:{each.device[1]:02x} {each.inode} "
    )
    name = each.name + (" (deleted)" if each.deleted else "")
    return (fields.ljust(73) + name.replace("\n", "\\012") if name else fields) + "\n"


@given(tables())
def test_what_the_kernel_writes_is_what_is_read(table: list[Mapping]) -> None:
    assert parse("".join(map(written, table))) == table


@given(tables(), st.data())
def test_a_text_that_is_cut_anywhere_is_refused_or_ends_at_a_line(
    table: list[Mapping], data: st.DataObject
) -> None:
    text = "".join(map(written, table))
    cut = text[: data.draw(st.integers(0, len(text)))]
    if cut.endswith("\n") or not cut:
        assert parse(cut) == table[: cut.count("\n")]
    else:
        with pytest.raises(UnreadableMaps):
            parse(cut)


# ---- a real file ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a\nb c ", " \n ", "x (deleted)y", "\u2028 \x85 \x0c", "line\n\nbreaks\n"])
def test_a_real_file_with_a_difficult_name_is_found_by_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(bytes(PAGE))
    with open(path, "rb") as file, mmap.mmap(file.fileno(), PAGE, prot=mmap.PROT_READ):
        found = [each for each in stead.snapshot().mappings if each.name == str(path)]
        assert len(found) == 1
        assert found[0].inode == os.stat(path).st_ino
        assert (found[0].kind, found[0].deleted, found[0].permissions) == (Kind.FILE, False, "r--s")
        path.unlink()
        [gone] = [each for each in stead.snapshot().mappings if each.name == str(path)]
        assert gone.deleted
