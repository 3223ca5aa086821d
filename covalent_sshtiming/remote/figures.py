"""The record's far part: made of the worker's report, of what `wait4` told and of the task's group.

Owns the arithmetic of what a task cost once all its processes have ended: what was born in the call
and ended after it, what nobody waited for, and the phases that only the supervisor sees.
"""

import math
from typing import Any, Dict, List, NamedTuple, Optional

from . import cgroup, meter, platforms
from .board import Board

# The two accounts of one second differ by less; what is above has been missed by one of them.
MISSED_SECONDS = 0.01
MISSED_SHARE = 0.01


class Orphan(NamedTuple):
    """A process that became the supervisor's by its parent's end: what `wait4` told of it, and when."""

    pid: int
    when: float
    cpu: float
    peak: int


class Seen(NamedTuple):
    """What the supervisor has seen of a task that has ended; moments are of the monotonic clock.

    usage: the worker's, by `wait4`; None if it never ran.
    board: what the worker has left.
    """

    usage: "Any"
    orphans: "List[Orphan]"
    board: Board
    group: "Optional[cgroup.Group]"
    queued: float
    woken: float
    left: float


def of_task(report: "Dict[str, Any]", seen: Seen) -> "Dict[str, Any]":
    """Return the record's fields that the far side gives; `report` is {} where the worker left none."""
    total = None
    if seen.usage is not None:
        total = meter.seconds(seen.usage) + sum(orphan.cpu for orphan in seen.orphans)
    charged = seen.group.cpu() if seen.group else None
    figures = _of_call(dict(report.get("call") or {}), seen, total, charged)
    marked = 0.0
    for name, cost in (report.get("phases") or {}).items():
        marked += cost["cpu_s"]
        figures["phase_%s_wall_s" % name] = cost["wall_s"]
        figures["phase_%s_cpu_s" % name] = cost["cpu_s"]
    if total is not None:
        figures["cpu_total_s"] = meter.exact(total)
        if report:
            figures["phase_exit_cpu_s"] = max(0.0, meter.exact(meter.seconds(seen.usage) - marked))
    if charged is not None:
        figures["cpu_cgroup_s"] = meter.exact(charged)
    figures["memory_peak_bytes"] = seen.group.memory_peak() if seen.group else None
    figures["phase_queue_wall_s"] = max(0.0, seen.woken - seen.queued)
    if report:
        figures["phase_exit_wall_s"] = max(0.0, meter.exact(seen.left - report["left"]))
    for name in ("started", "finished"):
        figures[name] = report.get(name)
    return figures


def _of_call(
    call: "Dict[str, Any]", seen: Seen, total: "Optional[float]", charged: "Optional[float]"
) -> "Dict[str, Any]":
    """Return the call's figures with what was born in it and ended after it, or was missed.

    `wait4` on an orphan gives what it has used in all. Those that were there before the call are
    not the call's, nor those that were born after it.
    """
    older, alive = call.pop("older", ()), call.pop("alive", ())
    began, ended = call.pop("began", None), call.pop("ended", math.inf)
    first = seen.board.first_mark()
    if first is None or total is None:
        return {}
    if not call:  # killed before its second mark: the first one is on the shared page
        began = first.wall
        call = {
            "cpu_s": max(0.0, meter.seconds(seen.usage) - first.cpu),
            "wall_s": seen.left - began,
            "cpu_complete": platforms.LINUX,
        }
    born = [
        orphan
        for orphan in seen.orphans
        if orphan.pid not in older and orphan.when >= began and (orphan.when <= ended or orphan.pid in alive)
    ]
    late = sum(orphan.cpu for orphan in born)
    call["cpu_source"] = "wait4_subreaper" if platforms.LINUX else "rusage"
    if charged is not None and first.gap is not None:
        before = sum(orphan.cpu for orphan in seen.orphans if orphan.when < began)
        missed = (charged - total) - (first.gap - before)
        if missed > max(MISSED_SECONDS, MISSED_SHARE * charged):
            late += missed
        call["cpu_source"] = "cgroup2"
        call["cpu_complete"] = True
    peaks = [peak for peak in [call.get("rss_peak_child_bytes")] if peak is not None]
    peaks += [orphan.peak for orphan in born]
    call["rss_peak_child_bytes"] = max(peaks, default=None)
    call["cpu_late_s"] = meter.exact(late)
    call["cpu_s"] = meter.exact(call["cpu_s"] + late)
    return call
