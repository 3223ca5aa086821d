"""Tasks that sleep, and tell when: how many of them ran at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from support.farside import Line, new_key

Interval = tuple[float, float]


def nap(seconds: float) -> Interval:
    """Return begin and end of a nap."""
    import time

    begun = time.monotonic()
    time.sleep(seconds)
    return begun, time.monotonic()


def most_at_once(spans: Iterable[Interval]) -> int:
    """Return how many of these overlap at most."""
    spans = list(spans)
    return max(sum(begun <= start < end for begun, end in spans) for start, _ in spans)


def submit(line: Line, count: int, seconds: float, dispatch: str, **head: Any) -> list[str]:
    """Submit so many naps of one dispatch and return their keys."""
    keys = [new_key() for _ in range(count)]
    for key in keys:
        line.submit(key, nap, seconds, dispatch_id=dispatch, **head)
    return keys


def spans_of(line: Line, keys: Sequence[str]) -> list[Interval]:
    """Return when these tasks ran."""
    return [told.value for told in line.outcomes(keys)]
