"""The culprit: which part of a result it is that cannot be pickled, and the way to it, for the error's text.

Owns the search. The pickler itself is asked, part by part, so it ends early: by depth, breadth and time.
"""

import time
from itertools import islice
from typing import Any, Iterator, List, Tuple

DEPTH = 20
BREADTH = 1000  # parts of one container
SECONDS = 2.0
ENOUGH = 16 << 20  # bytes of a part's pickle, after which it is taken for sound
STEP_CHARS = 80


def find(value: Any) -> "Tuple[str, Any]":
    """Return the way to the innermost part that cannot be pickled, as one would write it, and that part.

    The way is "" where it is the value itself, or nothing further in was found.
    """
    deadline = time.monotonic() + SECONDS
    way, passed = "", [value]
    while len(passed) <= DEPTH:
        step, part = _next(passed, deadline)
        if not step:
            break
        way += step
        passed.append(part)
    return way, passed[-1]


def _next(passed: "List[Any]", deadline: float) -> "Tuple[str, Any]":
    """Return the first part that cannot be pickled, and the step to it; "" where there is none."""
    try:
        for step, part in islice(_parts(passed[-1]), BREADTH):
            if time.monotonic() > deadline:
                break
            if not any(part is one for one in passed) and not _is_sound(part):  # it may hold itself
                return step, part
    except Exception:  # noqa: BLE001, S110 - the user's own classes may raise anything
        pass
    return "", None


def _parts(value: Any) -> "Iterator[Tuple[str, Any]]":
    if isinstance(value, dict):
        for key, part in value.items():
            yield "[%s]" % _shown(key), part
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            yield "[%d]" % index, part
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict):
        for name, part in attributes.items():
            yield ".%s" % name, part


def _shown(key: Any) -> str:
    try:
        text = repr(key)
    except Exception:  # noqa: BLE001 - the user's own __repr__ may raise anything
        text = "..."
    return text if len(text) <= STEP_CHARS else text[:STEP_CHARS] + "..."


class _Enough(Exception):
    """The part is large, and was sound so far."""


class _Nowhere:
    """A file that keeps nothing, for the pickler, which only writes."""

    def __init__(self) -> None:
        self._left = ENOUGH

    def write(self, data: bytes) -> int:
        """Count the bytes; raises _Enough."""
        size = memoryview(data).nbytes
        self._left -= size
        if self._left < 0:
            raise _Enough
        return size


def _is_sound(part: Any) -> bool:
    import cloudpickle

    try:
        cloudpickle.Pickler(_Nowhere()).dump(part)
    except _Enough:
        return True
    except Exception:  # noqa: BLE001 - a pickler may raise anything
        return False
    return True
