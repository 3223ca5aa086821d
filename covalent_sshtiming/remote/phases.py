"""The marks: a task's phases, and what each of them and the call itself have cost.

Owns the order of things around the measured interval: what is looked at before the first of its
two marks, and what after the second, so that looking costs the function nothing.
"""

import os
from typing import Any, Dict, Optional

from . import cgroup, meter, platforms, surroundings
from .board import Board

QUICK = 0.001  # seconds


class Phases:
    """The marks: which phase runs now, and what each one that has ended cost.

    On the board the supervisor sees the call's first mark too: where a task is killed in its call, it has
    from there what was used before. `inherited` is the bytes of memory that the fork began with.
    """

    def __init__(
        self,
        woken: float,
        board: Board,
        group: "Optional[cgroup.Group]" = None,
        inherited: int = 0,
    ) -> None:
        self._board = board
        self._group = group
        self.name = "start"
        self.costs: "Dict[str, Dict[str, float]]" = {}
        self.call: "Dict[str, Any]" = {}
        self._inherited = inherited
        # CPU since the fork, which is all this process has used; wall time since it was woken.
        self._woken = woken
        self.last = meter.Snapshot(woken, _NOTHING, _NOTHING)

    def enter(self, name: str) -> None:
        """End the running phase and begin `name`, in one mark."""
        if name == "call":
            self._look_around()
        mark = meter.snapshot()
        self.costs[self.name] = meter.phase(self.last, mark)
        if name == "call":
            self._board.mark(mark.wall, mark.cpu, self._gap)
        if self.name == "call":
            self.call = self._call_figures(mark)
        self.name = name
        self.last = mark

    def _look_around(self) -> None:
        """Note, just before the call, what its figures are differences to."""
        self._older = platforms.relatives(os.getppid())
        self._load = surroundings.load()
        self._before = surroundings.look()
        self._gap = self._missed() if self._group else None
        surroundings.reset_peak()

    def _missed(self) -> "Optional[float]":
        """Return the CPU seconds that the group knows of so far, and we do not.

        In less than a millisecond nothing is missed that counts, so then the group is not asked.
        """
        known = meter.snapshot()
        if self._group is None or known.wall - self._woken < QUICK:
            return 0.0
        charged = self._group.cpu()
        return None if charged is None else charged - known.cpu - sum(self._older.values())

    def _call_figures(self, mark: meter.Snapshot) -> "Dict[str, Any]":
        """What the call has cost, and what the supervisor needs to add what ends later."""
        figures = surroundings.difference(self._before, surroundings.look())
        figures.update(meter.call_figures(self.last, mark))
        alive = platforms.relatives(os.getppid())
        # What hooks have left, and the call has waited for: what it had used before is not the call's.
        waited_for = sum(cpu for pid, cpu in self._older.items() if pid not in alive)
        waited_for = min(waited_for, figures["cpu_children_s"])
        for name in ("cpu_s", "cpu_children_s"):
            figures[name] = meter.exact(figures[name] - waited_for)
        peak, forgetful, threads = surroundings.status()
        figures.update(
            load_1m_start=self._load,
            rss_peak_bytes=None if peak is None else max(0, peak - self._inherited),
            rss_peak_child_bytes=self._child_peak(mark),
            threads_alive=threads,
            descendants_alive=len([pid for pid in alive if platforms.is_running(pid)]),
            cpu_complete=platforms.LINUX and not forgetful,
            older=sorted(self._older),
            alive=sorted(alive),
            began=self.last.wall,
            ended=mark.wall,
        )
        return figures

    def _child_peak(self, mark: meter.Snapshot) -> "Optional[int]":
        """Return the peak of the largest child that was waited for in the call; 0 without any.

        None where a hook's child was larger than all of the call's: rusage keeps the largest only.
        """
        before, after = meter.peak(self.last.children), meter.peak(mark.children)
        return after if after > before or not after else None


class _Nothing:
    """A struct_rusage of zeros, the state of a process at its fork."""

    ru_utime = ru_stime = 0.0
    ru_maxrss = 0


_NOTHING: "Any" = _Nothing()
