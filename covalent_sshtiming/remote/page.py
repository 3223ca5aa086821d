"""The page: what a worker leaves for its supervisor as it goes, in memory that both of them see.

Owns its layout: when each phase began and what had been used by then, and what else of the task there was
when the call began. It is all that is known of a task that is killed, which leaves no report.
"""

import math
import mmap
import struct
from typing import Dict, NamedTuple, Optional

PHASES = ("start", "before", "load", "call", "after", "dump", "exit")

_GAP = struct.Struct("=dI")
_MARK = struct.Struct("=ddd")
_RELATIVE = struct.Struct("=iid")
_FIRST_RELATIVE = _GAP.size + len(PHASES) * _MARK.size
_SIZE = 16 * mmap.PAGESIZE  # of memory that is there only once it is touched
_RELATIVES = (_SIZE - _FIRST_RELATIVE) // _RELATIVE.size


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


class Page:
    """Made by the supervisor before it forks the worker, written by the worker alone."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SIZE)

    def begin(self, phase: str, mark: Mark) -> None:
        """Leave a phase's first mark."""
        _MARK.pack_into(self._memory, _GAP.size + PHASES.index(phase) * _MARK.size, *mark)

    def surround(self, gap: "Optional[float]", older: "Dict[int, Relative]") -> None:
        """Leave what the call's figures are differences to; of thousands of processes the first ones.

        gap: CPU seconds by which the group's account is ahead of what the worker knows of; None without.
        older: the task's other processes.
        """
        kept = list(older.items())[:_RELATIVES]
        _GAP.pack_into(self._memory, 0, math.nan if gap is None else gap, len(kept))
        for index, (pid, relative) in enumerate(kept):
            _RELATIVE.pack_into(self._memory, _FIRST_RELATIVE + index * _RELATIVE.size, pid, *relative)

    def forget(self) -> None:
        """Make it one on which no phase has begun."""
        self._memory[:_FIRST_RELATIVE] = bytes(_FIRST_RELATIVE)

    def marks(self) -> "Dict[str, Mark]":
        """Return the first mark of each phase that was reached, in their order."""
        found = {}
        for index, phase in enumerate(PHASES):
            mark = Mark(*_MARK.unpack_from(self._memory, _GAP.size + index * _MARK.size))
            if mark.wall:
                found[phase] = mark
        return found

    def gap(self) -> "Optional[float]":
        """Return how far the group was ahead when the call began."""
        gap: float = _GAP.unpack_from(self._memory, 0)[0]
        return None if math.isnan(gap) else gap

    def older(self) -> "Dict[int, Relative]":
        """Return the task's other processes as they were when the call began."""
        found = {}
        for index in range(_GAP.unpack_from(self._memory, 0)[1]):
            pid, *rest = _RELATIVE.unpack_from(self._memory, _FIRST_RELATIVE + index * _RELATIVE.size)
            found[pid] = Relative(*rest)
        return found

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()
