"""What only some kernels have: subreaper, parent-death signal, the list of descendants.

Owns every `prctl` and every look into /proc; each function does nothing, or finds nothing, where
the platform has no such thing.
"""

import ctypes
import os
import signal
import sys
import time
from typing import Dict, List, Optional

from .board import Relative

LINUX = sys.platform.startswith("linux")
_TICK = 1.0 / os.sysconf("SC_CLK_TCK")
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True) if LINUX else None  # loaded once, before any fork


def become_subreaper() -> None:
    """Make orphaned descendants ours, so that their CPU time and their end are ours to see."""
    if _libc is not None:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(parent: int) -> None:
    """End with the parent, also if it went before this call."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def close_all_but(keep: "List[int]") -> None:
    """Close every descriptor except `keep`."""
    try:
        handles = [int(name) for name in os.listdir("/proc/self/fd" if LINUX else "/dev/fd")]
    except OSError:
        handles = list(range(1024))
    for handle in handles:
        if handle not in keep:
            try:
                os.close(handle)
            except OSError:
                pass


def _parents() -> "Dict[int, List[int]]":
    """Map each process to its children, by /proc/<pid>/stat."""
    children: "Dict[int, List[int]]" = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = stat_fields(int(name))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(name))
    return children


def stat_fields(pid: int) -> "List[str]":
    """Return the fields of /proc/<pid>/stat from the state on; [] where there is no such process."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            return file.read().rpartition(b")")[2].decode().split()
    except OSError:
        return []


def start_ticks(pid: int) -> "Optional[int]":
    """Return when a process started, in clock ticks since boot (/proc/<pid>/stat); None if it is gone."""
    fields = stat_fields(pid)
    return int(fields[19]) if fields else None


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    return stat_fields(pid)[:1] not in ([], ["Z"])


def descendants(pid: int) -> "List[int]":
    """Return all live descendants of `pid`, zombies included; [] off Linux."""
    if not LINUX:
        return []
    children = _parents()
    found, todo = [], [pid]
    while todo:
        for child in children.get(todo.pop(), []):
            found.append(child)
            todo.append(child)
    return found


def read_small(path: str, limit: int = 8192) -> bytes:
    """Return a small file of /proc; nothing where there is none. A third of the cost of `open`."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        return os.read(handle, limit)
    except OSError:
        return b""
    finally:
        os.close(handle)


def relatives(supervisor: int) -> "Optional[Dict[int, Relative]]":
    """Return each other process of this worker's task, zombies too; None where they cannot be listed.

    CPU seconds are those of its CPU clock, and of the children that it has waited for, in whole hundredths.
    The common case, that there is none, costs one small read where the kernel lists children.
    """
    if not LINUX:
        return None
    if _is_alone(supervisor):
        return {}
    try:
        found = {pid: _relative(pid) for pid in descendants(supervisor) if pid != os.getpid()}
    except OSError:  # no descriptor left
        return None
    return {pid: relative for pid, relative in found.items() if relative is not None}


def _relative(pid: int) -> "Optional[Relative]":
    """Look at one process; None where it is gone meanwhile."""
    fields = stat_fields(pid)
    try:
        own = time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return None
    return Relative(int(fields[1]), own + sum(map(int, fields[13:15])) * _TICK) if fields else None


def _is_alone(supervisor: int) -> bool:
    """Whether this process has no child, and its supervisor no other.

    The supervisor has one thread. Where the kernel keeps no such lists its own is empty: then False.
    """
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return read_small("/proc/%d/task/%d/children" % (supervisor, supervisor)).split() == [
            b"%d" % os.getpid()
        ]
    return False


def next_ended() -> int:
    """Return a child that has ended and waits to be reaped, 0 where none has; -1, any, off Linux.

    Raises:
        ChildProcessError: if there is no child.
    """
    if not LINUX:
        return -1
    found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return found.si_pid if found else 0


def session_members(session: int) -> "List[int]":
    """Return the processes of a session; [] off Linux."""
    if not LINUX:
        return []
    members = []
    for name in os.listdir("/proc"):
        fields = stat_fields(int(name)) if name.isdigit() else []
        if fields and int(fields[3]) == session:
            members.append(int(name))
    return members


def send_signal(pids: "List[int]", number: int) -> None:
    """Send a signal to each; those that are gone already are fine."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            pass
