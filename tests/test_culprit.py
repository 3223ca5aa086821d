"""The search for what in a result cannot be pickled: it ends, whatever the result is."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from covalent_sshtiming.remote import culprit

LOCK = threading.Lock()


class Evil:
    """Raises wherever it is looked at."""

    def __reduce__(self) -> Any:
        raise ValueError("no")

    def __getattr__(self, name: str) -> Any:
        raise KeyError(name)

    def __repr__(self) -> str:
        raise RuntimeError("never")

    def __hash__(self) -> int:
        return 1


def circle() -> list[Any]:
    """Return a list that holds itself, and what cannot be pickled."""
    value: list[Any] = []
    value += [value, LOCK]
    return value


def nested(depth: int) -> list[Any]:
    """Return what cannot be pickled in so many lists."""
    value: list[Any] = [LOCK]
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "way"),
    [
        (LOCK, ""),
        ({"a": {"b": [0, LOCK]}}, "['a']['b'][1]"),
        ((1, LOCK), "[1]"),
        ({Evil(): LOCK}, "[...]"),
        ({"x" * 200: LOCK}, "['" + "x" * 79 + "...]"),
        ([Evil()], "[0]"),
        ({LOCK}, ""),
    ],
)
def test_the_way_to_it(value: Any, way: str) -> None:
    """The way is written as one would write it in Python, and ends where nothing further in is found."""
    assert culprit.find(value)[0] == way


def test_a_circle_and_a_crowd_come_to_an_end() -> None:
    """A value that holds itself, one of many parts and one of large parts are given up in time."""
    begun = time.monotonic()
    assert culprit.find(circle())[0] == "[1]"
    assert culprit.find(nested(100))[0] == "[0]" * culprit.DEPTH
    assert culprit.find([0] * 100_000 + [LOCK])[0] == ""
    assert culprit.find([bytes(64 << 20), LOCK])[0] == "[1]"
    assert time.monotonic() - begun < 2 * culprit.SECONDS
