"""How a task ended: the outcome's form, and what a wait status and the kernel's counters say in words.

Owns these only. Who ended it and why is the supervisor's to know.
"""

import os
import signal
from typing import Any, Dict, Optional, Tuple


def outcome(status: str, error: "Optional[Dict[str, Any]]" = None) -> "Dict[str, Any]":
    """Return an outcome that has no more to tell than how the task ended."""
    blank = {"result": None, "exit_code": None, "exit_signal": None, "stdout": 0, "stderr": 0}
    return dict(blank, record={}, status=status, error=error)


def oom_words(of_group: "Optional[int]", before: "Optional[int]", now: "Optional[int]") -> str:
    """Return what the kernel's counters say of whether a SIGKILL was its own, for want of memory.

    `of_group` is the counter of the task's control group, the others the machine's, before and after.
    """
    if of_group:
        return " because memory ran out (oom_kill of its control group is %d)" % of_group
    if before is None or now is None:
        return " (the kernel does that to the largest process when memory runs out)"
    if now > before:
        return " (memory ran out there: oom_kill of /proc/vmstat rose by %d meanwhile)" % (now - before)
    return " (memory did not run out there: oom_kill of /proc/vmstat has not risen)"


def exit_of(status: "Optional[int]") -> "Tuple[Optional[int], int]":
    """Return the exit code and the signal of a wait status: None and 0 where there is none."""
    if status is None:
        return None, 0
    if os.WIFSIGNALED(status):
        return None, os.WTERMSIG(status)
    return os.WEXITSTATUS(status), 0


def signal_name(number: int) -> "Optional[str]":
    """Return SIGKILL for 9, and so on; None for 0."""
    try:
        return signal.Signals(number).name if number else None
    except ValueError:
        return "signal %d" % number
