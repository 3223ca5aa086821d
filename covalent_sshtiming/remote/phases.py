"""The marks: a task's phases, and what the call itself has cost.

Owns the order of things around the measured interval: what is looked at before the first of its
two marks, and what after the second, so that looking costs the function nothing.
"""

import os
import time
from typing import Any, Dict, Optional

from . import cgroup, limits, meter, platforms, surroundings
from .board import Board, Mark

QUICK = 0.001  # seconds


class Phases:
    """The marks: which phase runs now, and what the call has cost once it has ended.

    Every mark goes onto the board, from which the supervisor makes the phases' costs, also where the task
    is killed. `inherited` is the bytes of memory that the fork began with.
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
        self._owner = os.getpid()
        self.name = "start"
        self.call: "Dict[str, Any]" = {}
        self.left: "Dict[str, Any]" = {}
        self._inherited = inherited
        self.woken = woken
        # CPU since the fork, which is all this process has used; wall time since it was woken.
        board.begin("start", Mark(woken, 0.0, 0.0))

    def enter(self, name: str) -> None:
        """End the running phase and begin `name`, in one mark; in a copy of the worker do nothing."""
        if name == "call":
            self._look_around()
        mark = meter.snapshot()
        if os.getpid() != self._owner:
            return
        self._board.begin(name, mark.mark)
        if name == "call":
            self._began = mark
        elif self.name == "call":
            self._look_back(mark)
        self.name = name

    def _look_around(self) -> None:
        """Note, just before the call, what its figures are differences to."""
        older = platforms.relatives(os.getppid()) or {}
        self._load = surroundings.load()
        self._before = surroundings.look()
        self._board.surround(self._missed(sum(one.cpu for one in older.values())), older)
        surroundings.reset_peak()

    def _missed(self, of_older: float) -> "Optional[float]":
        """Return the CPU seconds that the group knows of so far, and we do not; None without a group.

        In less than a millisecond nothing is missed that counts, so then the group is not asked.
        """
        known = meter.snapshot().mark
        if self._group is None:
            return None
        if known.wall - self.woken < QUICK:
            return 0.0
        charged = self._group.cpu()
        return None if charged is None else charged - known.cpu - of_older

    def _look_back(self, mark: meter.Snapshot) -> None:
        """Note what the call has cost, and what the supervisor needs to add what ends later."""
        limits.regain()  # to look takes a descriptor, and so does all that is still to be written
        self.call = surroundings.difference(self._before, surroundings.look())
        self.call.update(meter.call_figures(self._began, mark))
        alive = platforms.relatives(os.getppid())
        peak, forgetful, threads = surroundings.status()
        running = None if alive is None else [pid for pid in alive if platforms.is_running(pid)]
        self.call.update(
            load_1m_start=self._load,
            rss_peak_bytes=None if peak is None else max(0, peak - self._inherited),
            rss_peak_child_bytes=self._child_peak(mark),
            threads_alive=threads,
            descendants_alive=None if running is None else len(running),
            cpu_complete=platforms.LINUX and not forgetful,
        )
        # Not the mark's moment: what ends between that and the list was born in the call.
        self.left = {"alive": sorted(alive or ()), "looked": time.monotonic()}

    def look_again(self) -> None:
        """Note, after hooks, which processes are theirs and not the call's."""
        known = self.left.get("alive", ())
        hooked = [pid for pid in platforms.relatives(os.getppid()) or () if pid not in known]
        self.left.update(hooked=hooked, looked_again=time.monotonic())

    def _child_peak(self, mark: meter.Snapshot) -> "Optional[int]":
        """Return the peak of the largest child that was waited for in the call; 0 without any.

        None where a hook's child was larger than all of the call's: rusage keeps the largest only.
        """
        before, after = meter.peak(self._began.children), meter.peak(mark.children)
        return after if after > before or not after else None
