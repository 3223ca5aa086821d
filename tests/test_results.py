"""The files of fetched results: sizes that make no sense, two writers at once, and what load_result says."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

import covalent_sshtiming
from covalent_sshtiming import errors, results


def test_a_result_file_believes_no_sizes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that make no sense, a result over the cap, one too long or too short: no file appears."""
    monkeypatch.setenv("XDG_DATA_HOME", str(place))
    for parts in (None, [1, 2], [1, 2, -3], [1, 2, True], [0, 0, "9"], [2 << 20, 0, 0]):
        with pytest.raises((errors.ResultError, errors.ResultTooLarge)):
            results.ResultFile("a" * 32, 100).begin(parts)
    with pytest.raises(errors.ResultTooLarge, match="over max_result_bytes = 100"):
        results.ResultFile("a" * 32, 100).begin([0, 0, 101])
    file = results.ResultFile("a" * 32, 100)
    file.begin([1, 1, 3])
    with pytest.raises(errors.ResultError, match="longer"):
        file.add(b"123456")
    file.begin([1, 1, 3])
    file.add(b"1234")
    with pytest.raises(errors.ResultError, match="shorter"):
        file.finish()
    file.close()
    assert not list(results.directory().iterdir())


def test_two_fetches_at_once_do_not_share_a_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fetch that begins, and breaks off, while another writes the same result leaves that one whole."""
    monkeypatch.setenv("XDG_DATA_HOME", str(place))
    first, second = (results.ResultFile("a" * 32, 1 << 20) for _ in range(2))
    text = pickle.dumps("x" * 100_000)
    first.begin([0, 0, len(text)])
    first.add(text[:50_000])
    second.begin([0, 0, len(text)])
    first.add(text[50_000:])
    path = first.finish()
    second.close()
    assert covalent_sshtiming.load_result(path) == "x" * 100_000
    assert list(results.directory().iterdir()) == [path]


def test_load_result_says_what_is_wrong(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No such key, more than one, no such file and a file of something else are four sentences."""
    monkeypatch.setenv("XDG_DATA_HOME", str(place))
    results.directory().mkdir(parents=True)
    for name in ("ab1", "ab2"):
        (results.directory() / f"{name}.result").write_bytes(b"something else\n")
    for name, words in (
        ("ff", "has no result whose key begins with 'ff'"),
        ("ab", "has 2 results whose key begins with 'ab'"),
        ("../x", "there is no file ../x"),
        ("ab1", "is no result that was fetched"),
    ):
        with pytest.raises(errors.ConfigError, match=words):
            covalent_sshtiming.load_result(name)
