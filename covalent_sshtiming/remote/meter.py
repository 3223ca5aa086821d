"""The meter: one snapshot of what a process has used so far, and the difference of two.

Sources: `time.monotonic` for wall time, `getrusage(RUSAGE_SELF)` for this process with all its
threads, `getrusage(RUSAGE_CHILDREN)` for the descendants it has waited for. Only differences
mean anything: rusage survives exec, so absolutes contain what ran before us.
"""

import resource
import sys
import time
from typing import Any, Dict, NamedTuple

from .board import Mark


class Snapshot(NamedTuple):
    """What had been used at one moment: seconds, and rusage of self and of waited-for children."""

    wall: float
    own: "resource.struct_rusage"
    children: "resource.struct_rusage"

    @property
    def mark(self) -> Mark:
        """The same, self and children in one."""
        user = self.own.ru_utime + self.children.ru_utime
        return Mark(self.wall, user, self.own.ru_stime + self.children.ru_stime)


def snapshot() -> Snapshot:
    """Take a snapshot; costs about 3 microseconds."""
    return Snapshot(
        time.monotonic(),
        resource.getrusage(resource.RUSAGE_SELF),
        resource.getrusage(resource.RUSAGE_CHILDREN),
    )


def exact(value: float) -> float:
    """Take the noise out of a difference of floats: every clock here has whole nanoseconds at best."""
    return round(value, 9)


def seconds(usage: "resource.struct_rusage") -> float:
    """CPU seconds of one rusage: the sum is exact, only its split is sampled."""
    return usage.ru_utime + usage.ru_stime


def peak(usage: "resource.struct_rusage") -> int:
    """Bytes that the process had in memory at most, with what it inherited by fork and exec (ru_maxrss)."""
    return int(usage.ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def call_figures(before: Snapshot, after: Snapshot) -> "Dict[str, Any]":
    """What the user's function cost: the fields of the record that the call's two marks give."""
    own = exact(seconds(after.own) - seconds(before.own))
    children = exact(seconds(after.children) - seconds(before.children))
    return {
        "cpu_s": exact(own + children),
        "cpu_self_s": own,
        "cpu_children_s": children,
        "cpu_user_s": _rise(before, after, "ru_utime"),
        "cpu_system_s": _rise(before, after, "ru_stime"),
        "wall_s": exact(after.wall - before.wall),
        "ctx_voluntary": int(_rise(before, after, "ru_nvcsw")),
        "ctx_involuntary": int(_rise(before, after, "ru_nivcsw")),
        "faults_minor": int(_rise(before, after, "ru_minflt")),
        "faults_major": int(_rise(before, after, "ru_majflt")),
    }


def _rise(before: Snapshot, after: Snapshot, field: str) -> float:
    own = getattr(after.own, field) - getattr(before.own, field)
    children = getattr(after.children, field) - getattr(before.children, field)
    return exact(own + children)
