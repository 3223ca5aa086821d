"""The board: memory that a worker shares with its supervisor, for what the one tells the other.

Owns its layout: when each phase began and what had been used by then, what else of the task there was when
the call began, and the worker's report. All but the report is known of a task that is killed too. It takes
no descriptor while a function runs, which could close it, and no disk, which could be full.
"""

import json
import math
import mmap
import os
import struct
from typing import Any, Dict, Iterable, NamedTuple, Optional

PHASES = ("start", "before", "load", "call", "after", "dump", "exit")
SIZE = 4 << 20  # bytes of address space; of memory only what is written to
RELATIVES = 4096

_MARK = struct.Struct("=ddd")
_GAP = struct.Struct("=dQ")
_LENGTH = struct.Struct("=Q")
_RELATIVE = struct.Struct("=iid")
_GAP_AT = len(PHASES) * _MARK.size
_LENGTH_AT = _GAP_AT + _GAP.size
_TEXT_AT = _LENGTH_AT + _LENGTH.size
_RELATIVES_AT = SIZE - RELATIVES * _RELATIVE.size


class Mark(NamedTuple):
    """A phase's first moment, and the CPU seconds that worker and waited-for children had used by then."""

    wall: float
    user: float
    system: float

    @property
    def cpu(self) -> float:
        """Their sum, which is exact where the split is not."""
        return self.user + self.system


class Relative(NamedTuple):
    """Another process of the task: its parent, and the CPU seconds that it and those it waited for used."""

    parent: int
    cpu: float


def _is_finite(values: "Iterable[float]") -> bool:
    """Whether all of them are numbers that JSON knows; user code may have written over them."""
    return all(map(math.isfinite, values))


class Board:
    """Zeros at first; a fork shares it, and so does a program that is handed `handle`.

    Whoever no longer hands it on closes `handle` by `keep_to_ourselves`.
    """

    def __init__(self, handle: "Optional[int]" = None) -> None:
        self.handle = _memory_file() if handle is None else handle
        self._memory = mmap.mmap(self.handle, SIZE)

    def keep_to_ourselves(self) -> None:
        """Close the descriptor; the memory stays."""
        os.close(self.handle)

    def begin(self, phase: str, mark: Mark) -> None:
        """Leave a phase's first mark."""
        _MARK.pack_into(self._memory, PHASES.index(phase) * _MARK.size, *mark)

    def marks(self) -> "Dict[str, Mark]":
        """Return the first mark of each phase that was reached, in their order; none that makes no sense."""
        marks = [Mark(*_MARK.unpack_from(self._memory, at)) for at in range(0, _GAP_AT, _MARK.size)]
        return {phase: mark for phase, mark in zip(PHASES, marks) if mark.wall and _is_finite(mark)}

    def surround(self, gap: "Optional[float]", older: "Dict[int, Relative]") -> None:
        """Leave what the call's figures are differences to.

        gap: CPU seconds by which the group's account is ahead of what the worker knows of; None without.
        older: the task's other processes; the first 4096 are kept.
        """
        kept = list(older.items())[:RELATIVES]
        _GAP.pack_into(self._memory, _GAP_AT, math.nan if gap is None else gap, len(kept))
        for index, (pid, relative) in enumerate(kept):
            _RELATIVE.pack_into(self._memory, _RELATIVES_AT + index * _RELATIVE.size, pid, *relative)

    def gap(self) -> "Optional[float]":
        """Return how far the group was ahead when the call began."""
        gap: float = _GAP.unpack_from(self._memory, _GAP_AT)[0]
        return gap if math.isfinite(gap) else None

    def older(self) -> "Dict[int, Relative]":
        """Return the task's other processes as they were when the call began."""
        found = {}
        for index in range(min(_GAP.unpack_from(self._memory, _GAP_AT)[1], RELATIVES)):
            pid, *rest = _RELATIVE.unpack_from(self._memory, _RELATIVES_AT + index * _RELATIVE.size)
            if _is_finite(rest):
                found[pid] = Relative(*rest)
        return found

    def leave(self, report: "Dict[str, Any]") -> None:
        """Leave the report; its length comes last, so half a report is none."""
        text = json.dumps(report).encode()
        if len(text) > _RELATIVES_AT - _TEXT_AT:
            raise ValueError("report of %d bytes" % len(text))
        self._memory[_TEXT_AT : _TEXT_AT + len(text)] = text
        _LENGTH.pack_into(self._memory, _LENGTH_AT, len(text))

    @property
    def has_report(self) -> bool:
        """Whether a report was left, be it a good one or not."""
        return bool(_LENGTH.unpack_from(self._memory, _LENGTH_AT)[0])

    def report(self) -> "Dict[str, Any]":
        """Return the report; {} where none was left, or something else was written over it."""
        size = _LENGTH.unpack_from(self._memory, _LENGTH_AT)[0]
        if not 0 < size <= _RELATIVES_AT - _TEXT_AT:
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


def _memory_file() -> int:
    """Return a new file of memory; a temporary file without a name where the system has none such."""
    try:
        handle = os.memfd_create("board")
    except (AttributeError, OSError):
        import tempfile

        handle, path = tempfile.mkstemp()
        os.unlink(path)
    os.ftruncate(handle, SIZE)
    return handle
