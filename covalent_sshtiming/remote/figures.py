"""The record's far part: of the board, the worker's report, what `wait4` told and the task's group.

Owns the arithmetic of what a task cost once all its processes have ended: the phases, what was born in the
call and ended after it, and what nobody waited for. A worker that was killed has left no report; what the
board and `wait4` tell is there all the same.
"""

import math
from typing import Any, Container, Dict, List, NamedTuple, Optional

from . import cgroup, meter, platforms
from .board import Board, Mark, Relative

# The two accounts of one second differ by less; what is above has been missed by one of them.
MISSED_SECONDS = 0.01
MISSED_SHARE = 0.01


class Orphan(NamedTuple):
    """A process that became the supervisor's by its parent's end: when it was reaped, what `wait4` told."""

    pid: int
    when: float
    usage: "Any"

    @property
    def cpu(self) -> float:
        """CPU seconds, its own and those of children that it had waited for."""
        return meter.seconds(self.usage)


class Seen(NamedTuple):
    """What the supervisor has seen of a task that has ended; moments are of the monotonic clock.

    usage: the worker's, by `wait4`; None if it never ran.
    forgetful: whether a worker without report had SIGCHLD ignored.
    board: what the worker has left.
    started, finished: `woken` and `left` by the clock of the day.
    """

    worker: int
    usage: "Any"
    forgetful: bool
    orphans: "List[Orphan]"
    board: Board
    group: "Optional[cgroup.Group]"
    queued: float
    woken: float
    left: float
    started: float
    finished: float

    @property
    def end(self) -> Mark:
        """The worker's last moment."""
        return Mark(self.left, self.usage.ru_utime, self.usage.ru_stime)


class Left:
    """What there was besides the worker when the call, and when hooks after it, had ended.

    Of a task that was killed in its call nothing of that is known, and nothing came after it.
    """

    def __init__(self, told: "Dict[str, Any]") -> None:
        self.alive: "Container[int]" = told.get("alive", ())
        self._looked = told.get("looked", math.inf)
        self._hooked = told.get("hooked", ())
        self._looked_again = told.get("looked_again", -math.inf)

    def is_hooks(self, orphan: Orphan) -> bool:
        """Whether an orphan was born in a hook after the call."""
        ended_there = self._looked < orphan.when <= self._looked_again and orphan.pid not in self.alive
        return ended_there or orphan.pid in self._hooked


def of_task(report: "Dict[str, Any]", seen: Seen) -> "Dict[str, Any]":
    """Return the record's fields that the far side gives; `report` is {} where the worker left none."""
    figures: "Dict[str, Any]" = {"phase_queue_wall_s": max(0.0, seen.woken - seen.queued)}
    figures.update(started=seen.started, finished=seen.finished)
    charged = seen.group.cpu() if seen.group else None
    if charged is not None:
        figures["cpu_cgroup_s"] = meter.exact(charged)
    figures["memory_peak_bytes"] = seen.group.memory_peak() if seen.group else None
    if seen.usage is not None:
        total = meter.seconds(seen.usage) + sum(orphan.cpu for orphan in seen.orphans)
        figures["cpu_total_s"] = meter.exact(total)
        figures.update(_of_phases(seen))
        figures.update(_of_call(report, seen, total, charged))
    return figures


def _of_phases(seen: Seen) -> "Dict[str, float]":
    """Return what each phase cost that was reached: from its mark to the next one, or to the end."""
    marks = seen.board.marks()
    figures = {}
    for (name, mark), following in zip(marks.items(), [*marks.values(), seen.end][1:]):
        figures["phase_%s_wall_s" % name] = max(0.0, meter.exact(following.wall - mark.wall))
        figures["phase_%s_cpu_s" % name] = max(0.0, meter.exact(following.cpu - mark.cpu))
    return figures


def _of_call(
    report: "Dict[str, Any]", seen: Seen, total: float, charged: "Optional[float]"
) -> "Dict[str, Any]":
    """Return the call's figures with what was born in it and ended after it, or was missed.

    `wait4` on an orphan gives what it has used in all. Those that were there before the call are
    not the call's, nor those of hooks after it.
    """
    began, older, left = seen.board.marks().get("call"), seen.board.older(), Left(report.get("left") or {})
    if began is None:
        return {}
    call = dict(report.get("call") or {}) or _cut_short(began, seen)
    _take_off(call, _waited_for(older, left.alive, seen))
    born = [
        orphan
        for orphan in seen.orphans
        if orphan.pid not in older and orphan.when >= began.wall and not left.is_hooks(orphan)
    ]
    late = sum(orphan.cpu for orphan in born)
    call["cpu_source"] = "wait4_subreaper" if platforms.LINUX else "rusage"
    missed = _missed(seen, began, total, charged)
    if missed is not None:
        late += missed
        call["cpu_source"], call["cpu_complete"] = "cgroup2", True
    peaks = [meter.peak(orphan.usage) for orphan in born] + [call.get("rss_peak_child_bytes")]
    call["rss_peak_child_bytes"] = max([peak for peak in peaks if peak is not None], default=None)
    # Off Linux those who would be late are nobody's that we see.
    call["cpu_late_s"] = meter.exact(late) if late or platforms.LINUX else None
    call["cpu_s"] = meter.exact(call["cpu_s"] + late)
    _split(call, born)
    return call


def _missed(seen: Seen, began: Mark, total: float, charged: "Optional[float]") -> "Optional[float]":
    """Return what the group knows of the call and `wait4` does not; None where it is no account of the task.

    That is so without a group, and where something has left it.
    """
    gap = seen.board.gap()
    if charged is None or gap is None:
        return None
    before = sum(orphan.cpu for orphan in seen.orphans if orphan.when < began.wall)
    missed = (charged - total) - (gap - before)
    tolerance = max(MISSED_SECONDS, MISSED_SHARE * max(charged, total))
    if missed < -tolerance:
        return None
    return missed if missed > tolerance else 0.0


def _cut_short(began: Mark, seen: Seen) -> "Dict[str, Any]":
    """Return the figures of a call whose worker was killed, in the call or after it."""
    ended = seen.board.marks().get("after", seen.end)
    return {
        "cpu_s": max(0.0, meter.exact(ended.cpu - began.cpu)),
        "cpu_user_s": max(0.0, ended.user - began.user),
        "cpu_system_s": max(0.0, ended.system - began.system),
        "wall_s": meter.exact(ended.wall - began.wall),
        "cpu_complete": platforms.LINUX and not seen.forgetful,
    }


def _waited_for(older: "Dict[int, Relative]", alive: "Container[int]", seen: Seen) -> float:
    """Return what hooks' processes had used before the call that has waited for them.

    Whoever is reaped gives what it used to its parent. So it has come to the worker from those of whom none,
    up to the worker's own child, lived on or became an orphan.
    """
    orphans = {orphan.pid for orphan in seen.orphans}
    found = 0.0
    for pid, relative in older.items():
        at = pid
        for _ in older:
            if at not in older or at in alive or at in orphans:
                break
            at = older[at].parent
        if at == seen.worker:
            found += relative.cpu
    return found


def _take_off(call: "Dict[str, Any]", waited_for: float) -> None:
    """Take off the call what its children had used before it."""
    children = call.get("cpu_children_s")
    waited_for = min(waited_for, call["cpu_s"] if children is None else children)
    call["cpu_s"] = meter.exact(call["cpu_s"] - waited_for)
    if children is not None:
        call["cpu_children_s"] = meter.exact(children - waited_for)


def _split(call: "Dict[str, Any]", born: "List[Orphan]") -> None:
    """Divide `cpu_s` into user and system time as rusage does, which is all that is known of the rest."""
    user = call["cpu_user_s"] + sum(orphan.usage.ru_utime for orphan in born)
    system = call["cpu_system_s"] + sum(orphan.usage.ru_stime for orphan in born)
    share = user / (user + system) if user + system else 1.0
    call["cpu_user_s"] = meter.exact(share * call["cpu_s"])
    call["cpu_system_s"] = meter.exact(call["cpu_s"] - call["cpu_user_s"])
