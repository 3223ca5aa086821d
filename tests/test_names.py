"""Names and patterns: what may become a path, what a pattern takes, and files below a directory only."""

from __future__ import annotations

import glob
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covalent_sshtiming.remote import below, leavings, names

quick = settings(database=None, deadline=None, max_examples=300)


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "a/b/c.h5",
        "...",
        "..a",
        "a\nb",
        "a b",
        "-rf",
        "~",
        "~root/x",
        "C:\\x",
        "\udcff\udc80",
        "ä" * 127,
        "/".join("a" * 64),
        "$(id)",
    ],
)
def test_a_name_below_a_directory_is_one(name: str) -> None:
    """What is only odd is a name, newlines and bytes that are no text among it."""
    assert names.fault(name) == ""


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "/",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a/..",
        "a/",
        "a//b",
        "./a",
        "a/./b",
        "a\0b",
        "a" * 256,
        "ä" * 128,
        "/".join("a" * 65),
        "/".join(["a" * 200] * 20),
        "\ud800",
        None,
        1,
        b"a",
        ["a"],
    ],
)
def test_what_might_lead_elsewhere_is_none(name: object) -> None:
    """What is absolute, goes up, is empty somewhere, too long, or no text, is never made a path."""
    assert names.fault(name) != ""


@quick
@given(st.text(st.sampled_from("/.a\0\udcff\ud800"), max_size=8))
def test_a_sound_name_stays_below(name: str) -> None:
    """Whatever passes is a path below the directory that it is joined to, in normal form."""
    if names.fault(name) == "":
        assert os.path.normpath(os.path.join("/base", name)) == "/base/" + name
        assert os.fsencode(name)


TREE = st.lists(st.lists(st.sampled_from(["a", "b", "ab", ".h", "a.c"]), min_size=1, max_size=4), max_size=8)
PATTERN = st.lists(
    st.sampled_from(["a", "*", "**", "?", "a*", "*.c", "[ab]", ".*", "[!b]"]), min_size=1, max_size=4
)


def seen(root: Path, *patterns: str) -> list[str]:
    """Return the names of the files that a look finds."""
    top = below.top(str(root))
    try:
        return sorted(one.name for one in leavings.look(top, names.Patterns(patterns)) if not one.why)
    finally:
        os.close(top)


@settings(database=None, deadline=None, max_examples=80)
@given(tree=TREE, pattern=PATTERN)
def test_a_pattern_takes_what_a_shell_would(
    tmp_path_factory: pytest.TempPathFactory, tree: list[list[str]], pattern: list[str]
) -> None:
    """A look finds what Python's glob finds, and the check of a whole name says the same of each."""
    root = tmp_path_factory.mktemp("tree")
    for parts in tree:
        path = root.joinpath(*parts)
        if not any(one.is_file() for one in (path, *path.parents)) and not path.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
    text = "/".join(pattern)
    expected = {
        os.path.normpath(name)
        for name in glob.glob(text, root_dir=root, recursive=True)
        if (root / name).is_file()
    }
    assert seen(root, text) == sorted(expected)
    every = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
    assert {name for name in every if names.Patterns([text]).fitting(name)} == expected


def test_a_look_goes_only_where_a_pattern_leads(tmp_path: Path) -> None:
    """A directory that no pattern goes into is not opened: it may be large, or on a disk that hangs."""
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "a.png").touch()
    (tmp_path / "other").mkdir()
    opened: list[object] = []
    listening = True

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if listening and event == "open":
            opened.append(arguments[0])

    sys.addaudithook(note)
    found = seen(tmp_path, "plots/*.png", "*.h5")
    listening = False  # a hook stays for good
    assert found == ["plots/a.png"]
    assert opened == [str(tmp_path), b"plots"]
