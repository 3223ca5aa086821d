"""The board: memory that a worker shares with its supervisor, for what the one tells the other.

Owns its layout: the call's first mark, which the supervisor needs where a task is killed in its call, and
the worker's report. It takes no descriptor that a function could close and no disk that could be full.
"""

import json
import math
import mmap
import struct
from typing import Any, Dict, NamedTuple, Optional

SIZE = 4 << 20  # bytes of address space; of memory only what is written to
_FIRST = struct.Struct("=ddd")
_LENGTH = struct.Struct("=Q")
_TEXT_AT = _FIRST.size + _LENGTH.size


class FirstMark(NamedTuple):
    """The call's first mark, as the supervisor sees it.

    gap: how far the group's account of CPU seconds is ahead of what the worker knew of; None without.
    """

    wall: float
    cpu: float
    gap: "Optional[float]"


class Board:
    """Zeros at first; a fork shares it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, SIZE)

    def mark(self, wall: float, cpu: float, gap: "Optional[float]") -> None:
        """Leave the call's first mark."""
        _FIRST.pack_into(self._memory, 0, wall, cpu, math.nan if gap is None else gap)

    def first_mark(self) -> "Optional[FirstMark]":
        """Return the call's first mark; None if the call was never reached."""
        wall, cpu, gap = _FIRST.unpack_from(self._memory, 0)
        return FirstMark(wall, cpu, None if math.isnan(gap) else gap) if wall else None

    def leave(self, report: "Dict[str, Any]") -> None:
        """Leave the report; its length comes last, so half a report is none."""
        text = json.dumps(report).encode()
        if len(text) > SIZE - _TEXT_AT:
            raise ValueError("report of %d bytes" % len(text))
        self._memory[_TEXT_AT : _TEXT_AT + len(text)] = text
        _LENGTH.pack_into(self._memory, _FIRST.size, len(text))

    def report(self) -> "Dict[str, Any]":
        """Return the report; {} where none was left, or something else was written over it."""
        size = _LENGTH.unpack_from(self._memory, _FIRST.size)[0]
        if not 0 < size <= SIZE - _TEXT_AT:
            return {}
        try:
            found = json.loads(self._memory[_TEXT_AT : _TEXT_AT + size].decode())
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def clear(self) -> None:
        """Make it one on which nothing was left."""
        self._memory[:_TEXT_AT] = bytes(_TEXT_AT)

    def close(self) -> None:
        """Let the memory go."""
        self._memory.close()
